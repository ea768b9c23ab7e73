// SPDX-License-Identifier: GPL-2.0-only
//! The module's parameters about VMIDs: `check_vmids` has each entry into a guest checked, `vmid_roll_overs` counts generations.
//!
//! What they need is static, since root may use them at any time that the module is there, half loaded or half unloaded included.

use core::sync::atomic::{AtomicU32, Ordering};

use arch::hyp_registers::Vttbr;
use kvm::vmid::VmidSlot;
use kvm::vmid_check::VmidCheck;

static CHECK: VmidCheck = VmidCheck::new();
static CHECKING: AtomicU32 = AtomicU32::new(0);
static ROLL_OVERS: AtomicU32 = AtomicU32::new(0);

/// Whether the guest may be entered: unless checking is on and another VM ran under its VMID, which is said in the log.
pub fn may_enter(slot: &VmidSlot, vttbr: Vttbr) -> bool {
    CHECKING.load(Ordering::Relaxed) == 0 || check(slot, vttbr)
}

#[cold]
fn check(slot: &VmidSlot, vttbr: Vttbr) -> bool {
    let Err(shared) = CHECK.note(slot.generation(), vttbr) else { return true };
    crate::error!(
        "BUG: VMID {} of generation {} is that of two VMs, with tables at {:#x} and {:#x}: this one is not entered",
        vttbr.vmid().get(),
        slot.generation(),
        vttbr.base().get(),
        shared.other.get()
    );
    false
}

/// All VMIDs' entries are dropped from TLBs, which a new generation of VMIDs does, and nothing else.
pub fn count_roll_over() {
    ROLL_OVERS.fetch_add(1, Ordering::Relaxed);
}

/// root wrote to the parameter `check_vmids`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_set_check_vmids(on: u32) {
    CHECKING.store(on, Ordering::Relaxed);
}

/// Somebody reads the parameter `check_vmids`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_check_vmids() -> u32 {
    CHECKING.load(Ordering::Relaxed)
}

/// Somebody reads the parameter `vmid_roll_overs`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_vmid_roll_overs() -> u32 {
    ROLL_OVERS.load(Ordering::Relaxed)
}
