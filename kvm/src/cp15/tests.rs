// SPDX-License-Identifier: GPL-2.0-only
//! Every row of the table as a guest meets it, from PL1 and from User mode.

use super::registers::{Access, TABLE};
use super::trap::{self, Outcome};
use super::*;
use crate::guest_registers;
use crate::reset;
use arch::condition::InstructionLength;
use arch::cp15::{dbg, reg, wide};
use arch::hyp_registers::Hcr;
use arch::psr::{Mode, Psr};
use arch::syndrome::{RegisterAccess, Trap, WideRegisterAccess};
use hyp_abi::context::VcpuContext;
use proptest::prelude::*;
use std::collections::HashSet;
use std::vec::Vec;

const PC: u32 = 0x8000;
const NOW: u64 = 1_000;

struct Vcpu {
    context: VcpuContext,
    orig_r0: u32,
}

impl Vcpu {
    fn new(mode: Mode) -> Self {
        let mut vcpu = Self { context: VcpuContext::default(), orig_r0: 0 };
        let id =
            IdRegisters { midr: 0x412f_c0f0, mpidr: 0x8000_0000, l2ctlr: 0x0080_0000, actlr: 1, ..Default::default() };
        vcpu.reset(&id, reset::Place { vcpu: 0, vcpus: 2 });
        vcpu.context.cpsr = mode as u32;
        vcpu.context.pc = PC;
        vcpu
    }

    fn registers(&mut self) -> Registers<'_> {
        let Self { context, orig_r0 } = self;
        Registers { context, orig_r0 }
    }

    fn reset(&mut self, id: &IdRegisters, place: reset::Place) {
        reset::reset(&mut self.registers(), id, place);
    }

    /// Runs what a syndrome says.
    fn trap(&mut self, hsr: u32) -> Outcome {
        let length = InstructionLength::from_hsr(hsr);
        match Trap::from_hsr(hsr) {
            Some(Trap::Cp15(access)) => trap::cp15(&mut self.registers(), &access, length, || NOW),
            Some(Trap::Cp15Wide(access)) => trap::cp15_wide(&mut self.registers(), &access, length, || NOW),
            other => panic!("{other:?}"),
        }
    }

    /// MRC or MRRC to r4 (and r5).
    fn read(&mut self, name: Name) -> (Outcome, u64) {
        let outcome = self.trap(hsr(name, false));
        (outcome, u64::from(self.context.r[5]) << 32 | u64::from(self.context.r[4]))
    }

    /// MCR or MCRR from r4 (and r5).
    fn write(&mut self, name: Name, value: u64) -> Outcome {
        (self.context.r[4], self.context.r[5]) = (value as u32, (value >> 32) as u32);
        self.trap(hsr(name, true))
    }

    fn hcr(&self) -> Hcr {
        Hcr::from_bits_retain(self.context.control.hcr)
    }
}

/// The syndrome of an unconditional access with r4 and r5.
fn hsr(name: Name, write: bool) -> u32 {
    let always = 1 << 25 | 1 << 24 | 0xe << 20 | u32::from(!write);
    match name {
        Name::Word(Cp15 { crn, opc1, crm, opc2 }) => {
            let [crn, opc1, crm, opc2] = [crn, opc1, crm, opc2].map(u32::from);
            0x03 << 26 | always | opc2 << 17 | opc1 << 14 | crn << 10 | 4 << 5 | crm << 1
        }
        Name::Wide(Cp15Wide { opc1, crm }) => {
            0x04 << 26 | always | u32::from(opc1) << 16 | 5 << 10 | 4 << 5 | u32::from(crm) << 1
        }
    }
}

fn word(name: Cp15) -> Name {
    Name::Word(name)
}

#[test]
fn the_table_names_each_register_once() {
    let ids: HashSet<u64> = TABLE.iter().map(|row| row.name.id()).collect();
    assert_eq!(ids.len(), TABLE.len());
    for (name, _) in &id_registers::TABLE {
        assert!(registers::find(*name).is_none(), "{name:?} is the host's");
    }
}

#[test]
fn every_kept_register_has_a_place_of_its_own() {
    let low = [word(reg::TTBR0), word(reg::TTBR1)];
    let kept = || TABLE.iter().filter(|row| !low.contains(&row.name)).filter_map(|row| Some((row, row.kept?.0)));
    let mut vcpu = Vcpu::new(Mode::Svc);
    for (index, (_, place)) in kept().enumerate() {
        (place.set)(&mut vcpu.registers(), 0x1_0000 + index as u64);
    }
    for (index, (row, place)) in kept().enumerate() {
        assert_eq!((place.get)(&vcpu.registers()), 0x1_0000 + index as u64, "{:?}", row.name);
    }
}

/// What each kind of row does for reads and writes at PL1; undefined means that the guest is at its vector, and nothing changed.
#[test]
fn rows_do_what_they_say() {
    for row in &TABLE {
        let mut vcpu = Vcpu::new(Mode::Svc);
        // A value that no register has after reset, and that does not touch SCTLR.M and C.
        let value = 0x0000_0200_0000_0100;
        let kept = row.kept.map(|(place, _)| (place.get)(&vcpu.registers()));
        let (read, got) = vcpu.read(row.name);
        let expected = match row.access {
            Access::Direct | Access::VirtualMemory | Access::SetWay | Access::ZeroOnA12AndA17 => Outcome::Undefined,
            _ => Outcome::Emulated,
        };
        assert_eq!(read, expected, "reading {:?}", row.name);
        match row.access {
            Access::WriteIgnored => assert_eq!(Some(got), kept),
            Access::Zero | Access::ZeroUserReads | Access::ZeroReadOnly => assert_eq!(got, 0),
            _ => {}
        }

        let mut vcpu = Vcpu::new(Mode::Svc);
        let before = vcpu.context;
        let written = vcpu.write(row.name, value);
        let expected = match row.access {
            Access::Direct | Access::ZeroReadOnly | Access::ZeroOnA12AndA17 => Outcome::Undefined,
            Access::PhysicalTimer(_) => Outcome::PhysicalTimerWritten,
            // TVM is set after reset, so the flush is done already.
            _ => Outcome::Emulated,
        };
        assert_eq!(written, expected, "writing {:?}", row.name);
        if row.access == Access::VirtualMemory {
            let (place, _) = row.kept.unwrap();
            let is_wide = matches!(row.name, Name::Wide(_));
            assert_eq!((place.get)(&vcpu.registers()), if is_wide { value } else { value & 0xffff_ffff });
        } else {
            assert_eq!(vcpu.context.cp15, before.cp15);
        }
        assert_eq!(vcpu.context.pc, if written == Outcome::Undefined { 4 } else { PC + 4 }, "{:?}", row.name);
    }
}

#[test]
fn user_mode_reaches_what_is_user_modes() {
    for row in &TABLE {
        for write in [false, true] {
            for cntkctl in [0, 1 << 9] {
                let mut vcpu = Vcpu::new(Mode::User);
                vcpu.context.cp15.cntkctl = cntkctl;
                let allowed = match row.access {
                    Access::PhysicalTimer(_) => cntkctl != 0,
                    Access::ZeroUserReads => !write,
                    _ => false,
                };
                assert_eq!(vcpu.trap(hsr(row.name, write)) != Outcome::Undefined, allowed, "{:?} {write}", row.name);
                assert_eq!(guest_registers::mode(&vcpu.context), if allowed { Mode::User } else { Mode::Und });
            }
        }
    }
}

#[test]
fn unknown_registers_are_undefined() {
    for name in [
        word(Cp15::new(15, 0, 1, 0)),
        word(Cp15::new(10, 0, 0, 0)),
        word(Cp15::new(11, 0, 15, 7)),
        word(reg::MIDR),
        Name::Wide(wide::ICC_SGI1R),
        Name::Wide(wide::ICC_ASGI1R),
        Name::Wide(wide::ICC_SGI0R),
        Name::Wide(Cp15Wide::new(15, 15)),
    ] {
        for write in [false, true] {
            let mut vcpu = Vcpu::new(Mode::Svc);
            assert_eq!(vcpu.trap(hsr(name, write)), Outcome::Undefined, "{name:?}");
            assert_eq!(
                (vcpu.context.pc, vcpu.context.banks.und.lr, vcpu.context.banks.und.spsr),
                (4, PC + 4, Mode::Svc as u32)
            );
        }
    }
}

#[test]
fn what_a_cortex_a15_has_beside_the_architecture() {
    let mut vcpu = Vcpu::new(Mode::Svc);
    assert_eq!(vcpu.read(word(reg::ACTLR)), (Outcome::Emulated, 0x41));
    assert_eq!(vcpu.read(word(reg::L2CTLR)), (Outcome::Emulated, 0x0180_0000));
    assert_eq!(vcpu.read(word(reg::L2ECTLR)), (Outcome::Emulated, 0));
    assert_eq!(vcpu.read(word(reg::CBAR)), (Outcome::Emulated, 0));
    for name in [reg::ACTLR, reg::L2CTLR, reg::L2ECTLR, reg::PMCR, reg::ICC_SRE] {
        assert_eq!(vcpu.write(word(name), 0xffff_ffff), Outcome::Emulated);
    }
    assert_eq!(vcpu.read(word(reg::ACTLR)), (Outcome::Emulated, 0x41));
    assert_eq!(vcpu.read(word(reg::PMCR)), (Outcome::Emulated, 0));
    assert_eq!(vcpu.write(word(reg::CBAR), 0), Outcome::Undefined);
    assert_eq!(Vcpu::new(Mode::User).read(word(reg::PMUSERENR)), (Outcome::Emulated, 0));
    assert_eq!(Vcpu::new(Mode::User).read(word(reg::PMCCNTR)).0, Outcome::Undefined);
}

#[test]
fn diagnostics_exist_on_cortex_a12_and_a17() {
    for (midr, outcome) in [
        (0x412f_c0d0, Outcome::Emulated),
        (0x411f_c0e1, Outcome::Emulated),
        (0x412f_c0f0, Outcome::Undefined),
        (0x410f_c075, Outcome::Undefined),
    ] {
        let mut vcpu = Vcpu::new(Mode::Svc);
        vcpu.context.control.midr = midr;
        assert_eq!(vcpu.write(word(Cp15::new(15, 0, 0, 1)), 1 << 24), outcome, "{midr:#x}");
    }
}

#[test]
fn switching_caches_flushes_and_ends_the_traps() {
    let sctlr = word(reg::SCTLR);
    let mut vcpu = Vcpu::new(Mode::Svc);
    assert!(vcpu.hcr().contains(Hcr::TVM));
    assert_eq!(vcpu.write(sctlr, 0x00c5_0079), Outcome::Emulated, "the MMU alone");
    assert_eq!(vcpu.write(sctlr, 0x00c5_107d), Outcome::FlushAfterSwitch { on: true });
    assert!(!vcpu.hcr().contains(Hcr::TVM));
    // A run of set/way operations: one flush.
    assert_eq!(vcpu.write(word(reg::DCCISW), 0), Outcome::FlushAfterSetWay);
    assert!(vcpu.hcr().contains(Hcr::TVM));
    assert_eq!(vcpu.write(word(reg::DCCISW), 0x40), Outcome::Emulated);
    assert_eq!(vcpu.write(word(reg::TTBCR), 0), Outcome::Emulated);
    assert_eq!(vcpu.write(sctlr, 0x00c5_1078), Outcome::FlushAfterSwitch { on: false });
    assert!(vcpu.hcr().contains(Hcr::TVM), "on again will be seen");
    assert_eq!(vcpu.hcr() | Hcr::TVM, reset::HCR);
}

#[test]
fn a_word_written_to_ttbr_leaves_the_upper_half() {
    let mut vcpu = Vcpu::new(Mode::Svc);
    assert_eq!(vcpu.write(Name::Wide(wide::TTBR1), 0x0012_3456_89ab_cdef), Outcome::Emulated);
    assert_eq!(vcpu.write(word(reg::TTBR1), 0x4000_406a), Outcome::Emulated);
    assert_eq!(vcpu.context.cp15.ttbr1, 0x0012_3456_4000_406a);
}

#[test]
fn the_physical_timer_is_reached() {
    let mut vcpu = Vcpu::new(Mode::Svc);
    assert_eq!(vcpu.write(word(reg::CNTP_TVAL), 500), Outcome::PhysicalTimerWritten);
    assert_eq!(vcpu.read(Name::Wide(wide::CNTP_CVAL)), (Outcome::Emulated, NOW + 500));
    assert_eq!(vcpu.write(Name::Wide(wide::CNTP_CVAL), 0x7_0000_0000), Outcome::PhysicalTimerWritten);
    assert_eq!(vcpu.write(word(reg::CNTP_CTL), 1), Outcome::PhysicalTimerWritten);
    vcpu.context.r[5] = 0;
    assert_eq!(vcpu.read(word(reg::CNTP_CTL)), (Outcome::Emulated, 1));
    assert_eq!(vcpu.context.physical_timer.deadline(|| NOW), Some(0x7_0000_0000));
}

#[test]
fn debug_registers_read_as_zero() {
    let mut context =
        VcpuContext { cpsr: (Psr::in_mode(Mode::Svc) | Psr::N | Psr::Q).bits(), pc: PC, ..Default::default() };
    context.r[4] = 7;
    let always = arch::condition::Condition::ALWAYS;
    let access = |rt, write| RegisterAccess { op: dbg::DBGDIDR, rt, write, condition: always };
    let r4 = arch::syndrome::Rt::new(4);
    trap::cp14(&mut context, &access(r4, true), InstructionLength::Word);
    assert_eq!((context.r[4], context.pc), (7, PC + 4));
    trap::cp14(&mut context, &access(r4, false), InstructionLength::Word);
    assert_eq!((context.r[4], context.pc), (0, PC + 8));
    // MRC p14, 0, APSR_nzcv, c0, c1, 0 is how Linux looks at DBGDSCR.
    trap::cp14(&mut context, &access(None, false), InstructionLength::Word);
    assert_eq!(context.cpsr, (Psr::in_mode(Mode::Svc) | Psr::Q).bits());
    context.r[5] = 9;
    let pair = WideRegisterAccess {
        op: Cp15Wide::new(0, 1),
        rt: r4.unwrap(),
        rt2: arch::syndrome::Rt::new(5).unwrap(),
        write: false,
        condition: always,
    };
    trap::cp14_wide(&mut context, &pair, InstructionLength::Word);
    assert_eq!((context.r[5], context.pc), (0, PC + 16));
}

#[test]
fn a_cluster_has_four_cores() {
    let seen = |vcpu, vcpus| {
        let mut state = Vcpu::new(Mode::Svc);
        let id = IdRegisters { mpidr: 0x8000_0f02, l2ctlr: 0x0380_0000, actlr: 0x41, ..Default::default() };
        state.reset(&id, reset::Place { vcpu, vcpus });
        (state.context.control.mpidr, state.context.answers.l2ctlr.value, state.context.answers.actlr.value)
    };
    assert_eq!(seen(0, 1), (0x8000_0000, 0x0080_0000, 0x01));
    assert_eq!(seen(1, 2), (0x8000_0001, 0x0180_0000, 0x41));
    assert_eq!(seen(3, 4), (0x8000_0003, 0x0380_0000, 0x41));
    assert_eq!(seen(0, 8), (0x8000_0000, 0x0380_0000, 0x41));
    assert_eq!(seen(5, 6), (0x8000_0101, 0x0180_0000, 0x41));
    // vCPU 4 is initialised while there are three others: no underflow.
    assert_eq!(seen(4, 4), (0x8000_0100, 0x0080_0000, 0x41));
}

#[test]
fn reset_leaves_what_the_vm_gave_and_clears_the_rest() {
    let mut vcpu = Vcpu::new(Mode::Fiq);
    let mut dirty = VcpuContext { pc: 1, cpsr: Mode::User as u32, r: [5; 14], ..Default::default() };
    (dirty.control.vttbr, dirty.timer.cntvoff) = (0x77, 0x88);
    (dirty.timer.cval, dirty.timer.ctl, dirty.vfp.fpexc, dirty.banks.und.sp) = (1, 1, 1, 1);
    vcpu.context = dirty;
    let id = IdRegisters { midr: 0x410f_c075, ..Default::default() };
    vcpu.reset(&id, reset::Place { vcpu: 0, vcpus: 1 });
    let VcpuContext { r, pc, cpsr, banks, timer, control, vfp, .. } = vcpu.context;
    assert_eq!((r, pc, cpsr), ([0; 14], 0, 0x1d3));
    assert_eq!((banks, vfp), (Default::default(), Default::default()));
    assert_eq!((timer.cval, timer.ctl, timer.cntvoff), (0, 0, 0x88));
    assert_eq!((control.vttbr, control.midr, control.vfp), (0x77, 0x410f_c075, 0));
    // TSC, TSW, TWI, TWE, VM, BSU_IS, FB, TAC, AMO, IMO, FMO, SWIO, TIDCP, and TVM.
    assert_eq!(control.hcr, 0x0478_663b);
}

#[test]
fn a_vcpu_starts_as_it_was_asked_to() {
    let id = IdRegisters::default();
    let place = reset::Place { vcpu: 1, vcpus: 2 };
    for (entry, big_endian, pc, cpsr) in [
        (0x4000_8000, false, 0x4000_8000, 0x1d3),
        (0x4000_8001, false, 0x4000_8000, 0x1f3),
        (0x4000_8000, true, 0x4000_8000, 0x3d3),
    ] {
        let mut vcpu = Vcpu::new(Mode::User);
        let start = crate::psci::PowerOn { entry, context_id: 0x1234, big_endian };
        reset::power_on(&mut vcpu.registers(), &id, place, &start);
        assert_eq!((vcpu.context.pc, vcpu.context.cpsr), (pc, cpsr));
        assert_eq!((vcpu.context.r[0], vcpu.context.r[1]), (0x1234, 0));
    }
}

proptest! {
    #[test]
    fn any_syndrome_is_answered(wide: bool, iss in 0..1u32 << 26, cpsr: u32, r: [u32; 14], midr: u32) {
        let hsr = if wide { 0x04 << 26 } else { 0x03 << 26 } | iss;
        prop_assume!(matches!(Trap::from_hsr(hsr), Some(Trap::Cp15(_) | Trap::Cp15Wide(_))));
        let mut vcpu = Vcpu::new(Mode::Svc);
        (vcpu.context.cpsr, vcpu.context.r, vcpu.context.control.midr) = (cpsr, r, midr);
        let before = vcpu.context;
        match vcpu.trap(hsr) {
            Outcome::Undefined => {
                prop_assert_eq!(vcpu.context.pc, 4);
                prop_assert_eq!((vcpu.context.r, vcpu.context.cp15), (before.r, before.cp15));
            }
            _ => prop_assert!(vcpu.context.pc == PC + 4 || vcpu.context.pc == PC + 2),
        }
        prop_assert_eq!(vcpu.context.control.mpidr, before.control.mpidr);
    }
}

#[test]
fn reset_values_are_those_that_a_guest_may_rely_on() {
    let mut vcpu = Vcpu::new(Mode::Svc);
    let value = |vcpu: &mut Vcpu, name| (registers::find(name).unwrap().kept.unwrap().0.get)(&vcpu.registers());
    let defined: Vec<u64> = [reg::SCTLR, reg::TTBCR, reg::CPACR, reg::VBAR, reg::CNTKCTL, reg::CONTEXTIDR]
        .map(|name| value(&mut vcpu, word(name)))
        .to_vec();
    assert_eq!(defined, [0x00c5_0078, 0, 0, 0, 0, 0]);
}
