// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU: what its own thread works with, and what others may touch.
//!
//! [`Vcpu`] is shared: other vCPUs, interrupt sources and the process's other threads reach it through the VM. It holds where the
//! thread sleeps, where it is just now (in the guest, asleep, or neither), and whether the vCPU is powered on. [`VcpuState`] is the thread's own:
//! registers, timers, the table cache. Whoever runs the vCPU, or reads and writes its registers, holds it exclusively.
//!
//! To change something that a running vCPU must notice, change it first and [`Vcpu::kick`] then. The thread marks itself as in
//! the guest, with interrupts off, before it looks for the last time; so either it sees the change, or the kick's interrupt
//! waits for it at the guest's first instruction. In the same way it marks itself as asleep before it looks for the last time
//! whether it has to sleep at all. In between it will look in any case, and a kick does nothing.

use crate::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use crate::cp15::Registers;
use crate::halt_poll::Window;
use crate::halt_rest::Rest;
use crate::host::{Host, Lock, OutOfMemory, Waiter, Wake, WakeTimer};
use crate::mmio::{DevicePage, Instruction};
use crate::psci::PowerOn;
use crate::stage2::TableCache;
use crate::statistics::VcpuStatistics;
use crate::vgic::{CpuInterface, Parked, Queue};
use arch::hyp_registers::Hcr;
use core::cell::Cell;
use uapi::run::Mmio;

/// Whether a vCPU is on, and how it is to start if it just was turned on.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Power {
    /// It does not run until somebody turns it on.
    pub off: bool,
    /// It is to be reset and started so before it runs.
    pub start: Option<PowerOn>,
}

/// [`Vcpu::whereabouts`]: its thread will yet look for what it is to notice.
const ELSEWHERE: u32 = 0;
/// It is in the guest.
const IN_GUEST: u32 = 1;
/// It sleeps, or is about to.
const ASLEEP: u32 = 2;

/// The part that is shared.
pub struct Vcpu<H: Host> {
    waiter: H::Waiter,
    whereabouts: AtomicU32,
    /// On, and started: what `power` says, without its lock. Written under it.
    runs: AtomicBool,
    power: H::Spin<Power>,
    /// KVM_RUN is under way: its thread has the vCPU's interrupt interface. See [`crate::irqchip_state`].
    running: AtomicBool,
    /// [`Parked::vmcr`] and [`Parked::apr`], while it is not.
    parked: [AtomicU32; 2],
    /// HCR.VI and VF: the inputs of a vCPU whose interrupt controller the process emulates.
    lines: AtomicU32,
    /// What it did. Counted up by whoever runs it.
    pub statistics: VcpuStatistics,
}

impl<H: Host> Vcpu<H> {
    /// One that is on and does not run. May sleep.
    pub fn new(host: &H) -> Result<Self, OutOfMemory> {
        Ok(Self {
            waiter: host.waiter()?,
            whereabouts: AtomicU32::new(ELSEWHERE),
            runs: AtomicBool::new(true),
            power: Lock::new(Power::default()),
            running: AtomicBool::new(false),
            parked: core::array::from_fn(|_| AtomicU32::new(0)),
            lines: AtomicU32::new(0),
            statistics: VcpuStatistics::default(),
        })
    }

    /// Where its thread sleeps.
    pub fn waiter(&self) -> &H::Waiter {
        &self.waiter
    }

    /// Whether it is on, and how it is to start.
    pub fn power(&self) -> Power {
        *self.power.lock()
    }

    /// Changes that. [`Self::kick`] follows where the vCPU may be running.
    pub fn change_power<R>(&self, change: impl FnOnce(&mut Power) -> R) -> R {
        let mut power = self.power.lock();
        let result = change(&mut power);
        self.runs.store(!power.off && power.start.is_none(), Ordering::SeqCst);
        result
    }

    /// Whether it is on and was started as asked. As for [`Self::power`], a running vCPU is kicked when it changes.
    pub fn runs(&self) -> bool {
        self.runs.load(Ordering::SeqCst)
    }

    /// Wakes it if it sleeps, and makes it leave the guest if it runs there. What it is to notice was changed before.
    pub fn kick(&self) {
        if !self.kick_out() {
            self.waiter.wake();
        }
    }

    /// Makes it leave the guest if it runs there. False: it sleeps, and is to be woken by [`Self::kick`] yet.
    pub fn kick_out(&self) -> bool {
        // Orders the change before the look at the mark; `mark` does the opposite on the other side (see above).
        fence(Ordering::SeqCst);
        let at = self.whereabouts.load(Ordering::Relaxed);
        if at == IN_GUEST {
            // Should it leave for a wait just now, it looks for what it may wait for after it has taken the mark back.
            self.waiter.kick();
        }
        at != ASLEEP
    }

    /// Sleeps until `ready` says true or a signal comes. `ready` is called on this thread, first when whoever changes something can see that
    /// it sleeps.
    pub fn sleep_until(&self, ready: impl Fn() -> bool) -> Wake {
        self.mark(ASLEEP);
        let wake = self.waiter.wait(ready);
        self.mark(ELSEWHERE);
        wake
    }

    /// Whether KVM_RUN is under way.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Says that KVM_RUN begins or ends. At its end what it did before is seen by whoever sees this.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    /// What is left of its CPU interface. Good while KVM_RUN is not under way.
    pub fn parked(&self) -> Parked {
        let [vmcr, apr] = &self.parked;
        Parked { vmcr: vmcr.load(Ordering::Relaxed), apr: apr.load(Ordering::Relaxed) }
    }

    /// Changes that.
    pub fn park(&self, interface: Parked) {
        let [vmcr, apr] = &self.parked;
        vmcr.store(interface.vmcr, Ordering::Relaxed);
        apr.store(interface.apr, Ordering::Relaxed);
    }

    /// HCR.VI and VF, as the process drives them.
    pub fn lines(&self) -> Hcr {
        Hcr::from_bits_retain(self.lines.load(Ordering::SeqCst))
    }

    /// Drives one of them, HCR.VI or VF. [`Self::kick`] follows where that changed something.
    pub fn set_line(&self, line: Hcr, level: bool) -> bool {
        let bits = line.intersection(Hcr::VI.union(Hcr::VF)).bits();
        let before = if level {
            self.lines.fetch_or(bits, Ordering::SeqCst)
        } else {
            self.lines.fetch_and(!bits, Ordering::SeqCst)
        };
        before & bits != if level { bits } else { 0 }
    }

    /// Lowers both.
    pub fn clear_lines(&self) {
        self.lines.store(0, Ordering::SeqCst);
    }

    /// Marks it as in the guest. Interrupts are off.
    pub fn set_in_guest(&self, inside: bool) {
        self.mark(if inside { IN_GUEST } else { ELSEWHERE });
    }

    /// Marks it as asleep, as a thread of its own would have done.
    #[cfg(test)]
    pub fn pretend_to_sleep(&self) {
        self.mark(ASLEEP);
    }

    #[inline(always)]
    fn mark(&self, whereabouts: u32) {
        self.whereabouts.store(whereabouts, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// The part that belongs to whoever runs it.
pub struct VcpuState<H: Host> {
    /// Registers, in a page that Hyp mode shares.
    pub context: H::ContextPage,
    /// Tables for stage 2, in store.
    pub cache: TableCache<H>,
    /// See [`Registers::orig_r0`].
    pub orig_r0: u32,
    /// The virtual CPU interface, as it was when the guest was last left.
    pub cpu_interface: CpuInterface,
    /// It was initialised with PSCI 0.2 or later.
    pub psci_0_2: bool,
    /// The instruction whose access the process is answering.
    pub pending: Option<Instruction>,
    /// Where its last access to a device of the process's went.
    pub device_page: Option<DevicePage>,
    /// KVM_ARM_VCPU_INIT was done.
    pub initialised: bool,
    /// Hyp mode failed while it ran, and what the guest had in registers is gone. Ends with the next KVM_ARM_VCPU_INIT.
    pub lost: bool,
    /// The level that the vGIC was last told for the virtual and the physical timer.
    pub timer_lines: [bool; 2],
    /// Whether the virtual timer's physical interrupt was last asked to be kept from firing, on the CPU where the vCPU is in its guest.
    pub(crate) timer_held: bool,
    /// The levels that a process that emulates the interrupt controller was last told.
    pub told_lines: [bool; 2],
    /// Wakes the thread, or brings the guest out, when a timer is due.
    pub alarm: Alarm<H>,
    /// For how long it looks for what ends a wait before it sleeps.
    pub halt_poll: Window,
    /// Whether its guest's WFI is left to the CPU.
    pub halt_rest: Rest,
    /// Interrupts that the guest has ended and that nobody was told of yet. Noted only where somebody is to be told.
    pub(crate) ended: Queue,
    /// The [`Vm::generation`](crate::vm::Vm::generation) as of which the context says what Hyp mode may answer and where the
    /// distributor is. `None`: it does not yet.
    pub answers_as_of: Option<u32>,
}

impl<H: Host> VcpuState<H> {
    /// One that was not initialised. Its thread sleeps at `waiter`. May sleep.
    pub fn new(host: &H, waiter: &H::Waiter) -> Result<Self, OutOfMemory> {
        Ok(Self {
            context: host.context_page()?,
            cache: TableCache::new(),
            orig_r0: 0,
            cpu_interface: CpuInterface::default(),
            psci_0_2: false,
            pending: None,
            device_page: None,
            initialised: false,
            lost: false,
            timer_lines: [false; 2],
            timer_held: false,
            told_lines: [false; 2],
            alarm: Alarm::new(host, waiter)?,
            halt_poll: Window::default(),
            halt_rest: Rest::default(),
            ended: Queue::EMPTY,
            answers_as_of: None,
        })
    }

    /// What the process is to be told of the access that waits for its answer.
    #[inline]
    pub fn asks(&self) -> Option<Mmio> {
        match self.pending.as_ref()? {
            Instruction::Plain(access) => Some(access.for_process()),
            Instruction::Transfer(transfer) => transfer.access().map(|access| access.for_process()),
        }
    }

    /// All its registers.
    pub fn registers(&mut self) -> Registers<'_> {
        Registers { context: &mut self.context, orig_r0: &mut self.orig_r0 }
    }
}

/// A timer and what it is set to.
///
/// The host's timers follow a clock that may be slewed against the counter, so that one can fire a little before its count is
/// reached. Who waits for the count looks at the counter, and sets the alarm anew if there is time left.
pub struct Alarm<H: Host> {
    timer: H::WakeTimer,
    is_set: Cell<bool>,
}

impl<H: Host> Alarm<H> {
    /// One for the vCPU whose thread sleeps at `waiter`. May sleep.
    pub fn new(host: &H, waiter: &H::Waiter) -> Result<Self, OutOfMemory> {
        Ok(Self { timer: host.wake_timer(waiter)?, is_set: Cell::new(false) })
    }

    /// Sets it to a count of the host, or off. Never sleeps.
    pub fn set(&self, count: Option<u64>) {
        match count {
            Some(count) => self.timer.arm(count),
            None if self.is_set.get() => self.timer.cancel(),
            None => {}
        }
        self.is_set.set(count.is_some());
    }
}

#[cfg(test)]
#[path = "vcpu_tests.rs"]
mod tests;
