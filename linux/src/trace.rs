// SPDX-License-Identifier: GPL-2.0-only
//! Tracepoints: which are watched, and the way to the shim, which makes them (`shim/trace.h`).

use crate::errno::{Errno, Result};
use crate::ffi;
use crate::kernel::Kernel;
use core::sync::atomic::{AtomicU32, Ordering};
use kvm::trace::{Event, Kind, Watched, note};
use uapi::irq::IrqLine;

/// Bit n: the event numbered n is watched. The kernel's lock of tracepoints covers it.
static WATCHED: AtomicU32 = AtomicU32::new(0);

/// Which events are watched.
#[inline(always)]
pub fn watched() -> Watched {
    Watched::from_bits(WATCHED.load(Ordering::Relaxed))
}

/// Tells of an event.
#[cold]
#[inline(never)]
pub fn tell(event: Event) {
    // SAFETY: as many fields as any event has.
    unsafe { ffi::ws_trace(event.kind() as u32, event.fields().as_ptr()) };
}

/// KVM_IRQ_LINE was called.
pub fn irq_line(line: IrqLine, level: bool) {
    note(&Kernel, Kind::IrqLine, || {
        let (kind, vcpu, number) = match line {
            IrqLine::Cpu { vcpu, number } => (0, vcpu, number),
            IrqLine::Spi { number } => (1, 0, number),
            IrqLine::Ppi { vcpu, number } => (2, vcpu, number),
        };
        Event::IrqLine { kind, vcpu: vcpu.into(), number: number.into(), level: level.into() }
    });
}

/// KVM_RUN returns; one that begins again as if a signal had ended it, which it is to whoever sees it end so.
pub fn userspace_exit(reason: u32, result: &Result<i32>) {
    note(&Kernel, Kind::UserspaceExit, || {
        let error =
            result.as_ref().err().map(|error| if *error == Errno::ERESTARTNOHAND { Errno::EINTR } else { *error });
        let errno = error.map_or(0, |error| error.get() as u64);
        Event::UserspaceExit { reason: reason.into(), errno }
    });
}

/// An event's first watcher comes, or its last has gone.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_watch(event: u32, on: u32) {
    let bit = 1u32.checked_shl(event).unwrap_or(0);
    if on != 0 {
        WATCHED.fetch_or(bit, Ordering::Relaxed);
    } else {
        WATCHED.fetch_and(!bit, Ordering::Relaxed);
    }
}
