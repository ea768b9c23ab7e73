// SPDX-License-Identifier: GPL-2.0-only
//! The host of unit tests, on the developer's machine.
//!
//! It is stricter than a real one. A call that may sleep fails the test while a spin lock is held or interrupts are off; so
//! does a lock taken twice by one thread. Translation tables are watched as [`tables`] says. What is not given back by the
//! time that the last handle goes is a leak and fails the test. What the hypervisor asked of the hardware is a list of
//! [`Event`]s. A loop that nothing ends fails the test instead of hanging it.

mod deferred;
mod event;
mod tables;
mod wait;

pub use event::{Event as ProcessEvent, ProcessPage, Watch};
pub use wait::{Waiter, WakeTimer};

use crate::halt_poll::HaltPolling;
use crate::host::{self, Lock, Masks, OutOfMemory, Resolved, Table, TablePhys, Unresolved};
use crate::trace;
use crate::vgic::CpuInterface;
use crate::vmid::VmidSlot;
use crate::vmid_check::VmidCheck;
use arch::addr::{HostPhys, HostVirt, PAGE_SIZE};
use arch::hyp_registers::Vttbr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use hyp_abi::context::{ExitCode, VcpuContext};
#[cfg(loom)]
use loom::{
    sync::{Mutex as LockMutex, MutexGuard as LockGuard},
    thread_local,
};
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, Weak};
use std::vec::Vec;
#[cfg(not(loom))]
use std::{
    sync::{Mutex as LockMutex, MutexGuard as LockGuard},
    thread_local,
};
use tables::Tables;
use wait::TimerState;

/// How many turns of loops a host sees before it says that they have no end. No test comes near it.
const TURNS: usize = 100_000;

/// So many cases of a property, but few under Miri, which takes a thousand times as long.
pub fn cases(count: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: if cfg!(miri) { count.min(2) } else { count }, ..Default::default() }
}

/// What the hypervisor asked of the hardware or of other CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `flush_vmid` with this VTTBR.
    FlushVmid(u64),
    /// `flush_vmid_local` with this VTTBR on this CPU.
    FlushVmidLocal(u64, usize),
    /// `flush_all`.
    FlushAll,
    /// `exit_all_guests`.
    ExitAllGuests,
    /// `clean_to_poc`: from, bytes.
    Clean(HostPhys, usize),
    /// `invalidate_icache`.
    InvalidateIcache,
}

type Observer = Box<dyn FnMut(Event) + Send>;
type Guest = Box<dyn FnMut(&mut VcpuContext) -> ExitCode + Send>;
type Race = Box<dyn FnOnce() + Send>;
type Poll = Box<dyn FnMut() -> bool + Send>;

struct Inner {
    tables: StdMutex<Tables>,
    /// How many allocations still succeed; `None`: all.
    allocations_left: StdMutex<Option<usize>>,
    contexts: AtomicUsize,
    events: StdMutex<Vec<Event>>,
    observer: StdMutex<Option<Observer>>,
    process: StdMutex<HashMap<u32, Result<Resolved, Unresolved>>>,
    bytes: StdMutex<HashMap<u32, u8>>,
    race: StdMutex<Option<Race>>,
    entry_race: StdMutex<Option<Race>>,
    guest: StdMutex<Option<Guest>>,
    timers: StdMutex<Vec<Weak<TimerState>>>,
    counter: AtomicU64,
    counter_pace: AtomicU64,
    cpu: AtomicUsize,
    cpus: AtomicUsize,
    midr: AtomicU32,
    must_stop: AtomicBool,
    halt_polling: StdMutex<HaltPolling>,
    on_poll: StdMutex<Option<Poll>>,
    halt_rest: AtomicU32,
    quiescent: AtomicUsize,
    alone: AtomicBool,
    signal_pending: AtomicBool,
    work_pending: AtomicBool,
    turns: AtomicUsize,
    yields: AtomicUsize,
    leaves: AtomicUsize,
    leave_fails: AtomicBool,
    timer_held: AtomicBool,
    flushes_are_put_off: AtomicBool,
    cpu_interface: StdMutex<CpuInterface>,
    vmid_check: VmidCheck,
    watched: AtomicU32,
    told: StdMutex<Vec<trace::Event>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let tables = open(&self.tables).live();
            assert_eq!(tables, 0, "{tables} table pages were never given back");
            assert_eq!(self.contexts.load(Ordering::SeqCst), 0, "context pages were never given back");
        }
    }
}

fn open<T: ?Sized>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A made-up machine with a kernel. Clones are the same machine.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Four CPUs, a Cortex-A15's MIDR, and a process with no memory.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            tables: StdMutex::default(),
            allocations_left: StdMutex::default(),
            contexts: AtomicUsize::new(0),
            events: StdMutex::default(),
            observer: StdMutex::default(),
            process: StdMutex::default(),
            bytes: StdMutex::default(),
            race: StdMutex::default(),
            entry_race: StdMutex::default(),
            guest: StdMutex::default(),
            timers: StdMutex::default(),
            counter: AtomicU64::new(0),
            counter_pace: AtomicU64::new(0),
            cpu: AtomicUsize::new(0),
            cpus: AtomicUsize::new(4),
            midr: AtomicU32::new(0x413f_c0f1),
            must_stop: AtomicBool::new(false),
            halt_polling: StdMutex::new(HaltPolling { longest: 0, grow: 2, grow_start: 10_000, shrink: 0 }),
            on_poll: StdMutex::default(),
            halt_rest: AtomicU32::default(),
            quiescent: AtomicUsize::default(),
            alone: AtomicBool::new(true),
            signal_pending: AtomicBool::new(false),
            work_pending: AtomicBool::new(false),
            turns: AtomicUsize::new(0),
            yields: AtomicUsize::new(0),
            leaves: AtomicUsize::new(0),
            leave_fails: AtomicBool::new(false),
            timer_held: AtomicBool::new(false),
            flushes_are_put_off: AtomicBool::new(false),
            cpu_interface: StdMutex::default(),
            vmid_check: VmidCheck::new(),
            watched: AtomicU32::new(0),
            told: StdMutex::default(),
        }))
    }

    /// From now on `count` allocations succeed and all further ones fail; `None` lets all succeed.
    pub fn allow_allocations(&self, count: Option<usize>) {
        *open(&self.0.allocations_left) = count;
    }

    /// How many table pages exist.
    pub fn live_tables(&self) -> usize {
        open(&self.0.tables).live()
    }

    /// What happened since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        core::mem::take(&mut *open(&self.0.events))
    }

    /// Calls `observer` at each event, while it happens. It must not cause events itself.
    pub fn observe(&self, observer: impl FnMut(Event) + Send + 'static) {
        *open(&self.0.observer) = Some(Box::new(observer));
    }

    /// Gives the process a page, or says why it cannot have one.
    pub fn set_page(&self, at: HostVirt, page: Result<Resolved, Unresolved>) {
        open(&self.0.process).insert(at.page().get(), page);
    }

    /// Takes a page from the process.
    pub fn remove_page(&self, at: HostVirt) {
        open(&self.0.process).remove(&at.page().get());
    }

    /// Says what the process has in its memory, as far as it is read.
    pub fn set_bytes(&self, at: HostVirt, bytes: &[u8]) {
        open(&self.0.bytes).extend((at.get()..).zip(bytes.iter().copied()));
    }

    /// Runs `race` once, at the end of the next `resolve`: what another CPU does between the look-up and its use.
    pub fn race_resolve(&self, race: impl FnOnce() + Send + 'static) {
        *open(&self.0.race) = Some(Box::new(race));
    }

    /// Runs `race` once, when interrupts are about to be turned off: what another CPU does between a vCPU's look at itself and
    /// its last look.
    pub fn race_entry(&self, race: impl FnOnce() + Send + 'static) {
        *open(&self.0.entry_race) = Some(Box::new(race));
    }

    /// What `enter_guest` runs.
    pub fn set_guest(&self, guest: impl FnMut(&mut VcpuContext) -> ExitCode + Send + 'static) {
        *open(&self.0.guest) = Some(Box::new(guest));
    }

    /// The calling "CPU" from now on.
    pub fn set_cpu(&self, cpu: usize) {
        self.0.cpu.store(cpu, Ordering::SeqCst);
    }

    /// Sets what `midr` reads.
    pub fn set_midr(&self, midr: u32) {
        self.0.midr.store(midr, Ordering::SeqCst);
    }

    /// Lets time pass up to `count`, firing the timers that are due.
    pub fn advance_to(&self, count: u64) {
        self.0.counter.store(count, Ordering::SeqCst);
        let timers: Vec<_> = open(&self.0.timers).iter().filter_map(Weak::upgrade).collect();
        for timer in timers {
            timer.fire_if_due(count);
        }
    }

    /// From now on each look at the counter finds it `ticks` further than the one before. No timer fires for it.
    pub fn pass_time(&self, ticks: u64) {
        self.0.counter_pace.store(ticks, Ordering::SeqCst);
    }

    /// How polling before sleep goes. At first nobody polls.
    pub fn set_halt_polling(&self, parameters: HaltPolling) {
        *open(&self.0.halt_polling) = parameters;
    }

    /// Asks `on_poll` each time that a thread that polls asks whether it may go on: the world's chance to end its wait.
    pub fn on_poll(&self, on_poll: impl FnMut() -> bool + Send + 'static) {
        *open(&self.0.on_poll) = Some(Box::new(on_poll));
    }

    /// After which wait, at the longest, a vCPU rests in its guest. At first none does.
    pub fn set_halt_rest(&self, longest: u32) {
        self.0.halt_rest.store(longest, Ordering::SeqCst);
    }

    /// How often a CPU said that it uses nothing that others may wait for.
    pub fn quiescent(&self) -> usize {
        self.0.quiescent.load(Ordering::SeqCst)
    }

    /// Whether no other thread wants the CPU, be it its turn or not. At first none does.
    pub fn set_alone(&self, alone: bool) {
        self.0.alone.store(alone, Ordering::SeqCst);
    }

    /// Another thread's turn has come, until the next `yield_cpu`.
    pub fn set_must_stop(&self) {
        self.0.must_stop.store(true, Ordering::SeqCst);
    }

    /// Gives the kernel work for the thread's way to user mode, or no longer.
    pub fn set_work(&self, pending: bool) {
        self.0.work_pending.store(pending, Ordering::SeqCst);
    }

    /// Makes a signal pending, or no longer. (A [`Waiter`] has its own.)
    pub fn set_signal(&self, pending: bool) {
        self.0.signal_pending.store(pending, Ordering::SeqCst);
    }

    /// How many short exits had to be made long.
    pub fn leaves(&self) -> usize {
        self.0.leaves.load(Ordering::SeqCst)
    }

    /// From now on Hyp mode fails where it makes a short exit long.
    pub fn fail_to_leave(&self) {
        self.0.leave_fails.store(true, Ordering::SeqCst);
    }

    /// How often `yield_cpu` was called.
    pub fn yields(&self) -> usize {
        self.0.yields.load(Ordering::SeqCst)
    }

    /// The CPUs are going offline, or no longer: flushes of a VMID have to wait for `complete_flush`.
    pub fn put_off_flushes(&self, put_off: bool) {
        self.0.flushes_are_put_off.store(put_off, Ordering::SeqCst);
    }

    /// Whether the timer's interrupt is kept from firing.
    pub fn is_timer_held(&self) -> bool {
        self.0.timer_held.load(Ordering::SeqCst)
    }

    /// The virtual CPU interface's hardware: for the guest to acknowledge and end interrupts in.
    pub fn with_cpu_interface<R>(&self, with: impl FnOnce(&mut CpuInterface) -> R) -> R {
        with(&mut open(&self.0.cpu_interface))
    }

    /// Watches kinds of event: bit n, kind n.
    pub fn watch(&self, kinds: u32) {
        self.0.watched.store(kinds, Ordering::SeqCst);
    }

    /// What was told since the last call.
    pub fn take_told(&self) -> Vec<trace::Event> {
        core::mem::take(&mut *open(&self.0.told))
    }

    /// A TLB that holds nothing any more: for the Hyp map, whose flush is not the host's.
    pub fn forget_tlb(&self) {
        open(&self.0.tables).flush_all();
    }

    fn event(&self, event: Event) {
        open(&self.0.events).push(event);
        if let Some(observer) = open(&self.0.observer).as_mut() {
            observer(event);
        }
    }

    /// What KVM_RUN and a thread that polls do again and again, until something comes: fails the test when nothing does.
    fn turn(&self) {
        let turns = self.0.turns.fetch_add(1, Ordering::SeqCst);
        assert!(turns < TURNS, "the vCPU's thread goes round for ever");
    }

    fn allocate(&self) -> Result<(), OutOfMemory> {
        may_sleep();
        match open(&self.0.allocations_left).as_mut() {
            None => Ok(()),
            Some(0) => Err(OutOfMemory),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn page_at(&self, phys: HostPhys) -> Page {
        let table = open(&self.0.tables).get(phys);
        Page { host: self.clone(), phys, table }
    }
}

thread_local! {
    /// The locks that this thread holds: address, and whether it spins.
    static HELD: RefCell<Vec<(usize, bool)>> = RefCell::default();
    static INTERRUPTS_OFF: Cell<bool> = Cell::default();
}

/// Works with the locks that this thread holds.
fn with_held<R>(work: impl FnOnce(&mut Vec<(usize, bool)>) -> R) -> R {
    HELD.with(|held| work(&mut held.borrow_mut()))
}

/// Whether interrupts are off; from now on they are, or are not.
fn set_interrupts_off(off: bool) -> bool {
    INTERRUPTS_OFF.with(|is_off| is_off.replace(off))
}

fn interrupts_are_off() -> bool {
    INTERRUPTS_OFF.with(Cell::get)
}

/// Fails the test where a sleep would be a bug.
fn may_sleep() {
    with_held(|held| assert!(held.iter().all(|(_, spins)| !spins), "may sleep while a spin lock is held"));
    assert!(!interrupts_are_off(), "may sleep while interrupts are off");
}

/// A lock that knows what its thread holds.
pub struct FakeLock<T, const SPINS: bool>(LockMutex<T>);

/// What is locked.
pub struct Guard<'a, T> {
    inner: LockGuard<'a, T>,
    address: usize,
}

impl<T, const SPINS: bool> Lock<T> for FakeLock<T, SPINS> {
    type Guard<'a>
        = Guard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(LockMutex::new(value))
    }

    fn lock(&self) -> Guard<'_, T> {
        let address = &raw const self.0 as usize;
        if !SPINS {
            may_sleep();
        }
        with_held(|held| {
            assert!(held.iter().all(|(other, _)| *other != address), "this thread holds the lock already");
            held.push((address, SPINS));
        });
        Guard { inner: self.0.lock().unwrap_or_else(PoisonError::into_inner), address }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        with_held(|held| held.retain(|(address, _)| *address != self.address));
    }
}

/// A page that holds a table.
pub struct Page {
    host: Host,
    phys: HostPhys,
    table: &'static Table,
}

impl host::TablePage for Page {
    fn phys(&self) -> HostPhys {
        self.phys
    }

    fn table(&self) -> &Table {
        self.table
    }

    fn into_phys(mut self) -> TablePhys {
        // Nothing is freed when `self` goes: the address says so.
        let phys = core::mem::take(&mut self.phys);
        TablePhys::from_page(phys)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.phys != HostPhys::default() && !std::thread::panicking() {
            open(&self.host.0.tables).free(self.phys);
        }
    }
}

/// A context page.
pub struct ContextPage {
    host: Host,
    context: Box<VcpuContext>,
}

impl Deref for ContextPage {
    type Target = VcpuContext;
    fn deref(&self) -> &VcpuContext {
        &self.context
    }
}

impl DerefMut for ContextPage {
    fn deref_mut(&mut self) -> &mut VcpuContext {
        &mut self.context
    }
}

impl Drop for ContextPage {
    fn drop(&mut self) {
        self.host.0.contexts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl host::Host for Host {
    type Spin<T> = FakeLock<T, true>;
    type Array<T> = Vec<T>;
    type TablePage = Page;
    type ContextPage = ContextPage;
    type Waiter = Waiter;
    type WakeTimer = WakeTimer;
    type EventFd = ProcessEvent;
    type Watch = Watch;
    type ProcessPage = ProcessPage;

    fn array<T>(&self, len: usize, element: impl FnMut(usize) -> T) -> Result<Vec<T>, OutOfMemory> {
        self.allocate()?;
        Ok((0..len).map(element).collect())
    }

    fn table_page(&self) -> Result<Page, OutOfMemory> {
        self.allocate()?;
        let phys = open(&self.0.tables).allocate(1);
        Ok(self.page_at(phys))
    }

    fn root_pages(&self) -> Result<[Page; 2], OutOfMemory> {
        self.allocate()?;
        let phys = open(&self.0.tables).allocate(2);
        Ok([self.page_at(phys), self.page_at(HostPhys::new(phys.get() + PAGE_SIZE as u64))])
    }

    fn table(&self, at: TablePhys) -> &Table {
        open(&self.0.tables).get(at.phys())
    }

    fn reclaim(&self, at: TablePhys) -> Page {
        self.page_at(at.phys())
    }

    fn publish(&self, table: &Table) {
        open(&self.0.tables).publish(table);
    }

    fn context_page(&self) -> Result<ContextPage, OutOfMemory> {
        self.allocate()?;
        self.0.contexts.fetch_add(1, Ordering::SeqCst);
        Ok(ContextPage { host: self.clone(), context: Box::default() })
    }

    fn waiter(&self) -> Result<Waiter, OutOfMemory> {
        self.allocate()?;
        Ok(Waiter::default())
    }

    fn process_page(&self) -> Result<ProcessPage, OutOfMemory> {
        self.allocate()?;
        Ok(ProcessPage::default())
    }

    fn wake_timer(&self, waiter: &Waiter) -> Result<WakeTimer, OutOfMemory> {
        self.allocate()?;
        let timer = WakeTimer::new(self, waiter);
        open(&self.0.timers).push(timer.downgrade());
        Ok(timer)
    }

    fn resolve(&self, at: HostVirt, write: bool) -> Result<Resolved, Unresolved> {
        may_sleep();
        let page = open(&self.0.process).get(&at.page().get()).copied();
        let race = open(&self.0.race).take();
        if let Some(race) = race {
            race();
        }
        match page {
            None => Err(Unresolved::Fault),
            Some(Ok(page)) if write && !page.writable => Err(Unresolved::Fault),
            Some(page) => page,
        }
    }

    fn read_process(&self, at: HostVirt, to: &mut [u8]) -> bool {
        may_sleep();
        let (process, bytes) = (open(&self.0.process), open(&self.0.bytes));
        to.iter_mut().zip(at.get()..).all(|(to, at)| {
            let there = process.get(&HostVirt::new(at).page().get()).is_some_and(Result::is_ok);
            bytes.get(&at).filter(|_| there).map(|byte| *to = *byte).is_some()
        })
    }

    fn clean_to_poc(&self, phys: HostPhys, bytes: usize) {
        let cleaned = phys.get()..phys.get() + bytes as u64;
        let of_device = |page: &Resolved| page.device && cleaned.contains(&page.phys.get());
        assert!(
            !open(&self.0.process).values().flatten().any(of_device),
            "a device is in no cache, and has no page to map"
        );
        self.event(Event::Clean(phys, bytes));
    }

    fn invalidate_icache(&self) {
        self.event(Event::InvalidateIcache);
    }

    fn cpu(&self) -> usize {
        self.0.cpu.load(Ordering::SeqCst)
    }

    fn cpus(&self) -> usize {
        self.0.cpus.load(Ordering::SeqCst)
    }

    fn counter(&self) -> u64 {
        self.0.counter.fetch_add(self.0.counter_pace.load(Ordering::SeqCst), Ordering::SeqCst)
    }

    /// A tick is a nanosecond.
    fn nanoseconds(&self, ticks: u64) -> u64 {
        ticks
    }

    fn midr(&self) -> u32 {
        self.0.midr.load(Ordering::SeqCst)
    }

    fn interrupts_off(&self) -> Masks {
        let race = open(&self.0.entry_race).take();
        if let Some(race) = race {
            race();
        }
        assert!(!set_interrupts_off(true), "interrupts are off already");
        Masks(0x13)
    }

    fn interrupts_on(&self, before: Masks) {
        assert_eq!(before.0, 0x13);
        assert!(!deferred::any(), "the guest is half in the hardware");
        assert!(set_interrupts_off(false), "interrupts are on already");
    }

    fn must_stop(&self) -> bool {
        self.0.must_stop.load(Ordering::SeqCst) || self.signal_pending() || self.work_pending()
    }

    fn signal_pending(&self) -> bool {
        self.turn();
        self.0.signal_pending.load(Ordering::SeqCst)
    }

    fn work_pending(&self) -> bool {
        self.0.work_pending.load(Ordering::SeqCst)
    }

    fn halt_polling(&self) -> HaltPolling {
        *open(&self.0.halt_polling)
    }

    fn may_poll(&self) -> bool {
        // Whoever else wants the CPU may want these.
        may_sleep();
        open(&self.0.on_poll).as_mut().is_none_or(|on_poll| on_poll())
    }

    fn halt_rest(&self) -> u32 {
        self.0.halt_rest.load(Ordering::SeqCst)
    }

    fn is_alone(&self) -> bool {
        self.0.alone.load(Ordering::SeqCst)
    }

    fn note_quiescent(&self) {
        assert!(interrupts_are_off(), "the thread may have gone to another CPU");
        self.0.quiescent.fetch_add(1, Ordering::SeqCst);
    }

    fn yield_cpu(&self) {
        may_sleep();
        self.0.must_stop.store(false, Ordering::SeqCst);
        self.0.yields.fetch_add(1, Ordering::SeqCst);
    }

    fn load_cpu_interface(&self, interface: &CpuInterface) {
        assert!(interrupts_are_off());
        *open(&self.0.cpu_interface) = *interface;
    }

    fn reload_cpu_interface(&self, interface: &CpuInterface, before: usize) {
        assert!(interrupts_are_off());
        let mut hardware = open(&self.0.cpu_interface);
        assert_eq!((hardware.vmcr, hardware.apr, hardware.used), (interface.vmcr, interface.apr, before));
        (hardware.hcr, hardware.used) = (interface.hcr, interface.used);
        let written = interface.used.max(before);
        hardware.lr[..written].copy_from_slice(&interface.lr[..written]);
    }

    fn store_cpu_interface(&self, interface: &mut CpuInterface) {
        assert!(interrupts_are_off());
        *interface = *open(&self.0.cpu_interface);
    }

    fn hold_timer_interrupt(&self, hold: bool) {
        assert!(interrupts_are_off());
        self.0.timer_held.store(hold, Ordering::SeqCst);
    }

    fn may_enter(&self, slot: &VmidSlot, vttbr: Vttbr) -> bool {
        self.0.vmid_check.note(slot.generation(), vttbr).is_ok()
    }

    fn watched(&self) -> trace::Watched {
        trace::Watched::from_bits(self.0.watched.load(Ordering::SeqCst))
    }

    fn tell(&self, event: trace::Event) {
        assert!(!deferred::any(), "the kernel's tracing would meet the guest's registers");
        open(&self.0.told).push(event);
    }

    fn enter_guest(&self, context: &mut ContextPage) -> ExitCode {
        assert!(interrupts_are_off());
        self.turn();
        let guest = open(&self.0.guest).take();
        let mut guest = guest.expect("a test that enters the guest sets one");
        deferred::give_back(context);
        let exit = guest(context);
        // What CNTV_CTL reads when the guest is left.
        context.timer.ctl = crate::vtimer::control(&context.timer, self.counter());
        open(&self.0.guest).get_or_insert(guest);
        deferred::hold(context, exit)
    }

    fn resume_guest(&self, context: &mut ContextPage) -> ExitCode {
        assert!(deferred::any());
        self.enter_guest(context)
    }

    fn hyp_may_answer(&self) -> bool {
        true
    }

    fn leave_guest(&self, context: &mut ContextPage) -> bool {
        assert!(interrupts_are_off() && deferred::any());
        self.0.leaves.fetch_add(1, Ordering::SeqCst);
        deferred::give_back(context);
        !self.0.leave_fails.load(Ordering::SeqCst)
    }

    fn flush_vmid(&self, vttbr: u64) {
        self.event(Event::FlushVmid(vttbr));
        let mut tables = open(&self.0.tables);
        if self.0.flushes_are_put_off.load(Ordering::SeqCst) {
            tables.put_off_flush();
        } else {
            tables.flush(HostPhys::new(vttbr & 0xff_ffff_f000));
        }
    }

    fn flush_is_put_off(&self) -> bool {
        open(&self.0.tables).flush_is_put_off()
    }

    fn flush_vmid_local(&self, vttbr: u64) {
        self.event(Event::FlushVmidLocal(vttbr, self.cpu()));
    }
}

impl host::Cpus for Host {
    type Mutex<T> = FakeLock<T, false>;

    fn flush_all(&self) {
        self.event(Event::FlushAll);
        open(&self.0.tables).flush_all();
    }

    fn complete_flush(&self) {
        may_sleep();
        open(&self.0.tables).complete_flush();
    }

    fn exit_all_guests(&self) {
        may_sleep();
        self.event(Event::ExitAllGuests);
    }
}
