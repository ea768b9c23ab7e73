// SPDX-License-Identifier: GPL-2.0-only
//! First light: hypercalls, a device access answered by the process and one answered by the kernel, and who the guest thinks it is.
#![no_std]
#![no_main]

use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, mmio, psci, sysreg, uart};

guest!(
    psci_version_is_1_0,
    unknown_functions_are_not_supported,
    psci_features_tells_the_truth,
    this_vcpu_is_on,
    the_process_answers_a_device,
    loads_are_extended_as_asked,
    the_kernel_answers_the_distributor,
    nobody_answers_with_zeros,
    midr_is_an_arm_core,
    mpidr_is_the_first_of_its_machine,
    no_virtualization_extensions_are_shown,
);

fn psci_version_is_1_0() -> Verdict {
    check_eq!("the version", psci::version(), uapi::psci::VERSION_1_0);
    Ok(())
}

fn unknown_functions_are_not_supported() -> Verdict {
    for function in [0, 0x8400_0040, 0x8600_0000, u32::MAX] {
        let answer = psci::call(function, [0; 3])[0] as i32;
        check!(answer == uapi::psci::NOT_SUPPORTED, "function {function:#x} answers {answer}");
    }
    Ok(())
}

fn psci_features_tells_the_truth() -> Verdict {
    for function in [uapi::psci::PSCI_VERSION, uapi::psci::CPU_ON, uapi::psci::SYSTEM_OFF, uapi::psci::PSCI_FEATURES] {
        check!(psci::features(function) >= 0, "function {function:#x} is said to be missing");
    }
    check_eq!("a function that there is not", psci::features(0x8400_0040), uapi::psci::NOT_SUPPORTED);
    Ok(())
}

fn this_vcpu_is_on() -> Verdict {
    let affinity = sysreg::mpidr::read() & 0x00ff_ffff;
    check_eq!("its own state", psci::affinity_info(affinity), 0);
    check_eq!("a stranger's state", psci::affinity_info(0x00ff_ff0e), uapi::psci::INVALID_PARAMETERS);
    Ok(())
}

fn the_process_answers_a_device() -> Verdict {
    for value in [0x00, 0x5a, 0xa5, 0xff] {
        mmio::write8(uart::SCRATCH, value);
        check_eq!("the scratch register", mmio::read8(uart::SCRATCH), u32::from(value));
    }
    Ok(())
}

fn loads_are_extended_as_asked() -> Verdict {
    mmio::write8(uart::SCRATCH, 0x80);
    check_eq!("a byte, signed", mmio::read8_signed(uart::SCRATCH), -128);
    check_eq!("a byte", mmio::read8(uart::SCRATCH), 0x80);
    Ok(())
}

fn the_kernel_answers_the_distributor() -> Verdict {
    let typer = mmio::read32(gic::GICD_TYPER);
    check_eq!("GICD_TYPER.ITLinesNumber", typer & 0x1f, 3); // 128 interrupts
    check_eq!("GICD_TYPER.SecurityExtn", typer >> 10 & 1, 0);
    let iidr = mmio::read32(gic::GICD_IIDR);
    check_eq!("the distributor's maker", iidr & 0xfff, 0x43b); // Arm
    check_eq!("GICD_ISENABLER0's SGIs", mmio::read32(gic::GICD_ISENABLER) & 0xffff, 0xffff);
    Ok(())
}

fn nobody_answers_with_zeros() -> Verdict {
    const HOLE: u32 = 0x3000_0000;
    mmio::write32(HOLE, u32::MAX);
    check_eq!("a word of nothing", mmio::read32(HOLE), 0);
    check_eq!("a halfword of nothing", mmio::read16(HOLE + 2), 0);
    check_eq!("a byte of nothing", mmio::read8(HOLE + 3), 0);
    Ok(())
}

fn midr_is_an_arm_core() -> Verdict {
    let midr = sysreg::midr::read();
    check!(midr >> 24 == 0x41 && midr >> 16 & 0xf == 0xf, "MIDR is {midr:#x}, not an ARMv7 core of Arm's");
    Ok(())
}

fn mpidr_is_the_first_of_its_machine() -> Verdict {
    let mpidr = sysreg::mpidr::read();
    check!(mpidr >> 31 == 1, "MPIDR is {mpidr:#x}: not in the multiprocessing format");
    check_eq!("MPIDR's affinity", mpidr & 0x00ff_ffff, 0);
    Ok(())
}

fn no_virtualization_extensions_are_shown() -> Verdict {
    // The register itself is the host's, as KVM/ARM left it; but Hyp mode must be out of reach.
    let before = sysreg::cpsr();
    check_eq!("the mode", before & 0x1f, 0x13);
    if sysreg::midr::read() >> 4 & 0xfff >= 0xd00 {
        // Armv8 does not ignore the attempt: it sets PSTATE.IL, and every instruction from then on is undefined.
        return Ok(());
    }
    // SAFETY: an attempt that the architecture ignores or makes an exception; CPSR is put back.
    unsafe { core::arch::asm!("msr cpsr_c, {}", "msr cpsr_c, {}", in(reg) 0xda, in(reg) before, options(nostack)) };
    check_eq!("CPSR after trying Hyp mode", sysreg::cpsr() & 0x1f, 0x13);
    Ok(())
}
