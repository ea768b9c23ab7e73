// SPDX-License-Identifier: GPL-2.0-only
//! [`Host`] for Linux: what the hypervisor asks for, by the kernel's means.

use crate::eventfd::{EventFd, IrqfdWatch};
use crate::heap::Array;
use crate::hyp_mode;
use crate::lock::{Mutex, Spin};
use crate::pages::{KernelTable, LowmemPage, ProcessPage};
use crate::waiter::{KernelTimer, KernelWaiter};
use crate::{cache, ffi, module, provoke, resolve, trace, vmid_debug};
use arch::addr::{HostPhys, HostVirt, PAGE_SIZE};
use arch::core_id::{Erratum798181, Midr};
use arch::hyp_registers::Vttbr;
use arch::timer::TickLength;
use core::arch::asm;
use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hyp_abi::context::{ExitCode, HYP_PANIC, VcpuContext};
use hyp_abi::image::Call;
use kvm::halt_poll::HaltPolling;
use kvm::host::{Cpus, Host, Masks, OutOfMemory, Resolved, Table, TablePhys, Unresolved};
use kvm::trace::{Event, Watched};
use kvm::vgic::CpuInterface;
use kvm::vmid::VmidSlot;

/// The kernel that this module is loaded into.
#[derive(Clone, Copy)]
pub struct Kernel;

/// The [`TickLength`] of the host's counter.
static TICK_LENGTH: AtomicU64 = AtomicU64::new(0);

/// The parameter `hyp_answers`.
static HYP_ANSWERS: AtomicU32 = AtomicU32::new(1);

/// The parameter `hyp_answers` was set, at load or later.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_hyp_answers(on: u32) {
    HYP_ANSWERS.store(on, Ordering::Relaxed);
}

/// Notes how fast the counter runs, which is not at 0 Hz.
pub fn set_counter_rate(hertz: u32) {
    if let Some(length) = TickLength::of_hertz(hertz) {
        TICK_LENGTH.store(length.0, Ordering::Relaxed);
    }
}

/// CNTPCT. The ISB keeps the read from being done early (B8.1.2).
pub fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads the counter, which the host lets PL1 read.
    unsafe { asm!("isb", "mrrc p15, 0, {}, {}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// How long a number of ticks takes, rounded up; the longest representable time for what does not fit.
pub fn nanoseconds(ticks: u64) -> u64 {
    TickLength(TICK_LENGTH.load(Ordering::Relaxed)).times(ticks)
}

/// Runs `work` with interrupts off on the CPU that this thread happens to be on.
pub fn with_interrupts_off<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: restored below, on the same CPU, since nothing in between can sleep.
    let flags = unsafe { ffi::ws_irq_save() };
    let result = work();
    // SAFETY: the flags of the save above.
    unsafe { ffi::ws_irq_restore(flags) };
    result
}

fn midr() -> u32 {
    let midr: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrc p15, 0, {}, c0, c0, 0", out(reg) midr, options(nomem, nostack, preserves_flags)) };
    midr
}

fn revidr() -> u32 {
    let revidr: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrc p15, 0, {}, c0, c0, 6", out(reg) revidr, options(nomem, nostack, preserves_flags)) };
    revidr
}

unsafe extern "C" fn barrier_here(_: *mut c_void) {
    // SAFETY: a barrier.
    unsafe { asm!("dmb sy", options(nostack, preserves_flags)) };
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

/// Cortex-A15 erratum 798181: after a broadcast TLB invalidation that DVM may not complete for, every CPU executes a DMB.
pub fn follow_up_tlb_flush() {
    if Midr::new(midr()).erratum_798181(revidr()) == Erratum798181::DummyInvalidationAndInterrupt {
        // SAFETY: the function ignores its argument.
        unsafe { ffi::ws_on_each_cpu(barrier_here, core::ptr::null_mut()) };
    }
}

/// A vCPU's context on a page that Hyp mode has at the same address.
pub struct ContextPage(LowmemPage);

impl ContextPage {
    fn new() -> Result<Self, OutOfMemory> {
        let page = LowmemPage::new()?;
        hyp_mode::share(&page).map_err(|_| OutOfMemory)?;
        Ok(Self(page))
    }
}

impl Deref for ContextPage {
    type Target = VcpuContext;
    fn deref(&self) -> &VcpuContext {
        // SAFETY: an owned, zeroed page; any bits are a VcpuContext. Hyp mode writes it only inside `enter_guest`, `resume_guest` and `leave_guest`, each of which borrows it
        // mutably.
        unsafe { &*self.0.as_ptr().cast() }
    }
}

impl DerefMut for ContextPage {
    fn deref_mut(&mut self) -> &mut VcpuContext {
        // SAFETY: as above.
        unsafe { &mut *self.0.as_ptr().cast() }
    }
}

impl Drop for ContextPage {
    fn drop(&mut self) {
        hyp_mode::unshare(&self.0);
    }
}

impl Host for Kernel {
    type Spin<T> = Spin<T>;
    type Array<T> = Array<T>;
    type TablePage = KernelTable;
    type ContextPage = ContextPage;
    type Waiter = KernelWaiter;
    type WakeTimer = KernelTimer;
    type EventFd = EventFd;
    type Watch = IrqfdWatch;
    type ProcessPage = ProcessPage;

    fn array<T>(&self, len: usize, element: impl FnMut(usize) -> T) -> Result<Array<T>, OutOfMemory> {
        Array::new(len, element)
    }

    fn table_page(&self) -> Result<KernelTable, OutOfMemory> {
        KernelTable::new()
    }

    fn root_pages(&self) -> Result<[KernelTable; 2], OutOfMemory> {
        KernelTable::pair()
    }

    fn table(&self, at: TablePhys) -> &Table {
        KernelTable::at(at)
    }

    fn reclaim(&self, at: TablePhys) -> KernelTable {
        KernelTable::reclaim(at)
    }

    fn publish(&self, table: &Table) {
        // SAFETY: a table is mapped.
        unsafe { cache::publish_table(table.as_ptr().cast(), size_of::<Table>()) };
    }

    fn context_page(&self) -> Result<ContextPage, OutOfMemory> {
        ContextPage::new()
    }

    fn waiter(&self) -> Result<KernelWaiter, OutOfMemory> {
        KernelWaiter::new()
    }

    fn wake_timer(&self, waiter: &KernelWaiter) -> Result<KernelTimer, OutOfMemory> {
        Ok(waiter.timer())
    }

    fn process_page(&self) -> Result<ProcessPage, OutOfMemory> {
        ProcessPage::new()
    }

    fn resolve(&self, at: HostVirt, write: bool) -> Result<Resolved, Unresolved> {
        resolve::resolve(at, write)
    }

    fn read_process(&self, at: HostVirt, to: &mut [u8]) -> bool {
        // SAFETY: room for so many bytes; the kernel checks the source.
        unsafe { ffi::ws_copy_from_user(to.as_mut_ptr().cast(), at.get() as usize, to.len()) == 0 }
    }

    fn clean_to_poc(&self, phys: HostPhys, bytes: usize) {
        for page in 0..bytes.div_ceil(PAGE_SIZE) {
            let Some(at) = phys.checked_add((page * PAGE_SIZE) as u64) else {
                return;
            };
            // SAFETY: a page of a process's memory that is no device has a struct page; mapped for the loop's body.
            unsafe {
                let mapped = ffi::ws_map_page(at.get());
                cache::clean_invalidate_to_poc(mapped.cast(), PAGE_SIZE);
                ffi::ws_unmap_page(mapped);
            }
        }
    }

    fn invalidate_icache(&self) {
        cache::invalidate_instructions();
    }

    fn cpu(&self) -> usize {
        ffi::ws_cpu() as usize
    }

    fn cpus(&self) -> usize {
        ffi::ws_cpus() as usize
    }

    fn counter(&self) -> u64 {
        counter()
    }

    fn nanoseconds(&self, ticks: u64) -> u64 {
        nanoseconds(ticks)
    }

    fn midr(&self) -> u32 {
        midr()
    }

    fn may_enter(&self, slot: &VmidSlot, vttbr: Vttbr) -> bool {
        vmid_debug::may_enter(slot, vttbr)
    }

    fn enter_guest(&self, context: &mut ContextPage) -> ExitCode {
        let at = context.0.as_ptr() as u32;
        let result = if provoke::is_armed() { provoke::enter(at) } else { hyp_mode::call(Call::EnterGuest, at, 0, 0) };
        match result {
            Some(code) => ExitCode::from_raw(code),
            None if hyp_mode::is_ending() => ExitCode::Gone,
            // This CPU is leaving, and the thread about to be moved to another.
            None => ExitCode::Again,
        }
    }

    fn resume_guest(&self, context: &mut ContextPage) -> ExitCode {
        let at = context.0.as_ptr() as u32;
        match hyp_mode::call_again(Call::EnterGuest, at) {
            // The usual answer first.
            Some(code) if code == ExitCode::ShortTrap.to_raw() => ExitCode::ShortTrap,
            Some(code) => ExitCode::from_raw(code),
            None => ExitCode::Again,
        }
    }

    fn hyp_may_answer(&self) -> bool {
        HYP_ANSWERS.load(Ordering::Relaxed) != 0
    }

    fn watched(&self) -> Watched {
        trace::watched()
    }

    fn tell(&self, event: Event) {
        trace::tell(event);
    }

    fn leave_guest(&self, _: &mut ContextPage) -> bool {
        // Hyp mode remembers whose state it holds. It cannot have been given back since: that takes interrupts.
        hyp_mode::call(Call::LeaveGuest, 0, 0, 0) != Some(HYP_PANIC)
    }

    fn flush_vmid(&self, vttbr: u64) {
        hyp_mode::flush(Call::FlushVmid, vttbr);
    }

    fn flush_is_put_off(&self) -> bool {
        hyp_mode::flush_is_put_off()
    }

    fn flush_vmid_local(&self, vttbr: u64) {
        // Where Hyp mode is not ours no guest is entered, and taking it drops what guests left.
        let _nobody_to_flush_for = hyp_mode::call(Call::FlushVmidLocal, vttbr as u32, (vttbr >> 32) as u32, 0);
    }

    fn interrupts_off(&self) -> Masks {
        // SAFETY: `interrupts_on` follows on this thread.
        Masks(unsafe { ffi::ws_guest_begins() })
    }

    fn interrupts_on(&self, before: Masks) {
        // SAFETY: what `interrupts_off` returned on this thread, on this CPU.
        unsafe { ffi::ws_guest_ends(before.0) };
    }

    fn must_stop(&self) -> bool {
        ffi::ws_must_stop() != 0
    }

    fn signal_pending(&self) -> bool {
        ffi::ws_signal_pending() != 0
    }

    fn work_pending(&self) -> bool {
        ffi::ws_work_pending() != 0
    }

    fn halt_polling(&self) -> HaltPolling {
        let (mut longest, mut grow, mut grow_start, mut shrink) = (0, 0, 0, 0);
        // SAFETY: four places to write to.
        unsafe { ffi::ws_halt_poll(&mut longest, &mut grow, &mut grow_start, &mut shrink) };
        HaltPolling { longest, grow, grow_start, shrink }
    }

    fn may_poll(&self) -> bool {
        ffi::ws_may_poll() != 0
    }

    fn halt_rest(&self) -> u32 {
        ffi::ws_halt_rest()
    }

    fn is_alone(&self) -> bool {
        ffi::ws_is_alone() != 0
    }

    fn note_quiescent(&self) {
        ffi::ws_note_quiescent();
    }

    fn yield_cpu(&self) {
        ffi::ws_yield();
    }

    fn load_cpu_interface(&self, interface: &CpuInterface) {
        if let Ok(gic) = module::gic() {
            gic.load(interface);
        }
    }

    fn reload_cpu_interface(&self, interface: &CpuInterface, before: usize) {
        if let Ok(gic) = module::gic() {
            gic.reload(interface, before);
        }
    }

    fn store_cpu_interface(&self, interface: &mut CpuInterface) {
        if let Ok(gic) = module::gic() {
            gic.store(interface);
        }
    }

    fn hold_timer_interrupt(&self, hold: bool) {
        if let Ok(hardware) = module::hardware() {
            hardware.hold_timer_interrupt(hold);
        }
    }
}

impl Cpus for Kernel {
    type Mutex<T> = Mutex<T>;

    fn flush_all(&self) {
        vmid_debug::count_roll_over();
        hyp_mode::flush(Call::FlushAll, 0);
    }

    fn complete_flush(&self) {
        hyp_mode::complete_flush();
        follow_up_tlb_flush();
    }

    fn exit_all_guests(&self) {
        // An interrupt that every CPU has to take: those in a guest leave it, and have left when it returns.
        // SAFETY: the function ignores its argument.
        unsafe { ffi::ws_on_each_cpu(nothing, core::ptr::null_mut()) };
    }
}
