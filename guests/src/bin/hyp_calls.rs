// SPDX-License-Identifier: GPL-2.0-only
//! A guest's hypercall never reaches a function of the host's: whatever stands in r0 is taken for PSCI's, and refused.
#![no_std]
#![no_main]

use guests::test::Verdict;
use guests::{check_eq, guest, psci};

guest!(pointers_into_the_hypervisor_call_nothing, the_stubs_calls_are_not_a_guests, the_versions_are_still_answered);

/// Where the Hyp image and its table of functions lie, in Hyp mode's own addresses.
const IMAGE: u32 = 0xfe00_0000;
/// More than it has.
const BYTES: u32 = 0x8000;

const NOT_SUPPORTED: u32 = u32::MAX;

fn refused(function: u32) -> Verdict {
    // A function that provokes a Hyp panic takes a context and a number from 1 to 5.
    let [answer, ..] = psci::call(function, [0x8200_0000, 1, 3]);
    check_eq!(format_args!("the answer to {function:#x}"), answer, NOT_SUPPORTED);
    Ok(())
}

fn pointers_into_the_hypervisor_call_nothing() -> Verdict {
    (IMAGE..IMAGE + BYTES).step_by(4).try_for_each(refused)
}

/// 0 set vectors once, 1 restarts softly, 2 resets them.
fn the_stubs_calls_are_not_a_guests() -> Verdict {
    (0..4).try_for_each(refused)
}

fn the_versions_are_still_answered() -> Verdict {
    check_eq!("PSCI's version", psci::version(), uapi::psci::VERSION_1_0);
    Ok(())
}
