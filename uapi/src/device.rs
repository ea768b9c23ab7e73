// SPDX-License-Identifier: GPL-2.0-only
//! Devices of the kernel's own and their attributes: the virtual GIC, and the timer's interrupts as attributes of a vCPU.
//!
//! Source: Documentation/virt/kvm/devices/arm-vgic.rst and vcpu.rst of Linux 5.6.

/// Flag of [`CreateDevice`]: only say whether it could be made.
pub const KVM_CREATE_DEVICE_TEST: u32 = 1;

/// Device type: VFIO.
pub const KVM_DEV_TYPE_VFIO: u32 = 4;
/// Device type: GICv2.
pub const KVM_DEV_TYPE_ARM_VGIC_V2: u32 = 5;
/// Device type: GICv3.
pub const KVM_DEV_TYPE_ARM_VGIC_V3: u32 = 7;
/// Device type: GICv3's interrupt translation service.
pub const KVM_DEV_TYPE_ARM_VGIC_ITS: u32 = 8;

/// The argument of `KVM_CREATE_DEVICE` (`struct kvm_create_device`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateDevice {
    /// `KVM_DEV_TYPE_…`.
    pub device_type: u32,
    /// Out: the device's file descriptor.
    pub fd: u32,
    /// [`KVM_CREATE_DEVICE_TEST`] or 0.
    pub flags: u32,
}
layout!(CreateDevice, 12, fd @ 4, flags @ 8);

/// The argument of `KVM_SET_DEVICE_ATTR`, `KVM_GET_DEVICE_ATTR` and `KVM_HAS_DEVICE_ATTR` (`struct kvm_device_attr`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAttr {
    /// Must be 0.
    pub flags: u32,
    /// The group, as the device defines it.
    pub group: u32,
    /// The attribute, as the group defines it.
    pub attr: u64,
    /// The process's address of the value.
    pub addr: u64,
}
layout!(DeviceAttr, 24, group @ 4, attr @ 8, addr @ 16);

/// Group of a vGIC: where it lies; the value is a `u64`.
pub const KVM_DEV_ARM_VGIC_GRP_ADDR: u32 = 0;
/// Group of a vGIC: a distributor register; the value is a `u32`. See [`vgic_register_attr`].
pub const KVM_DEV_ARM_VGIC_GRP_DIST_REGS: u32 = 1;
/// Group of a vGIC: a CPU interface register; the value is a `u32`. See [`vgic_register_attr`].
pub const KVM_DEV_ARM_VGIC_GRP_CPU_REGS: u32 = 2;
/// Group of a vGIC: how many interrupts it has, SGIs and PPIs included; the value is a `u32`.
pub const KVM_DEV_ARM_VGIC_GRP_NR_IRQS: u32 = 3;
/// Group of a vGIC: commands.
pub const KVM_DEV_ARM_VGIC_GRP_CTRL: u32 = 4;
/// Group of a vGICv3: redistributor registers.
pub const KVM_DEV_ARM_VGIC_GRP_REDIST_REGS: u32 = 5;
/// Group of a vGICv3: CPU interface system registers.
pub const KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS: u32 = 6;
/// Group of a vGICv3: line levels.
pub const KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: u32 = 7;

/// Attribute of [`KVM_DEV_ARM_VGIC_GRP_ADDR`], and id in [`DeviceAddr`]: the distributor.
pub const KVM_VGIC_V2_ADDR_TYPE_DIST: u64 = 0;
/// Attribute of [`KVM_DEV_ARM_VGIC_GRP_ADDR`], and id in [`DeviceAddr`]: the CPU interface.
pub const KVM_VGIC_V2_ADDR_TYPE_CPU: u64 = 1;
/// Bytes of the distributor.
pub const KVM_VGIC_V2_DIST_SIZE: u64 = 0x1000;
/// Bytes of the CPU interface.
pub const KVM_VGIC_V2_CPU_SIZE: u64 = 0x2000;

/// Attribute of [`KVM_DEV_ARM_VGIC_GRP_CTRL`]: initialise.
pub const KVM_DEV_ARM_VGIC_CTRL_INIT: u64 = 0;

/// Attribute of a register group: which CPU (bits 39:32) and which offset (31:0).
pub const fn vgic_register_attr(cpu: u8, offset: u32) -> u64 {
    (cpu as u64) << 32 | offset as u64
}

/// Attribute group of a vCPU: the PMU, which 32-bit Arm does not offer.
pub const KVM_ARM_VCPU_PMU_V3_CTRL: u32 = 0;
/// Attribute group of a vCPU: the timer; values are a `u32`, the number of a PPI.
pub const KVM_ARM_VCPU_TIMER_CTRL: u32 = 1;
/// Attribute of [`KVM_ARM_VCPU_TIMER_CTRL`]: the virtual timer's interrupt.
pub const KVM_ARM_VCPU_TIMER_IRQ_VTIMER: u64 = 0;
/// Attribute of [`KVM_ARM_VCPU_TIMER_CTRL`]: the physical timer's interrupt.
pub const KVM_ARM_VCPU_TIMER_IRQ_PTIMER: u64 = 1;
/// The virtual timer's interrupt where the process says nothing.
pub const DEFAULT_VTIMER_IRQ: u32 = 27;
/// The physical timer's interrupt where the process says nothing.
pub const DEFAULT_PTIMER_IRQ: u32 = 30;

/// Device id in [`DeviceAddr`]: GICv2.
pub const KVM_ARM_DEVICE_VGIC_V2: u64 = 0;

/// The argument of `KVM_ARM_SET_DEVICE_ADDR` (`struct kvm_arm_device_addr`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAddr {
    /// Bits 31:16 the device, 15:0 the kind of address; 63:32 ignored by KVM.
    pub id: u64,
    /// Guest physical address.
    pub addr: u64,
}
layout!(DeviceAddr, 16, addr @ 8);

impl DeviceAddr {
    /// Makes the argument for an address of kind `addr_type` of `device`.
    pub const fn new(device: u64, addr_type: u64, addr: u64) -> Self {
        Self { id: (device & 0xffff) << 16 | (addr_type & 0xffff), addr }
    }

    /// The device.
    pub const fn device(&self) -> u64 {
        self.id >> 16 & 0xffff
    }

    /// The kind of address.
    pub const fn addr_type(&self) -> u64 {
        self.id & 0xffff
    }
}
