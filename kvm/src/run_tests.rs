// SPDX-License-Identifier: GPL-2.0-only
//! KVM_RUN with scripted guests: ways in, exits, memory and devices. Interrupts, time and power are `run_event_tests`'.

use super::machine::*;
use super::*;
use crate::fake::{Event, Waiter as FakeWaiter};
use crate::guest_memory::{Access, FaultOutcome};
use crate::memslots::Region;
use crate::vm::Hit;
use crate::vmid::{VmidSlot, Vmids};
use arch::addr::{HostPhys, Ipa};
use arch::cp15::reg;
use arch::gic::gicd;
use arch::guest_registers::Sctlr;
use arch::hyp_registers::Hcr;
use arch::psr::{Mode, Psr};
use hyp_abi::context::VcpuContext;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;
use uapi::run::Mmio;

fn waiter(machine: &Machine, number: usize) -> FakeWaiter {
    machine.vm.place(number).unwrap().waiter().clone()
}

/// The guest that was left has taken this exception: mode, offset of the vector.
fn has_taken(context: &VcpuContext) -> (Option<Mode>, u32) {
    (Mode::from_psr(context.cpsr), context.pc - VECTORS)
}

#[test]
fn a_signal_comes_before_the_guest() {
    let mut machine = Machine::new(1);
    machine.host.set_signal(true);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.entries(), 0);
}

#[test]
fn a_signal_that_comes_at_the_last_moment_does_too() {
    let mut machine = Machine::new(1);
    let host = machine.host.clone();
    machine.host.race_entry(move || host.set_signal(true));
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.entries(), 0);
}

#[test]
fn the_kernels_own_work_comes_before_the_guest_and_a_signal_before_that() {
    let mut machine = Machine::new(1);
    let host = machine.host.clone();
    machine.host.race_entry(move || host.set_work(true));
    assert_eq!(machine.run(0), Return::Again);
    assert_eq!(machine.entries(), 0);
    machine.host.set_signal(true);
    assert_eq!(machine.run(0), Return::Interrupted);
    machine.host.set_signal(false);
    machine.host.set_work(false);
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        host.set_work(true);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Again, "and it is looked for after each stay");
    assert_eq!(machine.entries(), 1);
}

#[test]
fn an_immediate_exit_completes_the_pending_access_and_nothing_more() {
    let mut machine = Machine::new(1);
    machine.script([at(0, |context| fault(context, load(3), NOWHERE))]);
    assert!(matches!(machine.run(0), Return::Exit(Exit::Mmio(_))));
    let (pc, yields) = (machine.states[0].context.pc, machine.host.yields());
    let answer = [0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0];
    assert_eq!(machine.run_with(0, answer, true), Return::Interrupted);
    assert_eq!((machine.states[0].context.r[3], machine.states[0].context.pc), (0x1234_5678, pc + 4));
    assert_eq!((machine.entries(), machine.host.yields()), (1, yields));
    // Once.
    assert_eq!(machine.run_with(0, [0; 8], true), Return::Interrupted);
    assert_eq!((machine.states[0].context.r[3], machine.states[0].context.pc), (0x1234_5678, pc + 4));
}

#[test]
fn another_threads_turn_comes_before_the_guest() {
    let mut machine = Machine::new(1);
    let host = machine.host.clone();
    machine.hypervisor.vmids.assign(machine.vm.memory.vmid());
    machine.host.race_entry(move || host.set_must_stop());
    machine.script([at(0, |_| ExitCode::Interrupt)]);
    assert_eq!(machine.run(0), Return::Interrupted);
    // Turned away once, entered for the step and for the end of the script, out at the signal.
    assert_eq!((machine.entries(), machine.host.yields()), (2, 2));
}

#[test]
fn the_vmid_is_the_vms_and_of_this_generation() {
    let mut machine = Machine::new(1);
    let vmids: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let seen = vmids.clone();
    machine.script([at(0, move |context| {
        seen.lock().unwrap().push(context.control.vttbr);
        ExitCode::Interrupt
    })]);
    // Others use up the generation at the last moment: the vCPU must not enter with what it was given.
    let hypervisor = machine.hypervisor.clone();
    hypervisor.vmids.assign(machine.vm.memory.vmid());
    machine.host.race_entry(move || {
        for _ in 0..254 {
            hypervisor.vmids.assign(&VmidSlot::new());
        }
        hypervisor.vmids.assign(&VmidSlot::new());
    });
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(*vmids.lock().unwrap(), [machine.vm.memory.vttbr(&machine.hypervisor.vmids).unwrap().bits()]);
    // VMID 1 was the VM's, then another's; the second that was given out of the new generation is the VM's now.
    assert_eq!(vmids.lock().unwrap()[0] >> 48 & 0xff, 2);
    assert!(machine.host.take_events().contains(&Event::FlushAll));
}

#[test]
fn a_slot_that_comes_or_goes_where_the_last_device_was_is_seen_at_once() {
    let mut machine = Machine::new(1);
    let vm = machine.vm.clone();
    let region = |pages: u64| Region {
        slot: 1,
        flags: 0,
        guest_phys_addr: NOWHERE,
        memory_size: pages * 4096,
        userspace_addr: HVA.get().into(),
    };
    let phys = HostPhys::new(PHYS);
    machine.host.set_page(HVA, Ok(crate::host::Resolved { phys, writable: true, block: false, device: false }));
    let load_at = |offset| at(offset, |context| fault(context, load(3), NOWHERE + 4));
    let asks = |machine: &mut Machine, steps: Vec<Step>| {
        machine.script(steps);
        matches!(machine.run_with(0, [7; 8], false), Return::Exit(Exit::Mmio(mmio)) if mmio.phys_addr == NOWHERE + 4)
    };
    assert!(asks(&mut machine, vec![load_at(0)]));
    assert!(asks(&mut machine, vec![load_at(4)]));
    // With memory there, what aborted is tried again; the script's end comes next.
    vm.memory.set_region(&region(1)).unwrap();
    assert!(!asks(&mut machine, vec![load_at(8), at(8, |_| ExitCode::Interrupt)]));
    vm.memory.set_region(&region(0)).unwrap();
    assert!(asks(&mut machine, vec![load_at(8)]));
    assert!(asks(&mut machine, vec![load_at(12)]));
}

#[test]
fn a_vm_whose_vmid_another_has_does_not_run() {
    let mut machine = Machine::new(1);
    machine.host.set_cpu(1);
    // Another VM runs under VMID 1 of the first generation, which the allocator knows nothing of.
    let (other, hypervisor) = (VmidSlot::new(), Vmids::new(machine.host.clone()));
    hypervisor.assign(&other);
    assert!(machine.host.may_enter(&other, other.vttbr(HostPhys::new(0x2000)).unwrap()));
    let entries = machine.entries();
    let refused = Exit::FailEntry { hardware_entry_failure_reason: 5, cpu: 1 };
    assert_eq!(machine.run(0), Return::Exit(refused));
    assert_eq!(machine.entries(), entries);
}

#[test]
fn a_kick_reaches_a_vcpu_in_its_guest_and_only_there() {
    let mut machine = Machine::new(1);
    let (vm, place) = (machine.vm.clone(), waiter(&machine, 0));
    let inside = place.clone();
    machine.script([at(0, move |_| {
        assert_eq!(inside.kicks(), 0);
        vm.vcpu(0).unwrap().kick();
        assert_eq!(inside.kicks(), 1);
        ExitCode::Interrupt
    })]);
    machine.vm.vcpu(0).unwrap().pretend_to_sleep();
    machine.vm.vcpu(0).unwrap().kick();
    assert_eq!((place.wakes(), place.kicks()), (1, 0));
    machine.run(0);
    assert_eq!((place.wakes(), place.kicks()), (1, 1), "whoever is inside need not be woken");
    machine.vm.vcpu(0).unwrap().kick();
    assert_eq!((place.wakes(), place.kicks()), (1, 1), "nor whoever is neither inside nor asleep");
    // Turned away at the last moment, it is not in the guest either.
    let host = machine.host.clone();
    machine.host.set_signal(false);
    machine.host.race_entry(move || host.set_signal(true));
    machine.run(0);
    machine.vm.vcpu(0).unwrap().kick();
    assert_eq!((place.wakes(), place.kicks()), (1, 1));
}

#[test]
fn vcpus_that_share_a_cpu_have_its_tlb_flushed_in_between() {
    let mut machine = Machine::new(2);
    let mut local_flushes = |vcpu, cpu| {
        machine.host.set_cpu(cpu);
        machine.script([]);
        machine.run(vcpu);
        let flush = Event::FlushVmidLocal(machine.vm.memory.vttbr(&machine.hypervisor.vmids).unwrap().bits(), cpu);
        machine.host.take_events().into_iter().filter(|event| *event == flush).count()
    };
    assert_eq!(local_flushes(0, 0), 0);
    assert_eq!(local_flushes(0, 0), 0);
    assert_eq!(local_flushes(1, 0), 1);
    assert_eq!(local_flushes(0, 1), 0);
    assert_eq!(local_flushes(1, 0), 0);
    assert_eq!(local_flushes(0, 0), 1);
}

#[test]
fn a_vcpu_without_a_controller_that_was_asked_for_does_not_run() {
    let mut machine = Machine::bare(1);
    machine.vm.create_irqchip().unwrap();
    assert_eq!(machine.run(0), Return::Irqchip(IrqchipError::Incomplete));
    machine.vm.set_irqchip_address(crate::vm::Region::Distributor, DIST).unwrap();
    assert_eq!(machine.run(0), Return::Irqchip(IrqchipError::Incomplete));
    machine.vm.set_irqchip_address(crate::vm::Region::CpuInterface, CPU).unwrap();
    assert!(!machine.vm.has_running_irqchip());
    machine.script([]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert!(machine.vm.has_running_irqchip() && machine.entries() == 1);
}

#[test]
fn a_vcpu_that_was_not_created_does_not_run() {
    let mut machine = Machine::bare(1);
    let mut state = VcpuState::new(&machine.host, machine.vm.place(1).unwrap().waiter()).unwrap();
    let result = run(&machine.hypervisor, &machine.vm, 1, &mut state, [0; 8], false);
    assert_eq!(result, Return::Irqchip(IrqchipError::Invalid));
    machine.script([]);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn trapped_registers() {
    let mut machine = Machine::new(2);
    machine.script([
        at(0, |context| trap(context, mrc(reg::ACTLR, 5))),
        at(4, |context| {
            assert_eq!(context.r[5], 0x41 | 1 << 6);
            // MCR ACTLR: ignored.
            context.r[5] = 0;
            trap(context, mrc(reg::ACTLR, 5) & !1)
        }),
        at(8, |context| trap(context, mrc(reg::ACTLR, 6))),
        at(12, |context| {
            assert_eq!(context.r[6], 0x41 | 1 << 6);
            // A debug register: reads as zero.
            context.r[6] = 5;
            trap(context, 0x05 << 26 | mrc(reg::ACTLR, 6) & 0x03ff_ffff)
        }),
        at(16, |context| {
            assert_eq!(context.r[6], 0);
            // c11 is for TCM and DMA: undefined.
            trap(context, mrc(arch::cp15::Cp15::new(11, 0, 0, 0), 5))
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    let context = &machine.states[0].context;
    assert_eq!(has_taken(context), (Some(Mode::Und), 4));
    assert_eq!(context.banks.und.lr, START + 16 + 4);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn maintenance_by_set_and_way_flushes_what_the_guest_has_once() {
    let mut machine = Machine::new(1);
    machine.give_ram(4);
    machine.script([
        at(0, |context| fault(context, store(1), RAM + 0x1000)),
        at(0, |context| {
            context.control.hcr &= !Hcr::TVM.bits();
            trap(context, mrc(reg::DCISW, 1) & !1)
        }),
        at(4, |context| {
            assert_ne!(context.control.hcr & Hcr::TVM.bits(), 0);
            trap(context, mrc(reg::DCISW, 1) & !1)
        }),
        // It switches its caches on, which is seen, and flushes again.
        at(8, |context| {
            context.r[1] = context.cp15.sctlr | (Sctlr::M | Sctlr::C).bits();
            trap(context, mrc(reg::SCTLR, 1) & !1)
        }),
        at(12, |context| {
            assert_eq!(context.control.hcr & Hcr::TVM.bits(), 0);
            ExitCode::Interrupt
        }),
    ]);
    machine.run(0);
    let clean = Event::Clean(HostPhys::new(PHYS + 0x1000), 4096);
    // When it was mapped, at the first maintenance, at the switch.
    assert_eq!(machine.host.take_events(), [clean; 3]);
}

#[test]
fn what_is_undefined_smc_and_wfe_do() {
    let mut machine = Machine::new(1);
    machine.script([
        at(0, |context| trap(context, 0x13 << 26 | 1 << 25)),
        at(4, |context| {
            assert_eq!(context.r[0] as i32, uapi::psci::NOT_SUPPORTED);
            trap(context, WFI | 1)
        }),
        // BXJ.
        at(8, |context| trap(context, 0x0a << 26 | ALWAYS)),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Und), 4));
}

#[test]
fn an_instruction_that_fails_its_condition_is_only_passed() {
    let mut machine = Machine::new(1);
    // Condition EQ, with Z clear, for a WFI that would sleep for ever, and for an undefined access.
    let eq = |hsr: u32| hsr & !(0xf << 20);
    machine.script([
        at(0, move |context| trap(context, eq(WFI))),
        at(4, move |context| trap(context, eq(mrc(arch::cp15::Cp15::new(11, 0, 0, 0), 5)))),
        at(8, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.entries(), 4);
}

#[test]
fn memory_is_mapped_and_the_instruction_repeated() {
    let mut machine = Machine::new(1);
    machine.give_ram(4);
    machine.script([
        at(0, |context| fault(context, store(1), RAM + 0x2004)),
        at(0, |context| fault(context, fetch(), RAM + 0x3000)),
        // A fetch that has the guest's own tables read, which it does not execute.
        at(0, |context| fault(context, fetch() | S1PTW, RAM + 0x1000)),
        at(0, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    let clean = |page: u64| Event::Clean(HostPhys::new(PHYS + page * 0x1000), 4096);
    assert_eq!(machine.host.take_events(), [clean(2), clean(3), Event::InvalidateIcache, clean(1)]);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn memory_that_cannot_be_had_is_the_processs_affair() {
    for error in [Unresolved::Fault, Unresolved::Poisoned, Unresolved::OutOfMemory, Unresolved::Interrupted] {
        let mut machine = Machine::new(1);
        machine.give_ram(1);
        machine.host.set_page(HVA, Err(error));
        machine.script([at(0, |context| fault(context, load(1), RAM))]);
        let expected = match error {
            Unresolved::Interrupted => Return::Interrupted,
            error => Return::Unresolved(error),
        };
        assert_eq!(machine.run(0), expected);
        assert_eq!(machine.states[0].context.pc, START, "the guest repeats it if it runs again");
        assert!(machine.states[0].pending.is_none());
    }
}

#[test]
fn no_memory_for_tables_is_told() {
    let mut machine = Machine::new(1);
    machine.give_ram(1);
    machine.script([]);
    machine.run(0);
    machine.host.allow_allocations(Some(0));
    for ipa in [RAM, CPU] {
        machine.script([at(0, move |context| fault(context, load(1), ipa))]);
        assert_eq!(machine.run(0), Return::Unresolved(Unresolved::OutOfMemory));
    }
    machine.host.allow_allocations(None);
}

#[test]
fn a_device_is_the_processs() {
    let mut machine = Machine::new(1);
    machine.script([
        at(0, |context| {
            context.r[2] = 0xcafe_f00d;
            fault(context, store(2), NOWHERE + 8)
        }),
        at(4, |context| {
            context.cpsr |= Psr::E.bits();
            fault(context, store(2) & !(3 << 22) | 1 << 22, NOWHERE + 12)
        }),
        at(8, |context| fault(context, load(7), NOWHERE + 16)),
        at(12, |context| {
            assert_eq!(context.r[7], 0x0102_0304, "most significant byte first");
            ExitCode::Interrupt
        }),
    ]);
    let mmio = |offset, data, len, is_write| {
        Return::Exit(Exit::Mmio(Mmio { phys_addr: NOWHERE + offset, data, len, is_write }))
    };
    assert_eq!(machine.run(0), mmio(8, [0x0d, 0xf0, 0xfe, 0xca, 0, 0, 0, 0], 4, true));
    assert_eq!(machine.run(0), mmio(12, [0xf0, 0x0d, 0, 0, 0, 0, 0, 0], 2, true));
    assert_eq!(machine.run(0), mmio(16, [0; 8], 4, false));
    assert_eq!(machine.run_with(0, [1, 2, 3, 4, 5, 6, 7, 8], false), Return::Interrupted);
}

#[test]
fn a_write_to_a_read_only_slot_is_the_processs() {
    let mut machine = Machine::new(1);
    machine.give_ram_with(4, crate::memslots::READONLY);
    machine.script([
        at(0, |context| fault(context, load(2), RAM)),
        at(0, |context| fault(context, store(2) & !0x3f | 0x0f, RAM)),
    ]);
    assert!(matches!(machine.run(0), Return::Exit(Exit::Mmio(Mmio { phys_addr: RAM, is_write: true, .. }))));
    // A store that has the guest's own table walked there reads the table.
    machine.script([
        at(4, |context| fault(context, store(2) & !ISV | S1PTW, RAM + 0x1000)),
        at(4, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(
        machine.vm.memory.fault(Ipa::new(RAM + 0x1000), Access::Read, &mut machine.states[0].cache),
        Ok(FaultOutcome::Mapped)
    );
    let clean = |page: u64| Event::Clean(HostPhys::new(PHYS + page * 0x1000), 4096);
    assert_eq!(machine.host.take_events(), [clean(0), clean(1)]);
}

#[test]
fn the_distributor_answers_here() {
    let mut machine = Machine::new(2);
    machine.script([
        at(0, |context| {
            context.r[1] = 3;
            fault(context, store(1), DIST)
        }),
        at(4, |context| fault(context, load(2), DIST)),
        at(8, |context| {
            assert_eq!(context.r[2], 3);
            fault(context, load(2), DIST + 4)
        }),
        at(12, |context| {
            assert_eq!(context.r[2], 1 << 5 | 7, "two CPUs, 256 interrupts");
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.entries(), 5);
}

#[test]
fn an_sgi_kicks_the_other_and_not_the_sender() {
    let mut machine = Machine::new(2);
    machine.enable_interrupts();
    let (sender, other) = (waiter(&machine, 0), waiter(&machine, 1));
    let before = (sender.wakes(), other.wakes());
    machine.vm.vcpu(1).unwrap().pretend_to_sleep();
    machine.script([at(0, |context| {
        context.r[1] = 0b11 << 16; // SGI 0 to both
        fault(context, store(1), DIST + u64::from(arch::gic::gicd::SGIR))
    })]);
    machine.run(0);
    assert_eq!((sender.wakes(), other.wakes()), (before.0, before.1 + 1));
    assert_eq!(machine.vm.with_vgic(|vgic| vgic.has_deliverable(1, 0)), Some(false), "its interface is still closed");
    machine.script([at(0, |_| ExitCode::Interrupt)]);
    machine.open_interface();
    machine.run(1);
    assert_eq!(machine.vm.with_vgic(|vgic| vgic.has_deliverable(1, OPEN)), Some(true));
}

#[test]
fn what_is_loaded_elsewhere_is_called_in_before_it_is_read() {
    let calls_in = |machine: &mut Machine, register: u32| {
        machine.script([at(0, move |context| fault(context, load(1), DIST + u64::from(register)))]);
        machine.host.take_events();
        machine.run(0);
        machine.host.take_events().contains(&Event::ExitAllGuests)
    };
    assert!(calls_in(&mut Machine::new(2), arch::gic::gicd::ISACTIVER + 4));
    assert!(!calls_in(&mut Machine::new(2), arch::gic::gicd::ISACTIVER), "private interrupts are its own");
    assert!(!calls_in(&mut Machine::new(1), arch::gic::gicd::ISACTIVER + 4), "nobody else is there");
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn the_cpu_interface_is_mapped_and_not_executed_from() {
    let mut machine = Machine::new(1);
    machine.script([
        at(0, |context| fault(context, load(1), CPU + 0x100c)),
        at(0, |context| fault(context, fetch(), CPU)),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Abt), 0x0c));
    // Mapped now: the page after the first, and as a device, which is never cleaned.
    assert_eq!(machine.host.take_events(), []);
    let access = |machine: &mut Machine, ipa| {
        machine.vm.memory.map_device(ipa, HostPhys::new(GICV + 0x1000), &mut machine.states[0].cache)
    };
    machine.host.allow_allocations(Some(0));
    assert_eq!(access(&mut machine, Ipa::new(CPU + 0x1000)), Ok(()), "its table is there");
    machine.host.allow_allocations(None);
    assert_eq!(
        machine.vm.hit(&machine.hypervisor, Ipa::new(CPU + 0x100c)),
        Hit::CpuInterface(HostPhys::new(GICV + 0x1000))
    );
}

#[test]
fn accesses_to_nothing_that_are_no_plain_loads_and_stores() {
    let mut machine = Machine::new(1);
    machine.script([
        // Cache maintenance is passed: four bytes in Thumb as well, whatever IL says.
        at(0, |context| fault(context, store(1) & !ISV | CM, NOWHERE)),
        at(4, |context| {
            context.cpsr |= Psr::T.bits();
            fault(context, store(1) & !(ISV | 1 << 25) | CM, NOWHERE)
        }),
        at(8, |context| {
            context.cpsr &= !Psr::T.bits();
            context.pc = START + 4;
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    // The guest's own tables.
    machine.script([at(4, |context| fault(context, store(1) & !ISV | S1PTW, NOWHERE + 0x123))]);
    assert_eq!(machine.run(0), Return::Interrupted);
    let context = &machine.states[0].context;
    assert_eq!(has_taken(context), (Some(Mode::Abt), 0x10));
    assert_eq!((context.cp15.dfar, context.cp15.dfsr & 1 << 11), (FAR | 0x123, 1 << 11));
}

fn exit_at(ipa: u64, written: Option<u32>) -> Return {
    let data = written.map_or([0; 8], |value| u64::from(value).to_le_bytes());
    Return::Exit(Exit::Mmio(Mmio { phys_addr: ipa, data, len: 4, is_write: written.is_some() }))
}

#[test]
fn an_instruction_of_many_accesses_leaves_for_each() {
    let mut machine = Machine::new(1);
    machine.give_ram(8);
    put_instruction(&machine, 0xe8b1_001c); // ldm r1!, {r2-r4}
    machine.script([
        at(0, |context| {
            context.r[1] = FAR | 0x10;
            undescribed(context, load(0), NOWHERE + 0x10)
        }),
        at(4, |context| {
            assert_eq!(context.r[1..5], [(FAR | 0x1c), 5, 6, 7]);
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), exit_at(NOWHERE + 0x10, None));
    assert_eq!(machine.run_with(0, [5, 0, 0, 0, 0, 0, 0, 0], false), exit_at(NOWHERE + 0x14, None));
    // A signal waits, and so does who wants no more than the instruction to be done.
    machine.host.set_signal(true);
    assert_eq!(machine.run_with(0, [6, 0, 0, 0, 0, 0, 0, 0], true), exit_at(NOWHERE + 0x18, None));
    assert_eq!(machine.states[0].context.pc, START);
    assert_eq!(machine.run_with(0, [7, 0, 0, 0, 0, 0, 0, 0], true), Return::Interrupted);
    assert_eq!((machine.states[0].context.pc, machine.entries()), (START + 4, 1));
    machine.host.set_signal(false);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn the_distributor_answers_each_access_of_an_instruction() {
    let mut machine = Machine::new(1);
    machine.give_ram(8);
    put_instruction(&machine, 0xe8a1_000c); // stm r1!, {r2, r3}
    let priorities = DIST + u64::from(gicd::IPRIORITYR) + 32;
    machine.script([
        at(0, move |context| {
            context.r[1..4].copy_from_slice(&[FAR | (priorities as u32 & 0xfff), 0x0820_4060, 0xa8c0_e0f8]);
            undescribed(context, store(0), priorities)
        }),
        at(4, |context| {
            assert_eq!(context.r[1], FAR | 0x428);
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    let read = |offset| machine.vm.with_vgic(|vgic| vgic.dist_read(0, gicd::IPRIORITYR + offset, 4));
    assert_eq!((read(32), read(36)), (Some(0x0820_4060), Some(0xa8c0_e0f8)));
}

#[test]
fn an_instruction_that_changed_is_run_again_and_one_that_is_not_supported_is_the_processs() {
    let mut machine = Machine::new(1);
    machine.give_ram(8);
    put_instruction(&machine, 0xe8b1_001c); // a load, where a store aborted
    machine.script([
        at(0, |context| undescribed(context, store(0), NOWHERE)),
        at(0, |context| {
            let code = fault(context, load(0) & !ISV, NOWHERE);
            context.exit.code = [hyp_abi::context::UNRESOLVED; 2];
            code
        }),
        at(0, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    put_instruction(&machine, 0xe191_2f9f); // ldrex r2, [r1]
    machine.script([at(0, |context| undescribed(context, load(0), NOWHERE))]);
    assert_eq!(machine.run(0), Return::NoSyndrome);
    assert_eq!(machine.states[0].context.pc, START);
}

#[test]
fn a_fetch_from_nowhere_aborts() {
    let mut machine = Machine::new(1);
    machine.script([at(0, |context| fault(context, fetch(), NOWHERE + 0x40))]);
    assert_eq!(machine.run(0), Return::Interrupted);
    let context = &machine.states[0].context;
    assert_eq!(has_taken(context), (Some(Mode::Abt), 0x0c));
    assert_eq!((context.cp15.ifar, context.cp15.ifsr), (FAR | 0x40, 0x8));
}

#[test]
fn memory_that_fails_the_guest_fails_it_as_without_a_hypervisor() {
    let mut machine = Machine::new(1);
    machine.give_ram(1);
    // Synchronous external aborts: of a load, of a fetch. Nothing is mapped for them.
    machine.script([at(0, |context| fault(context, load(1) & !0x3f | 0x10, RAM))]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Abt), 0x10));
    machine.states[0].context.pc = START;
    machine.script([at(0, |context| fault(context, fetch() & !0x3f | 0x10, RAM))]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Abt), 0x0c));
    assert_eq!(machine.host.take_events(), []);
}

#[test]
fn an_asynchronous_abort_waits_for_the_guest() {
    let pending = |context: &VcpuContext| context.control.hcr & Hcr::VA.bits() != 0;
    let mut machine = Machine::new(1);
    machine.script([
        at(0, move |context| {
            assert!(!pending(context));
            context.exit.async_abort = 1;
            ExitCode::Interrupt
        }),
        at(0, move |context| {
            assert!(pending(context) && context.exit.async_abort == 0);
            // A coprocessor access that the world switch put off because of it: once more, not undefined.
            trap(context, 0x07 << 26 | ALWAYS | 10)
        }),
        at(0, move |context| {
            // Taken. Another one, as a data abort; then one without any abort pending is undefined.
            context.control.hcr &= !Hcr::VA.bits();
            fault(context, load(1) & !0x3f | 0x11, NOWHERE)
        }),
        at(0, move |context| {
            assert!(pending(context));
            context.control.hcr &= !Hcr::VA.bits();
            trap(context, 0x07 << 26 | ALWAYS | 10)
        }),
    ]);
    machine.states[0].context.control.vfp = 1;
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Und), 4));
}

#[test]
fn an_asynchronous_abort_is_not_lost_to_an_access_to_the_last_device() {
    let mut machine = Machine::new(1);
    for (offset, aborts) in [(0, false), (4, true)] {
        machine.script([at(offset, move |context| {
            context.exit.async_abort = aborts.into();
            fault(context, load(3), NOWHERE + 4)
        })]);
        assert!(matches!(machine.run_with(0, [7; 8], false), Return::Exit(Exit::Mmio(_))));
        assert_eq!(machine.states[0].context.control.hcr & Hcr::VA.bits() != 0, aborts);
    }
}

#[test]
fn a_guest_without_floating_point_finds_it_undefined() {
    let mut machine = Machine::new(1);
    machine.states[0].context.control.vfp = 0;
    machine.script([at(0, |context| {
        context.exit.async_abort = 1;
        trap(context, 0x07 << 26 | ALWAYS | 10)
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Und), 4));
}

#[test]
fn an_interrupt_that_becomes_anothers_while_it_is_loaded_wakes_that_one() {
    let mut machine = Machine::new(2);
    machine.enable_interrupts();
    machine.vm.set_line(0, 40, true).unwrap();
    let (vm, other) = (machine.vm.clone(), waiter(&machine, 1));
    let before = other.wakes();
    machine.vm.vcpu(1).unwrap().pretend_to_sleep();
    machine.script([at(0, move |_| {
        let kicks = vm.with_vgic(|vgic| vgic.dist_write(1, arch::gic::gicd::ITARGETSR + 40, 4, 2)).unwrap();
        assert_eq!(kicks, Kicks::one(0), "the one that has it");
        ExitCode::Interrupt
    })]);
    machine.run(0);
    assert_eq!(other.wakes(), before + 1);
}

#[test]
fn hyp_mode_gone_and_hyp_mode_in_panic() {
    let mut machine = Machine::new(1);
    machine.host.set_cpu(2);
    machine.script([at(0, |_| ExitCode::Gone)]);
    let gone = Exit::FailEntry { hardware_entry_failure_reason: 3, cpu: 2 };
    assert_eq!(machine.run(0), Return::Exit(gone));
    assert!(machine.states[0].initialised);
    machine.script([at(0, |_| ExitCode::HypPanic)]);
    let data = [0xffff_fffe, 0];
    let suberror = KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON;
    assert_eq!(machine.run(0), Return::Exit(Exit::InternalError { suberror, ndata: 1, data }));
    machine.script([]);
    assert_eq!(
        machine.run(0),
        Return::Exit(Exit::InternalError { suberror, ndata: 1, data }),
        "it is not to run again"
    );
}

#[test]
fn a_trap_of_no_known_class_is_undefined_to_the_guest() {
    let mut machine = Machine::new(1);
    machine.script([at(0, |context| trap(context, 0x3f << 26))]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(has_taken(&machine.states[0].context), (Some(Mode::Und), 4));
}

#[test]
fn the_interface_goes_in_and_comes_back() {
    let mut machine = Machine::new(1);
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        host.with_cpu_interface(|interface| {
            assert_eq!((interface.vmcr, interface.hcr), (0, arch::gic::gich::HCR_EN));
            (interface.vmcr, interface.apr) = (OPEN, 4);
        });
        ExitCode::Interrupt
    })]);
    machine.run(0);
    machine.host.with_cpu_interface(|interface| *interface = Default::default());
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        host.with_cpu_interface(|interface| assert_eq!((interface.vmcr, interface.apr), (OPEN, 4)));
        ExitCode::Interrupt
    })]);
    machine.run(0);
}

#[test]
fn an_interrupt_of_the_hosts_lets_go_of_what_others_wait_for() {
    let mut machine = Machine::new(1);
    let interrupted = || at(0, |_| ExitCode::Interrupt);
    machine.script([interrupted(), interrupted(), at(0, |context| hvc(context, [0x8400_0000, 0, 0, 0]))]);
    machine.run(0);
    // One more is the signal's, which ends the script.
    assert_eq!((machine.host.quiescent(), machine.entries()), (3, 4));
}
