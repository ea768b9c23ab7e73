// SPDX-License-Identifier: GPL-2.0-only
//! What is answered with interrupts off, what is not, and what must be noticed all the same.

use crate::memslots::Region;
use crate::run::Return;
use crate::run::machine::*;
use arch::cp15::reg;
use arch::gic::{ListRegister, gicd};
use hyp_abi::context::ExitCode;
use uapi::psci as id;

fn dist(offset: u32) -> u64 {
    DIST + u64::from(offset)
}

/// Runs vCPU 0 to the end of its script.
fn run(machine: &mut Machine, script: impl IntoIterator<Item = Step>) {
    machine.script(script);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn what_is_at_hand_is_answered_without_leaving() {
    let mut machine = Machine::new(1);
    run(
        &mut machine,
        [
            at(0, |context| hvc(context, [id::PSCI_VERSION, 0, 0, 0])),
            at(4, |context| {
                assert_eq!(context.r[..4], [id::VERSION_1_0, 0, 0, 0]);
                trap(context, mrc(reg::ACTLR, 5))
            }),
            at(8, |context| {
                assert_eq!(context.r[5], 1); // the host's, of a VM with one vCPU
                fault(context, load(14), dist(gicd::IIDR))
            }),
            at(12, |context| {
                assert_eq!(context.banks.svc.lr, 0x4b00_243b);
                context.r[7] = 1 << 27;
                fault(context, store(7), dist(gicd::ISENABLER))
            }),
            at(16, |context| fault(context, load(8), dist(gicd::ISENABLER))),
            at(20, |context| {
                assert_eq!(context.r[8], 1 << 27 | 0xffff);
                trap(context, mrc(reg::CNTP_CTL, 9))
            }),
            at(24, |_| ExitCode::Interrupt),
        ],
    );
    assert_eq!(machine.host.leaves(), 0);
}

#[test]
fn what_needs_more_leaves_first() {
    let mut machine = Machine::new(2);
    let narrow = load(1) & !(3 << 22); // LDRB
    run(
        &mut machine,
        [
            at(0, |context| trap(context, mrc(reg::CNTP_CTL, 1) & !1)), // a timer may have to be set
            at(4, |context| trap(context, mrc(reg::SCTLR, 1) & !1)),    // caches may have to be cleaned
            at(8, |context| hvc(context, [id::AFFINITY_INFO, 0, 0, 0])),
            at(12, |context| fault(context, load(1), dist(gicd::ISPENDR + 4))), // another vCPU may have it loaded
            at(16, move |context| fault(context, narrow, dist(gicd::ITARGETSR))),
            at(20, |_| ExitCode::Interrupt),
        ],
    );
    assert_eq!(machine.host.leaves(), 5);
}

#[test]
fn other_modes_and_other_states_never_come_so() {
    let mut machine = Machine::new(1);
    for status in [0x12, 0x1f, 0x13 | 1 << 5, 0x13 | 1 << 9] {
        let before = machine.host.leaves();
        machine.states[0].context.pc = START;
        machine.states[0].context.cpsr = status;
        run(&mut machine, [at(0, |context| fault(context, load(1), dist(gicd::IIDR))), at(4, |_| ExitCode::Interrupt)]);
        assert_eq!(machine.host.leaves(), before, "{status:#x}");
        let swapped = status & 1 << 9 != 0;
        let expected = if swapped { 0x4b00_243b_u32.swap_bytes() } else { 0x4b00_243b };
        assert_eq!(machine.states[0].context.r[1], expected, "{status:#x}");
    }
}

#[test]
fn a_slot_over_the_distributor_is_found_while_the_guest_stays() {
    let mut machine = Machine::new(1);
    let vm = machine.vm.clone();
    machine.host.set_page(
        HVA,
        Ok(crate::host::Resolved {
            phys: arch::addr::HostPhys::new(PHYS),
            writable: true,
            block: false,
            device: false,
        }),
    );
    run(
        &mut machine,
        [
            at(0, |context| fault(context, load(1), dist(gicd::IIDR))),
            at(4, move |context| {
                let region = Region {
                    slot: 3,
                    flags: 0,
                    guest_phys_addr: DIST,
                    memory_size: 0x1000,
                    userspace_addr: HVA.get().into(),
                };
                // Another thread of the process, which may sleep.
                std::thread::scope(|scope| {
                    scope.spawn(|| vm.memory.set_region(&region).unwrap());
                });
                fault(context, load(1), dist(gicd::IIDR))
            }),
            // Mapped, and the instruction runs again.
            at(4, |_| ExitCode::Interrupt),
        ],
    );
}

#[test]
fn a_version_of_psci_that_changes_is_answered_from_then_on() {
    let mut machine = Machine::new(1);
    let version = |context: &hyp_abi::context::VcpuContext| {
        context.answers.calls.iter().find(|answer| answer.question == id::PSCI_VERSION).unwrap().value
    };
    run(&mut machine, [at(0, |_| ExitCode::Interrupt)]);
    assert_eq!(version(&machine.states[0].context), id::VERSION_1_0);
    machine.vm.set_psci_version(crate::psci::Version::V0_2);
    run(&mut machine, [at(0, |_| ExitCode::Interrupt)]);
    assert_eq!(version(&machine.states[0].context), 2);
}

#[test]
fn whoever_sleeps_is_woken_after_the_guest_was_left() {
    let mut machine = Machine::new(2);
    machine.enable_interrupts();
    let place = machine.vm.place(1).unwrap().waiter().clone();
    let (host, before) = (machine.host.clone(), place.wakes());
    let (now, inside, out) = (place.clone(), machine.vm.clone(), machine.vm.clone());
    machine.vm.vcpu(1).unwrap().pretend_to_sleep();
    run(
        &mut machine,
        [
            at(0, |context| {
                context.r[1] = 2 << 16; // SGI 0 to vCPU 1
                fault(context, store(1), dist(gicd::SGIR))
            }),
            at(4, move |context| {
                assert_eq!((now.wakes(), now.kicks(), host.leaves()), (before + 1, 0, 1));
                // In its guest it is interrupted, and this one stays.
                inside.vcpu(1).unwrap().set_in_guest(true);
                context.r[1] = 2 << 16 | 1;
                fault(context, store(1), dist(gicd::SGIR))
            }),
            at(8, move |context| {
                // On its way between the two it looks by itself.
                out.vcpu(1).unwrap().set_in_guest(false);
                context.r[1] = 2 << 16 | 2;
                fault(context, store(1), dist(gicd::SGIR))
            }),
            at(12, |_| ExitCode::Interrupt),
        ],
    );
    assert_eq!((place.wakes(), place.kicks(), machine.host.leaves()), (before + 1, 1, 1));
}

#[test]
fn an_sgi_to_itself_is_given_out_with_the_mask_of_now() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    let (before, after) = (machine.host.clone(), machine.host.clone());
    let mask = OPEN & 0x07ff_ffff | 0x10 << 27;
    run(
        &mut machine,
        [
            at(0, move |context| {
                before.with_cpu_interface(|interface| interface.vmcr = mask);
                context.r[1] = 2 << 24;
                fault(context, store(1), dist(gicd::SGIR))
            }),
            at(4, move |_| {
                after.with_cpu_interface(|interface| {
                    assert_eq!((interface.vmcr, interface.used, interface.lr[0].intid()), (mask, 1, 0));
                });
                ExitCode::Interrupt
            }),
        ],
    );
    assert_eq!(machine.host.leaves(), 0);
}

#[test]
fn the_guests_own_timer_brings_it_back_at_once() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    let (host, first, last) = (machine.host.clone(), machine.host.clone(), machine.host.clone());
    run(
        &mut machine,
        [
            at(0, move |context| {
                (context.timer.ctl, context.timer.cval) = (1, 0);
                first.set_must_stop();
                ExitCode::Interrupt
            }),
            at(0, move |_| {
                host.with_cpu_interface(|interface| assert_eq!((interface.used, interface.lr[0].intid()), (1, 27)));
                // Nobody else had a turn in between, although one was due.
                assert!(crate::host::Host::must_stop(&host));
                ExitCode::Interrupt
            }),
            at(0, move |_| {
                assert!(!crate::host::Host::must_stop(&last), "now they had");
                ExitCode::Interrupt
            }),
        ],
    );
}

#[test]
fn the_timers_interrupt_is_held_until_the_guest_has_ended_it() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    let [taking, ending, ended] = [0; 3].map(|_| machine.host.clone());
    let to_itself = |context: &mut hyp_abi::context::VcpuContext| {
        context.r[1] = 2 << 24;
        fault(context, store(1), dist(gicd::SGIR))
    };
    run(
        &mut machine,
        [
            at(0, |context| {
                (context.timer.ctl, context.timer.cval) = (1, 0);
                ExitCode::Interrupt
            }),
            at(0, move |context| {
                taking.with_cpu_interface(|interface| {
                    interface.lr[0] = interface.lr[0].with_pending(false).with_active(true);
                });
                context.timer.ctl = 0;
                ExitCode::Interrupt
            }),
            at(0, to_itself),
            at(4, move |context| {
                assert!(ending.is_timer_held(), "it is active");
                ending.with_cpu_interface(|interface| {
                    let timer = interface.lr.iter_mut().find(|register| register.intid() == 27).unwrap();
                    *timer = ListRegister::EMPTY;
                });
                to_itself(context)
            }),
            at(8, move |_| {
                assert!(!ended.is_timer_held());
                ExitCode::Interrupt
            }),
        ],
    );
    assert_eq!(machine.host.leaves(), 0);
}

#[test]
fn an_abort_that_comes_with_the_timer_is_not_lost() {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    let second = |context: &mut hyp_abi::context::VcpuContext| {
        context.exit.async_abort = 0; // as Hyp mode does
        ExitCode::Interrupt
    };
    run(
        &mut machine,
        [
            at(0, |context| {
                (context.timer.ctl, context.timer.cval) = (1, 0);
                context.exit.async_abort = 1;
                ExitCode::Interrupt
            }),
            at(0, second),
        ],
    );
    assert!(crate::inject::async_abort_is_pending(&machine.states[0].context));
}

#[test]
fn a_vcpu_whose_state_is_lost_on_the_way_out_does_not_run_again() {
    let mut machine = Machine::new(1);
    machine.host.fail_to_leave();
    machine.script([at(0, |context| hvc(context, [id::AFFINITY_INFO, 0, 0, 0]))]);
    assert!(matches!(machine.run(0), Return::Exit(uapi::run::Exit::InternalError { .. })));
    machine.script([]);
    assert!(matches!(machine.run(0), Return::Exit(uapi::run::Exit::InternalError { .. })));
    assert_eq!(machine.entries(), 1);
}
