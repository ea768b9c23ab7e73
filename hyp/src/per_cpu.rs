// SPDX-License-Identifier: GPL-2.0-only
//! What Hyp mode keeps for each CPU: one page above its stack.
//!
//! HTPIDR holds its address for as long as Hyp mode is ours. The module knows the same page by the kernel's address and reads
//! the panic record at its start.

use crate::deferred::HostDeferred;
use crate::essential::HostEssential;
use crate::traps::Settings;
use core::mem::offset_of;
use hyp_abi::context::{VcpuContext, Vfp};
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
}

/// How far from the host's own the essential registers are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Away {
    /// They are the host's.
    Not = 0,
    /// TTBCR forbids walks and VTTBR may be a guest's; the host's TTBCR is in `host`.
    Walks = 1,
    /// The rest is stored in `host` too.
    Guest = 2,
}

/// What is the host's while a guest's state is in the registers.
#[repr(C)]
pub struct HostContext {
    /// What it runs on.
    pub essential: HostEssential,
    /// What allows table walks.
    pub ttbcr: u32,
    /// What may stay a guest's for a while.
    pub deferred: HostDeferred,
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
    /// Whose deferred state is in the registers; null: the host's.
    pub resident: *mut VcpuContext,
    /// Whether that vCPU has VFP, and FPEXC is not the host's.
    pub vfp_armed: u32,
    /// Whether the registers of VFP are the guest's.
    pub guest_vfp: u32,
    /// Which of the guest's vectors this core needs.
    pub guest_vectors: u32,
    /// What the host has in registers that only Hyp mode can write.
    pub settings: Settings,
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
