// SPDX-License-Identifier: GPL-2.0-only
//! Choices by a seed: the generators' randomness, and the values that faults hide behind.

use fastrand::Rng;

/// The generator of one of the many that a run has: its own, whatever the others do.
pub fn stream(seed: u64, number: u64) -> Rng {
    let mut first = Rng::with_seed(seed);
    Rng::with_seed(first.u64(..) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What the generators draw.
pub trait Values {
    /// True one time in `count`.
    fn one_in(&mut self, count: u32) -> bool;

    /// One of these.
    fn of<T: Copy>(&mut self, choices: &[T]) -> T;

    /// A number as numbers are often off by: small, a power of two, just below one, at the end, or any.
    fn value(&mut self) -> u64;

    /// The same of 32 bits.
    fn word(&mut self) -> u32 {
        let value = self.value();
        (value >> 32) as u32 ^ value as u32
    }
}

impl Values for Rng {
    fn one_in(&mut self, count: u32) -> bool {
        self.u32(..count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.usize(..choices.len())]
    }

    fn value(&mut self) -> u64 {
        match self.u32(..6) {
            0 => self.u64(..64),
            1 => 1 << self.u32(..64),
            2 => (1u64 << self.u32(..64)).wrapping_sub(self.u64(..3)),
            3 => u64::MAX - self.u64(..0x2000),
            4 => u64::from(u32::MAX) - self.u64(..0x2000),
            _ => self.u64(..),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, number| {
            std::array::from_fn::<u64, 8, _>({
                let mut random = stream(seed, number);
                move |_| random.value()
            })
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }
}
