// SPDX-License-Identifier: GPL-2.0-only
//! Loading and unloading: each step in order, and undone in the opposite order.

use crate::errno::{Errno, Result};
use crate::gic::Gic;
use crate::resident::Resident;
use crate::{ffi, hyp_mode, kernel, lock, system};

/// What the host offers, known from load to unload.
pub struct HostHardware {
    /// The virtual timer's number in the physical interrupt controller.
    pub timer_hwirq: u32,
    /// Whether the physical GIC leaves deactivation of the timer's interrupt to the guest.
    pub timer_forwarded: bool,
}

impl HostHardware {
    /// Keeps the virtual timer's physical interrupt from firing on this CPU. Interrupts are off.
    pub fn hold_timer_interrupt(&self, hold: bool) {
        if self.timer_forwarded {
            ffi::ws_timer_active(hold.into());
        } else {
            ffi::ws_timer_masked(hold.into());
        }
    }
}

static HARDWARE: Resident<HostHardware> = Resident::new();

/// The GICv2's virtual interface. Without one, processes emulate their VMs' interrupt controllers.
static GIC: Resident<Gic> = Resident::new();

/// The GICv2's virtual interface, if guests can have it. Else ENODEV.
#[inline(always)]
pub fn gic() -> Result<&'static Gic> {
    GIC.get()
}

/// The hardware. Exists before /dev/kvm does, and outlives it.
pub fn hardware() -> Result<&'static HostHardware> {
    HARDWARE.get()
}

/// Steps of loading that need undoing, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    HypPrepared,
    InterruptsRequested,
    CpusTaken,
    DeviceThere,
}

fn undo_from(step: Step) {
    if step >= Step::DeviceThere {
        // SAFETY: registered, and the figures are shown; no VM is left.
        unsafe {
            ffi::ws_device_unregister();
            ffi::ws_debugfs_stop();
        }
    }
    if step >= Step::CpusTaken {
        // SAFETY: registered. Gives Hyp mode back on every CPU.
        unsafe { ffi::ws_cpu_events_unregister() };
    }
    if step >= Step::InterruptsRequested {
        // SAFETY: registered, and off on every CPU since the step above.
        unsafe { ffi::ws_interrupts_unregister() };
    }
    system::stop();
    HARDWARE.clear();
    GIC.clear();
    hyp_mode::dispose();
}

fn load() -> Result<()> {
    lock::check_layout()?;
    kernel::with_interrupts_off(hyp_mode::check_host)?;
    let gic = Gic::find()?;
    hyp_mode::prepare()?;
    continue_load(gic).map_err(|(step, error)| {
        undo_from(step);
        error
    })
}

fn continue_load(gic: Option<Gic>) -> core::result::Result<(), (Step, Errno)> {
    let failed = |step| move |error| (step, error);

    let (mut timer_hwirq, mut forwarded, mut rate) = (0, 0, 0);
    // SAFETY: three places to write to.
    let registered = unsafe {
        let (with_gic, splits) = (gic.is_some(), gic.as_ref().is_some_and(|gic| gic.splits_end_of_interrupt));
        ffi::ws_interrupts_register(with_gic.into(), splits.into(), &mut timer_hwirq, &mut forwarded, &mut rate)
    };
    if let Err(error) = Errno::check(registered) {
        crate::error!(
            "the virtual timer's or the GIC's maintenance interrupt, or the counter's rate, cannot be had ({})",
            error.get()
        );
        return Err((Step::HypPrepared, error));
    }
    kernel::set_counter_rate(rate);
    let timer_forwarded = forwarded != 0;
    let found = HostHardware { timer_hwirq, timer_forwarded };
    let started = system::start(system::hardware(&found, gic.as_ref()))
        .and_then(|()| gic.map_or(Ok(()), |gic| GIC.put(gic)))
        .and_then(|()| HARDWARE.put(found));
    started.map_err(failed(Step::InterruptsRequested))?;

    // SAFETY: calls `ws_rust_cpu_take` on every CPU; on failure it has given back those that it took.
    Errno::check(unsafe { ffi::ws_cpu_events_register() }).map_err(failed(Step::InterruptsRequested))?;
    // SAFETY: all that /dev/kvm's operations need is there.
    if let Err(error) = Errno::check(unsafe { ffi::ws_device_register() }) {
        crate::error!("/dev/kvm cannot be registered ({}): does another driver own it?", error.get());
        return Err((Step::CpusTaken, error));
    }
    // SAFETY: once. Nothing fails any more.
    unsafe { ffi::ws_debugfs_start() };
    if let Ok(hardware) = hardware() {
        crate::info!("{}", HardwareLine(hardware));
    }
    Ok(())
}

/// The line that says what was found.
struct HardwareLine(&'static HostHardware);

impl core::fmt::Display for HardwareLine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let forwarding = if self.0.timer_forwarded { "forwarded" } else { "masked in flight" };
        write!(
            f,
            "version {}, /dev/kvm is there: Hyp mode taken on {} CPUs, ",
            env!("CARGO_PKG_VERSION"),
            ffi::ws_online_cpus()
        )?;
        match gic() {
            Ok(gic) => write!(f, "GICv2 with {} list registers", gic.list_registers())?,
            Err(_) => f.write_str("no GICv2 for guests, whose processes emulate their interrupt controllers")?,
        }
        write!(f, ", timer interrupt {} {forwarding}", self.0.timer_hwirq)
    }
}

/// insmod.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_init() -> i32 {
    match load() {
        Ok(()) => 0,
        Err(error) => error.get(),
    }
}

/// rmmod. The kernel calls it only when no descriptor is left.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_exit() {
    undo_from(Step::DeviceThere);
}
