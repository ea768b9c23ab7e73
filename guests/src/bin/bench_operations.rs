// SPDX-License-Identifier: GPL-2.0-only
//! What each operation of a vCPU costs: loops of few instructions around it, timed by the counter. `cargo xtask bench` runs it.
//!
//! `timer_interrupt`: the guest spins, with three instructions a turn, while each interrupt's handler sets the timer anew. Without a
//! hypervisor the same instructions would have run, so the spin's are the guest's own; the handler's six are counted.
//!
//! `wait_N`: the guest sets the timer N ticks ahead, waits in WFI, acknowledges and ends the interrupt. If the way into the wait
//! is shorter than N, a turn takes N and what the wake-up is late; the way in is hidden behind the wait. If N is a little less than the
//! way in, the time comes while the CPU is on its way to rest with interrupts masked: it does not rest, and a turn takes
//! the way in and the way out, all of them instructions. The reader looks for that N.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::bench::{Bench, Went};
use guests::{exceptions, gic, sysreg, timer, uart};

/// An address that belongs to nobody.
const NOBODYS: u32 = 0x3000_0000;

/// Turns of a loop, of those that cost little and of those that cost much; the whole must be short against the host's own timer.
const MANY: u32 = 400;
const FEW: u32 = 100;

/// Ticks until the timer's interrupt in `timer_interrupt`: 50 us of QEMU's 62.5 MHz.
const SPIN_TICKS: u32 = 3125;
/// Ticks until the timer's interrupt where WFI is to rest: 100 us.
const REST_TICKS: u32 = 6250;
/// Where the search for the way in begins, and its step.
const SEARCH_TICKS: u32 = 2000;
const SEARCH_STEP: usize = 10;
/// How many turns a wait of the search has, and how often it is tried.
const SEARCH_TURNS: u32 = 4;
const SEARCH_TIMES: usize = 3;

/// Runs a loop `$count` times: the body, then the two instructions that count.
macro_rules! repeat {
    ($count:ident, [$($line:literal),* $(,)?] $($operands:tt)*) => {
        // SAFETY: what the body does is what is measured: traps of the guest's own making, that leave its memory alone. What it
        // changes is among the operands.
        unsafe {
            asm!(
                ".arch_extension virt",
                ".fpu vfpv3",
                "2:",
                $($line,)*
                "subs {count}, {count}, #1",
                "bne 2b",
                count = inout(reg) $count => _,
                $($operands)*
                options(nostack),
            )
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    exceptions::watch("bench");
    vfp_on();
    gic::enable();
    for number in 0..16 {
        gic::set_priority(number, 0x80);
    }
    gic::set_priority(gic::VIRTUAL_TIMER, 0x80);
    gic::enable_private(gic::VIRTUAL_TIMER);

    let mut bench = Bench::<900>::new();
    bench.measure("hypercall", 8, MANY, hypercall);
    bench.measure("hypercall_vfp", 9, MANY, hypercall_and_vfp);
    bench.measure("actlr", 4, MANY, actlr);
    bench.measure("cntp_ctl", 4, MANY, cntp_ctl);
    bench.measure("gicd_iidr", 4, MANY, |count| read(count, gic::GICD_IIDR));
    bench.measure("gicd_isenabler_read", 4, MANY, |count| read(count, gic::GICD_ISENABLER));
    bench.measure("gicd_isenabler_write", 4, MANY, |count| write(count, gic::GICD_ISENABLER, 1 << gic::VIRTUAL_TIMER));
    bench.measure("uart", 4, FEW, |count| read_byte(count, uart::SCRATCH));
    bench.measure("uart_vfp", 5, FEW, |count| read_byte_and_vfp(count, uart::SCRATCH));
    bench.measure("unassigned", 4, FEW, |count| read(count, NOBODYS));
    bench.measure("sgi_self", 9, FEW, sgi_to_self);
    bench.measure("timer_interrupt", 6, 10, timer_interrupts);
    bench.measure("wait", 16, 5, |count| wait(count, REST_TICKS));
    for ticks in (0..=SEARCH_TICKS).step_by(SEARCH_STEP) {
        for _ in 0..SEARCH_TIMES {
            bench.once("wait_search", ticks, || wait(SEARCH_TURNS, ticks));
        }
    }
    bench.end()
}

/// Turns VFP on, and uses it.
fn vfp_on() {
    sysreg::cpacr::write(sysreg::cpacr::read() | 0xf << 20);
    // SAFETY: the guest is built soft-float: nothing else uses these registers.
    unsafe { asm!(".fpu vfpv3", "vmsr fpexc, {}", "vmov.f64 d0, #1.0", in(reg) 1 << 30, options(nostack)) };
}

fn hypercall(count: u32) -> Went {
    let version: u32;
    repeat!(
        count,
        ["movw r0, #0", "movt r0, #0x8400", "mov r1, #0", "mov r2, #0", "mov r3, #0", "hvc #0"]
        out("r0") version, out("r1") _, out("r2") _, out("r3") _,
    );
    answered(version)
}

fn hypercall_and_vfp(count: u32) -> Went {
    let version: u32;
    repeat!(
        count,
        ["movw r0, #0", "movt r0, #0x8400", "mov r1, #0", "mov r2, #0", "mov r3, #0", "hvc #0", "vmov.f64 d0, d1"]
        out("r0") version, out("r1") _, out("r2") _, out("r3") _,
    );
    answered(version)
}

/// Whether the last PSCI_VERSION was answered.
fn answered(version: u32) -> Went {
    Went { own: 0, misses: (version != uapi::psci::VERSION_1_0).into() }
}

fn actlr(count: u32) -> Went {
    repeat!(count, ["mrc p15, 0, {value}, c1, c0, 1", "nop"] value = out(reg) _,);
    Went::default()
}

fn cntp_ctl(count: u32) -> Went {
    repeat!(count, ["mrc p15, 0, {value}, c14, c2, 1", "nop"] value = out(reg) _,);
    Went::default()
}

fn read(count: u32, address: u32) -> Went {
    repeat!(count, ["ldr {value}, [{address}]", "nop"] value = out(reg) _, address = in(reg) address,);
    Went::default()
}

fn read_byte(count: u32, address: u32) -> Went {
    repeat!(count, ["ldrb {value}, [{address}]", "nop"] value = out(reg) _, address = in(reg) address,);
    Went::default()
}

fn read_byte_and_vfp(count: u32, address: u32) -> Went {
    repeat!(count, ["ldrb {value}, [{address}]", "nop", "vmov.f64 d0, d1"] value = out(reg) _, address = in(reg) address,);
    Went::default()
}

fn write(count: u32, address: u32, value: u32) -> Went {
    repeat!(count, ["str {value}, [{address}]", "nop"] value = in(reg) value, address = in(reg) address,);
    Went::default()
}

/// SGI 1 to this vCPU, acknowledged and ended with interrupts masked.
fn sgi_to_self(count: u32) -> Went {
    let mut misses = 0;
    repeat!(
        count,
        [
            "str {sgi}, [{sgir}]",
            "ldr {seen}, [{interface}, #0xc]", // GICC_IAR
            "cmp {seen}, #1",
            "addne {misses}, {misses}, #1",
            "str {seen}, [{interface}, #0x10]", // GICC_EOIR
            "nop",
            "nop",
        ]
        sgi = in(reg) 2 << 24 | 1,
        sgir = in(reg) gic::GICD_SGIR,
        interface = in(reg) gic::CPU_INTERFACE,
        seen = out(reg) _,
        misses = inout(reg) misses,
    );
    Went { own: 0, misses }
}

/// `count` interrupts of the virtual timer into a guest that spins.
fn timer_interrupts(count: u32) -> Went {
    let turns: u32;
    let vectors = sysreg::vbar::read();
    sysreg::vbar::write(timer_vectors as *const () as u32);
    // SAFETY: the handler changes r0, r1 and CNTV_TVAL, no memory and no stack.
    unsafe {
        asm!(
            "mcr p15, 0, {ticks}, c14, c3, 0", // CNTV_TVAL
            "mcr p15, 0, {enable}, c14, c3, 1", // CNTV_CTL
            "cpsie i",
            "2:",
            "add {turns}, {turns}, #1",
            "cmp r0, #0",
            "bgt 2b",
            "cpsid i",
            ticks = in(reg) SPIN_TICKS,
            enable = in(reg) timer::ENABLE,
            turns = inout(reg) 0 => turns,
            inout("r0") count => _,
            out("r1") _,
            in("r2") SPIN_TICKS,
            in("r3") gic::CPU_INTERFACE,
            options(nostack),
        )
    };
    timer::off();
    sysreg::vbar::write(vectors);
    Went { own: turns * 3, misses: 0 }
}

// For [`timer_interrupts`].
guests::irq_vectors!(
    timer_vectors,
    "ldr r1, [r3, #0xc]",         // GICC_IAR
    "mcr p15, 0, r2, c14, c3, 0", // CNTV_TVAL: the next one; the line goes down
    "sub r0, r0, #1",
    "str r1, [r3, #0x10]", // GICC_EOIR
    "subs pc, lr, #4",
);

/// Waits `count` times for the virtual timer, `ticks` ahead.
fn wait(count: u32, ticks: u32) -> Went {
    let mut misses = 0;
    repeat!(
        count,
        [
            "mcr p15, 0, {ticks}, c14, c3, 0", // CNTV_TVAL
            "mcr p15, 0, {enable}, c14, c3, 1", // CNTV_CTL
            "isb",
            "dsb",
            "3:",
            "wfi",
            "ldr {seen}, [{interface}, #0xc]", // GICC_IAR
            "cmp {seen}, {spurious}", // WFI may end for an interrupt of the host's
            "beq 3b",
            "cmp {seen}, #27",
            "addne {misses}, {misses}, #1",
            "mcr p15, 0, {disable}, c14, c3, 1",
            "isb",
            "str {seen}, [{interface}, #0x10]", // GICC_EOIR
            "nop",
        ]
        ticks = in(reg) ticks,
        enable = in(reg) timer::ENABLE,
        disable = in(reg) 0,
        interface = in(reg) gic::CPU_INTERFACE,
        spurious = in(reg) gic::SPURIOUS,
        seen = out(reg) _,
        misses = inout(reg) misses,
    );
    Went { own: 0, misses }
}
