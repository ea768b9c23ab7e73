// SPDX-License-Identifier: GPL-2.0-only
//! The IPAs of a stage-2 abort: of what it hit, and of the instruction that did it.
//!
//! HPFAR holds the first for translation and access flag faults and for faults on a stage-1 table walk. For a
//! permission fault of the access itself it does not (B3.13.5), so the faulting virtual address is translated through
//! the guest's own stage 1, as it is now, by ATS1CPR. PAR is the guest's: kept around it. If the translation fails,
//! another CPU has changed the tables since; then there is nothing to resolve, and the guest runs the instruction
//! again. Or the tables themselves cannot be read, since stage 2 has no entry for them, or one whose access flag is
//! clear, while the TLB still holds what they said: so the TLB's entries go, and what runs again will fault on the walk.
//!
//! The second is wanted for data aborts whose syndrome does not describe the instruction (HSR.ISV is 0): should a
//! device be meant, the instruction has to be read. PC is translated in the same way, with the rights of the mode that
//! fetched from there. Here the hardware does it in whatever format the guest's tables are, or with its MMU off, and
//! sees what the fetch saw as nearly as can be; a walk by software, later, would be one more walker and would see what
//! another vCPU has made of the tables since. The instruction may still change before it is read: it is the guest's own
//! race. What cannot be translated is left unresolved, which matters only where the instruction is wanted: memory is
//! mapped for it without.
//!
//! Source: ARM DDI 0406C.d, B3.13.5, B3.13.6 (HSR), B4.2.4 (address translation); Cortex-A15 erratum 766422.

use crate::sysreg::*;
use crate::tlb;
use arch::addr::Ipa;
use arch::core_id::Midr;
use arch::psr::{Mode, Psr};
use arch::syndrome::{self, DATA_ABORT, DataAbort, ISV, PREFETCH_ABORT};
use hyp_abi::context::{ExitRecord, UNRESOLVED, VcpuContext};

/// PAR.LPAE: the register is in its 64-bit format. Translations from Hyp mode are; a bit of the register says so itself.
const LPAE: u64 = 1 << 11;

/// Records the addresses of the abort in `hsr`, of class `class`; does nothing if it is none. False: they cannot be
/// resolved; run the guest again. The guest's stage 1 and stage 2 are still in the registers, with walks on.
#[inline(always)]
pub fn resolve(class: u8, hsr: u32, exit: &mut ExitRecord) -> bool {
    exit.far = match class {
        DATA_ABORT => hdfar::read(),
        PREFETCH_ABORT => hifar::read(),
        _ => return true,
    };
    exit.hpfar = if syndrome::abort_tells_ipa(hsr) {
        hpfar::read()
    } else if let Some(ipa) = translate(exit.far, true) {
        syndrome::hpfar(ipa)
    } else {
        return false;
    };
    true
}

/// For a data abort that [`syndrome::is_device_access`]: records its addresses. Whether it is one to the distributor, little-endian,
/// in Supervisor mode and Arm state, where the syndrome can be believed (erratum 766422).
#[inline(always)]
pub fn hits_distributor(context: &mut VcpuContext) -> bool {
    let page = hpfar::read();
    context.exit.far = hdfar::read();
    context.exit.hpfar = page;
    let status = context.cpsr & Psr::M.union(Psr::T).union(Psr::E).bits();
    page == context.control.distributor && status == Mode::Svc as u32
}

/// Whether the instruction behind the data abort in `hsr` has to be read to know what it does.
#[inline(always)]
pub fn hides_instruction(hsr: u32, context: &VcpuContext) -> bool {
    let abort = DataAbort::from_hsr(hsr);
    let distrusted = abort.write && context.cpsr & Psr::T.bits() != 0 && Midr::new(midr::read()).erratum_766422();
    (abort.access.is_none() || distrusted) && !abort.cache_maintenance && !abort.stage1_walk
}

/// Records where that instruction is, and takes out of the recorded syndrome, which is `hsr`, what it says of it: nothing, or what is
/// not to be believed.
#[cold]
#[inline(never)]
pub fn find_instruction(hsr: u32, context: &mut VcpuContext) {
    context.exit.code = code(context);
    context.exit.hsr = hsr & !ISV;
}

/// [`ExitRecord::code`].
fn code(context: &VcpuContext) -> [u32; 2] {
    let privileged = Mode::from_psr(context.cpsr).is_none_or(|mode| !mode.is_user());
    let page = |at| translate(at, privileged).map_or(UNRESOLVED, syndrome::hpfar);
    let (first, last) = (context.pc, context.pc.wrapping_add(2));
    let first_page = page(first);
    [first_page, if (first ^ last) & !0xfff == 0 { first_page } else { page(last) }]
}

/// Where the guest's stage 1 has a virtual address that it reads, at PL1 or at PL0: the IPA's page. `None`: nowhere.
fn translate(address: u32, privileged: bool) -> Option<Ipa> {
    let kept = par::read();
    // SAFETY: an address translation by the guest's tables; it changes PAR only, which is put back.
    let translated = unsafe {
        if privileged {
            ats1cpr::write(address);
        } else {
            ats1cur::write(address);
        }
        isb(); // PAR is valid after it (B4.2.4)
        let translated = par::read();
        par::write(kept);
        translated
    };
    let ipa = ipa_of(translated, address);
    if ipa.is_none() {
        tlb::drop_guest_here();
    }
    ipa.map(Ipa::new)
}

/// What PAR says (B4.1), as a page-aligned IPA.
fn ipa_of(par: u64, address: u32) -> Option<u64> {
    if par & 1 != 0 {
        return None;
    }
    if par & LPAE != 0 {
        return Some(par & 0xff_ffff_f000);
    }
    let low = par as u32;
    if low & 2 == 0 {
        return Some(u64::from(low & !0xfff));
    }
    // A supersection: PA[39:32] in bits [23:16], and the offset in 16 MiB is the virtual address's.
    Some(u64::from(low & 0xff00_0000) | u64::from(low >> 16 & 0xff) << 32 | u64::from(address & 0x00ff_f000))
}
