// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the load/store decoder. The words beside the mnemonics are what GNU as made of them.

use super::*;
use proptest::prelude::*;
use std::format;
use std::string::String;
use std::vec::Vec;

/// Register n holds 0x1000 * n + 0x100, so that every sum of two says what it was made of.
fn register(rt: Rt) -> u32 {
    0x1000 * rt.index() as u32 + 0x100
}

const PC: u32 = 0x8002;

/// What an instruction does, in a line: direction, width, registers and their addresses, then the base's new value.
fn effect(decoded: Option<LoadStore>, cpsr: Psr) -> String {
    let Some(instruction) = decoded else {
        return "none".into();
    };
    let placed = instruction.place(register, PC, cpsr);
    let width = match (instruction.size, instruction.sign_extend) {
        (AccessSize::Byte, false) => "b",
        (AccessSize::Byte, true) => "sb",
        (AccessSize::Halfword, false) => "h",
        (AccessSize::Halfword, true) => "sh",
        (AccessSize::Word, _) => "w",
    };
    let direction = if instruction.load { "load" } else { "store" };
    let user = if instruction.unprivileged { " user" } else { "" };
    let accesses: Vec<String> = instruction
        .accesses()
        .map(|access| {
            let at = placed.address.wrapping_add(access.offset);
            format!(" r{}@{at:x}", access.rt.index())
        })
        .collect();
    let writeback = match placed.writeback {
        Some((rn, value)) => format!(" r{}={value:x}", rn.index()),
        None => String::new(),
    };
    format!("{direction} {width}{user}{}{writeback}", accesses.concat())
}

#[test]
fn arm_instructions() {
    let table = [
        (0xe482_1004, "str r1, [r2], #4", "store w r1@2100 r2=2104"),
        (0xe5b2_1008, "ldr r1, [r2, #8]!", "load w r1@2108 r2=2108"),
        (0xe754_3105, "ldrb r3, [r4, -r5, lsl #2]", "load b r3@fffefd00"),
        (0xe794_33e5, "ldr r3, [r4, r5, ror #7]", "load w r3@41a2"),
        (0xe7b4_3065, "ldr r3, [r4, r5, rrx]!", "load w r3@80006980 r4=80006980"),
        (0xe794_3025, "ldr r3, [r4, r5, lsr #32]", "load w r3@4100"),
        (0xe647_61c8, "strb r6, [r7], -r8, asr #3", "store b r6@7100 r7=60e0"),
        (0xe4b2_1004, "ldrt r1, [r2], #4", "load w user r1@2100 r2=2104"),
        (0xe6e2_1003, "strbt r1, [r2], r3", "store b user r1@2100 r2=5200"),
        (0xe1f2_13b4, "ldrh r1, [r2, #0x34]!", "load h r1@2134 r2=2134"),
        (0xe002_10b3, "strh r1, [r2], -r3", "store h r1@2100 r2=fffff000"),
        (0xe0d5_40d1, "ldrsb r4, [r5], #1", "load sb r4@5100 r5=5101"),
        (0xe195_40f6, "ldrsh r4, [r5, r6]", "load sh r4@b200"),
        (0xe075_40f6, "ldrsht r4, [r5], #-6", "load sh user r4@5100 r5=50fa"),
        (0xe1c6_41d0, "ldrd r4, r5, [r6, #16]", "load w r4@6110 r5@6114"),
        (0xe00a_80fb, "strd r8, r9, [r10], -r11", "store w r8@a100 r9@a104 r10=fffff000"),
        (0xe1a2_00f3, "strd r0, r1, [r2, r3]!", "store w r0@5200 r1@5204 r2=5200"),
        (0xe890_0016, "ldm r0, {r1, r2, r4}", "load w r1@100 r2@104 r4@108"),
        (0xe935_00c0, "ldmdb r5!, {r6, r7}", "load w r6@50f8 r7@50fc r5=50f8"),
        (0xe9a3_4010, "stmib r3!, {r4, lr}", "store w r4@3104 r14@3108 r3=3108"),
        (0xe803_0007, "stmda r3, {r0-r2}", "store w r0@30f8 r1@30fc r2@3100"),
        (0xe92d_4010, "push {r4, lr}", "store w r4@d0f8 r14@d0fc r13=d0f8"),
        (0xe8bd_0030, "pop {r4, r5}", "load w r4@d100 r5@d104 r13=d108"),
        (0xe51f_700c, "ldr r7, [pc, #-12]", "load w r7@7ffc"),
        (0x1482_1004, "strne r1, [r2], #4", "store w r1@2100 r2=2104"),
    ];
    // Carry is set, for RRX.
    for (word, text, expected) in table {
        assert_eq!(effect(decode_arm(word), Psr::C), expected, "{text}");
    }
    assert_eq!(effect(decode_arm(0xe7b4_3065), Psr::empty()), "load w r3@6980 r4=6980");
}

#[test]
fn thumb_instructions() {
    let table = [
        (0x4b05, 0, "ldr r3, [pc, #20]", "load w r3@8018"),
        (0x50d1, 0, "str r1, [r2, r3]", "store w r1@5200"),
        (0x52d1, 0, "strh r1, [r2, r3]", "store h r1@5200"),
        (0x54d1, 0, "strb r1, [r2, r3]", "store b r1@5200"),
        (0x56d1, 0, "ldrsb r1, [r2, r3]", "load sb r1@5200"),
        (0x58d1, 0, "ldr r1, [r2, r3]", "load w r1@5200"),
        (0x5ad1, 0, "ldrh r1, [r2, r3]", "load h r1@5200"),
        (0x5cd1, 0, "ldrb r1, [r2, r3]", "load b r1@5200"),
        (0x5ed1, 0, "ldrsh r1, [r2, r3]", "load sh r1@5200"),
        (0x67d1, 0, "str r1, [r2, #124]", "store w r1@217c"),
        (0x7fd1, 0, "ldrb r1, [r2, #31]", "load b r1@211f"),
        (0x8fd1, 0, "ldrh r1, [r2, #62]", "load h r1@213e"),
        (0x99ff, 0, "ldr r1, [sp, #1020]", "load w r1@d4fc"),
        (0xb581, 0, "push {r0, r7, lr}", "store w r0@d0f4 r7@d0f8 r14@d0fc r13=d0f4"),
        (0xbc81, 0, "pop {r0, r7}", "load w r0@d100 r7@d104 r13=d108"),
        (0xc303, 0, "stmia r3!, {r0, r1}", "store w r0@3100 r1@3104 r3=3108"),
        (0xcb03, 0, "ldmia r3!, {r0, r1}", "load w r0@3100 r1@3104 r3=3108"),
        (0xcb09, 0, "ldmia r3, {r0, r3}", "load w r0@3100 r3@3104"),
        (0xf849, 0x8b04, "str.w r8, [r9], #4", "store w r8@9100 r9=9104"),
        (0xf859, 0x8c04, "ldr.w r8, [r9, #-4]", "load w r8@90fc"),
        (0xf8d9, 0x8fff, "ldr.w r8, [r9, #4095]", "load w r8@a0ff"),
        (0xf819, 0x8dff, "ldrb.w r8, [r9, #-255]!", "load b r8@9001 r9=9001"),
        (0xf919, 0x803a, "ldrsb.w r8, [r9, r10, lsl #3]", "load sb r8@59900"),
        (0xf829, 0x800a, "strh.w r8, [r9, r10]", "store h r8@13200"),
        (0xf93f, 0x8064, "ldrsh.w r8, [pc, #-100]", "load sh r8@7fa0"),
        (0xf859, 0x8e0c, "ldrt r8, [r9, #12]", "load w user r8@910c"),
        (0xf809, 0x8e0c, "strbt r8, [r9, #12]", "store b user r8@910c"),
        (0xe974, 0x2304, "ldrd r2, r3, [r4, #-16]!", "load w r2@40f0 r3@40f4 r4=40f0"),
        (0xe8e4, 0x51ff, "strd r5, r1, [r4], #1020", "store w r5@4100 r1@4104 r4=44fc"),
        (0xe9df, 0x2302, "ldrd r2, r3, [pc, #8]", "load w r2@800c r3@8010"),
        (0xe938, 0x0600, "ldmdb r8!, {r9, r10}", "load w r9@80f8 r10@80fc r8=80f8"),
        (0xe888, 0x4600, "stmia.w r8, {r9, r10, lr}", "store w r9@8100 r10@8104 r14@8108"),
        (0xe92d, 0x4110, "stmdb sp!, {r4, r8, lr}", "store w r4@d0f4 r8@d0f8 r14@d0fc r13=d0f4"),
    ];
    for (first, second, text, expected) in table {
        assert_eq!(effect(decode_thumb(first, second), Psr::T), expected, "{text}");
        assert_eq!(is_wide(first), text.contains(".w") || second != 0, "{text}");
    }
}

#[test]
fn what_is_no_plain_load_or_store() {
    let arm = [
        (0xe320_f000, "nop"),
        (0xf5d2_f000, "pld [r2]"),
        (0xe192_1f9f, "ldrex r1, [r2]"),
        (0xe102_1093, "swp r1, r3, [r2]"),
        (0xe592_f000, "ldr pc, [r2]"),
        (0xe5b1_1004, "ldr r1, [r1, #4]!: UNPREDICTABLE"),
        (0xe4bf_1004, "ldrt r1, [pc], #4: UNPREDICTABLE"),
        (0xe1c2_50d0, "ldrd r5, ...: UNPREDICTABLE"),
        (0xe1c2_e0d0, "ldrd lr, pc, ...: UNPREDICTABLE"),
        (0xe062_40d8, "ldrd r4, r5, [r2], #-8 with W: UNPREDICTABLE"),
        (0xe182_40d5, "ldrd r4, r5, [r2, r5]: UNPREDICTABLE"),
        (0xe8d2_0003, "ldm r2, {r0, r1}^"),
        (0xe8bd_8010, "pop {r4, pc}"),
        (0xe890_0000, "ldm r0, {}: UNPREDICTABLE"),
        (0xe8b0_0003, "ldm r0!, {r0, r1}: UNPREDICTABLE"),
        (0xe8a1_0003, "stm r1!, {r0, r1}: UNKNOWN value"),
        (0xed92_0a00, "vldr s0, [r2]"),
        (0xe6a2_1071, "sxtab, a media instruction"),
        (0xea00_0000, "b"),
    ];
    for (word, text) in arm {
        assert_eq!(decode_arm(word), None, "{text}");
    }
    let thumb = [
        (0xbf00, 0, "nop"),
        (0x4770, 0, "bx lr"),
        (0xbd10, 0, "pop {r4, pc}"),
        (0xe852, 0x1f00, "ldrex r1, [r2]"),
        (0xe8d0, 0xf001, "tbb [r0, r1]"),
        (0xf892, 0xf000, "pld [r2]"),
        (0xf8d2, 0xf000, "ldr.w pc, [r2]"),
        (0xf849, 0x9b04, "str.w r9, [r9], #4: UNPREDICTABLE"),
        (0xe990, 0xc000, "rfeia r0"),
        (0xe890, 0x2002, "ldm.w r0, {r1, sp}: UNPREDICTABLE"),
        (0xe890, 0x0002, "ldm.w r0, {r1}: UNPREDICTABLE"),
        (0xe890, 0x8002, "ldm.w r0, {r1, pc}"),
        (0xed92, 0x0a00, "vldr s0, [r2]"),
        (0xf92f, 0x0a0f, "NEON structure store"),
        (0xf8cf, 0x1000, "str.w r1, [pc]: UNDEFINED"),
    ];
    for (first, second, text) in thumb {
        assert_eq!(decode_thumb(first, second), None, "{text}");
    }
}

#[test]
fn stm_stores_the_old_base_if_it_is_the_lowest() {
    assert_eq!(effect(decode_arm(0xe8a0_0003), Psr::empty()), "store w r0@100 r1@104 r0=108");
}

/// What holds of every decoded instruction.
fn sound(instruction: LoadStore) {
    let accesses: Vec<Access> = instruction.accesses().collect();
    assert!(!accesses.is_empty() && accesses.len() <= 15);
    for (index, access) in accesses.iter().enumerate() {
        assert!(access.rt.index() <= 14);
        assert_eq!(access.offset, 4 * index as u32);
    }
    assert!(accesses.len() == 1 || instruction.size == AccessSize::Word);
    assert!(!instruction.sign_extend || instruction.load && instruction.size != AccessSize::Word);
    let placed = instruction.place(register, PC, Psr::T);
    if let Some((rn, _)) = placed.writeback {
        assert!(!(instruction.load && accesses.iter().any(|access| access.rt == rn)));
    }
    assert_eq!(placed.writeback.is_some(), instruction.writeback.is_some());
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri hours")]
fn every_narrow_thumb_instruction_is_sound() {
    let decoded = (0..=u16::MAX).filter(|&bits| !is_wide(bits)).filter_map(|bits| decode_thumb(bits, 0));
    let count = decoded.inspect(|&instruction| sound(instruction)).count();
    // 0x4800..0x5000, 0x5000..0xa000, PUSH with a list (LR alone included), POP without PC, LDM and STM less empty lists
    // and stores of a base that is not the lowest.
    let clashing_stores: usize = (0..8).map(|rn| 128 - (128 >> rn)).sum();
    assert_eq!(count, 0x800 + 0x5000 + 511 + 255 + 2 * 8 * 255 - clashing_stores);
}

proptest! {
    #[test]
    fn any_word_is_sound(word: u32) {
        decode_arm(word).into_iter().for_each(sound);
        // Steered into the space of loads and stores, which few random words are in.
        decode_arm(word & 0x0fff_ffff | 0xe000_0000).into_iter().for_each(sound);
        decode_thumb((word >> 16) as u16, word as u16).into_iter().for_each(sound);
        decode_thumb(0xf800 | (word >> 16) as u16 & 0x1ff, word as u16).into_iter().for_each(sound);
        decode_thumb(0xe800 | (word >> 16) as u16 & 0x1ff, word as u16).into_iter().for_each(sound);
    }

    #[test]
    fn shifts_are_those_of_the_manual(kind in 0u32..4, amount in 0u32..32, value: u32, carry: bool) {
        // A8.4.3, on 64-bit numbers, where no amount is too large.
        let wide = u64::from(value);
        let right = if amount == 0 { 32 } else { amount };
        let expected = match kind {
            0 => wide << amount,
            1 => wide >> right,
            2 => (i64::from(value as i32) >> right) as u64,
            _ if amount == 0 => (u64::from(carry) << 32 | wide) >> 1,
            _ => (wide << 32 | wide) >> amount,
        };
        prop_assert_eq!(Shift::decode(kind, amount).apply(value, carry), expected as u32);
    }
}
