// SPDX-License-Identifier: GPL-2.0-only
//! What is told of a guest's stays, and that nothing is while nobody watches.

use super::*;
use crate::run::machine::*;
use arch::cp15::reg;
use arch::gic::gicd;
use std::vec;

const ALL: u32 = u32::MAX;

fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}

#[test]
fn kinds_fit_the_word_and_fields_stand_in_order() {
    assert!((Kind::AckIrq as u32) < u32::BITS);
    let event = Event::Mmio { kind: 2, len: 4, ipa: 0x1000, value: 7 };
    assert_eq!((event.kind(), event.fields()), (Kind::Mmio, [2, 4, 0x1000, 7, 0, 0]));
}

#[test]
fn nobody_hears_what_nobody_watches() {
    let mut machine = Machine::new(1);
    machine.script([at(0, |context| hvc(context, [1, 0, 0, 0])), at(4, |context| trap(context, WFI | 1))]);
    machine.run(0);
    assert_eq!(machine.host.take_told(), []);
}

#[test]
fn a_stay_is_told_from_entry_to_exit() {
    let mut machine = Machine::new(1);
    machine.host.watch(bit(Kind::Entry) | bit(Kind::Exit) | bit(Kind::Hypercall) | bit(Kind::Wait));
    machine.script([at(0, |context| hvc(context, [0x8400_0000, 0, 0, 0])), at(4, |context| trap(context, WFI | 1))]);
    machine.run(0);
    let pc = u64::from(START);
    let expected = vec![
        Event::Entry { pc },
        Event::Exit { exception: 7, class: 0x12, pc: pc + 4 },
        Event::Hypercall { pc: pc + 4, r0: 0x8400_0000, immediate: 0 },
        Event::Entry { pc: pc + 4 },
        Event::Exit { exception: 7, class: 1, pc: pc + 4 },
        Event::Wait { pc: pc + 4, event: 1 },
        Event::Entry { pc: pc + 8 },
        Event::Exit { exception: 5, class: 0, pc: pc + 8 },
    ];
    assert_eq!(machine.host.take_told(), expected);
}

#[test]
fn whoever_watches_sees_each_exit_long_and_hyp_mode_answer_nothing() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.host.watch(bit(Kind::Mmio));
    machine.script([
        at(0, |context| {
            assert_eq!(context.control.answers, 0);
            fault(context, load(1), DIST + u64::from(gicd::IIDR))
        }),
        at(4, |_| ExitCode::Interrupt),
    ]);
    machine.run(0);
    // The fake host fails a test that tells of something while the exit is short.
    assert_eq!(machine.host.leaves(), 1);
    let told = machine.host.take_told();
    let ipa = DIST + u64::from(gicd::IIDR);
    assert!(
        matches!(told[..], [Event::Mmio { kind: MMIO_READ, len: 4, ipa: at, value: 1.. }] if at == ipa),
        "{told:?}"
    );

    machine.host.watch(0);
    machine.script([at(4, |context| {
        assert_eq!(context.control.answers, 1);
        ExitCode::Interrupt
    })]);
    machine.run(0);
    assert_eq!(machine.host.take_told(), []);
}

#[test]
fn a_load_from_the_processs_device_is_told_twice() {
    let mut machine = Machine::bare(1);
    machine.host.watch(bit(Kind::GuestFault) | bit(Kind::Mmio));
    machine.script([at(0, |context| fault(context, load(1), NOWHERE + 8)), at(4, |_| ExitCode::Interrupt)]);
    machine.run(0);
    machine.run_with(0, [0x11, 0x22, 0x33, 0x44, 0x55, 0, 0, 0], false);
    let (ipa, pc) = (NOWHERE + 8, START.into());
    let expected = vec![
        Event::GuestFault { pc, hsr: load(1).into(), far: (FAR | 8).into(), ipa },
        Event::Mmio { kind: MMIO_UNSATISFIED, len: 4, ipa, value: 0 },
        Event::Mmio { kind: MMIO_READ, len: 4, ipa, value: 0x4433_2211 },
    ];
    assert_eq!(machine.host.take_told(), expected);
}

#[test]
fn a_switch_of_caches_and_set_way_maintenance_after_it_are_told() {
    let mut machine = Machine::bare(1);
    machine.host.watch(bit(Kind::SetWayFlush) | bit(Kind::ToggleCache) | bit(Kind::Cp15));
    machine.script([
        at(0, |context| {
            context.r[1] = 5; // M, C
            trap(context, mrc(reg::SCTLR, 1) & !1)
        }),
        at(4, |context| trap(context, mrc(reg::DCCISW, 1) & !1)),
        at(8, |context| trap(context, mrc(reg::DCCISW, 1) & !1)),
    ]);
    machine.run(0);
    let pc = u64::from(START);
    let set_way = Event::Cp15 { opc1: 0, rt: 1, crn: 7, crm: 14, opc2: 2, write: 1 };
    let expected = vec![
        Event::Cp15 { opc1: 0, rt: 1, crn: 1, crm: 0, opc2: 0, write: 1 },
        Event::ToggleCache { pc, was: 0, now: 1 },
        set_way,
        Event::SetWayFlush { pc: pc + 4, cache: 1 },
        set_way,
    ];
    assert_eq!(machine.host.take_told(), expected);
}

#[test]
fn everything_can_be_watched_at_once() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    machine.give_ram(1);
    machine.host.watch(ALL);
    machine.script([
        at(0, |context| fault(context, load(1) & !0x3f | 0x0b, RAM)),
        at(0, |context| {
            (context.timer.ctl, context.timer.cval) = (1, 0);
            trap(context, WFI)
        }),
    ]);
    machine.run(0);
    let told = machine.host.take_told();
    let has = |kind| told.iter().any(|event| event.kind() == kind);
    for kind in [
        Kind::TimerMap,
        Kind::TimerRestore,
        Kind::TimerSave,
        Kind::TimerEmulate,
        Kind::TimerUpdateIrq,
        Kind::AccessFault,
    ] {
        assert!(has(kind), "{kind:?} is not among {told:?}");
    }
    let wakeup = told.iter().find(|event| event.kind() == Kind::VcpuWakeup);
    assert_eq!(wakeup, Some(&Event::VcpuWakeup { ns: 0, waited: 0, valid: 1 }));
}
