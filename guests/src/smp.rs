// SPDX-License-Identifier: GPL-2.0-only
//! More than one vCPU: starting them by PSCI, and having them do something for the boot vCPU, which runs the tests.
//!
//! A vCPU that was started waits in WFI, interrupts masked, with its CPU interface on. The boot vCPU gives it work by a mailbox and
//! SGI [`CALL`]; other SGIs that it gets it acknowledges, ends, and counts by sender and number. Nobody takes an interrupt here, and
//! nobody needs exclusive loads and stores, which mean nothing while caches are off: each word has one writer at a time.
//!
//! Source: Arm DEN 0022, 5.6 (CPU_ON), 5.5 (CPU_OFF); IHI 0048B, 4.3.15 (GICD_SGIR).

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::mmio::write32;
use crate::{gic, psci, sysreg, timer};

/// As many as a GICv2 serves.
pub const MAX_CPUS: u32 = 8;
/// The SGI that says that there is something in the mailbox.
pub const CALL: u32 = 15;
/// Microseconds that a vCPU itself may wait for anything: many, since eight may share one CPU of an emulated host.
const PATIENCE: u32 = 30_000_000;
/// Microseconds from one look to the next that count as waiting. What is longer is time in which this vCPU did not run: its host was
/// busy, stopped it or hibernated, and the others may not have run either.
const LOOK: u32 = 10_000;

const STACK: usize = 0x4000;

#[repr(C, align(8))]
struct Stacks(UnsafeCell<[[u8; STACK]; MAX_CPUS as usize]>);
// SAFETY: each vCPU uses its own.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK]; MAX_CPUS as usize]));

/// What a vCPU found when it was started.
#[derive(Clone, Copy)]
pub struct Entry {
    /// r0.
    pub argument: u32,
    /// CPSR.
    pub cpsr: u32,
    /// SCTLR.
    pub sctlr: u32,
    /// MPIDR.
    pub mpidr: u32,
}

struct Mailbox {
    /// Work to do, as an address; 0: none, or done.
    work: AtomicUsize,
    argument: AtomicU32,
    result: AtomicU32,
    /// What it was started with, and how often.
    entry: [AtomicU32; 4],
    starts: AtomicU32,
    /// SGIs, by sender and number.
    received: [[AtomicU32; 16]; MAX_CPUS as usize],
}

impl Mailbox {
    const fn new() -> Self {
        Self {
            work: AtomicUsize::new(0),
            argument: AtomicU32::new(0),
            result: AtomicU32::new(0),
            entry: [const { AtomicU32::new(0) }; 4],
            starts: AtomicU32::new(0),
            received: [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS as usize],
        }
    }
}

static MAILBOXES: [Mailbox; MAX_CPUS as usize] = [const { Mailbox::new() }; MAX_CPUS as usize];

fn mailbox(cpu: u32) -> &'static Mailbox {
    &MAILBOXES[(cpu % MAX_CPUS) as usize]
}

/// The affinity of vCPU `cpu`: clusters of four.
pub const fn affinity(cpu: u32) -> u32 {
    ((cpu / 4) << 8) | (cpu % 4)
}

/// How many vCPUs there are, by what the firmware knows.
pub fn cpus() -> u32 {
    (1..MAX_CPUS).find(|cpu| psci::affinity_info(affinity(*cpu)) < 0).unwrap_or(MAX_CPUS)
}

/// Waits for something that another vCPU does; whether it was done.
pub fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let (mut left, most) = (timer::ticks(PATIENCE), u64::from(timer::ticks(LOOK)));
    let mut last = sysreg::cntvct::read();
    loop {
        if done() {
            return true;
        }
        let now = sysreg::cntvct::read();
        let Some(rest) = left.checked_sub((now - last).min(most) as u32) else { return done() };
        (left, last) = (rest, now);
    }
}

/// CPU_ON: what the firmware answers. The vCPU will find `argument`, whose low three bits must be its number, in r0.
pub fn turn_on(cpu: u32, argument: u32) -> i32 {
    psci::call(uapi::psci::CPU_ON, [affinity(cpu), start as *const () as usize as u32, argument])[0] as i32
}

/// How often vCPU `cpu` was started.
pub fn starts(cpu: u32) -> u32 {
    mailbox(cpu).starts.load(Ordering::Acquire)
}

/// What vCPU `cpu` found when it was last started.
pub fn entry(cpu: u32) -> Entry {
    let [argument, cpsr, sctlr, mpidr] = mailbox(cpu).entry.each_ref().map(|word| word.load(Ordering::Relaxed));
    Entry { argument, cpsr, sctlr, mpidr }
}

/// Has vCPU `cpu` do something, and does not wait for it.
pub fn post(cpu: u32, work: fn(u32) -> u32, argument: u32) {
    mailbox(cpu).argument.store(argument, Ordering::Relaxed);
    mailbox(cpu).work.store(work as usize, Ordering::Release);
    sysreg::dsb(); // memory before the interrupt that tells of it
    send(1 << cpu, CALL);
}

/// What vCPU `cpu` made of the work that it was given. `None`: it did not come to an end.
pub fn result(cpu: u32) -> Option<u32> {
    let mailbox = mailbox(cpu);
    let done = wait_for(|| mailbox.work.load(Ordering::Acquire) == 0);
    done.then(|| mailbox.result.load(Ordering::Relaxed))
}

/// Has vCPU `cpu` do something, and waits for it.
pub fn call(cpu: u32, work: fn(u32) -> u32, argument: u32) -> Option<u32> {
    post(cpu, work, argument);
    result(cpu)
}

/// Sends SGI `number` to the vCPUs in the mask, bit n for vCPU n.
pub fn send(targets: u32, number: u32) {
    write32(gic::GICD_SGIR, targets << 16 | number);
}

/// Takes what SGIs there are for this vCPU, `cpu`.
pub fn collect(cpu: u32) {
    loop {
        let acknowledged = gic::acknowledge();
        let (number, sender) = (acknowledged & 0x3ff, acknowledged >> 10 & 7);
        if number >= 16 {
            return;
        }
        let counter = &mailbox(cpu).received[sender as usize][number as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
        gic::end(acknowledged);
    }
}

/// How often vCPU `cpu` got SGI `number` from `sender`.
pub fn received(cpu: u32, sender: u32, number: u32) -> u32 {
    mailbox(cpu).received[(sender % MAX_CPUS) as usize][(number % 16) as usize].load(Ordering::Acquire)
}

/// Forgets what vCPU `cpu` got.
pub fn forget_received(cpu: u32) {
    mailbox(cpu).received.iter().flatten().for_each(|counter| counter.store(0, Ordering::Release));
}

/// Where CPU_ON starts a vCPU. The low three bits of r0 say which it is.
#[unsafe(naked)]
unsafe extern "C" fn start() -> ! {
    naked_asm!(
        "mrs r1, cpsr",
        "mrc p15, 0, r2, c1, c0, 0", // SCTLR
        "and r3, r0, #7",
        "ldr r4, ={stacks}",
        "add r3, r3, #1",
        "mov r5, #{stack}",
        "mla r4, r3, r5, r4",
        "msr cpsr_c, #0xd7", // Abort
        "mov sp, r4",
        "sub r4, r4, #0x400",
        "msr cpsr_c, #0xdb", // Undefined
        "mov sp, r4",
        "sub r4, r4, #0x400",
        "msr cpsr_c, #0xd3", // Supervisor: what is left
        "mov sp, r4",
        "ldr r4, ={vectors}",
        "mcr p15, 0, r4, c12, c0, 0", // VBAR
        "isb",
        "bl {serve}",
        "3: b 3b",
        stacks = sym STACKS,
        stack = const STACK,
        vectors = sym crate::exceptions::vectors,
        serve = sym serve,
    )
}

/// What a started vCPU does until it is turned off.
extern "C" fn serve(argument: u32, cpsr: u32, sctlr: u32) -> ! {
    let cpu = argument % MAX_CPUS;
    let mailbox = mailbox(cpu);
    for (place, word) in mailbox.entry.iter().zip([argument, cpsr, sctlr, sysreg::mpidr::read()]) {
        place.store(word, Ordering::Relaxed);
    }
    write32(gic::GICC_PMR, 0xff);
    write32(gic::GICC_CTLR, 1);
    mailbox.starts.store(mailbox.starts.load(Ordering::Relaxed) + 1, Ordering::Release);
    loop {
        collect(cpu);
        let work = mailbox.work.load(Ordering::Acquire);
        if work != 0 {
            // SAFETY: `post` put a function of this type there.
            let work = unsafe { core::mem::transmute::<usize, fn(u32) -> u32>(work) };
            let result = work(mailbox.argument.load(Ordering::Relaxed));
            mailbox.result.store(result, Ordering::Relaxed);
            mailbox.work.store(0, Ordering::Release);
        }
        sysreg::wfi();
    }
}

/// Work: turns this vCPU off. Comes back only if that fails, with what the firmware says.
pub fn turn_off(cpu: u32) -> u32 {
    // Nothing of it is left for the next start.
    mailbox(cpu).work.store(0, Ordering::Release);
    psci::call(uapi::psci::CPU_OFF, [0; 3])[0]
}
