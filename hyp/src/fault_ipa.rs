// SPDX-License-Identifier: GPL-2.0-only
//! The IPA of a stage-2 abort.
//!
//! HPFAR holds it for translation and access flag faults and for faults on a stage-1 table walk. For a permission fault of the
//! access itself it does not (B3.13.5), so the faulting virtual address is translated through the guest's own stage 1, as it is
//! now, by ATS1CPR. PAR is the guest's: kept around it. If the translation fails, another CPU has changed the tables since; then
//! there is nothing to resolve, and the guest runs the instruction again.

use crate::sysreg::*;
use arch::addr::Ipa;
use arch::syndrome::{self, DATA_ABORT, PREFETCH_ABORT};
use hyp_abi::context::ExitRecord;

/// PAR.LPAE: the register is in its 64-bit format. Translations from Hyp mode are; a bit of the register says so itself.
const LPAE: u64 = 1 << 11;

/// Records the addresses of the abort in `hsr`, of class `class`; does nothing if it is none. False: they cannot be resolved; run
/// the guest again. The guest's stage 1 and stage 2 are still in the registers, with walks on.
#[inline(always)]
pub fn resolve(class: u8, hsr: u32, exit: &mut ExitRecord) -> bool {
    exit.far = match class {
        DATA_ABORT => hdfar::read(),
        PREFETCH_ABORT => hifar::read(),
        _ => return true,
    };
    exit.hpfar = if syndrome::abort_tells_ipa(hsr) {
        hpfar::read()
    } else if let Some(ipa) = translate(exit.far) {
        syndrome::hpfar(Ipa::new(ipa))
    } else {
        return false;
    };
    true
}

/// The IPA that the guest's own tables give for an address now.
fn translate(far: u32) -> Option<u64> {
    let kept = par::read();
    // SAFETY: an address translation, as PL1 read, by the guest's tables; it changes PAR only, which is put back.
    let translated = unsafe {
        ats1cpr::write(far);
        isb(); // PAR is valid after it (B4.2.4)
        let translated = par::read();
        par::write(kept);
        translated
    };
    ipa_of(translated, far)
}

/// What PAR says (B4.1), as a page-aligned IPA.
fn ipa_of(par: u64, far: u32) -> Option<u64> {
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
    Some(u64::from(low & 0xff00_0000) | u64::from(low >> 16 & 0xff) << 32 | u64::from(far & 0x00ff_f000))
}
