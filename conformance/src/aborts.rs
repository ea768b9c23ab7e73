// SPDX-License-Identifier: GPL-2.0-only
//! Aborts: what is a device's leaves access by access whatever the instruction; what is memory's is mapped, whoever
//! changes what meanwhile.
//!
//! A guest's instruction lies in a page at [`CODE`], and the next one in a page elsewhere in memory, as the guest's
//! translation tables have it, so that a wrong translation finds another instruction. With the MMU off, both lie where
//! [`World::Flat`] says. The process sets the system registers, so the guest begins with its MMU on, in any mode.

use std::sync::Arc;

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{CPSR, DEVICE, Machine, PC, RAM, RAM_BYTES, Vcpu, r, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("an instruction without a syndrome leaves once for each register, MMU off", described_flat),
    Case::of("the same with the MMU on, short descriptors", described_short),
    Case::of("the same with the MMU on, long descriptors", described_long),
    Case::of("the same in Thumb state, across pages as well", described_thumb),
    Case::of("a big-endian guest's words leave one by one", big_endian),
    Case::of("between its accesses nothing is changed, and they are completed before a signal counts", resumed),
    Case::of("KVM_ARM_VCPU_INIT forgets an instruction under way", forgotten),
    Case::of("what neither a syndrome nor the decoder knows is ENOSYS", unsupported),
    Case::of("a write to a readonly slot leaves from under the guest's tables, and PAR is kept", readonly),
    Case::of("writes that are logged reach their page while another vCPU moves it", logged).within(180),
    Case::of("an instruction is read while another vCPU moves its page", moved).within(180),
];

/// The guest's virtual address of its first page of code.
pub const CODE: u32 = 0x4000_0000;
/// The guest's virtual address of the page that another vCPU moves.
const MOVING: u32 = CODE + 2 * PAGE as u32;
/// The guest's virtual address of [`DEVICE`].
pub const DEVICE_SEEN: u32 = 0x5000_0000;
/// The guest's virtual address of the readonly slot.
const ROM_SEEN: u32 = 0x6000_0000;
/// Where the readonly slot is.
pub const ROM: u32 = 0x2040_0000;

/// Where in memory things are: the translation tables, the pages of code, and two pages for one.
pub const FIRST_TABLE: usize = 0x4000;
pub const SECOND_TABLE: usize = 0x8000;
const THIRD_TABLE: usize = 0x9000;
pub const PAGE_0: usize = 0xa000;
const MOVER: usize = 0xb000;
const PAGE_1: usize = 0xc000;
const HERE: usize = 0xd000;
const THERE: usize = 0xe000;

const SCTLR: u64 = cp15_32(0, 1, 0, 0);
const CPACR: u64 = cp15_32(0, 1, 0, 2);
const TTBCR: u64 = cp15_32(0, 2, 0, 2);
const DACR: u64 = cp15_32(0, 3, 0, 0);
const MAIR0: u64 = cp15_32(0, 10, 2, 0);
const VBAR: u64 = cp15_32(0, 12, 0, 0);
pub const TTBR0: u64 = cp15_64(0, 2);
/// SCTLR.M.
const MMU: u64 = 1;

/// Supervisor and User mode, with asynchronous aborts, IRQ and FIQ masked.
pub const SVC: u32 = 0x1d3;
const USR: u32 = 0x1d0;
const THUMB: u32 = 0x20;
const BIG_ENDIAN: u32 = 0x200;

/// How the guest's addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Not at all.
    Flat,
    /// By short descriptors: small pages, and sections.
    Short,
    /// By long descriptors: pages, and blocks of 2 MiB.
    Long,
}

impl World {
    /// Where the guest sees its code.
    fn code(self) -> u32 {
        if self == Self::Flat { RAM + PAGE_0 as u32 } else { CODE }
    }

    /// Where the guest sees the device.
    fn device(self) -> u32 {
        if self == Self::Flat { DEVICE } else { DEVICE_SEEN }
    }

    /// Where in memory the guest's second page of code is.
    fn second_page(self) -> usize {
        if self == Self::Flat { PAGE_0 + PAGE } else { PAGE_1 }
    }

    /// The descriptor of a page that everybody may do everything with.
    pub fn page(self, at: usize) -> u32 {
        (RAM + at as u32) | if self == Self::Long { LONG | 0b11 } else { SMALL }
    }

    /// Where the descriptor of the `number`th page from [`CODE`] on is.
    fn descriptor(self, number: usize) -> usize {
        if self == Self::Long { THIRD_TABLE + number * 8 } else { SECOND_TABLE + number * 4 }
    }

    /// Writes the guest's tables, and has a vCPU use them.
    pub fn enter(self, machine: &Machine, vcpu: &Vcpu) -> Verdict {
        let ram = &machine.ram;
        let at = |offset: usize| RAM + offset as u32;
        match self {
            Self::Flat => return Ok(()),
            Self::Short => {
                ram.write(FIRST_TABLE + (CODE >> 20) as usize * 4, at(SECOND_TABLE) | 0b01);
                ram.write(FIRST_TABLE + (DEVICE_SEEN >> 20) as usize * 4, DEVICE | SECTION);
                ram.write(FIRST_TABLE + (ROM_SEEN >> 20) as usize * 4, ROM | SECTION);
            }
            Self::Long => {
                ram.write(FIRST_TABLE + (CODE >> 30) as usize * 8, at(SECOND_TABLE) | 0b11);
                ram.write(SECOND_TABLE, at(THIRD_TABLE) | 0b11);
                for (seen, is) in [(DEVICE_SEEN, DEVICE), (ROM_SEEN, ROM)] {
                    ram.write(SECOND_TABLE + ((seen - CODE) >> 21) as usize * 8, is | LONG | 0b01);
                }
            }
        }
        for (number, page) in [PAGE_0, PAGE_1].into_iter().enumerate() {
            ram.write(self.descriptor(number), self.page(page));
        }
        let set = |id, value: u32| vcpu.fd.set_register(id, value.into()).succeeds("a system register");
        set(TTBCR, if self == Self::Long { 1 << 31 } else { 0 })?;
        // Attribute 0: write-back.
        set(MAIR0, if self == Self::Long { 0xff } else { 0 })?;
        set(TTBR0, at(FIRST_TABLE))?;
        set(DACR, 1)?;
        let sctlr = vcpu.fd.register(SCTLR).succeeds("SCTLR")?;
        vcpu.fd.set_register(SCTLR, sctlr | MMU).succeeds("SCTLR").map(|_| ())
    }
}

/// AF, inner shareable, PL0 may read and write.
const LONG: u32 = 1 << 10 | 0b11 << 8 | 0b01 << 6;
/// A small page: everybody may do everything.
const SMALL: u32 = 0b11 << 4 | 0b10;
/// A section: everybody may do everything.
const SECTION: u32 = 0b11 << 10 | 0b10;

/// An instruction at the beginning of a page or, `late`, in the last two bytes of one.
struct Code {
    halves: Vec<u16>,
    late: bool,
    thumb: bool,
}

impl Code {
    fn arm(word: u32) -> Self {
        Self { halves: vec![word as u16, (word >> 16) as u16], late: false, thumb: false }
    }

    fn thumb(halves: &[u16]) -> Self {
        Self { halves: halves.to_vec(), late: false, thumb: true }
    }

    fn across_pages(self) -> Self {
        Self { late: true, ..self }
    }

    fn bytes(&self) -> u32 {
        2 * self.halves.len() as u32
    }

    /// A machine whose vCPU is at the instruction, r1 pointing into the device, r2 to r5 holding what [`LEFT`] says.
    fn machine(&self, world: World, cpsr: u32) -> Result<(Machine, Arc<Vcpu>, u32), Failure> {
        let machine = Machine::new(&Program::new())?;
        let vcpu = machine.vcpu(0)?;
        world.enter(&machine, &vcpu)?;
        let half = |offset: usize, value: u16| {
            let (word, shift) = (offset & !3, (offset & 2) * 8);
            machine.ram.write(word, machine.ram.read(word) & !(0xffff << shift) | u32::from(value) << shift);
        };
        let start = if self.late { PAGE - 2 } else { 0 };
        for (index, value) in self.halves.iter().enumerate() {
            let at = start + 2 * index;
            half(if at < PAGE { PAGE_0 + at } else { world.second_page() + at - PAGE }, *value);
        }
        let pc = world.code() + start as u32;
        for (id, value) in [(PC, pc), (CPSR, cpsr | if self.thumb { THUMB } else { 0 }), (r(1), world.device() + 0x100)]
        {
            vcpu.fd.set_register(id, value.into()).succeeds("KVM_SET_ONE_REG")?;
        }
        for (number, value) in LEFT {
            vcpu.fd.set_register(r(number), value.into()).succeeds("KVM_SET_ONE_REG")?;
        }
        Ok((machine, vcpu, pc))
    }
}

/// What the guest has in its registers.
const LEFT: [(u16, u32); 4] = [(2, 0x2222_2222), (3, 0x3333_3333), (4, 4), (5, 0x5555_5555)];

/// An access: how far behind the device's beginning, how wide, what is stored.
type Expected = (u32, u32, Option<u32>);

/// What the device answers to the load number `index`.
fn answer(index: usize) -> u32 {
    0xa0b0_c0d0 + index as u32
}

/// One instruction: its name, the accesses that it makes, and the registers that are others afterwards; r1 is told as a
/// distance from the device.
struct Row {
    name: &'static str,
    code: Code,
    accesses: Vec<Expected>,
    changed: Vec<(u16, u32)>,
}

const fn load(at: u32) -> Expected {
    (at, 4, None)
}

const fn store(at: u32, value: u32) -> Expected {
    (at, 4, Some(value))
}

const R2: u32 = LEFT[0].1;
const R3: u32 = LEFT[1].1;
const R5: u32 = LEFT[3].1;
const A0: u32 = 0xa0b0_c0d0;

/// Makes the accesses of an instruction that the vCPU is at.
fn expect(vcpu: &Vcpu, accesses: &[Expected]) -> Verdict {
    for (index, (at, len, value)) in accesses.iter().enumerate() {
        match value {
            Some(value) => vcpu.expect_write(DEVICE + at, *len, *value)?,
            None => vcpu.expect_read(DEVICE + at, *len, answer(index))?,
        }
    }
    Ok(())
}

/// Lets the vCPU complete what it is at, and nothing more.
fn complete(vcpu: &Vcpu) -> Verdict {
    vcpu.page.exit_immediately(true);
    vcpu.run().fails(Errno::EINTR, "KVM_RUN with immediate_exit")?;
    vcpu.page.exit_immediately(false);
    Ok(())
}

impl Row {
    fn check(&self, world: World, cpsr: u32) -> Verdict {
        let (_machine, vcpu, pc) = self.code.machine(world, cpsr)?;
        expect(&vcpu, &self.accesses)?;
        complete(&vcpu)?;
        let changed = |number| self.changed.iter().find(|(changed, _)| *changed == number).map(|(_, value)| *value);
        let base = world.device() + changed(1).unwrap_or(0x100);
        equal(vcpu.fd.register(PC), Ok((pc + self.code.bytes()).into()), "PC")?;
        equal(vcpu.fd.register(r(1)), Ok(base.into()), "the base")?;
        for (number, value) in LEFT {
            let value = changed(number).unwrap_or(value);
            equal(vcpu.fd.register(r(number)), Ok(value.into()), format_args!("r{number}"))?;
        }
        Ok(())
    }
}

fn check(rows: &[Row], worlds: &[(World, u32)]) -> Verdict {
    for row in rows {
        for (world, cpsr) in worlds {
            row.check(*world, *cpsr)
                .map_err(|failure| Failure::new(format!("{} ({world:?}, CPSR {cpsr:#x}): {failure}", row.name)))?;
        }
    }
    Ok(())
}

fn row<const A: usize, const C: usize>(
    code: Code,
    name: &'static str,
    accesses: [Expected; A],
    changed: [(u16, u32); C],
) -> Row {
    Row { name, code, accesses: accesses.into(), changed: changed.into() }
}

fn arm_rows() -> Vec<Row> {
    vec![
        row(Code::arm(0xe1c1_20d8), "ldrd r2, r3, [r1, #8]", [load(0x108), load(0x10c)], [(2, A0), (3, A0 + 1)]),
        row(Code::arm(0xe0c1_21f0), "strd r2, r3, [r1], #16", [store(0x100, R2), store(0x104, R3)], [(1, 0x110)]),
        row(Code::arm(0xe491_2004), "ldr r2, [r1], #4", [load(0x100)], [(1, 0x104), (2, A0)]),
        row(Code::arm(0xe5f1_2001), "ldrb r2, [r1, #1]!", [(0x101, 1, None)], [(1, 0x101), (2, 0xd0)]),
        row(Code::arm(0xe1b1_20f4), "ldrsh r2, [r1, r4]!", [(0x104, 2, None)], [(1, 0x104), (2, 0xffff_c0d0)]),
        row(Code::arm(0xe521_2004), "str r2, [r1, #-4]!", [store(0xfc, R2)], [(1, 0xfc)]),
        row(Code::arm(0xe4c1_2001), "strb r2, [r1], #1", [(0x100, 1, Some(0x22))], [(1, 0x101)]),
        row(Code::arm(0xe1e1_20b2), "strh r2, [r1, #2]!", [(0x102, 2, Some(0x2222))], [(1, 0x102)]),
        row(Code::arm(0xe4b1_2004), "ldrt r2, [r1], #4", [load(0x100)], [(1, 0x104), (2, A0)]),
        row(
            Code::arm(0xe891_002c),
            "ldm r1, {r2, r3, r5}",
            [load(0x100), load(0x104), load(0x108)],
            [(2, A0), (3, A0 + 1), (5, A0 + 2)],
        ),
        row(Code::arm(0xe931_000c), "ldmdb r1!, {r2, r3}", [load(0xf8), load(0xfc)], [(1, 0xf8), (2, A0), (3, A0 + 1)]),
        row(
            Code::arm(0xe9a1_002c),
            "stmib r1!, {r2, r3, r5}",
            [store(0x104, R2), store(0x108, R3), store(0x10c, R5)],
            [(1, 0x10c)],
        ),
        row(Code::arm(0xe801_000c), "stmda r1, {r2, r3}", [store(0xfc, R2), store(0x100, R3)], []),
    ]
}

fn described_flat() -> Verdict {
    check(&arm_rows(), &[(World::Flat, SVC), (World::Flat, USR)])
}

fn described_short() -> Verdict {
    check(&arm_rows(), &[(World::Short, SVC), (World::Short, USR)])
}

fn described_long() -> Verdict {
    check(&arm_rows(), &[(World::Long, SVC), (World::Long, USR)])
}

fn described_thumb() -> Verdict {
    const LDRD: &[u16] = &[0xe9d1, 0x2302];
    let rows = [
        row(Code::thumb(LDRD), "ldrd r2, r3, [r1, #8]", [load(0x108), load(0x10c)], [(2, A0), (3, A0 + 1)]),
        row(Code::thumb(LDRD).across_pages(), "ldrd across pages", [load(0x108), load(0x10c)], [(2, A0), (3, A0 + 1)]),
        row(
            Code::thumb(&[0xc90c]),
            "ldmia r1!, {r2, r3}",
            [load(0x100), load(0x104)],
            [(1, 0x108), (2, A0), (3, A0 + 1)],
        ),
        row(
            Code::thumb(&[0xc10c]).across_pages(),
            "stmia r1!, {r2, r3}, the last of a page",
            [store(0x100, R2), store(0x104, R3)],
            [(1, 0x108)],
        ),
        row(Code::thumb(&[0xf851, 0x2b04]), "ldr.w r2, [r1], #4", [load(0x100)], [(1, 0x104), (2, A0)]),
        row(
            Code::thumb(&[0xf821, 0x2f02]).across_pages(),
            "strh.w r2, [r1, #2]!",
            [(0x102, 2, Some(0x2222))],
            [(1, 0x102)],
        ),
        // These a syndrome describes, but not truly on a Cortex-A15 r0p4.
        row(Code::thumb(&[0x600a]), "str r2, [r1]", [store(0x100, R2)], []),
        row(Code::thumb(&[0xf881, 0x2001]).across_pages(), "strb.w r2, [r1, #1]", [(0x101, 1, Some(0x22))], []),
    ];
    check(&rows, &[(World::Flat, SVC), (World::Short, SVC), (World::Short, USR), (World::Long, USR)])
}

fn big_endian() -> Verdict {
    let rows = [
        row(
            Code::arm(0xe1c1_20d8),
            "ldrd r2, r3, [r1, #8]",
            [load(0x108), load(0x10c)],
            [(2, A0.swap_bytes()), (3, (A0 + 1).swap_bytes())],
        ),
        row(Code::arm(0xe801_0010), "stmda r1, {r4}", [store(0x100, 4u32.swap_bytes())], []),
    ];
    check(&rows, &[(World::Flat, SVC | BIG_ENDIAN), (World::Short, SVC | BIG_ENDIAN)])
}

fn resumed() -> Verdict {
    let (_machine, vcpu, pc) = Code::arm(0xe8b1_002c).machine(World::Short, SVC)?; // ldm r1!, {r2, r3, r5}
    let unchanged = || {
        equal(vcpu.fd.register(PC), Ok(pc.into()), "PC in between")?;
        equal(vcpu.fd.register(r(1)), Ok(u64::from(DEVICE_SEEN) + 0x100), "the base in between")?;
        equal(vcpu.fd.register(r(2)), Ok(R2.into()), "r2 in between")
    };
    vcpu.expect_read(DEVICE + 0x100, 4, 7)?;
    unchanged()?;
    // Whoever wants out gets the instruction's other accesses first.
    vcpu.page.exit_immediately(true);
    vcpu.expect_read(DEVICE + 0x104, 4, 8)?;
    unchanged()?;
    vcpu.expect_read(DEVICE + 0x108, 4, 9)?;
    unchanged()?;
    complete(&vcpu)?;
    for (number, value) in [(2, 7), (3, 8), (5, 9)] {
        equal(vcpu.fd.register(r(number)), Ok(value), format_args!("r{number}"))?;
    }
    equal(vcpu.fd.register(r(1)), Ok(u64::from(DEVICE_SEEN) + 0x10c), "the base")?;
    equal(vcpu.fd.register(PC), Ok(u64::from(pc) + 4), "PC")
}

fn forgotten() -> Verdict {
    let (machine, vcpu, _) = Code::arm(0xe891_002c).machine(World::Flat, SVC)?;
    vcpu.expect_read(DEVICE + 0x100, 4, 7)?;
    vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT")?;
    let mut program = Program::new();
    program.set(1, DEVICE).str(2, 1, 0).power_off();
    machine.ram.put(0, program.words());
    vcpu.fd.set_register(PC, RAM.into()).succeeds("writing PC")?;
    vcpu.expect_write(DEVICE, 4, 0)?;
    vcpu.expect_off()
}

fn unsupported() -> Verdict {
    let rows = [
        (0xe191_2f9f, "ldrex r2, [r1]"),
        (0xed91_0b00, "vldr d0, [r1]"),
        (0xe891_8004, "ldm r1, {r2, pc}"),
        (0xe8d1_000c, "ldm r1, {r2, r3}^"),
        (0xe491_f004, "ldr pc, [r1], #4"),
        (0xe881_000c, "stm r1, {r2, r3}, across pages"),
    ];
    for (word, name) in rows {
        let (_machine, vcpu, pc) = Code::arm(word).machine(World::Short, SVC)?;
        vcpu.fd.set_register(CPACR, 0xf0_0000).succeeds("CPACR")?;
        vcpu.fd.set_register(KVM_REG_ARM_VFP_FPEXC, 1 << 30).succeeds("FPEXC")?;
        if name.ends_with("across pages") {
            vcpu.fd.set_register(r(1), u64::from(DEVICE_SEEN) + 0xffc).succeeds("r1")?;
        }
        for _ in 0..2 {
            vcpu.run().fails(Errno::ENOSYS, name)?;
            equal(vcpu.fd.register(PC), Ok(pc.into()), format_args!("PC of {name}"))?;
        }
    }
    Ok(())
}

fn readonly() -> Verdict {
    for world in [World::Short, World::Long] {
        let machine = Machine::new(&Program::new())?;
        let rom = Memory::new(PAGE).succeeds("mmap")?;
        rom.write(0x104, 0x600d);
        let slot =
            UserspaceMemoryRegion { flags: KVM_MEM_READONLY, ..region(1, ROM.into(), PAGE as u64, rom.address(0)) };
        machine.vm.slot(&slot).succeeds("a readonly slot")?;
        let vcpu = machine.vcpu(0)?;
        world.enter(&machine, &vcpu)?;
        let mut program = Program::new();
        program.set(1, ROM_SEEN + 0x104).set(2, 0x22).set(3, 0x33).set(5, 0x1357_9000).set(6, 0x5a);
        program.raw(0xec46_5f07); // mcrr p15, 0, r5, r6, c7: PAR
        program.ldr(4, 1, 0).str(2, 1, 0); // mapped, then a permission fault
        program.raw(0xe0c1_20f4); // strd r2, r3, [r1], #4
        program.raw(0xec58_7f07); // mrrc p15, 0, r7, r8, c7
        program.set(9, DEVICE_SEEN).str(4, 9, 0);
        machine.ram.put(PAGE_0, program.words());
        vcpu.fd.set_register(PC, CODE.into()).succeeds("PC")?;
        for (offset, value) in [(0x104, 0x22), (0x104, 0x22), (0x108, 0x33)] {
            vcpu.expect_write(ROM + offset, 4, value)?;
        }
        vcpu.expect_write(DEVICE, 4, 0x600d)?;
        complete(&vcpu)?;
        equal(vcpu.fd.register(r(1)), Ok(u64::from(ROM_SEEN) + 0x108), "the base")?;
        equal((vcpu.fd.register(r(7)), vcpu.fd.register(r(8))), (Ok(0x1357_9000), Ok(0x5a)), "PAR afterwards")?;
        equal((rom.read(0x104), rom.read(0x108)), (0x600d, 0), "the memory")?;
    }
    Ok(())
}

/// Two vCPUs: the first is about to run at [`CODE`], under `world`'s tables; the second has its MMU off and moves the
/// page at [`MOVING`] between [`HERE`] and [`THERE`], with moments in which it is nowhere. What the first takes for an
/// abort then it does again.
fn moving(world: World) -> Result<(Machine, Arc<Vcpu>, Arc<Vcpu>), Failure> {
    let machine = Machine::new(&Program::new())?;
    let (vcpu, mover) = (machine.vcpu(0)?, machine.vcpu(1)?);
    let _gic = machine.gic()?;
    world.enter(&machine, &vcpu)?;
    let mut program = Program::new();
    program.set(0, RAM + world.descriptor(2) as u32).set(1, world.page(HERE)).set(2, world.page(THERE)).set(3, 0);
    program.set(4, MOVING);
    let top = program.label();
    for descriptor in [1, 3, 2, 3] {
        program.str(descriptor, 0, 0);
        program.raw(0xf57f_f04f).raw(0xee08_4f73).raw(0xf57f_f04f); // dsb; TLBIMVAAIS r4; dsb
        if descriptor != 3 {
            program.set(5, 40).raw(0xe255_5001).raw(0x1aff_fffd); // subs r5, r5, #1; bne back
        }
    }
    program.branch(top);
    machine.ram.put(MOVER, program.words());
    mover.fd.set_register(PC, (RAM + MOVER as u32).into()).succeeds("PC")?;
    // Vectors, in the second page of code.
    let here = 0xeaff_fffe;
    let vectors = [here, here, here, 0xe25e_f004, 0xe25e_f008]; // subs pc, lr, #4: fetches; subs pc, lr, #8: data
    machine.ram.put(PAGE_1, &vectors);
    vcpu.fd.set_register(VBAR, CODE as u64 + PAGE as u64).succeeds("VBAR")?;
    vcpu.fd.set_register(PC, CODE.into()).succeeds("PC")?;
    Ok((machine, vcpu, mover))
}

fn logged() -> Verdict {
    for world in [World::Short, World::Long] {
        let (machine, vcpu, mover) = moving(world)?;
        let mut program = Program::new();
        program.set(1, MOVING).set(2, 0);
        let top = program.label();
        program.add(2, 1).str(2, 1, 0).raw(0xe881_000c).branch(top); // stm r1, {r2, r3}
        machine.ram.put(PAGE_0, program.words());
        let (running, moving) = (vcpu.start(), mover.start());
        let words = || (machine.ram.read(HERE), machine.ram.read(THERE));
        let slot = region(0, RAM.into(), RAM_BYTES as u64, machine.ram.address(0));
        for round in 0..150 {
            // Switching it on makes all memory read-only for the guest: its next writes, of data and of tables, are
            // permission faults.
            for flags in [KVM_MEM_LOG_DIRTY_PAGES, 0] {
                machine.vm.slot(&UserspaceMemoryRegion { flags, ..slot }).succeeds("KVM_SET_USER_MEMORY_REGION")?;
                let (here, there) = words();
                crate::machine::await_that(|| words().0 != here && words().1 != there)
                    .succeeds(format_args!("{world:?}, round {round}: waiting for both pages to be written"))?;
            }
        }
        running.stop()?;
        moving.stop()?;
        let elsewhere = (0..PAGE).step_by(4).all(|offset| machine.ram.read(THERE + PAGE + offset) == 0);
        equal(elsewhere, true, "memory that nobody wrote to is as it was")?;
    }
    Ok(())
}

fn moved() -> Verdict {
    for world in [World::Short, World::Long] {
        let (machine, vcpu, mover) = moving(world)?;
        let mut program = Program::new();
        program.raw(0xe1c1_20d8).raw(0xe1c1_21f0).branch_to_start(); // ldrd r2, r3, [r1, #8]; strd r2, r3, [r1, #16]
        for page in [HERE, THERE] {
            machine.ram.put(page, program.words());
        }
        vcpu.fd.set_register(r(1), DEVICE_SEEN.into()).succeeds("r1")?;
        vcpu.fd.set_register(PC, MOVING.into()).succeeds("PC")?;
        let moving = mover.start();
        let mut value = 0x1234_5678;
        for _ in 0..3000 {
            let next = value ^ 0xffff;
            vcpu.expect_read(DEVICE + 8, 4, value)?;
            vcpu.expect_read(DEVICE + 12, 4, next)?;
            vcpu.expect_write(DEVICE + 16, 4, value)?;
            vcpu.expect_write(DEVICE + 20, 4, next)?;
            value = value.rotate_left(1);
        }
        moving.stop()?;
    }
    Ok(())
}
