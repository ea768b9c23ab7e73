// SPDX-License-Identifier: GPL-2.0-only
//! What lives how long: descriptors closed in every order, processes that die, and what is left of them: nothing.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use uapi::*;

use crate::Case;
use crate::code::{LOW, Program, SCTLR_MMU, SECTION};
use crate::left_behind::{await_no_users, heap_blocks, none_is_lost, pages_in_use, users};
use crate::machine::{DEVICE, Machine, PC, RAM, Vcpu, await_that, region};
use crate::memory_map::{Memory, PAGE, memory_file};
use crate::sys::{on_cpu, process, unload};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};
use crate::{doorbells, irqfd};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a vCPU runs on when everything else is closed", vcpu_alone),
    Case::of("descriptors can be closed in every order, with the vCPU running", every_order).within(300),
    Case::of("descriptors can be closed in every order, without it", every_order_at_rest).within(120),
    Case::of("eventfds, VM and vCPU can be closed in every order, with events coming", every_order_of_events)
        .within(300),
    Case::of("the guest's memory can go before the VM", memory_first),
    Case::of("a VM outlives its process in another's descriptor, of no use there (EIO)", outlived),
    Case::of("three hundred VMs take turns on two CPUs, and each sees its own memory", many).within(600),
    Case::of("the module counts its descriptors, and stays while there are any", use_count),
    Case::of("a killed process leaves no memory behind", killed).within(600),
    Case::of("a process that ends leaves no memory behind", ended).within(600),
];

/// A guest that counts in the word at [`PAGE`].
fn counting() -> Program {
    let mut program = Program::new();
    program.set(1, RAM + PAGE as u32);
    let top = program.label();
    program.add(2, 1).str(2, 1, 0).branch(top);
    program
}

fn vcpu_alone() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).str(1, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    let Machine { kvm, vm, ram: _ram } = machine;
    drop((gic, kvm, vm));
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    vcpu.expect_off()
}

/// All orders of `count` things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    orders(count - 1).iter().flat_map(|order| (0..count).map(move |at| insert(order, at)).collect::<Vec<_>>()).collect()
}

fn every_order() -> Verdict {
    for order in orders(4) {
        let machine = Machine::new(&counting())?;
        let vcpu = machine.vcpu(0)?;
        let second = machine.vcpu(1)?;
        let gic = machine.gic()?;
        let running = vcpu.start();
        await_that(|| machine.ram.read(PAGE) != 0).succeeds("waiting for the guest")?;
        let Machine { kvm, vm, ram } = machine;
        // Another vCPU stands for the one that runs, whose descriptor its thread still needs: that one is closed last.
        let mut all: [Option<Box<dyn Any>>; 4] =
            [Some(Box::new(kvm)), Some(Box::new(vm)), Some(Box::new(gic)), Some(Box::new(second))];
        for index in &order {
            all[*index] = None;
            let before = ram.read(PAGE);
            await_that(|| ram.read(PAGE) != before).succeeds(format_args!("waiting for the guest, order {order:?}"))?;
        }
        running.stop()?;
        equal(Arc::strong_count(&vcpu), 1, "who holds the vCPU")?;
    }
    Ok(())
}

fn every_order_at_rest() -> Verdict {
    let mut program = Program::new();
    program.power_off();
    for order in orders(5) {
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let gic = machine.gic()?;
        vcpu.expect_off()?;
        let Machine { kvm, vm, ram: _ram } = machine;
        let vcpu = Arc::into_inner(vcpu).expect("nobody else has it");
        let mut all: [Option<Box<dyn Any>>; 5] = [
            Some(Box::new(kvm)),
            Some(Box::new(vm)),
            Some(Box::new(gic)),
            Some(Box::new(vcpu.fd)),
            Some(Box::new(vcpu.page)),
        ];
        for index in order {
            all[index] = None;
        }
    }
    Ok(())
}

fn every_order_of_events() -> Verdict {
    // The guest rings all the time. Nobody takes its interrupts.
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, RAM + PAGE as u32);
    let top = program.label();
    program.str(1, 1, 0).str(1, 1, 4).str(1, 1, 8).add(3, 1).str(3, 2, 0).branch(top);
    for order in orders(5) {
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let gic = machine.gic()?;
        let [plain, resampling, end] = give_events(&machine)?;
        let running = vcpu.start();
        let Machine { kvm, vm, ram } = machine;
        let mut all: [Option<Box<dyn Any>>; 5] = [
            Some(Box::new((kvm, vm))),
            Some(Box::new(gic)),
            Some(Box::new(plain)),
            Some(Box::new(resampling)),
            Some(Box::new(end)),
        ];
        for index in &order {
            all[*index] = None;
            let before = ram.read(PAGE);
            await_that(|| ram.read(PAGE) != before).succeeds(format_args!("waiting for the guest, order {order:?}"))?;
        }
        running.stop()?;
    }
    Ok(())
}

fn memory_first() -> Verdict {
    let machine = Machine::new(&counting())?;
    let vcpu = machine.vcpu(0)?;
    let running = vcpu.start();
    await_that(|| machine.ram.read(PAGE) != 0).succeeds("waiting for the guest")?;
    let bytes = machine.ram.bytes();
    machine.ram.unmap(0..bytes).succeeds("munmap")?;
    running.result_or_errno()?.fails(Errno::EFAULT, "KVM_RUN when all memory is unmapped")?;
    vcpu.run().fails(Errno::EFAULT, "KVM_RUN again")
}

/// Waits for a child that should end well.
fn reap(child: Pid) -> Verdict {
    equal(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "a child's end")
}

fn outlived() -> Verdict {
    // Said in words of memory that all three processes share: 1 the owner is gone, 2 all good, 3 not.
    let file = memory_file(PAGE).succeeds("memfd_create")?;
    let said = Memory::of_file(&file, PAGE, true).succeeds("mmap")?;
    let owner = process(|| {
        let made = || {
            let machine = Machine::new(&counting())?;
            let vcpu = machine.vcpu(0)?;
            let gic = machine.gic()?;
            Ok::<_, Failure>((machine, vcpu, gic))
        };
        let Ok((machine, vcpu, gic)) = made() else { return 1 };
        let heir = process(|| {
            let gone = await_that(|| said.read(0) == 1).is_ok();
            let eio = vcpu.fd.value(KVM_RUN, 0) == Err(Errno::EIO)
                && machine.vm.value(KVM_CHECK_EXTENSION, 0) == Err(Errno::EIO)
                && gic.give(KVM_GET_DEVICE_ATTR, &mut [0u8; 24]) == Err(Errno::EIO);
            said.write(4, if gone && eio { 2 } else { 3 });
            0
        });
        if heir.is_ok() { 0 } else { 2 }
    })
    .succeeds("fork")?;
    reap(owner)?;
    said.write(0, 1);
    await_that(|| said.read(4) != 0).succeeds("waiting for the heir")?;
    equal(said.read(4), 2, "what the heir says")
}

/// VMs at a time: more than there are VMIDs, so that they take them from each other.
const VMS: u32 = 300;
/// How often each runs.
const ROUNDS: u32 = 10;
/// Pages that each looks at, behind that of its program.
const DATA: std::ops::Range<u32> = 1..4;

/// A guest that turns its MMU on, so that it runs on TLB entries of its own and not only of stage 2, and then says for ever what it
/// finds in the first word of each of its pages.
fn telling(table: u32) -> Program {
    let mut program = Program::new();
    program.mmu_on(LOW + table, SCTLR_MMU).set(3, LOW_DEVICE);
    let top = program.label();
    for page in DATA {
        program.set(1, LOW + page * PAGE as u32).ldr(2, 1, 0).str(2, 3, 0);
    }
    program.branch(top);
    program
}

/// An address without memory that it can reach.
const LOW_DEVICE: u32 = 0x0080_0000;

/// A VM of [`many`].
fn telling_machine() -> Result<(Machine, Arc<Vcpu>), Failure> {
    const TABLE: u32 = 0x400;
    let (kvm, vm) = Machine::empty()?;
    let ram = Memory::new(DATA.end as usize * PAGE).succeeds("mmap")?;
    ram.put(0, telling(TABLE).words());
    for section in 0..32u32 {
        ram.write((TABLE + section * 4) as usize, section << 20 | SECTION);
    }
    vm.slot(&region(0, LOW.into(), ram.bytes() as u64, ram.address(0))).succeeds("KVM_SET_USER_MEMORY_REGION")?;
    let machine = Machine { kvm, vm, ram: Arc::new(ram) };
    let vcpu = machine.vcpu(0)?;
    vcpu.fd.set_register(PC, LOW.into()).succeeds("writing PC")?;
    Ok((machine, vcpu))
}

fn many() -> Verdict {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 4096, 4096);
    let made: Result<Vec<_>, _> = (0..VMS).map(|_| telling_machine()).collect();
    let machines = &made?;
    // What VM `number` has in a page in a round is what no other ever has anywhere.
    let value = |number: u32, page: u32, round: u32| round << 16 | number << 4 | page;
    let one_round = |cpu: u32, round: u32| {
        on_cpu(cpu as usize).succeeds("sched_setaffinity")?;
        // Each VM changes CPUs from round to round.
        for (number, (machine, vcpu)) in
            (0..).zip(machines).filter(|(number, _)| (number + round + cpu).is_multiple_of(2))
        {
            DATA.for_each(|page| machine.ram.write(page as usize * PAGE, value(number, page, round)));
            for page in DATA {
                vcpu.expect_write(LOW_DEVICE, 4, value(number, page, round))
                    .map_err(|why| Failure::new(format!("VM {number} in round {round} on CPU {cpu}: {why}")))?;
            }
        }
        Ok(())
    };
    for round in 1..=ROUNDS {
        std::thread::scope(|scope| {
            let both = [0, 1].map(|cpu| scope.spawn(move || one_round(cpu, round)));
            both.into_iter().try_for_each(|thread| thread.join().expect("the thread does not panic"))
        })?;
    }
    Ok(())
}

fn use_count() -> Verdict {
    let Some(before) = users()? else { return Ok(()) };
    equal(before, 0, "users while nothing is open")?;
    let (kvm, vm) = Machine::empty()?;
    let vcpu = vm.create(KVM_CREATE_VCPU, 0).succeeds("KVM_CREATE_VCPU")?;
    equal(users()?, Some(3), "users while three descriptors are open")?;
    unload(c"worldswitch").fails(Errno::EAGAIN, "unloading the module")?;
    drop((kvm, vm));
    equal(users()?, Some(1), "users while a vCPU is open")?;
    unload(c"worldswitch").fails(Errno::EAGAIN, "unloading the module")?;
    holds(vcpu.number() > 2, "the vCPU is open")?;
    drop(vcpu);
    await_no_users()
}

/// Pages that a process may seem to leave behind: less than the one that a single thing forgotten would take.
const NOISE: f64 = 0.5;
/// Processes in a round.
const PROCESSES: u32 = 30;

/// Has processes come and go, and looks at what is left. The kernel keeps something for later uses, up to a limit; what is lost
/// shows in each round anew.
fn leaves_nothing(one: impl Fn() -> Verdict) -> Verdict {
    let mut growth = Vec::new();
    let mut blocks = vec![heap_blocks()?];
    let mut before = pages_in_use()?;
    for _ in 0..3 {
        for _ in 0..PROCESSES {
            one()?;
        }
        blocks.push(heap_blocks()?);
        let now = pages_in_use()?;
        growth.push(now - before);
        before = now;
    }
    none_is_lost(&blocks)?;
    let least = growth.iter().copied().min().unwrap_or(0) as f64 / f64::from(PROCESSES);
    holds(
        least < NOISE,
        format_args!("{PROCESSES} processes leave nothing behind; pages that each round of them did: {growth:?}"),
    )?;
    match users()? {
        Some(users) => equal(users, 0, "users of the module afterwards"),
        None => Ok(()),
    }
}

/// Eventfds: of plain interrupts, of resampled ones, and those that are told of the end of these.
type Events = [Vec<EventFd>; 3];

/// A VM with two vCPUs, a GIC, eventfds of each kind and some memory, whose guest runs: what a process has when it dies.
fn busy_machine(memory: Memory) -> Result<(Machine, Arc<Vcpu>, Events), Failure> {
    let machine = Machine::over(memory, &counting())?;
    let vcpu = machine.vcpu(0)?;
    let _second = machine.vcpu(1)?;
    let _gic = machine.gic()?;
    let events = give_events(&machine)?;
    Ok((machine, vcpu, events))
}

/// Eventfds that are interrupts, plain and with one that is told of the end, and rung by stores; and a zone of such as are collected.
/// So many that one thing forgotten of each, the smallest that the kernel's heap has, is a page.
fn give_events(machine: &Machine) -> Result<Events, Failure> {
    let some = || (0..32).map(|_| doorbells::eventfd(1)).collect::<Result<Vec<_>, _>>();
    let [plain, resampling, ends] = [some()?, some()?, some()?];
    for ((plain, resampling), end) in plain.iter().zip(&resampling).zip(&ends) {
        irqfd::assign(&machine.vm, plain, 1).succeeds("KVM_IRQFD")?;
        irqfd::assign_resampling(&machine.vm, resampling, 2, end).succeeds("KVM_IRQFD")?;
    }
    for (addr, event) in (DEVICE..).step_by(4).zip(plain.iter().zip(&ends).flat_map(|(one, other)| [one, other])) {
        doorbells::assign(&machine.vm, event, addr, 4, None).succeeds("KVM_IOEVENTFD")?;
    }
    doorbells::register(&machine.vm, DEVICE, 64).succeeds("KVM_REGISTER_COALESCED_MMIO")?;
    Ok([plain, resampling, ends])
}

fn killed() -> Verdict {
    let file = memory_file(16 * PAGE).succeeds("memfd_create")?;
    // Shared, so that this process sees the guest run.
    let seen = Memory::of_file(&file, 16 * PAGE, true).succeeds("mmap")?;
    leaves_nothing(|| {
        seen.write(PAGE, 0);
        let child = process(|| {
            let Ok(memory) = Memory::of_file(&file, 16 * PAGE, true) else { return 1 };
            let Ok((_machine, vcpu, _events)) = busy_machine(memory) else { return 2 };
            // Nothing keeps this signal out.
            if vcpu.fd.set_signal_mask(&[Signal::SIGKILL], 8).is_err() {
                return 3;
            }
            let _ = vcpu.run();
            4
        })
        .succeeds("fork")?;
        await_that(|| seen.read(PAGE) != 0).succeeds("waiting for the guest")?;
        kill(child, Signal::SIGKILL).succeeds("kill")?;
        equal(waitpid(child, None), Ok(WaitStatus::Signaled(child, Signal::SIGKILL, false)), "the child's end")
    })
}

fn ended() -> Verdict {
    leaves_nothing(|| {
        let child = process(|| {
            let Ok(memory) = Memory::new(64 * PAGE) else { return 1 };
            let Ok((machine, vcpu, _events)) = busy_machine(memory) else { return 2 };
            let running = vcpu.start();
            let counted = await_that(|| machine.ram.read(PAGE) != 0);
            // The other thread still runs the guest.
            let _running = running;
            std::thread::sleep(Duration::from_millis(1));
            if counted.is_ok() { 0 } else { 3 }
        })
        .succeeds("fork")?;
        reap(child)
    })
}
