// SPDX-License-Identifier: GPL-2.0-only
//! What runs in Hyp mode: exception vectors, the Hyp-ABI, the world switch.
//!
//! A freestanding image with its own linker script ([`hyp_abi::layout`] says where it lives). The kernel module copies it to
//! pages of its own, enters Hyp mode through a trampoline ([`trampoline`]), and from then on each `HVC #0` from the host arrives
//! at [`vectors`], which calls one of the few functions in [`entries`]. One of them, `enter_guest`, is the world switch
//! ([`world_switch`]): it saves what is the host's, loads what is the guest's, class by class, and undoes it on the way out.
//!
//! Nothing here panics: the panic handler is a symbol that does not exist, so a reachable panic fails the link.
#![no_std]
#![no_main]

#[macro_use]
mod sysreg;

mod answers;
mod deferred;
mod entries;
mod essential;
mod fault_ipa;
mod header;
mod panic;
mod per_cpu;
mod provoke;
mod tlb;
mod trampoline;
mod traps;
mod vectors;
mod vfp;
mod vtimer;
mod world_switch;

unsafe extern "C" {
    /// Never defined: see the head of this file.
    fn hyp_image_must_not_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never executed. The function has no definition, so an image in which this call is reachable does not link.
    unsafe { hyp_image_must_not_panic() }
}
