// SPDX-License-Identifier: GPL-2.0-only
//! What Hyp mode keeps for each CPU: one page above its stack.
//!
//! HTPIDR holds its address for as long as Hyp mode is ours. The module knows the same page by the kernel's address and reads
//! the panic record at its start.

use core::mem::offset_of;
use hyp_abi::context::{Banks, Cp15, Vfp};
use hyp_abi::image::PanicRecord;

/// What the stub that owned Hyp mode before us left, to be put back.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Stub {
    /// HVBAR.
    pub hvbar: u32,
    /// HSCTLR: MMU and caches off.
    pub hsctlr: u32,
    /// The trampoline's page, at VA = PA.
    pub trampoline: u32,
    /// HCPTR: nothing of ours, but Armv8 has bits in it that are one.
    pub hcptr: u32,
}

/// How far from the host's own the registers are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Away {
    /// They are the host's.
    Not = 0,
    /// TTBCR forbids walks and VTTBR may be a guest's; the host's TTBCR is in `host.cp15`.
    Walks = 1,
    /// All that a guest can change is stored in `host`; the guest has no floating point unit.
    Guest = 2,
    /// The same; the guest has one, and the host's FPEXC is in `host`.
    GuestWithVfp = 3,
}

/// What is the host's while a guest's state is in the registers.
#[repr(C)]
pub struct HostContext {
    /// Banked registers.
    pub banks: Banks,
    /// System registers.
    pub cp15: Cp15,
    /// Hyp configuration that a guest changes.
    pub hdcr: u32,
    /// FPEXC as the host had it.
    pub fpexc: u32,
    /// Floating point, saved only if the guest used it.
    pub vfp: Vfp,
}

/// One CPU's page.
#[repr(C)]
pub struct PerCpu {
    /// Read by the module: stays first.
    pub panic: PanicRecord,
    /// What to give back.
    pub stub: Stub,
    /// How far from the host's own the registers are: a number of [`Away`], for the panic vector.
    pub away: u32,
    /// Non-zero from an exception in Hyp mode until it is dealt with: a second one meanwhile is the end of this CPU.
    pub panicking: u32,
    /// Whether the registers of VFP are the guest's.
    pub guest_vfp: u32,
    /// The host's state meanwhile.
    pub host: HostContext,
}

const _: () = assert!(size_of::<PerCpu>() <= 4096);
const _: () = assert!(offset_of!(PerCpu, panic) == 0);

impl PerCpu {
    /// This CPU's page: HTPIDR holds its address from the moment that the CPU is taken.
    #[inline(always)]
    pub fn here() -> *mut PerCpu {
        crate::sysreg::htpidr::read() as *mut PerCpu
    }
}
