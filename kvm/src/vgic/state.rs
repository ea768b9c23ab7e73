// SPDX-License-Identifier: GPL-2.0-only
//! The interrupt controller's state as a process reads and writes it, register by register, to move a guest elsewhere.
//!
//! All vCPUs stand still meanwhile, so nothing is in list registers, and what was there at their last exits is part of what is
//! read. The registers are those that a guest has, with these differences, which are KVM's:
//!
//! - GICD_ISPENDR and GICD_ICPENDR reach SGIs as well: set, one is taken to come from its own CPU; cleared, all its senders are
//!   forgotten. GICD_SPENDSGIR, written afterwards, says who it really was.
//! - GICD_IIDR can be written with what it holds. Only then can GICD_IGROUPR be: a process that does not write the one saved its
//!   guest where groups read wrongly.
//! - A level-sensitive interrupt whose line is high reads as pending, and is so for good once written back, until it is
//!   acknowledged. The process raises the lines of its devices anew.
//! - The CPU interface is the hardware's, so only what GICH keeps of it is state. Its priority mask is shown as GICH_VMCR has it,
//!   in five bits.
//!
//! What no register shows is guessed. Of an active interrupt: who has acknowledged it, and at which priority, by which vCPU has
//! that priority in its GICC_APR ([`Vgic::rank_restored`]). Of an active SGI, who sent it: it stays out of list registers
//! ([`super::list_registers`]), so that its end need not name the sender.
//!
//! Source: Documentation/virt/kvm/devices/arm-vgic.rst of Linux 5.6; ARM IHI 0048B, 4.3, 4.4, 5.3.

use super::{Interrupt, Vgic};
use crate::vgic::interrupt::Flags;
use arch::gic::{MAX_CPUS, PRIVATE_IRQS, SGIS, gicc, gicd, gich};
use core::ops::DerefMut;

/// The value cannot be this register's (EINVAL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateError;

/// What GICC_CTLR and GICH_VMCR have in common, at the same places.
const CONTROL: u32 = gich::VMCR_GRP0_EN
    | gich::VMCR_GRP1_EN
    | gich::VMCR_ACK_CTL
    | gich::VMCR_FIQ_EN
    | gich::VMCR_CBPR
    | gich::VMCR_EOIMODE;

/// GICC_IIDR as KVM has it: Arm's implementer code, GICv2, product 'K'.
const CPU_IIDR: u32 = 0x04b2_043b;

/// The words of GICC_APR that the architecture has room for. The first has all of the 32 priority levels.
const ACTIVE_PRIORITIES: core::ops::Range<u32> = gicc::APR0..gicc::NSAPR0;

/// What is left of a vCPU's CPU interface while it does not run.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Parked {
    /// GICH_VMCR.
    pub vmcr: u32,
    /// GICH_APR.
    pub apr: u32,
}

impl Parked {
    /// Whether a process finds a register at `offset`.
    pub fn has(offset: u32) -> bool {
        let fixed = [gicc::CTLR, gicc::PMR, gicc::BPR, gicc::ABPR, gicc::IIDR].contains(&offset);
        fixed || (ACTIVE_PRIORITIES.contains(&offset) && offset.is_multiple_of(4))
    }

    /// Reads a register; 0 where there is none.
    pub fn read(&self, offset: u32) -> u32 {
        let vmcr = self.vmcr;
        match offset {
            gicc::CTLR => vmcr & CONTROL,
            gicc::PMR => vmcr >> gich::VMCR_PMR_SHIFT,
            gicc::BPR => vmcr >> gich::VMCR_BP_SHIFT & 7,
            gicc::ABPR => vmcr >> gich::VMCR_ABP_SHIFT & 7,
            gicc::IIDR => CPU_IIDR,
            gicc::APR0 => self.apr,
            _ => 0,
        }
    }

    /// Writes a register; nothing where there is none.
    pub fn write(&mut self, offset: u32, value: u32) {
        let mut field = |mask: u32, shift: u32| self.vmcr = self.vmcr & !(mask << shift) | (value & mask) << shift;
        match offset {
            gicc::CTLR => field(CONTROL, 0),
            gicc::PMR => field(0x1f, gich::VMCR_PMR_SHIFT),
            gicc::BPR => field(7, gich::VMCR_BP_SHIFT),
            gicc::ABPR => field(7, gich::VMCR_ABP_SHIFT),
            gicc::APR0 => self.apr = value,
            _ => {}
        }
    }

    /// Whether an interrupt of this priority can be one of those that are being handled. Which of the five bits count for preemption is
    /// the binary point's choice.
    fn handles(&self, interrupt: &Interrupt) -> bool {
        let shift = if interrupt.is(Flags::GROUP1) && self.vmcr & gich::VMCR_CBPR == 0 {
            (self.vmcr >> gich::VMCR_ABP_SHIFT & 7).saturating_sub(3)
        } else {
            (self.vmcr >> gich::VMCR_BP_SHIFT & 7).saturating_sub(2)
        };
        let level = u32::from(interrupt.priority >> 3) >> shift << shift;
        self.apr >> level & 1 != 0
    }
}

impl<S: DerefMut<Target = [Interrupt]>> Vgic<S> {
    /// Reads a word of the distributor as vCPU `vcpu` sees it; 0 where no register is.
    pub fn read_state(&self, vcpu: usize, offset: u32) -> u32 {
        self.dist_read(vcpu, offset, 4)
    }

    /// Writes a word of the distributor as vCPU `vcpu` sees it; nothing where no register is.
    pub fn write_state(&mut self, vcpu: usize, offset: u32, value: u32) -> Result<(), StateError> {
        match offset {
            gicd::IIDR if value != self.dist_read(vcpu, gicd::IIDR, 4) => return Err(StateError),
            gicd::IIDR => self.groups_writable = true,
            gicd::IGROUPR..gicd::ISENABLER if !self.groups_writable => {}
            gicd::ISPENDR | gicd::ICPENDR => {
                for intid in super::queue::bits(value & (u32::MAX >> (32 - SGIS))) {
                    let _ = if offset == gicd::ISPENDR {
                        self.set_sources(vcpu, intid, 1 << (vcpu & 7))
                    } else {
                        self.clear_sources(vcpu, intid, u8::MAX)
                    };
                }
                let _ = self.dist_write_word(vcpu, offset, value);
            }
            gicd::ISACTIVER..gicd::ICACTIVER if offset.is_multiple_of(4) => {
                let first = (offset - gicd::ISACTIVER) * 8;
                for bit in super::queue::bits(value) {
                    let was_active = self.interrupt(vcpu, first + bit).is_some_and(Interrupt::reads_active);
                    let _ = self.dist_write_word(vcpu, offset, 1 << bit);
                    if let Some(interrupt) = self.interrupt_mut(vcpu, first + bit)
                        && !was_active
                    {
                        interrupt.flags |= Flags::RESTORED;
                    }
                }
            }
            _ => drop(self.dist_write_word(vcpu, offset, value)),
        }
        Ok(())
    }

    /// Finds a handler for each interrupt that the process made active: a vCPU that handles something of its priority, the one that it
    /// would go to first of all. If there is none, it is one that software made active, and no handler's end is its. To be called
    /// after each change of what this looks at: `parked` has each vCPU's interface.
    pub fn rank_restored(&mut self, parked: &[Parked; MAX_CPUS]) {
        let private = (0..self.nr_vcpus).flat_map(|vcpu| (0..PRIVATE_IRQS).map(move |intid| (vcpu, intid)));
        let shared = (PRIVATE_IRQS..self.nr_irqs).map(|intid| (0, intid));
        for (vcpu, intid) in private.chain(shared) {
            self.rank(vcpu, intid as u32, parked);
        }
    }

    fn rank(&mut self, vcpu: usize, intid: u32, parked: &[Parked; MAX_CPUS]) {
        let Some(interrupt) = self.interrupt(vcpu, intid) else { return };
        if !interrupt.is(Flags::ACTIVE.union(Flags::RESTORED)) {
            return;
        }
        let home = if (intid as usize) < PRIVATE_IRQS { vcpu } else { self.target(interrupt).unwrap_or(vcpu) };
        let others = 0..if (intid as usize) < PRIVATE_IRQS { 0 } else { self.nr_vcpus };
        let handles = |vcpu: &usize| parked.get(*vcpu).is_some_and(|parked| parked.handles(interrupt));
        let handler = core::iter::once(home).chain(others).find(handles);
        let priority = handler.map_or(u8::MAX, |_| interrupt.priority);
        if let Some(interrupt) = self.interrupt_mut(vcpu, intid) {
            interrupt.active_on = handler.unwrap_or(home) as u8;
            interrupt.active_priority = priority;
        }
        let _ = self.settle(vcpu, intid);
    }
}
