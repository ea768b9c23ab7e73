// SPDX-License-Identifier: GPL-2.0-only
//! Random instructions of both instruction sets, most of them such that a hypervisor has to do with them.
//!
//! A template is an encoding and a mask of the bits that may be anything; purely random words would nearly always be undefined or dull.
//! Coprocessor instructions are the same in both sets but for the order of the halfwords. Before an access or a call, r0 to r2
//! are mostly given values that mean something to it. What follows an instruction that is undefined, or aborts, is up to the vectors.
//!
//! Source: ARM DDI 0406C.d, A5 (Arm encodings), A6 (Thumb encodings), B3.17 (CP15 by number), B9.3 (banked registers, HVC, SMC, ERET).

use fastrand::Rng;
use uapi::psci;

use crate::image::{ARM, BYTES, DEVICE, GICC, GICD, LONG_TABLE, RAM, READ_ONLY, SHORT_TABLE, THUMB};
use crate::values::Values;

/// An encoding, and which of its bits may be anything.
type Template = (u32, u32);

/// Coprocessors: MCR and MRC, MCRR and MRRC, CDP, LDC and STC, of CP14 and CP15 and of those that are not there; VMSR and VMRS.
const COPROCESSOR: [Template; 12] = [
    (0xee00_0f10, 0x00ff_f0ef),
    (0xee00_0f10, 0x00ff_f0ef),
    (0xee00_0e10, 0x00ff_f0ef),
    (0xee00_0e10, 0x00ff_f0ef),
    (0xee00_0010, 0x00ff_ffef),
    (0xec40_0f00, 0x001f_f0ff),
    (0xec40_0e00, 0x001f_f0ff),
    (0xec40_0000, 0x001f_ffff),
    (0xee00_0000, 0x00ff_ffef),
    (0xec00_0e00, 0x01ff_f0ff),
    (0xee00_0a10, 0x001f_f000), // VMSR, VMRS, and their neighbours
    (0xfe00_0f10, 0x00ff_f0ef), // MCR2 and MRC2
];

/// VFP and NEON: data processing, loads and stores, transfers.
const FLOATING: [Template; 8] = [
    (0xee00_0a00, 0x00ff_f1ef),
    (0xee00_0b00, 0x00ff_f1ef),
    (0xed91_0a00, 0x0060_f107), // VLDR, VSTR by r1
    (0xec81_0b00, 0x0030_f00e), // VLDM, VSTM by r1
    (0xec40_0a10, 0x001f_f12f),
    (0xf200_0000, 0x01ff_ffff),
    (0xf421_070f, 0x0000_f0f0), // VLD1, VST1 by r1
    (0xf401_0000, 0x02f0_ffff),
];

/// State: MSR and MRS, banked ones among them, CPS, SETEND, SRS, RFE, ERET, LDM and STM of User registers and with PC.
const STATE: [Template; 14] = [
    (0xe120_f000, 0x004f_000f),
    (0xe328_f000, 0x004f_00ff),
    (0xe321_f010, 0x0040_00cf), // MSR CPSR_c, to some mode
    (0xe100_0000, 0x0040_f000),
    (0xe100_0200, 0x004f_f100), // MRS of a banked register
    (0xe120_f200, 0x004f_010f), // MSR of a banked register
    (0xf100_0000, 0x000e_01df),
    (0xf102_0010, 0x0000_000f), // CPS to some mode
    (0xf101_0000, 0x0000_0200), // SETEND
    (0xf84d_0500, 0x01a0_001f), // SRS
    (0xf811_0a00, 0x01a0_0000), // RFE by r1
    (0xe851_0004, 0x0180_ff00), // LDM of User registers
    (0xe160_006e, 0),           // ERET
    (0xe1b0_f00e, 0),           // MOVS PC, LR
];

/// Calls and hints: SVC, SMC, HVC, BKPT, UDF, WFE, SEV, YIELD, DBG, barriers, CLREX, preloads. WFI waits long: it is apart.
const CALLS: [Template; 14] = [
    (0xef00_0000, 0x0000_ffff),
    (0xe160_0070, 0x0000_000f),
    (0xe140_0070, 0x000f_ff0f),
    (0xe120_0070, 0x000f_ff0f),
    (0xe7f0_00f0, 0x000f_ff0f),
    (0xe320_f002, 0),
    (0xe320_f004, 0),
    (0xe320_f001, 0),
    (0xe320_f0f0, 0x0000_000f),
    (0xf57f_f040, 0x0000_000f),
    (0xf57f_f050, 0x0000_000f),
    (0xf57f_f060, 0x0000_000f),
    (0xf57f_f01f, 0),
    (0xf551_f000, 0x0080_0fff),
];

/// Loads and stores of r2 (and r3) by the address in r1, with and without a syndrome, and none that changes r1 far.
const ACCESS: [Template; 20] = [
    (0xe591_2000, 0x0000_000c),
    (0xe581_2000, 0x0000_000c),
    (0xe591_2000, 0),
    (0xe581_2000, 0),
    (0xe5d1_2000, 0x0000_0003),
    (0xe5c1_2000, 0x0000_0003),
    (0xe1d1_20b0, 0x0000_0002),
    (0xe1c1_20b0, 0x0000_0002),
    (0xe1d1_20d0, 0x0000_0023), // LDRSB, LDRSH
    (0xe1c1_20d0, 0x0000_0008), // LDRD
    (0xe1c1_20f0, 0x0000_0008), // STRD
    (0xe881_0000, 0x0030_1ffc), // LDM, STM
    (0xe5b1_2004, 0),           // LDR, writeback
    (0xe4a1_2004, 0x0010_0000), // STRT, LDRT
    (0xe191_2f9f, 0x0060_0000), // LDREX, LDREXD, LDREXB, LDREXH
    (0xe181_3f92, 0x0060_0000), // STREX and so on
    (0xe101_3092, 0x0040_0000), // SWP, SWPB
    (0xe791_2000, 0x0000_0fe0), // by r0
    (0xe591_f000, 0),           // LDR PC
    (0xe591_2000, 0x0000_0fff),
];

/// Functions of the firmware's, and numbers that are none.
const FUNCTIONS: [u32; 18] = [
    psci::PSCI_VERSION,
    psci::CPU_SUSPEND,
    psci::CPU_OFF,
    psci::CPU_ON,
    psci::CPU_ON,
    psci::AFFINITY_INFO,
    psci::MIGRATE,
    psci::MIGRATE_INFO_TYPE,
    psci::PSCI_FEATURES,
    psci::SMCCC_VERSION,
    psci::SMCCC_ARCH_FEATURES,
    psci::SMCCC_ARCH_WORKAROUND_1,
    psci::SMCCC_ARCH_WORKAROUND_2,
    psci::KVM_PSCI_FN_CPU_ON,
    psci::KVM_PSCI_FN_CPU_OFF,
    0xc400_0003,
    0xffff_ffff,
    0,
];

/// Words of instructions.
pub struct Writer<'a> {
    random: &'a mut Rng,
    thumb: bool,
    /// Arm words, or Thumb halfwords two by two.
    halves: Vec<u16>,
}

/// So many words of random instructions.
pub fn words(random: &mut Rng, count: usize, thumb: bool) -> Vec<u32> {
    let mut writer = Writer { random, thumb, halves: Vec::new() };
    while writer.halves.len() < count * 2 {
        writer.anything();
    }
    writer.halves.truncate(count * 2);
    writer.halves.chunks_exact(2).map(|two| u32::from(two[1]) << 16 | u32::from(two[0])).collect()
}

impl Writer<'_> {
    /// An instruction that has the same encoding in both sets, or is one in its own.
    fn raw(&mut self, word: u32) {
        let (low, high) = (word as u16, (word >> 16) as u16);
        self.halves.extend(if self.thumb { [high, low] } else { [low, high] });
    }

    fn template(&mut self, templates: &[Template]) {
        let (fixed, free) = self.random.of(templates);
        let word = fixed | self.random.u32(..) & free;
        // A condition that may fail, where the encoding has one.
        let conditional = !self.thumb && word >> 28 == 14 && self.random.one_in(8);
        let condition = if conditional { self.random.u32(..14) } else { word >> 28 };
        self.raw(word & 0x0fff_ffff | condition << 28);
    }

    /// `r[rd] = value` (MOVW, MOVT).
    fn set(&mut self, rd: u32, value: u32) {
        for (arm, thumb, half) in [(0xe300_0000, 0xf240_0000, value & 0xffff), (0xe340_0000, 0xf2c0_0000, value >> 16)]
        {
            self.raw(if self.thumb {
                thumb | (half >> 12) << 16 | (half >> 11 & 1) << 26 | (half >> 8 & 7) << 12 | rd << 8 | half & 0xff
            } else {
                arm | (half >> 12) << 16 | rd << 12 | half & 0xfff
            });
        }
    }

    /// MCR of r0.
    fn mcr(&mut self, opc1: u32, crn: u32, crm: u32, opc2: u32) {
        self.raw(0xee00_0f10 | opc1 << 21 | crn << 16 | opc2 << 5 | crm);
    }

    fn anything(&mut self) {
        match self.random.u32(..40) {
            0..=4 => self.known_register(),
            5..=7 => self.template(&COPROCESSOR),
            8..=14 => self.access(),
            15..=17 => self.firmware(),
            18 | 19 => {
                self.point();
                self.template(&FLOATING);
            }
            20..=22 if self.thumb => self.thumb_state(),
            20..=22 => {
                self.point();
                self.template(&STATE);
            }
            23 | 24 => self.template(&CALLS),
            25 => self.memory_management(),
            26 | 27 => self.timer(),
            28 => self.branch(),
            29 => self.interrupts(),
            30..=33 if self.thumb => self.halves.push(self.random.u16(..)),
            30 | 31 => {
                let (rd, value) = (self.random.u32(..15), self.random.word());
                self.set(rd, value);
            }
            // Data processing and multiplication, of anything.
            32..=34 => self.template(&[(0xe000_0000, 0x03ff_efff), (0xe280_0000, 0x01ff_efff)]),
            35 if self.random.one_in(4) => self.raw(if self.thumb { 0xbf30_bf30 } else { 0xe320_f003 }), // WFI
            _ => {
                let word = self.random.u32(..);
                self.raw(word);
            }
        }
    }

    /// r1 points at something that is there, or not.
    fn point(&mut self) {
        if self.random.one_in(4) {
            return;
        }
        let somewhere = self.random.word();
        let base = self.random.of(&[RAM, RAM, RAM, GICD, GICC, DEVICE, READ_ONLY, 0, 0xffff_0000, RAM - 8, somewhere]);
        let offset = self.random.of(&[0, 0xf000, 0xff8, 0xffe, BYTES as u32 - 8]) + self.random.u32(..16);
        self.set(1, base.wrapping_add(offset));
    }

    /// A load or store: of the GIC half of the time.
    fn access(&mut self) {
        if self.random.one_in(2) {
            self.point();
        } else {
            let register = self.random.of(&[
                0, 4, 8, 0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0x800, 0xc00, 0xe00, 0xf00, 0xf10,
                0xf20, 0xfd0,
            ]);
            let at = match self.random.u32(..4) {
                0 => {
                    GICC + self
                        .random
                        .of(&[0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0xd0, 0xe0, 0xfc, 0x1000])
                }
                1 => GICD + self.random.u32(..0x1000),
                _ => GICD + register + self.random.u32(..0x80) * self.random.of(&[0, 0, 1, 4]),
            };
            self.set(1, at);
        }
        if self.random.one_in(2) {
            let value = self.random.word();
            self.set(2, value);
        }
        if self.thumb && self.random.one_in(2) {
            // The 32-bit forms: LDR, STR, bytes and halfwords; LDRD, STRD; LDM, STM; LDREX, STREX.
            self.template(&[
                (0xf8c1_2000, 0x0010_0ffc),
                (0xf881_2000, 0x0030_0fff),
                (0xf991_2000, 0x0020_0fff),
                (0xf841_2b04, 0x0010_0000),
                (0xe9c1_2300, 0x0010_00ff),
                (0xe881_0000, 0x0030_0ffc),
                (0xe851_2f00, 0x0000_00ff),
                (0xe841_2300, 0x0000_00ff),
            ]);
        } else if self.thumb {
            let half =
                self.random.of(&[0x600a, 0x680a, 0x700a, 0x780a, 0x800a, 0x880a, 0xc10c, 0xc90c, 0x500a, 0x5e0a]);
            self.halves.push(half);
        } else {
            self.template(&ACCESS);
        }
    }

    fn firmware(&mut self) {
        let ends = self.random.one_in(20);
        let functions: &[u32] = if ends { &[psci::SYSTEM_OFF, psci::SYSTEM_RESET] } else { &FUNCTIONS };
        let function = self.random.of(functions);
        let (any, two) = (self.random.word(), self.random.word());
        let one = self.random.of(&[0, 1, 2, 3, 0x8000_0001, any]);
        let entry = self.random.of(&[ARM, ARM + 0x40, THUMB | 1, THUMB | 1, two]);
        self.set(0, function);
        self.set(1, one);
        self.set(2, entry);
        let (hvc, smc) = if self.thumb { (0xf7e0_8000, 0xf7f0_8000) } else { (0xe140_0070, 0xe160_0070) };
        let call = self.random.of(&[hvc, hvc, hvc, smc]);
        self.raw(call);
    }

    /// A register of CP15 that is there, or its neighbour, read or written.
    fn known_register(&mut self) {
        let crn = self.random.of(&[0, 1, 1, 2, 3, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        let crm: &[u32] = match crn {
            0 => &[0, 1, 2],
            5 | 12 => &[0, 1],
            7 => &[0, 1, 4, 5, 6, 8, 10, 11, 13, 14],
            8 => &[3, 5, 6, 7],
            9 => &[0, 1, 12, 13, 14],
            10 | 14 => &[0, 1, 2, 3],
            15 => &[0, 1, 4, 7],
            _ => &[0],
        };
        let crm = self.random.of(crm);
        let opc1 = self.random.of(&[0, 0, 0, 0, 1, 2, 4]);
        if self.random.one_in(3) {
            let value = self.random.word();
            self.set(0, value);
        }
        let word = 0xee00_0f10 | opc1 << 21 | crn << 16 | self.random.u32(..8) << 5 | crm;
        // Writes from r0; reads to any, the flags (r15) among them.
        let read = self.random.one_in(2);
        let to = self.random.of(&[2, 3, 4, 9, 12, 13, 14, 15]);
        self.raw(if read { word | 1 << 20 | to << 12 } else { word });
    }

    /// Another translation: a table of one of the formats, attributes, SCTLR.
    fn memory_management(&mut self) {
        let long = self.random.one_in(2);
        let table = if long { LONG_TABLE } else { SHORT_TABLE };
        let (some, any) = (self.random.u32(..0x80), self.random.word());
        let attributes = self.random.of(&[0, 0x4a, 0x59, 0x6a, some]);
        let tables = self.random.of(&[table, table, table, 0, GICD, RAM - 0x4000, any]);
        let size = self.random.of(&[0, 0, 0, 1, 7]);
        let disabled = self.random.of(&[0, 0, 0, 0x10, 0x20, 0x80, 0x0080_0000]);
        let ttbcr = if long { 1 << 31 | size << 16 | size | disabled } else { size | disabled & 0x30 };
        let domains = self.random.of(&[0x5555_5555, 0xffff_ffff, 1, 3, any]);
        let kinds = self.random.of(&[0xff44_04bb, 0x00ff_44ee, 0x000a_81a4, any.rotate_left(16)]);
        let more = self.random.u32(..) & self.random.of(&[0, 0, 0x7230_7807]);
        let toggled = self.random.of(&[1, 1, 1, 5, 4, 0x1005, 0x1001]) | more;
        for (value, crn, crm, opc2) in [
            (ttbcr, 2, 0, 2),
            (tables | attributes, 2, 0, 0),
            (table | attributes, 2, 0, 1),
            (domains, 3, 0, 0),
            (kinds, 10, 2, 0),
            (kinds.rotate_left(8), 10, 2, 1),
            (0x00c5_0078 ^ toggled, 1, 0, 0),
        ] {
            if !self.random.one_in(12) {
                self.set(0, value);
                self.mcr(0, crn, crm, opc2);
            }
        }
        self.mcr(0, 8, 7, 0); // TLBIALL
        self.raw(if self.thumb { 0xf3bf_8f6f } else { 0xf57f_f06f }); // ISB
    }

    /// A timer, soon or never, virtual or physical.
    fn timer(&mut self) {
        let any = self.random.word();
        let value = self.random.of(&[0, 1, 2, 3, 100, 2000, 20000, u32::MAX, any]);
        self.set(0, value);
        let crm = self.random.of(&[1, 2, 2, 3, 3, 3]);
        let opc2 = self.random.of(&[0, 1, 1]);
        match self.random.u32(..4) {
            0 => self.template(&[(0xec40_0f0e, 0x0010_00f0), (0xec42_0f0e, 0x0010_00f0), (0xec51_0f1e, 0)]), // CVAL, counts
            1 => self.raw(0xee11_2f10 | 14 << 16 | crm | opc2 << 5),
            _ => self.mcr(0, 14, crm, opc2),
        }
    }

    /// A branch, not far, or to the other instruction set.
    fn branch(&mut self) {
        let to = self.random.of(&[ARM, ARM, THUMB | 1, RAM, 0, 0xffff_0000]) + self.random.u32(..512) * 4;
        match self.random.u32(..4) {
            0 => {
                self.set(0, to);
                // BX, BXJ, BLX r0; Thumb's BX and BLX.
                if self.thumb {
                    let half = self.random.of(&[0x4700, 0x4780]);
                    self.halves.push(half);
                } else {
                    let word = self.random.of(&[0xe12f_ff10, 0xe12f_ff20, 0xe12f_ff30]);
                    self.raw(word);
                }
            }
            _ if self.thumb => {
                let half = self.random.of(&[0xe000, 0xd000, 0xd100, 0xb900]) | self.random.u16(..8);
                self.halves.push(half);
            }
            1 => self.template(&[(0xea00_0000, 7), (0x0a00_0000, 7), (0x1b00_0000, 7)]),
            2 => self.template(&[(0xfa00_0000, 0x0100_0007)]), // BLX
            _ => self.template(&[(0xeaff_fff8, 3)]),
        }
    }

    /// Interrupts are let in: the GIC is told so, a few are enabled and made pending, and the masks go.
    fn interrupts(&mut self) {
        let some = self.random.u32(..);
        let target = self.random.of(&[0x0101_0101, 0x0302_0100, 0xffff_ffff]);
        let sgi = self.random.of(&[0, 0x0101_0000, 0x0100_0000, 0x0200_0000]) | self.random.u32(..16);
        for (at, value) in [
            (GICD, 3),
            (GICC + 4, 0xff),
            (GICC, self.random.of(&[1, 3, 0x201, 9])),
            (GICD + 0x100, some),
            (GICD + 0x104, some),
            (GICD + 0x820, target),
            (GICD + 0x204, some & 0xff),
            (GICD + 0xf00, sgi),
        ] {
            if !self.random.one_in(4) {
                self.set(1, at);
                self.set(2, value);
                self.raw(if self.thumb { 0xf8c1_2000 } else { 0xe581_2000 }); // STR
            }
        }
        self.raw(if self.thumb { 0xbf00_b663 } else { 0xf108_00c0 }); // CPSIE IF
    }

    /// Thumb's own: IT blocks around anything, CPS, SETEND, SVC, BKPT, UDF, hints; HVC, MSR, MRS, SRS, RFE, ERET.
    fn thumb_state(&mut self) {
        match self.random.u32(..3) {
            0 => {
                let half = self.random.u16(..);
                self.halves.push(0xbf00 | half & 0xff);
            }
            1 => {
                let free = self.random.u16(..);
                let half = self.random.of(&[
                    0xb660 | free & 0x17,
                    0xb650 | free & 8,
                    0xdf00 | free & 0xff,
                    0xbe00 | free & 0xff,
                    0xde00 | free & 0xff,
                    0xbf10,
                    0xbf20,
                    0xbf40,
                ]);
                self.halves.push(half);
            }
            _ => self.template(&[
                (0xf380_8000, 0x001f_0fff),
                (0xf3e0_8000, 0x001f_0fff),
                (0xf3af_8000, 0x0000_07ff),
                (0xe80d_c000, 0x01a0_001f),
                (0xe811_c000, 0x01a0_0000),
                (0xf3de_8f00, 0x0000_00ff),
                (0xf7e0_8000, 0x000f_0fff),
                (0xf3bf_8f40, 0x0000_002f),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::stream;

    #[test]
    fn values_are_loaded_as_an_assembler_would() {
        let mut random = stream(1, 1);
        for (thumb, expected) in [
            // movw r1, #0x5678; movt r1, #0x9abc
            (false, [0x1678, 0xe305, 0x1abc, 0xe349]),
            (true, [0xf245, 0x6178, 0xf6c9, 0x21bc]),
        ] {
            let mut writer = Writer { random: &mut random, thumb, halves: Vec::new() };
            writer.set(1, 0x9abc_5678);
            assert_eq!(writer.halves, expected, "{:x?}", writer.halves);
        }
    }

    #[test]
    fn a_stream_is_as_long_as_asked_for_and_repeats() {
        for thumb in [false, true] {
            let one = words(&mut stream(5, 6), 2000, thumb);
            assert_eq!(one.len(), 2000);
            assert_eq!(one, words(&mut stream(5, 6), 2000, thumb));
        }
    }

    #[test]
    fn templates_leave_what_is_fixed_alone() {
        let all = COPROCESSOR.iter().chain(&FLOATING).chain(&STATE).chain(&CALLS).chain(&ACCESS);
        for (fixed, free) in all {
            // A bit may be set and free where its being set is the common case of two.
            assert!(*free == 0 || fixed & free != *free, "{fixed:#x} {free:#x}");
        }
    }
}
