// SPDX-License-Identifier: GPL-2.0-only
//! Hyp mode's virtual address space: 4 GiB (HTCR.T0SZ = 0), sparsely used.
//!
//! | where | what | rights |
//! |---|---|---|
//! | [`IMAGE_BASE`] | the Hyp image: constants, text, data | read; read-execute; read-write |
//! | [`SLOTS_BASE`] | a slot a CPU: guard, emergency stack, guard, stack, per-CPU data | read-write, guards unmapped |
//! | the trampoline's physical address | one page at VA = PA, for turning the MMU on and off | read-execute |
//! | a vCPU context's address in the kernel's linear map | one page a vCPU | read-write |
//!
//! The first two lie above 0xFE00_0000. The linear map of a 32-bit kernel ends below it (the vmalloc range follows), so
//! only the trampoline, whose place the board's memory decides, can collide; the module checks that when it loads.

/// Where the Hyp image is linked and mapped.
pub const IMAGE_BASE: u32 = 0xfe00_0000;
/// The image's largest size in bytes.
pub const IMAGE_MAX: u32 = 0x0010_0000;
/// Where the per-CPU slots begin.
pub const SLOTS_BASE: u32 = 0xff00_0000;
/// Bytes of address space for one CPU: eight pages.
pub const SLOT_SIZE: u32 = 0x8000;
/// How many CPUs there is room for.
pub const MAX_CPUS: u32 = 32;
/// The first byte after the per-CPU slots.
pub const SLOTS_END: u32 = SLOTS_BASE + MAX_CPUS * SLOT_SIZE;

/// Offset in a slot of the emergency stack's page. The page before it stays unmapped.
pub const EMERGENCY_PAGE: u32 = 0x1000;
/// Offset in a slot of the stack's page. The page before it stays unmapped: it is the guard that an overflow meets.
pub const STACK_PAGE: u32 = 0x3000;
/// Offset in a slot of the per-CPU data page, which is also where the (downward growing) stack begins. HTPIDR holds its
/// address.
pub const DATA_PAGE: u32 = 0x4000;
/// Offset of the emergency stack's top.
pub const EMERGENCY_TOP: u32 = EMERGENCY_PAGE + 0x1000;
/// The first and the last byte (exclusive) of Hyp addresses that this layout reserves.
pub const RESERVED: core::ops::Range<u32> = IMAGE_BASE..SLOTS_END;

/// The slot of a CPU, by the number that the module gives it (0-based).
pub const fn slot(cpu: u32) -> u32 {
    SLOTS_BASE + cpu * SLOT_SIZE
}

const _: () = assert!(SLOT_SIZE.is_power_of_two() && SLOTS_BASE.is_multiple_of(SLOT_SIZE));
const _: () = assert!(IMAGE_BASE + IMAGE_MAX <= SLOTS_BASE);
