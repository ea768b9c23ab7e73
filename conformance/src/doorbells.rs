// SPDX-License-Identifier: GPL-2.0-only
//! Stores of a guest that do not leave to the process at once: those that ring an eventfd (KVM_IOEVENTFD), and those that are collected
//! in a ring (coalesced MMIO).

use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsRawFd;
use uapi::*;

use crate::Case;
use crate::code::{Program, Width};
use crate::machine::{DEVICE, GICC, GICD, Machine, RAM};
use crate::sys::{Answer, Fd, Nowhere, RunPage};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a store of the length that an ioeventfd names rings it, and others leave", lengths),
    Case::of("a store of the value that an ioeventfd names rings it, and others leave", values),
    Case::of("loads leave where stores ring", loads),
    Case::of("stores of several registers ring and leave, each as it should", several),
    Case::of("two vCPUs ring one eventfd, and none is lost", two_vcpus),
    Case::of("an ioeventfd that makes no sense is EINVAL", bad_ioeventfds),
    Case::of("an ioeventfd of no eventfd is EBADF or EINVAL, of nothing EFAULT", no_eventfd),
    Case::of("ioeventfds that would have the same store are EEXIST", collisions),
    Case::of("an ioeventfd is undone by what it was made with (ENOENT), and leaves then", undone),
    Case::of("an ioeventfd of ports is noted and never rings", ports),
    Case::of("an ioeventfd rings after its descriptor was closed", closed),
    Case::of("there is room for very many ioeventfds", many).within(300),
    Case::of("stores in a zone are collected, and their vCPUs share the ring", collected),
    Case::of("a store leaves when the ring is full, and is collected when it is not", full_ring),
    Case::of("what the process writes into the ring harms nobody", hostile_ring),
    Case::of("zones are undone by what lies in them", zones_undone),
    Case::of("zones that make no sense are EINVAL, of nothing EFAULT, more than a thousand ENOSPC", bad_zones),
    Case::of("the distributor and the CPU interface are not the process's to take", not_the_gic),
];

/// An eventfd that does not block.
pub fn eventfd(value: u32) -> Result<EventFd, Failure> {
    EventFd::from_value_and_flags(value, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).succeeds("eventfd")
}

/// How often an eventfd was told since the last call.
pub fn told(event: &EventFd) -> Result<u64, Failure> {
    match event.read() {
        Err(Errno::EAGAIN) => Ok(0),
        other => other.succeeds("reading an eventfd"),
    }
}

/// Words of an address, length and value that ring.
fn request(event: &EventFd, addr: u64, len: u32, value: Option<u64>) -> Ioeventfd {
    let flags = if value.is_some() { KVM_IOEVENTFD_FLAG_DATAMATCH } else { 0 };
    Ioeventfd { datamatch: value.unwrap_or(0), addr, len, fd: event.as_raw_fd(), flags, pad: [0; 36] }
}

fn give(vm: &Fd, mut request: Ioeventfd) -> Answer {
    vm.give(KVM_IOEVENTFD, &mut request)
}

/// Has stores ring an eventfd.
pub fn assign(vm: &Fd, event: &EventFd, addr: u32, len: u32, value: Option<u64>) -> Answer {
    give(vm, request(event, addr.into(), len, value))
}

fn undo(vm: &Fd, mut request: Ioeventfd) -> Answer {
    request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    give(vm, request)
}

/// A guest that stores r2 to [`DEVICE`] in three widths, tells DEVICE + 16, and does so for ever.
fn storing() -> Program {
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, 0x8765_4321);
    let top = program.label();
    for width in [Width::Byte, Width::Half, Width::Word] {
        program.store(width, 2, 1, 0);
    }
    program.str(2, 1, 16).branch(top);
    program
}

fn lengths() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let value = |len: u32| 0x8765_4321 & u32::MAX >> (32 - 8 * len);
    for len in [1, 2, 4, 8, 0] {
        let event = eventfd(0)?;
        assign(&machine.vm, &event, DEVICE, len, None).succeeds(format_args!("an ioeventfd of {len} bytes"))?;
        for written in [1, 2, 4] {
            if len != 0 && written != len {
                vcpu.expect_write(DEVICE, written, value(written))?;
            }
        }
        vcpu.expect_write(DEVICE + 16, 4, value(4))?;
        let expected = match len {
            0 => 3,
            8 => 0,
            _ => 1,
        };
        equal(told(&event)?, expected, format_args!("how often an ioeventfd of {len} bytes rang"))?;
        undo(&machine.vm, request(&event, DEVICE.into(), len, None)).succeeds("undoing it")?;
    }
    Ok(())
}

fn values() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let events = [eventfd(0)?, eventfd(0)?, eventfd(0)?, eventfd(0)?];
    for (event, len, value) in [
        (&events[0], 1, 0x21),
        (&events[1], 2, 0x4320),
        (&events[2], 4, 0x8765_4321),
        (&events[3], 4, 1 << 32 | 0x8765_4321),
    ] {
        assign(&machine.vm, event, DEVICE, len, Some(value)).succeeds(format_args!("an ioeventfd of {value:#x}"))?;
    }
    vcpu.expect_write(DEVICE, 2, 0x4321)?;
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    for (event, expected) in events.iter().zip([1, 0, 1, 0]) {
        equal(told(event)?, expected, "how often an ioeventfd with a value rang")?;
    }
    Ok(())
}

fn loads() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).ldr(2, 1, 0).str(2, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let event = eventfd(0)?;
    assign(&machine.vm, &event, DEVICE, 0, None).succeeds("an ioeventfd")?;
    vcpu.expect_read(DEVICE, 4, 5)?;
    equal(told(&event)?, 0, "how often a load rang")?;
    vcpu.expect_off()?;
    equal(told(&event)?, 1, "how often the store rang")
}

fn several() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, 2).set(3, 3).set(4, 4);
    program.raw(0xe8a1_001c).raw(0xe581_1000).power_off(); // stm r1!, {r2-r4}; str r1, [r1]
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let events = [eventfd(0)?, eventfd(0)?];
    for (event, addr) in events.iter().zip([DEVICE, DEVICE + 8]) {
        assign(&machine.vm, event, addr, 4, None).succeeds("an ioeventfd")?;
    }
    vcpu.expect_write(DEVICE + 4, 4, 3)?;
    equal([told(&events[0])?, told(&events[1])?], [1, 0], "what has rung before the access that leaves")?;
    vcpu.expect_write(DEVICE + 12, 4, DEVICE + 12)?;
    equal([told(&events[0])?, told(&events[1])?], [0, 1], "what has rung after it")?;
    vcpu.expect_off()
}

fn two_vcpus() -> Verdict {
    const TIMES: u32 = 2000;
    let mut program = Program::new();
    program.set(1, DEVICE).set(3, TIMES);
    let top = program.label();
    program.str(3, 1, 0).raw(0xe253_3001); // subs r3, r3, #1
    program.branch_unless_equal(top).str(1, 1, 4).stay();
    let machine = Machine::new(&program)?;
    let vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
    let event = eventfd(0)?;
    assign(&machine.vm, &event, DEVICE, 4, None).succeeds("an ioeventfd")?;
    for running in vcpus.each_ref().map(|vcpu| vcpu.start()) {
        let expected =
            Mmio { phys_addr: u64::from(DEVICE) + 4, data: u64::from(DEVICE).to_le_bytes(), len: 4, is_write: true };
        equal(running.result()?, Exit::Mmio(expected), "the exit when it is done")?;
    }
    equal(told(&event)?, u64::from(2 * TIMES), "how often it rang")
}

fn bad_ioeventfds() -> Verdict {
    let (_kvm, vm) = Machine::empty()?;
    let event = eventfd(0)?;
    let good = request(&event, DEVICE.into(), 4, None);
    for len in [3, 5, 6, 7, 9, 16, 1 << 31, u32::MAX] {
        give(&vm, Ioeventfd { len, ..good }).fails(Errno::EINVAL, format_args!("{len} bytes"))?;
    }
    for (addr, len) in [(u64::MAX, 1), (u64::MAX - 2, 4), (u64::MAX - 6, 8)] {
        let beyond = Ioeventfd { addr, len, ..good };
        give(&vm, beyond).fails(Errno::EINVAL, format_args!("{len} bytes at {addr:#x}"))?;
    }
    for flags in [1 << 5, 1 << 6, 1 << 31, !KVM_IOEVENTFD_FLAG_DEASSIGN] {
        give(&vm, Ioeventfd { flags, ..good }).fails(Errno::EINVAL, format_args!("flags {flags:#x}"))?;
    }
    let any = request(&event, DEVICE.into(), 0, Some(0));
    give(&vm, any).fails(Errno::EINVAL, "a value of any length")?;
    // It is looked at before the descriptor is, and an address that no guest has is none of that.
    give(&vm, Ioeventfd { len: 3, fd: -1, ..good }).fails(Errno::EINVAL, "3 bytes and no descriptor")?;
    give(&vm, request(&event, u64::MAX - 8, 8, None)).succeeds("the last bytes there are").map(|_| ())
}

fn no_eventfd() -> Verdict {
    let (kvm, vm) = Machine::empty()?;
    let event = eventfd(0)?;
    for deassign in [0, KVM_IOEVENTFD_FLAG_DEASSIGN] {
        for (fd, error) in [(-1, Errno::EBADF), (999, Errno::EBADF), (kvm.number(), Errno::EINVAL)] {
            let request = Ioeventfd { fd, flags: deassign, ..request(&event, DEVICE.into(), 4, None) };
            give(&vm, request).fails(error, format_args!("descriptor {fd}, flags {deassign}"))?;
        }
    }
    for at in Nowhere::ALL {
        vm.nowhere(KVM_IOEVENTFD, at).fails(Errno::EFAULT, format_args!("KVM_IOEVENTFD at {at:?}"))?;
    }
    Ok(())
}

fn collisions() -> Verdict {
    let (_kvm, vm) = Machine::empty()?;
    let (event, other) = (eventfd(0)?, eventfd(0)?);
    for (one, two, collide) in [
        ((4, None), (4, None), true),
        ((4, None), (2, None), false),
        ((0, None), (4, Some(1)), true),
        ((4, Some(1)), (0, None), true),
        ((4, Some(1)), (4, Some(2)), false),
        ((4, Some(1)), (4, Some(1)), true),
        ((4, Some(1)), (4, None), true),
    ] {
        let addr = DEVICE.into();
        give(&vm, request(&event, addr, one.0, one.1)).succeeds(format_args!("{one:?}"))?;
        let second = request(&other, addr, two.0, two.1);
        if collide {
            give(&vm, second).fails(Errno::EEXIST, format_args!("{two:?} beside {one:?}"))?;
        } else {
            give(&vm, second).succeeds(format_args!("{two:?} beside {one:?}"))?;
            undo(&vm, second).succeeds("undoing the second")?;
        }
        undo(&vm, request(&event, addr, one.0, one.1)).succeeds("undoing the first")?;
    }
    Ok(())
}

fn undone() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let (event, other) = (eventfd(0)?, eventfd(0)?);
    let good = request(&event, DEVICE.into(), 1, Some(0x21));
    give(&machine.vm, good).succeeds("an ioeventfd")?;
    let wrong = [
        Ioeventfd { fd: other.as_raw_fd(), ..good },
        Ioeventfd { addr: good.addr + 1, ..good },
        Ioeventfd { len: 2, ..good },
        Ioeventfd { len: 3, ..good },
        Ioeventfd { flags: 0, ..good },
        Ioeventfd { datamatch: 0x22, ..good },
        Ioeventfd { flags: good.flags | KVM_IOEVENTFD_FLAG_PIO, ..good },
    ];
    for wrong in wrong {
        undo(&machine.vm, wrong).fails(Errno::ENOENT, format_args!("undoing {wrong:?}"))?;
    }
    vcpu.expect_write(DEVICE, 2, 0x4321)?;
    equal(told(&event)?, 1, "how often it rang")?;
    undo(&machine.vm, good).succeeds("undoing it")?;
    undo(&machine.vm, good).fails(Errno::ENOENT, "undoing it again")?;
    vcpu.expect_write(DEVICE, 4, 0x8765_4321)?;
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    vcpu.expect_write(DEVICE, 1, 0x21)?;
    equal(told(&event)?, 0, "how often it rang afterwards")
}

fn ports() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let event = eventfd(0)?;
    for flags in [KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY] {
        let request = Ioeventfd { flags, ..request(&event, DEVICE.into(), 0, None) };
        give(&machine.vm, request).succeeds("an ioeventfd")?;
        give(&machine.vm, request).fails(Errno::EEXIST, "it again")?;
        for (len, value) in [(1, 0x21), (2, 0x4321), (4, 0x8765_4321)] {
            vcpu.expect_write(DEVICE, len, value)?;
        }
        vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
        undo(&machine.vm, request).succeeds("undoing it")?;
    }
    equal(told(&event)?, 0, "how often it rang")
}

fn closed() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let event = eventfd(0)?;
    let same = nix::unistd::dup(&event).succeeds("dup")?;
    assign(&machine.vm, &event, DEVICE, 0, None).succeeds("an ioeventfd")?;
    drop(event);
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    let mut count = [0; 8];
    nix::unistd::read(&same, &mut count).succeeds("reading the other descriptor of the eventfd")?;
    equal(u64::from_le_bytes(count), 3, "how often it rang")?;
    // It goes on without anybody who could be told.
    drop(same);
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)
}

fn many() -> Verdict {
    const COUNT: u32 = 2000;
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let (event, others) = (eventfd(0)?, eventfd(0)?);
    assign(&machine.vm, &event, DEVICE, 0, None).succeeds("the one that rings")?;
    for number in 1..COUNT {
        // From both sides, in a mixed order.
        let at = if number % 2 == 0 { DEVICE + 64 + number * 8 } else { DEVICE - number * 8 };
        assign(&machine.vm, &others, at, 4, None).succeeds(format_args!("ioeventfd {number}"))?;
    }
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    equal([told(&event)?, told(&others)?], [3, 0], "what rang")
}

fn zone(addr: u32, size: u32) -> CoalescedMmioZone {
    CoalescedMmioZone { addr: addr.into(), size, pio: 0 }
}

/// Has stores collected.
pub fn register(vm: &Fd, addr: u32, size: u32) -> Answer {
    vm.give(KVM_REGISTER_COALESCED_MMIO, &mut zone(addr, size))
}

fn unregister(vm: &Fd, addr: u32, size: u32) -> Answer {
    vm.give(KVM_UNREGISTER_COALESCED_MMIO, &mut zone(addr, size))
}

const FIRST: usize = 0;
const LAST: usize = 1;
const MAX: u32 = KVM_COALESCED_MMIO_MAX as u32;

/// The oldest entry of the ring, which is taken out: address, length, and the words of value and what lies between.
fn next(page: &RunPage) -> Option<[u32; 6]> {
    let (first, last) = (page.ring(FIRST).load(Ordering::SeqCst), page.ring(LAST).load(Ordering::SeqCst));
    if first == last {
        return None;
    }
    let words = core::array::from_fn(|word| page.ring(2 + first as usize * 6 + word).load(Ordering::SeqCst));
    page.ring(FIRST).store((first + 1) % MAX, Ordering::SeqCst);
    Some(words)
}

fn collected() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
    register(&machine.vm, DEVICE, 16).succeeds("a zone")?;
    for vcpu in &vcpus {
        vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    }
    for number in 0..6 {
        // Each sees what the other does to the ring.
        let found = next(&vcpus[number % 2].page);
        let (len, value) = [(1, 0x21), (2, 0x4321), (4, 0x8765_4321)][number % 3];
        equal(found, Some([DEVICE, 0, len, 0, value, 0]), format_args!("entry {number} of the ring"))?;
    }
    equal(next(&vcpus[0].page), None, "what else is in the ring")
}

fn full_ring() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    register(&machine.vm, DEVICE, 32).succeeds("a zone")?;
    // The ring begins anywhere.
    for begin in [0, 1, 100, MAX - 1] {
        vcpu.page.ring(FIRST).store(begin, Ordering::SeqCst);
        vcpu.page.ring(LAST).store(begin, Ordering::SeqCst);
        let exit = vcpu.run().succeeds("KVM_RUN until the ring is full")?;
        holds(matches!(exit, Exit::Mmio(Mmio { is_write: true, .. })), format_args!("a store leaves: {exit:?}"))?;
        let count = std::iter::from_fn(|| next(&vcpu.page)).count();
        equal(count, KVM_COALESCED_MMIO_MAX - 1, format_args!("what a ring that begins at {begin} holds"))?;
    }
    Ok(())
}

fn hostile_ring() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    register(&machine.vm, DEVICE, 16).succeeds("a zone")?;
    for last in [MAX, MAX + 1, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX] {
        for first in [0, last, last.wrapping_add(1)] {
            vcpu.page.ring(FIRST).store(first, Ordering::SeqCst);
            vcpu.page.ring(LAST).store(last, Ordering::SeqCst);
            for (len, value) in [(1, 0x21), (2, 0x4321), (4, 0x8765_4321)] {
                vcpu.expect_write(DEVICE, len, value)
                    .map_err(|why| Failure::new(format!("indices {first:#x}, {last:#x}: {why}")))?;
            }
            vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
            let after = vcpu.page.ring(LAST).load(Ordering::SeqCst);
            equal(after, last, "the index that the process wrote")?;
        }
    }
    // A `first` that is none makes no difference.
    vcpu.page.ring(FIRST).store(u32::MAX, Ordering::SeqCst);
    vcpu.page.ring(LAST).store(MAX - 2, Ordering::SeqCst);
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    equal(vcpu.page.ring(LAST).load(Ordering::SeqCst), 1, "the index after three more")
}

fn zones_undone() -> Verdict {
    let machine = Machine::new(&storing())?;
    let vcpu = machine.vcpu(0)?;
    let vm = &machine.vm;
    for (addr, size) in [(DEVICE, 16), (DEVICE, 4), (DEVICE - 8, 64)] {
        register(vm, addr, size).succeeds("a zone")?;
    }
    unregister(vm, DEVICE, 64).succeeds("undoing what lies in none")?;
    unregister(vm, DEVICE - 8, 8).succeeds("undoing the largest")?;
    vcpu.expect_write(DEVICE + 16, 4, 0x8765_4321)?;
    unregister(vm, DEVICE, 4).succeeds("undoing the others")?;
    vcpu.expect_write(DEVICE, 1, 0x21)?;
    unregister(vm, DEVICE, 4).succeeds("undoing nothing").map(|_| ())
}

fn bad_zones() -> Verdict {
    let (_kvm, vm) = Machine::empty()?;
    for call in [KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO] {
        for pio in [2, 3, u32::MAX] {
            let mut zone = CoalescedMmioZone { pio, ..zone(DEVICE, 16) };
            vm.give(call, &mut zone).fails(Errno::EINVAL, format_args!("call {call:#x} with pio {pio}"))?;
        }
        for at in Nowhere::ALL {
            vm.nowhere(call, at).fails(Errno::EFAULT, format_args!("call {call:#x} at {at:?}"))?;
        }
    }
    for pio in [0, 1] {
        let mut result = Ok(0);
        let mut count = 0;
        while count < 1100 && result.is_ok() {
            result = vm.give(KVM_REGISTER_COALESCED_MMIO, &mut CoalescedMmioZone { pio, ..zone(DEVICE, 16) });
            count += 1;
        }
        result.fails(Errno::ENOSPC, format_args!("zone {count}"))?;
        holds((998..=1001).contains(&count), format_args!("there are some thousand zones: {count}"))?;
    }
    Ok(())
}

fn not_the_gic() -> Verdict {
    let mut program = Program::new();
    program.set(1, GICD).set(2, GICC).set(3, 0xff).set(5, DEVICE);
    program.str(3, 2, 4).ldr(4, 2, 4).str(4, 5, 0); // GICC_PMR
    program.set(3, 3).str(3, 1, 0).ldr(4, 1, 0).str(4, 5, 0).power_off(); // GICD_CTLR
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let event = eventfd(0)?;
    for (addr, offset) in [(GICD, 0), (GICC, 4)] {
        assign(&machine.vm, &event, addr + offset, 0, None).succeeds("an ioeventfd")?;
        register(&machine.vm, addr, 0x1000).succeeds("a zone")?;
    }
    vcpu.expect_write(DEVICE, 4, 0xf8)?;
    vcpu.expect_write(DEVICE, 4, 3)?;
    vcpu.expect_off()?;
    equal((told(&event)?, next(&vcpu.page)), (0, None), "what the process heard of it")?;
    holds(machine.ram.read(0) != 0, format_args!("the program is at {RAM:#x}"))
}
