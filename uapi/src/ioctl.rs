// SPDX-License-Identifier: GPL-2.0-only
//! The ioctl numbers of KVM's four kinds of file: `/dev/kvm`, virtual machine, vCPU, device.
//!
//! A number packs a direction (bits 31:30, seen from the process: 1 writes the argument to the kernel, 2 reads it back), the
//! argument's size (29:16), KVM's magic 0xAE (15:8) and a sequence number (7:0). The size is part of the number: a structure of a
//! wrong size gives a number that nobody answers.
//!
//! Source: include/uapi/asm-generic/ioctl.h and Documentation/virt/kvm/api.rst of Linux 5.6.

use crate::{
    ClearDirtyLog, CoalescedMmioZone, CreateDevice, DeviceAddr, DeviceAttr, DirtyLog, EnableCap, GuestDebug, Ioeventfd,
    IrqLevel, IrqRouting, Irqfd, MpState, Msi, OneReg, RegList, Regs, SignalMask, Translation, UserspaceMemoryRegion,
    VcpuEvents, VcpuInit,
};

/// The version that `KVM_GET_API_VERSION` answers.
pub const KVM_API_VERSION: u32 = 12;

/// KVM's magic number in bits 15:8 of each ioctl number.
pub const KVMIO: u32 = 0xae;

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn number(direction: u32, sequence: u32, size: usize) -> u32 {
    assert!(sequence < 256 && size < 1 << 14);
    direction << 30 | (size as u32) << 16 | KVMIO << 8 | sequence
}

/// A number without a structure: the argument, if any, is a plain integer (`_IO`).
pub const fn io(sequence: u32) -> u32 {
    number(0, sequence, 0)
}

/// A number whose structure the kernel writes (`_IOR`).
pub const fn ior<T>(sequence: u32) -> u32 {
    number(READ, sequence, size_of::<T>())
}

/// A number whose structure the process writes (`_IOW`).
pub const fn iow<T>(sequence: u32) -> u32 {
    number(WRITE, sequence, size_of::<T>())
}

/// A number whose structure goes both ways (`_IOWR`).
pub const fn iowr<T>(sequence: u32) -> u32 {
    number(READ | WRITE, sequence, size_of::<T>())
}

/// The size in bytes of the structure that a number announces; 0 for [`io`].
pub const fn argument_size(ioctl: u32) -> usize {
    (ioctl >> 16 & 0x3fff) as usize
}

// /dev/kvm.

/// System: answers [`KVM_API_VERSION`].
pub const KVM_GET_API_VERSION: u32 = io(0x00);
/// System: makes a virtual machine; the argument is the type, 0 on 32-bit Arm. Answers its file descriptor.
pub const KVM_CREATE_VM: u32 = io(0x01);
/// System and VM: answers the value of a capability of [`crate::caps`], 0 if it is absent or unknown.
pub const KVM_CHECK_EXTENSION: u32 = io(0x03);
/// System: answers how many bytes of a vCPU's file to map: one page of [`crate::Run`], one of [`crate::CoalescedMmioRing`].
pub const KVM_GET_VCPU_MMAP_SIZE: u32 = io(0x04);
/// System: long withdrawn; EOPNOTSUPP.
pub const KVM_TRACE_ENABLE: u32 = iow::<[u32; 2]>(0x06);
/// System: long withdrawn; EOPNOTSUPP.
pub const KVM_TRACE_PAUSE: u32 = io(0x07);
/// System: long withdrawn; EOPNOTSUPP.
pub const KVM_TRACE_DISABLE: u32 = io(0x08);

// Virtual machine.

/// VM: makes the vCPU whose id is the argument. Answers its file descriptor.
pub const KVM_CREATE_VCPU: u32 = io(0x41);
/// VM: copies out the log of written pages of a slot.
pub const KVM_GET_DIRTY_LOG: u32 = iow::<DirtyLog>(0x42);
/// VM: creates, moves, changes or (size 0) deletes a memory slot.
pub const KVM_SET_USER_MEMORY_REGION: u32 = iow::<UserspaceMemoryRegion>(0x46);
/// VM: makes a GICv2 by the older way; see [`KVM_CREATE_DEVICE`].
pub const KVM_CREATE_IRQCHIP: u32 = io(0x60);
/// VM: sets the level of an interrupt line.
pub const KVM_IRQ_LINE: u32 = iow::<IrqLevel>(0x61);
/// VM: the same, and the structure comes back with a status.
pub const KVM_IRQ_LINE_STATUS: u32 = iowr::<IrqLevel>(0x67);
/// VM: has writes to a range collected in the ring instead of one exit each.
pub const KVM_REGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x67);
/// VM: undoes [`KVM_REGISTER_COALESCED_MMIO`].
pub const KVM_UNREGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x68);
/// VM: replaces the table from interrupt numbers (GSI) to interrupts of the GIC.
pub const KVM_SET_GSI_ROUTING: u32 = iow::<IrqRouting>(0x6a);
/// VM: ties an eventfd to an interrupt.
pub const KVM_IRQFD: u32 = iow::<Irqfd>(0x76);
/// VM: has writes to an address signal an eventfd instead of leaving to the process.
pub const KVM_IOEVENTFD: u32 = iow::<Ioeventfd>(0x79);
/// VM: injects a message-signalled interrupt.
pub const KVM_SIGNAL_MSI: u32 = iow::<Msi>(0xa5);
/// VM: enables a capability that changes behaviour.
pub const KVM_ENABLE_CAP: u32 = iow::<EnableCap>(0xa3);
/// VM: says where a device of the older way lies in guest physical memory.
pub const KVM_ARM_SET_DEVICE_ADDR: u32 = iow::<DeviceAddr>(0xab);
/// VM: answers the best target for [`KVM_ARM_VCPU_INIT`] on this host.
pub const KVM_ARM_PREFERRED_TARGET: u32 = ior::<VcpuInit>(0xaf);
/// VM: clears the dirty bits that the process has taken over, under manual protection.
pub const KVM_CLEAR_DIRTY_LOG: u32 = iowr::<ClearDirtyLog>(0xc0);
/// VM: makes a device of the kernel's. The descriptor comes back in the structure.
pub const KVM_CREATE_DEVICE: u32 = iowr::<CreateDevice>(0xe0);

// Device, and vCPU where it has attributes.

/// Device and vCPU: sets an attribute.
pub const KVM_SET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe1);
/// Device and vCPU: gets an attribute.
pub const KVM_GET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe2);
/// Device and vCPU: 0 if there is such an attribute, ENXIO if not.
pub const KVM_HAS_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xe3);

// vCPU.

/// vCPU: runs the guest until something needs the process; the reason is in the mapped [`crate::Run`].
pub const KVM_RUN: u32 = io(0x80);
/// vCPU: EINVAL on Arm, which has [`KVM_GET_ONE_REG`].
pub const KVM_GET_REGS: u32 = ior::<Regs>(0x81);
/// vCPU: EINVAL on Arm, which has [`KVM_SET_ONE_REG`].
pub const KVM_SET_REGS: u32 = iow::<Regs>(0x82);
/// vCPU: EINVAL on Arm; its structure is empty there.
pub const KVM_GET_SREGS: u32 = ior::<[u8; 0]>(0x83);
/// vCPU: EINVAL on Arm; its structure is empty there.
pub const KVM_SET_SREGS: u32 = iow::<[u8; 0]>(0x84);
/// vCPU: EINVAL on Arm.
pub const KVM_TRANSLATE: u32 = iowr::<Translation>(0x85);
/// vCPU: sets the signals that are blocked during [`KVM_RUN`] only.
pub const KVM_SET_SIGNAL_MASK: u32 = iow::<SignalMask>(0x8b);
/// vCPU: EINVAL on Arm; its structure is empty there.
pub const KVM_GET_FPU: u32 = ior::<[u8; 0]>(0x8c);
/// vCPU: EINVAL on Arm; its structure is empty there.
pub const KVM_SET_FPU: u32 = iow::<[u8; 0]>(0x8d);
/// vCPU: answers whether it runs or is powered off.
pub const KVM_GET_MP_STATE: u32 = ior::<MpState>(0x98);
/// vCPU: powers it on or off.
pub const KVM_SET_MP_STATE: u32 = iow::<MpState>(0x99);
/// vCPU: EINVAL on 32-bit Arm.
pub const KVM_SET_GUEST_DEBUG: u32 = iow::<GuestDebug>(0x9b);
/// vCPU: answers exceptions that are pending but not yet taken.
pub const KVM_GET_VCPU_EVENTS: u32 = ior::<VcpuEvents>(0x9f);
/// vCPU: makes exceptions pending.
pub const KVM_SET_VCPU_EVENTS: u32 = iow::<VcpuEvents>(0xa0);
/// vCPU: reads one register.
pub const KVM_GET_ONE_REG: u32 = iow::<OneReg>(0xab);
/// vCPU: writes one register.
pub const KVM_SET_ONE_REG: u32 = iow::<OneReg>(0xac);
/// vCPU: gives it its type and features and resets it. Needed before its first run.
pub const KVM_ARM_VCPU_INIT: u32 = iow::<VcpuInit>(0xae);
/// vCPU: answers the ids of all registers that [`KVM_GET_ONE_REG`] knows.
pub const KVM_GET_REG_LIST: u32 = iowr::<RegList>(0xb0);
/// vCPU: EINVAL on 32-bit Arm.
pub const KVM_ARM_VCPU_FINALIZE: u32 = iow::<i32>(0xc2);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a C program prints that includes Linux's headers and gives 32-bit Arm's structures their sizes.
    #[test]
    fn numbers_are_those_of_the_c_headers() {
        for (ours, theirs) in [
            (KVM_GET_API_VERSION, 0xae00),
            (KVM_CREATE_VM, 0xae01),
            (KVM_CHECK_EXTENSION, 0xae03),
            (KVM_GET_VCPU_MMAP_SIZE, 0xae04),
            (KVM_TRACE_ENABLE, 0x4008ae06),
            (KVM_CREATE_VCPU, 0xae41),
            (KVM_GET_DIRTY_LOG, 0x4010ae42),
            (KVM_SET_USER_MEMORY_REGION, 0x4020ae46),
            (KVM_CREATE_IRQCHIP, 0xae60),
            (KVM_IRQ_LINE, 0x4008ae61),
            (KVM_IRQ_LINE_STATUS, 0xc008ae67),
            (KVM_REGISTER_COALESCED_MMIO, 0x4010ae67),
            (KVM_UNREGISTER_COALESCED_MMIO, 0x4010ae68),
            (KVM_SET_GSI_ROUTING, 0x4008ae6a),
            (KVM_IRQFD, 0x4020ae76),
            (KVM_IOEVENTFD, 0x4040ae79),
            (KVM_RUN, 0xae80),
            (KVM_GET_REGS, 0x8098ae81),
            (KVM_SET_REGS, 0x4098ae82),
            (KVM_GET_SREGS, 0x8000ae83),
            (KVM_TRANSLATE, 0xc018ae85),
            (KVM_SET_SIGNAL_MASK, 0x4004ae8b),
            (KVM_GET_MP_STATE, 0x8004ae98),
            (KVM_SET_MP_STATE, 0x4004ae99),
            (KVM_SET_GUEST_DEBUG, 0x4008ae9b),
            (KVM_GET_VCPU_EVENTS, 0x8040ae9f),
            (KVM_SET_VCPU_EVENTS, 0x4040aea0),
            (KVM_ENABLE_CAP, 0x4068aea3),
            (KVM_SIGNAL_MSI, 0x4020aea5),
            (KVM_ARM_SET_DEVICE_ADDR, 0x4010aeab),
            (KVM_GET_ONE_REG, 0x4010aeab),
            (KVM_SET_ONE_REG, 0x4010aeac),
            (KVM_ARM_VCPU_INIT, 0x4020aeae),
            (KVM_ARM_PREFERRED_TARGET, 0x8020aeaf),
            (KVM_GET_REG_LIST, 0xc008aeb0),
            (KVM_CLEAR_DIRTY_LOG, 0xc018aec0),
            (KVM_ARM_VCPU_FINALIZE, 0x4004aec2),
            (KVM_CREATE_DEVICE, 0xc00caee0),
            (KVM_SET_DEVICE_ATTR, 0x4018aee1),
            (KVM_GET_DEVICE_ATTR, 0x4018aee2),
            (KVM_HAS_DEVICE_ATTR, 0x4018aee3),
        ] {
            assert_eq!(ours, theirs, "{ours:#x} should be {theirs:#x}");
        }
        assert_eq!(argument_size(KVM_ENABLE_CAP), 104);
    }
}
