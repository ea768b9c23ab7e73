// SPDX-License-Identifier: GPL-2.0-only
//! What a process has at an address of its, for stage 2 to map: ordinary memory, or a driver's mapping of its device.

use crate::errno::Errno;
use crate::ffi;
use arch::addr::{HostPhys, HostVirt};
use kvm::host::{Resolved, Unresolved};

/// Resolves one page of the calling process, faulting it in. May sleep.
///
/// What is no device but mapped by its bare page frame (a driver that lends its process RAM) is mapped as memory: Normal, and cached.
pub fn resolve(at: HostVirt, write: bool) -> Result<Resolved, Unresolved> {
    let (mut phys, mut writable, mut block, mut device) = (0, 0, 0, 0);
    let (address, write) = (at.get() as usize, u32::from(write));
    // SAFETY: three places to write to.
    let mut result = Errno::check(unsafe { ffi::ws_resolve(address, write, &mut phys, &mut writable, &mut block) });
    if result == Err(Errno::EFAULT) {
        block = 0;
        // SAFETY: as above.
        result =
            Errno::check(unsafe { ffi::ws_resolve_pfn_map(address, write, &mut phys, &mut writable, &mut device) });
    }
    match result {
        Ok(_) => Ok(Resolved {
            phys: HostPhys::new(phys).page(),
            writable: writable != 0,
            block: block != 0,
            device: device != 0,
        }),
        Err(Errno::EINTR) => Err(Unresolved::Interrupted),
        Err(Errno::ENOMEM) => Err(Unresolved::OutOfMemory),
        Err(Errno::EHWPOISON) => Err(Unresolved::Poisoned),
        Err(_) => Err(Unresolved::Fault),
    }
}
