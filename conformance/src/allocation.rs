// SPDX-License-Identifier: GPL-2.0-only
//! No memory: each allocation that a call makes fails, one after the other. The call then says ENOMEM, and nothing has happened: the same
//! call succeeds when there is memory again, and nothing is kept for it meanwhile.
//!
//! Which allocation fails is said by the module's parameter `fail_allocation`, so this is about the module only. A new call is a new
//! entry in [`CALLS`].

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use nix::sys::wait::{WaitStatus, waitpid};
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::doorbells::eventfd;
use crate::huge_pages;
use crate::irqfd;
use crate::left_behind::{heap_blocks, none_is_lost, pages_in_use, users};
use crate::machine::{DEVICE, Machine, RAM, Vcpu, place_gic, region, set_attribute};
use crate::memory_map::{BLOCK, Memory, PAGE};
use crate::sys::{Fd, RunPage, process};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("each call for which there is no memory says so (ENOMEM), and succeeds when there is", each_call)
        .within(300),
    Case::of("calls for which there was no memory leave none behind", nothing_left).within(600),
    Case::of("without a free descriptor, nothing is made (EMFILE)", no_descriptor),
];

/// The parameter.
const FAIL: &str = "/sys/module/worldswitch/parameters/fail_allocation";

fn set_fail(count: usize) -> Verdict {
    fs::write(FAIL, count.to_string()).map_err(|error| Failure::new(format!("{FAIL}: {error}")))
}

/// Whether the allocation that was to fail has.
fn has_failed() -> Result<bool, Failure> {
    let left = fs::read_to_string(FAIL).map_err(|error| Failure::new(format!("{FAIL}: {error}")))?;
    Ok(left.trim() == "0")
}

/// What a call works on, made anew for each of its allocations.
struct Stage {
    machine: Machine,
    /// A page of the process's that no slot has.
    spare: Memory,
    vcpu: Arc<Vcpu>,
    gic: Option<Fd>,
    event: EventFd,
    /// What is told of the end of an interrupt.
    end: EventFd,
    /// Interrupts that there are already.
    others: Vec<EventFd>,
    /// What calls made.
    made: Vec<Fd>,
}

impl Stage {
    /// A VM with memory, whose guest writes to a device, with a vCPU that was not run.
    fn new() -> Result<Self, Failure> {
        let mut program = Program::new();
        program.set(1, DEVICE).str(1, 1, 0).power_off();
        Self::of(Machine::new(&program)?)
    }

    fn of(machine: Machine) -> Result<Self, Failure> {
        let vcpu = machine.vcpu(0)?;
        Ok(Self {
            machine,
            spare: Memory::new(PAGE).succeeds("mmap")?,
            vcpu,
            gic: None,
            event: eventfd(0)?,
            end: eventfd(0)?,
            others: Vec::new(),
            made: Vec::new(),
        })
    }

    /// Whose guest has written to a block of its memory and will again; the writes are to be noted now.
    fn about_to_split() -> Result<Self, Failure> {
        let mut program = Program::new();
        program.set(1, RAM + BLOCK as u32).str(1, 1, 0).set(1, DEVICE).str(1, 1, 0).branch_to_start();
        let memory = huge_pages::memory(2 * BLOCK)?;
        let stage = Self::of(Machine::over(memory, &program)?)?;
        stage.vcpu.expect_write(DEVICE, 4, DEVICE)?;
        let ram = &stage.machine.ram;
        let slot = region(0, RAM.into(), ram.bytes() as u64, ram.address(0));
        stage.machine.vm.slot(&logging(slot)).succeeds("logging")?;
        Ok(stage)
    }

    /// With a slot over its spare page.
    fn with_slot() -> Result<Self, Failure> {
        let stage = Self::new()?;
        stage.machine.vm.slot(&stage.spare_slot()).succeeds("a slot")?;
        Ok(stage)
    }

    /// With one that logs.
    fn with_log() -> Result<Self, Failure> {
        let stage = Self::new()?;
        stage.machine.vm.slot(&logging(stage.spare_slot())).succeeds("a slot that logs")?;
        Ok(stage)
    }

    fn spare_slot(&self) -> UserspaceMemoryRegion {
        region(SPARE, u64::from(RAM) << 1, PAGE as u64, self.spare.address(0))
    }

    /// With a GIC, of which all is said, but which is not made yet.
    fn with_gic() -> Result<Self, Failure> {
        let mut stage = Self::new()?;
        let gic = stage.machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
        place_gic(&gic)?;
        stage.gic = Some(gic);
        Ok(stage)
    }

    /// With one that is made.
    fn with_made_gic() -> Result<Self, Failure> {
        let mut stage = Self::new()?;
        stage.gic = Some(stage.machine.gic()?);
        Ok(stage)
    }

    /// And as many interrupts by eventfds as there are places at first, of which one tells of its end.
    fn with_irqfds() -> Result<Self, Failure> {
        let mut stage = Self::with_made_gic()?;
        stage.others = (0..4).map(|_| eventfd(0)).collect::<Result<_, _>>()?;
        let vm = &stage.machine.vm;
        for (gsi, event) in (10..).zip(&stage.others) {
            let answer = if gsi == 10 {
                irqfd::assign_resampling(vm, event, gsi, &stage.end)
            } else {
                irqfd::assign(vm, event, gsi)
            };
            answer.succeeds("KVM_IRQFD")?;
        }
        Ok(stage)
    }

    fn keep(&mut self, made: Result<Fd, Errno>) -> Result<(), Errno> {
        self.made.push(made?);
        Ok(())
    }
}

/// The slot over the spare page.
const SPARE: u32 = 1;

/// The same slot, whose writes are noted.
fn logging(slot: UserspaceMemoryRegion) -> UserspaceMemoryRegion {
    UserspaceMemoryRegion { flags: KVM_MEM_LOG_DIRTY_PAGES, ..slot }
}

/// A call that allocates, or might.
struct Call {
    name: &'static str,
    stage: fn() -> Result<Stage, Failure>,
    call: fn(&mut Stage) -> Result<(), Errno>,
    /// It allocates so many times at least, or this test does not see what it should.
    allocations: usize,
}

const CALLS: &[Call] = &[
    Call {
        name: "KVM_CREATE_VM",
        stage: Stage::new,
        call: |stage| {
            let made = stage.machine.kvm.create(KVM_CREATE_VM, 0);
            stage.keep(made)
        },
        // Vcpus and their places, slots, two root tables, the object, the watch, what stands in debugfs, the file.
        allocations: 16,
    },
    Call {
        name: "KVM_CREATE_VCPU",
        stage: Stage::new,
        call: |stage| {
            let made = stage.machine.vm.create(KVM_CREATE_VCPU, 1);
            stage.keep(made)
        },
        allocations: 4,
    },
    Call {
        name: "KVM_CREATE_DEVICE",
        stage: Stage::new,
        call: |stage| {
            let made = stage.machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2);
            stage.keep(made)
        },
        allocations: 2,
    },
    Call {
        name: "KVM_DEV_ARM_VGIC_CTRL_INIT",
        stage: Stage::with_gic,
        call: |stage| {
            let gic = stage.gic.as_ref().ok_or(Errno::EINVAL)?;
            set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0).map(|_| ())
        },
        allocations: 2,
    },
    Call {
        name: "KVM_SET_DEVICE_ATTR of a register that makes the GIC",
        stage: Stage::with_gic,
        call: |stage| distributor_control(stage, KVM_SET_DEVICE_ATTR),
        allocations: 2,
    },
    Call {
        name: "KVM_GET_DEVICE_ATTR of a register that makes the GIC",
        stage: Stage::with_gic,
        call: |stage| distributor_control(stage, KVM_GET_DEVICE_ATTR),
        allocations: 2,
    },
    Call {
        name: "KVM_IRQ_LINE that makes the GIC",
        stage: Stage::with_gic,
        call: |stage| {
            let irq = IrqLine::Spi { number: 40 }.encode();
            stage.machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 1 }).map(|_| ())
        },
        allocations: 2,
    },
    Call {
        name: "KVM_SET_USER_MEMORY_REGION that logs",
        stage: Stage::new,
        call: |stage| stage.machine.vm.slot(&logging(stage.spare_slot())).map(|_| ()),
        allocations: 1,
    },
    Call {
        name: "KVM_SET_USER_MEMORY_REGION that begins to log",
        stage: Stage::with_slot,
        call: |stage| stage.machine.vm.slot(&logging(stage.spare_slot())).map(|_| ()),
        allocations: 1,
    },
    Call {
        name: "KVM_CLEAR_DIRTY_LOG",
        stage: Stage::with_log,
        call: |stage| stage.machine.vm.clear_dirty_log(SPARE, 0, 1, &[0]).map(|_| ()),
        allocations: 1,
    },
    Call {
        name: "KVM_GET_DIRTY_LOG",
        stage: Stage::with_log,
        call: |stage| stage.machine.vm.dirty_log(SPARE, 1).map(|_| ()),
        allocations: 0,
    },
    Call {
        name: "KVM_RUN, the first",
        stage: Stage::new,
        call: |stage| expect_store(stage),
        // Tables.
        allocations: 2,
    },
    Call {
        name: "KVM_RUN that makes the GIC",
        stage: Stage::with_gic,
        call: |stage| expect_store(stage),
        allocations: 4,
    },
    Call {
        name: "KVM_IRQFD",
        stage: Stage::with_made_gic,
        call: |stage| irqfd::assign(&stage.machine.vm, &stage.event, 3).map(|_| ()),
        // What watches it, the event, places for some.
        allocations: 3,
    },
    Call {
        name: "KVM_IRQFD that tells of its end, for which there is no place yet",
        stage: Stage::with_irqfds,
        call: |stage| irqfd::assign_resampling(&stage.machine.vm, &stage.event, 3, &stage.end).map(|_| ()),
        allocations: 3,
    },
    Call {
        name: "KVM_IOEVENTFD",
        stage: Stage::new,
        call: |stage| {
            let (addr, fd) = (DEVICE.into(), stage.event.as_raw_fd());
            let mut doorbell = Ioeventfd { datamatch: 0, addr, len: 4, fd, flags: 0, pad: [0; 36] };
            stage.machine.vm.give(KVM_IOEVENTFD, &mut doorbell).map(|_| ())
        },
        allocations: 1,
    },
    Call {
        name: "KVM_SET_GSI_ROUTING",
        stage: Stage::new,
        call: |stage| {
            let entry = IrqRoutingEntry { gsi: 1, route_type: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
            stage.machine.vm.set_routing(&[entry], 1, 0).map(|_| ())
        },
        allocations: 1,
    },
    Call {
        name: "KVM_SET_GSI_ROUTING beside a GIC with interrupts",
        stage: Stage::with_irqfds,
        call: |stage| {
            let entry = IrqRoutingEntry { gsi: 10, route_type: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
            stage.machine.vm.set_routing(&[entry], 1, 0).map(|_| ())
        },
        allocations: 1,
    },
    Call {
        name: "KVM_ARM_VCPU_INIT",
        stage: Stage::new,
        call: |stage| {
            let target = stage.machine.target().map_err(|_| Errno::EPROTO)?;
            stage.vcpu.init(&target).map(|_| ())
        },
        allocations: 0,
    },
    Call {
        name: "KVM_GET_REG_LIST",
        stage: Stage::new,
        call: |stage| stage.vcpu.fd.register_list(1024).2.map(|_| ()),
        allocations: 0,
    },
    Call {
        name: "mmap of a vCPU",
        stage: Stage::new,
        call: |stage| RunPage::map(&stage.vcpu.fd, 2 * PAGE).map(|_| ()),
        allocations: 0,
    },
    Call {
        name: "KVM_REGISTER_COALESCED_MMIO",
        stage: Stage::new,
        call: |stage| {
            let mut zone = CoalescedMmioZone { addr: DEVICE.into(), size: 4, pio: 0 };
            stage.machine.vm.give(KVM_REGISTER_COALESCED_MMIO, &mut zone).map(|_| ())
        },
        allocations: 1,
    },
];

/// One that hosts without huge pages have no block for.
const SPLIT: Call = Call {
    name: "KVM_RUN whose store splits a block",
    stage: Stage::about_to_split,
    call: |stage| expect_store(stage),
    allocations: 1,
};

fn calls() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain(huge_pages::are_there().then_some(&SPLIT))
}

/// Runs the guest until its store, which is the only thing that it may come to.
fn expect_store(stage: &Stage) -> Result<(), Errno> {
    match stage.vcpu.run()? {
        Exit::Mmio(Mmio { phys_addr, .. }) if phys_addr == DEVICE.into() => Ok(()),
        _ => Err(Errno::EPROTO),
    }
}

/// Reads GICD_CTLR, or writes 0 to it.
fn distributor_control(stage: &Stage, ioctl: u32) -> Result<(), Errno> {
    let gic = stage.gic.as_ref().ok_or(Errno::EINVAL)?;
    gic.attribute(ioctl, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, vgic_register_attr(0, 0), &mut 0).map(|_| ())
}

/// Has each allocation of a call fail. How many there were.
fn each_allocation_of(call: &Call) -> Result<usize, Failure> {
    for number in 1.. {
        let what = format!("{}, allocation {number}", call.name);
        let mut stage = (call.stage)()?;
        let before = users()?;
        set_fail(number)?;
        let answer = (call.call)(&mut stage);
        let failed = has_failed();
        set_fail(0)?;
        if !failed? {
            answer.succeeds(format_args!("{what}, which it does not make"))?;
            return Ok(number - 1);
        }
        answer.fails(Errno::ENOMEM, &what)?;
        equal(users()?, before, format_args!("users of the module after {what}"))?;
        (call.call)(&mut stage).succeeds(format_args!("the same after {what} has failed"))?;
        holds(number < 1000, format_args!("{} ends", call.name))?;
    }
    Ok(0)
}

fn each_call() -> Verdict {
    for call in calls() {
        let count = each_allocation_of(call)?;
        holds(
            count >= call.allocations,
            format_args!("{} makes {} allocations; it made {count}", call.name, call.allocations),
        )?;
    }
    Ok(())
}

/// Rounds that are looked at together: in each, each allocation fails once.
const ROUNDS: i64 = 5;

fn nothing_left() -> Verdict {
    // Each in a process of its own, which takes its memory along.
    let round = || {
        let all = || calls().try_for_each(|call| each_allocation_of(call).map(|_| ()));
        let child = process(|| all().is_err().into()).succeeds("fork")?;
        equal(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "a round's end")
    };
    round()?;
    let mut growth = Vec::new();
    let mut blocks = vec![heap_blocks()?];
    for _ in 0..3 {
        let before = pages_in_use()?;
        (0..ROUNDS).try_for_each(|_| round())?;
        growth.push(pages_in_use()? - before);
        blocks.push(heap_blocks()?);
    }
    none_is_lost(&blocks)?;
    let least = growth.iter().copied().min().unwrap_or(0);
    holds(least < ROUNDS, format_args!("{ROUNDS} rounds leave less than a page each; in turn they left {growth:?}"))
}

fn no_descriptor() -> Verdict {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let mut stage = Stage::new()?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).succeeds("getrlimit")?;
    let before = users()?;
    for call in CALLS.iter().take(3) {
        setrlimit(Resource::RLIMIT_NOFILE, 0, most).succeeds("setrlimit")?;
        let answer = (call.call)(&mut stage);
        setrlimit(Resource::RLIMIT_NOFILE, most, most).succeeds("setrlimit")?;
        answer.fails(Errno::EMFILE, call.name)?;
        equal(users()?, before, format_args!("users of the module after {}", call.name))?;
    }
    CALLS.iter().take(3).try_for_each(|call| (call.call)(&mut stage).succeeds(call.name))
}
