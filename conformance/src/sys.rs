// SPDX-License-Identifier: GPL-2.0-only
//! The system calls: ioctls with their arguments, the mapped page of a vCPU, signals, and processes that share descriptors.
//!
//! Addresses that are given to the kernel are those of a value that lives through the call, or [`Nowhere`], where this process has
//! nothing. So whatever the kernel does with a call, right or wrong, it stays within what the call was given.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};
use uapi::{
    ClearDirtyLog, DeviceAttr, DirtyLog, Exit, ExitWords, MMIO_DATA_OFFSET, OneReg, Run, UserspaceMemoryRegion,
    argument_size,
};

use crate::cpu::{self, Registers};
use crate::memory_map::Memory;
use crate::verdict::{Outcome, Verdict};

/// What a system call answers.
pub type Answer = Result<i32, Errno>;

/// Structures that a kernel can be given without touching anything else of this process.
///
/// # Safety
///
/// The type is made of integers, any bytes are one, and no field is an address that the kernel writes to.
pub unsafe trait NoAddress {}
// SAFETY: bytes.
unsafe impl<const N: usize> NoAddress for [u8; N] {}
// SAFETY: numbers.
unsafe impl<const N: usize> NoAddress for [u64; N] {}
// SAFETY: numbers.
unsafe impl NoAddress for uapi::IrqLevel {}
// SAFETY: a number and a bitmap.
unsafe impl NoAddress for uapi::VcpuInit {}
// SAFETY: numbers and a descriptor.
unsafe impl NoAddress for uapi::CreateDevice {}
// SAFETY: numbers; the address is a guest's.
unsafe impl NoAddress for uapi::DeviceAddr {}
// SAFETY: a number.
unsafe impl NoAddress for uapi::MpState {}
// SAFETY: numbers.
unsafe impl NoAddress for uapi::VcpuEvents {}
// SAFETY: numbers, of which none is an address for any capability there is.
unsafe impl NoAddress for uapi::EnableCap {}

// SAFETY: numbers and a descriptor; the address is a guest's.
unsafe impl NoAddress for uapi::Ioeventfd {}
// SAFETY: numbers and descriptors.
unsafe impl NoAddress for uapi::Irqfd {}
// SAFETY: numbers; the address is a guest's.
unsafe impl NoAddress for uapi::Msi {}
// SAFETY: numbers; the address is a guest's.
unsafe impl NoAddress for uapi::CoalescedMmioZone {}

/// An address where this process has nothing.
#[derive(Clone, Copy, Debug)]
pub enum Nowhere {
    /// Address 0, below what a process may map.
    Null,
    /// The last page, the kernel's own.
    Kernel,
}

impl Nowhere {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Null, Self::Kernel];

    fn address(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Kernel => usize::MAX & !0xfff,
        }
    }
}

/// A descriptor.
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl Fd {
    /// `/dev/kvm`.
    pub fn kvm() -> Result<Self, Errno> {
        let file = File::options().read(true).write(true).open("/dev/kvm");
        file.map(|file| Self(file.into())).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    /// The descriptor's number.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// KVM_RUN with all of this thread's registers filled, and what they are after it: `registers`, but for r0, which has the answer. Those
    /// that say the call are set here.
    pub fn run_with(&self, registers: &mut Registers) -> Answer {
        let call = [self.0.as_raw_fd() as u32, uapi::KVM_RUN, 0];
        registers.r[..3].copy_from_slice(&call);
        registers.r[7] = libc::SYS_ioctl as u32;
        // SAFETY: KVM_RUN takes no address.
        unsafe { cpu::over_system_call(registers) };
        let answer = std::mem::replace(&mut registers.r[0], call[0]) as i32;
        if answer < 0 { Err(Errno::from_raw(-answer)) } else { Ok(answer) }
    }

    fn ioctl(&self, ioctl: u32, argument: usize) -> Answer {
        // SAFETY: private; each caller sees to it that `argument` is no address, or one that the kernel may use as the number says.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), ioctl as libc::Ioctl, argument) })
    }

    /// An ioctl whose argument is a number, not an address.
    pub fn value(&self, ioctl: u32, argument: usize) -> Answer {
        assert_eq!(argument_size(ioctl), 0, "{ioctl:#x} takes a structure");
        self.ioctl(ioctl, argument)
    }

    /// The same, answering a new descriptor.
    pub fn create(&self, ioctl: u32, argument: usize) -> Result<Self, Errno> {
        let fd = self.value(ioctl, argument)?;
        // SAFETY: KVM_CREATE_VM and KVM_CREATE_VCPU, the only such calls, answer a new descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// An ioctl that the kernel gets a structure for, and may change it.
    pub fn give<T: NoAddress>(&self, ioctl: u32, argument: &mut T) -> Answer {
        assert!(argument_size(ioctl) <= size_of::<T>(), "{ioctl:#x} takes a larger structure");
        self.ioctl(ioctl, std::ptr::from_mut(argument) as usize)
    }

    /// An ioctl whose structure is nowhere.
    pub fn nowhere(&self, ioctl: u32, at: Nowhere) -> Answer {
        self.ioctl(ioctl, at.address())
    }

    /// An ioctl whose structure lies there, where the process may have said that nobody writes.
    pub fn inside(&self, ioctl: u32, memory: &crate::memory_map::Memory, offset: usize) -> Answer {
        assert!(offset + argument_size(ioctl) <= memory.bytes(), "{ioctl:#x} takes a larger structure");
        self.ioctl(ioctl, memory.address(offset) as usize)
    }

    /// Makes a device of the kernel's. Its descriptor is in the structure, and the answer 0.
    pub fn create_device(&self, device_type: u32) -> Result<Self, Errno> {
        let mut device = uapi::CreateDevice { device_type, ..Default::default() };
        if self.give(uapi::KVM_CREATE_DEVICE, &mut device)? != 0 {
            return Err(Errno::EPROTO);
        }
        // SAFETY: the call succeeded without KVM_CREATE_DEVICE_TEST, so `fd` is a new descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(device.fd as RawFd) }))
    }

    /// Makes, moves, changes or deletes a memory slot.
    pub fn slot(&self, region: &UserspaceMemoryRegion) -> Answer {
        // A guest that runs uses memory only of `memory_map::Memory`, all of whose accesses here are atomic; a region that names
        // anything else is there to be refused, and no guest runs afterwards.
        self.ioctl(uapi::KVM_SET_USER_MEMORY_REGION, std::ptr::from_ref(region) as usize)
    }

    /// KVM_GET_DIRTY_LOG of a slot of `pages` pages: the numbers of those that are in it. Fails the case if the kernel writes beyond the
    /// bitmap's last word.
    pub fn dirty_log(&self, slot: u32, pages: usize) -> Result<Vec<usize>, Errno> {
        // Of any slot that the caller may name, no bitmap is longer.
        let mut bitmap = vec![u32::MAX; 1 << 16];
        let request = DirtyLog { slot, padding1: 0, dirty_bitmap: bitmap.as_mut_ptr() as usize as u64 };
        self.ioctl(uapi::KVM_GET_DIRTY_LOG, std::ptr::from_ref(&request) as usize)?;
        let words = pages.div_ceil(32);
        assert!(bitmap[words..].iter().all(|word| *word == u32::MAX), "more than {words} words were written");
        Ok((0..words * 32).filter(|page| bitmap[page / 32] >> (page % 32) & 1 != 0).collect())
    }

    /// KVM_CLEAR_DIRTY_LOG of `pages` pages from `first` on, with the bits of those that are in `named` (all others are ignored).
    pub fn clear_dirty_log(&self, slot: u32, first: u64, pages: u32, named: &[usize]) -> Answer {
        let mut bitmap = vec![0u32; 1 << 16];
        for page in named {
            let bit = (*page as u64).checked_sub(first).filter(|bit| *bit < pages.into());
            if let Some(bit) = bit {
                bitmap[bit as usize / 32] |= 1 << (bit % 32);
            }
        }
        let dirty_bitmap = bitmap.as_ptr() as usize as u64;
        let mut request = ClearDirtyLog { slot, num_pages: pages, first_page: first, dirty_bitmap };
        self.ioctl(uapi::KVM_CLEAR_DIRTY_LOG, std::ptr::from_mut(&mut request) as usize)
    }

    /// Both calls with their bitmap nowhere.
    pub fn dirty_log_nowhere(&self, slot: u32, pages: u32, at: Nowhere) -> [Answer; 2] {
        self.dirty_log_with(slot, pages, at.address() as u64)
    }

    /// Both calls, for all pages of a slot, with their bitmap at `at` in `memory`.
    pub fn dirty_log_at(&self, slot: u32, pages: u32, memory: &Memory, at: usize) -> [Answer; 2] {
        self.dirty_log_with(slot, pages, memory.address(at))
    }

    fn dirty_log_with(&self, slot: u32, pages: u32, dirty_bitmap: u64) -> [Answer; 2] {
        let get = DirtyLog { slot, padding1: 0, dirty_bitmap };
        let mut clear = ClearDirtyLog { slot, num_pages: pages, first_page: 0, dirty_bitmap };
        [
            self.ioctl(uapi::KVM_GET_DIRTY_LOG, std::ptr::from_ref(&get) as usize),
            self.ioctl(uapi::KVM_CLEAR_DIRTY_LOG, std::ptr::from_mut(&mut clear) as usize),
        ]
    }

    /// Reads a register; of 32-bit registers the value's upper half is 0.
    pub fn register(&self, id: u64) -> Result<u64, Errno> {
        let mut value = Room::default();
        let register = OneReg { id, addr: value.address() };
        self.ioctl(uapi::KVM_GET_ONE_REG, std::ptr::from_ref(&register) as usize)?;
        Ok(value.0[0])
    }

    /// Writes a register.
    pub fn set_register(&self, id: u64, value: u64) -> Answer {
        let mut value = Room::holding(value);
        let register = OneReg { id, addr: value.address() };
        self.ioctl(uapi::KVM_SET_ONE_REG, std::ptr::from_ref(&register) as usize)
    }

    /// The same, with the value's address extended by its sign, as C does it.
    pub fn register_sign_extended(&self, id: u64) -> Result<u64, Errno> {
        let mut value = Room::default();
        let register = OneReg { id, addr: value.address() as u32 as i32 as i64 as u64 };
        assert_eq!(u64::from(register.addr as u32), value.address(), "only an address of 32 bits is extended");
        self.ioctl(uapi::KVM_GET_ONE_REG, std::ptr::from_ref(&register) as usize)?;
        Ok(value.0[0])
    }

    /// KVM_GET_ONE_REG or KVM_SET_ONE_REG with its value nowhere.
    pub fn register_nowhere(&self, ioctl: u32, id: u64, at: Nowhere) -> Answer {
        let register = OneReg { id, addr: at.address() as u64 };
        self.ioctl(ioctl, std::ptr::from_ref(&register) as usize)
    }

    /// The same with its value at `at` in `memory`.
    pub fn register_at(&self, ioctl: u32, id: u64, memory: &Memory, at: usize) -> Answer {
        let register = OneReg { id, addr: memory.address(at) };
        self.ioctl(ioctl, std::ptr::from_ref(&register) as usize)
    }

    /// KVM_GET_REG_LIST with room for `room` ids: the count that came back, the ids that are there, and the answer.
    pub fn register_list(&self, room: u64) -> (u64, Vec<u64>, Answer) {
        // The kernel is told of `room` ids; there is place for as many as any list has, should it not believe that.
        let mut list = vec![0u64; room.min(4096) as usize + 1025];
        list[0] = room;
        let answer = self.ioctl(uapi::KVM_GET_REG_LIST, list.as_mut_ptr() as usize);
        let count = list[0];
        (count, list[1..].iter().copied().take_while(|id| *id != 0).collect(), answer)
    }

    /// KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR or KVM_HAS_DEVICE_ATTR, with a value that the kernel may read or write.
    pub fn attribute(&self, ioctl: u32, group: u32, attr: u64, value: &mut u64) -> Answer {
        let mut room = Room::holding(*value);
        let attribute = DeviceAttr { flags: 0, group, attr, addr: room.address() };
        let answer = self.ioctl(ioctl, std::ptr::from_ref(&attribute) as usize);
        *value = room.0[0];
        answer
    }

    /// The same, with the value nowhere.
    pub fn attribute_nowhere(&self, ioctl: u32, group: u32, attr: u64, at: Nowhere) -> Answer {
        let attribute = DeviceAttr { flags: 0, group, attr, addr: at.address() as u64 };
        self.ioctl(ioctl, std::ptr::from_ref(&attribute) as usize)
    }

    /// The same, with the value at `at` in `memory`.
    pub fn attribute_at(&self, ioctl: u32, group: u32, attr: u64, memory: &Memory, at: usize) -> Answer {
        let attribute = DeviceAttr { flags: 0, group, attr, addr: memory.address(at) };
        self.ioctl(ioctl, std::ptr::from_ref(&attribute) as usize)
    }

    /// KVM_SET_GSI_ROUTING with these entries, of which there are said to be `nr`.
    pub fn set_routing(&self, entries: &[uapi::IrqRoutingEntry], nr: u32, flags: u32) -> Answer {
        // Room for whatever is said, should the kernel believe it.
        let mut words = vec![0u32; 2 + 12 * 5000];
        words[..2].copy_from_slice(&[nr, flags]);
        for (to, entry) in words[2..].chunks_exact_mut(12).zip(entries) {
            to[..4].copy_from_slice(&[entry.gsi, entry.route_type, entry.flags, entry.pad]);
            to[4..].copy_from_slice(&entry.route);
        }
        assert!(entries.len() <= 5000);
        self.ioctl(uapi::KVM_SET_GSI_ROUTING, words.as_ptr() as usize)
    }

    /// KVM_SET_GSI_ROUTING whose head, at `at` in `memory`, is the last that is there.
    pub fn set_routing_at(&self, memory: &Memory, at: usize, nr: u32) -> Answer {
        memory.put(at, &[nr, 0]);
        self.ioctl(uapi::KVM_SET_GSI_ROUTING, memory.address(at) as usize)
    }

    /// KVM_SET_SIGNAL_MASK: these signals, in a set that is said to be `bytes` large.
    pub fn set_signal_mask(&self, signals: &[Signal], bytes: u32) -> Answer {
        let set = signals.iter().fold(0u64, |set, signal| set | 1 << (*signal as u32 - 1));
        let mut mask = [bytes, set as u32, (set >> 32) as u32];
        self.ioctl(uapi::KVM_SET_SIGNAL_MASK, mask.as_mut_ptr() as usize)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for a register or attribute of any size that an id can say, up to 2 KiB, wherever the kernel puts it.
struct Room([u64; 256]);

impl Default for Room {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Room {
    fn holding(value: u64) -> Self {
        let mut room = Self::default();
        room.0[0] = value;
        room
    }

    fn address(&mut self) -> u64 {
        self.0.as_mut_ptr() as usize as u64
    }
}

/// The pages that kernel and process share about a vCPU; unmapped on drop.
#[derive(Debug)]
pub struct RunPage {
    page: NonNull<Run>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process; all accesses are atomic or, where a thread that runs the vCPU makes them, volatile.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the pages of a vCPU.
    pub fn map(vcpu: &Fd, bytes: usize) -> Result<Self, Errno> {
        let length = bytes.try_into().map_err(|_| Errno::EINVAL)?;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        assert!(bytes >= size_of::<Run>());
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let page = unsafe { mmap(None, length, rights, MapFlags::MAP_SHARED, vcpu, 0) }?;
        Ok(Self { page: page.cast(), bytes })
    }

    /// `immediate_exit`.
    pub fn exit_immediately(&self, so: bool) {
        // SAFETY: the page is mapped while `self` lives, and an AtomicU8 is laid out as a u8.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) }.store(so.into(), Ordering::SeqCst);
    }

    /// Why the last run returned.
    pub fn exit(&self) -> Exit {
        // SAFETY: the page is mapped while `self` lives, any bytes are integers, and the payload is longer than the words. Volatile,
        // since the kernel has changed it.
        let (reason, payload) = unsafe {
            let run = self.page.as_ptr();
            let payload = (&raw const (*run).exit).cast::<ExitWords>();
            ((&raw const (*run).exit_reason).read_volatile(), payload.read_volatile())
        };
        Exit::decode(reason, &payload)
    }

    /// `device_irq_level`.
    pub fn device_irq_level(&self) -> u64 {
        // SAFETY: as in `exit`.
        unsafe { (&raw const (*self.page.as_ptr()).device_irq_level).read_volatile() }
    }

    /// Sets the exit reason, to see whether the kernel does.
    pub fn forget_exit(&self) {
        // SAFETY: as in `exit`.
        unsafe { (&raw mut (*self.page.as_ptr()).exit_reason).write_volatile(u32::MAX) };
    }

    /// Answers a device read.
    pub fn answer(&self, data: [u8; 8]) {
        // SAFETY: the eight bytes at this offset lie in the page, which is mapped while `self` lives.
        unsafe { self.page.byte_add(MMIO_DATA_OFFSET).cast::<[u8; 8]>().write_volatile(data) };
    }

    /// A word of the ring of coalesced MMIO, to read and write.
    pub fn ring(&self, word: usize) -> &AtomicU32 {
        assert!(word < 1024 && self.bytes >= 8192);
        // SAFETY: the second page is mapped while `self` lives (just checked), and all accesses are atomic.
        unsafe { AtomicU32::from_ptr(self.page.byte_add(4096).cast::<u32>().add(word).as_ptr()) }
    }

    /// Whether all bytes that KVM gives a meaning are 0.
    pub fn is_blank(&self) -> bool {
        // SAFETY: as in `exit`.
        let bytes = unsafe { self.page.cast::<[u8; size_of::<Run>()]>().read_volatile() };
        bytes.iter().all(|byte| *byte == 0)
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: a mapping that this value alone owns.
        let _ = unsafe { munmap(self.page.cast(), self.bytes) };
    }
}

/// Tries to map `bytes` of a descriptor, from page `page` on.
pub fn try_map(fd: &Fd, bytes: usize, page: u32) -> Verdict {
    let length = bytes.try_into().map_err(|_| Errno::EINVAL).succeeds("a length")?;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let mapped =
        unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, page as libc::off_t * 4096) };
    let at = mapped.succeeds(format_args!("mmap of {bytes} bytes from page {page}"))?;
    // SAFETY: just mapped, and used by nobody.
    unsafe { munmap(at, bytes) }.succeeds("munmap")
}

extern "C" fn nothing(_: libc::c_int) {}

/// Has SIGUSR1 interrupt system calls and do nothing else.
pub fn interruptible() -> Verdict {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.succeeds("sigaction").map(|_| ())
}

/// Forks a process that does `work` and exits with its result. It has this one's descriptors and a copy of its memory. ETIMEDOUT: a process
/// of several threads cannot go on in a fork.
pub fn process(work: impl FnOnce() -> u8) -> Result<Pid, Errno> {
    // A thread that was joined is listed a little longer.
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    crate::machine::await_that(|| threads() == 1)?;
    // SAFETY: there is one thread (just checked), so no lock is held by another.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = work();
            // SAFETY: ends the process at once, without what the parent has still to do at its exit.
            unsafe { libc::_exit(status.into()) }
        }
    }
}

/// Keeps this thread on one CPU.
pub fn on_cpu(cpu: usize) -> Result<(), Errno> {
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &one)
}

/// Unloads a module, unless it is used.
pub fn unload(module: &std::ffi::CStr) -> Answer {
    // SAFETY: a name and flags.
    Errno::result(unsafe { libc::syscall(libc::SYS_delete_module, module.as_ptr(), libc::O_NONBLOCK) }).map(|_| 0)
}
