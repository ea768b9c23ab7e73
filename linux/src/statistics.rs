// SPDX-License-Identifier: GPL-2.0-only
//! Statistics, by their numbers, as the shim's debugfs files ask for them.

use crate::heap::Shared;
use crate::vm::VmObject;
use core::ffi::{c_char, c_void};
use kvm::statistics::Statistic;

fn statistic(number: u32) -> Option<Statistic> {
    Statistic::ALL.get(number as usize).copied()
}

/// The name of a statistic's file; null behind the last.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_statistic_name(number: u32) -> *const c_char {
    statistic(number).map_or(core::ptr::null(), |which| which.name().as_ptr())
}

/// A figure of a VM's.
///
/// # Safety
/// `vm` was given to the shim's `ws_vm_fd`, and the VM lives.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_statistic(vm: *mut c_void, number: u32) -> u64 {
    // SAFETY: promised by the caller.
    let object = unsafe { Shared::<VmObject>::borrow_raw(vm) };
    statistic(number).map_or(0, |which| object.vm.statistic(which))
}

/// Starts a figure of a VM's anew.
///
/// # Safety
/// As for [`ws_rust_statistic`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_clear_statistic(vm: *mut c_void, number: u32) {
    // SAFETY: promised by the caller.
    let object = unsafe { Shared::<VmObject>::borrow_raw(vm) };
    if let Some(which) = statistic(number) {
        object.vm.clear_statistic(which);
    }
}
