// SPDX-License-Identifier: GPL-2.0-only
//! What the hypervisor needs of the kernel that it lives in.
//!
//! `kvm/` names no kernel. Everything that it cannot do alone (memory, locks, time, other CPUs, Hyp mode itself) it asks of
//! [`Host`]. The real one is the module's; the one in unit tests is `fake::Host`, on the developer's machine. A method
//! exists because something here calls it, and says whether it may sleep.

use crate::halt_poll::HaltPolling;
use crate::trace::{Event, Watched};
use crate::vgic::CpuInterface;
use crate::vmid::VmidSlot;
use arch::addr::{HostPhys, HostVirt};
use arch::hyp_registers::Vttbr;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64};
use hyp_abi::context::{ExitCode, VcpuContext};

/// There was no memory. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A lock with what it protects inside.
pub trait Lock<T> {
    /// Access to what is inside, until dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;

    /// An open lock around `value`.
    fn new(value: T) -> Self;
    /// Waits for the lock and takes it.
    fn lock(&self) -> Self::Guard<'_>;
}

/// The 512 descriptors of a translation table. Atomic, because the hardware walks them while they change (B3.10.1).
pub type Table = [AtomicU64; 512];

/// A zeroed page that holds a translation table. Freed when dropped.
pub trait TablePage {
    /// Where the page is for the hardware.
    fn phys(&self) -> HostPhys;
    /// Its descriptors.
    fn table(&self) -> &Table;
    /// Gives up the handle and keeps the page: a descriptor owns it from here on.
    fn into_phys(self) -> TablePhys;
}

/// The address of a table that a descriptor owns.
///
/// Made only by [`TablePage::into_phys`] and, within this crate, from a table descriptor that stage 2 or the Hyp map wrote
/// itself; so it always names a live table, which is what lets [`Host::table`] be safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePhys(HostPhys);

impl TablePhys {
    /// For implementations of [`TablePage::into_phys`]: the address of the page that was given up.
    pub fn from_page(phys: HostPhys) -> Self {
        Self(phys)
    }

    /// The address.
    pub fn phys(self) -> HostPhys {
        self.0
    }
}

/// One page, or one 2 MiB block, of a process's memory as stage 2 is to map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The physical address of the 4 KiB page that was asked for.
    pub phys: HostPhys,
    /// The process may write to it now (it was asked for with `write`, or is writable already).
    pub writable: bool,
    /// The page is part of an aligned 2 MiB run of physical memory that the process maps as one block at this address.
    pub block: bool,
    /// Device memory (a PFN map): mapped as Device, never cached.
    pub device: bool,
}

/// Why a process's memory could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The process has nothing there, or not with these rights (EFAULT).
    Fault,
    /// A signal came first (EINTR).
    Interrupted,
    /// The memory is known to be broken (EHWPOISON).
    Poisoned,
    /// No memory (ENOMEM).
    OutOfMemory,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The condition came true.
    Ready,
    /// A signal is pending for the thread.
    Signal,
}

/// Where a vCPU's thread sleeps, and how other threads and interrupt handlers reach it.
pub trait Waiter {
    /// The calling thread is the one to wake and to kick from now on. Never sleeps.
    fn adopt(&self);
    /// Sleeps until `ready` says true or a signal comes. `ready` is called on this thread.
    fn wait(&self, ready: impl Fn() -> bool) -> Wake;
    /// Wakes the thread if it sleeps in [`Self::wait`]. Never sleeps; callable with interrupts off.
    fn wake(&self);
    /// Makes the thread leave the guest soon if it is inside on another CPU. Never sleeps; callable with interrupts off.
    fn kick(&self);
}

/// A one-shot timer on the host's clock that calls [`Waiter::wake`] of the vCPU that it was made for.
pub trait WakeTimer {
    /// Fires when the host's counter (CNTPCT) has reached `count`. Replaces what was set before. Never sleeps.
    fn arm(&self, count: u64);
    /// Forgets what was set and waits for a handler under way to end.
    fn cancel(&self);
}

/// What a guest's write or the end of its interrupt tells the process by, and what tells an interrupt to come: a counter of the
/// process's that it waits for. Clones are the same one, and so are those that are equal.
pub trait EventFd: Clone + PartialEq {
    /// Tells whoever waits for it. Never sleeps, and wakes threads: no spin lock is held, and the host's timers are the host's.
    fn signal(&self);
}

/// What looks at an [`EventFd`] and has [`Vm::irqfd_event`](crate::vm::Vm) called each time that it comes. Clones are the same one; it
/// ends with the last of them, and then waits for a call under way.
pub trait Watch: Clone {
    /// Begins. True: the event had come already.
    fn start(&self) -> bool;
}

/// Words of a page.
pub type Words = [AtomicU32; 1024];

/// How interrupts were masked: the host's own encoding.
#[derive(Clone, Copy, Debug)]
pub struct Masks(pub u32);

/// What the kernel does on all CPUs at once, and a lock that may be held meanwhile.
///
/// A part of [`Host`], apart from it so that loom's model of the machine (`vmid_loom_tests.rs`) need not be more than this.
pub trait Cpus {
    /// A lock that may be held over sleep.
    type Mutex<T>: Lock<T>;

    /// Drops the TLB entries of all VMIDs and instruction caches on every CPU; [`Self::complete_flush`] is owed. Never sleeps.
    fn flush_all(&self);
    /// What flushes on every CPU need besides where a core's erratum demands it (Cortex-A15 798181: a barrier on each). No spin
    /// lock is held and interrupts are on; does not sleep.
    fn complete_flush(&self);
    /// Makes every CPU that runs a guest leave it, and waits until each has. May sleep; interrupts are on.
    fn exit_all_guests(&self);
}

/// The kernel.
pub trait Host: Cpus + Clone {
    /// A lock that is held for short and also by interrupt handlers: interrupts are off while it is held. Never sleeps.
    type Spin<T>: Lock<T>;
    /// A slice on the kernel's heap.
    type Array<T>: DerefMut<Target = [T]>;
    /// A page for a translation table.
    type TablePage: TablePage;
    /// A vCPU's context on a page of its own, shared with Hyp mode until dropped.
    type ContextPage: Deref<Target = VcpuContext> + DerefMut;
    /// Where a vCPU's thread sleeps.
    type Waiter: Waiter;
    /// A vCPU's timer.
    type WakeTimer: WakeTimer;
    /// What the process is told by.
    type EventFd: EventFd;
    /// What the process's events are noticed by.
    type Watch: Watch;
    /// A page that the process maps and writes to whenever it likes.
    type ProcessPage: Deref<Target = Words>;

    /// A slice of `len` elements, each made by `element`. May sleep.
    fn array<T>(&self, len: usize, element: impl FnMut(usize) -> T) -> Result<Self::Array<T>, OutOfMemory>;
    /// A zeroed page for a table. May sleep.
    fn table_page(&self) -> Result<Self::TablePage, OutOfMemory>;
    /// Two zeroed pages, contiguous and aligned to 8 KiB: stage 2's concatenated first-level tables (B3.6.5). Index 0 of the
    /// second follows index 511 of the first.
    fn root_pages(&self) -> Result<[Self::TablePage; 2], OutOfMemory>;
    /// The table that a descriptor owns.
    fn table(&self, at: TablePhys) -> &Table;
    /// The page that a descriptor owned and no longer does.
    fn reclaim(&self, at: TablePhys) -> Self::TablePage;
    /// Makes descriptors just written visible to the hardware's walks: cleans `table` where walks do not look into the data
    /// cache (ID_MMFR3), then DSB ISHST. Never sleeps.
    fn publish(&self, table: &Table);
    /// A zeroed context page, mapped in Hyp mode. May sleep.
    fn context_page(&self) -> Result<Self::ContextPage, OutOfMemory>;
    /// Where a vCPU's thread will sleep. May sleep.
    fn waiter(&self) -> Result<Self::Waiter, OutOfMemory>;
    /// A zeroed page for the process to map. May sleep.
    fn process_page(&self) -> Result<Self::ProcessPage, OutOfMemory>;
    /// A timer that wakes `waiter`'s thread. May sleep.
    fn wake_timer(&self, waiter: &Self::Waiter) -> Result<Self::WakeTimer, OutOfMemory>;

    /// Resolves one page of the calling process's memory, faulting it in, without keeping a reference. May sleep.
    fn resolve(&self, at: HostVirt, write: bool) -> Result<Resolved, Unresolved>;
    /// Copies from the calling process's memory, faulting it in. False: not all of it is there to be read. May sleep.
    fn read_process(&self, at: HostVirt, to: &mut [u8]) -> bool;
    /// Cleans and invalidates the data caches to the point of coherency over `bytes` from `phys`, for a guest that may run
    /// with caches off. Highmem included, devices not: they are in no cache, and the kernel has no page for them. Never sleeps.
    fn clean_to_poc(&self, phys: HostPhys, bytes: usize);
    /// Invalidates all instruction caches and branch predictors, inner shareable. Never sleeps.
    fn invalidate_icache(&self);

    /// The CPU that runs this; stable only while preemption is off.
    fn cpu(&self) -> usize;
    /// How many CPU numbers there are.
    fn cpus(&self) -> usize;
    /// CNTPCT.
    fn counter(&self) -> u64;
    /// How many nanoseconds so many ticks of CNTPCT take, rounded up.
    fn nanoseconds(&self, ticks: u64) -> u64;
    /// Reads the calling CPU's MIDR.
    fn midr(&self) -> u32;

    /// Masks interrupts on this CPU, FIQs too, and says how they were. The thread cannot leave the CPU until they are as before, and its
    /// time is its guest's.
    fn interrupts_off(&self) -> Masks;
    /// Puts back what [`Self::interrupts_off`] changed; what waited is taken.
    fn interrupts_on(&self, before: Masks);
    /// Whether the thread is wanted: a signal or the kernel's own work is pending, or another thread's turn has come.
    fn must_stop(&self) -> bool;
    /// Whether a signal is pending for the thread.
    fn signal_pending(&self) -> bool;
    /// Whether the kernel has put off work of its own until the thread's way to user mode.
    fn work_pending(&self) -> bool;
    /// How polling before sleep goes.
    fn halt_polling(&self) -> HaltPolling;
    /// Whether the thread may spin where it could sleep: nobody else wants the CPU.
    fn may_poll(&self) -> bool;
    /// The longest wait, in nanoseconds, after which a vCPU may rest in its guest. 0: none does.
    fn halt_rest(&self) -> u32;
    /// Whether no other thread wants this CPU. Interrupts are off.
    fn is_alone(&self) -> bool;
    /// Tells those who wait until no CPU uses what they have replaced (RCU) that this CPU, just back from a guest, uses nothing. Interrupts are off.
    fn note_quiescent(&self);
    /// Lets other threads run, if it is their turn. May sleep.
    fn yield_cpu(&self);
    /// Writes a vCPU's virtual CPU interface to this CPU's hardware. Interrupts are off.
    fn load_cpu_interface(&self, interface: &CpuInterface);
    /// The same after [`Self::store_cpu_interface`], on the same CPU and with interrupts off ever since, where nothing of it but `hcr` and the
    /// list registers has changed, of which `before` were in use.
    fn reload_cpu_interface(&self, interface: &CpuInterface, before: usize);
    /// Reads it back and silences the hardware. Interrupts are off.
    fn store_cpu_interface(&self, interface: &mut CpuInterface);
    /// Keeps the virtual timer's physical interrupt from firing on this CPU: the guest that is entered next has it in flight.
    /// Interrupts are off.
    fn hold_timer_interrupt(&self, hold: bool);

    /// Whether a guest may be entered with the VMID in `slot`, which is current, and `vttbr`: a check for debugging, which
    /// [`crate::vmid_check`] makes. Interrupts are off.
    fn may_enter(&self, slot: &VmidSlot, vttbr: Vttbr) -> bool;
    /// Which kinds of event somebody watches. A load: asked often.
    fn watched(&self) -> Watched;

    /// Tells of an event whose kind is watched. Interrupts may be off, but no part of a guest's state is in the hardware. Never sleeps.
    fn tell(&self, event: Event);

    /// Runs the vCPU until something stops it. Interrupts are off, and stay so after [`ExitCode::ShortTrap`] until the next call of
    /// this method or of [`Self::leave_guest`].
    fn enter_guest(&self, context: &mut Self::ContextPage) -> ExitCode;
    /// After [`ExitCode::ShortTrap`], goes on with the same vCPU, on the same CPU: [`Self::enter_guest`] with nothing to look at.
    fn resume_guest(&self, context: &mut Self::ContextPage) -> ExitCode;
    /// Whether Hyp mode is to answer by itself what it can. Asked before each entry.
    fn hyp_may_answer(&self) -> bool;
    /// After [`ExitCode::ShortTrap`], stores the rest of the vCPU's state. Interrupts are still off. False: Hyp mode took an exception, and
    /// that state is lost ([`ExitCode::HypPanic`]).
    fn leave_guest(&self, context: &mut Self::ContextPage) -> bool;
    /// Drops the TLB entries of a VMID on every CPU; [`Cpus::complete_flush`] is owed. Never sleeps.
    fn flush_vmid(&self, vttbr: u64);
    /// A flush could not be done where it was asked for, on a CPU that is going offline: [`Cpus::complete_flush`] will do it, and until then
    /// TLBs may hold what it was to drop. Never sleeps.
    fn flush_is_put_off(&self) -> bool;
    /// Drops the TLB entries of a VMID on this CPU, and what its instruction caches hold.
    fn flush_vmid_local(&self, vttbr: u64);
}
