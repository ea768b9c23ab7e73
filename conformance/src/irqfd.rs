// SPDX-License-Identifier: GPL-2.0-only
//! Eventfds that are interrupts (KVM_IRQFD), and the table that says which (KVM_SET_GSI_ROUTING).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use std::os::fd::AsRawFd;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::doorbells::{self, eventfd, told};
use crate::irqchip::{SPI, enable, take};
use crate::machine::{DEVICE, GICC, GICD, Machine, RAM, Vcpu, await_that};
use crate::memory_map::{Memory, PAGE};
use crate::sys::{Answer, Fd, Nowhere};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("an event is an edge of its interrupt, and wakes a guest from WFI", edges),
    Case::of("an event interrupts a guest that spins", spinning),
    Case::of("an event that came before counts", came_before),
    Case::of("a resampling one is up until the guest ends it, and tells then", resampling),
    Case::of("all that resample one GSI are told", all_told),
    Case::of("the end is told, whatever the guest leaves for next", told_at_once),
    Case::of("a line goes down with the last that resamples it", line_goes_down),
    Case::of("before the GIC is initialised it is EAGAIN", too_early),
    Case::of("descriptors that there are not are EBADF, others than eventfds EINVAL", no_eventfds),
    Case::of("unknown flags are EINVAL, nothing there EFAULT", bad_requests),
    Case::of("an eventfd is one interrupt of a VM (EBUSY) and may be one of each VM", busy),
    Case::of("an interrupt that was deassigned comes no more, and can be assigned anew", deassigned),
    Case::of("an eventfd that is closed is an interrupt no more", closed),
    Case::of("an event is an interrupt no more when the VM's descriptor is closed, though its vCPU runs", without_vm),
    Case::of("a store of the guest can be its interrupt", loopback),
    Case::of("GSIs lead where the table says", routed),
    Case::of("tables that make no sense are EINVAL, and change nothing", bad_tables),
    Case::of("a table that is not there is EFAULT", missing_table),
    Case::of("messages go nowhere (ENODEV), and without a GIC they are EINVAL", messages),
    Case::of("KVM_IRQ_LINE_STATUS drives a line, and its structure comes back as it was", line_status),
    Case::of("lines and events interrupt by a GIC of KVM_CREATE_IRQCHIP, too", legacy),
    Case::of("events may come while everything is assigned, deassigned and closed", storm).within(300),
];

/// The usual GSI of [`SPI`].
const GSI: u32 = SPI - 32;

fn request(event: &EventFd, gsi: u32) -> Irqfd {
    Irqfd { fd: event.as_raw_fd() as u32, gsi, ..Default::default() }
}

fn give(vm: &Fd, mut request: Irqfd) -> Answer {
    vm.give(KVM_IRQFD, &mut request)
}

/// Makes an event an interrupt.
pub fn assign(vm: &Fd, event: &EventFd, gsi: u32) -> Answer {
    give(vm, request(event, gsi))
}

/// The same with an event that tells of its end.
pub fn assign_resampling(vm: &Fd, event: &EventFd, gsi: u32, end: &EventFd) -> Answer {
    let resamplefd = end.as_raw_fd() as u32;
    give(vm, Irqfd { flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd, ..request(event, gsi) })
}

fn deassign(vm: &Fd, event: &EventFd, gsi: u32) -> Answer {
    give(vm, Irqfd { flags: KVM_IRQFD_FLAG_DEASSIGN, ..request(event, gsi) })
}

fn ring(event: &EventFd) -> Verdict {
    event.write(1).succeeds("writing to an eventfd").map(|_| ())
}

/// Makes [`SPI`] edge-triggered.
fn edge(program: &mut Program) {
    let (register, bit) = (SPI / 16 * 4, SPI % 16 * 2 + 1);
    program.set(1, 1 << bit).set(2, GICD + 0xc00 + register).str(1, 2, 0);
}

/// A guest that says for ever which interrupt it has taken, after it has said once that it is ready. In between it does `before`.
fn telling(is_edge: bool, before: impl Fn(&mut Program)) -> Result<(Machine, Arc<Vcpu>, Fd), Failure> {
    let mut program = Program::new();
    if is_edge {
        edge(&mut program);
    }
    enable(&mut program);
    program.str(6, 6, 4);
    let top = program.label();
    before(&mut program);
    take(&mut program);
    program.branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    Ok((machine, vcpu, gic))
}

/// What the guest takes when there is nothing.
const SPURIOUS: u32 = 1023;

fn edges() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |program| {
        program.wfi();
    })?;
    let event = eventfd(0)?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    for _ in 0..3 {
        let running = vcpu.start();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let running = running.still("the guest waits in WFI")?;
        ring(&event)?;
        let expected = Mmio { phys_addr: DEVICE.into(), data: u64::from(SPI).to_le_bytes(), len: 4, is_write: true };
        equal(running.result()?, Exit::Mmio(expected), "what the guest tells")?;
    }
    // Several at once are one.
    ring(&event)?;
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    let running = vcpu.start();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let running = running.still("the guest waits in WFI")?;
    running.stop()
}

fn spinning() -> Verdict {
    let mut program = Program::new();
    edge(&mut program);
    enable(&mut program);
    program.str(6, 6, 4);
    let top = program.label();
    program.ldr(0, 5, 0x18).set(1, SPURIOUS).raw(0xe150_0001); // GICC_HPPIR, without an exit; cmp r0, r1
    program.branch_if_equal(top);
    take(&mut program);
    program.branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    let event = eventfd(0)?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    for _ in 0..20 {
        let running = vcpu.start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        ring(&event)?;
        let expected = Mmio { phys_addr: DEVICE.into(), data: u64::from(SPI).to_le_bytes(), len: 4, is_write: true };
        equal(running.result()?, Exit::Mmio(expected), "what the guest tells")?;
    }
    Ok(())
}

fn came_before() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |_| {})?;
    let event = eventfd(1)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    // What was an interrupt once is none again when the event is taken back and assigned anew.
    deassign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn resampling() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    let (event, end) = (eventfd(0)?, eventfd(0)?);
    assign_resampling(&machine.vm, &event, GSI, &end).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    for _ in 0..3 {
        ring(&event)?;
        // The guest tells the number before it ends the interrupt.
        vcpu.expect_write(DEVICE, 4, SPI)?;
        equal(told(&end)?, 0, "what was told before the end")?;
        vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
        equal(told(&end)?, 1, "what was told at the end")?;
        vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
        equal(told(&end)?, 0, "what was told afterwards")?;
    }
    // A plain edge is nothing to an interrupt that is level-sensitive.
    let plain = eventfd(0)?;
    assign(&machine.vm, &plain, GSI).succeeds("KVM_IRQFD")?;
    ring(&plain)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn all_told() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    let events = [eventfd(0)?, eventfd(0)?, eventfd(0)?];
    let ends = [eventfd(0)?, eventfd(0)?, eventfd(0)?];
    for ((event, end), gsi) in events.iter().zip(&ends).zip([GSI, GSI, GSI + 1]) {
        assign_resampling(&machine.vm, event, gsi, end).succeeds("KVM_IRQFD")?;
    }
    ring(&events[0])?;
    ring(&events[1])?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    for (end, expected) in ends.iter().zip([1, 1, 0]) {
        equal(told(end)?, expected, "what was told at the end")?;
    }
    Ok(())
}

fn told_at_once() -> Verdict {
    // After its end the guest goes on in ways that leave it for different reasons, or not at all.
    type Next = fn(&mut Program);
    let nexts: [(&str, Next); 3] = [
        ("reads the distributor", |program| {
            program.ldr(1, 4, 0x104).stay();
        }),
        ("calls the firmware", |program| {
            program.call(uapi::psci::PSCI_VERSION).stay();
        }),
        ("spins", |program| {
            program.stay();
        }),
    ];
    for (what, next) in nexts {
        let mut program = Program::new();
        enable(&mut program);
        program.str(6, 6, 4);
        take(&mut program);
        next(&mut program);
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let _gic = machine.gic()?;
        vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
        let (event, end) = (eventfd(0)?, eventfd(0)?);
        assign_resampling(&machine.vm, &event, GSI, &end).succeeds("KVM_IRQFD")?;
        ring(&event)?;
        vcpu.expect_write(DEVICE, 4, SPI)?;
        let running = vcpu.start();
        let heard = || matches!(end.read(), Ok(1));
        await_that(heard).succeeds(format_args!("waiting to be told of the end by a guest that {what}"))?;
        running.stop()?;
    }
    Ok(())
}

fn legacy() -> Verdict {
    let mut program = Program::new();
    enable(&mut program);
    program.str(6, 6, 4);
    let top = program.label();
    take(&mut program);
    program.branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    machine.vm.value(KVM_CREATE_IRQCHIP, 0).succeeds("KVM_CREATE_IRQCHIP")?;
    for (kind, address) in [(KVM_VGIC_V2_ADDR_TYPE_DIST, GICD), (KVM_VGIC_V2_ADDR_TYPE_CPU, GICC)] {
        let mut address = DeviceAddr::new(KVM_ARM_DEVICE_VGIC_V2, kind, address.into());
        machine.vm.give(KVM_ARM_SET_DEVICE_ADDR, &mut address).succeeds("KVM_ARM_SET_DEVICE_ADDR")?;
    }
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    let irq = IrqLine::Spi { number: SPI as u16 }.encode();
    for (level, told) in [(1, SPI), (0, SPURIOUS)] {
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level }).succeeds("KVM_IRQ_LINE")?;
        vcpu.expect_write(DEVICE, 4, told)?;
    }
    let (event, end) = (eventfd(0)?, eventfd(0)?);
    assign_resampling(&machine.vm, &event, GSI, &end).succeeds("KVM_IRQFD")?;
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    equal(told(&end)?, 1, "what was told at the end")
}

fn line_goes_down() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    let events = [eventfd(0)?, eventfd(0)?];
    let end = eventfd(0)?;
    for event in &events {
        assign_resampling(&machine.vm, event, GSI, &end).succeeds("KVM_IRQFD")?;
    }
    ring(&events[0])?;
    deassign(&machine.vm, &events[0], GSI).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    ring(&events[1])?;
    deassign(&machine.vm, &events[1], GSI).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn too_early() -> Verdict {
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let event = eventfd(0)?;
    assign(&machine.vm, &event, GSI).fails(Errno::EAGAIN, "KVM_IRQFD without a GIC")?;
    let _vcpu = machine.vcpu(0)?;
    let _gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    assign(&machine.vm, &event, GSI).fails(Errno::EAGAIN, "KVM_IRQFD before the GIC is initialised")?;
    // It is looked at before the descriptor is.
    let none = Irqfd { fd: u32::MAX, ..request(&event, GSI) };
    give(&machine.vm, none).fails(Errno::EAGAIN, "KVM_IRQFD of no descriptor")?;
    deassign(&machine.vm, &event, GSI).succeeds("deassigning what was not assigned").map(|_| ())
}

/// A machine with a GIC, whose guest does nothing.
fn idle() -> Result<(Machine, Arc<Vcpu>, Fd), Failure> {
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    Ok((machine, vcpu, gic))
}

fn no_eventfds() -> Verdict {
    let (machine, ..) = idle()?;
    let event = eventfd(0)?;
    let bad = [(u32::MAX, Errno::EBADF), (999, Errno::EBADF), (machine.vm.number() as u32, Errno::EINVAL)];
    for (fd, error) in bad {
        for flags in [0, KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE] {
            let request = Irqfd { fd, flags, resamplefd: event.as_raw_fd() as u32, ..request(&event, GSI) };
            give(&machine.vm, request).fails(error, format_args!("descriptor {fd}, flags {flags}"))?;
        }
        let request = Irqfd { flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd: fd, ..request(&event, GSI) };
        give(&machine.vm, request).fails(error, format_args!("descriptor {fd} to be told by"))?;
    }
    // Nothing of that was done.
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD").map(|_| ())
}

fn bad_requests() -> Verdict {
    let (machine, ..) = idle()?;
    let event = eventfd(0)?;
    for flags in [4, 5, 1 << 31, u32::MAX] {
        let request = Irqfd { flags, ..request(&event, GSI) };
        give(&machine.vm, request).fails(Errno::EINVAL, format_args!("flags {flags:#x}"))?;
    }
    for call in [KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI, KVM_IRQ_LINE_STATUS] {
        for at in Nowhere::ALL {
            machine.vm.nowhere(call, at).fails(Errno::EFAULT, format_args!("call {call:#x} at {at:?}"))?;
        }
    }
    // Whether a GSI leads anywhere is not asked.
    for gsi in [987, 988, 4096, u32::MAX] {
        assign(&machine.vm, &event, gsi).succeeds(format_args!("GSI {gsi}"))?;
        ring(&event)?;
        deassign(&machine.vm, &event, gsi).succeeds(format_args!("GSI {gsi}"))?;
    }
    Ok(())
}

fn busy() -> Verdict {
    let (machine, ..) = idle()?;
    let (other, ..) = idle()?;
    let (event, end) = (eventfd(0)?, eventfd(0)?);
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    for gsi in [GSI, GSI + 1] {
        assign(&machine.vm, &event, gsi).fails(Errno::EBUSY, "KVM_IRQFD of the same eventfd")?;
        assign_resampling(&machine.vm, &event, gsi, &end).fails(Errno::EBUSY, "KVM_IRQFD of the same eventfd")?;
    }
    assign_resampling(&machine.vm, &end, GSI, &event).succeeds("another of the same GSI")?;
    assign(&other.vm, &event, GSI).succeeds("KVM_IRQFD of another VM").map(|_| ())
}

fn deassigned() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |_| {})?;
    let (event, other) = (eventfd(0)?, eventfd(0)?);
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    deassign(&machine.vm, &event, GSI + 1).succeeds("deassigning another GSI")?;
    deassign(&machine.vm, &other, GSI).succeeds("deassigning another eventfd")?;
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    deassign(&machine.vm, &event, GSI).succeeds("deassigning it")?;
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    // It has come meanwhile.
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn closed() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    let (end, other) = (eventfd(0)?, eventfd(0)?);
    for _ in 0..20 {
        let event = eventfd(0)?;
        assign_resampling(&machine.vm, &event, GSI, &end).succeeds("KVM_IRQFD")?;
        ring(&event)?;
        vcpu.expect_write(DEVICE, 4, SPI)?;
        vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
        equal(told(&end)?, 1, "what was told at the end")?;
        ring(&event)?;
        drop(event);
        // Its line goes down when the kernel has seen to it, which deassigning waits for.
        deassign(&machine.vm, &other, GSI).succeeds("deassigning what was not assigned")?;
        vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
        equal(told(&end)?, 0, "what was told afterwards")?;
    }
    Ok(())
}

fn without_vm() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |_| {})?;
    let event = eventfd(0)?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    let Machine { kvm: _kvm, vm, ram: _ram } = machine;
    drop(vm);
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn loopback() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |program| {
        program.str(6, 6, 8);
    })?;
    let event = eventfd(0)?;
    doorbells::assign(&machine.vm, &event, DEVICE + 8, 4, None).succeeds("KVM_IOEVENTFD")?;
    assign(&machine.vm, &event, GSI).succeeds("KVM_IRQFD")?;
    for _ in 0..10 {
        vcpu.expect_write(DEVICE, 4, SPI)?;
    }
    Ok(())
}

fn pin(gsi: u32, pin: u32) -> IrqRoutingEntry {
    let route = [0, pin, 0, 0, 0, 0, 0, 0];
    IrqRoutingEntry { gsi, route_type: KVM_IRQ_ROUTING_IRQCHIP, route, ..Default::default() }
}

fn message(gsi: u32) -> IrqRoutingEntry {
    IrqRoutingEntry { gsi, route_type: KVM_IRQ_ROUTING_MSI, ..Default::default() }
}

fn set_routing(vm: &Fd, entries: &[IrqRoutingEntry]) -> Answer {
    vm.set_routing(entries, entries.len() as u32, 0)
}

fn routed() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    let (usual, far) = (eventfd(0)?, eventfd(0)?);
    let (usual_end, far_end) = (eventfd(0)?, eventfd(0)?);
    assign_resampling(&machine.vm, &usual, GSI, &usual_end).succeeds("KVM_IRQFD")?;
    assign_resampling(&machine.vm, &far, 4095, &far_end).succeeds("KVM_IRQFD")?;
    ring(&far)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    set_routing(&machine.vm, &[pin(0, 0), pin(4095, GSI), message(7)]).succeeds("KVM_SET_GSI_ROUTING")?;
    ring(&usual)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    ring(&far)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    equal([told(&usual_end)?, told(&far_end)?], [0, 1], "what was told at the end")?;
    set_routing(&machine.vm, &[message(GSI)]).succeeds("KVM_SET_GSI_ROUTING")?;
    ring(&usual)?;
    ring(&far)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    set_routing(&machine.vm, &[]).succeeds("KVM_SET_GSI_ROUTING of nothing")?;
    ring(&usual)?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)
}

fn bad_tables() -> Verdict {
    let (machine, vcpu, _gic) = telling(true, |_| {})?;
    let vm = &machine.vm;
    let event = eventfd(0)?;
    assign(vm, &event, 5).succeeds("KVM_IRQFD")?;
    set_routing(vm, &[pin(5, GSI)]).succeeds("KVM_SET_GSI_ROUTING")?;
    let chip = IrqRoutingEntry { route: [1, 0, 0, 0, 0, 0, 0, 0], ..pin(1, 0) };
    let flagged = IrqRoutingEntry { flags: 1, ..pin(1, 0) };
    let strange = IrqRoutingEntry { flags: 2, ..message(1) };
    let of_type = |route_type| IrqRoutingEntry { route_type, ..pin(1, 0) };
    for entry in [pin(4096, 0), pin(u32::MAX, 0), pin(1, 988), chip, flagged, strange, of_type(0), of_type(3)] {
        set_routing(vm, &[pin(2, 0), entry]).fails(Errno::EINVAL, format_args!("{entry:?}"))?;
    }
    for pair in [[pin(1, 0), pin(1, 1)], [pin(1, 0), message(1)], [message(1), message(1)]] {
        set_routing(vm, &pair).fails(Errno::EINVAL, format_args!("{pair:?}"))?;
    }
    for flags in [1, 1 << 31] {
        vm.set_routing(&[pin(1, 0)], 1, flags).fails(Errno::EINVAL, format_args!("flags {flags:#x}"))?;
    }
    for nr in [4097, 1 << 31, u32::MAX] {
        vm.set_routing(&[pin(1, 0)], nr, 0).fails(Errno::EINVAL, format_args!("{nr} entries"))?;
    }
    ring(&event)?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    let valid = IrqRoutingEntry { flags: KVM_MSI_VALID_DEVID, ..message(1) };
    set_routing(vm, &[valid, pin(2, 987), pin(3, 987)]).succeeds("good entries")?;
    let all: Vec<_> = (0..4096).map(|gsi| pin(gsi, gsi % 988)).collect();
    set_routing(vm, &all).succeeds("as many entries as there can be").map(|_| ())
}

fn missing_table() -> Verdict {
    let (machine, ..) = idle()?;
    let memory = Memory::page_at_the_end().succeeds("mmap")?;
    machine.vm.set_routing_at(&memory, PAGE - 8, 1).fails(Errno::EFAULT, "a table behind the end of memory")?;
    machine.vm.set_routing_at(&memory, PAGE - 8, 0).succeeds("an empty table at the end of memory").map(|_| ())
}

fn messages() -> Verdict {
    let (_kvm, vm) = Machine::empty()?;
    let msi = Msi { address_lo: 0x0802_0040, data: 5, ..Default::default() };
    vm.give(KVM_SIGNAL_MSI, &mut { msi }).fails(Errno::EINVAL, "a message without a GIC")?;
    let (machine, ..) = idle()?;
    for (flags, error) in
        [(0, Errno::ENODEV), (KVM_MSI_VALID_DEVID, Errno::ENODEV), (2, Errno::EINVAL), (3, Errno::EINVAL)]
    {
        machine
            .vm
            .give(KVM_SIGNAL_MSI, &mut Msi { flags, ..msi })
            .fails(error, format_args!("a message, flags {flags}"))?;
    }
    Ok(())
}

fn line_status() -> Verdict {
    let (machine, vcpu, _gic) = telling(false, |_| {})?;
    for (level, taken) in [(1, SPI), (7, SPI), (0, SPURIOUS)] {
        let mut request = IrqLevel { irq: IrqLine::Spi { number: SPI as u16 }.encode(), level };
        let before = request;
        machine.vm.give(KVM_IRQ_LINE_STATUS, &mut request).succeeds("KVM_IRQ_LINE_STATUS")?;
        equal(request, before, "the structure afterwards")?;
        vcpu.expect_write(DEVICE, 4, taken)?;
    }
    let mut bad = IrqLevel { irq: IrqLine::Spi { number: 31 }.encode(), level: 1 };
    machine.vm.give(KVM_IRQ_LINE_STATUS, &mut bad).fails(Errno::EINVAL, "SPI 31")?;
    let memory = Memory::new(PAGE).succeeds("mmap")?;
    memory.put(0, &[IrqLine::Spi { number: SPI as u16 }.encode(), 0]);
    memory.protect(0..PAGE, false).succeeds("mprotect")?;
    machine.vm.inside(KVM_IRQ_LINE, &memory, 0).succeeds("KVM_IRQ_LINE in readonly memory")?;
    machine.vm.inside(KVM_IRQ_LINE_STATUS, &memory, 0).fails(Errno::EFAULT, "KVM_IRQ_LINE_STATUS in readonly memory")
}

/// Threads write to eventfds while they become interrupts, are none any more, are closed, and their VM goes.
fn storm() -> Verdict {
    for round in 0..30 {
        let mut program = Program::new();
        enable(&mut program);
        let top = program.label();
        program.ldr(0, 5, 0xc).str(0, 5, 0x10).str(0, 6, 8).branch(top); // GICC_IAR, GICC_EOIR, a doorbell
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let gic = machine.gic()?;
        let events = [eventfd(0)?, eventfd(0)?, eventfd(0)?];
        let ends = [eventfd(0)?, eventfd(0)?];
        let stop = AtomicBool::new(false);
        doorbells::assign(&machine.vm, &events[2], DEVICE + 8, 4, None).succeeds("KVM_IOEVENTFD")?;
        let copies = [0, 1, 2].map(|index| nix::unistd::dup(&events[index]));
        let running = vcpu.start();
        std::thread::scope(|scope| {
            for copy in copies.into_iter().flatten() {
                scope.spawn(|| {
                    let copy = copy;
                    while !stop.load(Ordering::Relaxed) {
                        let _ = nix::unistd::write(&copy, &1u64.to_ne_bytes());
                    }
                });
            }
            let churn = || {
                for turn in 0..40 {
                    for (event, end) in events.iter().zip(&ends) {
                        assign_resampling(&machine.vm, event, GSI, end).succeeds(format_args!("turn {turn}"))?;
                    }
                    assign(&machine.vm, &events[2], GSI).succeeds("KVM_IRQFD")?;
                    set_routing(&machine.vm, &[pin(GSI, GSI)]).succeeds("KVM_SET_GSI_ROUTING")?;
                    let short = eventfd(1)?;
                    assign(&machine.vm, &short, GSI).succeeds("KVM_IRQFD")?;
                    drop(short);
                    // The last turn leaves all assigned.
                    for event in events.iter().filter(|_| turn < 39) {
                        deassign(&machine.vm, event, GSI).succeeds("deassigning")?;
                    }
                }
                Ok(())
            };
            let result = churn();
            let Machine { kvm, vm, ram: _ram } = machine;
            // The VM's descriptor goes while events come and the vCPU runs.
            if round % 2 == 0 {
                drop((vm, kvm));
            } else {
                drop((kvm, gic, vm));
            }
            stop.store(true, Ordering::Relaxed);
            result
        })?;
        running.stop()?;
    }
    holds(RAM != 0, "the host lives")
}
