// SPDX-License-Identifier: GPL-2.0-only
//! Guest memory: each page is there, is its own, and is the same with caches off and on.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::test::Verdict;
use guests::{check, check_eq, guest, mmio, mmu, psci, sysreg, uart};

guest!(
    fresh_memory_is_zero,
    pages_keep_what_is_written_uncached,
    and_read_the_same_cached,
    pages_keep_what_is_written_cached,
    and_read_the_same_uncached,
    translation_is_answered,
    instructions_can_be_written,
    devices_work_under_the_mmu,
);

/// Below the image, above where a kernel would be; nothing else is here.
const FIRST: u32 = 0x8010_0000;
const END: u32 = 0x81f0_0000;
const PAGE: usize = 0x1000;

fn pages() -> impl Iterator<Item = u32> {
    (FIRST..END).step_by(PAGE)
}

fn fill(salt: u32) {
    for page in pages() {
        mmio::write32(page, page ^ salt);
        mmio::write32(page + 0xffc, !page ^ salt);
    }
}

fn verify(salt: u32) -> Verdict {
    for page in pages() {
        let (first, last) = (mmio::read32(page), mmio::read32(page + 0xffc));
        check!(first == page ^ salt, "at {page:#x} is {first:#x}, should be {:#x}", page ^ salt);
        check!(last == !page ^ salt, "at {:#x} is {last:#x}, should be {:#x}", page + 0xffc, !page ^ salt);
    }
    Ok(())
}

/// Runs `code` with MMU and caches on.
fn cached<T>(code: impl FnOnce() -> T) -> T {
    mmu::map_flat();
    mmu::on();
    let result = code();
    mmu::off();
    result
}

fn fresh_memory_is_zero() -> Verdict {
    // Every sixteenth page: the others are first touched by a write.
    for page in pages().step_by(16) {
        let word = mmio::read32(page + 0x800);
        check!(word == 0, "at {:#x} is {word:#x}", page + 0x800);
    }
    Ok(())
}

fn pages_keep_what_is_written_uncached() -> Verdict {
    fill(0x1111_1111);
    verify(0x1111_1111)
}

fn and_read_the_same_cached() -> Verdict {
    cached(|| verify(0x1111_1111))
}

fn pages_keep_what_is_written_cached() -> Verdict {
    cached(|| {
        fill(0x2222_2222);
        verify(0x2222_2222)
    })
}

fn and_read_the_same_uncached() -> Verdict {
    verify(0x2222_2222)
}

fn translation_is_answered() -> Verdict {
    let par = cached(|| {
        // SAFETY: translates an address for a read by PL1 (ATS1CPR); changes PAR only.
        unsafe { asm!("mcr p15, 0, {}, c7, c8, 0", "isb", in(reg) FIRST, options(nostack)) };
        psci::version(); // PAR is part of the guest's state
        sysreg::par::read()
    });
    check_eq!("PAR's fault bit", par & 1, 0);
    check_eq!("PAR's address", par & 0xffff_f000, FIRST);
    Ok(())
}

fn instructions_can_be_written() -> Verdict {
    for value in [7u32, 42, 255] {
        mmio::write32(FIRST, 0xe3a0_0000 | value); // mov r0, #value
        mmio::write32(FIRST + 4, 0xe12f_ff1e); // bx lr
        sysreg::dsb();
        sysreg::iciallu::write(0);
        // SAFETY: a function that returns a constant was written there above, and the instruction cache knows nothing older.
        let function: extern "C" fn() -> u32 = unsafe { core::mem::transmute(FIRST as usize) };
        check_eq!("what written code returns", function(), value);
    }
    Ok(())
}

fn devices_work_under_the_mmu() -> Verdict {
    cached(|| {
        mmio::write8(uart::SCRATCH, 0x33);
        check_eq!("the scratch register", mmio::read8(uart::SCRATCH), 0x33);
        check_eq!("PSCI's version", psci::version(), uapi::psci::VERSION_1_0);
        Ok(())
    })
}
