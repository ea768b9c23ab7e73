// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions: the vector table, what a test may ask of it, and the report of what nobody asked for.
//!
//! Each vector saves r0 to r12, the return address and SPSR on its own mode's stack and calls `taken`. A test that wants an exception
//! runs its instruction under [`catch`]: the exception is recorded and the instruction after it goes on. Interrupts go to the
//! handler that [`on_irq`] has set. Anything else fails the test and ends the guest.
//!
//! Source: ARM DDI 0406C.d, B1.8 (vectors, return addresses).

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;

use crate::{gic, psci, sysreg};

/// What was taken. The numbers are the vectors'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Undefined instruction.
    Undefined = 1,
    /// Supervisor call.
    Supervisor = 2,
    /// Prefetch abort.
    Prefetch = 3,
    /// Data abort.
    Data = 4,
    /// IRQ.
    Irq = 6,
    /// FIQ.
    Fiq = 7,
}

/// An exception that [`catch`] caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub kind: Kind,
    /// The banked LR, as the exception set it.
    pub lr: u32,
    /// The banked SPSR, as the exception set it.
    pub spsr: u32,
    /// CPSR in the handler.
    pub cpsr: u32,
}

/// CPSR: Thumb state.
pub const THUMB: u32 = 1 << 5;

/// What a vector pushes.
#[repr(C)]
struct Frame {
    spsr: u32,
    cpsr: u32,
    registers: [u32; 13],
    /// Where to go on.
    lr: u32,
}

struct State {
    test: &'static str,
    catching: bool,
    /// A prefetch abort goes on where r4 points, in Arm state.
    fetching: bool,
    caught: Option<Caught>,
    irq: Option<fn(u32)>,
}

/// One vCPU's state, and exceptions that interrupt it.
struct Shared(UnsafeCell<State>);
// SAFETY: only the boot vCPU runs tests; `with` keeps each access apart from the others.
unsafe impl Sync for Shared {}

static STATE: Shared =
    Shared(UnsafeCell::new(State { test: "start", catching: false, fetching: false, caught: None, irq: None }));

fn with<T>(change: impl FnOnce(&mut State) -> T) -> T {
    let masked = sysreg::cpsr() & 0x80 != 0;
    sysreg::mask_irq();
    // SAFETY: one vCPU, interrupts masked, and no `change` below takes an exception or calls `with`.
    let result = change(unsafe { &mut *STATE.0.get() });
    if !masked {
        sysreg::unmask_irq();
    }
    result
}

/// Blames exceptions that nobody asks for on this test from here on.
pub fn watch(test: &'static str) {
    with(|state| *state = State { test, catching: false, fetching: false, caught: None, irq: None });
}

/// The test that runs.
pub fn current_test() -> &'static str {
    with(|state| state.test)
}

/// Runs code that should take an exception. Answers the first, if any came; the code has gone on after it.
pub fn catch(code: impl FnOnce()) -> Option<Caught> {
    with(|state| (state.catching, state.caught) = (true, None));
    code();
    with(|state| {
        state.catching = false;
        state.caught.take()
    })
}

/// Branches to `address`, in Thumb state if it is odd, where no instruction can be fetched from. Answers the exception, if it came
/// before anything was executed there.
pub fn catch_fetch(address: u32) -> Option<Caught> {
    with(|state| state.fetching = true);
    let caught = catch(|| {
        // SAFETY: the handler goes on at the label, and has kept all registers.
        unsafe {
            asm!(
                "adr r4, 2f",
                "bx {address}",
                "2:",
                address = in(reg) address,
                out("r4") _,
                options(nostack),
            )
        }
    });
    with(|state| state.fetching = false);
    caught
}

/// Has `handler` called for each IRQ, with the interrupt's number, between its acknowledgement and its end.
pub fn on_irq(handler: fn(u32)) {
    with(|state| state.irq = Some(handler));
}

extern "C" fn taken(kind: u32, frame: &mut Frame) {
    let kind = match kind {
        1 => Kind::Undefined,
        2 => Kind::Supervisor,
        3 => Kind::Prefetch,
        4 => Kind::Data,
        6 => Kind::Irq,
        _ => Kind::Fiq,
    };
    let (catching, irq) = with(|state| (state.catching, state.irq));
    match (kind, irq) {
        (Kind::Irq, Some(handler)) => {
            let acknowledged = gic::acknowledge();
            handler(acknowledged & 0x3ff);
            gic::end(acknowledged);
            frame.lr = frame.lr.wrapping_sub(4);
        }
        (Kind::Undefined | Kind::Supervisor | Kind::Data, _) if catching => {
            let caught = Caught { kind, lr: frame.lr, spsr: frame.spsr, cpsr: frame.cpsr };
            with(|state| *state.caught.get_or_insert(caught));
            if kind == Kind::Data {
                frame.lr = frame.lr.wrapping_sub(4); // eight behind the instruction: go on four behind it
            }
        }
        (Kind::Prefetch, _) if catching => {
            let caught = Caught { kind, lr: frame.lr, spsr: frame.spsr, cpsr: frame.cpsr };
            let fetching = with(|state| {
                state.caught.get_or_insert(caught);
                state.fetching
            });
            if fetching {
                frame.lr = frame.registers[4];
                frame.spsr &= !THUMB;
            }
        }
        _ => report(kind, frame),
    }
}

fn report(kind: Kind, frame: &Frame) -> ! {
    let (test, lr, spsr) = (current_test(), frame.lr, frame.spsr);
    crate::println!("not ok {test}: {kind:?} exception, LR {lr:#010x}, SPSR {spsr:#010x}");
    crate::println!(
        "# DFSR {:#x}, DFAR {:#x}, IFSR {:#x}, IFAR {:#x}",
        sysreg::dfsr::read(),
        sysreg::dfar::read(),
        sysreg::ifsr::read(),
        sysreg::ifar::read()
    );
    for (number, value) in frame.registers.iter().enumerate() {
        crate::println!("# r{number} {value:#010x}");
    }
    psci::system_off()
}

/// The vector table: position-independent, so that a copy of it elsewhere works.
///
/// # Safety
///
/// Not to be called: the core goes to one of its words when it takes an exception.
#[unsafe(naked)]
pub unsafe extern "C" fn vectors() {
    naked_asm!(
        ".balign 32",
        "ldr pc, 9f",
        "ldr pc, 9f + 4",
        "ldr pc, 9f + 8",
        "ldr pc, 9f + 12",
        "ldr pc, 9f + 16",
        "nop",
        "ldr pc, 9f + 20",
        "ldr pc, 9f + 24",
        "9:",
        ".word {start}, {undefined}, {supervisor}, {prefetch}, {data}, {irq}, {fiq}",
        start = sym reset,
        undefined = sym vector::<1>,
        supervisor = sym vector::<2>,
        prefetch = sym vector::<3>,
        data = sym vector::<4>,
        irq = sym vector::<6>,
        fiq = sym vector::<7>,
    )
}

/// How many bytes [`vectors`] has.
pub const VECTORS_SIZE: usize = 60;

extern "C" fn reset() -> ! {
    crate::println!("not ok {}: the reset vector was taken", current_test());
    psci::system_off()
}

#[unsafe(naked)]
unsafe extern "C" fn vector<const KIND: u32>() {
    naked_asm!(
        "push {{r0-r12, lr}}",
        "mrs r0, spsr",
        "mrs r1, cpsr",
        "push {{r0, r1}}",        // 64 bytes in all: the stack stays aligned
        "mov r0, {kind}",
        "mov r1, sp",
        "bl {taken}",
        "pop {{r0, r1}}",
        "msr spsr_cxsf, r0",
        "ldm sp!, {{r0-r12, pc}}^", // and CPSR from SPSR
        kind = const KIND,
        taken = sym taken,
    )
}
