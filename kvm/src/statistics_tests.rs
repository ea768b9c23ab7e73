// SPDX-License-Identifier: GPL-2.0-only
//! Counters that wrap, under loom, and what a guest's stays count.

use super::*;

#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn a_reader_never_sees_a_count_that_was_not() {
        loom::model(|| {
            let counter = Arc::new(Counter { low: AtomicU32::new(u32::MAX - 1), high: AtomicU32::new(2) });
            let first = (1 << 32) + u64::from(u32::MAX) - 1;
            // The reader is the thread, since loom loses sight of what a thread read once the writer has read it, too.
            let reader = {
                let counter = counter.clone();
                thread::spawn(move || {
                    let (one, two) = (counter.read(), counter.read());
                    assert!((first..=first + 3).contains(&one), "{one:#x}");
                    assert!((one..=first + 3).contains(&two), "{two:#x} after {one:#x}");
                })
            };
            (0..3).for_each(|_| counter.count());
            reader.join().unwrap();
            assert_eq!(counter.read(), first + 3);
        });
    }
}

#[cfg(not(loom))]
mod counting {
    use super::*;
    use crate::run::machine::*;
    use arch::cp15::reg;
    use arch::gic::gicd;
    use hyp_abi::context::ExitCode;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn a_counter_goes_beyond_32_bits() {
        let counter = Counter::default();
        counter.add(u32::MAX);
        counter.count();
        assert_eq!(counter.read(), 1 << 32);
        counter.add(u32::MAX);
        counter.add(u32::MAX);
        assert_eq!(counter.read(), 3 * (1 << 32) - 2);
    }

    #[test]
    fn names_are_kvms_and_each_is_there_once() {
        let names: Vec<String> = Statistic::ALL.iter().map(|which| which.name().to_str().unwrap().into()).collect();
        for name in
            "hvc_exit_stat wfe_exit_stat wfi_exit_stat mmio_exit_user mmio_exit_kernel exits halt_successful_poll \
            halt_attempted_poll halt_poll_invalid halt_wakeup halt_poll_success_ns halt_poll_fail_ns remote_tlb_flush"
                .split(' ')
        {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        let places: Vec<usize> = Statistic::ALL.iter().map(|which| *which as usize).collect();
        assert_eq!(places, (0..names.len()).collect::<Vec<_>>());
    }

    /// What is not zero.
    fn counts(machine: &Machine) -> Vec<(&'static str, u64)> {
        let all = Statistic::ALL.iter().map(|which| (which.name().to_str().unwrap(), machine.vm.statistic(*which)));
        all.filter(|(_, count)| *count != 0).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn each_exit_counts_once_by_its_kind() {
        let mut machine = Machine::new(1);
        machine.enable_interrupts();
        machine.open_interface();
        machine.give_ram(1);
        machine.script([
            at(0, |context| trap(context, WFI | 1)), // WFE
            at(4, |context| {
                context.timer.ctl = 1; // due
                trap(context, WFI)
            }),
            at(8, |context| hvc(context, [uapi::psci::PSCI_VERSION, 0, 0, 0])),
            at(12, |context| fault(context, load(1), DIST + u64::from(gicd::IIDR))),
            at(16, |context| fault(context, load(1), RAM)),
            at(16, |context| {
                context.r[1] = 5; // M, C
                trap(context, mrc(reg::SCTLR, 1) & !1)
            }),
            at(20, |context| trap(context, mrc(reg::DCCISW, 1) & !1)),
            at(24, |context| {
                context.exit.hyp_answers = 5;
                context.exit.vfp_switches = 1;
                ExitCode::Interrupt
            }),
            at(24, |context| fault(context, load(1), NOWHERE)),
        ]);
        machine.run(0);
        let expected = [
            ("hvc_exit_stat", 1),
            ("wfe_exit_stat", 1),
            ("wfi_exit_stat", 1),
            ("mmio_exit_user", 1),
            ("mmio_exit_kernel", 1),
            ("exits", 9),
            ("irq_exits", 1),
            ("guest_faults", 3),
            ("set_way_flushes", 1),
            ("cache_toggles", 1),
            ("hyp_answers", 5),
            ("vfp_switches", 1),
        ];
        assert_eq!(counts(&machine), expected);
    }

    #[test]
    fn short_exits_count_as_exits() {
        let mut machine = Machine::new(1);
        machine.enable_interrupts();
        machine.script([
            at(0, |context| fault(context, load(1), DIST + u64::from(gicd::IIDR))),
            at(4, |context| hvc(context, [uapi::psci::PSCI_VERSION, 0, 0, 0])),
            at(8, |_| ExitCode::Interrupt),
        ]);
        machine.run(0);
        // The last stay's end is the script's.
        assert_eq!(machine.host.leaves(), 0);
        let expected =
            [("hvc_exit_stat", 1), ("mmio_exit_kernel", 1), ("exits", 4), ("irq_exits", 2), ("signal_exits", 1)];
        assert_eq!(counts(&machine), expected);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn whoever_slept_and_was_woken_counts() {
        let mut machine = Machine::new(1);
        let host = machine.host.clone();
        machine.enable_interrupts();
        machine.open_interface();
        machine.vm.place(0).unwrap().waiter().on_sleep(move || host.advance_to(100));
        machine.script([at(0, |context| {
            (context.timer.ctl, context.timer.cval) = (1, 100);
            trap(context, WFI)
        })]);
        machine.run(0);
        assert_eq!(machine.vm.statistic(Statistic::HaltWakeup), 1);
    }

    #[test]
    fn flushes_of_the_vms_tlb_entries_count() {
        let mut machine = Machine::bare(1);
        machine.give_ram(1);
        machine.script([at(0, |context| fault(context, load(1), RAM))]);
        machine.run(0);
        assert_eq!(machine.vm.statistic(Statistic::RemoteTlbFlush), 0);
        machine.vm.memory.invalidate_begin(HVA..arch::addr::HostVirt::new(HVA.get() + 4096));
        machine.vm.memory.invalidate_end();
        assert_eq!(machine.vm.statistic(Statistic::RemoteTlbFlush), 1);
    }

    #[test]
    fn what_was_cleared_starts_anew_and_nothing_else_does() {
        let mut machine = Machine::bare(2);
        for number in [0, 1] {
            machine.script([at(0, |_| ExitCode::Interrupt), at(0, |_| ExitCode::Interrupt)]);
            machine.run(number);
        }
        assert_eq!(machine.vm.statistic(Statistic::Exits), 6);
        machine.vm.clear_statistic(Statistic::Exits);
        assert_eq!((machine.vm.statistic(Statistic::Exits), machine.vm.statistic(Statistic::IrqExits)), (0, 6));
        machine.script([]);
        machine.run(1);
        assert_eq!(machine.vm.statistic(Statistic::Exits), 1);
    }
}
