// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that Hyp mode itself took: what the module can print, and a host that lives on.
//!
//! Runs on the emergency stack with the registers of the moment stored there. They go into the CPU's panic record; whatever of the host's was not in the registers is put back; and the call from the host that led here ends with
//! [`hyp_abi::context::HYP_PANIC`]. What the guest had in registers is lost, and so is its vCPU.

use crate::per_cpu::PerCpu;
use crate::sysreg::{elr_hyp, hdfar, hifar, hsr};
use crate::{vectors, world_switch};
use core::arch::asm;

/// What [`crate::vectors`] pushes on the emergency stack.
#[repr(C)]
pub struct Frame {
    r: [u32; 13],
    lr: u32,
    sp: u32,
}

unsafe extern "C" {
    static hyp_abort_window: u8;
    static hyp_abort_window_end: u8;
}

/// Vector number of data aborts, as [`hyp_abi::image::PanicRecord::vector`] counts.
const DATA_ABORT: u32 = 4;

/// Records the exception and abandons the call; or, for the asynchronous abort that a guest left behind, notes it and returns.
pub extern "C" fn in_hyp(frame: &mut Frame, vector: u32) {
    let pc = elr_hyp();
    let window = &raw const hyp_abort_window as u32..&raw const hyp_abort_window_end as u32;
    if vector == DATA_ABORT && window.contains(&pc) {
        frame.r[0] = 1;
        return;
    }
    // SAFETY: this CPU's page, mapped for as long as Hyp mode is ours. The code that was interrupted never goes on, so a reference
    // that it may have held to the page is dead.
    let here = unsafe { &mut *PerCpu::here() };
    if here.panicking != 0 {
        park();
    }
    here.panicking = 1;
    let record = &mut here.panic;
    record.r = frame.r;
    record.sp = frame.sp;
    record.lr = frame.lr;
    record.pc = pc;
    record.cpsr = spsr();
    record.vector = vector;
    record.hsr = hsr::read();
    record.hdfar = hdfar::read();
    record.hifar = hifar::read();
    record.count = record.count.wrapping_add(1);
    world_switch::abandon(here);
    here.panicking = 0;
    // SAFETY: the host's registers are back; the frame of its call is where every call's frame is.
    unsafe { vectors::abandon_call(vectors::call_frame()) }
}

fn spsr() -> u32 {
    let value: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, SPSR", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// An exception while one was dealt with: nothing is left to trust. The other CPUs' watchdogs will say that this one is gone.
fn park() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
    }
}
