// SPDX-License-Identifier: GPL-2.0-only
//! A thread's own registers, as instructions and not as a compiler sees them: filled, left alone for a while, and stored again.
//!
//! Source: Procedure Call Standard for the Arm Architecture, 6.1 (which registers a function keeps).

/// What [`held`] and [`over_system_call`] load, and store again.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// r0 to r12, then LR.
    pub r: [u32; 14],
    /// N, Z, C, V, Q and GE.
    pub apsr: u32,
    /// Rounding and flags.
    pub fpscr: u32,
    /// d0 to d31.
    pub d: [u64; 32],
}

/// What of APSR means anything.
pub const APSR: u32 = 0xf80f_0000;
/// The same of FPSCR.
pub const FPSCR: u32 = 0xf7c0_009f;

impl Registers {
    fn named(&self) -> impl Iterator<Item = (String, u64)> {
        let general = self.r.iter().enumerate().map(|(number, value)| (format!("r{number}"), u64::from(*value)));
        let state = [("APSR".to_owned(), self.apsr.into()), ("FPSCR".to_owned(), self.fpscr.into())];
        let doubles = self.d.iter().enumerate().map(|(number, value)| (format!("d{number}"), *value));
        { general }.chain(state).chain(doubles)
    }

    /// The first register that `after` has something else in.
    pub fn difference(&self, after: &Self) -> String {
        let different = self.named().zip(after.named()).find(|(before, after)| before != after);
        different.map_or(String::new(), |((name, before), (_, after))| format!("{name} was {before:#x}, is {after:#x}"))
    }
}

#[cfg(target_arch = "arm")]
mod arm {
    use super::Registers;
    use std::arch::{asm, naked_asm};
    use std::mem::offset_of;

    const _: () = assert!(offset_of!(Registers, r) == 0);

    /// Has all registers hold `registers` for some thousand instructions, and stores what they then are.
    pub fn held(registers: &mut Registers) {
        // SAFETY: reads and writes the structure; keeps what the procedure call standard wants kept.
        unsafe { nothing(registers) };
    }

    /// The same over one system call, which r0 to r7 say.
    ///
    /// # Safety
    /// The call harms nobody.
    pub unsafe fn over_system_call(registers: &mut Registers) {
        // SAFETY: as in `held`; the call is the caller's business.
        unsafe { call(registers) };
    }

    /// A function that loads all registers, executes something, and stores them.
    macro_rules! with_all_registers {
        ($name:ident: $($what:literal),+) => {
            /// # Safety
            /// `registers` is valid for reads and writes.
            #[unsafe(naked)]
            unsafe extern "C" fn $name(registers: *mut Registers) {
                naked_asm!(
                    ".arm",
                    ".fpu neon-vfpv4",
                    "push {{r4-r11, lr}}",
                    "vpush {{d8-d15}}",
                    "vmrs r1, fpscr",
                    "push {{r0-r2}}", // the structure's place, the caller's FPSCR, and room for r0
                    "add r1, r0, #{d}",
                    "vldmia r1!, {{d0-d15}}",
                    "vldmia r1, {{d16-d31}}",
                    "ldr r1, [r0, #{fpscr}]",
                    "vmsr fpscr, r1",
                    "ldr r1, [r0, #{apsr}]",
                    "msr APSR_nzcvqg, r1",
                    "ldr lr, [r0, #4 * 13]",
                    "ldm r0, {{r0-r12}}",
                    $($what,)+
                    "str r0, [sp, #8]",
                    "ldr r0, [sp]",
                    "str lr, [r0, #4 * 13]",
                    "add r0, r0, #4",
                    "stm r0, {{r1-r12}}",
                    "sub r0, r0, #4",
                    "mrs r1, APSR",
                    "movw r2, #:lower16:{flags}",
                    "movt r2, #:upper16:{flags}",
                    "and r1, r1, r2",
                    "str r1, [r0, #{apsr}]",
                    "vmrs r1, fpscr",
                    "str r1, [r0, #{fpscr}]",
                    "ldr r1, [sp, #8]",
                    "str r1, [r0]",
                    "add r1, r0, #{d}",
                    "vstmia r1!, {{d0-d15}}",
                    "vstmia r1, {{d16-d31}}",
                    "pop {{r0-r2}}",
                    "vmsr fpscr, r1",
                    "vpop {{d8-d15}}",
                    "pop {{r4-r11, pc}}",
                    d = const offset_of!(Registers, d),
                    fpscr = const offset_of!(Registers, fpscr),
                    apsr = const offset_of!(Registers, apsr),
                    flags = const super::APSR,
                )
            }
        };
    }

    with_all_registers!(nothing: ".rept 8192", "nop", ".endr");
    with_all_registers!(call: "svc #0");

    /// TPIDRURO: the C library's thread pointer.
    pub fn thread_pointer() -> u32 {
        let value;
        // SAFETY: reads a register that User mode may read.
        unsafe { asm!("mrc p15, 0, {}, c13, c0, 3", out(reg) value, options(nostack)) };
        value
    }

    /// TPIDRURW: nobody's but the program's, and kept for each thread by the kernel.
    pub fn thread_word() -> u32 {
        let value;
        // SAFETY: reads a register that User mode may read.
        unsafe { asm!("mrc p15, 0, {}, c13, c0, 2", out(reg) value, options(nostack)) };
        value
    }

    /// Writes TPIDRURW.
    pub fn set_thread_word(value: u32) {
        // SAFETY: nothing in these programs, the C library included, uses the register.
        unsafe { asm!("mcr p15, 0, {}, c13, c0, 2", in(reg) value, options(nostack)) };
    }
}

/// So that tests and clippy run on any machine: registers that nobody takes away.
#[cfg(not(target_arch = "arm"))]
mod any {
    use super::Registers;
    use std::cell::Cell;

    thread_local!(static WORD: Cell<u32> = const { Cell::new(0) });

    pub fn held(_: &mut Registers) {}

    /// # Safety
    /// It does nothing.
    pub unsafe fn over_system_call(_: &mut Registers) {}

    pub fn thread_pointer() -> u32 {
        0
    }

    pub fn thread_word() -> u32 {
        WORD.get()
    }

    pub fn set_thread_word(value: u32) {
        WORD.set(value);
    }
}

#[cfg(not(target_arch = "arm"))]
pub use any::*;
#[cfg(target_arch = "arm")]
pub use arm::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        let mut before = Registers { r: [1; 14], apsr: 0, fpscr: 0, d: [2; 32] };
        let mut after = before;
        after.d[17] = 3;
        assert_eq!(before.difference(&after), "d17 was 0x2, is 0x3");
        before.r[4] = 5;
        assert_eq!(before.difference(&after), "r4 was 0x5, is 0x1");
    }
}
