// SPDX-License-Identifier: GPL-2.0-only
//! Headers sound and unsound, and the facts about the layout that both sides build on.

use crate::context::{ExitCode, HYP_PANIC, LR_USR, VcpuContext};
use crate::image::{
    ABI, BAD_CALL, CALLS, Call, FirmwareHardening, ImageHeader, MAGIC, PanicRecord, Provocation, TRAMPOLINE_PARAMETERS,
    TrampolineParameters, echo, echo_wide,
};
use crate::layout::*;
use arch::core_id::BranchPredictor;
use core::mem::{offset_of, size_of};
use proptest::prelude::*;
use std::vec::Vec;

/// A sound header's words: constants, text, data of a page or two each, entries in text.
const SOUND: [u32; 8] = [
    MAGIC,
    ABI,
    IMAGE_BASE + 0x1000,
    IMAGE_BASE + 0x4000,
    IMAGE_BASE + 0x6000,
    IMAGE_BASE + 0x1040,
    IMAGE_BASE + 0x3000,
    IMAGE_BASE + 0x3000,
];

fn image(words: &[u32; 8], bytes: usize) -> Vec<u8> {
    let mut image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.resize(bytes, 0);
    image
}

fn words(header: &ImageHeader) -> [u32; 8] {
    let ImageHeader { magic, abi, text, data, end, entries, trampoline, start } = *header;
    [magic, abi, text, data, end, entries, trampoline, start]
}

/// What the module relies on, written apart from the code that checks it: in 64 bits, where nothing wraps.
fn is_sound(words: &[u32; 8], bytes: usize) -> bool {
    let [magic, abi, rest @ ..] = *words;
    let [text, data, end, entries, trampoline, start] = rest.map(u64::from);
    let base = u64::from(IMAGE_BASE);
    let in_text = |address: u64| text <= address && address < data;
    (magic, abi) == (MAGIC, ABI)
        && [text, data, end, trampoline].iter().all(|address| address.is_multiple_of(4096))
        && (base < text && text < data && data <= end && end - base == bytes as u64)
        && bytes as u64 <= u64::from(IMAGE_MAX)
        && in_text(trampoline)
        && in_text(start)
        && in_text(entries)
        && in_text(entries + u64::from(CALLS) * 4 - 1)
        && entries.is_multiple_of(4)
}

#[test]
fn a_sound_header_is_taken_as_it_is() {
    let header = ImageHeader::parse(&image(&SOUND, 0x6000)).unwrap();
    assert_eq!(words(&header), SOUND);
    assert_eq!(header.entry(Call::EnterGuest), header.entries);
    assert_eq!(header.entry(Call::Provoke), header.entries + 28);
    assert!(is_sound(&SOUND, 0x6000));
}

#[test]
fn a_truncated_or_extended_image_is_none() {
    let whole = image(&SOUND, 0x6000);
    for length in (0..64).chain([0x1000, 0x5000, 0x5fff]) {
        assert!(ImageHeader::parse(&whole[..length]).is_none(), "{length}");
    }
    assert!(ImageHeader::parse(&image(&SOUND, 0x6001)).is_none());
}

#[test]
fn each_field_counts() {
    for (field, values) in [
        (0, [0, MAGIC + 1, MAGIC.swap_bytes()]),
        (1, [0, ABI + 1, u32::MAX]),
        (2, [IMAGE_BASE, IMAGE_BASE + 0x1010, IMAGE_BASE + 0x4000]),
        (3, [IMAGE_BASE + 0x1000, IMAGE_BASE + 0x7000, IMAGE_BASE + 0x4004]),
        (4, [IMAGE_BASE + 0x5000, IMAGE_BASE - 0x1000, 0]),
        (5, [IMAGE_BASE + 0x20, IMAGE_BASE + 0x4000, 0]),
        (6, [IMAGE_BASE, IMAGE_BASE + 0x4000, IMAGE_BASE + 0x3004]),
        (7, [IMAGE_BASE + 0xffc, IMAGE_BASE + 0x4000, u32::MAX]),
    ] {
        for value in values {
            let mut words = SOUND;
            words[field] = value;
            assert!(ImageHeader::parse(&image(&words, 0x6000)).is_none(), "word {field} is {value:#x}");
        }
    }
}

#[test]
fn the_table_of_functions_lies_in_text_as_a_whole() {
    let mut words = SOUND;
    words[5] = words[3] - CALLS * 4;
    assert!(ImageHeader::parse(&image(&words, 0x6000)).is_some());
    words[5] += 4;
    assert!(ImageHeader::parse(&image(&words, 0x6000)).is_none(), "the last entry would be data");
    words[5] = SOUND[5] + 2;
    assert!(ImageHeader::parse(&image(&words, 0x6000)).is_none(), "entries are instructions");
}

#[test]
fn an_image_fits_its_room() {
    let mut words = SOUND;
    words[4] = IMAGE_BASE + IMAGE_MAX;
    assert!(ImageHeader::parse(&image(&words, IMAGE_MAX as usize)).is_some());
    words[4] += 0x1000;
    assert!(ImageHeader::parse(&image(&words, IMAGE_MAX as usize + 0x1000)).is_none());
}

#[test]
fn exit_codes_travel_there_and_back() {
    let codes = [
        ExitCode::Trap,
        ExitCode::Interrupt,
        ExitCode::Again,
        ExitCode::Gone,
        ExitCode::ShortTrap,
        ExitCode::SharedVmid,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        assert_eq!((code.to_raw(), ExitCode::from_raw(number as u32)), (number as u32, code));
    }
    assert_eq!(ExitCode::HypPanic.to_raw(), HYP_PANIC);
    assert_eq!([6, BAD_CALL, HYP_PANIC, u32::MAX].map(ExitCode::from_raw), [ExitCode::HypPanic; 4]);
}

#[test]
fn calls_and_provocations_have_their_numbers() {
    let calls = [
        Call::EnterGuest,
        Call::FlushVmid,
        Call::FlushVmidLocal,
        Call::FlushAll,
        Call::FlushHyp,
        Call::Release,
        Call::Version,
        Call::Provoke,
        Call::LeaveGuest,
        Call::Echo,
        Call::EchoWide,
    ];
    assert!(calls.iter().enumerate().all(|(number, call)| *call as usize == number));
    assert_eq!(calls.len(), CALLS as usize);
    for raw in 0..10 {
        let known = Provocation::from_raw(raw);
        assert_eq!(known.map(|provocation| provocation as u32), (1..=7).contains(&raw).then_some(raw));
    }
    // What no stub and no PSCI answers with.
    assert!(BAD_CALL != HYP_PANIC && BAD_CALL as i32 > 0x1000);
}

#[test]
fn an_echo_tells_its_arguments_and_their_places_apart() {
    let [a, b, c] = [0x8123_4567, 0x9abc_def0, 0xfedc_ba98];
    let swapped = [echo(a, c, b), echo(b, a, c), echo(b, c, a), echo(c, a, b), echo(c, b, a)];
    let missing = [echo(0, b, c), echo(a, 0, c), echo(a, b, 0)];
    assert!(swapped.iter().chain(&missing).all(|other| *other != echo(a, b, c)));
    let wide = u64::from(b) << 32 | u64::from(a);
    let others = [echo_wide(wide.rotate_left(32), c), echo_wide(u64::from(a), c), echo_wide(wide, 0)];
    assert!(others.iter().all(|other| *other != echo_wide(wide, c)));
    assert!([echo(a, b, c), echo_wide(wide, c), echo(0, 0, 0)].iter().all(|result| *result as u32 != BAD_CALL));
}

#[test]
fn the_slots_of_cpus_do_not_touch() {
    let pages = [EMERGENCY_PAGE, STACK_PAGE, DATA_PAGE];
    // Each stack has an unmapped page below it, and the data page is the stack's beginning.
    assert!(!pages.contains(&(EMERGENCY_PAGE - 0x1000)) && !pages.contains(&(STACK_PAGE - 0x1000)));
    assert_eq!((EMERGENCY_TOP, STACK_PAGE + 0x1000), (EMERGENCY_PAGE + 0x1000, DATA_PAGE));
    assert!(pages.iter().all(|page| page.is_multiple_of(0x1000) && page + 0x1000 <= SLOT_SIZE));
    for cpu in 0..MAX_CPUS {
        assert_eq!(slot(cpu), SLOTS_BASE + cpu * SLOT_SIZE);
        assert!(RESERVED.contains(&slot(cpu)) && RESERVED.contains(&(slot(cpu) + SLOT_SIZE - 1)));
    }
    assert_eq!((RESERVED.start, RESERVED.end), (IMAGE_BASE, slot(MAX_CPUS - 1) + SLOT_SIZE));
}

#[test]
fn what_is_shared_lies_where_both_sides_expect_it() {
    assert_eq!(size_of::<ImageHeader>(), 32);
    assert_eq!(offset_of!(ImageHeader, start), 28);
    assert_eq!((size_of::<TrampolineParameters>(), offset_of!(TrampolineParameters, htcr)), (32, 8));
    assert!(
        TRAMPOLINE_PARAMETERS + size_of::<TrampolineParameters>() <= 4096 && TRAMPOLINE_PARAMETERS.is_multiple_of(8)
    );
    assert_eq!(size_of::<PanicRecord>(), 22 * 4);
    assert_eq!((offset_of!(VcpuContext, pc), LR_USR), (56, 13));
    // Doublewords are aligned for LDRD and VLDM.
    let doublewords = [offset_of!(VcpuContext, cp15), offset_of!(VcpuContext, timer), offset_of!(VcpuContext, control)];
    assert!(doublewords.iter().chain(&[offset_of!(VcpuContext, vfp), size_of::<VcpuContext>()]).all(|at| at % 8 == 0));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_taken_by_chance(bytes: Vec<u8>) {
        prop_assert!(ImageHeader::parse(&bytes).is_none());
    }

    /// Headers close to a sound one: addresses a few words or pages off, in any order.
    #[test]
    fn only_the_sound_are_taken(
        change in proptest::collection::vec((0..8usize, -3..4i32, -5..6i32), 0..4),
        moved in proptest::option::of((2..8usize, 2..8usize)), pages in 4..8usize,
    ) {
        let mut words = SOUND;
        for (field, units, pages) in change {
            words[field] = words[field].wrapping_add_signed(units * 4 + pages * 0x1000);
        }
        if let Some((a, b)) = moved {
            words.swap(a, b);
        }
        let image = image(&words, pages * 0x1000);
        let taken = ImageHeader::parse(&image);
        prop_assert_eq!(taken.is_some(), is_sound(&words, image.len()), "{:x?}", words);
        if let Some(header) = taken {
            prop_assert_eq!(super::tests::words(&header), words);
        }
    }
}

#[test]
fn firmware_is_asked_where_nothing_else_helps() {
    use BranchPredictor::{Bpiall, Firmware, Iciallu, NotVulnerable, Unknown};
    for raw in 0..5 {
        let asked = [NotVulnerable, Bpiall, Iciallu, Firmware, Unknown]
            .map(|predictor| FirmwareHardening::from_raw(raw).is_wanted_for(predictor));
        let expected = match raw {
            1 => [false, false, false, true, false],
            2 => [true; 5],
            _ => [false; 5],
        };
        assert_eq!(asked, expected, "{raw}");
    }
}
