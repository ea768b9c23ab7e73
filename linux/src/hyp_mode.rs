// SPDX-License-Identifier: GPL-2.0-only
//! Taking Hyp mode and giving it back.
//!
//! Loading prepares what Hyp mode needs once: the image copied to pages of its own, a stack and a data page for each CPU, the
//! trampoline's page, and a translation table that maps them. Then each CPU is taken: who answers `HVC #0` is asked first, and
//! only the stub of a kernel that started in Hyp mode is replaced, by entering the trampoline through its soft restart.
//!
//! A CPU is given back before it goes offline or sleeps, before reboot and kexec, and at unload; and taken again after. What Hyp
//! mode remembers over that is never assumed: it may be kept (a sleep that did not happen), or lost (hibernation).
//!
//! All calls of Hyp functions go through [`call`], which refuses on a CPU that is not taken. That happens to a thread that is still
//! on a CPU that is leaving: a guest is then entered elsewhere, and a flush is done elsewhere.

use crate::errno::{Errno, Result};
use crate::heap::Array;
use crate::hyp_call::{self, Owner};
use crate::kernel::{self, Kernel};
use crate::lock::Mutex;
use crate::pages::LowmemPage;
use crate::resident::Resident;
use crate::{cache, ffi, gic};
use arch::addr::{HostPhys, HypVirt, PAGE_SIZE};
use arch::hyp_registers::{HMAIR0, HMAIR1, Htcr, Vtcr};
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use hyp_abi::image::{ABI, Call, ImageHeader, PanicRecord, TRAMPOLINE_PARAMETERS, TrampolineParameters};
use hyp_abi::layout::{self, MAX_CPUS};
use kvm::host::Lock;
use kvm::hyp_map::{HypMap, HypMapError, Kind};

/// The Hyp image, as `cargo xtask build` linked and flattened it.
static IMAGE: &[u8] = include_bytes!(env!("WORLDSWITCH_HYP_IMAGE"));

/// Pages of one CPU's slot.
struct Slot {
    emergency: LowmemPage,
    stack: LowmemPage,
    data: LowmemPage,
}

/// Everything that Hyp mode runs on, from load to unload.
struct HypMode {
    header: ImageHeader,
    /// Owns the image's pages, which the map refers to.
    _image: Array<Option<LowmemPage>>,
    slots: Array<Option<Slot>>,
    trampoline: HostPhys,
    _trampoline_page: LowmemPage,
    map: Mutex<HypMap<Kernel>>,
}

/// What [`prepare`] made.
static HYP: Resident<HypMode> = Resident::new();

/// Whether Hyp mode is ours, by CPU number. Written by the CPU itself with interrupts off.
static TAKEN: [AtomicBool; MAX_CPUS as usize] = [const { AtomicBool::new(false) }; MAX_CPUS as usize];

/// Whether Hyp mode is to be ours while the CPU is awake. Written by the CPU itself with interrupts off.
static WANTED: [AtomicBool; MAX_CPUS as usize] = [const { AtomicBool::new(false) }; MAX_CPUS as usize];

/// The system ends: Hyp mode was given back for good.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Flushes that were asked for on a CPU where Hyp mode is not ours: somebody else has to do them ([`complete_flush`]).
static FLUSHES_OWED: AtomicU32 = AtomicU32::new(0);

/// How many of those have been done.
static FLUSHES_DONE: AtomicU32 = AtomicU32::new(0);

/// How many panics of each CPU's Hyp mode have been printed.
static PRINTED: [AtomicU32; MAX_CPUS as usize] = [const { AtomicU32::new(0) }; MAX_CPUS as usize];

impl HypMode {
    fn prepare() -> Result<Self> {
        let header = ImageHeader::parse(IMAGE).ok_or(Errno::ENOEXEC)?;
        let cpus = ffi::ws_cpus();
        if cpus > MAX_CPUS {
            crate::error!(
                "this kernel has room for {cpus} CPUs, Hyp mode's map for {MAX_CPUS}: start it with nr_cpus={MAX_CPUS}"
            );
            return Err(Errno::ENOSPC);
        }
        let mut map = HypMap::new(Kernel)?;

        let mut image = Array::new(IMAGE.len().div_ceil(PAGE_SIZE), |_| None)?;
        for (index, (page, bytes)) in image.iter_mut().zip(IMAGE.chunks(PAGE_SIZE)).enumerate() {
            let mut copy = LowmemPage::new()?;
            copy.fill(0, bytes);
            // SAFETY: a page of the linear map. Hyp mode fetches instructions from it through caches, but enters with them off.
            unsafe { cache::clean_invalidate_to_poc(copy.as_ptr(), PAGE_SIZE) };
            let at = layout::IMAGE_BASE + (index * PAGE_SIZE) as u32;
            let kind = if at < header.text {
                Kind::Constants
            } else if at < header.data {
                Kind::Text
            } else {
                Kind::Data
            };
            map.map(HypVirt::new(at), copy.phys(), 1, kind)?;
            *page = Some(copy);
        }

        let mut slots = Array::new(cpus as usize, |_| None)?;
        for (cpu, slot) in (0..).zip(slots.iter_mut()) {
            let made = Slot { emergency: LowmemPage::new()?, stack: LowmemPage::new()?, data: LowmemPage::new()? };
            let base = layout::slot(cpu);
            map.map(HypVirt::new(base + layout::EMERGENCY_PAGE), made.emergency.phys(), 1, Kind::Data)?;
            map.map(HypVirt::new(base + layout::STACK_PAGE), made.stack.phys(), 1, Kind::Data)?;
            map.map(HypVirt::new(base + layout::DATA_PAGE), made.data.phys(), 1, Kind::Data)?;
            *slot = Some(made);
        }

        let mut trampoline = LowmemPage::new()?;
        let at = u32::try_from(trampoline.phys().get()).map(HypVirt::new).map_err(|_| {
            crate::error!("the trampoline's page lies above 4 GiB, where it cannot be entered with the MMU off");
            Errno::ENOSPC
        })?;
        map.map(at, trampoline.phys(), 1, Kind::Text).map_err(|error| match error {
            HypMapError::OutOfMemory => Errno::ENOMEM,
            HypMapError::Overlap | HypMapError::Unmappable => {
                crate::error!(
                    "the trampoline's page at {:#x} collides with Hyp mode's own addresses: load again",
                    at.get()
                );
                Errno::ENOSPC
            }
        })?;
        let code = (header.trampoline - layout::IMAGE_BASE) as usize;
        trampoline.fill(0, IMAGE.get(code..code + TRAMPOLINE_PARAMETERS).unwrap_or(&[]));
        let parameters = TrampolineParameters {
            httbr: map.httbr(),
            htcr: Htcr::HYP.bits(),
            hmair0: HMAIR0,
            hmair1: HMAIR1,
            entry: header.start,
            vtcr: Vtcr::IPA40.bits(),
            firmware_hardening: ffi::ws_firmware_hardening(),
        };
        // SAFETY: integers without padding.
        let bytes = unsafe {
            core::slice::from_raw_parts((&raw const parameters).cast::<u8>(), size_of::<TrampolineParameters>())
        };
        trampoline.fill(TRAMPOLINE_PARAMETERS, bytes);
        // SAFETY: a page of the linear map; it runs, and is read, with the MMU and caches off.
        unsafe { cache::clean_invalidate_to_poc(trampoline.as_ptr(), PAGE_SIZE) };
        cache::invalidate_instructions();

        Ok(Self {
            header,
            _image: image,
            slots,
            trampoline: trampoline.phys(),
            _trampoline_page: trampoline,
            map: Mutex::new(map),
        })
    }

    fn slot(&self, cpu: u32) -> Option<&Slot> {
        self.slots.get(cpu as usize)?.as_ref()
    }
}

/// Prepares what Hyp mode needs. No CPU is taken yet.
pub fn prepare() -> Result<()> {
    HYP.put(HypMode::prepare()?)
}

/// Frees what [`prepare`] made. No CPU is taken any more.
pub fn dispose() {
    HYP.clear();
}

/// Asks on this CPU whether a stub of a kernel that started in Hyp mode is there to be replaced. Interrupts are off.
///
/// # Errors
/// ENODEV, with a line in the log that says why not.
pub fn check_host() -> Result<()> {
    match hyp_call::owner() {
        Owner::Stub => Ok(()),
        Owner::Nobody => {
            crate::error!("this kernel did not start in Hyp mode (HVC is undefined): cannot work here");
            Err(Errno::ENODEV)
        }
        Owner::Worldswitch => {
            crate::error!("Hyp mode is taken by another instance of this module");
            Err(Errno::EBUSY)
        }
        Owner::Other(answer) => {
            crate::error!(
                "Hyp mode belongs to another hypervisor or to firmware (HVC answered {answer:#x}): cannot work here"
            );
            Err(Errno::ENODEV)
        }
    }
}

/// Takes Hyp mode on this CPU. Interrupts are off. A CPU that is taken stays so.
pub fn take() -> Result<()> {
    let hyp = HYP.get()?;
    let cpu = ffi::ws_cpu();
    let taken = TAKEN.get(cpu as usize).ok_or(Errno::ENOSPC)?;
    // Never mind what we remember: sleep may have lost it, or a sleep that failed may have kept it.
    if hyp_call::owner() != Owner::Worldswitch {
        taken.store(false, Ordering::Relaxed);
        check_host()?;
        let slot = layout::slot(cpu);
        // SAFETY: the stub is there (just asked) and its soft restart enters the trampoline, which `prepare` wrote and cleaned; its
        // physical address is below 4 GiB, and the slot's pages are mapped. It returns here.
        let abi = unsafe { hyp_call::hvc(hyp_call::SOFT_RESTART, hyp.trampoline.get() as u32, slot, 0) };
        if abi != ABI {
            crate::error!("CPU {cpu}: Hyp mode answered {abi:#x} when it was taken");
            return Err(Errno::EIO);
        }
    }
    gic::forget_here();
    taken.store(true, Ordering::Relaxed);
    match call(Call::Version, 0, 0, 0) {
        Some(ABI) => Ok(()),
        answer => {
            crate::error!("CPU {cpu}: Hyp mode answered {answer:#x?} to the first call");
            Err(Errno::EIO)
        }
    }
}

fn want(wanted: bool) {
    if let Some(place) = WANTED.get(ffi::ws_cpu() as usize) {
        place.store(wanted, Ordering::Relaxed);
    }
}

/// Whether Hyp mode was given back for good.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// Gives Hyp mode back on this CPU, if it is ours. Interrupts are off.
fn give_back() {
    let cpu = ffi::ws_cpu();
    if let Some(taken) = TAKEN.get(cpu as usize)
        && taken.load(Ordering::Relaxed)
    {
        call(Call::Release, 0, 0, 0);
        taken.store(false, Ordering::Relaxed);
    }
}

/// Calls a Hyp function on this CPU with up to three words. `None`: Hyp mode is not ours here. Interrupts are off.
pub fn call(function: Call, a: u32, b: u32, c: u32) -> Option<u32> {
    let hyp = HYP.get().ok()?;
    let cpu = ffi::ws_cpu();
    if !TAKEN.get(cpu as usize)?.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: Hyp mode is ours on this CPU, which cannot change while interrupts are off; each function's own demands on its
    // arguments are met by the callers, who pass context pages that are mapped, or plain numbers.
    let result = unsafe { hyp_call::hvc(hyp.header.entry(function), a, b, c) };
    if result == hyp_abi::context::HYP_PANIC {
        print_panic(hyp, cpu);
    }
    Some(result)
}

/// [`call`] where it just went through, with interrupts off ever since: Hyp mode is still ours.
pub fn call_again(function: Call, a: u32) -> Option<u32> {
    let hyp = HYP.get().ok()?;
    // SAFETY: as in `call`.
    let result = unsafe { hyp_call::hvc(hyp.header.entry(function), a, 0, 0) };
    if result == hyp_abi::context::HYP_PANIC {
        print_panic(hyp, ffi::ws_cpu());
    }
    Some(result)
}

/// The image's header, where Hyp mode is ours on this CPU: for whoever calls past [`call`]. Interrupts are off.
pub fn header_here() -> Option<&'static ImageHeader> {
    let hyp = HYP.get().ok()?;
    TAKEN.get(ffi::ws_cpu() as usize)?.load(Ordering::Relaxed).then_some(&hyp.header)
}

/// Flushes TLBs by a Hyp function, from whatever CPU this thread is on. On one that is just leaving, where Hyp mode is not ours
/// any more, the flush is left to [`complete_flush`]. Never sleeps.
pub fn flush(function: Call, argument: u64) {
    let called = kernel::with_interrupts_off(|| call(function, argument as u32, (argument >> 32) as u32, 0));
    if called.is_none() {
        FLUSHES_OWED.fetch_add(1, Ordering::AcqRel);
    }
}

unsafe extern "C" fn flush_all_here(_: *mut c_void) {
    kernel::with_interrupts_off(|| call(Call::FlushAll, 0, 0, 0));
}

unsafe extern "C" fn flush_hyp_here(address: *mut c_void) {
    kernel::with_interrupts_off(|| call(Call::FlushHyp, address as u32, 0, 0));
}

/// Whether there is a flush that [`complete_flush`] has yet to do. One that was asked for under a lock is seen by whoever takes that lock next.
pub fn flush_is_put_off() -> bool {
    FLUSHES_DONE.load(Ordering::Acquire) != FLUSHES_OWED.load(Ordering::Acquire)
}

/// Does what a flush could not do where it was asked for. Interrupts are on, no spin lock is held.
pub fn complete_flush() {
    let owed = FLUSHES_OWED.load(Ordering::Acquire);
    if FLUSHES_DONE.load(Ordering::Acquire) != owed {
        // SAFETY: the function ignores its argument. Each CPU that is taken flushes for all, so one suffices, whichever it is.
        unsafe { ffi::ws_on_each_cpu(flush_all_here, core::ptr::null_mut()) };
        // Never beyond what was owed before the flush began; an older number written late costs one more flush.
        FLUSHES_DONE.store(owed, Ordering::Release);
    }
}

/// Maps a page of the linear map in Hyp mode, at the kernel's own address. May sleep.
pub fn share(page: &LowmemPage) -> Result<()> {
    let hyp = HYP.get()?;
    let at = HypVirt::new(page.as_ptr() as u32);
    hyp.map.lock().share(at, page.phys()).map_err(Errno::from)
}

/// Takes a shared page out again. On return no CPU's TLB has it. May sleep.
pub fn unshare(page: &LowmemPage) {
    let Ok(hyp) = HYP.get() else { return };
    let flush = hyp.map.lock().unmap(HypVirt::new(page.as_ptr() as u32));
    if let Some(flush) = flush {
        let at = flush.0.get();
        if kernel::with_interrupts_off(|| call(Call::FlushHyp, at, 0, 0)).is_none() {
            // SAFETY: the function takes the address for a number.
            unsafe { ffi::ws_on_each_cpu(flush_hyp_here, at as *mut c_void) };
        }
        kernel::follow_up_tlb_flush();
    }
}

/// Prints the panic that this CPU's Hyp mode has recorded.
#[cold]
#[inline(never)]
fn print_panic(hyp: &HypMode, cpu: u32) {
    let Some(slot) = hyp.slot(cpu) else { return };
    // SAFETY: the data page begins with the record; Hyp mode writes it on this CPU only, which is here instead.
    let record = unsafe { slot.data.as_ptr().cast::<PanicRecord>().read_volatile() };
    if let Some(printed) = PRINTED.get(cpu as usize)
        && printed.swap(record.count, Ordering::Relaxed) == record.count
    {
        return;
    }
    let vector = match record.vector {
        1 => "undefined instruction",
        2 => "HVC",
        3 => "prefetch abort",
        4 => "data abort",
        6 => "interrupt",
        _ => "unknown exception",
    };
    crate::error!("Hyp panic: CPU {cpu}: {vector} at {:#010x}, HSR {:#010x}", record.pc, record.hsr);
    crate::error!(
        "Hyp panic: HDFAR {:#010x} HIFAR {:#010x} CPSR {:#010x} SP {:#010x} LR {:#010x}",
        record.hdfar,
        record.hifar,
        record.cpsr,
        record.sp,
        record.lr
    );
    for (index, row) in (0..).zip(record.r.chunks(4)) {
        crate::error!("Hyp panic: r{} and on: {row:08x?}", index * 4);
    }
}

/// Hyp mode for a CPU that comes online: from now on it is taken whenever the CPU is awake.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_cpu_comes() -> i32 {
    if ENDING.load(Ordering::Relaxed) {
        return 0;
    }
    match take() {
        Ok(()) => {
            want(true);
            0
        }
        Err(error) => error.get(),
    }
}

/// The CPU goes offline, or the module or the system ends: it is not taken again until it comes back.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_cpu_goes() {
    want(false);
    give_back();
}

/// The CPU goes to sleep.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_cpu_sleeps() {
    give_back();
}

/// The CPU wakes up, or did not get to sleep.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_cpu_wakes() {
    if WANTED.get(ffi::ws_cpu() as usize).is_some_and(|wanted| wanted.load(Ordering::Relaxed)) {
        // Asleep, the kernel's own code had the stub to count on. Awake, nothing else would show that it had not.
        if hyp_call::owner() == Owner::Worldswitch {
            crate::error!("BUG: CPU {}: Hyp mode was not given back for a sleep", ffi::ws_cpu());
        }
        // What failed is in the log; guests cannot run here then.
        let _ = take();
    }
}

/// Reboot or kexec: no guest runs any more.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_system_ends() {
    ENDING.store(true, Ordering::Relaxed);
}
