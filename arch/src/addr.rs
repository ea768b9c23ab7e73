// SPDX-License-Identifier: GPL-2.0-only
//! Addresses, one type for each space that they live in.
//!
//! Four address spaces meet in a hypervisor; a number that wanders from one into another is its classic bug. So each has a
//! type, none converts into another except through a translation that says so, and arithmetic is explicit about wrapping.

macro_rules! address {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The address with this number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number.
            pub const fn get(self) -> $raw {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the space.
            pub const fn checked_add(self, bytes: $raw) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The first byte of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE as $raw - 1))
            }

            /// How far into its 4 KiB page this address lies.
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE as $raw - 1)) as usize
            }

            /// Whether the address is a multiple of `size`, a power of two.
            pub const fn is_aligned(self, size: $raw) -> bool {
                self.0 & (size - 1) == 0
            }
        }
    };
}

/// Bytes in a page of stage 1 and stage 2: 4 KiB.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a level-2 block of the long-descriptor format: 2 MiB.
pub const BLOCK_SIZE: usize = 2 << 20;

address! {
    /// A guest physical address: what stage 2 translates. 40 bits.
    Ipa(u64)
}
address! {
    /// A host physical address. 40 bits.
    HostPhys(u64)
}
address! {
    /// A virtual address of the host: of a process's memory or of the kernel.
    HostVirt(u32)
}
address! {
    /// A virtual address in Hyp mode's own translation regime.
    HypVirt(u32)
}

/// Bits in an intermediate physical address, and in what VTCR is set up to translate.
pub const IPA_BITS: u32 = 40;

impl Ipa {
    /// The address if it lies within the 40 bits that stage 2 translates.
    pub const fn checked(raw: u64) -> Option<Self> {
        if raw >> IPA_BITS == 0 { Some(Self(raw)) } else { None }
    }
}
