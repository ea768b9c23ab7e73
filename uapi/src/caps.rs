// SPDX-License-Identifier: GPL-2.0-only
//! Capabilities: what `KVM_CHECK_EXTENSION` is asked about, and what `KVM_ENABLE_CAP` enables.
//!
//! Only those are named that KVM/ARM answered with something other than 0, or that a client of 32-bit Arm asks about.
//! Which value each has is the module's business; any number not known is answered with 0.

/// `KVM_CREATE_IRQCHIP` works.
pub const KVM_CAP_IRQCHIP: u32 = 0;
/// `KVM_SET_USER_MEMORY_REGION` works.
pub const KVM_CAP_USER_MEMORY: u32 = 3;
/// How many vCPUs are advisable: the host's online CPUs.
pub const KVM_CAP_NR_VCPUS: u32 = 9;
/// How many memory slots a VM has.
pub const KVM_CAP_NR_MEMSLOTS: u32 = 10;
/// `KVM_GET_MP_STATE` and `KVM_SET_MP_STATE` work.
pub const KVM_CAP_MP_STATE: u32 = 14;
/// Coalesced MMIO; the value is [`crate::KVM_COALESCED_MMIO_PAGE_OFFSET`].
pub const KVM_CAP_COALESCED_MMIO: u32 = 15;
/// A slot follows what the process does to its own mapping.
pub const KVM_CAP_SYNC_MMU: u32 = 16;
/// Slots can be deleted.
pub const KVM_CAP_DESTROY_MEMORY_REGION_WORKS: u32 = 21;
/// `KVM_SET_GUEST_DEBUG` works: absent on 32-bit Arm.
pub const KVM_CAP_SET_GUEST_DEBUG: u32 = 23;
/// How many entries `KVM_SET_GSI_ROUTING` takes.
pub const KVM_CAP_IRQ_ROUTING: u32 = 25;
/// `KVM_IRQ_LINE_STATUS` works: x86 only, though the call itself exists on Arm.
pub const KVM_CAP_IRQ_INJECT_STATUS: u32 = 26;
/// Adjacent slots may belong to adjacent mappings.
pub const KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: u32 = 30;
/// `KVM_IRQFD` works.
pub const KVM_CAP_IRQFD: u32 = 32;
/// `KVM_IOEVENTFD` works.
pub const KVM_CAP_IOEVENTFD: u32 = 36;
/// `KVM_EXIT_INTERNAL_ERROR` comes with data.
pub const KVM_CAP_INTERNAL_ERROR_DATA: u32 = 40;
/// `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS` work.
pub const KVM_CAP_VCPU_EVENTS: u32 = 41;
/// How many vCPUs a VM can have.
pub const KVM_CAP_MAX_VCPUS: u32 = 66;
/// `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` work.
pub const KVM_CAP_ONE_REG: u32 = 70;
/// `KVM_SIGNAL_MSI` works.
pub const KVM_CAP_SIGNAL_MSI: u32 = 77;
/// [`crate::KVM_MEM_READONLY`] works.
pub const KVM_CAP_READONLY_MEM: u32 = 81;
/// [`crate::KVM_IRQFD_FLAG_RESAMPLE`] works.
pub const KVM_CAP_IRQFD_RESAMPLE: u32 = 82;
/// PSCI 0.1.
pub const KVM_CAP_ARM_PSCI: u32 = 87;
/// `KVM_ARM_SET_DEVICE_ADDR` works.
pub const KVM_CAP_ARM_SET_DEVICE_ADDR: u32 = 88;
/// `KVM_CREATE_DEVICE` works.
pub const KVM_CAP_DEVICE_CTRL: u32 = 89;
/// A vCPU can be 32-bit: asked of 64-bit hosts only.
pub const KVM_CAP_ARM_EL1_32BIT: u32 = 93;
/// `KVM_ENABLE_CAP` works on a VM.
pub const KVM_CAP_ENABLE_CAP_VM: u32 = 98;
/// PSCI 0.2 and later.
pub const KVM_CAP_ARM_PSCI_0_2: u32 = 102;
/// `KVM_CHECK_EXTENSION` works on a VM.
pub const KVM_CAP_CHECK_EXTENSION_VM: u32 = 105;
/// Devices see more than one address space: x86 only.
pub const KVM_CAP_MULTI_ADDRESS_SPACE: u32 = 118;
/// `KVM_IOEVENTFD` takes length 0: any.
pub const KVM_CAP_IOEVENTFD_ANY_LENGTH: u32 = 122;
/// A guest can have a PMU: absent on 32-bit Arm.
pub const KVM_CAP_ARM_PMU_V3: u32 = 126;
/// One more than the greatest vCPU id.
pub const KVM_CAP_MAX_VCPU_ID: u32 = 128;
/// `KVM_SIGNAL_MSI` takes a device id.
pub const KVM_CAP_MSI_DEVID: u32 = 131;
/// [`crate::Run::immediate_exit`] works.
pub const KVM_CAP_IMMEDIATE_EXIT: u32 = 136;
/// Timer interrupts reach a process that has its own interrupt controller.
pub const KVM_CAP_ARM_USER_IRQ: u32 = 144;
/// Coalesced port I/O: answered with 1 even where there are no ports.
pub const KVM_CAP_COALESCED_PIO: u32 = 162;
/// A guest physical address size can be chosen: absent on 32-bit Arm, always 40 bits.
pub const KVM_CAP_ARM_VM_IPA_SIZE: u32 = 165;
/// `KVM_GET_DIRTY_LOG` leaves clearing to `KVM_CLEAR_DIRTY_LOG`, once enabled.
pub const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
/// `KVM_IRQ_LINE` takes vCPU numbers above 255.
pub const KVM_CAP_ARM_IRQ_LINE_LAYOUT_2: u32 = 174;
/// Accesses that the syndrome does not describe leave with `KVM_EXIT_ARM_NISV`, once enabled.
pub const KVM_CAP_ARM_NISV_TO_USER: u32 = 177;
/// `KVM_SET_VCPU_EVENTS` can inject an external data abort.
pub const KVM_CAP_ARM_INJECT_EXT_DABT: u32 = 178;

/// The argument of `KVM_ENABLE_CAP` (`struct kvm_enable_cap`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnableCap {
    /// The capability.
    pub cap: u32,
    /// Must be 0.
    pub flags: u32,
    /// Depends on the capability; 0 where it says nothing.
    pub args: [u64; 4],
    /// Unused.
    pub pad: [u8; 64],
}
layout!(EnableCap, 104, flags @ 4, args @ 8, pad @ 40);

impl EnableCap {
    /// Enables `cap` with one argument.
    pub const fn new(cap: u32, argument: u64) -> Self {
        Self { cap, flags: 0, args: [argument, 0, 0, 0], pad: [0; 64] }
    }
}
