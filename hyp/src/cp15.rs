// SPDX-License-Identifier: GPL-2.0-only
//! The CP15 registers of the PL1&0 regime: one list, saved and loaded alike.
//!
//! TTBCR is not in the lists: it is what allows table walks, and so is written first and last ([`crate::tlb::forbid_walks`]). With
//! walks off the order of the others does not matter, CONTEXTIDR against TTBR0 included (B3.10.4). SCTLR takes effect at the
//! return from Hyp mode, which synchronises (B3.15.5): Hyp mode itself runs by HSCTLR.
//!
//! CSSELR selects what CCSIDR shows, DFSR to IFAR are what the last abort reported, PAR what the last address translation did:
//! all of them a guest can change, and a host may be between writing and reading them.

use crate::sysreg::*;
use hyp_abi::context::Cp15;

macro_rules! list {
    ($($name:ident)*) => {
        /// Stores the registers, all but TTBCR.
        #[inline(always)]
        pub fn save(to: &mut Cp15) {
            $(to.$name = $name::read();)*
        }

        /// Loads the registers, all but TTBCR.
        ///
        /// # Safety
        /// Walks are off, and `from` is of the world that VTTBR is or is going to be set to before they are allowed again.
        #[inline(always)]
        pub unsafe fn load(from: &Cp15) {
            $(
                // SAFETY: a register of the PL1&0 regime, which is not in use until the next ERET; promised by the caller.
                unsafe { $name::write(from.$name) };
            )*
        }
    };
}

list! {
    csselr sctlr cpacr ttbr0 ttbr1 dacr dfsr ifsr adfsr aifsr dfar ifar par prrr nmrr amair0 amair1 vbar contextidr tpidrurw tpidruro
    tpidrprw cntkctl
}
