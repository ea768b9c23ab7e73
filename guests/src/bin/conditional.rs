// SPDX-License-Identifier: GPL-2.0-only
//! Trapped instructions under conditions: carried out or skipped as the condition says, and in an IT block the
//! instructions behind them still stand under their own.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Kind, THUMB, catch};
use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, sysreg, timer};

guest!(
    every_condition_in_arm_state,
    every_condition_in_thumb_state,
    blocks_of_four_trapped_instructions,
    blocks_of_trapped_and_others,
    writes_under_conditions,
    the_physical_timer_under_conditions,
    waits_in_a_block,
    undefined_in_a_block,
    undefined_but_for_its_condition,
);

/// What a register holds that is not to be written.
const BEFORE: u32 = 0x1357_9bdf;

/// Runs instructions in Arm state with these flags (N, Z, C, V from bit 31 down); r0 to r6, and what they are after.
macro_rules! arm {
    ($flags:expr, $($text:literal),+ $(,)?) => {{
        let mut r = [BEFORE; 7];
        // SAFETY: reads system registers into registers that are declared.
        unsafe {
            asm!("msr cpsr_f, r7", $($text,)+
                inout("r0") r[0], inout("r1") r[1], inout("r2") r[2], inout("r3") r[3], inout("r4") r[4], inout("r5") r[5],
                inout("r8") r[6], in("r7") $flags, out("r12") _, options(nostack));
        }
        r
    }};
}

/// The same in Thumb state, and back.
macro_rules! thumb {
    ($flags:expr, $($text:literal),+ $(,)?) => {
        arm!(
            $flags,
            "adr r12, 3f + 1",
            "bx r12",
            ".thumb",
            "3:",
            $($text,)+
            "adr r12, 4f",
            "bx r12",
            ".balign 4",
            ".arm",
            "4:"
        )
    };
}

const N: u32 = 1 << 31;
const Z: u32 = 1 << 30;
const C: u32 = 1 << 29;
const V: u32 = 1 << 28;

/// Whether each of the fourteen conditions holds: table A8-1.
fn hold(flags: u32) -> [bool; 14] {
    let [n, z, c, v] = [N, Z, C, V].map(|flag| flags & flag != 0);
    [z, !z, c, !c, n, !n, v, !v, c && !z, !c || z, n == v, n != v, !z && n == v, z || n != v]
}

fn are_written(seen: [u32; 7], hold: &[bool], value: u32, flags: u32) -> Verdict {
    for (index, (seen, holds)) in seen.into_iter().zip(hold).enumerate() {
        let expected = if *holds { value } else { BEFORE };
        check!(seen == expected, "flags {flags:#x}: number {index} is {seen:#x}, should be {expected:#x}");
    }
    Ok(())
}

fn every_condition_in_arm_state() -> Verdict {
    let actlr = sysreg::actlr::read();
    for flags in (0..16).map(|flags| flags << 28) {
        let hold = hold(flags);
        let seen = arm!(
            flags,
            "mrceq p15, 0, r0, c1, c0, 1",
            "mrcne p15, 0, r1, c1, c0, 1",
            "mrccs p15, 0, r2, c1, c0, 1",
            "mrccc p15, 0, r3, c1, c0, 1",
            "mrcmi p15, 0, r4, c1, c0, 1",
            "mrcpl p15, 0, r5, c1, c0, 1",
            "mrcvs p15, 0, r8, c1, c0, 1",
        );
        are_written(seen, &hold[..7], actlr, flags)?;
        let seen = arm!(
            flags,
            "mrcvc p15, 0, r0, c1, c0, 1",
            "mrchi p15, 0, r1, c1, c0, 1",
            "mrcls p15, 0, r2, c1, c0, 1",
            "mrcge p15, 0, r3, c1, c0, 1",
            "mrclt p15, 0, r4, c1, c0, 1",
            "mrcgt p15, 0, r5, c1, c0, 1",
            "mrcle p15, 0, r8, c1, c0, 1",
        );
        are_written(seen, &hold[7..], actlr, flags)?;
    }
    Ok(())
}

fn every_condition_in_thumb_state() -> Verdict {
    let actlr = sysreg::actlr::read();
    for flags in (0..16).map(|flags| flags << 28) {
        let hold = hold(flags);
        let seen = thumb!(
            flags,
            "it eq",
            "mrceq p15, 0, r0, c1, c0, 1",
            "it ne",
            "mrcne p15, 0, r1, c1, c0, 1",
            "it cs",
            "mrccs p15, 0, r2, c1, c0, 1",
            "it cc",
            "mrccc p15, 0, r3, c1, c0, 1",
            "it mi",
            "mrcmi p15, 0, r4, c1, c0, 1",
            "it pl",
            "mrcpl p15, 0, r5, c1, c0, 1",
            "it vs",
            "mrcvs p15, 0, r8, c1, c0, 1",
        );
        are_written(seen, &hold[..7], actlr, flags)?;
        let seen = thumb!(
            flags,
            "it vc",
            "mrcvc p15, 0, r0, c1, c0, 1",
            "it hi",
            "mrchi p15, 0, r1, c1, c0, 1",
            "it ls",
            "mrcls p15, 0, r2, c1, c0, 1",
            "it ge",
            "mrcge p15, 0, r3, c1, c0, 1",
            "it lt",
            "mrclt p15, 0, r4, c1, c0, 1",
            "it gt",
            "mrcgt p15, 0, r5, c1, c0, 1",
            "it le",
            "mrcle p15, 0, r8, c1, c0, 1",
        );
        are_written(seen, &hold[7..], actlr, flags)?;
    }
    Ok(())
}

fn blocks_of_four_trapped_instructions() -> Verdict {
    let actlr = sysreg::actlr::read();
    for flags in [0, Z] {
        let z = flags == Z;
        let seen = thumb!(
            flags,
            "itete eq",
            "mrceq p15, 0, r0, c1, c0, 1",
            "mrcne p15, 0, r1, c1, c0, 1",
            "mrceq p15, 0, r2, c1, c0, 1",
            "mrcne p15, 0, r3, c1, c0, 1",
            "mrc p15, 0, r4, c1, c0, 1", // behind the block: unconditional
        );
        are_written(seen, &[z, !z, z, !z, true, false, false], actlr, flags)?;
        let seen = thumb!(
            flags,
            "itttt ne",
            "mrcne p15, 0, r0, c1, c0, 1",
            "mrcne p15, 0, r1, c1, c0, 1",
            "mrcne p15, 0, r2, c1, c0, 1",
            "mrcne p15, 0, r3, c1, c0, 1",
            "mrc p15, 0, r4, c1, c0, 1",
        );
        are_written(seen, &[!z, !z, !z, !z, true, false, false], actlr, flags)?;
    }
    Ok(())
}

/// An instruction that the hardware executes itself tells under which ITSTATE the trapped one before it was left.
fn blocks_of_trapped_and_others() -> Verdict {
    let actlr = sysreg::actlr::read();
    for flags in [0, Z] {
        let z = flags == Z;
        let [r0, r1, r2, r3, r4, r5, _] = thumb!(
            flags,
            "itete eq",
            "mrceq p15, 0, r0, c1, c0, 1",
            "movne r1, #1",
            "moveq r2, #2",
            "mrcne p15, 0, r3, c1, c0, 1",
            "mov.w r4, #4",
            "it ne",
            "movne r5, #5",
        );
        let pick = |holds, value| if holds { value } else { BEFORE };
        let expected = [pick(z, actlr), pick(!z, 1), pick(z, 2), pick(!z, actlr), 4, pick(!z, 5)];
        check!([r0, r1, r2, r3, r4, r5] == expected, "Z {z}: {:x?}", [r0, r1, r2, r3, r4, r5]);
        // Trapped last of a block, and one that is two bytes long: the flags survive them all.
        let [r0, r1, r2, r3, ..] = thumb!(
            flags,
            "itee ne",
            "addne r0, r0, #1",
            "addeq r1, r1, #1",
            "mrceq p15, 0, r2, c1, c0, 1",
            "mrs r3, cpsr",
        );
        let expected = [BEFORE + u32::from(!z), BEFORE + u32::from(z), pick(z, actlr)];
        check!([r0, r1, r2] == expected, "Z {z}: {:x?}", [r0, r1, r2]);
        check_eq!("the flags", r3 & (N | Z | C | V), flags);
    }
    Ok(())
}

/// CNTP_CTL: IMASK.
const MASKED: u32 = 2;

/// Turns the physical timer off, with a time to fire that does not come.
fn physical_timer_off() {
    // SAFETY: CNTP_CVAL is the guest's own.
    unsafe { asm!("mcrr p15, 2, {0}, {0}, c14", "isb", in(reg) 0x7fff_ffff, options(nostack)) };
    sysreg::cntp_ctl::write(0);
}

fn writes_under_conditions() -> Verdict {
    for flags in [0, Z] {
        let z = flags == Z;
        physical_timer_off();
        arm!(flags, "mov r0, #2", "mcreq p15, 0, r0, c14, c2, 1");
        check_eq!("CNTP_CTL, Arm", sysreg::cntp_ctl::read(), if z { MASKED } else { 0 });
        sysreg::cntp_ctl::write(0);
        let seen =
            thumb!(flags, "mov.w r0, #2", "itte eq", "mcreq p15, 0, r0, c14, c2, 1", "moveq r1, #1", "movne r2, #2",);
        check_eq!("CNTP_CTL, Thumb", sysreg::cntp_ctl::read(), if z { MASKED } else { 0 });
        check!((seen[1], seen[2]) == if z { (1, BEFORE) } else { (BEFORE, 2) }, "Z {z}: {seen:x?}");
        sysreg::cntp_ctl::write(0);
    }
    Ok(())
}

/// CNTP_CTL and the count that it is compared with: 32 and 64 bits.
fn the_physical_timer_under_conditions() -> Verdict {
    const LATE: u32 = 0x6000_0000;
    physical_timer_off();
    sysreg::cntp_ctl::write(MASKED);
    for flags in [0, Z] {
        let z = flags == Z;
        let seen = arm!(flags, "mrceq p15, 0, r0, c14, c2, 1", "mrcne p15, 0, r1, c14, c2, 1");
        are_written(seen, &[z, !z, false, false, false, false, false], MASKED, flags)?;
        let seen = thumb!(
            flags,
            "mov.w r4, #5",
            "mov.w r5, #0x60000000",
            "mcrr p15, 2, r4, r5, c14", // CNTP_CVAL, which the count does not reach: ISTATUS would show it
            "itete eq",
            "mrceq p15, 0, r0, c14, c2, 1",
            "mrcne p15, 0, r1, c14, c2, 1",
            "mrrceq p15, 2, r2, r3, c14",
            "movne r8, #8",
        );
        let expected =
            if z { [MASKED, BEFORE, 5, LATE, 5, LATE, BEFORE] } else { [BEFORE, MASKED, BEFORE, BEFORE, 5, LATE, 8] };
        check!(seen == expected, "Z {z}: {seen:x?}");
    }
    sysreg::cntp_ctl::write(0);
    Ok(())
}

fn waits_in_a_block() -> Verdict {
    gic::enable();
    gic::enable_private(gic::VIRTUAL_TIMER);
    for flags in [0, Z] {
        let z = flags == Z;
        timer::fire_in(2000);
        // The timer wakes it, with interrupts masked; where the condition fails there is no wait. It is the last of its
        // block: QEMU, when it traps a WFI, has moved ITSTATE on already.
        let seen = thumb!(
            flags,
            "dsb",
            "ite eq",
            "moveq r0, r0",
            "wfene",
            "it eq",
            "wfieq",
            "ite ne",
            "movne r1, #1",
            "moveq r2, #2",
            "mov.w r3, #3",
        );
        let fired = sysreg::cntv_ctl::read() & timer::ISTATUS != 0;
        timer::off();
        check!(seen[1..4] == if z { [BEFORE, 2, 3] } else { [1, BEFORE, 3] }, "Z {z}: {seen:x?}");
        check!(fired || !z, "it did not wait");
        timer::fire_in(2000);
        let seen = arm!(flags, "dsb", "wfieq", "moveq r0, #0", "wfene", "movne r1, #1");
        timer::off();
        check!(seen[..2] == if z { [0, BEFORE] } else { [BEFORE, 1] }, "Z {z}: {seen:x?}");
    }
    gic::disable_private(gic::VIRTUAL_TIMER);
    Ok(())
}

/// In a block, an injected exception finds the same SPSR as a native one: ITSTATE of the instruction itself.
fn undefined_in_a_block() -> Verdict {
    // In encodings, since the assembler does not see that the undefined one is of the block. The handler goes on at LR,
    // in the instruction's second half, which then is `ldrb r7, [r7, #31]` under the same condition: see `undefined`.
    // r7 points to the code.
    let mut seen = [BEFORE; 3];
    let mut native = [BEFORE; 3];
    // SAFETY: undefined instructions, caught; registers that are declared.
    let injected = catch(|| unsafe {
        asm!(
            "adr r12, 3f + 1", "mov r7, r12", "cmp r12, r12", "bx r12",
            ".thumb", "3:",
            ".inst.n 0xbf06, 0x2001",       // itte eq; moveq r0, #1
            ".inst.n 0xeeff, 0x7fff", // mrceq p15, 7, r7, c15, c15, 7
            ".inst.n 0x2101",               // movne r1, #1
            "mov.w r2, #2",
            "adr r12, 4f", "bx r12", ".balign 4", ".arm", "4:",
            inout("r0") seen[0], inout("r1") seen[1], inout("r2") seen[2], out("r7") _, out("r12") _,
        )
    });
    // SAFETY: as above.
    let caught = catch(|| unsafe {
        asm!(
            "adr r12, 3f + 1", "mov r7, r12", "cmp r12, r12", "bx r12",
            ".thumb", "3:",
            ".inst.n 0xbf06, 0x2001",       // itte eq; moveq r0, #1
            ".inst.n 0xde00",        // udf #0: two bytes
            ".inst.n 0x2101",               // movne r1, #1
            "mov.w r2, #2",
            "adr r12, 4f", "bx r12", ".balign 4", ".arm", "4:",
            inout("r0") native[0], inout("r1") native[1], inout("r2") native[2], out("r7") _, out("r12") _,
        )
    });
    let (Some(injected), Some(caught)) = (injected, caught) else {
        check!(false, "no exception was taken");
        return Ok(());
    };
    check!((injected.kind, caught.kind) == (Kind::Undefined, Kind::Undefined), "{:?}", (injected.kind, caught.kind));
    check_eq!("SPSR", injected.spsr, caught.spsr);
    // EQ, and two instructions left: IT is 0b0000_0110 shifted by one.
    check_eq!("SPSR's ITSTATE", injected.spsr >> 8 & 0xfc | injected.spsr >> 25 & 3, 0b0000_1100);
    check_eq!("SPSR's T bit", injected.spsr & THUMB, THUMB);
    check_eq!("the handler's ITSTATE", injected.cpsr & 0x0600_fc00, 0);
    check!(seen == [1, BEFORE, 2], "{seen:x?}");
    Ok(())
}

fn undefined_but_for_its_condition() -> Verdict {
    for flags in [0, Z] {
        let z = flags == Z;
        let caught = catch(|| {
            arm!(flags, "mrceq p15, 7, r0, c15, c15, 7", "mcreq p15, 7, r0, c15, c15, 7");
        });
        check!(caught.map(|caught| caught.kind) == z.then_some(Kind::Undefined), "Arm, Z {z}: {caught:x?}");
        let caught = catch(|| {
            let seen = thumb!(
                0u32,
                "itt eq",
                "mrceq p15, 7, r0, c15, c15, 7",
                "mcreq p15, 7, r0, c15, c15, 7",
                "mov.w r1, #1"
            );
            sysreg::tpidrprw::write(seen[1]);
        });
        check!(caught.is_none(), "Thumb: {caught:x?}");
        check_eq!("behind the block", sysreg::tpidrprw::read(), 1);
    }
    Ok(())
}
