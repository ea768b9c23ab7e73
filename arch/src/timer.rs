// SPDX-License-Identifier: GPL-2.0-only
//! A Generic Timer's comparator: what its registers read, and when its output is asserted.
//!
//! The condition is met while the count, as an unsigned number, is at or past the compare value; the output is asserted while it
//! is met, ENABLE is set and IMASK is not. Counts are 64 bits wide and the comparison does not wrap, so a compare value close to
//! 2^64 is never reached.
//!
//! [`PhysicalTimer`] is a comparator for the guest's physical timer, which is the host's in hardware: accesses trap
//! (CNTHCTL.PL1PCEN clear) and are answered from it.
//!
//! Source: ARM DDI 0406C.d, B8.1.5 (timers), B4.1 (CNTP_CTL, CNTP_TVAL, CNTP_CVAL).

use crate::hyp_registers::CntCtl;

/// The bits of CTL that software sets; ISTATUS is read only.
pub const CTL_WRITABLE: u32 = CntCtl::ENABLE.bits() | CntCtl::IMASK.bits();

/// Whether there is an output to be asserted: ENABLE is set and IMASK is not.
pub const fn is_on(ctl: u32) -> bool {
    ctl & CTL_WRITABLE == CntCtl::ENABLE.bits()
}

/// A comparator's output at this count.
pub const fn output(ctl: u32, cval: u64, count: u64) -> bool {
    is_on(ctl) && count >= cval
}

/// How many counts from `count` on the output will be asserted; zero where it is. `None`: never, as things stand.
pub const fn until_output(ctl: u32, cval: u64, count: u64) -> Option<u64> {
    if is_on(ctl) { Some(cval.saturating_sub(count)) } else { None }
}

/// What CTL reads. ISTATUS is UNKNOWN while ENABLE is clear; it tells the condition then too, as KVM's does.
pub const fn read_control(ctl: u32, cval: u64, count: u64) -> u32 {
    ctl & CTL_WRITABLE | if count >= cval { CntCtl::ISTATUS.bits() } else { 0 }
}

/// A register of the physical timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// CNTP_CTL, 32 bits.
    Control,
    /// CNTP_TVAL, 32 bits: how far the compare value is ahead, as a signed number.
    TimerValue,
    /// CNTP_CVAL, 64 bits.
    CompareValue,
}

/// The emulated physical timer of a vCPU.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PhysicalTimer {
    cval: u64,
    ctl: u32,
    reserved: u32,
}

impl PhysicalTimer {
    /// What the guest reads when the count is `now`. Registers of 32 bits leave the upper half zero.
    pub fn read(&self, register: Register, now: u64) -> u64 {
        match register {
            Register::Control => read_control(self.ctl, self.cval, now).into(),
            Register::TimerValue => u64::from(self.cval.wrapping_sub(now) as u32),
            Register::CompareValue => self.cval,
        }
    }

    /// What the guest writes when the count is `now`. Registers of 32 bits take the lower half.
    pub fn write(&mut self, register: Register, value: u64, now: u64) {
        match register {
            Register::Control => self.ctl = value as u32 & CTL_WRITABLE,
            Register::TimerValue => self.cval = now.wrapping_add_signed((value as i32).into()),
            Register::CompareValue => self.cval = value,
        }
    }

    /// Whether the output is asserted when the count is `now`.
    pub fn asserted(&self, now: u64) -> bool {
        output(self.ctl, self.cval, now)
    }

    /// Whether it ever is, unless registers change.
    pub fn is_on(&self) -> bool {
        is_on(self.ctl)
    }

    /// The count at which the output will be asserted; `now` where it is already, which is asked for only if the timer is on.
    /// `None`: never, unless registers change.
    pub fn deadline(&self, now: impl FnOnce() -> u64) -> Option<u64> {
        if !is_on(self.ctl) {
            return None;
        }
        let now = now();
        now.checked_add(until_output(self.ctl, self.cval, now)?)
    }
}

/// How long ticks of the counter take: nanoseconds in one tick with 32 bits behind the point, rounded up.
///
/// A multiplication instead of the division that the question asks for: cores here divide 64 bits in software, and a vCPU asks
/// whenever it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickLength(pub u64);

impl TickLength {
    /// That of a counter of so many Hz. `None`: of 0 Hz.
    pub const fn of_hertz(hertz: u32) -> Option<Self> {
        match (1_000_000_000_u64 << 32).checked_div(hertz as u64) {
            Some(length) => Some(Self(length + 1)),
            None => None,
        }
    }

    /// Nanoseconds that a number of ticks takes, never too few; too many by less than one in 2^32 a tick, and one. What does not
    /// fit is the longest time that a signed 64-bit number holds.
    pub const fn times(self, ticks: u64) -> u64 {
        let nanoseconds = ((ticks as u128 * self.0 as u128) >> 32) + 1;
        if nanoseconds < i64::MAX as u128 { nanoseconds as u64 } else { i64::MAX as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timer_value_is_a_signed_distance() {
        let mut timer = PhysicalTimer::default();
        timer.write(Register::TimerValue, 50, 1_000);
        assert_eq!(timer.read(Register::CompareValue, 0), 1_050);
        assert_eq!(timer.read(Register::TimerValue, 1_020), 30);
        assert_eq!(timer.read(Register::TimerValue, 1_060), u64::from(-10_i32 as u32));
        timer.write(Register::TimerValue, u64::from(-1_i32 as u32), 1_000);
        assert_eq!(timer.read(Register::CompareValue, 0), 999);
        timer.write(Register::TimerValue, 0xffff_ffff_7fff_ffff, 0);
        assert_eq!(timer.read(Register::CompareValue, 0), 0x7fff_ffff, "the upper half is not the register's");
    }

    #[test]
    fn control_keeps_two_bits_and_tells_a_third() {
        let mut timer = PhysicalTimer::default();
        timer.write(Register::CompareValue, 1 << 40, 0);
        timer.write(Register::Control, 0xffff_fffd, 0);
        assert_eq!(timer.read(Register::Control, 0), 1);
        assert_eq!(timer.read(Register::Control, 1 << 40), 5);
        assert!(timer.asserted(1 << 40) && !timer.asserted((1 << 40) - 1));
        timer.write(Register::Control, 3, 0);
        assert_eq!(timer.read(Register::Control, 1 << 40), 7, "masked, yet the status shows");
        assert!(!timer.asserted(1 << 40));
    }

    #[test]
    fn ticks_have_their_length() {
        let length = TickLength::of_hertz(62_500_000).unwrap();
        assert_eq!([0, 1, 6250].map(|ticks| length.times(ticks)), [1, 17, 100_001]);
        assert_eq!(TickLength::of_hertz(1).unwrap().times(u64::MAX), i64::MAX as u64);
        assert_eq!(TickLength::of_hertz(0), None);
    }

    proptest! {
        #[test]
        fn a_time_is_never_too_short_and_hardly_too_long(hertz in 1u32.., ticks in 0..1u64 << 48) {
            let time = u128::from(TickLength::of_hertz(hertz).unwrap().times(ticks));
            let (exact, most) = (u128::from(ticks) * 1_000_000_000, i64::MAX as u128);
            prop_assert!(time == most || time * u128::from(hertz) >= exact);
            prop_assert!(time <= exact / u128::from(hertz) + u128::from(ticks >> 32) + 2);
        }
    }

    proptest! {
        #[test]
        fn the_deadline_is_the_first_asserted_count(ctl in 0u32..8, cval: u64, now: u64) {
            let mut timer = PhysicalTimer::default();
            timer.write(Register::CompareValue, cval, now);
            timer.write(Register::Control, ctl.into(), now);
            match timer.deadline(|| now) {
                Some(at) => {
                    prop_assert!(at >= now && timer.asserted(at));
                    prop_assert!(at == now || !timer.asserted(at - 1));
                }
                None => prop_assert!(!timer.asserted(now)),
            }
        }
    }
}
