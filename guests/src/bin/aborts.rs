// SPDX-License-Identifier: GPL-2.0-only
//! Aborts: fetches from nowhere and translation tables in nowhere abort as they do on hardware, in both formats; loads
//! and stores that no syndrome describes reach the interrupt controller.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Caught, Kind, THUMB, catch, catch_fetch};
use guests::mmio::{read8, read32, write32};
use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, mmu, sysreg, uart};

guest!(
    a_fetch_from_nowhere_mmu_off,
    a_fetch_from_nowhere_short_descriptors,
    a_fetch_from_nowhere_long_descriptors,
    a_fetch_from_devices,
    tables_in_nowhere_short_descriptors,
    tables_in_nowhere_long_descriptors,
    instructions_without_syndrome_mmu_off,
    instructions_without_syndrome_short_descriptors,
    instructions_without_syndrome_long_descriptors,
    instructions_without_syndrome_in_thumb_state,
    banked_registers_are_those_of_the_mode,
    the_serial_port_answers_them_too,
);

/// No memory and no device.
const NOWHERE: u32 = 0x7000_0000;
const ABORT: u32 = 0x17;
/// IFSR and DFSR of a synchronous external abort.
const SHORT_EXTERNAL: u32 = 0x008;
const LONG_EXTERNAL: u32 = 0x210;
/// DFSR.WnR.
const WRITE: u32 = 1 << 11;
/// What the registers of faults that do not come hold.
const UNTOUCHED: u32 = 0x5a5a_5a58;

/// Runs `code` by short descriptors.
fn short<T>(code: impl FnOnce() -> T) -> T {
    mmu::map_flat();
    mmu::map_section(NOWHERE, NOWHERE);
    mmu::on();
    let result = code();
    mmu::off();
    result
}

/// Runs `code` by long descriptors.
fn long<T>(code: impl FnOnce() -> T) -> T {
    mmu::on_long();
    let result = code();
    mmu::off();
    sysreg::ttbcr::write(0);
    result
}

/// What was left in the registers by an exception.
struct Left {
    caught: Option<Caught>,
    ifsr: u32,
    ifar: u32,
    dfsr: u32,
    dfar: u32,
}

/// Runs `code`, which takes an abort.
fn abort(code: impl FnOnce() -> Option<Caught>) -> Left {
    sysreg::ifsr::write(0);
    sysreg::dfsr::write(0);
    sysreg::ifar::write(UNTOUCHED);
    sysreg::dfar::write(UNTOUCHED);
    let caught = code();
    Left {
        caught,
        ifsr: sysreg::ifsr::read(),
        ifar: sysreg::ifar::read(),
        dfsr: sysreg::dfsr::read(),
        dfar: sysreg::dfar::read(),
    }
}

/// Checks a prefetch abort at `address`, which was branched to in Thumb state if it is odd.
fn is_fetch(left: &Left, address: u32, ifsr: u32) -> Verdict {
    let Some(caught) = left.caught else {
        check!(false, "no exception was taken");
        return Ok(());
    };
    let (thumb, at) = (address & 1 != 0, address & !1);
    check!(caught.kind == Kind::Prefetch, "it took {:?}", caught.kind);
    check_eq!("LR", caught.lr, at + 4);
    check_eq!("the handler's mode", caught.cpsr & 0x1f, ABORT);
    check_eq!("the handler's A and I bits", caught.cpsr & 0x180, 0x180);
    check_eq!("SPSR's mode", caught.spsr & 0x1f, 0x13);
    check!((caught.spsr & THUMB != 0) == thumb, "SPSR is {:#x}", caught.spsr);
    check_eq!("IFSR", left.ifsr, ifsr);
    check_eq!("IFAR", left.ifar, at);
    check_eq!("DFSR", left.dfsr, 0);
    check_eq!("DFAR", left.dfar, UNTOUCHED);
    Ok(())
}

fn fetches(address: u32, ifsr: u32) -> [(u32, u32, Left); 2] {
    // Of a word in Arm state, and of the second halfword in Thumb state.
    [address, address + 3].map(|address| (address, ifsr, abort(|| catch_fetch(address))))
}

fn are_fetches(tried: &[(u32, u32, Left)]) -> Verdict {
    for (address, ifsr, left) in tried {
        is_fetch(left, *address, *ifsr)?;
    }
    Ok(())
}

fn a_fetch_from_nowhere_mmu_off() -> Verdict {
    are_fetches(&fetches(NOWHERE + 0x124, SHORT_EXTERNAL))?;
    sysreg::ttbcr::write(mmu::LONG_TTBCR);
    let tried = fetches(NOWHERE + 0x124, LONG_EXTERNAL);
    sysreg::ttbcr::write(0);
    are_fetches(&tried)
}

fn a_fetch_from_nowhere_short_descriptors() -> Verdict {
    are_fetches(&short(|| fetches(NOWHERE + 0x124, SHORT_EXTERNAL)))
}

fn a_fetch_from_nowhere_long_descriptors() -> Verdict {
    are_fetches(&long(|| fetches(NOWHERE + 0x124, LONG_EXTERNAL)))
}

/// Whoever answers data there, nobody answers a fetch.
fn a_fetch_from_devices() -> Verdict {
    for device in [uart::BASE, gic::DISTRIBUTOR, gic::CPU_INTERFACE] {
        // The CPU interface's page is mapped from here on.
        read32(device & !0xfff);
        are_fetches(&fetches(device, SHORT_EXTERNAL))?;
    }
    Ok(())
}

/// Accesses through tables that are not there: a load, a store, a fetch. What each left.
fn through(tables: u32) -> [Left; 3] {
    const ADDRESS: u32 = 0x4000_0124;
    mmu::lower_half_from(tables);
    let load = || {
        catch(|| {
            read32(ADDRESS);
        })
    };
    let left = [abort(load), abort(|| catch(|| write32(ADDRESS, 1))), abort(|| catch_fetch(ADDRESS))];
    mmu::whole();
    left
}

fn are_walks(tried: &[(u32, [Left; 3])], status: u32) -> Verdict {
    for (tables, [load, store, fetch]) in tried {
        for (left, wnr) in [(load, 0), (store, WRITE)] {
            let Some(caught) = left.caught else {
                check!(false, "no exception was taken: tables at {tables:#x}");
                return Ok(());
            };
            check!(caught.kind == Kind::Data, "it took {:?}", caught.kind);
            check_eq!("the handler's mode", caught.cpsr & 0x1f, ABORT);
            check_eq!("DFSR", left.dfsr, status | wnr);
            check_eq!("DFAR", left.dfar, 0x4000_0124);
            check_eq!("IFAR", left.ifar, UNTOUCHED);
        }
        is_fetch(fetch, 0x4000_0124, status)?;
    }
    Ok(())
}

/// Where tables cannot be: nowhere, in a device of the process's, in one of the kernel's.
const NO_TABLES: [u32; 3] = [NOWHERE, uart::BASE & !0x3fff, gic::DISTRIBUTOR];

fn tables_in_nowhere_short_descriptors() -> Verdict {
    are_walks(&short(|| NO_TABLES.map(|tables| (tables, through(tables)))), SHORT_EXTERNAL)
}

fn tables_in_nowhere_long_descriptors() -> Verdict {
    are_walks(&long(|| NO_TABLES.map(|tables| (tables, through(tables)))), LONG_EXTERNAL)
}

/// Priorities of shared interrupts: words that can be written and read.
const PRIORITIES: u32 = gic::GICD_IPRIORITYR + 32;
const VALUES: [u32; 4] = [0x0820_4060, 0xa8c0_e0f8, 0x1018_2028, 0x3038_4048];

fn priorities() -> [u32; 4] {
    core::array::from_fn(|index| read32(PRIORITIES + 4 * index as u32))
}

fn clear_priorities() {
    (0..4).for_each(|index| write32(PRIORITIES + 4 * index, 0));
}

/// What instructions have done: what should be in the distributor, in registers and in the base, and what is.
#[derive(Clone, Copy)]
struct Done {
    stored: [u32; 4],
    loaded: [u32; 4],
    bases: [u32; 4],
}

/// Stores all four words by STM and STRD and post-indexed STR, loads them by LDM, LDRD and pre-indexed LDR.
fn arm_instructions() -> Done {
    clear_priorities();
    let mut bases = [PRIORITIES; 4];
    let mut loaded = [0; 4];
    // SAFETY: device accesses, and registers that are declared.
    unsafe {
        asm!(
            "stmia {stm}!, {{r0, r1}}",
            "strd r2, r3, [{strd}, #8]!",
            "mov r0, #0",
            "mov r1, #0",
            "ldmia {ldm}!, {{r0, r1, r2, r3}}",
            "ldr {last}, [{ldr}, #12]!",
            inout("r0") VALUES[0] => loaded[0],
            inout("r1") VALUES[1] => loaded[1],
            inout("r2") VALUES[2] => loaded[2],
            inout("r3") VALUES[3] => _,
            stm = inout(reg) bases[0],
            strd = inout(reg) bases[1],
            ldm = inout(reg) bases[2],
            ldr = inout(reg) bases[3],
            last = out(reg) loaded[3],
            options(nostack),
        );
    }
    Done { stored: priorities(), loaded, bases }
}

/// The same as far as it goes, in Thumb state.
fn thumb_instructions() -> Done {
    clear_priorities();
    let mut bases = [PRIORITIES; 4];
    let mut loaded = [0; 4];
    // SAFETY: as above; the state is Arm again behind it.
    unsafe {
        asm!(
            "adr r12, 3f + 1",
            "bx r12",
            ".thumb",
            "3:",
            "stmia r4!, {{r0, r1}}",
            "strd r2, r3, [r5, #8]!",
            "movs r0, #0",
            "movs r1, #0",
            "ldmia r8!, {{r0, r1, r2, r3}}", // 32 bits
            "ldr.w r10, [r9, #12]!",
            "adr r12, 4f",
            "bx r12",
            ".balign 4",
            ".arm",
            "4:",
            inout("r0") VALUES[0] => loaded[0],
            inout("r1") VALUES[1] => loaded[1],
            inout("r2") VALUES[2] => loaded[2],
            inout("r3") VALUES[3] => _,
            inout("r4") bases[0],
            inout("r5") bases[1],
            inout("r8") bases[2],
            inout("r9") bases[3],
            out("r10") loaded[3],
            out("r12") _,
            options(nostack),
        );
    }
    Done { stored: priorities(), loaded, bases }
}

fn as_expected(done: Done) -> Verdict {
    check!(done.stored == VALUES, "stored: {:x?}", done.stored);
    check!(done.loaded == VALUES, "loaded: {:x?}", done.loaded);
    let bases = [8, 8, 16, 12].map(|bytes| PRIORITIES + bytes);
    check!(done.bases == bases, "written-back bases: {:x?}", done.bases);
    clear_priorities();
    Ok(())
}

fn instructions_without_syndrome_mmu_off() -> Verdict {
    as_expected(arm_instructions())
}

fn instructions_without_syndrome_short_descriptors() -> Verdict {
    as_expected(short(arm_instructions))
}

fn instructions_without_syndrome_long_descriptors() -> Verdict {
    as_expected(long(arm_instructions))
}

fn instructions_without_syndrome_in_thumb_state() -> Verdict {
    as_expected(thumb_instructions())?;
    as_expected(short(thumb_instructions))?;
    as_expected(long(thumb_instructions))
}

fn banked_registers_are_those_of_the_mode() -> Verdict {
    (0..4).for_each(|index| write32(PRIORITIES + 4 * index, VALUES[index as usize]));
    let mut fiq = [0u32; 3];
    let (r8, r9, r10): (u32, u32, u32);
    // SAFETY: in FIQ mode r8 to r10 are others; the stack is not used there. Those of the other modes hold what they did.
    unsafe {
        asm!(
            "cps #0x11",
            "ldmia r0, {{r8-r10}}",
            "stmia r1, {{r8-r10}}",
            "cps #0x13",
            in("r0") PRIORITIES,
            in("r1") fiq.as_mut_ptr(),
            inout("r8") 8 => r8,
            inout("r9") 9 => r9,
            inout("r10") 10 => r10,
        );
    }
    clear_priorities();
    check!(fiq[..] == VALUES[..3], "FIQ mode's registers: {fiq:x?}");
    check!([r8, r9, r10] == [8, 9, 10], "the other modes': {:x?}", [r8, r9, r10]);
    Ok(())
}

/// The serial port takes bytes; a byte is what the base's writeback makes undescribed.
fn the_serial_port_answers_them_too() -> Verdict {
    for translated in [false, true] {
        let code = || {
            let mut base = uart::SCRATCH - 7;
            let seen: u32;
            // SAFETY: device accesses to the scratch register.
            unsafe {
                asm!(
                    "strb {value}, [{base}, #7]!",
                    "mov {value}, #0",
                    "ldrb {value}, [{base}], #-7",
                    base = inout(reg) base,
                    value = inout(reg) 0xa5u32 => seen,
                    options(nostack),
                );
            }
            (seen, base, read8(uart::SCRATCH))
        };
        let (seen, base, scratch) = if translated { short(code) } else { code() };
        check_eq!("the byte", seen, 0xa5);
        check_eq!("the register", scratch, 0xa5);
        check_eq!("the base", base, uart::BASE);
    }
    Ok(())
}
