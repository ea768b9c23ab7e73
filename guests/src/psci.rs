// SPDX-License-Identifier: GPL-2.0-only
//! PSCI calls, by HVC.

use core::arch::asm;

/// Makes a hypercall: function and up to three arguments, four results.
pub fn call(function: u32, arguments: [u32; 3]) -> [u32; 4] {
    let mut result = [0; 4];
    // SAFETY: a hypercall changes r0 to r3 by its convention; CPU_ON and SYSTEM_OFF do to this guest what it asks for.
    unsafe {
        asm!(
            ".arch_extension virt",
            "hvc #0",
            inout("r0") function => result[0],
            inout("r1") arguments[0] => result[1],
            inout("r2") arguments[1] => result[2],
            inout("r3") arguments[2] => result[3],
            options(nostack),
        );
    }
    result
}

/// The version of PSCI: major in bits 31:16, minor in 15:0.
pub fn version() -> u32 {
    call(uapi::psci::PSCI_VERSION, [0; 3])[0]
}

/// Whether `function` exists: not negative if so.
pub fn features(function: u32) -> i32 {
    call(uapi::psci::PSCI_FEATURES, [function, 0, 0])[0] as i32
}

/// The power state of the vCPU with this affinity.
pub fn affinity_info(affinity: u32) -> i32 {
    call(uapi::psci::AFFINITY_INFO, [affinity, 0, 0])[0] as i32
}

/// Ends the machine.
pub fn system_off() -> ! {
    call(uapi::psci::SYSTEM_OFF, [0; 3]);
    crate::println!("SYSTEM_OFF came back");
    loop {
        crate::sysreg::wfi();
    }
}

/// Restarts the machine.
pub fn system_reset() -> ! {
    call(uapi::psci::SYSTEM_RESET, [0; 3]);
    crate::println!("SYSTEM_RESET came back");
    loop {
        crate::sysreg::wfi();
    }
}
