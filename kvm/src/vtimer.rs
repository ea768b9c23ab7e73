// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's Generic Timers.
//!
//! The *virtual* timer is hardware: the world switch loads CNTV_CTL, CNTV_CVAL and CNTVOFF, and its interrupt reaches the
//! host as long as the vCPU is loaded. What is needed here is to tell, while it is not loaded, whether its output is
//! asserted (the input of the vCPU's PPI 27 in the vGIC) and at which count of the host it will be, to wake the vCPU from WFI.
//!
//! The *physical* timer is the host's, so the guest's accesses to it trap (CNTHCTL.PL1PCEN clear) and [`PhysicalTimer`]
//! answers them; the host's own timers stand in for its comparator. The physical counter itself is the host's for all.
//!
//! A comparator's condition is met while the count, as an unsigned number, is at or past the compare value; the output is
//! asserted while it is met, ENABLE is set and IMASK is not (ARM DDI 0406C.d, B8.1.5). Counts are 64 bits wide; the offset
//! subtraction wraps, the comparison does not, so a compare value close to 2^64 is never reached, whatever the offset.
//!
//! Source: ARM DDI 0406C.d, B8.1.

use hyp_abi::context::Timer;

/// The PPI that the virtual timer drives, unless the VM says otherwise.
pub const VIRTUAL_PPI: u32 = 27;
/// The PPI that the physical timer drives, unless the VM says otherwise.
pub const PHYSICAL_PPI: u32 = 30;

/// CTL.ENABLE: the comparator works (B4.1).
pub const CTL_ENABLE: u32 = 1 << 0;
/// CTL.IMASK: the output is held down.
pub const CTL_IMASK: u32 = 1 << 1;
/// CTL.ISTATUS: the condition is met. Read only.
pub const CTL_ISTATUS: u32 = 1 << 2;

/// A comparator's output at this count.
fn output(ctl: u32, cval: u64, count: u64) -> bool {
    ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE && count >= cval
}

/// How many counts from `count` on the output will be asserted; zero where it is. `None`: never, as things stand.
fn until_output(ctl: u32, cval: u64, count: u64) -> Option<u64> {
    (ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE).then(|| cval.saturating_sub(count))
}

/// The virtual timer's count when the host's is `now`.
pub fn virtual_count(timer: &Timer, now: u64) -> u64 {
    now.wrapping_sub(timer.cntvoff)
}

/// The CNTVOFF with which the virtual count is `count` when the host's is `now`.
pub fn offset_for(count: u64, now: u64) -> u64 {
    now.wrapping_sub(count)
}

/// Whether the virtual timer's output is asserted when the host's count is `now`.
pub fn asserted(timer: &Timer, now: u64) -> bool {
    output(timer.ctl, timer.cval, virtual_count(timer, now))
}

/// The host's count at which the virtual timer's output will be asserted; `now` where it is already. `None`: never, unless
/// its registers change (off, masked, or past the end of the host's counter).
pub fn deadline(timer: &Timer, now: u64) -> Option<u64> {
    now.checked_add(until_output(timer.ctl, timer.cval, virtual_count(timer, now))?)
}

/// CNTV_CTL as the guest or a debugger reads it: with ISTATUS of now.
pub fn control(timer: &Timer, now: u64) -> u32 {
    read_control(timer.ctl, timer.cval, virtual_count(timer, now))
}

/// ISTATUS is UNKNOWN while ENABLE is clear; it tells the condition then too, as KVM's does.
fn read_control(ctl: u32, cval: u64, count: u64) -> u32 {
    ctl & (CTL_ENABLE | CTL_IMASK) | if count >= cval { CTL_ISTATUS } else { 0 }
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
pub struct PhysicalTimer {
    ctl: u32,
    cval: u64,
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
            Register::Control => self.ctl = value as u32 & (CTL_ENABLE | CTL_IMASK),
            Register::TimerValue => self.cval = now.wrapping_add_signed((value as i32).into()),
            Register::CompareValue => self.cval = value,
        }
    }

    /// Whether the output, the input of the vCPU's PPI 30, is asserted when the count is `now`.
    pub fn asserted(&self, now: u64) -> bool {
        output(self.ctl, self.cval, now)
    }

    /// The count at which the output will be asserted; `now` where it is already. `None`: never, unless registers change.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        now.checked_add(until_output(self.ctl, self.cval, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timer(ctl: u32, cval: u64, cntvoff: u64) -> Timer {
        Timer { ctl, cval, cntvoff, reserved: 0 }
    }

    #[test]
    fn output_needs_enable_no_mask_and_the_count() {
        for (ctl, now, expected) in
            [(1, 1099, false), (1, 1100, true), (3, 1100, false), (0, 1100, false), (5, 1101, true)]
        {
            assert_eq!(asserted(&timer(ctl, 100, 1000), now), expected, "{ctl} {now}");
        }
        assert_eq!(deadline(&timer(1, 100, 1000), 1040), Some(1100));
        assert_eq!(deadline(&timer(1, 100, 1000), 1140), Some(1140));
        assert_eq!(deadline(&timer(3, 100, 1000), 1040), None);
        assert_eq!(deadline(&timer(0, 100, 1000), 1040), None);
    }

    #[test]
    fn a_compare_value_at_the_end_of_time_is_never_reached() {
        assert_eq!(deadline(&timer(1, u64::MAX, 1000), 5000), None);
        assert!(!asserted(&timer(1, u64::MAX, 1000), 5000));
    }

    #[test]
    fn the_offset_sets_the_virtual_count() {
        let timer = timer(0, 0, offset_for(7, 1_000));
        assert_eq!((virtual_count(&timer, 1_000), virtual_count(&timer, 1_010)), (7, 17));
        let ahead = Timer { cntvoff: offset_for(5_000, 1_000), ..timer };
        assert_eq!(virtual_count(&ahead, 1_001), 5_001);
    }

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

    proptest! {
        #[test]
        fn the_deadline_is_the_first_asserted_count(
            ctl in 0u32..8, cval in any::<u64>(), cntvoff in any::<u64>(), now in any::<u64>(),
        ) {
            let timer = timer(ctl, cval, cntvoff);
            match deadline(&timer, now) {
                Some(at) => {
                    prop_assert!(at >= now && asserted(&timer, at));
                    prop_assert!(at == now || !asserted(&timer, at - 1));
                }
                None => prop_assert!(!asserted(&timer, now)),
            }
        }
    }
}
