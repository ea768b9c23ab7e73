// SPDX-License-Identifier: GPL-2.0-only
//! KVM_ENABLE_CAP on a VM: ways to behave that a process has to ask for.

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::user::UserAddress;
use core::sync::atomic::Ordering;
use kvm::vm::Vm;
use uapi::caps::{EnableCap, KVM_CAP_ARM_NISV_TO_USER, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};
use uapi::memory::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

/// KVM_ENABLE_CAP. EINVAL for what cannot be enabled, and for flags, of which there are none.
pub fn enable(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let EnableCap { cap, flags, args, .. } = argument.read()?;
    match cap {
        // Logs that begin with all pages dirty (KVM_DIRTY_LOG_INITIALLY_SET) came after 32-bit Arm had gone.
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 if flags == 0 && args[0] & !KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 => {
            vm.memory.set_manual_clear(args[0] != 0);
            Ok(0)
        }
        KVM_CAP_ARM_NISV_TO_USER if flags == 0 => {
            vm.undescribed_to_process.store(true, Ordering::Relaxed);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
