// SPDX-License-Identifier: GPL-2.0-only
//! The module's parameters that make happen what never should: `provoke_hyp_panic` has Hyp mode take an exception of its own at the
//! next entry into a guest, `short_exit_traps` has the kernel trap to Hyp mode in the midst of short exits.
//!
//! The second is what an Oops might do there: touch the physical timer, which is a guest's to trap until its deferred state is given
//! back. Hyp mode sees that it is no call, gives that state back and has the instruction run again. [`read_timer`] is such an
//! instruction, with a value of its own in each register that Hyp mode could spoil; [`Banks`] are what must be the host's afterwards.
//! What is wrong goes to the log, one line each.

use crate::errno::Errno;
use crate::hyp_mode;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, Ordering};
use hyp_abi::context::ExitCode;
use hyp_abi::image::{Call, Provocation};

/// What the next entry into a guest is to do: a number of [`Provocation`], or none; and [`TRAPS`].
static ARMED: AtomicU32 = AtomicU32::new(0);
/// The number in [`ARMED`].
const KIND: u32 = 0xff;
/// The parameter `short_exit_traps` is on.
const TRAPS: u32 = 1 << 31;

/// How often the kernel trapped in the midst of a short exit.
static TRAPPED: AtomicU32 = AtomicU32::new(0);

/// Whether an entry is to be by [`enter`].
pub fn is_armed() -> bool {
    ARMED.load(Ordering::Relaxed) != 0
}

/// Enters the guest of the context at `at`, or does instead, or afterwards, what the parameters ask for. Interrupts are off.
#[cold]
#[inline(never)]
pub fn enter(at: u32) -> Option<u32> {
    let kind = ARMED.fetch_and(!KIND, Ordering::Relaxed) & KIND;
    if kind != 0 {
        return hyp_mode::call(Call::Provoke, at, kind, 0);
    }
    let before = Banks::read();
    let code = hyp_mode::call(Call::EnterGuest, at, 0, 0);
    if code == Some(ExitCode::ShortTrap.to_raw()) {
        trap(&before);
    }
    code
}

/// The host's, as long as no guest's state is in the registers.
#[derive(Debug, PartialEq, Eq)]
struct Banks {
    sp_irq: u32,
    sp_fiq: u32,
    r8_fiq: u32,
    tpidrurw: u32,
    cpacr: u32,
    cntkctl: u32,
    cntp_cval: u64,
}

impl Banks {
    /// Interrupts are off.
    fn read() -> Self {
        let (sp_irq, sp_fiq, r8_fiq, tpidrurw, cpacr, cntkctl, low, high): (u32, u32, u32, u32, u32, u32, u32, u32);
        // SAFETY: reads registers of other modes and of CP15, which Supervisor mode may.
        unsafe {
            asm!(
                ".arch_extension virt",
                "mrs {}, SP_irq",
                "mrs {}, SP_fiq",
                "mrs {}, r8_fiq",
                "mrc p15, 0, {}, c13, c0, 2",
                "mrc p15, 0, {}, c1, c0, 2",
                "mrc p15, 0, {}, c14, c1, 0",
                "mrrc p15, 2, {}, {}, c14",
                out(reg) sp_irq,
                out(reg) sp_fiq,
                out(reg) r8_fiq,
                out(reg) tpidrurw,
                out(reg) cpacr,
                out(reg) cntkctl,
                out(reg) low,
                out(reg) high,
                options(nostack, preserves_flags),
            );
        }
        Self { sp_irq, sp_fiq, r8_fiq, tpidrurw, cpacr, cntkctl, cntp_cval: u64::from(high) << 32 | u64::from(low) }
    }
}

/// r0 to r3, CNTP_CVAL, CPSR, LR_usr, r12 and LR after [`read_timer`].
type Registers = [u32; 10];

/// Reads CNTP_CVAL, with values of its own in the registers that a call of Hyp mode's may change, and stores what is there then.
///
/// # Safety
/// Supervisor mode with interrupts off.
#[unsafe(naked)]
unsafe extern "C" fn read_timer(to: *mut Registers) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "mrs r1, LR_usr",
        "push {{r0, r1}}",
        "mvn r0, #0x20",
        "msr LR_usr, r0",
        "mvn r0, #1",
        "mvn r1, #2",
        "mvn r2, #3",
        "mvn r3, #4",
        "mvn r12, #5",
        "mvn lr, #6",
        "msr cpsr_f, #0xa0000000",
        "mrrc p15, 2, r4, r5, c14", // traps, and is executed when it comes again
        "mrs r6, cpsr",
        "mrs r7, LR_usr",
        "pop {{r8, r9}}",
        "stm r8, {{r0-r7, r12, lr}}",
        "msr LR_usr, r9",
        "pop {{r4-r11, pc}}",
    )
}

/// The kernel traps, in the midst of a short exit, and looks whether all is as it was `before` the guest was entered.
fn trap(before: &Banks) {
    let mut found = Registers::default();
    // SAFETY: the kernel runs in Supervisor mode, and interrupts are off (`enter`).
    unsafe { read_timer(&mut found) };
    TRAPPED.fetch_add(1, Ordering::Relaxed);
    let [r0, r1, r2, r3, low, high, cpsr, lr_usr, r12, lr] = found;
    let kept = [r0, r1, r2, r3, cpsr & 0xf800_0000, lr_usr, r12, lr];
    if kept != [!1, !2, !3, !4, 0xa000_0000, !0x20, !5, !6] {
        crate::error!("short exit: after a trap r0 to r3, flags, LR_usr, r12 and LR are {kept:x?}");
    }
    let value = u64::from(high) << 32 | u64::from(low);
    if value != before.cntp_cval {
        crate::error!("short exit: CNTP_CVAL reads as {value:#x} instead of {:#x}", before.cntp_cval);
    }
    let after = Banks::read();
    if after != *before {
        crate::error!("short exit: after a trap the host has {after:x?} instead of {before:x?}");
    }
}

/// root wrote to the parameter `provoke_hyp_panic`: 0 disarms it.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_provoke(kind: u32) -> i32 {
    if kind != 0 && Provocation::from_raw(kind).is_none() {
        return Errno::EINVAL.get();
    }
    // Nobody changes the rest meanwhile but root itself, by the other parameter.
    ARMED.store(ARMED.load(Ordering::Relaxed) & TRAPS | kind, Ordering::Relaxed);
    0
}

/// root wrote to the parameter `short_exit_traps`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_set_short_exit_traps(on: u32) {
    if on != 0 {
        ARMED.fetch_or(TRAPS, Ordering::Relaxed);
    } else {
        ARMED.fetch_and(!TRAPS, Ordering::Relaxed);
    }
}

/// What root reads from the parameter `short_exit_traps`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_short_exit_traps() -> u32 {
    TRAPPED.load(Ordering::Relaxed)
}
