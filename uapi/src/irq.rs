// SPDX-License-Identifier: GPL-2.0-only
//! Interrupts from the process: lines, eventfds, messages, and the routing table between their numbers and the GIC's.

/// The argument of `KVM_IRQ_LINE` (`struct kvm_irq_level`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqLevel {
    /// Which line: see [`IrqLine`]. Where `KVM_IRQ_LINE_STATUS` has a status, which is not on Arm, it puts it here.
    pub irq: u32,
    /// 0 or 1.
    pub level: u32,
}
layout!(IrqLevel, 8, level @ 4);

/// An interrupt line, as `KVM_IRQ_LINE` packs it: vCPU bits 11:8 (bits 31:28), type (27:24), vCPU bits 7:0 (23:16), number (15:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqLine {
    /// Type 0: the IRQ or FIQ input of a vCPU that has no GIC of the kernel's; `number` is 0 (IRQ) or 1 (FIQ).
    Cpu {
        /// The vCPU's id.
        vcpu: u16,
        /// Unchecked.
        number: u16,
    },
    /// Type 1: a shared interrupt; the number is the GIC's, from 32.
    Spi {
        /// Unchecked.
        number: u16,
    },
    /// Type 2: a private interrupt; the number is the GIC's, 16 to 31.
    Ppi {
        /// The vCPU's id.
        vcpu: u16,
        /// Unchecked.
        number: u16,
    },
}

/// Number of [`IrqLine::Cpu`]: IRQ.
pub const KVM_ARM_IRQ_CPU_IRQ: u16 = 0;
/// Number of [`IrqLine::Cpu`]: FIQ.
pub const KVM_ARM_IRQ_CPU_FIQ: u16 = 1;

impl IrqLine {
    /// Packs it; a vCPU id above 4095 cannot be expressed and loses its upper bits.
    pub const fn encode(self) -> u32 {
        let (kind, vcpu, number) = match self {
            Self::Cpu { vcpu, number } => (0, vcpu, number),
            Self::Spi { number } => (1, 0, number),
            Self::Ppi { vcpu, number } => (2, vcpu, number),
        };
        (vcpu as u32 >> 8 & 0xf) << 28 | kind << 24 | (vcpu as u32 & 0xff) << 16 | number as u32
    }

    /// Unpacks what a process alleges. `None`: an unknown type (EINVAL).
    pub const fn decode(irq: u32) -> Option<Self> {
        let vcpu = (irq >> 16 & 0xff | irq >> 28 << 8) as u16;
        let number = (irq & 0xffff) as u16;
        match irq >> 24 & 0xf {
            0 => Some(Self::Cpu { vcpu, number }),
            1 => Some(Self::Spi { number }),
            2 => Some(Self::Ppi { vcpu, number }),
            _ => None,
        }
    }
}

/// Flag of [`Irqfd`]: undo.
pub const KVM_IRQFD_FLAG_DEASSIGN: u32 = 1 << 0;
/// Flag of [`Irqfd`]: level-triggered; [`Irqfd::resamplefd`] is signalled at the end of interrupt.
pub const KVM_IRQFD_FLAG_RESAMPLE: u32 = 1 << 1;

/// The argument of `KVM_IRQFD` (`struct kvm_irqfd`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Irqfd {
    /// The eventfd.
    pub fd: u32,
    /// Which interrupt, through the routing table; by default GSI n is SPI n, interrupt n + 32.
    pub gsi: u32,
    /// `KVM_IRQFD_FLAG_…`.
    pub flags: u32,
    /// The eventfd to signal at the end of interrupt.
    pub resamplefd: u32,
    /// Unused.
    pub pad: [u8; 16],
}
layout!(Irqfd, 32, gsi @ 4, flags @ 8, resamplefd @ 12, pad @ 16);

/// Flag of [`Ioeventfd`]: only the value [`Ioeventfd::datamatch`] signals.
pub const KVM_IOEVENTFD_FLAG_DATAMATCH: u32 = 1 << 0;
/// Flag of [`Ioeventfd`]: a port, not memory.
pub const KVM_IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
/// Flag of [`Ioeventfd`]: undo.
pub const KVM_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;
/// Flag of [`Ioeventfd`]: s390 only.
pub const KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY: u32 = 1 << 3;
/// All flags that are defined; any other is refused (EINVAL). Bit 4 is the kernel's own (fast MMIO), but passes this check.
pub const KVM_IOEVENTFD_VALID_FLAG_MASK: u32 = (1 << 5) - 1;

/// The argument of `KVM_IOEVENTFD` (`struct kvm_ioeventfd`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioeventfd {
    /// The value that signals, under [`KVM_IOEVENTFD_FLAG_DATAMATCH`].
    pub datamatch: u64,
    /// Guest physical address.
    pub addr: u64,
    /// 1, 2, 4 or 8 bytes; 0: any.
    pub len: u32,
    /// The eventfd.
    pub fd: i32,
    /// `KVM_IOEVENTFD_FLAG_…`.
    pub flags: u32,
    /// Unused.
    pub pad: [u8; 36],
}
layout!(Ioeventfd, 64, addr @ 8, len @ 16, fd @ 20, flags @ 24, pad @ 28);

/// Type of [`IrqRoutingEntry`]: a pin of the interrupt controller.
pub const KVM_IRQ_ROUTING_IRQCHIP: u32 = 1;
/// Type of [`IrqRoutingEntry`]: a message.
pub const KVM_IRQ_ROUTING_MSI: u32 = 2;

/// The head of the argument of `KVM_SET_GSI_ROUTING` (`struct kvm_irq_routing`); `nr` [`IrqRoutingEntry`]s follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRouting {
    /// How many entries.
    pub nr: u32,
    /// Must be 0.
    pub flags: u32,
}
layout!(IrqRouting, 8, flags @ 4);

/// One route (`struct kvm_irq_routing_entry`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRoutingEntry {
    /// The number that [`Irqfd::gsi`] names.
    pub gsi: u32,
    /// `KVM_IRQ_ROUTING_…`.
    pub route_type: u32,
    /// For a message: [`KVM_MSI_VALID_DEVID`].
    pub flags: u32,
    /// Unused.
    pub pad: u32,
    /// For a pin: the controller (0), the pin (SPI, from 0). For a message: address low, address high, data, device id.
    pub route: [u32; 8],
}
layout!(IrqRoutingEntry, 48, route_type @ 4, flags @ 8, pad @ 12, route @ 16);

/// Flag of [`Msi`]: [`Msi::devid`] is valid.
pub const KVM_MSI_VALID_DEVID: u32 = 1 << 0;

/// The argument of `KVM_SIGNAL_MSI` (`struct kvm_msi`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// The doorbell's address, low half.
    pub address_lo: u32,
    /// The doorbell's address, high half.
    pub address_hi: u32,
    /// What is written to it.
    pub data: u32,
    /// [`KVM_MSI_VALID_DEVID`].
    pub flags: u32,
    /// The device that writes.
    pub devid: u32,
    /// Unused.
    pub pad: [u8; 12],
}
layout!(Msi, 32, address_hi @ 4, data @ 8, flags @ 12, devid @ 16, pad @ 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pack_as_documented() {
        assert_eq!(IrqLine::Spi { number: 32 }.encode(), 0x0100_0020);
        assert_eq!(IrqLine::Ppi { vcpu: 3, number: 27 }.encode(), 0x0203_001b);
        assert_eq!(IrqLine::Cpu { vcpu: 0x123, number: KVM_ARM_IRQ_CPU_FIQ }.encode(), 0x1023_0001);
        assert_eq!(IrqLine::decode(0x0300_0000), None);
    }

    proptest::proptest! {
        #[test]
        fn decoding_is_total_and_agrees_with_encoding(irq: u32) {
            if let Some(line) = IrqLine::decode(irq) {
                let spi = matches!(line, IrqLine::Spi { .. });
                let meaningful = if spi { 0x0f00_ffff } else { u32::MAX }; // an SPI belongs to no vCPU
                proptest::prop_assert_eq!(line.encode(), irq & meaningful);
            } else {
                proptest::prop_assert!(irq >> 24 & 0xf > 2);
            }
        }
    }
}
