// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the syndrome decoder: each class from the manual's figures, and totality.

use super::*;
use crate::condition::ConditionCode;
use crate::cp15::{reg, wide};
use crate::long_descriptor::Level;
use proptest::prelude::*;
use std::hint::black_box;

/// CV = 1, COND = AL, IL = 1.
const ALWAYS: u32 = 1 << 25 | 1 << 24 | 0xe << 20;

/// Classes that AArch32 Hyp mode sees.
const CLASSES: [u32; 20] = [
    0x00, 0x01, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0c, 0x0e, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x24,
    0x25,
];

fn hsr(class: u32, rest: u32) -> u32 {
    class << 26 | rest
}

fn rt(number: u32) -> Rt {
    Rt::new(number).unwrap()
}

#[test]
fn waits() {
    let always = Condition::ALWAYS;
    assert_eq!(Trap::from_hsr(hsr(0x01, ALWAYS)), Some(Trap::Wait { event: false, condition: always }));
    assert_eq!(Trap::from_hsr(hsr(0x01, ALWAYS | 1)), Some(Trap::Wait { event: true, condition: always }));
    assert_eq!(
        Trap::from_hsr(hsr(0x01, 1 << 24 | 1)),
        Some(Trap::Wait { event: true, condition: Condition::Code(ConditionCode::new(0)) })
    );
    assert_eq!(Trap::from_hsr(hsr(0x01, 0)), Some(Trap::Wait { event: false, condition: Condition::ItState }));
}

#[test]
fn coprocessor_registers() {
    // MRC p15, 0, r3, c1, c0, 1: ACTLR.
    let read = ALWAYS | 1 << 17 | 1 << 10 | 3 << 5 | 1;
    let access = RegisterAccess { op: reg::ACTLR, rt: Some(rt(3)), write: false, condition: Condition::ALWAYS };
    assert_eq!(Trap::from_hsr(hsr(0x03, read)), Some(Trap::Cp15(access)));
    assert_eq!(Trap::from_hsr(hsr(0x05, read)), Some(Trap::Cp14(access)));
    // MCR p15, 0, r14, c7, c14, 2: DCCISW.
    let write = ALWAYS | 2 << 17 | 7 << 10 | 14 << 5 | 14 << 1;
    let access = RegisterAccess { op: reg::DCCISW, rt: Some(rt(14)), write: true, condition: Condition::ALWAYS };
    assert_eq!(Trap::from_hsr(hsr(0x03, write)), Some(Trap::Cp15(access)));
}

#[test]
fn register_15_is_the_flags_for_mrc_and_unpredictable_else() {
    // MRC p14, 0, APSR_nzcv, c0, c1, 0: how debug code polls DBGDSCRint.
    let poll = ALWAYS | 15 << 5 | 1 << 1;
    let Some(Trap::Cp14(access)) = Trap::from_hsr(hsr(0x05, poll | 1)) else { panic!() };
    assert_eq!((access.op, access.rt, access.write), (crate::cp15::dbg::DBGDSCRINT, None, false));
    let unpredictable = Some(Trap::Unpredictable { condition: Condition::ALWAYS });
    assert_eq!(Trap::from_hsr(hsr(0x03, poll)), unpredictable);
    for class in [0x04, 0x0c] {
        for direction in [0, 1] {
            assert_eq!(Trap::from_hsr(hsr(class, ALWAYS | 15 << 5 | direction)), unpredictable);
            assert_eq!(Trap::from_hsr(hsr(class, ALWAYS | 15 << 10 | direction)), unpredictable);
        }
    }
}

#[test]
fn wide_coprocessor_registers() {
    // MCRR p15, 2, r4, r5, c14: CNTP_CVAL.
    let write = ALWAYS | 2 << 16 | 5 << 10 | 4 << 5 | 14 << 1;
    let access =
        WideRegisterAccess { op: wide::CNTP_CVAL, rt: rt(4), rt2: rt(5), write: true, condition: Condition::ALWAYS };
    assert_eq!(Trap::from_hsr(hsr(0x04, write)), Some(Trap::Cp15Wide(access)));
    let read = WideRegisterAccess { write: false, ..access };
    assert_eq!(Trap::from_hsr(hsr(0x0c, write | 1)), Some(Trap::Cp14Wide(read)));
}

#[test]
fn vfp_and_its_ids() {
    assert_eq!(
        Trap::from_hsr(hsr(0x07, ALWAYS | 10)),
        Some(Trap::Coprocessor { coprocessor: 10, simd: false, condition: Condition::ALWAYS })
    );
    assert_eq!(
        Trap::from_hsr(hsr(0x07, ALWAYS | 1 << 5)),
        Some(Trap::Coprocessor { coprocessor: 0, simd: true, condition: Condition::ALWAYS })
    );
    // VMRS r2, MVFR0 is MRC p10, 7, r2, c7, c0, 0.
    assert_eq!(
        Trap::from_hsr(hsr(0x08, ALWAYS | 7 << 14 | 7 << 10 | 2 << 5 | 1)),
        Some(Trap::VfpId { register: crate::cp15::vfp::MVFR0, rt: Some(rt(2)), condition: Condition::ALWAYS })
    );
}

#[test]
fn calls() {
    assert_eq!(Trap::from_hsr(hsr(0x11, 1 << 25 | 0x80)), Some(Trap::Svc { immediate: 0x80 }));
    assert_eq!(Trap::from_hsr(hsr(0x12, 1 << 25 | 0xffff)), Some(Trap::Hvc { immediate: 0xffff }));
    assert_eq!(Trap::from_hsr(hsr(0x13, 1 << 25)), Some(Trap::Smc));
}

#[test]
fn data_aborts() {
    // STRB r7, at a device that stage 2 does not map, level 3.
    let store = 1 << 25 | 1 << 24 | 7 << 16 | 1 << 6 | 0b00_0111;
    let expected = DataAbort {
        access: Some(AccessSyndrome { size: AccessSize::Byte, sign_extend: false, rt: rt(7) }),
        write: true,
        cache_maintenance: false,
        external: false,
        stage1_walk: false,
        fault: FaultStatus::Translation(Level::Three),
    };
    assert_eq!(Trap::from_hsr(hsr(0x24, store)), Some(Trap::DataAbort(expected)));
    assert_eq!(Trap::from_hsr(hsr(0x25, store)), Some(Trap::HypDataAbort(expected)));
    // LDRSH r0.
    let load = 1 << 25 | 1 << 24 | 0b01 << 22 | 1 << 21 | 0b00_0101;
    let Some(Trap::DataAbort(abort)) = Trap::from_hsr(hsr(0x24, load)) else { panic!() };
    let expected = AccessSyndrome { size: AccessSize::Halfword, sign_extend: true, rt: rt(0) };
    assert_eq!((abort.access, abort.write), (Some(expected), false));
    assert_eq!(abort.fault, FaultStatus::Translation(Level::One));
    // The same bits without ISV, with the reserved size, and with PC say nothing of the instruction.
    for bits in [load & !(1 << 24), load | 0b11 << 22, load | 15 << 16] {
        let Some(Trap::DataAbort(abort)) = Trap::from_hsr(hsr(0x24, bits)) else { panic!() };
        assert_eq!(abort.access, None);
    }
    let Some(Trap::DataAbort(abort)) = Trap::from_hsr(hsr(0x24, 1 << 9 | 1 << 8 | 1 << 7 | 0b01_0000)) else {
        panic!()
    };
    assert!(abort.external && abort.cache_maintenance && abort.stage1_walk && !abort.write);
    assert_eq!(abort.fault, FaultStatus::SyncExternal);
}

#[test]
fn prefetch_aborts() {
    let Some(Trap::PrefetchAbort(abort)) = Trap::from_hsr(hsr(0x20, 1 << 7 | 0b00_0110)) else { panic!() };
    let fault = FaultStatus::Translation(Level::Two);
    assert_eq!(abort, PrefetchAbort { external: false, stage1_walk: true, fault });
    assert!(matches!(Trap::from_hsr(hsr(0x21, 0)), Some(Trap::HypPrefetchAbort(_))));
}

#[test]
fn ipas() {
    assert_eq!(fault_ipa(0x1234_5670, 0xdead_beef).get(), 0x12_3456_7eef);
    assert_eq!(fault_ipa(0xffff_ffff, 0xffff_ffff).get(), (1 << 40) - 1);
    assert_eq!(hpfar(Ipa::new(0x12_3456_7eef)), 0x1234_5670);
    let permission = 0b001111;
    assert!(!abort_tells_ipa(permission) && abort_tells_ipa(permission | 1 << 7) && abort_tells_ipa(0b000111));
}

#[test]
fn classes_that_exist_decode_and_others_do_not() {
    for class in 0..64 {
        for rest in [0, ALWAYS, (1 << 26) - 1, 0x0155_5555, 0x00aa_aaaa] {
            let decoded = Trap::from_hsr(hsr(class, rest));
            assert_eq!(decoded.is_some(), CLASSES.contains(&class), "{class:#x}");
        }
    }
}

/// One word in 61: every class, and as 61 shares no factor with 2^32, every pattern of low bits.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri hours")]
fn decoding_is_total() {
    let mut word = 0u32;
    while let Some(next) = word.checked_add(61) {
        if let Some(trap) = black_box(Trap::from_hsr(word)) {
            black_box(trap.condition());
        }
        word = next;
    }
}

/// All 2^32 words, some twenty seconds in a release build; `cargo xtask test` has it.
#[test]
#[ignore = "4 billion words: minutes in a debug build"]
fn decoding_is_total_for_every_word() {
    for word in 0..=u32::MAX {
        if let Some(trap) = black_box(Trap::from_hsr(word)) {
            black_box(trap.condition());
        }
    }
}

#[test]
fn questions_are_the_syndromes_of_reads() {
    let always = Condition::ALWAYS;
    let access = RegisterAccess { op: reg::ACTLR, rt: Rt::new(0), write: false, condition: always };
    assert_eq!(Trap::from_hsr(Trap::reads(reg::ACTLR)), Some(Trap::Cp15(access)));
    let access = WideRegisterAccess { op: wide::CNTP_CVAL, rt: rt(0), rt2: rt(0), write: false, condition: always };
    assert_eq!(Trap::from_hsr(Trap::reads_wide(wide::CNTP_CVAL)), Some(Trap::Cp15Wide(access)));
}

proptest! {
    /// The quick looks at an abort's syndrome say what the decoded one says.
    #[test]
    fn quick_looks_agree_with_decoding(class in prop::sample::select(&CLASSES[..]), rest in 0u32..1 << 26) {
        let word = hsr(class, rest);
        let tells = |fault, walk| walk || !matches!(fault, FaultStatus::Permission(_));
        let (is_device, tells_ipa) = match Trap::from_hsr(word) {
            Some(Trap::DataAbort(abort)) => (
                abort.access.is_some()
                    && !abort.external
                    && !abort.stage1_walk
                    && matches!(abort.fault, FaultStatus::Translation(_)),
                Some(tells(abort.fault, abort.stage1_walk)),
            ),
            Some(Trap::PrefetchAbort(abort)) => (false, Some(tells(abort.fault, abort.stage1_walk))),
            _ => (false, None),
        };
        // Whoever asks decodes as well: what is looked at too hard is only slower.
        prop_assert!(is_device_access(word) || !is_device || word & CM != 0);
        prop_assert!(!is_device_access(word) || word >> 26 == 0x24 && word & (CM | S1PTW | EA) == 0);
        if let Some(Trap::DataAbort(DataAbort { access: Some(access), write, .. })) = Trap::from_hsr(word) {
            let expected = (access.size == AccessSize::Word).then_some((access.rt, write));
            prop_assert_eq!(word_access(word), expected);
        }
        let level_zero = word & 0b11 == 0;
        prop_assert!(level_zero || tells_ipa.is_none_or(|tells| tells == abort_tells_ipa(word)));
    }

    #[test]
    fn ipas_keep_page_and_offset(raw in 0u64..1 << 40, far: u32) {
        let ipa = fault_ipa(hpfar(Ipa::new(raw)), far);
        prop_assert_eq!(ipa.page().get(), raw & !0xfff);
        prop_assert_eq!(ipa.page_offset(), (far & 0xfff) as usize);
    }

    #[test]
    fn a_trap_has_the_condition_of_its_syndrome(class in prop::sample::select(&CLASSES[..]), rest in 0u32..1 << 26) {
        let word = hsr(class, rest);
        let expected = if class < 0x10 && class != 0 && class != 0x0e { Condition::from_hsr(word) } else { Condition::ALWAYS };
        prop_assert_eq!(Trap::from_hsr(word).unwrap().condition(), expected);
    }

    #[test]
    fn accesses_are_what_was_put_in(
        crn in 0u8..16, opc1 in 0u8..8, crm in 0u8..16, opc2 in 0u8..8, number in 0u32..15, write: bool, condition in 0u32..16,
    ) {
        let word = hsr(0x03, 1 << 24 | condition << 20 | u32::from(opc2) << 17 | u32::from(opc1) << 14
            | u32::from(crn) << 10 | number << 5 | u32::from(crm) << 1 | u32::from(!write));
        let expected = RegisterAccess {
            op: Cp15::new(crn, opc1, crm, opc2), rt: Rt::new(number), write,
            condition: Condition::Code(ConditionCode::new(condition)),
        };
        prop_assert_eq!(Trap::from_hsr(word), Some(Trap::Cp15(expected)));
    }
}
