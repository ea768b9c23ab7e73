// SPDX-License-Identifier: GPL-2.0-only
//! Memory slots: which requests are good, and what the others are told.

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::machine::{Machine, region};
use crate::memory_map::Memory;
use crate::sys::Fd;
use crate::verdict::{Failure, Outcome, Verdict};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a slot is made, and again as it is, deleted, and made anew", life),
    Case::of("deleting a slot that is not there is EINVAL", delete_nothing),
    Case::of("unaligned addresses and sizes are EINVAL", unaligned),
    Case::of("slots that overlap are EEXIST", overlapping),
    Case::of("slots may touch, and share the process's memory", adjacent),
    Case::of("numbers beyond the 512 slots are EINVAL", numbers),
    Case::of("unknown flags are EINVAL", flags),
    Case::of("a slot's size, memory and readonly cannot change (EINVAL)", changes),
    Case::of("a slot moves, but not onto another (EEXIST)", moves),
    Case::of("nothing reaches beyond 40 bits (EFAULT), nor around the end (EINVAL)", limit),
    Case::of("addresses that no process has are EINVAL", not_the_processs),
    Case::of("a pointer that was extended with its sign is good", sign_extended),
    Case::of("memory that is not there yet may have a slot", not_there_yet),
];

const SIZE: u64 = 0x10000;
const AT: u64 = 0x8000_0000;

/// A VM without slots, and where the process has memory for some.
fn fixture() -> Result<(Fd, u64), Failure> {
    let (_, vm) = Machine::empty()?;
    let memory = Memory::new(SIZE as usize * 4).succeeds("mmap")?;
    Ok((vm, memory.address(0)))
}

fn life() -> Verdict {
    let (vm, hva) = fixture()?;
    for _ in 0..2 {
        vm.slot(&region(0, AT, SIZE, hva)).succeeds("making a slot")?;
        vm.slot(&region(0, AT, SIZE, hva)).succeeds("making it again as it is")?;
        vm.slot(&region(0, AT, 0, hva)).succeeds("deleting it")?;
        vm.slot(&region(0, AT, 0, hva)).fails(Errno::EINVAL, "deleting it again")?;
    }
    // What else a deletion says does not matter, but must be in order.
    vm.slot(&region(0, AT, SIZE, hva)).succeeds("making a slot")?;
    vm.slot(&region(0, 0, 0, 0)).succeeds("deleting it without its addresses").map(|_| ())
}

fn delete_nothing() -> Verdict {
    let (vm, hva) = fixture()?;
    for slot in [0, 5, 31] {
        vm.slot(&region(slot, AT, 0, hva)).fails(Errno::EINVAL, format_args!("deleting slot {slot}"))?;
    }
    Ok(())
}

fn unaligned() -> Verdict {
    let (vm, hva) = fixture()?;
    for odd in [1, 4, 0x800, 0xfff] {
        vm.slot(&region(0, AT + odd, SIZE, hva))
            .fails(Errno::EINVAL, format_args!("a guest's address {odd:#x} off"))?;
        vm.slot(&region(0, AT, SIZE - odd, hva)).fails(Errno::EINVAL, format_args!("a size {odd:#x} off"))?;
        vm.slot(&region(0, AT, odd, hva)).fails(Errno::EINVAL, format_args!("a size of {odd:#x}"))?;
        vm.slot(&region(0, AT, SIZE, hva + odd)).fails(Errno::EINVAL, format_args!("an address {odd:#x} off"))?;
    }
    Ok(())
}

fn overlapping() -> Verdict {
    let (vm, hva) = fixture()?;
    vm.slot(&region(3, AT, SIZE, hva)).succeeds("a slot")?;
    let others = [
        (AT, SIZE),
        (AT, 0x1000),
        (AT + SIZE - 0x1000, SIZE),
        (AT - SIZE + 0x1000, SIZE),
        (AT + 0x4000, 0x1000),
        (AT - SIZE, SIZE * 3),
        (AT - 0x1000, 0x2000),
    ];
    for (at, size) in others {
        let what = format!("{size:#x} bytes at {at:#x} beside {SIZE:#x} at {AT:#x}");
        vm.slot(&region(4, at, size, hva)).fails(Errno::EEXIST, &what)?;
        vm.slot(&region(2, at, size, hva)).fails(Errno::EEXIST, &what)?;
    }
    vm.slot(&region(3, AT, 0, hva)).succeeds("deleting it")?;
    vm.slot(&region(4, AT, SIZE, hva)).succeeds("another in its place").map(|_| ())
}

fn adjacent() -> Verdict {
    let (vm, hva) = fixture()?;
    for (slot, at) in [AT, AT + SIZE, AT - SIZE, 0].into_iter().enumerate() {
        vm.slot(&region(slot as u32, at, SIZE, hva)).succeeds(format_args!("slot {slot}"))?;
    }
    Ok(())
}

fn numbers() -> Verdict {
    let (vm, hva) = fixture()?;
    for slot in [512, 513, 516, 0xffff, 0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
        vm.slot(&region(slot, AT, 0x1000, hva)).fails(Errno::EINVAL, format_args!("slot {slot:#x}"))?;
        vm.slot(&region(slot, AT, 0, hva)).fails(Errno::EINVAL, format_args!("deleting slot {slot:#x}"))?;
    }
    for slot in 0..512 {
        vm.slot(&region(slot, AT + u64::from(slot) * 0x2000, 0x1000, hva)).succeeds(format_args!("slot {slot}"))?;
    }
    Ok(())
}

fn flags() -> Verdict {
    let (vm, hva) = fixture()?;
    for bit in 2..32 {
        let wrong = UserspaceMemoryRegion { flags: 1 << bit, ..region(0, AT, SIZE, hva) };
        vm.slot(&wrong).fails(Errno::EINVAL, format_args!("flags {:#x}", wrong.flags))?;
    }
    for flags in [KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES] {
        let good = UserspaceMemoryRegion { flags, ..region(0, AT, SIZE, hva) };
        vm.slot(&good).succeeds(format_args!("flags {flags:#x}"))?;
        vm.slot(&region(0, AT, 0, hva)).succeeds("deleting it")?;
    }
    Ok(())
}

fn changes() -> Verdict {
    let (vm, hva) = fixture()?;
    let slot = region(0, AT, SIZE, hva);
    vm.slot(&slot).succeeds("a slot")?;
    for size in [SIZE - 0x1000, SIZE + 0x1000] {
        vm.slot(&region(0, AT, size, hva)).fails(Errno::EINVAL, "another size")?;
    }
    vm.slot(&region(0, AT, SIZE, hva + 0x1000)).fails(Errno::EINVAL, "other memory")?;
    vm.slot(&UserspaceMemoryRegion { flags: KVM_MEM_READONLY, ..slot }).fails(Errno::EINVAL, "readonly")?;
    vm.slot(&UserspaceMemoryRegion { flags: KVM_MEM_LOG_DIRTY_PAGES, ..slot }).succeeds("noting writes")?;
    vm.slot(&slot).succeeds("no longer noting writes").map(|_| ())
}

fn moves() -> Verdict {
    let (vm, hva) = fixture()?;
    vm.slot(&region(0, AT, SIZE, hva)).succeeds("a slot")?;
    vm.slot(&region(1, AT + 2 * SIZE, SIZE, hva)).succeeds("another")?;
    vm.slot(&region(0, AT + SIZE + 0x1000, SIZE, hva)).fails(Errno::EEXIST, "moving one onto the other")?;
    vm.slot(&region(0, AT + 0x1000, SIZE, hva)).succeeds("moving it by a page")?;
    vm.slot(&region(2, AT, 0x1000, hva)).succeeds("a third in the page that it left")?;
    vm.slot(&region(0, AT, SIZE, hva)).fails(Errno::EEXIST, "moving it back").map(|_| ())
}

fn limit() -> Verdict {
    let (vm, hva) = fixture()?;
    const END: u64 = 1 << 40;
    for at in [END, END + 0x1000, END - SIZE + 0x1000, END - SIZE, 1 << 52, 1 << 63] {
        vm.slot(&region(0, at, SIZE, hva)).fails(Errno::EFAULT, format_args!("a slot at {at:#x}"))?;
    }
    for at in [u64::MAX - SIZE + 0x1001, u64::MAX - 0xfff] {
        vm.slot(&region(0, at, 2 * SIZE, hva)).fails(Errno::EINVAL, format_args!("a slot at {at:#x}"))?;
    }
    vm.slot(&region(0, END - SIZE - 0x1000, SIZE, hva)).succeeds("a slot just below").map(|_| ())
}

fn not_the_processs() -> Verdict {
    let (vm, hva) = fixture()?;
    for size in [!0xfff, 1 << 62, 1 << 44, 1 << 32] {
        vm.slot(&region(0, AT, size, hva)).fails(Errno::EINVAL, format_args!("a slot of {size:#x} bytes"))?;
    }
    if cfg!(target_pointer_width = "32") {
        for address in [0xc000_0000, 0xffff_f000, 0xbeff_f000] {
            vm.slot(&region(0, AT, 0x200_0000, address))
                .fails(Errno::EINVAL, format_args!("the memory at {address:#x}"))?;
        }
    }
    Ok(())
}

fn sign_extended() -> Verdict {
    if cfg!(target_pointer_width = "32") {
        let (vm, _) = fixture()?;
        // Whatever is there; the slot is not used.
        vm.slot(&region(0, AT, 0x1000, 0xffff_ffff_8000_0000)).succeeds("a slot over memory at 0x80000000")?;
    }
    Ok(())
}

fn not_there_yet() -> Verdict {
    let (vm, hva) = fixture()?;
    let memory = Memory::new(0x4000).succeeds("mmap")?;
    memory.unmap(0..0x4000).succeeds("munmap")?;
    vm.slot(&region(0, AT, 0x4000, memory.address(0))).succeeds("a slot over nothing")?;
    memory.map_again(0..0x4000).succeeds("mmap")?;
    memory.protect(0..0x4000, false).succeeds("mprotect")?;
    vm.slot(&region(1, 0, 0x4000, memory.address(0))).succeeds("a slot over memory that cannot be written")?;
    vm.slot(&region(1, 0, 0, hva)).succeeds("deleting it").map(|_| ())
}
