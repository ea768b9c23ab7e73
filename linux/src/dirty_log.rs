// SPDX-License-Identifier: GPL-2.0-only
//! KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG: the log of written pages, copied to and from the process.

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::user::UserAddress;
use kvm::guest_memory::LogError;
use kvm::vm::Vm;
use uapi::memory::{ClearDirtyLog, DirtyLog};

impl From<LogError> for Errno {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Invalid => Self::EINVAL,
            LogError::Off => Self::ENOENT,
            LogError::OutOfMemory => Self::ENOMEM,
        }
    }
}

/// KVM_GET_DIRTY_LOG. The bitmap has as many words of 32 bits as the slot needs, and no more is written.
pub fn get(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let request: DirtyLog = argument.read()?;
    let bitmap = UserAddress::from_field(request.dirty_bitmap);
    vm.memory.read_dirty_log(request.slot, |first, words| {
        let offset = first.checked_mul(size_of::<u32>()).ok_or(Errno::EFAULT)?;
        bitmap.offset(offset)?.write_all(words)
    })?;
    Ok(0)
}

/// KVM_CLEAR_DIRTY_LOG.
pub fn clear(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let request: ClearDirtyLog = argument.read()?;
    let bitmap = UserAddress::from_field(request.dirty_bitmap);
    vm.memory.clear_dirty_log(request.slot, request.first_page, request.num_pages, |words| bitmap.read_all(words))?;
    Ok(0)
}
