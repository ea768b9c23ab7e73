// SPDX-License-Identifier: GPL-2.0-only
//! The Generic Interrupt Controller, version 2, with its virtualization extensions (ARM IHI 0048B).
//!
//! Four register blocks: the distributor (GICD), the CPU interface (GICC), the virtual interface control (GICH), which the
//! hypervisor writes, and the virtual CPU interface (GICV), which a guest sees where it expects a GICC. Offsets are in bytes
//! from each block's start. Interrupt numbers: 0 to 15 are SGIs, 16 to 31 PPIs, both banked per CPU; from 32 on SPIs.

/// How many interrupts are software-generated: 0 to 15.
pub const SGIS: usize = 16;
/// How many interrupts are private to a CPU: SGIs and PPIs, 0 to 31.
pub const PRIVATE_IRQS: usize = 32;
/// The first reserved interrupt number: 1020 to 1023 have special meanings (section 2.2.1).
pub const MAX_IRQS: usize = 1020;
/// CPU interfaces that a GICv2 has at most.
pub const MAX_CPUS: usize = 8;
/// What GICC_IAR reads when nothing is to be acknowledged (section 3.2.5).
pub const SPURIOUS: u32 = 1023;
/// List registers that a virtual interface has at most, by the width of GICH_VTR.ListRegs.
pub const MAX_LIST_REGISTERS: usize = 64;

/// Distributor registers (section 4.3).
pub mod gicd {
    /// Distributor control.
    pub const CTLR: u32 = 0x000;
    /// Interrupt controller type.
    pub const TYPER: u32 = 0x004;
    /// Implementer identification.
    pub const IIDR: u32 = 0x008;
    /// Interrupt group, one bit each.
    pub const IGROUPR: u32 = 0x080;
    /// Set-enable, one bit each.
    pub const ISENABLER: u32 = 0x100;
    /// Clear-enable, one bit each.
    pub const ICENABLER: u32 = 0x180;
    /// Set-pending, one bit each.
    pub const ISPENDR: u32 = 0x200;
    /// Clear-pending, one bit each.
    pub const ICPENDR: u32 = 0x280;
    /// Set-active, one bit each.
    pub const ISACTIVER: u32 = 0x300;
    /// Clear-active, one bit each.
    pub const ICACTIVER: u32 = 0x380;
    /// Priority, one byte each.
    pub const IPRIORITYR: u32 = 0x400;
    /// Processor targets, one byte each.
    pub const ITARGETSR: u32 = 0x800;
    /// Configuration, two bits each.
    pub const ICFGR: u32 = 0xc00;
    /// Software-generated interrupt.
    pub const SGIR: u32 = 0xf00;
    /// SGI clear-pending, one byte each.
    pub const CPENDSGIR: u32 = 0xf10;
    /// SGI set-pending, one byte each.
    pub const SPENDSGIR: u32 = 0xf20;
    /// Peripheral identification 2, whose bits \[7:4\] say the architecture version.
    pub const ICPIDR2: u32 = 0xfe8;
    /// Non-secure access control, two bits each.
    pub const NSACR: u32 = 0xe00;
    /// Bytes in the distributor's register block.
    pub const SIZE: u32 = 0x1000;
}

/// CPU interface registers, and at the same offsets those of the virtual CPU interface GICV (sections 4.4 and 5.5).
pub mod gicc {
    /// Control.
    pub const CTLR: u32 = 0x00;
    /// Priority mask.
    pub const PMR: u32 = 0x04;
    /// Binary point.
    pub const BPR: u32 = 0x08;
    /// Interrupt acknowledge.
    pub const IAR: u32 = 0x0c;
    /// End of interrupt.
    pub const EOIR: u32 = 0x10;
    /// Running priority.
    pub const RPR: u32 = 0x14;
    /// Highest priority pending interrupt.
    pub const HPPIR: u32 = 0x18;
    /// Aliased binary point.
    pub const ABPR: u32 = 0x1c;
    /// Aliased interrupt acknowledge.
    pub const AIAR: u32 = 0x20;
    /// Aliased end of interrupt.
    pub const AEOIR: u32 = 0x24;
    /// Aliased highest priority pending interrupt.
    pub const AHPPIR: u32 = 0x28;
    /// Active priorities.
    pub const APR0: u32 = 0xd0;
    /// Active priorities of group 1, as the Secure view has them.
    pub const NSAPR0: u32 = 0xe0;
    /// Identification.
    pub const IIDR: u32 = 0xfc;
    /// Deactivate interrupt: on the block's second page, which is why a block of 4 KiB cannot split EOI.
    pub const DIR: u32 = 0x1000;
    /// Bytes in the register block.
    pub const SIZE: u32 = 0x2000;
    /// CTLR.EOImodeNS as the Non-secure view has it: EOIR drops the priority, DIR deactivates.
    pub const CTLR_EOIMODE: u32 = 1 << 9;
}

/// Virtual interface control registers (section 5.3).
pub mod gich {
    /// Hypervisor control.
    pub const HCR: u32 = 0x000;
    /// VGIC type.
    pub const VTR: u32 = 0x004;
    /// Virtual machine control.
    pub const VMCR: u32 = 0x008;
    /// Maintenance interrupt status.
    pub const MISR: u32 = 0x010;
    /// End of interrupt status, list registers 0 to 31.
    pub const EISR0: u32 = 0x020;
    /// End of interrupt status, list registers 32 to 63.
    pub const EISR1: u32 = 0x024;
    /// Empty list registers, 0 to 31.
    pub const ELRSR0: u32 = 0x030;
    /// Empty list registers, 32 to 63.
    pub const ELRSR1: u32 = 0x034;
    /// Active priorities.
    pub const APR: u32 = 0x0f0;
    /// The first list register; one every four bytes.
    pub const LR0: u32 = 0x100;
    /// Bytes in the register block.
    pub const SIZE: u32 = 0x200;

    /// HCR.En: the virtual CPU interface works.
    pub const HCR_EN: u32 = 1 << 0;
    /// HCR.UIE: maintenance interrupt while at most one list register is valid.
    pub const HCR_UIE: u32 = 1 << 1;
    /// HCR.LRENPIE: maintenance interrupt while HCR.EOICount is not zero.
    pub const HCR_LRENPIE: u32 = 1 << 2;
    /// HCR.NPIE: maintenance interrupt while no list register is pending.
    pub const HCR_NPIE: u32 = 1 << 3;
    /// HCR.VGrp0EIE: maintenance interrupt while the guest has group 0 enabled.
    pub const HCR_VGRP0EIE: u32 = 1 << 4;
    /// HCR.VGrp0DIE: maintenance interrupt while the guest has group 0 disabled.
    pub const HCR_VGRP0DIE: u32 = 1 << 5;
    /// HCR.VGrp1EIE: maintenance interrupt while the guest has group 1 enabled.
    pub const HCR_VGRP1EIE: u32 = 1 << 6;
    /// HCR.VGrp1DIE: maintenance interrupt while the guest has group 1 disabled.
    pub const HCR_VGRP1DIE: u32 = 1 << 7;
    /// Where HCR.EOICount begins: five bits, the ends of interrupt for which no list register was found.
    pub const HCR_EOICOUNT_SHIFT: u32 = 27;

    /// VMCR.VMGrp0En: the guest's GICV_CTLR.EnableGrp0.
    pub const VMCR_GRP0_EN: u32 = 1 << 0;
    /// VMCR.VMGrp1En: the guest's GICV_CTLR.EnableGrp1.
    pub const VMCR_GRP1_EN: u32 = 1 << 1;
    /// VMCR.VMAckCtl: the guest's GICV_CTLR.AckCtl.
    pub const VMCR_ACK_CTL: u32 = 1 << 2;
    /// VMCR.VMFIQEn: group 0 interrupts are signalled as FIQ.
    pub const VMCR_FIQ_EN: u32 = 1 << 3;
    /// VMCR.VMCBPR: one binary point for both groups.
    pub const VMCR_CBPR: u32 = 1 << 4;
    /// VMCR.VEM: the guest's GICV_CTLR.EOImode.
    pub const VMCR_EOIMODE: u32 = 1 << 9;
    /// Where VMCR.VMABP, the guest's GICV_ABPR, begins: three bits.
    pub const VMCR_ABP_SHIFT: u32 = 18;
    /// Where VMCR.VMBP, the guest's GICV_BPR, begins: three bits.
    pub const VMCR_BP_SHIFT: u32 = 21;
    /// Where VMCR.VMPriMask begins: the upper five bits of the guest's GICV_PMR.
    pub const VMCR_PMR_SHIFT: u32 = 27;

    /// MISR.EOI: a list register asked for notice and was ended; EISR says which.
    pub const MISR_EOI: u32 = 1 << 0;
    /// MISR.U: underflow, at most one list register is valid.
    pub const MISR_U: u32 = 1 << 1;
    /// MISR.LRENP: an end of interrupt found no list register.
    pub const MISR_LRENP: u32 = 1 << 2;
    /// MISR.NP: no list register is pending.
    pub const MISR_NP: u32 = 1 << 3;
    /// MISR.VGrp0E: the guest enabled group 0.
    pub const MISR_VGRP0E: u32 = 1 << 4;
    /// MISR.VGrp0D: the guest disabled group 0.
    pub const MISR_VGRP0D: u32 = 1 << 5;
    /// MISR.VGrp1E: the guest enabled group 1.
    pub const MISR_VGRP1E: u32 = 1 << 6;
    /// MISR.VGrp1D: the guest disabled group 1.
    pub const MISR_VGRP1D: u32 = 1 << 7;

    /// HCR.EOICount: how many ends of interrupt found no list register.
    pub const fn eoi_count(hcr: u32) -> u32 {
        hcr >> HCR_EOICOUNT_SHIFT
    }

    /// Priority bits that the virtual interface implements, from GICH_VTR.PRIbits.
    pub const fn priority_bits(vtr: u32) -> u32 {
        (vtr >> 29) + 1
    }

    /// Preemption bits that the virtual interface implements, from GICH_VTR.PREbits.
    pub const fn preemption_bits(vtr: u32) -> u32 {
        (vtr >> 26 & 0b111) + 1
    }

    /// List registers that the implementation has, from GICH_VTR.
    pub const fn list_registers(vtr: u32) -> usize {
        (vtr & 0x3f) as usize + 1
    }
}

/// A list register, GICH_LR (section 5.3.8): one virtual interrupt in the hardware's hands.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ListRegister(u32);

impl ListRegister {
    const PENDING: u32 = 1 << 28;
    const ACTIVE: u32 = 1 << 29;
    const GROUP1: u32 = 1 << 30;
    const HW: u32 = 1 << 31;
    const EOI: u32 = 1 << 19;

    /// Invalid: holds nothing.
    pub const EMPTY: Self = Self(0);

    /// A list register for virtual interrupt `intid` (10 bits), neither pending nor active yet, of group 0, with the upper
    /// five bits of the eight-bit `priority`.
    pub const fn new(intid: u32, priority: u8) -> Self {
        Self((intid & 0x3ff) | ((priority as u32 >> 3) << 23))
    }

    /// The register with this value.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The value to write.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The same, pending or not.
    pub const fn with_pending(self, pending: bool) -> Self {
        Self(self.0 & !Self::PENDING | if pending { Self::PENDING } else { 0 })
    }

    /// The same, active or not.
    pub const fn with_active(self, active: bool) -> Self {
        Self(self.0 & !Self::ACTIVE | if active { Self::ACTIVE } else { 0 })
    }

    /// The same, in group 1 or 0.
    pub const fn with_group1(self, group1: bool) -> Self {
        Self(self.0 & !Self::GROUP1 | if group1 { Self::GROUP1 } else { 0 })
    }

    /// The same, tied to physical interrupt `physical` (10 bits): the guest's deactivation deactivates that too.
    pub const fn with_hardware(self, physical: u32) -> Self {
        Self(self.0 & !(0x3ff << 10) | Self::HW | ((physical & 0x3ff) << 10))
    }

    /// The same, with a maintenance interrupt when the guest ends it. Not for one tied to a physical interrupt.
    pub const fn with_eoi_notice(self) -> Self {
        Self(self.0 | Self::EOI)
    }

    /// The same SGI as sent by CPU `source` (3 bits).
    pub const fn with_source(self, source: u32) -> Self {
        Self(self.0 & !(7 << 10) | ((source & 7) << 10))
    }

    /// The virtual interrupt's number.
    pub const fn intid(self) -> u32 {
        self.0 & 0x3ff
    }

    /// Its priority, in the upper five of eight bits.
    pub const fn priority(self) -> u8 {
        ((self.0 >> 23) as u8 & 0x1f) << 3
    }

    /// Waits to be acknowledged.
    pub const fn pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    /// Was acknowledged and is not deactivated.
    pub const fn active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    /// Holds an interrupt at all.
    pub const fn valid(self) -> bool {
        self.0 & (Self::PENDING | Self::ACTIVE) != 0
    }

    /// In group 1.
    pub const fn group1(self) -> bool {
        self.0 & Self::GROUP1 != 0
    }

    /// The physical interrupt that it is tied to.
    pub const fn hardware(self) -> Option<u32> {
        if self.0 & Self::HW != 0 { Some(self.0 >> 10 & 0x3ff) } else { None }
    }

    /// Asks for a maintenance interrupt at its end.
    pub const fn eoi_notice(self) -> bool {
        self.0 & (Self::HW | Self::EOI) == Self::EOI
    }

    /// The CPU that sent it, if it is an SGI.
    pub const fn source(self) -> u32 {
        self.0 >> 10 & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_register_fields_stand_where_the_manual_puts_them() {
        assert_eq!(ListRegister::new(0x3ff, 0xff).raw(), 0x0f80_03ff);
        assert_eq!(ListRegister::EMPTY.with_pending(true).raw(), 1 << 28);
        assert_eq!(ListRegister::EMPTY.with_active(true).raw(), 1 << 29);
        assert_eq!(ListRegister::EMPTY.with_group1(true).raw(), 1 << 30);
        assert_eq!(ListRegister::EMPTY.with_hardware(27).raw(), 1 << 31 | 27 << 10);
        assert_eq!(ListRegister::EMPTY.with_eoi_notice().raw(), 1 << 19);
        assert_eq!(ListRegister::EMPTY.with_source(5).raw(), 5 << 10);
        assert_eq!(ListRegister::new(3, 0xa8).priority(), 0xa8);
        assert_eq!(gich::list_registers(0x9000_0003), 4);
        // GIC-400: five bits of either, four list registers.
        assert_eq!((gich::priority_bits(0x9000_0003), gich::preemption_bits(0x9000_0003)), (5, 5));
        assert_eq!(gich::eoi_count(0xf800_0001), 31);
    }
}
