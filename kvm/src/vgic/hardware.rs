// SPDX-License-Identifier: GPL-2.0-only
//! A model of the hardware's virtual CPU interface, for tests: what a guest does at GICV with the list registers that it was
//! given, and when the maintenance interrupt is raised (ARM IHI 0048B, chapter 5).

use super::CpuInterface;
use super::list_registers::LIST_REGISTERS;
use arch::gic::{ListRegister, SGIS, gich};

/// The virtual interface of a CPU, with a guest on it.
#[derive(Clone, Debug, Default)]
pub struct VirtualInterface {
    pub hcr: u32,
    pub vmcr: u32,
    pub apr: u32,
    pub lr: [ListRegister; LIST_REGISTERS],
    used: usize,
    /// The physical interrupt tied to a list register is active in the physical distributor.
    pub physical_active: bool,
}

impl VirtualInterface {
    /// What the world switch writes before the guest is entered. The number of registers in hardware is checked.
    pub fn load(&mut self, cpu: &CpuInterface, list_registers: usize) {
        assert!(cpu.used <= list_registers, "{} list registers used of {list_registers}", cpu.used);
        assert!(cpu.lr[cpu.used..].iter().all(|lr| *lr == ListRegister::EMPTY));
        for (index, lr) in cpu.lr[..cpu.used].iter().enumerate() {
            assert!(lr.valid(), "an empty list register is in use: {lr:?}");
            let twice = cpu.lr[..index].iter().any(|other| other.intid() == lr.intid());
            assert!(!twice, "interrupt {} is loaded twice", lr.intid());
            if lr.hardware().is_some() {
                assert!(!(lr.pending() && lr.active()), "pending and active is not allowed with HW (5.3.8)");
                assert!(self.physical_active, "tied to a physical interrupt that is not active");
            }
        }
        (self.hcr, self.vmcr, self.apr, self.lr, self.used) = (cpu.hcr, cpu.vmcr, cpu.apr, cpu.lr, cpu.used);
        assert!(!self.maintenance(), "would leave the guest at once, for ever: {self:?}");
    }

    /// What the world switch reads after the guest was left. Only what [`CpuInterface`] says is to be read is.
    pub fn store(&self, cpu: &mut CpuInterface) {
        cpu.vmcr = self.vmcr;
        if cpu.used != 0 || cpu.apr != 0 || cpu.hcr != gich::HCR_EN {
            (cpu.hcr, cpu.apr) = (self.hcr, self.apr);
            cpu.lr[..self.used].copy_from_slice(&self.lr[..self.used]);
        }
    }

    fn eligible(&self, lr: &ListRegister) -> bool {
        let group = if lr.group1() { gich::VMCR_GRP1_EN } else { gich::VMCR_GRP0_EN };
        let priority = u32::from(lr.priority() >> 3);
        let running = self.apr.trailing_zeros();
        lr.pending()
            && !lr.active()
            && self.vmcr & group != 0
            && priority < self.vmcr >> gich::VMCR_PMR_SHIFT
            && priority < running
    }

    /// The guest reads GICV_IAR. Interrupt and source, or `None` for the spurious one.
    pub fn acknowledge(&mut self) -> Option<(u32, u32)> {
        let best = (0..self.used).filter(|&index| self.eligible(&self.lr[index]));
        let index = best.min_by_key(|&index| self.lr[index].priority())?;
        let lr = self.lr[index];
        self.lr[index] = lr.with_pending(false).with_active(true);
        self.apr |= 1 << (lr.priority() >> 3);
        Some((lr.intid(), if (lr.intid() as usize) < SGIS { lr.source() } else { 0 }))
    }

    /// The guest writes GICV_EOIR, with EOImode clear.
    pub fn end(&mut self, intid: u32, source: u32) {
        let dropped = self.apr != 0;
        self.apr &= self.apr.wrapping_sub(1);
        let found = self.lr[..self.used]
            .iter_mut()
            .find(|lr| lr.active() && lr.intid() == intid && (intid as usize >= SGIS || lr.source() == source));
        match found {
            Some(lr) => {
                *lr = lr.with_active(false);
                if lr.hardware().is_some() {
                    self.physical_active = false;
                }
            }
            None if dropped && gich::eoi_count(self.hcr) < 31 => self.hcr += 1 << gich::HCR_EOICOUNT_SHIFT,
            None => {}
        }
    }

    /// Whether the maintenance interrupt is raised (GICH_MISR is not zero).
    pub fn maintenance(&self) -> bool {
        let lr = &self.lr[..self.used];
        let enabled = |bit| self.vmcr & bit != 0;
        let raised = [
            (gich::HCR_UIE, lr.iter().filter(|lr| lr.valid()).count() < 2),
            (gich::HCR_LRENPIE, gich::eoi_count(self.hcr) != 0),
            // Pending and active does not count as pending here and does there; the code under test must stand either.
            (gich::HCR_NPIE, !lr.iter().any(|lr| lr.pending())),
            (gich::HCR_VGRP0EIE, enabled(gich::VMCR_GRP0_EN)),
            (gich::HCR_VGRP0DIE, !enabled(gich::VMCR_GRP0_EN)),
            (gich::HCR_VGRP1EIE, enabled(gich::VMCR_GRP1_EN)),
            (gich::HCR_VGRP1DIE, !enabled(gich::VMCR_GRP1_EN)),
        ];
        let ended = lr.iter().any(|lr| !lr.valid() && lr.eoi_notice());
        ended || raised.iter().any(|&(bit, condition)| self.hcr & bit != 0 && condition)
    }
}
