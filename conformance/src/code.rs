// SPDX-License-Identifier: GPL-2.0-only
//! Guests of a few instructions: machine code of the Arm instruction set (ARM DDI 0406C.d, A8.8). They start with MMU and caches off.

/// Where a guest that turns its MMU on has its memory.
pub const LOW: u32 = 0x0010_0000;
/// SCTLR as at reset, and M.
pub const SCTLR_MMU: u32 = 0x00c5_0079;
/// The same with C.
pub const SCTLR_MMU_AND_CACHES: u32 = SCTLR_MMU | 1 << 2;
/// A section in a table: Strongly-ordered, full access.
pub const SECTION: u32 = 0xc02;

/// Instructions, in order.
#[derive(Default)]
pub struct Program(Vec<u32>);

/// A place in a [`Program`] to branch to.
#[derive(Clone, Copy)]
pub struct Label(usize);

/// How wide a load or store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// LDR, STR.
    Word,
    /// LDRH, STRH.
    Half,
    /// LDRB, STRB.
    Byte,
    /// LDRSH.
    SignedHalf,
    /// LDRSB.
    SignedByte,
}

impl Program {
    /// No instructions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The instructions.
    pub fn words(&self) -> &[u32] {
        &self.0
    }

    /// Adds an instruction by its encoding.
    pub fn raw(&mut self, word: u32) -> &mut Self {
        self.0.push(word);
        self
    }

    /// `r[rd] = value` (MOVW, MOVT).
    pub fn set(&mut self, rd: u32, value: u32) -> &mut Self {
        let half = |half: u32| (half >> 12) << 16 | rd << 12 | half & 0xfff;
        self.raw(0xe300_0000 | half(value & 0xffff)).raw(0xe340_0000 | half(value >> 16))
    }

    /// Loads `r[rt]` from `[r[rn] + offset]`; `offset` is below 256.
    pub fn load(&mut self, width: Width, rt: u32, rn: u32, offset: u32) -> &mut Self {
        let short = offset >> 4 << 8 | offset & 15;
        let (operation, offset) = match width {
            Width::Word => (0xe590_0000, offset),
            Width::Byte => (0xe5d0_0000, offset),
            Width::Half => (0xe1d0_00b0, short),
            Width::SignedByte => (0xe1d0_00d0, short),
            Width::SignedHalf => (0xe1d0_00f0, short),
        };
        self.raw(operation | rn << 16 | rt << 12 | offset)
    }

    /// Stores `r[rt]` to `[r[rn] + offset]`; `offset` is below 256.
    pub fn store(&mut self, width: Width, rt: u32, rn: u32, offset: u32) -> &mut Self {
        let short = offset >> 4 << 8 | offset & 15;
        let (operation, offset) = match width {
            Width::Word => (0xe580_0000, offset),
            Width::Byte | Width::SignedByte => (0xe5c0_0000, offset),
            Width::Half | Width::SignedHalf => (0xe1c0_00b0, short),
        };
        self.raw(operation | rn << 16 | rt << 12 | offset)
    }

    /// LDR of a word.
    pub fn ldr(&mut self, rt: u32, rn: u32, offset: u32) -> &mut Self {
        self.load(Width::Word, rt, rn, offset)
    }

    /// STR of a word.
    pub fn str(&mut self, rt: u32, rn: u32, offset: u32) -> &mut Self {
        self.store(Width::Word, rt, rn, offset)
    }

    /// `r[rd] += value`, which is below 256.
    pub fn add(&mut self, rd: u32, value: u32) -> &mut Self {
        self.raw(0xe280_0000 | rd << 16 | rd << 12 | value)
    }

    /// MCR: writes `r[rt]` to the system register CP15, opc1 0, `crn`, `crm`, `opc2`.
    pub fn mcr(&mut self, rt: u32, crn: u32, crm: u32, opc2: u32) -> &mut Self {
        self.raw(0xee00_0f10 | crn << 16 | rt << 12 | opc2 << 5 | crm)
    }

    /// Turns the MMU on, over a table at `table` that maps the first 32 MiB, and sets SCTLR so. Uses r0.
    ///
    /// TTBCR.N = 7 makes 128 bytes a whole table of 32 sections (ARM DDI 0406C.d, B3.5.4).
    pub fn mmu_on(&mut self, table: u32, sctlr: u32) -> &mut Self {
        self.set(0, 7 | 1 << 5).mcr(0, 2, 0, 2); // TTBCR: N = 7, PD1
        self.set(0, table).mcr(0, 2, 0, 0); // TTBR0
        self.set(0, 1).mcr(0, 3, 0, 0); // DACR: domain 0 is as the table says
        self.set(0, sctlr).mcr(0, 1, 0, 0).isb()
    }

    /// ISB.
    pub fn isb(&mut self) -> &mut Self {
        self.raw(0xf57f_f06f)
    }

    /// HVC #0.
    pub fn hvc(&mut self) -> &mut Self {
        self.raw(0xe140_0070)
    }

    /// WFI.
    pub fn wfi(&mut self) -> &mut Self {
        self.raw(0xe320_f003)
    }

    /// Here.
    pub fn label(&self) -> Label {
        Label(self.0.len())
    }

    /// Branches back to `to`.
    pub fn branch(&mut self, to: Label) -> &mut Self {
        self.raw(0xea00_0000 | self.back(to))
    }

    /// Branches back to the first instruction.
    pub fn branch_to_start(&mut self) -> &mut Self {
        self.branch(Label(0))
    }

    /// Branches back to `to` if the last comparison found equality.
    pub fn branch_if_equal(&mut self, to: Label) -> &mut Self {
        self.raw(0x0a00_0000 | self.back(to))
    }

    /// Branches back to `to` if the last comparison found a difference.
    pub fn branch_unless_equal(&mut self, to: Label) -> &mut Self {
        self.raw(0x1a00_0000 | self.back(to))
    }

    /// The offset that a branch from here to `to` has.
    fn back(&self, to: Label) -> u32 {
        (to.0 as i32 - self.0.len() as i32 - 2) as u32 & 0x00ff_ffff
    }

    /// Stays here for ever.
    pub fn stay(&mut self) -> &mut Self {
        let here = self.label();
        self.branch(here)
    }

    /// Calls the firmware: `function` in r0, the answer in r0.
    pub fn call(&mut self, function: u32) -> &mut Self {
        self.set(0, function).hvc()
    }

    /// Ends the virtual machine; should that fail, stays.
    pub fn power_off(&mut self) -> &mut Self {
        self.call(uapi::psci::SYSTEM_OFF).stay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_an_assemblers() {
        let mut program = Program::new();
        program
            .set(1, 0x1234_5678)
            .ldr(2, 1, 4)
            .load(Width::SignedByte, 3, 1, 0x21)
            .store(Width::Half, 4, 1, 0x12)
            .add(2, 1)
            .mcr(6, 2, 0, 2)
            .isb()
            .stay();
        // movw r1, #0x5678; movt r1, #0x1234; ldr r2, [r1, #4]; ldrsb r3, [r1, #33]; strh r4, [r1, #18]; add r2, r2, #1; mcr p15, 0, r6, c2, c0, 2; isb; b .
        let expected = [
            0xe305_1678,
            0xe341_1234,
            0xe591_2004,
            0xe1d1_32d1,
            0xe1c1_41b2,
            0xe282_2001,
            0xee02_6f50,
            0xf57f_f06f,
            0xeaff_fffe,
        ];
        assert_eq!(program.words(), expected);
    }
}
