// SPDX-License-Identifier: GPL-2.0-only
//! KVM_RUN: stores that something of the VM's bus takes, and those beside them.

use super::machine::*;
use super::*;
use crate::fake::ProcessEvent;
use crate::io_bus::Bell;
use core::sync::atomic::Ordering;
use uapi::irq::Ioeventfd;
use uapi::memory::CoalescedMmioZone;
use uapi::run::Mmio;

/// Has stores of words at [`NOWHERE`] and so many bytes on tell an event.
fn add_bell(machine: &Machine, offset: u64) -> ProcessEvent {
    let request = Ioeventfd { datamatch: 0, addr: NOWHERE + offset, len: 4, fd: 0, flags: 0, pad: [0; 36] };
    let event = ProcessEvent::default();
    machine.vm.bus.add_bell(&machine.host, Bell::new(&request).unwrap(), event.clone()).unwrap();
    event
}

/// Has stores to so many bytes at [`NOWHERE`] collected.
fn add_zone(machine: &Machine, size: u32) {
    machine.vm.bus.add_zone(&machine.host, &CoalescedMmioZone { addr: NOWHERE, size, pio: 0 }).unwrap();
}

fn exit_at(offset: u64, written: Option<u32>) -> Return {
    let data = written.map_or([0; 8], |value| u64::from(value).to_le_bytes());
    Return::Exit(Exit::Mmio(Mmio { phys_addr: NOWHERE + offset, data, len: 4, is_write: written.is_some() }))
}

#[test]
fn a_store_at_a_bell_rings_and_the_guest_goes_on() {
    let mut machine = Machine::new(1);
    let event = add_bell(&machine, 0);
    machine.script([
        at(0, |context| fault(context, store(2), NOWHERE)),
        at(4, |context| fault(context, store(2), NOWHERE)),
        at(8, |context| fault(context, load(2), NOWHERE)),
        at(12, |context| fault(context, store(2), NOWHERE + 4)),
    ]);
    assert_eq!(machine.run(0), exit_at(0, None));
    assert_eq!(event.take(), 2);
    assert_eq!(machine.run(0), exit_at(4, Some(0)));
    assert_eq!(event.take(), 0);
}

#[test]
fn a_store_in_a_zone_is_collected_in_the_order_of_its_bytes() {
    let mut machine = Machine::new(1);
    add_zone(&machine, 8);
    machine.script([
        at(0, |context| {
            (context.r[2], context.cpsr) = (0x0102_0304, context.cpsr | arch::psr::Psr::E.bits());
            fault(context, store(2), NOWHERE + 4)
        }),
        at(4, |context| fault(context, load(2), NOWHERE)),
    ]);
    assert_eq!(machine.run(0), exit_at(0, None));
    let words: std::vec::Vec<_> = machine.vm.bus.ring()[..8].iter().map(|word| word.load(Ordering::SeqCst)).collect();
    assert_eq!(words, [0, 1, NOWHERE as u32 + 4, (NOWHERE >> 32) as u32, 4, 0, 0x0403_0201, 0]);
}

#[test]
fn a_store_to_a_readonly_slot_can_ring_too() {
    let mut machine = Machine::new(1);
    machine.give_ram_with(4, crate::memslots::READONLY);
    let request = Ioeventfd { datamatch: 0, addr: RAM, len: 0, fd: 0, flags: 0, pad: [0; 36] };
    let event = ProcessEvent::default();
    machine.vm.bus.add_bell(&machine.host, Bell::new(&request).unwrap(), event.clone()).unwrap();
    machine.script([at(0, |context| fault(context, store(2) & !0x3f | 0x0f, RAM)), at(4, |_| ExitCode::Interrupt)]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(event.take(), 1);
}

#[test]
fn each_store_of_an_instruction_goes_where_it_belongs() {
    let mut machine = Machine::new(1);
    machine.give_ram(8);
    put_instruction(&machine, 0xe8a1_007c); // stm r1!, {r2-r6}
    let bells = [0, 8, 16].map(|offset| add_bell(&machine, offset));
    let rung = |bells: &[ProcessEvent; 3]| bells.each_ref().map(ProcessEvent::take);
    machine.script([
        at(0, |context| {
            context.r[1..7].copy_from_slice(&[FAR, 2, 3, 4, 5, 6]);
            undescribed(context, store(0), NOWHERE)
        }),
        at(4, |context| {
            assert_eq!(context.r[1], FAR | 0x14);
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), exit_at(4, Some(3)));
    assert_eq!(rung(&bells), [1, 0, 0]);
    assert_eq!(machine.run(0), exit_at(12, Some(5)));
    assert_eq!(rung(&bells), [0, 1, 0]);
    // The last rings, with which the instruction is done.
    assert_eq!(machine.run_with(0, [0; 8], true), Return::Interrupted);
    assert_eq!((rung(&bells), machine.states[0].context.pc), ([0, 0, 1], START + 4));
    assert!(machine.states[0].pending.is_none());
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn a_bell_may_be_an_interrupt_of_the_same_guest() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    let event = add_bell(&machine, 0);
    // In the kernel the watch is called while the bell rings.
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    event.on_signal(move || vm.irqfd_event(8, true));
    machine.script([
        at(0, |context| fault(context, store(2), NOWHERE)),
        at(4, move |_| {
            host.with_cpu_interface(|interface| {
                assert_eq!((interface.used, interface.lr[0].intid()), (1, 40));
            });
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    event.on_signal(|| {});
}
