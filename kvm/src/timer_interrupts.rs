// SPDX-License-Identifier: GPL-2.0-only
//! Which PPIs a VM's timers drive.
//!
//! A process may choose them, for all vCPUs at once, until a vCPU runs with the interrupt controller; then they stay, and the virtual
//! timer's is tied to the physical interrupt, if the host's can be forwarded.
//!
//! Source: Documentation/virt/kvm/devices/vcpu.rst of Linux 5.6, section 2.

use crate::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::host::Host;
use crate::vm::{Hypervisor, IrqchipError, Vm};
use arch::gic::{PRIVATE_IRQS, SGIS};
use uapi::device::{DEFAULT_PTIMER_IRQ, DEFAULT_VTIMER_IRQ};

/// One of a vCPU's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// CNTV.
    Virtual,
    /// CNTP.
    Physical,
}

/// The PPIs. Looked at without a lock; changed under the interrupt controller's.
pub struct TimerPpis {
    virtual_timer: AtomicU32,
    physical_timer: AtomicU32,
    /// They stay as they are.
    fixed: AtomicBool,
}

impl Default for TimerPpis {
    fn default() -> Self {
        Self {
            virtual_timer: AtomicU32::new(DEFAULT_VTIMER_IRQ),
            physical_timer: AtomicU32::new(DEFAULT_PTIMER_IRQ),
            fixed: AtomicBool::new(false),
        }
    }
}

impl TimerPpis {
    /// The virtual timer's.
    pub fn virtual_timer(&self) -> u32 {
        self.virtual_timer.load(Ordering::Relaxed)
    }

    /// The virtual timer's and the physical timer's.
    pub fn get(&self) -> [u32; 2] {
        [self.virtual_timer(), self.physical_timer.load(Ordering::Relaxed)]
    }

    fn of(&self, timer: Timer) -> &AtomicU32 {
        match timer {
            Timer::Virtual => &self.virtual_timer,
            Timer::Physical => &self.physical_timer,
        }
    }
}

impl<H: Host> Vm<H> {
    /// The PPI of one of the timers.
    pub fn timer_ppi(&self, timer: Timer) -> u32 {
        self.timer_ppis.of(timer).load(Ordering::Relaxed)
    }

    /// Chooses it. Not for a VM without an interrupt controller, nor once vCPUs run. That the two differ is looked at then.
    pub fn set_timer_ppi(&self, timer: Timer, intid: u32) -> Result<(), IrqchipError> {
        let is_ppi = (SGIS as u32..PRIVATE_IRQS as u32).contains(&intid);
        self.with_irqchip_lock(|has_irqchip| {
            if !has_irqchip || !is_ppi {
                return Err(IrqchipError::Invalid);
            }
            if self.timer_ppis.fixed.load(Ordering::Relaxed) {
                return Err(IrqchipError::Busy);
            }
            self.timer_ppis.of(timer).store(intid, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Ties the virtual timers' PPIs to the host's interrupt, before the first vCPU runs.
    pub(crate) fn tie_timers(&self, hypervisor: &Hypervisor<H>) -> Result<(), IrqchipError> {
        self.with_vgic(|vgic| {
            let [virtual_timer, physical_timer] = self.timer_ppis.get();
            if virtual_timer == physical_timer {
                return Err(IrqchipError::Invalid);
            }
            self.timer_ppis.fixed.store(true, Ordering::Relaxed);
            if let Some(physical) = hypervisor.hardware.timer_interrupt {
                for (vcpu, _) in self.vcpus() {
                    vgic.map_hw(vcpu, virtual_timer, physical).map_err(|_| IrqchipError::Invalid)?;
                }
            }
            Ok(())
        })
        .unwrap_or(Err(IrqchipError::Missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Return;
    use crate::run::machine::{Machine, at};
    use hyp_abi::context::ExitCode;

    #[test]
    fn they_are_chosen_before_the_first_run_and_for_all_vcpus() {
        let mut machine = Machine::new(2);
        let vm = machine.vm.clone();
        for wrong in [0, 15, 32, 1019, u32::MAX] {
            assert_eq!(vm.set_timer_ppi(Timer::Virtual, wrong), Err(IrqchipError::Invalid), "{wrong}");
        }
        vm.set_timer_ppi(Timer::Virtual, 16).unwrap();
        vm.set_timer_ppi(Timer::Physical, 31).unwrap();
        assert_eq!(vm.timer_ppis.get(), [16, 31]);
        machine.enable_interrupts();
        machine.script([]);
        assert_eq!(machine.run(0), Return::Interrupted);
        for timer in [Timer::Virtual, Timer::Physical] {
            assert_eq!(vm.set_timer_ppi(timer, 20), Err(IrqchipError::Busy));
        }
        let tied = |vcpu, intid| {
            vm.with_vgic(|vgic| {
                let _ = vgic.set_level(vcpu, intid, true);
                vgic.hw_active(vcpu, intid)
            })
        };
        assert_eq!([16, 27, 31].map(|intid| tied(1, intid)), [Some(true), Some(false), Some(false)]);
    }

    #[test]
    fn two_timers_on_one_ppi_do_not_run() {
        let mut machine = Machine::new(1);
        machine.vm.set_timer_ppi(Timer::Physical, DEFAULT_VTIMER_IRQ).unwrap();
        assert_eq!(machine.run(0), Return::Irqchip(IrqchipError::Invalid));
        // It can still be mended.
        machine.vm.set_timer_ppi(Timer::Virtual, 20).unwrap();
        machine.script([at(0, |_| ExitCode::Interrupt)]);
        assert_eq!(machine.run(0), Return::Interrupted);
    }

    #[test]
    fn without_an_interrupt_controller_there_is_nothing_to_choose() {
        assert_eq!(Machine::bare(1).vm.set_timer_ppi(Timer::Virtual, 20), Err(IrqchipError::Invalid));
    }
}
