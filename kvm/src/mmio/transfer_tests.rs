// SPDX-License-Identifier: GPL-2.0-only
//! Tests of instructions that are read: which accesses they make, and what is left of the guest's registers after the
//! last.

use super::*;
use crate::fake;
use crate::memslots::Region;
use arch::addr::{HostPhys, HostVirt};
use arch::load_store::Base;
use arch::psr::Mode;
use arch::syndrome::{ISV, Trap, hpfar};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

const DEVICE: Ipa = Ipa::new(0x1_0900_0000);
/// Where the guest sees the device.
const FAR: u32 = 0xc000_0000;
const PC: u32 = 0x8000;

/// A data abort without a syndrome.
fn abort(write: bool) -> DataAbort {
    let hsr = 0x24 << 26 | u32::from(write) << 6 | 0x07;
    match Trap::from_hsr(hsr & !ISV) {
        Some(Trap::DataAbort(abort)) => abort,
        other => panic!("{other:?}"),
    }
}

/// r0 to r14 hold their number in each byte, but r8, r9 and SP, which point to the device.
fn guest(state: Psr) -> VcpuContext {
    let mut context = VcpuContext { pc: PC, cpsr: (Psr::in_mode(Mode::Svc) | state).bits(), ..Default::default() };
    for number in 0..15 {
        let value = if matches!(number, 8 | 9 | 13) { FAR + 0x100 } else { 0x0101_0101 * number };
        guest_registers::write(&mut context, Rt::new(number).unwrap(), value);
    }
    context
}

/// Carries an instruction out to a device that answers its n-th load with `0xa0b0c0d0 + n`, and says what it did and
/// which registers it changed.
fn effect(mut context: VcpuContext, opcode: Opcode, write: bool, hit: u32) -> String {
    let ipa = Ipa::new(DEVICE.get() + u64::from(hit));
    let mut transfer = match Transfer::begin(&mut context, opcode, &abort(write), ipa, FAR + hit) {
        Ok(transfer) => transfer,
        Err(refused) => return format!("{refused:?}"),
    };
    let before = context;
    let mut text = String::new();
    let mut next = transfer.access();
    let mut answer = 0xa0b0_c0d0u32;
    while let Some(access) = next {
        assert_eq!(context, before, "nothing is changed before the end");
        let at = access.ipa.get() - DEVICE.get();
        match access.written() {
            Some(data) => text += &format!("{at:x}<{:02x?} ", &data[..access.bytes() as usize]),
            None => text += &format!("{at:x}/{} ", access.bytes()),
        }
        let bytes = if access.big_endian { answer.to_be_bytes() } else { answer.to_le_bytes() };
        let bytes = u64::from(u32::from_le_bytes(bytes)).to_le_bytes();
        next = transfer.advance(&access, bytes, &mut context);
        answer += 1;
    }
    for number in 0..15 {
        let rt = Rt::new(number).unwrap();
        let (old, new) = (guest_registers::read(&mut { before }, rt), guest_registers::read(&mut context, rt));
        if old != new {
            text += &format!("r{number}={new:x} ");
        }
    }
    text += &format!("+{}", context.pc - PC);
    text
}

#[test]
fn accesses_of_arm_instructions() {
    let table = [
        (0xe898_000c, "ldm r8, {r2, r3}", "100/4 104/4 r2=a0b0c0d0 r3=a0b0c0d1 +4"),
        (0xe8b8_0404, "ldm r8!, {r2, r10}", "100/4 104/4 r2=a0b0c0d0 r8=c0000108 r10=a0b0c0d1 +4"),
        (0xe898_0104, "ldm r8, {r2, r8}", "100/4 104/4 r2=a0b0c0d0 r8=a0b0c0d1 +4"),
        (0xe928_0006, "stmdb r8!, {r1, r2}", "f8<[01, 01, 01, 01] fc<[02, 02, 02, 02] r8=c00000f8 +4"),
        (0xe8a8_0300, "stm r8!, {r8, r9}", "100<[00, 01, 00, c0] 104<[00, 01, 00, c0] r8=c0000108 +4"),
        (0xe1c8_20d8, "ldrd r2, r3, [r8, #8]", "108/4 10c/4 r2=a0b0c0d0 r3=a0b0c0d1 +4"),
        (0xe0c8_20f8, "strd r2, r3, [r8], #8", "100<[02, 02, 02, 02] 104<[03, 03, 03, 03] r8=c0000108 +4"),
        (0xe4d8_1001, "ldrb r1, [r8], #1", "100/1 r1=d0 r8=c0000101 +4"),
        (0xe0f8_10f2, "ldrsht r1, [r8], #2", "100/2 r1=ffffc0d0 r8=c0000102 +4"),
        (0xe0d8_10f2, "ldrsh r1, [r8], #2", "100/2 r1=ffffc0d0 r8=c0000102 +4"),
        (0xe5a8_1004, "str r1, [r8, #4]!", "104<[01, 01, 01, 01] r8=c0000104 +4"),
        (0xe198_1f9f, "ldrex r1, [r8]", "Unsupported"),
        (0xe108_1092, "swp r1, r2, [r8]", "Unsupported"),
        (0xed98_0b00, "vldr d0, [r8]", "Unsupported"),
        (0xe898_8002, "ldm r8, {r1, pc}", "Unsupported"),
        (0xe8d8_0006, "ldm r8, {r1, r2}^", "Unsupported"),
    ];
    for (word, text, expected) in table {
        let first = expected.split(['/', '<']).next().and_then(|at| u32::from_str_radix(at, 16).ok()).unwrap_or(0x100);
        let write = expected.contains('<');
        assert_eq!(effect(guest(Psr::empty()), Opcode::Arm(word), write, first), expected, "{text}");
    }
}

#[test]
fn accesses_of_thumb_instructions() {
    let thumb = Psr::T.with_it_state(0b0000_0100);
    let after = |opcode, write| {
        let mut context = guest(thumb);
        let ipa = Ipa::new(DEVICE.get() + 0x100);
        let mut transfer = Transfer::begin(&mut context, opcode, &abort(write), ipa, FAR + 0x100).unwrap();
        let mut next = transfer.access();
        while let Some(access) = next {
            next = transfer.advance(&access, [0x77; 8], &mut context);
        }
        (context.pc - PC, guest_registers::cpsr(&context).it_state())
    };
    // pop {r1, r2}; ldrd r1, r2, [r8]: two and four bytes, and ITSTATE moves on once.
    assert_eq!(after(Opcode::Thumb(0xbc06, 0), false), (2, 0b0000_1000));
    assert_eq!(after(Opcode::Thumb(0xe9d8, 0x1200), false), (4, 0b0000_1000));
    let table = [
        (0xbc06, 0, "pop {r1, r2}", "100/4 104/4 r1=a0b0c0d0 r2=a0b0c0d1 r13=c0000108 +2"),
        (0xe9e8, 0x1202, "strd r1, r2, [r8, #8]!", "108<[01, 01, 01, 01] 10c<[02, 02, 02, 02] r8=c0000108 +4"),
        // What HSR describes, but not truly on a Cortex-A15 r0p4.
        (0xf8c8, 0x3000, "str.w r3, [r8]", "100<[03, 03, 03, 03] +4"),
    ];
    for (first, second, text, expected) in table {
        let at = u32::from_str_radix(&expected[..3], 16).unwrap();
        let seen = effect(guest(Psr::T), Opcode::Thumb(first, second), expected.contains('<'), at);
        assert_eq!(seen, expected, "{text}");
    }
}

#[test]
fn a_big_endian_guests_words_are_swapped_one_by_one() {
    let context = guest(Psr::E);
    assert_eq!(effect(context, Opcode::Arm(0xe1c8_20d0), false, 0x100), "100/4 104/4 r2=a0b0c0d0 r3=a0b0c0d1 +4");
    let mut context = guest(Psr::E);
    context.r[2] = 0x1234_5678;
    let seen = effect(context, Opcode::Arm(0xe1c8_20f0), true, 0x100);
    assert_eq!(seen, "100<[12, 34, 56, 78] 104<[03, 03, 03, 03] +4");
}

#[test]
fn the_place_of_the_first_access_follows_from_any() {
    // ldm r8, {r1-r4}, whose third access aborts.
    let seen = effect(guest(Psr::empty()), Opcode::Arm(0xe898_001e), false, 0x108);
    assert!(seen.starts_with("100/4 104/4 108/4 10c/4 "), "{seen}");
}

#[test]
fn another_instruction_or_another_page() {
    let ldm = Opcode::Arm(0xe898_0006);
    assert_eq!(effect(guest(Psr::empty()), ldm, true, 0x100), "Changed", "a load, where a store aborted");
    assert_eq!(effect(guest(Psr::empty()), ldm, false, 0x108), "Changed", "it would not have aborted there");
    assert_eq!(effect(guest(Psr::empty()), ldm, false, 0xfc), "Changed");
    let at = |r8: u32, hit: u32| {
        let mut context = guest(Psr::empty());
        context.r[8] = r8;
        effect(context, ldm, false, hit)
    };
    assert_eq!(at(FAR + 0xffc, 0xffc), "Unsupported", "the second access is in the next page");
    // The first is in the page before, which need not be beside it.
    assert_eq!(at(FAR - 4, 0), "Unsupported");
    assert!(at(FAR + 0xff8, 0xffc).starts_with("ff8/4 ffc/4"));
}

/// A guest's memory of two pages, at 0x8000_0000 and behind it, whose instructions are in the process at [`HVA`].
struct Memory {
    host: fake::Host,
    memory: GuestMemory<fake::Host>,
}

const RAM: u64 = 0x8000_0000;
const HVA: HostVirt = HostVirt::new(0x1000_0000);

fn memory() -> Memory {
    let host = fake::Host::new();
    let memory = GuestMemory::new(host.clone(), HostVirt::new(0xbf00_0000)).unwrap();
    let region =
        Region { slot: 0, flags: 0, guest_phys_addr: RAM, memory_size: 0x2000, userspace_addr: HVA.get().into() };
    memory.set_region(&region).unwrap();
    for page in 0..2 {
        let phys = HostPhys::new(0x9000_0000 + u64::from(page) * 0x1000);
        let resolved = crate::host::Resolved { phys, writable: true, block: false, device: false };
        host.set_page(HostVirt::new(HVA.get() + page * 0x1000), Ok(resolved));
    }
    Memory { host, memory }
}

impl Memory {
    fn fetch(&self, pc: u32, cpsr: Psr, code: [u32; 2]) -> Option<Opcode> {
        let mut context = VcpuContext { pc, cpsr: (Psr::in_mode(Mode::Svc) | cpsr).bits(), ..Default::default() };
        context.cp15.sctlr = 0b101;
        context.exit.code = code;
        fetch(&self.host, &self.memory, &context)
    }
}

#[test]
fn instructions_are_little_endian_and_may_lie_in_two_pages() {
    let memory = memory();
    let [first, last] = [hpfar(Ipa::new(RAM)), hpfar(Ipa::new(RAM + 0x1000))];
    memory.host.set_bytes(HostVirt::new(HVA.get() + 0xffc), &[0x06, 0xbc, 0xd8, 0xe9, 0x00, 0x12, 0x34, 0x56]);
    assert_eq!(memory.fetch(0x4000_0ffc, Psr::E, [first; 2]), Some(Opcode::Arm(0xe9d8_bc06)));
    assert_eq!(memory.fetch(0x4000_0ffc, Psr::T, [first; 2]), Some(Opcode::Thumb(0xbc06, 0)));
    assert_eq!(memory.fetch(0x4000_0ffe, Psr::T, [first, last]), Some(Opcode::Thumb(0xe9d8, 0x1200)));
    // The pages are far apart for the process as well, or the second is not there.
    memory.host.set_bytes(HVA, &[0x56, 0x34]);
    assert_eq!(memory.fetch(0x4000_0ffe, Psr::T, [first, first]), Some(Opcode::Thumb(0xe9d8, 0x3456)));
    assert_eq!(memory.fetch(0x4000_0ffe, Psr::T, [first, UNRESOLVED]), None);
    assert_eq!(memory.fetch(0x4000_0ffc, Psr::T, [first, UNRESOLVED]), Some(Opcode::Thumb(0xbc06, 0)));
    assert_eq!(memory.host.take_events(), [], "the guest's caches are on");
}

#[test]
fn what_cannot_be_read_is_run_again() {
    let memory = memory();
    let first = hpfar(Ipa::new(RAM));
    assert_eq!(memory.fetch(0x8000, Psr::empty(), [UNRESOLVED; 2]), None);
    assert_eq!(memory.fetch(0x8000, Psr::empty(), [hpfar(Ipa::new(0x7000_0000)); 2]), None, "no memory of the guest's");
    memory.host.set_bytes(HVA, &[1, 2, 3, 4]);
    memory.host.remove_page(HVA);
    assert_eq!(memory.fetch(0x8000, Psr::empty(), [first; 2]), None, "the process has it no more");
}

#[test]
fn a_guest_without_caches_wrote_past_them() {
    let memory = memory();
    memory.host.set_bytes(HVA, &[1, 2, 3, 4]);
    let mut context = VcpuContext { pc: 0x8000, ..Default::default() };
    context.exit.code = [hpfar(Ipa::new(RAM)); 2];
    assert_eq!(fetch(&memory.host, &memory.memory, &context), Some(Opcode::Arm(0x0403_0201)));
    assert_eq!(memory.host.take_events(), [fake::Event::Clean(HostPhys::new(0x9000_0000), 4096)]);
    // The process may have put a device there since: no memory of the kernel's, and in no cache.
    let device = crate::host::Resolved { phys: HostPhys::new(0x900_0000), writable: true, block: false, device: true };
    memory.host.set_page(HVA, Ok(device));
    assert_eq!(fetch(&memory.host, &memory.memory, &context), None);
    assert_eq!(memory.host.take_events(), []);
}

/// An encoding that may be a load or store, or close to one, and the CPSR to decode it by.
fn near_loads_and_stores() -> impl Strategy<Value = (Opcode, u32)> {
    let arm = prop_oneof![
        any::<u32>().prop_map(|word| word & 0x07ff_ffff | 0x0400_0000), // LDR, STR, LDRB, STRB
        any::<u32>().prop_map(|word| word & 0x01ff_ffff | 0x0000_0090), // LDRD, STRD, halfwords
        any::<u32>().prop_map(|word| word & 0x01ff_ffff | 0x0800_0000), // LDM, STM
    ];
    let arm = arm.prop_map(|word| Opcode::Arm(0xe000_0000 | word));
    let short = (0x4800..0xcfffu16).prop_map(|half| Opcode::Thumb(half, 0));
    let long = (prop_oneof![0xe800..0xea00u16, 0xf800..0xfa00u16], any::<u16>());
    let long = long.prop_map(|(first, second)| Opcode::Thumb(first, second));
    let thumb = prop_oneof![short, long];
    let (t, modes) = (Psr::T.bits(), prop_oneof![Just(Mode::User), Just(Mode::Fiq), Just(Mode::Svc)]);
    (prop_oneof![arm, thumb], any::<u32>(), modes).prop_map(move |(opcode, cpsr, mode)| {
        let state = if matches!(opcode, Opcode::Arm(_)) { cpsr & !t } else { cpsr | t };
        (opcode, Psr::from_bits_retain(state).with_mode(mode).bits())
    })
}

/// Whatever lies there, with any registers: if it is one that aborts where the guest did, it is carried out, if it stays in the page,
/// by as many accesses as it has registers, each in the page. Anything else is refused.
#[test]
#[cfg_attr(miri, ignore = "it wants thousands of cases, to have met each register as a base")]
fn any_instruction_stays_in_its_page() {
    let carried_out: RefCell<BTreeMap<(usize, usize), u32>> = RefCell::default();
    // Which of its accesses hit, if it is decoded; where that is in a page; and whether the abort is another's.
    let hit = (0..16u32, 0..4096u32, any::<u32>(), 0..8u8);
    let input = (near_loads_and_stores(), any::<[u32; 15]>(), hit, any::<u32>());
    let config = ProptestConfig { cases: 20_000, ..Default::default() };
    let result = TestRunner::new(config).run(&input, |((opcode, cpsr), registers, hit, page)| {
        let mut context = VcpuContext { pc: PC, cpsr, ..Default::default() };
        for (number, value) in (0..).zip(registers) {
            guest_registers::write(&mut context, Rt::new(number).unwrap(), value);
        }
        let (which, offset, elsewhere, stray) = hit;
        let decoded = opcode.decode();
        let (mut far, mut write, mut count) = (elsewhere, stray & 1 != 0, 0);
        let mut before = 0;
        if let Some(instruction) = decoded {
            count = instruction.accesses().count() as u32;
            // The base moves so that the access is where it should be; it may be the index as well, and then it is where it is.
            if let Base::Register(rn) = instruction.base {
                let at = |context: &mut VcpuContext| {
                    let all: [u32; 15] =
                        core::array::from_fn(|number| guest_registers::read(context, Rt::new(number as u32).unwrap()));
                    instruction.place(|rt| all[rt.index()], PC, Psr::from_bits_retain(cpsr)).address
                };
                let base = guest_registers::read(&mut context, rn);
                let wanted = elsewhere & !0xfff | offset & !(instruction.size.bytes() - 1);
                let base = base.wrapping_add(wanted.wrapping_sub(at(&mut context)));
                guest_registers::write(&mut context, rn, base);
                before = which % count * instruction.size.bytes();
                far = at(&mut context).wrapping_add(before);
                write = !instruction.load;
            } else {
                far = (PC.wrapping_add(if cpsr & Psr::T.bits() != 0 { 4 } else { 8 }) & !3).wrapping_add(elsewhere);
            }
        }
        if stray == 7 {
            far = far.wrapping_add(elsewhere);
        }
        let ipa = Ipa::new(u64::from(page) << 12 | u64::from(far & 0xfff));
        let taken = Transfer::begin(&mut context, opcode, &abort(write), ipa, far);
        let bytes = decoded.map_or(0, |instruction| count * instruction.size.bytes());
        let in_page = ipa.page_offset() as u32 >= before && ipa.page_offset() as u32 - before + bytes <= 4096;
        let is_it = stray != 7 && decoded.is_some_and(|instruction| matches!(instruction.base, Base::Register(_)));
        if is_it {
            prop_assert_eq!(taken.is_ok(), in_page, "{:?}", taken);
        }
        let Ok(mut transfer) = taken else { return Ok(()) };
        let mut accesses: Vec<Pending> = Vec::new();
        let mut next = transfer.access();
        while let Some(access) = next {
            prop_assert_eq!(access.ipa.page(), ipa.page());
            prop_assert_eq!(access.written().is_some(), write);
            accesses.push(access);
            next = transfer.advance(&access, [0xff; 8], &mut context);
        }
        prop_assert_eq!(accesses.len() as u32, count);
        if let (true, Some(Base::Register(rn))) = (is_it, decoded.map(|instruction| instruction.base)) {
            let form = match opcode {
                Opcode::Arm(_) => 0,
                Opcode::Thumb(first, _) => 1 + usize::from(is_wide(first)),
            };
            *carried_out.borrow_mut().entry((form, rn.index())).or_default() += 1;
        }
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.unwrap_err());
    // Arm and wide Thumb instructions have any base, short ones r0 to r7 and SP.
    let carried_out = carried_out.into_inner();
    let missing: Vec<_> = (0..3usize)
        .flat_map(|form| (0..15usize).map(move |rn| (form, rn)))
        .filter(|(form, rn)| *form != 1 || *rn < 8 || *rn == 13)
        .filter(|place| carried_out.get(place).is_none_or(|count| *count < 10))
        .collect();
    assert_eq!(missing, [], "of {carried_out:?}");
}
