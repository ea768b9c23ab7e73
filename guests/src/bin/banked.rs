// SPDX-License-Identifier: GPL-2.0-only
//! Registers survive exits: the banked ones of every mode, the general ones, and CP15.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, mmio, psci, sysreg, uart};

guest!(
    banks_survive_hypercalls,
    banks_survive_the_kernels_mmio,
    banks_survive_the_processs_mmio,
    banks_survive_a_trapped_register,
    general_registers_survive_a_hypercall,
    flags_survive_a_hypercall,
    thread_ids_survive,
    fault_registers_survive,
    translation_registers_survive,
);

/// Accessors of one banked register by its name.
macro_rules! banked {
    ($($name:literal),+) => {
        [$(
            ($name, {
                fn read() -> u32 {
                    let value;
                    // SAFETY: the bank of a mode other than this, or this mode's SPSR; reading changes nothing.
                    unsafe { asm!(".arch_extension virt", concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
                    value
                }
                read as fn() -> u32
            }, {
                fn write(value: u32) {
                    // SAFETY: as above; no exception of that mode is taken before the value is put back.
                    unsafe { asm!(".arch_extension virt", concat!("msr ", $name, ", {}"), in(reg) value, options(nostack)) };
                }
                write as fn(u32)
            }),
        )+]
    };
}

type Banked = (&'static str, fn() -> u32, fn(u32));

const BANKS: [Banked; 20] = banked!(
    "SP_usr", "LR_usr", "SP_irq", "LR_irq", "SPSR_irq", "SP_abt", "LR_abt", "SPSR_abt", "SP_und", "LR_und", "SPSR_und",
    "r8_fiq", "r9_fiq", "r10_fiq", "r11_fiq", "r12_fiq", "SP_fiq", "LR_fiq", "SPSR_fiq", "SPSR"
);

fn pattern(index: usize, salt: u32) -> u32 {
    (index as u32 + 1).wrapping_mul(0x0101_0101) ^ salt
}

/// Fills every bank, exits, compares. SPSRs keep the bits that they have; the rest keeps all.
fn survive(exit: fn()) -> Verdict {
    for salt in [0x1234_5678, 0x8765_4321] {
        let saved = BANKS.map(|(_, read, _)| read());
        let mut expected = [0; BANKS.len()];
        for (index, (_, read, write)) in BANKS.iter().enumerate() {
            write(pattern(index, salt));
            expected[index] = read();
        }
        exit();
        let seen = BANKS.map(|(_, read, _)| read());
        for (index, (.., write)) in BANKS.iter().enumerate() {
            write(saved[index]);
        }
        for (index, (name, ..)) in BANKS.iter().enumerate() {
            check_eq!(name, seen[index], expected[index]);
            check!(
                name.starts_with("SPSR") || expected[index] == pattern(index, salt),
                "{name} did not take its value"
            );
        }
    }
    Ok(())
}

fn banks_survive_hypercalls() -> Verdict {
    survive(|| {
        psci::version();
    })
}

fn banks_survive_the_kernels_mmio() -> Verdict {
    survive(|| {
        mmio::read32(gic::GICD_IIDR);
    })
}

fn banks_survive_the_processs_mmio() -> Verdict {
    survive(|| {
        mmio::write8(uart::SCRATCH, 1);
        mmio::read8(uart::SCRATCH);
    })
}

fn banks_survive_a_trapped_register() -> Verdict {
    survive(|| {
        sysreg::actlr::read();
    })
}

fn general_registers_survive_a_hypercall() -> Verdict {
    let mut values: [u32; 8] = core::array::from_fn(|index| pattern(index, 0x5555_0000));
    let at = values.as_mut_ptr();
    // SAFETY: loads eight registers from `values`, makes a PSCI_VERSION call, stores them; all are declared, and r6, r7 and r11, which may not be
    // named, are kept on the stack.
    unsafe {
        asm!(
            ".arch_extension virt",
            "push {{r6, r7, r11, lr}}",
            "push {{r0, r1}}",
            "ldm r0, {{r4-r11}}",
            "mov r0, #0x84000000",
            "hvc #0",
            "pop {{r0, r1}}",
            "stm r0, {{r4-r11}}",
            "pop {{r6, r7, r11, lr}}",
            inout("r0") at => _, out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _, out("r8") _, out("r9") _, out("r10") _, out("r12") _,
        );
    }
    for (index, value) in values.iter().enumerate() {
        check!(
            *value == pattern(index, 0x5555_0000),
            "r{} is {value:#x}, was {:#x}",
            index + 4,
            pattern(index, 0x5555_0000)
        );
    }
    Ok(())
}

fn flags_survive_a_hypercall() -> Verdict {
    for flags in [0xf800_0000u32, 0, 0xa000_0000] {
        let seen: u32;
        // SAFETY: sets the flags, calls PSCI_VERSION, reads CPSR; flags are clobbered by default.
        unsafe {
            asm!(
                ".arch_extension virt", "msr cpsr_f, {flags}", "mov r0, #0x84000000", "hvc #0", "mrs {seen}, cpsr",
                flags = in(reg) flags, seen = out(reg) seen, out("r0") _, out("r1") _, out("r2") _, out("r3") _, options(nostack),
            );
        }
        check_eq!("CPSR's flags", seen & 0xf800_0000, flags);
        check_eq!("CPSR's mode", seen & 0x1f, 0x13);
    }
    Ok(())
}

/// Writes registers of CP15, exits by a hypercall and by MMIO, compares, puts them back.
fn cp15_survives(registers: &[Banked], mask: u32) -> Verdict {
    for (index, (name, read, write)) in registers.iter().enumerate() {
        let saved = read();
        write(pattern(index, 0xcafe_0000) & mask);
        let expected = read();
        psci::version();
        mmio::read8(uart::SCRATCH);
        sysreg::actlr::read();
        let seen = read();
        write(saved);
        check_eq!(name, seen, expected);
        check_eq!(name, expected, pattern(index, 0xcafe_0000) & mask);
    }
    Ok(())
}

fn thread_ids_survive() -> Verdict {
    use sysreg::{contextidr, tpidrprw, tpidruro, tpidrurw};
    cp15_survives(
        &[
            ("TPIDRURW", tpidrurw::read, tpidrurw::write),
            ("TPIDRURO", tpidruro::read, tpidruro::write),
            ("TPIDRPRW", tpidrprw::read, tpidrprw::write),
            ("CONTEXTIDR", contextidr::read, contextidr::write),
        ],
        u32::MAX,
    )
}

fn fault_registers_survive() -> Verdict {
    use sysreg::{dfar, dfsr, ifar, ifsr};
    cp15_survives(&[("DFAR", dfar::read, dfar::write), ("IFAR", ifar::read, ifar::write)], u32::MAX)?;
    cp15_survives(&[("DFSR", dfsr::read, dfsr::write), ("IFSR", ifsr::read, ifsr::write)], 0xf)
}

fn translation_registers_survive() -> Verdict {
    use sysreg::{csselr, dacr, nmrr, prrr, ttbr0, ttbr1};
    cp15_survives(&[("DACR", dacr::read, dacr::write)], u32::MAX)?;
    cp15_survives(&[("TTBR0", ttbr0::read, ttbr0::write), ("TTBR1", ttbr1::read, ttbr1::write)], 0xffff_c000)?;
    cp15_survives(&[("PRRR", prrr::read, prrr::write), ("NMRR", nmrr::read, nmrr::write)], 0x00ff_00ff)?;
    cp15_survives(&[("CSSELR", csselr::read, csselr::write)], 3)
}
