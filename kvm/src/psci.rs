// SPDX-License-Identifier: GPL-2.0-only
//! Firmware for guests: PSCI 0.1, 0.2 and 1.0, and the SMC calling convention's own functions.
//!
//! A guest calls by HVC with the function in r0 and arguments in r1 to r3; it finds the answer in r0. What needs nothing but
//! the caller is answered at once; what concerns other vCPUs or the VM comes out as a [`Call`] for the run loop, which then
//! gives its [`answer`]. Only 32-bit functions exist: for a caller in AArch32 the convention demands NOT_SUPPORTED of the rest.
//!
//! An SMC is no way to call: it is trapped, answered NOT_SUPPORTED and stepped over, never passed to the host's firmware.
//!
//! Source: Arm DEN 0022D (PSCI 1.1), Arm DEN 0028B (SMCCC 1.1), Documentation/virt/kvm/arm/psci.rst of Linux 5.6.

use crate::guest_registers;
use arch::condition::InstructionLength;
use hyp_abi::context::VcpuContext;
use uapi::psci as id;

/// The PSCI that a VM's guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1: four functions under ids of KVM's own. What a vCPU without the PSCI_0_2 feature gets.
    V0_1,
    /// 0.2.
    V0_2,
    /// 1.0: with PSCI_FEATURES. The latest, and so what a vCPU with the PSCI_0_2 feature gets unless the process chose another.
    V1_0,
}

impl Version {
    /// The version that a number of `KVM_REG_ARM_PSCI_VERSION` means. `None`: not one of the three.
    pub fn from_raw(raw: u64) -> Option<Self> {
        [Self::V0_1, Self::V0_2, Self::V1_0].into_iter().find(|version| u64::from(version.raw()) == raw)
    }

    /// Major version in \[31:16\], minor in \[15:0\]; 0.2 and 1.0 are what PSCI_VERSION returns.
    pub const fn raw(self) -> u32 {
        match self {
            Self::V0_1 => id::VERSION_0_1,
            Self::V0_2 => id::VERSION_0_2,
            Self::V1_0 => id::VERSION_1_0,
        }
    }
}

/// Whether the host hardens branch predictors for its guests on every exit (SMCCC_ARCH_WORKAROUND_1, Spectre variant 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchHardening {
    /// It does not know how to on this core.
    Unavailable,
    /// It does: a call of the workaround, like any exit, invalidates them.
    Available,
    /// The core needs none.
    NotRequired,
}

impl BranchHardening {
    /// The number that `KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1` has for it.
    pub const fn level(self) -> u64 {
        match self {
            Self::Unavailable => 0,
            Self::Available => 1,
            Self::NotRequired => 2,
        }
    }
}

/// Whether the core is safe from speculative store bypass (SMCCC_ARCH_WORKAROUND_2, Spectre variant 4). No 32-bit core has a
/// switch for it, so a guest can at most be told that it needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBypass {
    /// It is not known to be.
    Unknown,
    /// It is.
    NotRequired,
}

impl StoreBypass {
    /// The number that `KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2` has for it.
    pub const fn level(self) -> u64 {
        match self {
            Self::Unknown => 1,
            Self::NotRequired => 3,
        }
    }
}

/// What a guest's firmware is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// The PSCI that it speaks.
    pub version: Version,
    /// What it says about branch predictors.
    pub branch_hardening: BranchHardening,
    /// What it says about store bypass.
    pub store_bypass: StoreBypass,
}

/// How a vCPU is to start that CPU_ON named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOn {
    /// Where: bit 0 set means Thumb state.
    pub entry: u32,
    /// What it finds in r0.
    pub context_id: u32,
    /// The caller's data accesses are big-endian, so its are too.
    pub big_endian: bool,
}

/// Which bits of MPIDR name a CPU: Aff2, Aff1, Aff0.
pub const AFFINITY: u32 = 0x00ff_ffff;

/// What a call asks of the run loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing: the answer stands in the guest's registers.
    Answered,
    /// CPU_SUSPEND: do as for WFI. The answer stands in the guest's registers, to be found upon wake-up.
    Suspend,
    /// CPU_OFF: the calling vCPU stops until another powers it on.
    CpuOff,
    /// CPU_ON: power a vCPU on, then [`answer`] with what [`cpu_on_answer`] says.
    CpuOn {
        /// The affinity of the vCPU, in the bits of [`AFFINITY`].
        target: u32,
        /// How it starts.
        start: PowerOn,
    },
    /// AFFINITY_INFO: [`answer`] with what [`AffinityQuery::answer`] says.
    AffinityInfo(AffinityQuery),
    /// SYSTEM_OFF: `KVM_EXIT_SYSTEM_EVENT` with SHUTDOWN. Should the process run the vCPU again, the guest finds
    /// INTERNAL_FAILURE.
    SystemOff,
    /// SYSTEM_RESET: `KVM_EXIT_SYSTEM_EVENT` with RESET, otherwise as [`Self::SystemOff`].
    SystemReset,
}

/// Which vCPUs AFFINITY_INFO asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityQuery {
    affinity: u32,
    mask: u32,
}

impl AffinityQuery {
    /// The answer, from the MPIDR of every vCPU and whether it is on: on if one that matches is on, off if all are off,
    /// INVALID_PARAMETERS if none matches.
    pub fn answer(self, vcpus: impl IntoIterator<Item = (u32, bool)>) -> u32 {
        let mut found = false;
        for (mpidr, on) in vcpus {
            if mpidr & self.mask == self.affinity {
                if on {
                    return id::AFFINITY_ON;
                }
                found = true;
            }
        }
        if found { id::AFFINITY_OFF } else { id::INVALID_PARAMETERS as u32 }
    }
}

/// The answer to CPU_ON when the target is on (`Some(true)`), was off and now starts (`Some(false)`) or does not exist.
pub fn cpu_on_answer(version: Version, target_is_on: Option<bool>) -> u32 {
    let code = match (target_is_on, version) {
        (Some(false), _) => id::SUCCESS,
        // 0.1 had no word for it.
        (Some(true), Version::V0_2 | Version::V1_0) => id::ALREADY_ON,
        (Some(true), Version::V0_1) | (None, _) => id::INVALID_PARAMETERS,
    };
    code as u32
}

/// Puts an answer where the guest looks: r0, and zeros in r1 to r3, which the convention lets a call change.
pub fn answer(context: &mut VcpuContext, value: u32) {
    let [r0, r1, r2, r3, ..] = &mut context.r;
    (*r0, *r1, *r2, *r3) = (value, 0, 0, 0);
}

/// Answers a trapped SMC: NOT_SUPPORTED, and on with the next instruction.
pub fn refuse_smc(context: &mut VcpuContext) {
    let [r0, ..] = &mut context.r;
    *r0 = id::NOT_SUPPORTED as u32;
    // Unlike HVC's, a trapped SMC's return address is the SMC itself. It has no 16-bit form.
    guest_registers::skip_instruction(context, InstructionLength::Word);
}

/// Whether a function only asks: [`hypercall`] answers it and changes nothing.
pub const fn only_asks(function: u32) -> bool {
    matches!(
        function,
        id::SMCCC_VERSION
            | id::SMCCC_ARCH_FEATURES
            | id::SMCCC_ARCH_WORKAROUND_1
            | id::PSCI_VERSION
            | id::PSCI_FEATURES
            | id::MIGRATE_INFO_TYPE
    )
}

/// The answer to a function that [`only_asks`] and looks at no argument.
pub fn constant_answer(function: u32, firmware: &Firmware) -> u32 {
    let mut asking = VcpuContext { r: [function, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..Default::default() };
    let _ = hypercall(&mut asking, firmware);
    let [answer, ..] = asking.r;
    answer
}

/// Carries out the call that a guest made by HVC, PC being behind it already.
pub fn hypercall(context: &mut VcpuContext, firmware: &Firmware) -> Call {
    let [function, ..] = context.r;
    let result = match function {
        id::SMCCC_VERSION => Ok(id::SMCCC_VERSION_1_1),
        id::SMCCC_ARCH_FEATURES => Ok(architecture_feature(context.r[1], firmware)),
        id::SMCCC_ARCH_WORKAROUND_1 => Ok(match firmware.branch_hardening {
            BranchHardening::Unavailable => id::NOT_SUPPORTED as u32,
            // Done on the way in.
            BranchHardening::Available | BranchHardening::NotRequired => id::SUCCESS as u32,
        }),
        _ if firmware.version == Version::V0_1 => call_0_1(context),
        id::PSCI_FEATURES if firmware.version == Version::V1_0 => Ok(psci_feature(context.r[1])),
        _ => call_0_2(context, firmware.version),
    };
    match result {
        Ok(value) => {
            answer(context, value);
            Call::Answered
        }
        Err(call) => {
            match call {
                Call::Suspend | Call::CpuOff => answer(context, id::SUCCESS as u32),
                Call::SystemOff | Call::SystemReset => answer(context, id::INTERNAL_FAILURE as u32),
                Call::Answered | Call::CpuOn { .. } | Call::AffinityInfo(_) => {}
            }
            call
        }
    }
}

/// PSCI 0.1: an answer, or what the run loop has to do first.
fn call_0_1(context: &VcpuContext) -> Result<u32, Call> {
    match context.r[0] {
        id::KVM_PSCI_FN_CPU_OFF => Err(Call::CpuOff),
        id::KVM_PSCI_FN_CPU_ON => cpu_on(context),
        _ => Ok(id::NOT_SUPPORTED as u32),
    }
}

/// PSCI from 0.2 on: an answer, or what the run loop has to do first.
fn call_0_2(context: &VcpuContext, version: Version) -> Result<u32, Call> {
    let [function, first, second, ..] = context.r;
    match function {
        id::PSCI_VERSION => Ok(version.raw()),
        id::CPU_SUSPEND => Err(Call::Suspend),
        id::CPU_OFF => Err(Call::CpuOff),
        id::CPU_ON => cpu_on(context),
        id::AFFINITY_INFO => match affinity_mask(second) {
            Some(mask) if is_affinity(first) => Err(Call::AffinityInfo(AffinityQuery { affinity: first & mask, mask })),
            _ => Ok(id::INVALID_PARAMETERS as u32),
        },
        id::MIGRATE_INFO_TYPE => Ok(id::MIGRATE_NOT_REQUIRED),
        id::SYSTEM_OFF => Err(Call::SystemOff),
        id::SYSTEM_RESET => Err(Call::SystemReset),
        _ => Ok(id::NOT_SUPPORTED as u32),
    }
}

/// CPU_ON, which all versions pass the same arguments: an answer, or what the run loop has to do first.
fn cpu_on(context: &VcpuContext) -> Result<u32, Call> {
    let [_, target, entry, context_id, ..] = context.r;
    if !is_affinity(target) {
        return Ok(id::INVALID_PARAMETERS as u32);
    }
    let big_endian = guest_registers::is_big_endian(context);
    Err(Call::CpuOn { target, start: PowerOn { entry, context_id, big_endian } })
}

/// Whether a guest's argument is an MPIDR without its other bits, which are reserved here and zero (ARM DEN 0022, 5.1.4).
fn is_affinity(argument: u32) -> bool {
    argument & !AFFINITY == 0
}

/// The bits of MPIDR that count for AFFINITY_INFO at `level`: 0 a CPU, 1 a cluster, 2 a cluster of clusters. `None`: AArch32
/// has no such level.
fn affinity_mask(level: u32) -> Option<u32> {
    (level <= 2).then(|| AFFINITY & u32::MAX << (8 * level))
}

/// PSCI_FEATURES: 0 (no feature flags) for each function that exists.
fn psci_feature(function: u32) -> u32 {
    let code = match function {
        id::PSCI_VERSION
        | id::CPU_SUSPEND
        | id::CPU_OFF
        | id::CPU_ON
        | id::AFFINITY_INFO
        | id::MIGRATE_INFO_TYPE
        | id::SYSTEM_OFF
        | id::SYSTEM_RESET
        | id::PSCI_FEATURES
        | id::SMCCC_VERSION => id::SUCCESS,
        _ => id::NOT_SUPPORTED,
    };
    code as u32
}

/// NOT_REQUIRED of the calling convention: the core needs no such workaround.
const SMCCC_NOT_REQUIRED: i32 = -2;

/// SMCCC_ARCH_FEATURES.
fn architecture_feature(function: u32, firmware: &Firmware) -> u32 {
    let code = match function {
        id::SMCCC_ARCH_WORKAROUND_1 => match firmware.branch_hardening {
            BranchHardening::Unavailable => id::NOT_SUPPORTED,
            BranchHardening::Available => id::SUCCESS,
            BranchHardening::NotRequired => SMCCC_NOT_REQUIRED,
        },
        id::SMCCC_ARCH_WORKAROUND_2 => match firmware.store_bypass {
            StoreBypass::Unknown => id::NOT_SUPPORTED,
            StoreBypass::NotRequired => SMCCC_NOT_REQUIRED,
        },
        _ => id::NOT_SUPPORTED,
    };
    code as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::psr::{Mode, Psr};
    use proptest::prelude::*;

    const NOT_SUPPORTED: u32 = id::NOT_SUPPORTED as u32;

    fn firmware(version: Version) -> Firmware {
        Firmware { version, branch_hardening: BranchHardening::Available, store_bypass: StoreBypass::Unknown }
    }

    /// Calls with these registers; what came out, and r0 if it was answered.
    fn call(firmware: &Firmware, arguments: [u32; 4]) -> (Call, u32) {
        let mut context = VcpuContext { cpsr: Mode::Svc as u32, pc: 0x8004, ..Default::default() };
        context.r[..4].copy_from_slice(&arguments);
        let call = hypercall(&mut context, firmware);
        assert_eq!(context.pc, 0x8004, "HVC returns behind itself");
        (call, context.r[0])
    }

    /// What each function does under 0.1, 0.2 and 1.0; a number is an answer, `None` means that it is work for the run loop.
    #[test]
    fn each_version_has_its_functions() {
        let no = Some(NOT_SUPPORTED);
        let table: [(u32, [Option<u32>; 3]); 20] = [
            (id::KVM_PSCI_FN_CPU_SUSPEND, [no, no, no]),
            (id::KVM_PSCI_FN_CPU_OFF, [None, no, no]),
            (id::KVM_PSCI_FN_CPU_ON, [None, no, no]),
            (id::KVM_PSCI_FN_MIGRATE, [no, no, no]),
            (id::PSCI_VERSION, [no, Some(2), Some(0x1_0000)]),
            (id::CPU_SUSPEND, [no, None, None]),
            (id::CPU_OFF, [no, None, None]),
            (id::CPU_ON, [no, None, None]),
            (id::AFFINITY_INFO, [no, None, None]),
            (id::MIGRATE, [no, no, no]),
            (id::MIGRATE_INFO_TYPE, [no, Some(2), Some(2)]),
            (id::SYSTEM_OFF, [no, None, None]),
            (id::SYSTEM_RESET, [no, None, None]),
            (id::PSCI_FEATURES, [no, no, no]), // of function 0, that is
            (id::SMCCC_VERSION, [Some(0x1_0001); 3]),
            (id::SMCCC_ARCH_FEATURES, [no, no, no]), // of function 0
            (id::SMCCC_ARCH_WORKAROUND_1, [Some(0); 3]),
            (id::SMCCC_ARCH_WORKAROUND_2, [no, no, no]),
            (0xc400_0003, [no, no, no]), // CPU_ON for 64-bit callers
            (0, [no, no, no]),
        ];
        for (function, results) in table {
            for (version, result) in [Version::V0_1, Version::V0_2, Version::V1_0].into_iter().zip(results) {
                let (call, r0) = call(&firmware(version), [function, 0, 0, 0]);
                let answered = (call == Call::Answered).then_some(r0);
                assert!(answered.is_some() || !only_asks(function), "{function:#x}");
                assert_eq!(answered, result, "function {function:#x} under {version:?}");
            }
        }
    }

    #[test]
    fn features_are_those_that_answer() {
        let v1 = firmware(Version::V1_0);
        for function in (0x8400_0000..0x8400_0020).chain([id::SMCCC_VERSION, id::SMCCC_ARCH_FEATURES, 0xc400_0003, 0]) {
            let exists = call(&v1, [function, 0, 0, 0]) != (Call::Answered, NOT_SUPPORTED);
            let expected = if exists || function == id::PSCI_FEATURES { 0 } else { NOT_SUPPORTED };
            assert_eq!(call(&v1, [id::PSCI_FEATURES, function, 0, 0]), (Call::Answered, expected), "{function:#x}");
        }
        let workarounds = |branch_hardening, store_bypass| {
            let firmware = Firmware { version: Version::V1_0, branch_hardening, store_bypass };
            [id::SMCCC_ARCH_WORKAROUND_1, id::SMCCC_ARCH_WORKAROUND_2]
                .map(|function| call(&firmware, [id::SMCCC_ARCH_FEATURES, function, 0, 0]).1 as i32)
        };
        assert_eq!(workarounds(BranchHardening::Unavailable, StoreBypass::Unknown), [-1, -1]);
        assert_eq!(workarounds(BranchHardening::Available, StoreBypass::Unknown), [0, -1]);
        assert_eq!(workarounds(BranchHardening::NotRequired, StoreBypass::NotRequired), [-2, -2]);
    }

    #[test]
    fn cpu_on_takes_the_callers_byte_order_and_three_arguments() {
        for status in [Psr::in_mode(Mode::Svc), Psr::in_mode(Mode::Svc) | Psr::E] {
            let mut context = VcpuContext { cpsr: status.bits(), ..Default::default() };
            context.r[..4].copy_from_slice(&[id::CPU_ON, 0x102, 0x4000_8001, 7]);
            let start = PowerOn { entry: 0x4000_8001, context_id: 7, big_endian: status.contains(Psr::E) };
            assert_eq!(hypercall(&mut context, &firmware(Version::V0_2)), Call::CpuOn { target: 0x102, start });
        }
        for version in [Version::V0_1, Version::V1_0] {
            let function = if version == Version::V0_1 { id::KVM_PSCI_FN_CPU_ON } else { id::CPU_ON };
            for reserved in [1 << 24, 1 << 31, 0x8000_0102] {
                let answer = call(&firmware(version), [function, reserved, 0, 0]);
                assert_eq!(answer, (Call::Answered, id::INVALID_PARAMETERS as u32), "{reserved:#x}");
            }
        }
        assert_eq!(cpu_on_answer(Version::V1_0, Some(false)) as i32, id::SUCCESS);
        assert_eq!(cpu_on_answer(Version::V0_2, Some(true)) as i32, id::ALREADY_ON);
        assert_eq!(cpu_on_answer(Version::V0_1, Some(true)) as i32, id::INVALID_PARAMETERS);
        assert_eq!(cpu_on_answer(Version::V1_0, None) as i32, id::INVALID_PARAMETERS);
    }

    #[test]
    fn affinity_info_by_level() {
        // Two clusters; only the second CPU of the first is on.
        let vcpus = [(0x8000_0000, false), (0x8000_0001, true), (0x8000_0100, false)];
        let ask = |affinity, level| match call(&firmware(Version::V1_0), [id::AFFINITY_INFO, affinity, level, 0]) {
            (Call::AffinityInfo(query), _) => query.answer(vcpus) as i32,
            (Call::Answered, answer) => answer as i32,
            other => panic!("{other:?}"),
        };
        assert_eq!([ask(0, 0), ask(1, 0), ask(0x100, 0), ask(2, 0)], [1, 0, 1, -2]);
        assert_eq!([ask(0x55, 1), ask(0x155, 1), ask(0x255, 1)], [0, 1, -2]);
        assert_eq!([ask(0x5555, 2), ask(0x1_0000, 2)], [0, -2]);
        assert_eq!([ask(0, 3), ask(0, u32::MAX)], [-2, -2]);
        assert_eq!([ask(1 << 24, 0), ask(1 << 31 | 1, 0)], [-2, -2], "reserved bits");
    }

    #[test]
    fn an_smc_is_refused_and_passed() {
        let mut context = VcpuContext { pc: 0x1000, cpsr: Mode::Svc as u32, ..Default::default() };
        context.r[0] = id::PSCI_VERSION;
        refuse_smc(&mut context);
        assert_eq!((context.r[0], context.pc), (NOT_SUPPORTED, 0x1004));
    }

    #[test]
    fn versions_have_the_numbers_of_the_firmware_register() {
        assert_eq!(
            [1, 2, 0x1_0000].map(Version::from_raw),
            [Some(Version::V0_1), Some(Version::V0_2), Some(Version::V1_0)]
        );
        assert_eq!([0, 3, 0x1_0001, 1 << 32 | 1].map(Version::from_raw), [None; 4]);
    }

    proptest! {
        #[test]
        fn a_call_touches_only_what_the_convention_lets_it(
            function in prop_oneof![any::<u32>(), 0x8400_0000..0x8400_0010u32, 0x95c1_ba5e..0x95c1_ba62u32],
            arguments: [u32; 3], version in prop_oneof![Just(Version::V0_1), Just(Version::V0_2), Just(Version::V1_0)],
        ) {
            let mut context = VcpuContext { cpsr: Mode::Svc as u32, ..Default::default() };
            context.r = core::array::from_fn(|index| 0x5000 + index as u32);
            context.r[0] = function;
            context.r[1..4].copy_from_slice(&arguments);
            let before = context;
            hypercall(&mut context, &firmware(version));
            context.r[..4].copy_from_slice(&before.r[..4]);
            prop_assert!(context == before);
        }
    }
}
