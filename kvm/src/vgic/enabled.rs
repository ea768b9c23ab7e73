// SPDX-License-Identifier: GPL-2.0-only
//! Which interrupts are enabled (GICD_ISENABLER, GICD_ICENABLER).
//!
//! Kept as the words that a guest reads and writes, a word for each vCPU's private interrupts and then one for each 32 SPIs, so
//! that an access costs by what it changes and not by what it covers.

use arch::gic::{MAX_CPUS, MAX_IRQS, PRIVATE_IRQS};

const WORDS: usize = MAX_CPUS + MAX_IRQS.div_ceil(32) - 1;

/// A bit for each interrupt of a VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Enabled([u32; WORDS]);

/// The word with an interrupt's bit.
fn index(vcpu: usize, intid: u32) -> usize {
    let word = intid as usize / 32;
    if (intid as usize) < PRIVATE_IRQS { vcpu } else { MAX_CPUS - 1 + word }
}

impl Enabled {
    /// After reset SGIs are enabled, as real distributors have it (4.3.5), and nothing else.
    pub const RESET: Self = {
        let mut words = [0; WORDS];
        let mut vcpu = 0;
        while vcpu < MAX_CPUS {
            words[vcpu] = 0xffff;
            vcpu += 1;
        }
        Self(words)
    };

    /// Whether an interrupt is enabled; for private ones, this vCPU's.
    pub fn contains(&self, vcpu: usize, intid: u32) -> bool {
        self.word(vcpu, intid) >> (intid % 32) & 1 != 0
    }

    /// The word that interrupt `intid`'s bit is in.
    pub fn word(&self, vcpu: usize, intid: u32) -> u32 {
        self.0.get(index(vcpu, intid)).copied().unwrap_or(0)
    }

    /// Changes a word to `change` of itself; which bits that changed.
    #[inline(always)]
    pub fn change(&mut self, vcpu: usize, intid: u32, change: impl FnOnce(u32) -> u32) -> u32 {
        let Some(word) = self.0.get_mut(index(vcpu, intid)) else { return 0 };
        let before = *word;
        *word = change(before);
        if intid as usize / 32 == MAX_IRQS / 32 {
            // The last numbers of the last word are no interrupts.
            *word &= (1 << (MAX_IRQS % 32)) - 1;
        }
        before ^ *word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_words_are_each_vcpus_and_spis_everybodys() {
        let mut enabled = Enabled::RESET;
        assert!(
            enabled.contains(0, 15) && enabled.contains(7, 0) && !enabled.contains(0, 16) && !enabled.contains(0, 32)
        );
        assert_eq!(enabled.change(3, 31, |word| word | 1 << 27 | 1), 1 << 27);
        assert_eq!([0, 3].map(|vcpu| enabled.contains(vcpu, 27)), [false, true]);
        assert_eq!(enabled.change(0, 1000, |word| word | 1 << 31 | 1 << 27 | 1), 1 << 27 | 1);
        assert_eq!([0, 5].map(|vcpu| enabled.contains(vcpu, 1019)), [true, true]);
        assert_eq!(enabled.change(5, 992, |_| 0), 1 << 27 | 1);
        assert_eq!((enabled.word(3, 0), enabled.word(0, 32), enabled.word(9, 0)), (0x0800_ffff, 0, 0));
    }
}
