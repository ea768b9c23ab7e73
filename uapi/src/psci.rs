// SPDX-License-Identifier: GPL-2.0-only
//! PSCI and the SMC calling convention: function ids and return values that guest and hypervisor agree on.
//!
//! KVM speaks three dialects: 0.1 (ids of KVM's own, found in the device tree), 0.2 and 1.0 (ids of the standard).
//! A guest calls by HVC, the id in r0, arguments in r1 to r3, the result in r0.
//!
//! Source: Arm DEN 0022 (PSCI), DEN 0028 (SMCCC), and Documentation/virt/kvm/arm/psci.rst of Linux 5.6.

/// PSCI 0.1 as KVM numbers it: CPU_SUSPEND, not implemented.
pub const KVM_PSCI_FN_CPU_SUSPEND: u32 = 0x95c1_ba5e;
/// PSCI 0.1 as KVM numbers it: CPU_OFF.
pub const KVM_PSCI_FN_CPU_OFF: u32 = 0x95c1_ba5f;
/// PSCI 0.1 as KVM numbers it: CPU_ON.
pub const KVM_PSCI_FN_CPU_ON: u32 = 0x95c1_ba60;
/// PSCI 0.1 as KVM numbers it: MIGRATE, not implemented.
pub const KVM_PSCI_FN_MIGRATE: u32 = 0x95c1_ba61;

/// The version of the interface: major in bits 31:16, minor in 15:0.
pub const PSCI_VERSION: u32 = 0x8400_0000;
/// Waits for an interrupt: KVM makes it a WFI.
pub const CPU_SUSPEND: u32 = 0x8400_0001;
/// Powers the calling vCPU off.
pub const CPU_OFF: u32 = 0x8400_0002;
/// Powers a vCPU on: r1 its MPIDR affinity, r2 where it starts, r3 what it finds in r0.
pub const CPU_ON: u32 = 0x8400_0003;
/// Whether a vCPU, or any of a cluster, is on: r1 the affinity, r2 the lowest level that counts.
pub const AFFINITY_INFO: u32 = 0x8400_0004;
/// Moves a trusted OS: not supported.
pub const MIGRATE: u32 = 0x8400_0005;
/// Whether there is a trusted OS to move: 2, no.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// Ends the virtual machine.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// Restarts the virtual machine.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI 1.0: whether the function in r1 exists.
pub const PSCI_FEATURES: u32 = 0x8400_000a;

/// Version 0.1, as `KVM_REG_ARM_PSCI_VERSION` has it.
pub const VERSION_0_1: u32 = 0x0000_0001;
/// Version 0.2.
pub const VERSION_0_2: u32 = 0x0000_0002;
/// Version 1.0.
pub const VERSION_1_0: u32 = 0x0001_0000;

/// Done.
pub const SUCCESS: i32 = 0;
/// There is no such function.
pub const NOT_SUPPORTED: i32 = -1;
/// An argument makes no sense.
pub const INVALID_PARAMETERS: i32 = -2;
/// Not now, or not to you.
pub const DENIED: i32 = -3;
/// The vCPU is on.
pub const ALREADY_ON: i32 = -4;
/// The vCPU is about to be on.
pub const ON_PENDING: i32 = -5;
/// Something else went wrong.
pub const INTERNAL_FAILURE: i32 = -6;

/// Answer of [`AFFINITY_INFO`]: on.
pub const AFFINITY_ON: u32 = 0;
/// Answer of [`AFFINITY_INFO`]: off.
pub const AFFINITY_OFF: u32 = 1;
/// Answer of [`AFFINITY_INFO`]: about to be on.
pub const AFFINITY_ON_PENDING: u32 = 2;
/// Answer of [`MIGRATE_INFO_TYPE`]: there is no trusted OS, or it need not be moved.
pub const MIGRATE_NOT_REQUIRED: u32 = 2;

/// The version of the calling convention.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// Whether the architecture function in r1 exists.
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// Invalidates branch predictors (Spectre variant 2).
pub const SMCCC_ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// Switches speculative store bypass safety (Spectre variant 4).
pub const SMCCC_ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// Version 1.1 of the calling convention.
pub const SMCCC_VERSION_1_1: u32 = 0x0001_0001;
