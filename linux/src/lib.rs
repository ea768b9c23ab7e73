// SPDX-License-Identifier: GPL-2.0-only
//! Worldswitch inside Linux: everything of `worldswitch.ko` that names the kernel.
//!
//! A static library that a thin C shim (`shim/`) is linked with. Upwards it is [`kvm::host::Host`] for the hypervisor proper
//! ([`kernel`]); downwards it speaks to the kernel through [`ffi`]; sideways it answers the system calls of /dev/kvm
//! ([`system`], [`vm`], [`vcpu`], [`device`]). Hyp mode is taken and given back in [`hyp_mode`].
#![no_std]

mod cache;
mod capability;
mod device;
mod dirty_log;
mod errno;
mod eventfd;
mod events;
mod ffi;
mod gic;
mod heap;
mod hyp_abi_check;
mod hyp_call;
mod hyp_mode;
mod id_registers;
mod kernel;
mod lock;
mod log;
mod module;
mod pages;
mod provoke;
mod resident;
mod resolve;
mod statistics;
mod system;
mod trace;
mod user;
mod vcpu;
mod vcpu_state;
mod vm;
mod vmid_debug;
mod waiter;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Which panics can be reached at all is reviewed in panics.txt; this is the kernel's way to end a thread that cannot go on.
    ffi::ws_bug()
}
