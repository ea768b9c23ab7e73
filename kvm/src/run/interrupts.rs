// SPDX-License-Identifier: GPL-2.0-only
//! Timers, pending interrupts and list registers, on the way into a guest and out of it.
//!
//! Timers drive their lines of the interrupt controller; what is pending goes to list registers, and what became of it is read
//! back. A vCPU that no interrupt concerns asks the interrupt controller nothing ([`Vm::is_concerned`](crate::vm::Vm)).
//!
//! Where the process emulates the interrupt controller (KVM_CAP_ARM_USER_IRQ), it drives the vCPU's own two inputs, HCR.VI and VF, and
//! is told the timers' levels in `struct kvm_run`: each change ends KVM_RUN. A level that it was told does not interrupt the host
//! any more until it changes.

use super::Run;
use crate::host::Host;
use crate::trace::{self, Event, Kind};
use crate::vgic::{CpuInterface, Interrupt, Kicks, Queue, Vgic};
use crate::vtimer;
use arch::hyp_registers::Hcr;
use core::ops::DerefMut;

impl<H: Host> Run<'_, H> {
    /// Tells the interrupt controller the timers' levels where they changed. The counter is asked only if one of them runs.
    fn sample_timers(&mut self) {
        let context = &mut *self.state.context;
        let mut levels = [false; 2];
        if vtimer::is_on(&context.timer) || context.physical_timer.is_on() {
            let now = self.hypervisor.host.counter();
            levels = [vtimer::asserted(&context.timer, now), context.physical_timer.asserted(now)];
            vtimer::note_asserted(&mut context.timer, levels[0]);
        }
        self.drive_timer_lines(levels);
    }

    /// The same when the guest was just left: the hardware has told what the virtual timer's output was then.
    fn sample_timers_on_exit(&mut self) {
        let context = &*self.state.context;
        let physical = &context.physical_timer;
        let asserted = physical.is_on() && physical.asserted(self.hypervisor.host.counter());
        self.drive_timer_lines([vtimer::was_asserted(&context.timer), asserted]);
    }

    #[inline(always)]
    fn drive_timer_lines(&mut self, levels: [bool; 2]) {
        if self.state.timer_lines != levels {
            self.change_timer_lines(levels);
        }
    }

    #[inline(never)]
    fn change_timer_lines(&mut self, levels: [bool; 2]) {
        let ppis = self.vm.timer_ppis.get();
        for ((line, level), ppi) in self.state.timer_lines.iter_mut().zip(levels).zip(ppis) {
            if *line != level {
                *line = level;
                // The kicks can only be for this vCPU, which is here. Without an interrupt controller there is nobody to tell.
                let (vcpu, irq) = (self.number as u64, ppi.into());
                let host = &self.hypervisor.host;
                trace::note(host, Kind::TimerUpdateIrq, || Event::TimerUpdateIrq { vcpu, irq, level: level.into() });
                trace::note(host, Kind::UpdatePending, || Event::UpdatePending { vcpu, irq, level: level.into() });
                let _ = self.vm.with_vgic(|vgic| vgic.set_level(self.number, ppi, level));
            }
        }
    }

    /// Whether the guest that was just left had the virtual timer's interrupt in flight when it was entered, and ended it.
    pub(super) fn has_ended_timer_interrupt(&self) -> bool {
        let interface = &self.state.cpu_interface;
        // No other interrupt is tied to one of the hardware's.
        self.with_irqchip && interface.lr.iter().take(interface.used).any(|lr| lr.hardware().is_some() && !lr.valid())
    }

    /// Whether a process that emulates the interrupt controller has yet to be told a timer's level.
    pub(super) fn process_is_behind(&mut self) -> bool {
        if self.with_irqchip {
            return false;
        }
        self.sample_timers();
        self.state.timer_lines != self.state.told_lines
    }

    /// Hands over what the process is told when KVM_RUN returns: the levels of the timers, if it emulates the interrupt controller.
    pub(super) fn tell_process(&mut self) {
        if self.process_is_behind() {
            self.state.told_lines = self.state.timer_lines;
        }
    }

    /// Timers, pending interrupts and list registers, on the way in. Interrupts are off.
    pub(super) fn load_interrupts(&mut self) {
        // A process that emulates the interrupt controller knows the levels that were seen just before: what is due since then is to
        // interrupt the guest, so that it is told.
        if self.with_irqchip {
            self.sample_timers();
        }
        let host = &self.hypervisor.host;
        // The virtual timer interrupts by itself while the guest runs; for the physical one the host's clock stands in.
        let due = self.state.context.physical_timer.deadline(|| host.counter());
        self.state.alarm.set(due.filter(|_| !self.state.timer_lines[1]));
        let (number, interface) = (self.number, &mut self.state.cpu_interface);
        let in_flight = if !self.with_irqchip {
            let lines = Hcr::VI.union(Hcr::VF);
            let hcr = Hcr::from_bits_retain(self.state.context.control.hcr).difference(lines);
            self.state.context.control.hcr = hcr.union(self.vcpu.lines()).bits();
            None
        } else if self.vm.is_concerned(number) || self.state.timer_lines[0] {
            let timer = self.vm.timer_ppis.virtual_timer();
            self.vm.with_vgic(|vgic| fill_interface(vgic, number, timer, interface))
        } else {
            interface.load_nothing();
            Some(false)
        };
        self.load_interface(in_flight);
    }

    /// Gives the hardware what [`fill_interface`] chose. Interrupts are off.
    fn load_interface(&mut self, in_flight: Option<bool>) {
        let host = &self.hypervisor.host;
        // Where the guest cannot deactivate the physical interrupt, it is held for as long as the timer's output is asserted. Else it
        // would end each stay before the first instruction.
        let forwarded = in_flight.filter(|_| self.hypervisor.hardware.timer_interrupt.is_some());
        let hold = forwarded.unwrap_or(self.state.timer_lines[0]);
        host.hold_timer_interrupt(hold);
        self.state.timer_held = hold;
        if in_flight.is_some() {
            host.load_cpu_interface(&self.state.cpu_interface);
        }
    }

    /// The same between two short stays, while the timer's line is low, after the interface was stored with `before` list registers in use.
    /// Interrupts have been off all the time, so that the physical timer's interrupt is not held if it was not.
    pub(super) fn reload_interface(&mut self, in_flight: bool, before: usize) {
        let host = &self.hypervisor.host;
        let hold = in_flight && self.hypervisor.hardware.timer_interrupt.is_some();
        if hold || self.state.timer_held {
            host.hold_timer_interrupt(hold);
            self.state.timer_held = hold;
        }
        host.reload_cpu_interface(&self.state.cpu_interface, before);
    }

    /// The same on the way out. Interrupts are off.
    pub(super) fn store_interrupts(&mut self) -> Kicks {
        if !self.with_irqchip {
            return Kicks::NONE;
        }
        let (number, interface) = (self.number, &mut self.state.cpu_interface);
        let was_in_use = interface.is_in_use();
        self.hypervisor.host.store_cpu_interface(interface);
        let ended = &mut self.state.ended;
        let kicks =
            if was_in_use { self.vm.with_vgic(|vgic| empty_interface(vgic, number, interface, ended)) } else { None };
        self.sample_timers_on_exit();
        kicks.unwrap_or(Kicks::NONE)
    }
}

/// Takes in what became of the list registers, and notes what the guest has ended if somebody is to hear of it.
pub(super) fn empty_interface<S: DerefMut<Target = [Interrupt]>>(
    vgic: &mut Vgic<S>,
    number: usize,
    interface: &CpuInterface,
    ended: &mut Queue,
) -> Kicks {
    let exit = vgic.exit(number, interface);
    exit.ended().for_each(|intid| ended.insert(intid));
    exit.kicks
}

/// Chooses what goes to the list registers; whether the virtual timer's interrupt, PPI `timer`, is in flight.
pub(super) fn fill_interface<S: DerefMut<Target = [Interrupt]>>(
    vgic: &mut Vgic<S>,
    number: usize,
    timer: u32,
    interface: &mut CpuInterface,
) -> bool {
    let in_flight = vgic.hw_active(number, timer);
    vgic.enter(number, interface);
    in_flight
}
