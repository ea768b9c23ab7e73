// SPDX-License-Identifier: GPL-2.0-only
//! KVM_RUN over time: WFI, timers, and vCPUs that are turned on and off.

use super::machine::*;
use super::*;
use crate::vm::Hardware;
use arch::cp15::reg;
use arch::hyp_registers::{CntCtl, Hcr};
use arch::psr::Psr;
use hyp_abi::context::VcpuContext;
use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec;
use std::vec::Vec;
use uapi::psci as id;

const ENABLE: u32 = CntCtl::ENABLE.bits();
const IMASK: u32 = CntCtl::IMASK.bits();

/// The guest takes interrupts, and goes on as `then` says.
fn opened(machine: &Machine, then: impl FnOnce(&mut VcpuContext) -> ExitCode + Send + 'static) -> Step {
    let host = machine.host.clone();
    Box::new(move |context| {
        host.with_cpu_interface(|interface| interface.vmcr = OPEN);
        then(context)
    })
}

/// The guest sets its virtual timer.
fn set_timer(context: &mut VcpuContext, ctl: u32, cval: u64) {
    (context.timer.ctl, context.timer.cval) = (ctl, cval);
}

/// MCR of the physical timer, with the value in r1.
fn write_timer(context: &mut VcpuContext, register: arch::cp15::Cp15, value: u32) -> ExitCode {
    context.r[1] = value;
    trap(context, mrc(register, 1) & !1)
}

/// What happens, sleep by sleep. Nothing more happens after that.
fn on_sleep(machine: &Machine, number: usize, mut events: Vec<Box<dyn FnOnce() + Send>>) -> Arc<AtomicUsize> {
    let sleeps = Arc::new(AtomicUsize::new(0));
    let count = sleeps.clone();
    events.reverse();
    machine.vm.place(number).unwrap().waiter().on_sleep(move || {
        count.fetch_add(1, Ordering::SeqCst);
        if let Some(event) = events.pop() {
            event();
        }
    });
    sleeps
}

fn wakes(machine: &Machine, number: usize) -> usize {
    machine.vm.place(number).unwrap().waiter().wakes()
}

/// Which interrupts the hardware was given, by number.
fn loaded(machine: &Machine) -> Vec<u32> {
    machine.host.with_cpu_interface(|interface| interface.lr[..interface.used].iter().map(|lr| lr.intid()).collect())
}

#[test]
fn wfi_sleeps_until_an_interrupt_is_deliverable() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    let (other, vm, host) = (machine.vm.clone(), machine.vm.clone(), machine.host.clone());
    let sleeps = on_sleep(
        &machine,
        0,
        vec![
            // Not enabled, so nothing to wake up for.
            Box::new(move || other.set_line(0, 41, true).unwrap()),
            Box::new(move || vm.set_line(0, 40, true).unwrap()),
        ],
    );
    machine.script([
        opened(&machine, |context| trap(context, WFI)),
        at(4, move |_| {
            host.with_cpu_interface(|interface| assert_eq!((interface.used, interface.lr[0].intid()), (1, 40)));
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(sleeps.load(Ordering::SeqCst), 2);
    // With the interrupt pending it does not sleep at all.
    machine.script([at(4, |context| trap(context, WFI)), at(8, |_| ExitCode::Interrupt)]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(sleeps.load(Ordering::SeqCst), 2);
}

#[test]
fn a_signal_ends_wfi_which_is_not_repeated() {
    for irqchip in [false, true] {
        let mut machine = if irqchip { Machine::new(1) } else { Machine::bare(1) };
        let place = machine.vm.place(0).unwrap().waiter().clone();
        let sleeps = on_sleep(&machine, 0, vec![Box::new(move || place.set_signal(true))]);
        machine.script([at(0, |context| trap(context, WFI))]);
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!((machine.entries(), machine.states[0].context.pc), (1, START + 4));
        assert_eq!(sleeps.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn an_asynchronous_abort_ends_wfi() {
    let mut machine = Machine::new(1);
    machine.script([
        at(0, |context| {
            context.exit.async_abort = 1;
            trap(context, WFI)
        }),
        at(4, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn wfi_sleeps_until_the_virtual_timer_is_due() {
    for irqchip in [false, true] {
        let mut machine = if irqchip { Machine::new(1) } else { Machine::bare(1) };
        machine.host.advance_to(1_000);
        machine.vm.set_counter_offset(400);
        let (early, due) = (machine.host.clone(), machine.host.clone());
        let sleeps = on_sleep(
            &machine,
            0,
            vec![Box::new(move || early.advance_to(1_499)), Box::new(move || due.advance_to(1_500))],
        );
        machine.script([
            at(0, |context| {
                set_timer(context, ENABLE, 1_100);
                trap(context, WFI)
            }),
            at(4, |_| ExitCode::Interrupt),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
        if !irqchip {
            // It first has to hear of it.
            assert_eq!(machine.entries(), 1);
            assert_eq!(machine.run(0), Return::Interrupted);
        }
        assert_eq!((sleeps.load(Ordering::SeqCst), wakes(&machine, 0)), (2, 1));
        // Nothing is left set.
        machine.host.advance_to(10_000);
        assert_eq!(wakes(&machine, 0), 1);
    }
}

#[test]
fn a_timer_that_woke_the_thread_too_early_is_set_again() {
    let mut machine = Machine::new(1);
    let (early, due) = (machine.host.clone(), machine.host.clone());
    let sleeps = on_sleep(
        &machine,
        0,
        vec![
            Box::new(move || {
                early.advance_to(1_000);
                early.advance_to(990);
            }),
            Box::new(move || due.advance_to(1_000)),
        ],
    );
    machine.script([
        at(0, |context| {
            set_timer(context, ENABLE, 1_000);
            trap(context, WFI)
        }),
        at(4, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((sleeps.load(Ordering::SeqCst), wakes(&machine, 0)), (2, 2), "slept twice and was woken as often");
}

#[test]
fn wfi_sleeps_through_an_asserted_timer_whose_interrupt_is_disabled() {
    let mut machine = Machine::new(1);
    let place = machine.vm.place(0).unwrap().waiter().clone();
    let sleeps = on_sleep(&machine, 0, vec![Box::new(|| {}), Box::new(move || place.set_signal(true))]);
    machine.host.advance_to(1_000);
    machine.script([opened(&machine, |context| {
        set_timer(context, ENABLE, 500);
        trap(context, WFI)
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((machine.entries(), sleeps.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn a_process_that_emulates_the_controller_is_told_each_level_of_a_timer_once() {
    let mut machine = Machine::bare(1);
    machine.host.advance_to(1_000);
    machine.script([at(0, |context| {
        set_timer(context, ENABLE, 500);
        context.physical_timer.write(arch::timer::Register::Control, ENABLE.into(), 0);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((machine.entries(), machine.states[0].told_lines), (1, [true, true]));
    let (held, free) = (machine.host.clone(), machine.host.clone());
    machine.script([
        at(0, move |_| {
            assert!(held.is_timer_held(), "it would end each stay at once");
            ExitCode::Interrupt
        }),
        at(0, |context| {
            set_timer(context, 0, 0);
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((machine.entries(), machine.states[0].told_lines), (3, [false, true]));
    machine.script([at(0, move |_| {
        assert!(!free.is_timer_held());
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.states[0].told_lines, [false, true]);
}

#[test]
fn a_call_that_begins_again_has_told_the_process_nothing() {
    let mut machine = Machine::bare(1);
    machine.host.advance_to(1_000);
    let host = machine.host.clone();
    machine.script([at(0, move |context| {
        set_timer(context, ENABLE, 500);
        host.set_work(true);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Again);
    assert_eq!(machine.states[0].told_lines, [false, false]);
    machine.host.set_work(false);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((machine.entries(), machine.states[0].told_lines), (1, [true, false]));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_timer_that_comes_due_on_the_way_in_interrupts_the_guest_unless_the_process_was_told() {
    let mut told_first = [0; 2];
    for delay in 1..30 {
        let mut machine = Machine::bare(1);
        machine.host.pass_time(1);
        let (host, was_held) = (machine.host.clone(), Arc::new(AtomicBool::new(false)));
        let held = was_held.clone();
        machine.script([
            at(0, {
                let host = host.clone();
                move |context| {
                    set_timer(context, ENABLE, host.counter() + delay);
                    ExitCode::Interrupt
                }
            }),
            at(0, move |_| {
                held.store(host.is_timer_held(), Ordering::SeqCst);
                ExitCode::Interrupt
            }),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
        let told = machine.entries() == 1;
        told_first[usize::from(told)] += 1;
        if told {
            assert_eq!(machine.states[0].told_lines, [true, false]);
            assert_eq!(machine.run(0), Return::Interrupted);
        }
        assert_eq!(was_held.load(Ordering::SeqCst), told, "due after {delay} ticks");
    }
    assert!(told_first.iter().all(|times| *times > 0), "{told_first:?}");
}

#[test]
fn a_timer_is_compared_with_the_counter_that_the_guest_will_have() {
    let mut machine = Machine::bare(1);
    machine.host.advance_to(1_000);
    let vm = machine.vm.clone();
    machine.script([at(0, move |context| {
        set_timer(context, ENABLE, 1_500);
        vm.set_counter_offset(0u64.wrapping_sub(1_000));
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((machine.entries(), machine.states[0].told_lines), (1, [true, false]));
}

#[test]
fn without_a_controller_wfi_tells_what_became_of_a_timer_before_it_waits() {
    let mut machine = Machine::bare(1);
    machine.host.advance_to(1_000);
    machine.script([at(0, |context| {
        set_timer(context, ENABLE, 500);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.states[0].told_lines, [true, false]);
    let (ahead, due) = (machine.host.clone(), machine.host.clone());
    let sleeps = on_sleep(&machine, 0, vec![Box::new(move || due.advance_to(2_000))]);
    machine.script([
        // Its handler sets the timer anew, which does not trap, and waits.
        at(0, move |context| {
            set_timer(context, ENABLE, ahead.counter() + 500);
            trap(context, WFI)
        }),
        at(4, |context| trap(context, WFI)),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((sleeps.load(Ordering::SeqCst), machine.states[0].told_lines), (0, [false, false]), "it has fallen");
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((sleeps.load(Ordering::SeqCst), machine.states[0].told_lines), (1, [true, false]), "and risen");
}

#[test]
fn without_a_controller_wfi_waits_for_a_line_or_for_a_timer_to_be_told() {
    let mut machine = Machine::bare(1);
    machine.host.advance_to(1_000);
    let (time, vm) = (machine.host.clone(), machine.vm.clone());
    let sleeps = on_sleep(
        &machine,
        0,
        vec![
            Box::new(move || time.advance_to(2_000)),
            Box::new(move || {
                assert!(vm.vcpu(0).unwrap().set_line(Hcr::VI, true));
                vm.vcpu(0).unwrap().kick();
            }),
        ],
    );
    machine.script([at(0, |context| {
        set_timer(context, ENABLE, 1_500);
        trap(context, WFI)
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((sleeps.load(Ordering::SeqCst), machine.states[0].told_lines), (1, [true, false]));
    // What it was told does not end the next wait.
    machine.script([
        at(4, |context| trap(context, WFI)),
        at(8, |context| {
            assert_eq!(Hcr::from_bits_retain(context.control.hcr) & (Hcr::VI | Hcr::VF), Hcr::VI);
            trap(context, WFI)
        }),
        at(12, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(sleeps.load(Ordering::SeqCst), 2, "a line that is up ends WFI at once");
    let lines = machine.vm.clone();
    assert!(!lines.vcpu(0).unwrap().set_line(Hcr::VI, true));
    assert!(lines.vcpu(0).unwrap().set_line(Hcr::VF, true));
    assert!(lines.vcpu(0).unwrap().set_line(Hcr::VI, false));
    machine.script([at(12, |context| {
        assert_eq!(Hcr::from_bits_retain(context.control.hcr) & (Hcr::VI | Hcr::VF), Hcr::VF);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn another_vcpus_power_off_ends_wfi() {
    let mut machine = Machine::new(1);
    let (off, on) = (machine.vm.clone(), machine.vm.clone());
    let start = PowerOn { entry: START + 0x100, context_id: 0, big_endian: false };
    let sleeps = on_sleep(
        &machine,
        0,
        vec![
            Box::new(move || {
                off.vcpu(0).unwrap().change_power(|power| power.off = true);
                off.vcpu(0).unwrap().kick();
            }),
            // It sleeps elsewhere now, where it can be turned on.
            Box::new(move || {
                on.vcpu(0).unwrap().change_power(|power| *power = Power { off: false, start: Some(start) });
                on.vcpu(0).unwrap().kick();
            }),
        ],
    );
    machine.script([at(0, |context| trap(context, WFI)), at(0x100, |_| ExitCode::Interrupt)]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(sleeps.load(Ordering::SeqCst), 2);
}

/// The timer's line goes up and down with its output, whether the hardware ties the interrupts or not.
#[test]
fn the_virtual_timer_drives_its_line() {
    for timer_interrupt in [None, Some(27)] {
        let mut machine = Machine::on(Hardware { timer_interrupt, ..hardware() }, 1);
        machine.add_irqchip();
        machine.enable_interrupts();
        let host = machine.host.clone();
        let on_entry = move |expected: bool, then: fn(&mut VcpuContext)| -> Step {
            let host = host.clone();
            Box::new(move |context| {
                let used = host.with_cpu_interface(|interface| interface.lr[..interface.used].to_vec());
                assert_eq!(used.len(), usize::from(expected));
                if let Some(lr) = used.first() {
                    assert_eq!((lr.intid(), lr.pending(), lr.hardware()), (27, true, timer_interrupt));
                }
                assert_eq!(host.is_timer_held(), expected);
                then(context);
                host.advance_to(crate::host::Host::counter(&host) + 100);
                ExitCode::Interrupt
            })
        };
        machine.script([
            on_entry(false, |context| set_timer(context, ENABLE, 150)), // at 0; 100 when it is left
            on_entry(false, |_| {}),                                    // at 100
            on_entry(true, |_| {}),                                     // at 200: due
            on_entry(true, |context| set_timer(context, ENABLE | IMASK, 150)),
            on_entry(false, |context| set_timer(context, ENABLE, 150)),
            on_entry(true, |context| set_timer(context, ENABLE, 100_000)),
            on_entry(false, |_| {}),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!(loaded(&machine), []);
        // Time passes outside, and the vCPU is initialised anew: the line follows.
        machine.host.advance_to(200_000);
        machine.script([at(0, |_| ExitCode::Interrupt)]);
        machine.run(0);
        assert_eq!(loaded(&machine), [27]);
        let place = Place { vcpu: 0, vcpus: 1 };
        reset::reset(&mut machine.states[0].registers(), &machine.hypervisor.hardware.id, place);
        machine.script([]);
        machine.run(0);
        assert_eq!(loaded(&machine), []);
        assert_eq!(machine.vm.with_vgic(|vgic| vgic.dist_read(0, arch::gic::gicd::ISPENDR, 4)), Some(0));
    }
}

#[test]
fn a_forwarded_interrupt_is_held_until_the_guest_has_ended_it() {
    for timer_interrupt in [None, Some(27)] {
        let mut machine = Machine::on(Hardware { timer_interrupt, ..hardware() }, 1);
        machine.add_irqchip();
        machine.enable_interrupts();
        machine.host.advance_to(1_000);
        let forwarded = timer_interrupt.is_some();
        let host = machine.host.clone();
        let stay = move |held: bool, then: fn(&mut VcpuContext, &mut crate::vgic::CpuInterface)| -> Step {
            let host = host.clone();
            Box::new(move |context| {
                assert_eq!(host.is_timer_held(), held);
                host.with_cpu_interface(|interface| then(context, interface));
                ExitCode::Interrupt
            })
        };
        machine.script([
            stay(false, |context, _| set_timer(context, ENABLE, 500)),
            // Taken, and the timer set to later, but not ended yet.
            stay(true, |context, interface| {
                interface.lr[0] = interface.lr[0].with_pending(false).with_active(true);
                set_timer(context, ENABLE, 5_000);
            }),
            stay(forwarded, |_, interface| interface.lr[0] = interface.lr[0].with_active(false)),
            stay(false, |_, _| {}),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
    }
}

#[test]
fn a_timer_that_comes_and_comes_again_goes_to_the_guest_before_the_host_is_asked() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.hypervisor.vmids.assign(machine.vm.memory.vmid());
    machine.host.advance_to(1_000);
    let host = machine.host.clone();
    let stay = move |yields: usize, then: fn(&mut VcpuContext, &mut crate::vgic::CpuInterface)| -> Step {
        let host = host.clone();
        Box::new(move |context| {
            assert_eq!(host.yields(), yields);
            host.set_must_stop();
            host.with_cpu_interface(|interface| then(context, interface));
            ExitCode::Interrupt
        })
    };
    machine.script([
        stay(0, |context, _| set_timer(context, ENABLE, 500)),
        // Taken, ended, and due again.
        stay(0, |context, interface| {
            interface.lr[0] = interface.lr[0].with_pending(false);
            set_timer(context, ENABLE, 900);
        }),
        // Taken, but not ended: something else has come.
        stay(0, |_, interface| interface.lr[0] = interface.lr[0].with_pending(false).with_active(true)),
        stay(1, |_, _| {}),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn the_physical_timer_calls_the_guest_out_when_it_is_due() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    let (early, due, masked) = (machine.host.clone(), machine.host.clone(), machine.host.clone());
    let place = machine.vm.place(0).unwrap().waiter().clone();
    let (before, after) = (place.clone(), place.clone());
    machine.script([
        at(0, |context| write_timer(context, reg::CNTP_TVAL, 500)),
        at(4, |context| write_timer(context, reg::CNTP_CTL, ENABLE)),
        at(8, move |_| {
            // The host's clock is a little fast: the alarm comes before its time, and is set again.
            early.advance_to(500);
            early.advance_to(490);
            assert_eq!(before.wakes(), 1);
            ExitCode::Interrupt
        }),
        at(8, move |_| {
            due.with_cpu_interface(|interface| assert_eq!(interface.used, 0));
            due.advance_to(500);
            assert_eq!(after.wakes(), 2);
            ExitCode::Interrupt
        }),
        at(8, move |context| {
            masked.with_cpu_interface(|interface| assert_eq!(interface.lr[0].intid(), 30));
            assert!(!masked.is_timer_held(), "that is for the virtual one");
            write_timer(context, reg::CNTP_CTL, ENABLE | IMASK)
        }),
        at(12, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!((loaded(&machine), place.wakes()), (vec![], 2));
}

#[test]
fn the_physical_timer_leaves_no_alarm_behind() {
    let mut machine = Machine::new(1);
    machine.script([
        at(0, |context| write_timer(context, reg::CNTP_TVAL, 500)),
        at(4, |context| write_timer(context, reg::CNTP_CTL, ENABLE)),
    ]);
    machine.run(0);
    machine.host.advance_to(1_000);
    assert_eq!(wakes(&machine, 0), 0);
    // WFI with it due does not sleep.
    machine.script([at(8, |context| trap(context, WFI))]);
    machine.enable_interrupts();
    machine.open_interface();
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.entries(), 5);
}

#[test]
fn psci_answers() {
    let mut machine = Machine::new(2);
    machine.vm.vcpu(1).unwrap().change_power(|power| power.off = true);
    let ask = |arguments: [u32; 4], expected: i32| -> [Step; 2] {
        let check = move |context: &mut VcpuContext| {
            assert_eq!(context.r[0] as i32, expected, "{arguments:x?}");
            context.pc = START;
            ExitCode::Interrupt
        };
        [Box::new(move |context| hvc(context, arguments)), Box::new(check)]
    };
    let steps = [
        ask([id::PSCI_VERSION, 0, 0, 0], 0x1_0000),
        ask([id::AFFINITY_INFO, 0, 0, 0], 0),
        ask([id::AFFINITY_INFO, 1, 0, 0], 1),
        ask([id::AFFINITY_INFO, 2, 0, 0], id::INVALID_PARAMETERS),
        ask([id::CPU_ON, 0, 0, 0], id::ALREADY_ON),
        ask([id::CPU_ON, 2, 0, 0], id::INVALID_PARAMETERS),
        ask([id::CPU_ON, 0x101, 0, 0], id::INVALID_PARAMETERS),
        ask([id::CPU_ON, 1 << 31 | 1, 0x1000, 7], id::INVALID_PARAMETERS),
        ask([id::CPU_ON, 1, 0x1000, 7], id::SUCCESS),
        ask([id::CPU_ON, 1, 0x2000, 8], id::ALREADY_ON),
        ask([id::AFFINITY_INFO, 1, 0, 0], 0),
    ];
    machine.script(steps.into_iter().flatten());
    assert_eq!(machine.run(0), Return::Interrupted);
    let start = PowerOn { entry: 0x1000, context_id: 7, big_endian: false };
    assert_eq!(machine.vm.vcpu(1).unwrap().power(), Power { off: false, start: Some(start) });
    // A vCPU that was initialised without PSCI 0.2 has 0.1.
    machine.states[0].psci_0_2 = false;
    let steps = [ask([id::PSCI_VERSION, 0, 0, 0], -1), ask([id::KVM_PSCI_FN_CPU_ON, 1, 0, 0], id::INVALID_PARAMETERS)];
    machine.script(steps.into_iter().flatten());
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn cpu_on_starts_a_vcpu_from_reset() {
    for (entry, big_endian) in [(0x6000_0000, false), (0x6000_0001, true)] {
        let mut machine = Machine::new(2);
        machine.vm.vcpu(1).unwrap().change_power(|power| power.off = true);
        machine.script([at(0, move |context| {
            context.cpsr |= if big_endian { Psr::E.bits() } else { 0 };
            hvc(context, [id::CPU_ON, 1, entry, 0x1234])
        })]);
        machine.states[1].context.r[5] = 5;
        machine.states[1].context.cp15.sctlr |= 1;
        machine.states[1].context.timer.ctl = 1;
        machine.vm.vcpu(1).unwrap().pretend_to_sleep();
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!(wakes(&machine, 1), 1);
        machine.script([Box::new(move |context: &mut VcpuContext| {
            let thumb = entry & 1 == 1;
            assert_eq!((context.pc, context.r[0], context.r[5]), (entry & !1, 0x1234, 0));
            let mut status = reset::CPSR;
            status.set(Psr::T, thumb);
            status.set(Psr::E, big_endian);
            assert_eq!(context.cpsr, status.bits());
            assert_eq!((context.cp15.sctlr & 1, context.timer.ctl), (0, 0));
            assert_eq!(context.control.mpidr, 0x8000_0001);
            context.pc = 0x7000;
            ExitCode::Interrupt
        }) as Step]);
        assert_eq!(machine.run(1), Return::Interrupted);
        assert_eq!(machine.states[1].context.pc, 0x7000, "it is started once");
        assert_eq!(machine.vm.vcpu(1).unwrap().power().start, None);
    }
}

#[test]
fn a_vcpu_that_is_off_waits_for_its_start() {
    let mut machine = Machine::new(2);
    machine.vm.vcpu(1).unwrap().change_power(|power| power.off = true);
    let vm = machine.vm.clone();
    let start = PowerOn { entry: START, context_id: 9, big_endian: false };
    let sleeps = on_sleep(
        &machine,
        1,
        vec![
            Box::new(|| {}),
            Box::new(move || {
                vm.vcpu(1).unwrap().change_power(|power| *power = Power { off: false, start: Some(start) });
                vm.vcpu(1).unwrap().kick();
            }),
        ],
    );
    machine.script([at(0, |context| {
        assert_eq!(context.r[0], 9);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(1), Return::Interrupted);
    assert_eq!((sleeps.load(Ordering::SeqCst), machine.entries()), (2, 2));
    // A signal ends the wait.
    machine.vm.vcpu(1).unwrap().change_power(|power| power.off = true);
    machine.host.set_signal(false);
    machine.vm.place(1).unwrap().waiter().set_signal(true);
    assert_eq!((machine.run(1), machine.entries()), (Return::Interrupted, 2));
}

#[test]
fn a_vcpu_that_is_turned_off_or_restarted_at_the_last_moment_is_not_entered_where_it_was() {
    for restart in [false, true] {
        let mut machine = Machine::new(1);
        let vm = machine.vm.clone();
        let start = PowerOn { entry: START + 0x100, context_id: 0, big_endian: false };
        let on_again = Power { off: false, start: Some(start) };
        machine.host.race_entry(move || {
            vm.vcpu(0)
                .unwrap()
                .change_power(|power| *power = if restart { on_again } else { Power { off: true, start: None } });
        });
        let vm = machine.vm.clone();
        let sleeps =
            on_sleep(&machine, 0, vec![Box::new(move || vm.vcpu(0).unwrap().change_power(|power| *power = on_again))]);
        machine.script([at(0x100, |_| ExitCode::Interrupt)]);
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!(sleeps.load(Ordering::SeqCst), usize::from(!restart));
    }
}

#[test]
fn cpu_off_of_the_only_vcpu_waits_for_a_signal() {
    let mut machine = Machine::new(1);
    let place = machine.vm.place(0).unwrap().waiter().clone();
    on_sleep(&machine, 0, vec![Box::new(|| {}), Box::new(move || place.set_signal(true))]);
    machine.script([at(0, |context| hvc(context, [id::CPU_OFF, 0, 0, 0]))]);
    assert_eq!((machine.run(0), machine.entries()), (Return::Interrupted, 1));
    assert!(machine.vm.vcpu(0).unwrap().power().off);
}

#[test]
fn cpu_suspend_waits_as_wfi_does() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    let vm = machine.vm.clone();
    let sleeps = on_sleep(&machine, 0, vec![Box::new(move || vm.set_line(0, 40, true).unwrap())]);
    machine.script([
        opened(&machine, |context| hvc(context, [id::CPU_SUSPEND, 0, 0, 0])),
        at(4, |context| {
            assert_eq!(context.r[0] as i32, id::SUCCESS);
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!((machine.run(0), sleeps.load(Ordering::SeqCst)), (Return::Interrupted, 1));
}

#[test]
fn system_off_and_reset_stop_every_vcpu() {
    for (function, event) in [(id::SYSTEM_OFF, KVM_SYSTEM_EVENT_SHUTDOWN), (id::SYSTEM_RESET, KVM_SYSTEM_EVENT_RESET)] {
        let mut machine = Machine::new(3);
        machine.vm.vcpus().for_each(|(_, vcpu)| vcpu.pretend_to_sleep());
        machine.script([at(0, move |context| hvc(context, [function, 0, 0, 0]))]);
        assert_eq!(machine.run(1), Return::Exit(Exit::SystemEvent { event, flags: 0 }));
        assert!(machine.vm.vcpus().all(|(_, vcpu)| vcpu.power().off));
        assert_eq!([wakes(&machine, 0), wakes(&machine, 2)], [1, 1]);
        assert_eq!(machine.states[1].context.r[0] as i32, id::INTERNAL_FAILURE);
    }
}

#[test]
fn a_kick_wakes_a_sleeping_vcpu_on_another_thread() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.script([opened(&machine, |context| trap(context, WFI)), at(4, |_| ExitCode::Interrupt)]);
    let (asleep, is_asleep) = std::sync::mpsc::channel();
    on_sleep(&machine, 0, vec![Box::new(move || asleep.send(()).unwrap())]);
    let (vm, waker) = (machine.vm.clone(), machine.vm.place(0).unwrap().waiter().waker());
    let other = std::thread::spawn(move || {
        let _waker = waker;
        is_asleep.recv().unwrap();
        vm.set_line(0, 40, true).unwrap();
    });
    assert_eq!(machine.run(0), Return::Interrupted);
    other.join().unwrap();
    assert!(wakes(&machine, 0) >= 1);
}
