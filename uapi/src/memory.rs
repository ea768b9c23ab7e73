// SPDX-License-Identifier: GPL-2.0-only
//! Memory slots, the log of written pages, and what else has to do with guest physical addresses.

/// Flag of a slot: keep a log of written pages.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// Flag of a slot: the guest's writes leave as MMIO.
pub const KVM_MEM_READONLY: u32 = 1 << 1;

/// The argument of `KVM_SET_USER_MEMORY_REGION` (`struct kvm_userspace_memory_region`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserspaceMemoryRegion {
    /// Bits 15:0 the slot, 31:16 the address space (0 on Arm).
    pub slot: u32,
    /// [`KVM_MEM_LOG_DIRTY_PAGES`], [`KVM_MEM_READONLY`].
    pub flags: u32,
    /// Where the guest sees it; a multiple of the page size.
    pub guest_phys_addr: u64,
    /// Bytes; a multiple of the page size; 0 deletes the slot.
    pub memory_size: u64,
    /// Where the process has it; a multiple of the page size.
    pub userspace_addr: u64,
}
layout!(UserspaceMemoryRegion, 32, flags @ 4, guest_phys_addr @ 8, memory_size @ 16, userspace_addr @ 24);

/// The argument of `KVM_GET_DIRTY_LOG` (`struct kvm_dirty_log`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyLog {
    /// The slot.
    pub slot: u32,
    /// Unused.
    pub padding1: u32,
    /// Address of the bitmap, one bit a page, rounded up to whole words of 32 bits, which is what a `long` is. In C a union of a
    /// pointer and a `u64`: on 32-bit Arm the pointer is the low half and the kernel ignores the rest.
    pub dirty_bitmap: u64,
}
layout!(DirtyLog, 16, padding1 @ 4, dirty_bitmap @ 8);

/// The argument of `KVM_CLEAR_DIRTY_LOG` (`struct kvm_clear_dirty_log`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClearDirtyLog {
    /// The slot.
    pub slot: u32,
    /// How many pages; a multiple of 64, or up to the end of the slot.
    pub num_pages: u32,
    /// The first page; a multiple of 64.
    pub first_page: u64,
    /// Address of the bitmap; see [`DirtyLog::dirty_bitmap`].
    pub dirty_bitmap: u64,
}
layout!(ClearDirtyLog, 24, num_pages @ 4, first_page @ 8, dirty_bitmap @ 16);

/// Argument of `KVM_ENABLE_CAP` for manual dirty log protection: leave clearing to `KVM_CLEAR_DIRTY_LOG`.
pub const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: u64 = 1 << 0;

/// Which page of a vCPU's file is the [`CoalescedMmioRing`].
pub const KVM_COALESCED_MMIO_PAGE_OFFSET: u32 = 1;

/// The argument of `KVM_REGISTER_COALESCED_MMIO` (`struct kvm_coalesced_mmio_zone`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmioZone {
    /// The first guest physical address.
    pub addr: u64,
    /// Bytes.
    pub size: u32,
    /// 0: memory; 1: ports.
    pub pio: u32,
}
layout!(CoalescedMmioZone, 16, size @ 8, pio @ 12);

/// One collected write (`struct kvm_coalesced_mmio`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmio {
    /// Where the guest wrote.
    pub phys_addr: u64,
    /// How many bytes: 1, 2, 4 or 8.
    pub len: u32,
    /// 0: memory; 1: ports.
    pub pio: u32,
    /// The bytes in the guest's order.
    pub data: [u8; 8],
}
layout!(CoalescedMmio, 24, len @ 8, pio @ 12, data @ 16);

/// How many entries follow the head of the ring in its page of 4096 bytes.
pub const KVM_COALESCED_MMIO_MAX: usize = (4096 - size_of::<CoalescedMmioRing>()) / size_of::<CoalescedMmio>();

/// The head of the ring page (`struct kvm_coalesced_mmio_ring`); [`KVM_COALESCED_MMIO_MAX`] entries follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmioRing {
    /// The oldest entry; the process moves it on.
    pub first: u32,
    /// Where the next goes; the kernel moves it on.
    pub last: u32,
}
layout!(CoalescedMmioRing, 8, last @ 4);

/// The argument of `KVM_TRANSLATE` (`struct kvm_translation`), which Arm refuses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// In: guest virtual address.
    pub linear_address: u64,
    /// Out: guest physical address.
    pub physical_address: u64,
    /// Out.
    pub valid: u8,
    /// Out.
    pub writeable: u8,
    /// Out.
    pub usermode: u8,
    /// Unused.
    pub pad: [u8; 5],
}
layout!(Translation, 24, physical_address @ 8, valid @ 16, pad @ 19);
