// SPDX-License-Identifier: GPL-2.0-only
//! What is shared without a lock, on loom's atomics: this crate's own code, under every schedule with up to two preemptions and with
//! every value that a load may see.
//!
//! [`crate::atomic`] and the locks of the fake host are loom's here, so that models run `Vm`, `Vcpu` and KVM_RUN as they are. A CPU's
//! interrupt is a count that orders nothing: what is sent after a vCPU has turned interrupts off waits for its guest, which stays inside
//! until one comes.
//!
//! What loom 0.7 cannot do: it takes SeqCst accesses for acquire and release, which allows more than the language does, so what passes
//! needs no more than that; but it invents failures of code that needs the total order of accesses. Nothing here does: where an order
//! between a store and a later load counts, fences say so, and those loom has. In it two SeqCst fences also order what is not atomic,
//! as DMB does and the language does not; the models have nothing that is not atomic or under a lock. It lets no load see a store that
//! is yet to come.

use crate::atomic::{AtomicBool, Ordering};
use crate::fake::{self, ProcessEvent};
use crate::host::Wake;
use crate::io_bus::Bell;
use crate::irqchip_state::{Half, Word};
use crate::psci::Version;
use crate::run::Return;
use crate::run::machine::{CPU, DIST, Machine, OPEN, WFI, trap};
use crate::timer_interrupts::Timer;
use crate::vcpu::{Power, Vcpu};
use crate::vgic::CpuInterface;
use crate::vm::{IrqchipError, Region, Vm};
use arch::addr::Ipa;
use arch::gic::{gicc, gicd};
use arch::hyp_registers::Hcr;
use hyp_abi::context::{ExitCode, VcpuContext};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Unseen, AtomicUsize as UnseenCount};
use uapi::irq::Ioeventfd;

const SPI: u32 = 40;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// vCPU 0 of a machine, whose guest does nothing until it sees what it waits for or an interrupt brings it out.
struct Guest {
    machine: Machine,
    watch: Watch,
}

#[derive(Clone)]
struct Watch {
    waiter: fake::Waiter,
    host: fake::Host,
    /// Interrupts that came before this stay, while the CPU still took them.
    before: Arc<UnseenCount>,
    /// Nobody does anything any more.
    over: Arc<Unseen>,
    /// The guest runs on for ever.
    runs_on: Arc<Unseen>,
}

impl Watch {
    /// A stay is to begin: what is sent before interrupts are off is not for the guest.
    fn next_stay(&self) {
        let (waiter, before) = (self.waiter.clone(), self.before.clone());
        self.host.race_entry(move || before.store(waiter.kicks(), Ordering::SeqCst));
    }

    /// The guest runs until an interrupt comes. False: none comes.
    fn run_until_interrupted(&self) -> bool {
        while !self.was_interrupted() {
            if self.over.load(Ordering::SeqCst) {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    fn was_interrupted(&self) -> bool {
        self.waiter.kicks() > self.before.load(Ordering::SeqCst)
    }
}

impl Guest {
    fn new(machine: Machine, mut sees: impl FnMut(&fake::Host, &mut VcpuContext) -> bool + Send + 'static) -> Self {
        let waiter = machine.vm.place(0).unwrap().waiter().clone();
        let host = machine.host.clone();
        let watch = Watch { waiter, host, before: Arc::default(), over: Arc::default(), runs_on: Arc::default() };
        watch.next_stay();
        let inside = watch.clone();
        machine.host.set_guest(move |context| {
            context.exit.hsr = 0;
            let done = sees(&inside.host, context);
            if context.exit.hsr != 0 {
                inside.next_stay();
                return ExitCode::Trap;
            }
            if !done && inside.run_until_interrupted() {
                inside.next_stay();
            } else {
                inside.runs_on.store(!done, Ordering::SeqCst);
                inside.host.set_signal(true);
            }
            ExitCode::Interrupt
        });
        Self { machine, watch }
    }

    /// Runs it while `others` do what they do.
    fn run_beside(self, others: impl IntoIterator<Item = thread::JoinHandle<()>>) {
        let Self { mut machine, watch } = self;
        let vcpu = thread::spawn(move || {
            assert_eq!(machine.run(0), Return::Interrupted);
            machine
        });
        others.into_iter().for_each(|other| other.join().unwrap());
        watch.over.store(true, Ordering::SeqCst);
        let machine = vcpu.join().unwrap();
        assert!(!watch.runs_on.load(Ordering::SeqCst), "the guest runs on, and nobody interrupts it");
        drop(machine);
    }
}

/// Whether the hardware was given the interrupt.
fn is_loaded(host: &fake::Host) -> bool {
    host.with_cpu_interface(|interface| interface.lr[..interface.used].iter().any(|lr| lr.intid() == SPI))
}

fn machine(vcpus: usize) -> Machine {
    let mut machine = Machine::new(vcpus);
    machine.enable_interrupts();
    machine.open_interface();
    machine
}

/// A kick may meet the mark of the stay before.
#[test]
fn a_change_is_seen_or_its_kick_meets_the_guest() {
    explore(|| {
        let vcpu = Arc::new(Vcpu::new(&fake::Host::new()).unwrap());
        let changed = Arc::new(AtomicBool::new(false));
        let kicker = thread::spawn({
            let (vcpu, changed) = (vcpu.clone(), changed.clone());
            move || {
                changed.store(true, Ordering::Relaxed);
                vcpu.kick();
            }
        });
        let runner = thread::spawn(move || {
            vcpu.set_in_guest(true);
            vcpu.set_in_guest(false);
            let before = vcpu.waiter().kicks();
            vcpu.set_in_guest(true);
            let seen = changed.load(Ordering::Relaxed);
            kicker.join().unwrap();
            assert!(seen || vcpu.waiter().kicks() > before, "the guest runs on, and nobody interrupts it");
        });
        runner.join().unwrap();
    });
}

/// If not, it sleeps for ever, which loom finds.
#[test]
fn a_change_is_seen_or_its_kick_wakes_the_thread() {
    explore(|| {
        let vcpu = Arc::new(Vcpu::new(&fake::Host::new()).unwrap());
        let changed = Arc::new(AtomicBool::new(false));
        let sleeper = thread::spawn({
            let (vcpu, changed) = (vcpu.clone(), changed.clone());
            move || {
                vcpu.set_in_guest(true);
                vcpu.set_in_guest(false);
                assert_eq!(vcpu.sleep_until(|| changed.load(Ordering::Relaxed)), Wake::Ready);
            }
        });
        changed.store(true, Ordering::Relaxed);
        vcpu.kick();
        sleeper.join().unwrap();
    });
}

/// `Vm::concerned` is looked at without the lock.
#[test]
fn an_interrupt_is_loaded_or_interrupts_the_guest() {
    explore(|| {
        let guest = Guest::new(machine(1), |host, _| is_loaded(host));
        let vm = guest.machine.vm.clone();
        guest.run_beside([thread::spawn(move || vm.set_line(0, SPI, true).unwrap())]);
    });
}

#[test]
fn an_interrupt_ends_wfi() {
    explore(|| {
        let mut waited = false;
        let guest = Guest::new(machine(1), move |host, context| {
            let loaded = is_loaded(host);
            if !loaded && !waited {
                waited = true;
                trap(context, WFI);
            }
            loaded
        });
        let vm = guest.machine.vm.clone();
        guest.run_beside([thread::spawn(move || vm.set_line(0, SPI, true).unwrap())]);
    });
}

/// It goes from vCPU 0, which has it in a list register, to vCPU 1, which waits.
#[test]
fn an_interrupt_that_goes_elsewhere_leaves_one_queue_and_wakes_the_other() {
    explore(|| {
        let machine = machine(2);
        machine.vm.set_line(0, SPI, true).unwrap();
        let guest = Guest::new(machine, |host, _| !is_loaded(host));
        let (vm, there) = (guest.machine.vm.clone(), guest.machine.vm.clone());
        let sleeper = thread::spawn(move || {
            let is_there = || there.with_vgic(|vgic| vgic.has_deliverable(1, OPEN)).unwrap();
            assert_eq!(there.vcpu(1).unwrap().sleep_until(is_there), Wake::Ready);
        });
        let writer = thread::spawn(move || {
            let kicks = vm.with_vgic(|vgic| vgic.dist_write(0, gicd::ITARGETSR + SPI, 1, 2)).unwrap();
            vm.kick(kicks);
        });
        guest.run_beside([writer, sleeper]);
    });
}

#[test]
fn an_input_is_up_or_interrupts_the_guest() {
    explore(|| {
        let sees =
            |_: &fake::Host, context: &mut VcpuContext| Hcr::from_bits_retain(context.control.hcr).contains(Hcr::VI);
        let guest = Guest::new(Machine::bare(1), sees);
        let vm = guest.machine.vm.clone();
        guest.run_beside([thread::spawn(move || {
            let vcpu = vm.vcpu(0).unwrap();
            assert!(vcpu.set_line(Hcr::VI, true));
            vcpu.kick();
        })]);
    });
}

#[test]
fn a_vcpu_that_is_turned_off_does_not_stay_in_its_guest() {
    explore(|| {
        let guest = Guest::new(machine(1), |_, _| false);
        let vm = guest.machine.vm.clone();
        guest.run_beside([thread::spawn(move || {
            let vcpu = vm.vcpu(0).unwrap();
            vcpu.change_power(|power| *power = Power { off: true, start: None });
            vcpu.kick();
            vcpu.waiter().set_signal(true);
        })]);
    });
}

/// Another vCPU's thread, or a process's, looks while the first one makes the interrupt controller.
#[test]
fn who_sees_that_the_interrupt_controller_is_settled_sees_all_of_it() {
    explore(|| {
        let machine = Machine::bare(1);
        let vm = machine.vm.clone();
        vm.create_irqchip().unwrap();
        vm.set_irqchip_address(Region::Distributor, DIST).unwrap();
        vm.set_irqchip_address(Region::CpuInterface, CPU).unwrap();
        let chooser = thread::spawn({
            let vm = vm.clone();
            move || vm.set_timer_ppi(Timer::Virtual, 20).is_ok()
        });
        let reader = thread::spawn({
            let vm = vm.clone();
            move || vm.distributor().map(|at| (at, vm.timer_ppis.virtual_timer()))
        });
        vm.prepare_to_run(&machine.hypervisor).unwrap();
        let timer = vm.timer_ppis.virtual_timer();
        assert_eq!(timer == 20, chooser.join().unwrap(), "the timers' PPIs are fixed");
        if let Some(seen) = reader.join().unwrap() {
            assert_eq!(seen, (Ipa::new(DIST), timer));
        }
    });
}

/// A process writes a vCPU's interface while KVM_RUN begins, or ends.
#[test]
fn an_interface_is_the_processs_or_the_guests() {
    explore(|| {
        let machine = machine(1);
        let (vm, hypervisor) = (machine.vm.clone(), machine.hypervisor.clone());
        let word = Word { half: Half::CpuInterface, vcpu: 0, offset: gicc::PMR };
        let runner = thread::spawn({
            let vm = vm.clone();
            move || {
                let vcpu = vm.vcpu(0).unwrap();
                let mut interface = CpuInterface::default();
                vm.begin_run(vcpu, &mut interface);
                // The guest has acknowledged something.
                interface.apr = 1;
                vm.end_run(vcpu, &interface);
            }
        });
        let written = vm.write_irqchip(&hypervisor, word, 0x0a);
        runner.join().unwrap();
        let parked = vm.vcpu(0).unwrap().parked();
        assert_eq!(parked.apr, 1, "what the guest did is lost");
        let expected = match written {
            Ok(()) => 0x0a << 27 | OPEN << 5 >> 5,
            Err(error) => {
                assert_eq!(error, IrqchipError::Busy);
                OPEN
            }
        };
        assert_eq!(parked.vmcr, expected, "what the process wrote is lost, or was not to be written");
    });
}

/// What Hyp mode may answer is written anew when the count has changed: `change` beside somebody who counts and looks.
fn who_has_counted_sees(change: fn(&Vm<fake::Host>), is_changed: fn(&Vm<fake::Host>) -> bool) {
    explore(move || {
        let machine = machine(1);
        let vm = machine.vm.clone();
        vm.prepare_to_run(&machine.hypervisor).unwrap();
        let reader = thread::spawn({
            let vm = vm.clone();
            move || (vm.generation(), is_changed(&vm))
        });
        change(&vm);
        let (generation, seen) = reader.join().unwrap();
        assert!(seen || generation != vm.generation(), "a change was counted before it could be seen");
    });
}

#[test]
fn who_has_counted_a_change_of_firmware_sees_it() {
    who_has_counted_sees(|vm| vm.set_psci_version(Version::V0_2), |vm| vm.firmware().version == Version::V0_2);
}

#[test]
fn who_has_counted_a_change_of_slots_sees_it() {
    // Over the distributor, which then is nowhere.
    const OVER_IT: crate::memslots::Region = crate::memslots::Region {
        slot: 0,
        flags: 0,
        guest_phys_addr: DIST,
        memory_size: 4096,
        userspace_addr: 0x1000_0000,
    };
    who_has_counted_sees(|vm| assert!(vm.memory.set_region(&OVER_IT).is_ok()), |vm| vm.distributor().is_none());
}

#[test]
fn no_doorbell_is_lost_while_others_come_and_go() {
    explore(|| {
        let machine = Machine::bare(1);
        let (vm, host) = (machine.vm.clone(), machine.host.clone());
        let bell = |addr| Bell::new(&Ioeventfd { datamatch: 0, addr, len: 4, fd: 0, flags: 0, pad: [0; 36] }).unwrap();
        let other = thread::spawn({
            let (vm, host) = (vm.clone(), host.clone());
            move || {
                let event = ProcessEvent::default();
                vm.bus.add_bell(&host, bell(8), event.clone()).unwrap();
                vm.bus.remove_bell(&bell(8), &event).unwrap();
            }
        });
        let event = ProcessEvent::default();
        vm.bus.add_bell(&host, bell(16), event.clone()).unwrap();
        assert!(vm.bus.write(16, 4, [0; 8]) && event.take() == 1);
        other.join().unwrap();
        assert!(vm.bus.write(16, 4, [0; 8]) && event.take() == 1);
        vm.bus.remove_bell(&bell(16), &event).unwrap();
        assert!(!vm.bus.write(8, 4, [0; 8]));
    });
}
