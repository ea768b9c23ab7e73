// SPDX-License-Identifier: GPL-2.0-only
//! Worldswitch inside Linux: everything of `worldswitch.ko` that names the kernel.
//!
//! A static library that a thin C shim (`shim/`) is linked with. Upwards it is [`kvm::host::Host`] for the hypervisor proper
//! ([`kernel`]); downwards it speaks to the kernel through [`ffi`]; sideways it answers the system calls of /dev/kvm
//! ([`system`], [`vm`], [`vcpu`], [`device`]). Hyp mode is taken and given back in [`hyp_mode`].
#![no_std]

mod cache;
mod errno;
mod ffi;
mod gic;
mod heap;
mod hyp_call;
mod hyp_mode;
mod kernel;
mod lock;
mod log;
mod module;
mod pages;
mod waiter;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Which panics can be reached at all is reviewed in panics.txt; this is the kernel's way to end a thread that cannot go on.
    ffi::ws_bug()
}

mod temporary {
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_system_ioctl() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_vm_ioctl() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_vcpu_ioctl() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_device_ioctl() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_vcpu_mmap() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_release() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_mm_invalidate_begin() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_mm_invalidate_end() -> i32 {
        -25
    }
    #[unsafe(no_mangle)]
    extern "C" fn ws_rust_mm_release() -> i32 {
        -25
    }
}
