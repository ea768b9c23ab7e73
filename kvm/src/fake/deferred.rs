// SPDX-License-Identifier: GPL-2.0-only
//! Short exits, as Hyp mode makes them: a part of the guest's state stays in the hardware.
//!
//! What stays is taken out of the context and replaced by a pattern, so that who looks at it too early, or relies on what it
//! wrote there, fails the test.

use arch::psr::{Mode, Psr};
use arch::syndrome::{exception_class, is_device_access};
use hyp_abi::context::{Bank, Banks, Cp15, ExitCode, Timer, VcpuContext};
#[cfg(loom)]
use loom::thread_local;
use std::cell::RefCell;
#[cfg(not(loom))]
use std::thread_local;

thread_local! {
    static IN_HARDWARE: RefCell<Option<Deferred>> = RefCell::default();
}

/// What is in the hardware, of the guest whose context has this address.
struct Deferred {
    context: usize,
    banks: Banks,
    cp15: Cp15,
    timer: Timer,
}

const PATTERN: u32 = 0xdefe_44ed;

/// Copies the deferred part.
fn copy(banks: &mut Banks, cp15: &mut Cp15, timer: &mut Timer, from: (&Banks, &Cp15, &Timer)) {
    let (from_banks, from_cp15, from_timer) = from;
    (banks.sp_usr, banks.irq, banks.fiq, banks.fiq_r) =
        (from_banks.sp_usr, from_banks.irq, from_banks.fiq, from_banks.fiq_r);
    (cp15.csselr, cp15.par, cp15.cpacr, cp15.tpidrurw, cp15.cntkctl) =
        (from_cp15.csselr, from_cp15.par, from_cp15.cpacr, from_cp15.tpidrurw, from_cp15.cntkctl);
    *timer = *from_timer;
}

/// Whether the exit is one that Hyp mode makes short.
fn is_short(context: &VcpuContext) -> bool {
    let hsr = context.exit.hsr;
    Mode::from_psr(context.cpsr) == Some(Mode::Svc)
        && context.exit.async_abort == 0
        && (matches!(exception_class(hsr), 0x12 | 0x03 | 0x04)
            || is_device_access(hsr)
                && context.exit.hpfar == context.control.distributor
                && context.cpsr & (Psr::T | Psr::E).bits() == 0)
}

/// Makes the exit short if Hyp mode would.
pub fn hold(context: &mut VcpuContext, code: ExitCode) -> ExitCode {
    if code != ExitCode::Trap || !is_short(context) {
        return code;
    }
    let held = Deferred {
        context: core::ptr::from_ref(context) as usize,
        banks: context.banks,
        cp15: context.cp15,
        timer: context.timer,
    };
    let bank = Bank { sp: PATTERN, lr: PATTERN, spsr: PATTERN };
    let banks = Banks { sp_usr: PATTERN, irq: bank, fiq: bank, fiq_r: [PATTERN; 5], ..Banks::default() };
    let cp15 = Cp15 {
        csselr: PATTERN,
        par: PATTERN.into(),
        cpacr: PATTERN,
        tpidrurw: PATTERN,
        cntkctl: PATTERN,
        ..Cp15::default()
    };
    let timer = Timer { cntvoff: PATTERN.into(), cval: PATTERN.into(), ctl: PATTERN, reserved: 0 };
    let VcpuContext { banks: to_banks, cp15: to_cp15, timer: to_timer, .. } = context;
    copy(to_banks, to_cp15, to_timer, (&banks, &cp15, &timer));
    IN_HARDWARE.with(|hardware| hardware.replace(Some(held)));
    ExitCode::ShortTrap
}

/// Gives the guest back what is in the hardware, if it is this one's.
pub fn give_back(context: &mut VcpuContext) {
    if let Some(held) = IN_HARDWARE.with(RefCell::take) {
        assert_eq!(held.context, core::ptr::from_ref(context) as usize, "the hardware holds another guest's state");
        let VcpuContext { banks, cp15, timer, .. } = context;
        copy(banks, cp15, timer, (&held.banks, &held.cp15, &held.timer));
    }
}

/// Whether something of a guest's is in the hardware.
pub fn any() -> bool {
    IN_HARDWARE.with(|hardware| hardware.borrow().is_some())
}
