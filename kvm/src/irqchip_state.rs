// SPDX-License-Identifier: GPL-2.0-only
//! The interrupt controller's registers for a process that saves or restores a VM.
//!
//! That is possible only while no vCPU of the VM is in KVM_RUN: then nothing is in list registers, and what GICH keeps of each
//! vCPU's interface is *parked* in its [`Vcpu`]. KVM_RUN marks its vCPU before it takes the interface, and looks whether somebody
//! works with what stands still; whoever wants to do so announces it, under the interrupt controller's lock, before he looks at the
//! marks. So either he sees the mark (EBUSY), or KVM_RUN sees the announcement and waits for the lock, that is, until he is done.
//!
//! Which registers there are, and what they mean to a process: [`crate::vgic`].

use crate::atomic::{AtomicBool, Ordering, fence};
use crate::host::Host;
use crate::vcpu::Vcpu;
use crate::vgic::{CpuInterface, Parked, StateError, Vgic};
use crate::vm::{Hypervisor, IrqchipError, Vm};
use arch::gic::{MAX_CPUS, gicd};

/// Whether somebody works with the interrupt controller of vCPUs that stand still. Changed under the interrupt controller's lock.
#[derive(Default)]
pub struct Standstill(AtomicBool);

/// Which half of the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// GICD.
    Distributor,
    /// GICC.
    CpuInterface,
}

/// A word of the GIC, as a vCPU sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// In which half.
    pub half: Half,
    /// For which vCPU.
    pub vcpu: usize,
    /// Where.
    pub offset: u32,
}

/// All that is moved when a process asks: the distributor, and the interfaces of vCPUs that stand still.
struct AtRest<'a, S> {
    vgic: &'a mut Vgic<S>,
    parked: [Parked; MAX_CPUS],
}

impl<H: Host> Vm<H> {
    /// KVM_RUN begins: gives it the interface.
    #[inline(always)]
    pub fn begin_run(&self, vcpu: &Vcpu<H>, interface: &mut CpuInterface) {
        vcpu.set_running(true);
        fence(Ordering::SeqCst);
        if self.standstill.0.load(Ordering::SeqCst) {
            // Until he who may not have seen the mark is done. Those after him do see it.
            self.with_irqchip_lock(|_| {});
        }
        let parked = vcpu.parked();
        (interface.vmcr, interface.apr) = (parked.vmcr, parked.apr);
    }

    /// KVM_RUN ends: parks the interface.
    #[inline(always)]
    pub fn end_run(&self, vcpu: &Vcpu<H>, interface: &CpuInterface) {
        vcpu.park(Parked { vmcr: interface.vmcr, apr: interface.apr });
        vcpu.set_running(false);
    }

    /// Whether a process finds a register there. Interrupts that the VM does not have, or does not have yet, have none.
    pub fn has_irqchip_word(&self, word: Word) -> Result<bool, IrqchipError> {
        self.vcpu(word.vcpu).ok_or(IrqchipError::Invalid)?;
        Ok(match word.half {
            Half::Distributor => {
                let nr_irqs = self.nr_irqs().unwrap_or(arch::gic::PRIVATE_IRQS);
                crate::vgic::has_state_word(word.offset, nr_irqs)
            }
            Half::CpuInterface => Parked::has(word.offset),
        })
    }

    /// Reads a register; 0 where there is none. Makes the interrupt controller if that was not done. May sleep.
    pub fn read_irqchip(&self, hypervisor: &Hypervisor<H>, word: Word) -> Result<u32, IrqchipError> {
        self.at_rest(hypervisor, word.vcpu, |at_rest| match word.half {
            Half::Distributor => at_rest.vgic.read_state(word.vcpu, word.offset),
            Half::CpuInterface => at_rest.parked.get(word.vcpu).map_or(0, |parked| parked.read(word.offset)),
        })
    }

    /// Writes a register; nothing where there is none. Makes the interrupt controller if that was not done. May sleep.
    pub fn write_irqchip(&self, hypervisor: &Hypervisor<H>, word: Word, value: u32) -> Result<(), IrqchipError> {
        let written = self.at_rest(hypervisor, word.vcpu, |AtRest { vgic, parked }| {
            match word.half {
                Half::Distributor => vgic.write_state(word.vcpu, word.offset, value)?,
                Half::CpuInterface => {
                    if let (Some(own), Some(vcpu)) = (parked.get_mut(word.vcpu), self.vcpu(word.vcpu)) {
                        own.write(word.offset, value);
                        vcpu.park(*own);
                    }
                }
            }
            let decides_who_handles = word.half == Half::CpuInterface
                || (gicd::IGROUPR..gicd::ISENABLER).contains(&word.offset)
                || (gicd::ISACTIVER..gicd::ICFGR).contains(&word.offset);
            if decides_who_handles {
                vgic.rank_restored(parked);
            }
            Ok(())
        })?;
        written.map_err(|StateError| IrqchipError::Invalid)
    }

    /// Works with everything while it stands still. Busy: a vCPU is in KVM_RUN.
    fn at_rest<R>(
        &self,
        hypervisor: &Hypervisor<H>,
        vcpu: usize,
        work: impl FnOnce(&mut AtRest<'_, H::Array<crate::vgic::Interrupt>>) -> R,
    ) -> Result<R, IrqchipError> {
        self.vcpu(vcpu).ok_or(IrqchipError::Invalid)?;
        self.initialise_irqchip(hypervisor)?;
        let done = self.with_vgic(|vgic| {
            self.standstill.0.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let busy = self.vcpus().any(|(_, vcpu)| vcpu.is_running());
            let done = (!busy).then(|| {
                let parked =
                    core::array::from_fn(|number| self.vcpu(number).map_or_else(Parked::default, Vcpu::parked));
                work(&mut AtRest { vgic, parked })
            });
            self.standstill.0.store(false, Ordering::SeqCst);
            done
        });
        done.flatten().ok_or(IrqchipError::Busy)
    }
}

#[cfg(test)]
#[path = "irqchip_state_tests.rs"]
mod tests;
