// SPDX-License-Identifier: GPL-2.0-only
//! The table of functions that the host may call, one branch each, in the order of [`hyp_abi::image::Call`].
//!
//! `HVC #0` from VMID 0 brings a pointer in r0; only the address of a branch in this table passes ([`crate::vectors`]).

use crate::{deferred, provoke, tlb, trampoline, world_switch};
use core::arch::naked_asm;
use hyp_abi::image::{self, ABI, CALLS, Call};

#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".hyp.entries")]
unsafe extern "C" fn hyp_entries() -> ! {
    naked_asm!(
        "b {enter_guest}",
        "b {flush_vmid}",
        "b {flush_vmid_local}",
        "b {flush_all}",
        "b {flush_hyp}",
        "b {release}",
        "b {version}",
        "b {provoke}",
        "b {leave_guest}",
        "b {echo}",
        "b {echo_wide}",
        enter_guest = sym world_switch::enter,
        flush_vmid = sym tlb::flush_vmid,
        flush_vmid_local = sym tlb::flush_vmid_local,
        flush_all = sym tlb::flush_all,
        flush_hyp = sym tlb::flush_hyp,
        release = sym trampoline::release,
        version = sym version,
        provoke = sym provoke::provoke,
        leave_guest = sym deferred::leave_guest,
        echo = sym echo,
        echo_wide = sym echo_wide,
    )
}

const _: () = assert!(Call::EnterGuest as u32 == 0 && Call::FlushVmid as u32 == 1 && Call::FlushVmidLocal as u32 == 2);
const _: () = assert!(Call::FlushAll as u32 == 3 && Call::FlushHyp as u32 == 4 && Call::Release as u32 == 5);
const _: () = assert!(Call::Version as u32 == 6 && Call::Provoke as u32 == 7 && Call::LeaveGuest as u32 == 8);
const _: () = assert!(Call::Echo as u32 == 9 && Call::EchoWide as u32 == 10 && CALLS == 11);

/// Shows that Hyp mode answers.
extern "C" fn version() -> u32 {
    ABI
}

/// Gives back what it was called with.
extern "C" fn echo(a: u32, b: u32, c: u32) -> u64 {
    image::echo(a, b, c)
}

/// The same with an argument of 64 bits.
extern "C" fn echo_wide(wide: u64, c: u32) -> u64 {
    image::echo_wide(wide, c)
}
