// SPDX-License-Identifier: GPL-2.0-only
//! A check of VMIDs that trusts nobody: no two stage-2 tables run under one VMID of one generation.
//!
//! What [`crate::vmid`] argues and tests is looked at here at each entry into a guest, on the running system: a table says which
//! stage-2 tables each VMID was last entered with, and in which generation. It knows of the allocator nothing but the generation. It is
//! for debugging, and off unless asked for.

use arch::addr::HostPhys;
use arch::hyp_registers::Vttbr;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of a word that hold the number of the tables' page: 40 bits of address, less 12.
const PAGE_BITS: u32 = 28;

/// Somebody else's tables ran under the VMID in the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedVmid {
    /// Whose: the address of their tables.
    pub other: HostPhys,
}

/// What each VMID stands for.
///
/// A word each: the generation above, the number of the tables' page in the low bits. Zero: not seen yet.
pub struct VmidCheck([AtomicU64; 256]);

impl Default for VmidCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl VmidCheck {
    /// Nothing was seen yet.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 256])
    }

    /// Notes that a guest is about to be entered with this VTTBR, whose VMID is of this generation.
    ///
    /// # Errors
    /// The guest must not be entered: it would hit TLB entries of another, or be hit.
    pub fn note(&self, generation: u64, vttbr: Vttbr) -> Result<(), SharedVmid> {
        let this = generation << PAGE_BITS | vttbr.base().get() >> 12;
        // The index is eight bits wide.
        let Some(place) = self.0.get(usize::from(vttbr.vmid().get())) else { return Ok(()) };
        // One order for each word is all that is asked for.
        let before = place.fetch_max(this, Ordering::Relaxed);
        if before >> PAGE_BITS == generation && before != this {
            let other = HostPhys::new((before & ((1 << PAGE_BITS) - 1)) << 12);
            return Err(SharedVmid { other });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::hyp_registers::Vmid;

    fn vttbr(vmid: u8, base: u64) -> Vttbr {
        Vttbr::new(HostPhys::new(base), Vmid::new(vmid)).unwrap()
    }

    #[test]
    fn one_vm_a_vmid_and_generation() {
        let check = VmidCheck::new();
        for generation in [1, 2, 900] {
            for vmid in 1..=255 {
                for _ in 0..2 {
                    assert_eq!(check.note(generation, vttbr(vmid, 0x80_0000_0000 + u64::from(vmid) * 0x2000)), Ok(()));
                }
            }
        }
    }

    #[test]
    fn another_vm_under_the_same_vmid_shows_until_the_generation_ends() {
        let check = VmidCheck::new();
        assert_eq!(check.note(1, vttbr(7, 0x4000)), Ok(()));
        assert_eq!(check.note(1, vttbr(7, 0x2000)), Err(SharedVmid { other: HostPhys::new(0x4000) }));
        assert_eq!(check.note(1, vttbr(7, 0xff_ffff_e000)), Err(SharedVmid { other: HostPhys::new(0x4000) }));
        assert_eq!(check.note(1, vttbr(8, 0x2000)), Ok(()), "another VMID");
        assert_eq!(check.note(2, vttbr(7, 0x2000)), Ok(()), "another generation");
        assert_eq!(check.note(2, vttbr(7, 0x4000)), Err(SharedVmid { other: HostPhys::new(0x2000) }));
    }
}
