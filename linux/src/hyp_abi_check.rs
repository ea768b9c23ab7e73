// SPDX-License-Identifier: GPL-2.0-only
//! The Hyp-ABI checked from the host's side, on the CPU that root writes to the parameter `check_hyp_abi` on.
//!
//! [`call`] makes one `HVC #0` with a value of its own in every register that must survive, and shows what all of them are
//! afterwards. A good pointer must give the result of its function, with no, one, two or three arguments, in 32 and 64 bits;
//! a bad one must give [`BAD_CALL`] and leave the arguments where they were: a function that ran would have put its own result
//! there. What is wrong goes to the log, one line each.
//!
//! r0 = 1 is the stub's soft restart and is not tried: it does not come back.

use crate::errno::Errno;
use crate::hyp_mode;
use crate::kernel;
use core::arch::naked_asm;
use core::mem::offset_of;
use hyp_abi::image::{ABI, BAD_CALL, CALLS, Call, ImageHeader, echo, echo_wide};

/// What is in the registers at `HVC #0`, or after it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Registers {
    /// r0 to r3.
    r: [u32; 4],
    /// r4 to r11.
    kept: [u32; 8],
    /// CPSR; on the way in only N, Z, C, V and Q are set from it.
    cpsr: u32,
    /// LR_usr, which Hyp mode uses as its LR.
    lr_usr: u32,
    /// SPSR_svc.
    spsr_svc: u32,
    /// LR_svc less SP_svc, which are set to the same.
    stray: u32,
}

/// One call: what goes in, and what came out.
#[repr(C)]
struct Trial {
    before: Registers,
    after: Registers,
}

const _: () = assert!(offset_of!(Trial, before) == 0 && offset_of!(Registers, r) == 0);
const _: () = assert!(offset_of!(Registers, kept) == 16);

/// CPSR's flags that a test may choose.
const FLAGS: u32 = 0xf800_0000;

/// Makes the call.
///
/// # Safety
/// Supervisor mode with interrupts off, and Hyp mode is ours on this CPU; what the called function promises holds.
#[unsafe(naked)]
unsafe extern "C" fn call(trial: *mut Trial) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "mrs r1, LR_usr",
        "mrs r2, spsr",
        "push {{r0-r2}}", // the trial's place, and what is the host's
        "ldr r1, [r0, #{lr_usr}]",
        "msr LR_usr, r1",
        "ldr r1, [r0, #{spsr_svc}]",
        "msr spsr_cxsf, r1",
        "add lr, r0, #{kept}",
        "ldm lr, {{r4-r11}}",
        "ldr r1, [r0, #{cpsr}]",
        "msr cpsr_f, r1",
        "mrs r1, cpsr",
        "str r1, [r0, #{cpsr}]", // all of it, mode and masks as well
        "mov lr, sp",
        "ldm r0, {{r0-r3}}",
        "hvc #0",
        "mrs r12, cpsr",
        "sub lr, lr, sp",
        "push {{r0, r1}}",
        "ldr r0, [sp, #8]",
        "add r0, r0, #{after}",
        "str r12, [r0, #{cpsr}]",
        "str lr, [r0, #{stray}]",
        "ldr r1, [sp]",
        "str r1, [r0], #4",
        "ldr r1, [sp, #4]",
        "stm r0, {{r1-r11}}",
        "sub r0, r0, #4",
        "mrs r1, LR_usr",
        "str r1, [r0, #{lr_usr}]",
        "mrs r1, spsr",
        "str r1, [r0, #{spsr_svc}]",
        "add sp, sp, #8",
        "pop {{r0-r2}}",
        "msr LR_usr, r1",
        "msr spsr_cxsf, r2",
        "pop {{r4-r11, pc}}",
        kept = const offset_of!(Registers, kept),
        cpsr = const offset_of!(Registers, cpsr),
        lr_usr = const offset_of!(Registers, lr_usr),
        spsr_svc = const offset_of!(Registers, spsr_svc),
        stray = const offset_of!(Registers, stray),
        after = const offset_of!(Trial, after),
    )
}

/// Arguments that no two places share.
const ARGUMENTS: [u32; 3] = [0x8123_4567, 0x9abc_def0, 0xfedc_ba98];

/// Makes one call and logs what did not survive it. Answers r0 to r3. Interrupts are off.
///
/// # Safety
/// Hyp mode is ours on this CPU, and `pointer` is no soft restart and none of the functions that take an address.
unsafe fn attempt(pointer: u32, arguments: [u32; 3], flags: u32, good: &mut bool) -> [u32; 4] {
    let [a, b, c] = arguments;
    let before = Registers {
        r: [pointer, a, b, c],
        kept: core::array::from_fn(|index| 0x0404_0404_u32.wrapping_mul(index as u32 + 1) ^ flags),
        cpsr: flags & FLAGS,
        lr_usr: !flags,
        spsr_svc: flags & FLAGS | 0x10,
        stray: 0,
    };
    let mut trial = Trial { before, after: Registers::default() };
    // SAFETY: promised by the caller; the kernel runs in Supervisor mode.
    unsafe { call(&mut trial) };
    let (before, after) = (&trial.before, &trial.after);
    let kept = [
        ("r4 to r11", before.kept == after.kept),
        ("CPSR", before.cpsr == after.cpsr),
        ("LR_usr", before.lr_usr == after.lr_usr),
        ("SPSR_svc", before.spsr_svc == after.spsr_svc),
        ("SP_svc or LR_svc", after.stray == 0),
    ];
    for (name, _) in kept.iter().filter(|(_, kept)| !kept) {
        wrong(good, format_args!("{pointer:#010x} did not keep {name}"));
    }
    after.r
}

fn wrong(good: &mut bool, what: core::fmt::Arguments<'_>) {
    *good = false;
    crate::error!("Hyp-ABI: a call of {what}");
}

/// Calls of functions: each gives its result.
fn good_pointers(header: &ImageHeader, good: &mut bool) {
    let [a, b, c] = ARGUMENTS;
    let wide = u64::from(b) << 32 | u64::from(a);
    let calls: [(Call, [u32; 3], u64, u64); 7] = [
        // A result of 32 bits leaves r1 to the function.
        (Call::Version, [0; 3], ABI.into(), u32::MAX.into()),
        (Call::Echo, [0; 3], echo(0, 0, 0), u64::MAX),
        (Call::Echo, [a, 0, 0], echo(a, 0, 0), u64::MAX),
        (Call::Echo, [a, b, 0], echo(a, b, 0), u64::MAX),
        (Call::Echo, [a, b, c], echo(a, b, c), u64::MAX),
        (Call::EchoWide, [a, b, 0], echo_wide(wide, 0), u64::MAX),
        (Call::EchoWide, [a, b, c], echo_wide(wide, c), u64::MAX),
    ];
    for (function, arguments, expected, mask) in calls {
        for flags in [0, FLAGS, 0xa000_0000, 0x5800_0000] {
            // SAFETY: interrupts are off and Hyp mode is ours (`check`); these functions compute and do nothing else.
            let [low, high, ..] = unsafe { attempt(header.entry(function), arguments, flags, good) };
            let result = u64::from(high) << 32 | u64::from(low);
            if result & mask != expected {
                wrong(good, format_args!("{function:?} with {arguments:x?} gave {result:#x} instead of {expected:#x}"));
            }
        }
    }
}

/// Calls of what is no function: each is refused, and nothing runs.
fn bad_pointers(header: &ImageHeader, good: &mut bool) {
    let somewhere = 0u32;
    let echo = header.entry(Call::Echo);
    let end = header.entries.wrapping_add(CALLS * 4);
    let pointers = [
        ("null", 0),
        ("2, which is no number of the stub's", 2),
        ("4, the least that is aligned", 4),
        ("one byte into an entry", echo.wrapping_add(1)),
        ("two bytes into an entry", echo.wrapping_add(2)),
        ("three bytes into an entry", echo.wrapping_add(3)),
        ("the kernel's text", attempt as *const () as u32),
        ("the kernel's data", &raw const somewhere as u32),
        ("the image's header", hyp_abi::layout::IMAGE_BASE),
        ("the image's text, at its beginning", header.text),
        ("the image's text, where Hyp mode begins", header.start),
        ("the image's text, just before the table", header.entries.wrapping_sub(4)),
        ("one past the end of the table", end),
        ("two past the end of the table", end.wrapping_add(4)),
        ("the image's data", header.data),
        ("the end of memory", !3),
    ];
    for (name, pointer) in pointers {
        for flags in [0, FLAGS] {
            // SAFETY: interrupts are off and Hyp mode is ours (`check`); none of these is a function, and none 1.
            let after = unsafe { attempt(pointer, ARGUMENTS, flags, good) };
            let [a, b, c] = ARGUMENTS;
            if after != [BAD_CALL, a, b, c] {
                wrong(good, format_args!("{name} ({pointer:#010x}) left {after:x?} in r0 to r3"));
            }
        }
    }
}

/// The whole check.
fn check() -> Result<(), Errno> {
    kernel::with_interrupts_off(|| {
        let header = hyp_mode::header_here().ok_or(Errno::ENODEV)?;
        let mut good = true;
        good_pointers(header, &mut good);
        bad_pointers(header, &mut good);
        if good { Ok(()) } else { Err(Errno::EIO) }
    })
}

/// root wrote to the parameter `check_hyp_abi`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_check_hyp_abi() -> i32 {
    check().map_or_else(Errno::get, |()| 0)
}
