// SPDX-License-Identifier: GPL-2.0-only
//! What a client of KVM/ARM saw, and what it could not do.

use super::*;
use crate::cp15::VfpIds;
use crate::psci::{BranchHardening, StoreBypass};
use crate::reset;
use arch::hyp_registers::Hcr;
use proptest::prelude::*;
use std::vec::Vec;

/// KVM_GET_REG_LIST and KVM_GET_ONE_REG of each, on KVM/ARM of Linux 5.4 in a VM with one vCPU on a Cortex-A15, after
/// KVM_ARM_VCPU_INIT without features but PSCI_0_2.
const ORIGINAL: &str = include_str!("original.txt");

fn original() -> Vec<(u64, u64)> {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let pair = |line: &'static str| line.split_once(' ').map(|(id, value)| (number(id), number(value)));
    ORIGINAL.lines().map(|line| pair(line).unwrap()).collect()
}

/// The core on which that was: QEMU's Cortex-A15.
pub fn cortex_a15() -> IdRegisters {
    let mut ccsidr = [0; id_registers::CACHES];
    ccsidr[..3].copy_from_slice(&[0x701f_e00a, 0x201f_e00a, 0x711f_e07a]);
    IdRegisters {
        midr: 0x414f_c0f0,
        ctr: 0x8444_c004,
        tcmtr: 0,
        tlbtr: 0,
        revidr: 0x414f_c0f0,
        id_pfr: [0x1131, 0x1_1001],
        id_dfr0: 0x0200_0505,
        id_afr0: 0,
        id_mmfr: [0x1020_1105, 0x2000_0000, 0x0124_0000, 0x0210_2211],
        id_isar: [0x0210_1110, 0x1311_2111, 0x2123_2041, 0x1111_2131, 0x1001_1142, 0],
        clidr: 0x0a20_0023,
        aidr: 0,
        ccsidr,
        vfp: Some(VfpIds { fpsid: 0x4104_30f0, mvfr0: 0x1011_0222, mvfr1: 0x1111_1111 }),
        mpidr: 0x8000_0003,
        actlr: 0x40,
        l2ctlr: 0x0380_0000,
    }
}

const FIRMWARE: Firmware = Firmware {
    version: Version::V1_0,
    branch_hardening: BranchHardening::Unavailable,
    store_bypass: StoreBypass::Unknown,
};

struct Vcpu {
    context: VcpuContext,
    orig_r0: u32,
    id: IdRegisters,
    firmware: Firmware,
    psci_0_2: bool,
    now: u64,
}

impl Vcpu {
    fn new(id: IdRegisters) -> Self {
        let mut vcpu =
            Self { context: VcpuContext::default(), orig_r0: 0, id, firmware: FIRMWARE, psci_0_2: true, now: 0x85f46 };
        reset::reset(&mut vcpu.registers(), &id, reset::Place { vcpu: 0, vcpus: 1 });
        vcpu
    }

    fn registers(&mut self) -> Registers<'_> {
        let Self { context, orig_r0, .. } = self;
        Registers { context, orig_r0 }
    }

    fn get(&mut self, id: u64) -> Result<u64, Error> {
        let (ids, firmware) = (self.id, self.firmware);
        let around = Surroundings { id: &ids, firmware: &firmware, psci_0_2: self.psci_0_2, now: self.now };
        find(id, &ids).and_then(|register| get(&mut self.registers(), &around, register))
    }

    fn set(&mut self, id: u64, value: u64) -> Result<Effect, Error> {
        let (ids, firmware) = (self.id, self.firmware);
        let around = Surroundings { id: &ids, firmware: &firmware, psci_0_2: self.psci_0_2, now: self.now };
        find(id, &ids).and_then(|register| set(&mut self.registers(), &around, register, value))
    }
}

#[test]
fn a_client_sees_the_registers_and_reset_values_of_the_original() {
    let original = original();
    assert_eq!(original.len(), 136);
    let ids: Vec<u64> = list(&cortex_a15()).collect();
    assert_eq!(ids, original.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    let mut vcpu = Vcpu::new(cortex_a15());
    for (id, value) in original {
        assert_eq!(vcpu.get(id), Ok(value), "register {id:x}");
        assert_eq!(find(id, &vcpu.id).unwrap().size(), if id >> 52 & 15 == 3 { 8 } else { 4 });
    }
}

#[test]
fn a_saved_vcpu_is_restored_into_another() {
    let mut old = Vcpu::new(cortex_a15());
    old.context.cpsr = Mode::Sys as u32;
    // Whatever is writable gets a value of its own; TTBR0 and TTBR1 twice, their low words last.
    let ids: Vec<u64> = list(&old.id).collect();
    for (index, id) in ids.iter().enumerate() {
        let _ = old.set(*id, 0x0101_0101_0101_0101 * index as u64);
    }
    let saved: Vec<u64> = ids.iter().map(|id| old.get(*id).unwrap()).collect();
    let mut new = Vcpu::new(cortex_a15());
    new.now = 0x1234_5678_9abc;
    for (id, value) in ids.iter().zip(&saved) {
        assert!(new.set(*id, *value).is_ok(), "{id:x}");
    }
    for (id, value) in ids.iter().zip(&saved) {
        assert_eq!(new.get(*id), Ok(*value), "{id:x}");
    }
    assert_eq!(
        (old.context.banks, old.context.cp15, old.context.vfp),
        (new.context.banks, new.context.cp15, new.context.vfp)
    );
}

#[test]
fn core_registers_are_all_different() {
    let mut vcpu = Vcpu::new(cortex_a15());
    let value = |index: u16| {
        if index == core_index::CPSR { 0x1f } else { 0x100 + u64::from(index) }
    };
    for index in 0..core_index::COUNT {
        assert_eq!(vcpu.set(uapi::core_reg(index), value(index)), Ok(Effect::None));
    }
    for index in 0..core_index::COUNT {
        assert_eq!(vcpu.get(uapi::core_reg(index)), Ok(value(index)), "{index}");
    }
    let VcpuContext { r, pc, banks, .. } = vcpu.context;
    assert_eq!((r[0], r[12], banks.sp_usr, r[13], pc), (0x100, 0x10c, 0x10d, 0x10e, 0x10f));
    assert_eq!((banks.svc.sp, banks.abt.lr, banks.und.spsr, banks.irq.sp), (0x112, 0x116, 0x11a, 0x11b));
    assert_eq!(
        (banks.fiq_r, banks.fiq.sp, banks.fiq.lr, banks.fiq.spsr),
        ([0x11e, 0x11f, 0x120, 0x121, 0x122], 0x123, 0x124, 0x125)
    );
}

#[test]
fn no_process_gets_a_vcpu_into_hyp_or_monitor_mode() {
    let mut vcpu = Vcpu::new(cortex_a15());
    let cpsr = uapi::core_reg(core_index::CPSR);
    let accepted: Vec<u64> = (0..32).filter(|mode| vcpu.set(cpsr, *mode).is_ok()).collect();
    assert_eq!(accepted, [0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f]);
    assert_eq!(vcpu.set(cpsr, 0x0100_0013), Err(Error::Invalid), "Jazelle state");
    assert_eq!(vcpu.set(cpsr, 0x0100_0033), Ok(Effect::None), "ThumbEE state");
    vcpu.set(cpsr, 0x0100_001a).unwrap_err();
    assert_eq!(vcpu.get(cpsr), Ok(0x0100_0033), "a refused value changes nothing");
}

#[test]
fn identification_takes_only_what_it_holds() {
    let mut vcpu = Vcpu::new(cortex_a15());
    let vfp = [uapi::KVM_REG_ARM_VFP_FPSID, uapi::KVM_REG_ARM_VFP_MVFR0, uapi::KVM_REG_ARM_VFP_MVFR1];
    let invariant = id_registers::TABLE.iter().map(|(name, _)| name.id());
    for id in invariant.chain(vfp).chain((0..3).map(uapi::ccsidr)) {
        let value = vcpu.get(id).unwrap();
        assert_eq!(vcpu.set(id, value), Ok(Effect::None), "{id:x}");
        assert_eq!(vcpu.set(id, value ^ 1), Err(Error::Invalid), "{id:x}");
    }
}

#[test]
fn strangers_are_not_found() {
    let mut vcpu = Vcpu::new(cortex_a15());
    for id in [
        uapi::cp15_32(0, 0, 0, 4),    // an alias of MIDR
        uapi::cp15_32(0, 7, 14, 2),   // DCCISW traps, and holds nothing
        uapi::cp15_32(0, 9, 12, 0),   // PMCR
        uapi::KVM_REG_ARM_PTIMER_CTL, // Linux 5.6 did not show it either
        uapi::KVM_REG_ARM_PTIMER_CVAL,
        uapi::CP15_MPIDR | 1 << 6, // opc1 8 to 15 is for MRRC
        uapi::ccsidr(3),           // level 2 is unified
        uapi::ccsidr(4),
        uapi::ccsidr(255),
        uapi::KVM_REG_ARM_PSCI_VERSION + 3,
        uapi::core_reg(core_index::COUNT),
    ] {
        assert_eq!(vcpu.get(id), Err(Error::NotFound), "{id:x}");
        assert_eq!(vcpu.set(id, 0), Err(Error::NotFound), "{id:x}");
    }
    assert_eq!(vcpu.get(0x6030_0000_0010_0000), Err(Error::Invalid), "64-bit Arm");

    let narrow = VfpIds { mvfr0: 0x1011_0221, ..cortex_a15().vfp.unwrap() };
    let mut sixteen = Vcpu::new(IdRegisters { vfp: Some(narrow), ..cortex_a15() });
    assert_eq!((sixteen.get(uapi::vfp_double(15)), sixteen.get(uapi::vfp_double(16))), (Ok(0), Err(Error::NotFound)));
    assert_eq!(list(&sixteen.id).count(), 120);
    let mut none = Vcpu::new(IdRegisters { vfp: None, ..cortex_a15() });
    assert_eq!(none.get(uapi::KVM_REG_ARM_VFP_FPSCR), Err(Error::NotFound));
    assert_eq!((list(&none.id).count(), none.context.control.vfp), (97, 0));
}

#[test]
fn the_virtual_count_is_set_by_its_offset() {
    let mut vcpu = Vcpu::new(cortex_a15());
    vcpu.now = 1_000;
    assert_eq!(vcpu.set(uapi::KVM_REG_ARM_TIMER_CNT, 400), Ok(Effect::CounterOffset(600)));
    assert_eq!(vcpu.set(uapi::KVM_REG_ARM_TIMER_CVAL, 450), Ok(Effect::VirtualTimer));
    assert_eq!(vcpu.set(uapi::KVM_REG_ARM_TIMER_CTL, 0xffff_ffff), Ok(Effect::VirtualTimer));
    for (now, count, control) in [(1_049, 449, 3), (1_050, 450, 7)] {
        vcpu.now = now;
        assert_eq!(
            (vcpu.get(uapi::KVM_REG_ARM_TIMER_CNT), vcpu.get(uapi::KVM_REG_ARM_TIMER_CTL)),
            (Ok(count), Ok(control))
        );
    }
    assert_eq!(vcpu.context.timer.ctl, 3);
}

#[test]
fn psci_versions_follow_the_feature() {
    let mut vcpu = Vcpu::new(cortex_a15());
    let id = uapi::KVM_REG_ARM_PSCI_VERSION;
    for (feature, raw, expected) in [
        (true, 0x1_0000, Ok(Effect::PsciVersion(Version::V1_0))),
        (true, 2, Ok(Effect::PsciVersion(Version::V0_2))),
        (true, 1, Err(Error::Invalid)),
        (true, 0x1_0001, Err(Error::Invalid)),
        (false, 1, Ok(Effect::PsciVersion(Version::V0_1))),
        (false, 2, Err(Error::Invalid)),
    ] {
        vcpu.psci_0_2 = feature;
        assert_eq!(vcpu.set(id, raw), expected, "{raw:#x} {feature}");
    }
    assert_eq!(vcpu.get(id), Ok(uapi::psci::VERSION_0_1.into()), "without the feature, whatever the VM has");
    vcpu.psci_0_2 = true;
    assert_eq!(vcpu.get(id), Ok(uapi::psci::VERSION_1_0.into()));
    vcpu.firmware.branch_hardening = BranchHardening::Available;
    let levels = [0, 1, 2].map(|level| vcpu.set(uapi::KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1, level).is_ok());
    assert_eq!(levels, [true, true, false]);
    let levels = [0, 1, 2, 3, 1 << 4].map(|level| vcpu.set(uapi::KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2, level).is_ok());
    assert_eq!(levels, [true, true, false, false, false]);
    // One that needs nothing takes over a guest that had the workaround in use.
    vcpu.firmware.store_bypass = StoreBypass::NotRequired;
    let levels = [3, 0x12, 4, 1 << 4, 0x11, 0x13]
        .map(|level| vcpu.set(uapi::KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2, level).is_ok());
    assert_eq!(levels, [true, true, false, false, false, false]);
}

#[test]
fn a_restored_guest_with_caches_on_is_not_trapped() {
    let mut vcpu = Vcpu::new(cortex_a15());
    let sctlr = uapi::cp15_32(0, 1, 0, 0);
    let trapped = |vcpu: &Vcpu| vcpu.context.control.hcr & Hcr::TVM.bits() != 0;
    assert!(trapped(&vcpu));
    for (value, expected) in [(0x00c5_0079, true), (0x00c5_007d, false), (0x00c5_007c, true)] {
        assert_eq!(vcpu.set(sctlr, value), Ok(Effect::None));
        assert_eq!(trapped(&vcpu), expected, "{value:#x}");
    }
}

proptest! {
    #[test]
    fn any_id_is_refused_or_reads_back(
        high in prop_oneof![Just(0x4020_0000u64), Just(0x4030_0000), any::<u32>().prop_map(u64::from)],
        coprocessor in prop_oneof![0..0x18u64, 0..0x1_0000u64], low: u16, value: u64,
    ) {
        let mut vcpu = Vcpu::new(cortex_a15());
        let id = high << 32 | coprocessor << 16 | u64::from(low);
        let listed = list(&vcpu.id).any(|known| known == id);
        let before = vcpu.context;
        prop_assert_eq!(vcpu.get(id).is_ok(), listed);
        match vcpu.set(id, value) {
            Ok(Effect::None) => {
                let width = 64 - 8 * find(id, &vcpu.id).unwrap().size() as u32;
                let firmware = id >> 16 & 0xfff == 0x14;
                prop_assert!(firmware || vcpu.get(id) == Ok(value << width >> width));
            }
            Ok(_) => {}
            Err(_) => prop_assert!(vcpu.context == before),
        }
    }

    #[test]
    fn any_clidr_lists_only_caches_that_it_has(clidr: u32) {
        let id = IdRegisters { clidr, ..cortex_a15() };
        for csselr in 0..=255 {
            prop_assert_eq!(id.cache_size(csselr).is_some(), find(uapi::ccsidr(csselr), &id).is_ok());
        }
        let levels = (0..7).take_while(|level| clidr >> (3 * level) & 7 != 0 && clidr >> (3 * level) & 7 < 5).count();
        prop_assert!((2 * levels as u8..=255).all(|csselr| !id.has_cache(csselr)));
    }
}
