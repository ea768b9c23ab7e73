// SPDX-License-Identifier: GPL-2.0-only
//! Guests and processes that do anything: whatever they do, the kernel goes on, and so does everybody else.
//!
//! What is random is so by a fixed seed, which a failure names along with the round; `KVM_CONFORMANCE_SEED` chooses another.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, GICC, GICD, Machine, PC, RAM, RAM_BYTES, Vcpu, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("guests that execute anything harm nobody", programs).within(300),
    Case::of("vCPUs with anything in their registers harm nobody", registers).within(300),
    Case::of("calls with anything in their arguments harm nobody", calls).within(300),
    Case::of("of two that create the same vCPU one succeeds", creation_race).within(120),
    Case::of("slots that come and go under a running guest harm nobody", slot_race).within(120),
    Case::of("lines driven by several threads reach the guest", line_race).within(120),
];

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let chosen = std::env::var("KVM_CONFORMANCE_SEED").ok().and_then(|seed| seed.parse().ok());
        Self(chosen.unwrap_or(0x9e37_79b9_7f4a_7c15).max(1))
    }

    fn wide(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn word(&mut self) -> u32 {
        (self.wide() >> 32) as u32
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.word() % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// A value with few bits, many, or as numbers are often off by.
    fn value(&mut self) -> u64 {
        match self.below(5) {
            0 => u64::from(self.below(64)),
            1 => 1u64 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            3 => u64::MAX - u64::from(self.below(0x2000)),
            _ => self.wide(),
        }
    }
}

/// A guest still runs as it should.
fn sane() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, 0x600d).str(2, 1, 0).power_off();
    let vcpu = Machine::new(&program)?.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, 0x600d)?;
    vcpu.expect_off()
}

/// Runs a vCPU for a while, answering what it asks. Its exits are those that a guest can have.
fn run_for_a_while(vcpu: &Arc<Vcpu>, random: &mut Random) -> Verdict {
    for _ in 0..8 {
        let running = vcpu.start();
        std::thread::sleep(Duration::from_millis(1));
        match running.interrupt() {
            Ok(Exit::Mmio(_)) => vcpu.page.answer(random.wide().to_le_bytes()),
            Ok(Exit::SystemEvent { .. }) => return Ok(()),
            Ok(exit) => return Err(Failure::new(format!("the exit {exit:x?}"))),
            Err(Errno::EINTR | Errno::EFAULT) => {}
            // An access that cannot be emulated: the process steps over it.
            Err(Errno::ENOSYS) => {
                let pc = vcpu.fd.register(PC).succeeds("reading PC")?;
                vcpu.fd.set_register(PC, (pc + 4) & 0xffff_ffff).succeeds("writing PC")?;
            }
            Err(error) => return Err(Failure::new(format!("KVM_RUN: {error:?}"))),
        }
    }
    Ok(())
}

/// Vectors that step over whatever instruction was to blame.
const VECTORS: [u32; 8] = [
    0xeaff_fffe, // reset: b .
    0xe1b0_f00e, // undefined instruction: movs pc, lr
    0xe1b0_f00e, // supervisor call: movs pc, lr
    0xe1b0_f00e, // prefetch abort: movs pc, lr
    0xe25e_f004, // data abort: subs pc, lr, #4
    0xeaff_fffe, // not used: b .
    0xe25e_f004, // IRQ: subs pc, lr, #4
    0xe25e_f004, // FIQ: subs pc, lr, #4
];

/// Adds one instruction or a few.
fn anything(random: &mut Random, program: &mut Program) {
    let rt = random.below(13);
    let coprocessor = |random: &mut Random| random.of(&[15, 15, 15, 14]) << 8;
    match random.below(14) {
        // MCR and MRC, MCRR and MRRC.
        0..=3 => {
            let fields = random.word() & 0x00ff_00ef | 0x10;
            let coprocessor = coprocessor(random);
            program.raw(0xee00_0000 | fields | rt << 12 | coprocessor);
        }
        4 => {
            let fields = random.word() & 0x0010_00ff;
            let coprocessor = coprocessor(random);
            program.raw(0xec40_0000 | fields | random.below(13) << 16 | rt << 12 | coprocessor);
        }
        // The GIC: a word, halfword or byte, loaded or stored.
        5 | 6 => {
            let base = random.of(&[GICD, GICD, GICC, GICC + 0x1000]);
            let opcode = random.of(&[0xe581_2000, 0xe591_2000, 0xe5c1_2000, 0xe5d1_2000, 0xe1c1_20b0, 0xe1d1_20b0]);
            let at = base + random.below(0x1000);
            let value = random.value() as u32;
            program.set(2, value).set(1, at).raw(opcode);
        }
        // The firmware, also with functions that it does not have.
        7 => {
            let function = random.of(&[
                psci::PSCI_VERSION,
                psci::CPU_ON,
                psci::AFFINITY_INFO,
                psci::PSCI_FEATURES,
                psci::MIGRATE,
                psci::SMCCC_VERSION,
                psci::SMCCC_ARCH_FEATURES,
                psci::SMCCC_ARCH_WORKAROUND_1,
                psci::KVM_PSCI_FN_CPU_ON,
                0xffff_ffff,
                0,
                1,
            ]);
            let (one, two) = (random.value() as u32, random.value() as u32);
            program.set(1, one).set(2, two).call(function);
        }
        // VFP and NEON.
        8 => {
            let word = random.word();
            program.raw(
                random.of(&[0xee00_0a00, 0xeee8_0a10, 0xeef8_0a10, 0xec80_0b00, 0xf200_0000, 0xf400_0000])
                    | word & 0x0007_f0ff,
            );
        }
        // MSR, MRS, CPS, SETEND, SRS and their like.
        9 => {
            let word = random.word();
            program.raw(
                random.of(&[0xe120_f000, 0xe100_0000, 0xe100_0200, 0xe120_f200, 0xf100_0000]) | word & 0x004f_03df,
            );
        }
        // SVC, SMC, HVC #n, BKPT, WFE, SEV, barriers, CLREX; WFI is rare, for it waits long.
        10 => {
            program.raw(random.of(&[
                0xef00_0000,
                0xe160_0070,
                0xe140_0071,
                0xe120_0070,
                0xe320_f002,
                0xe320_f004,
                0xf57f_f04f,
                0xf57f_f01f,
            ]));
        }
        // LDM, STM, LDRD, STRD, LDREX, STREX, SWP on a device, on memory, on the GIC.
        11 => {
            let base = random.of(&[DEVICE, RAM + 0x2000, GICD, GICC, 0, 0x2000_0000]);
            let opcode = random.of(&[
                0xe891_000c,
                0xe881_000c,
                0xe8b1_000c,
                0xe1c1_20d0,
                0xe1c1_20f0,
                0xe191_2f9f,
                0xe181_3f92,
                0xe101_3092,
                0xe4b1_2004,
            ]);
            program.set(1, base).raw(opcode);
        }
        12 => {
            let value = random.value() as u32;
            program.set(rt, value);
        }
        _ => {
            let word = random.word();
            program.raw(word);
        }
    }
}

fn programs() -> Verdict {
    let mut random = Random::new();
    for round in 0..150 {
        let seed = random.0;
        let mut program = Program::new();
        for _ in 0..200 {
            anything(&mut random, &mut program);
        }
        program.branch_to_start();
        let machine = Machine::new(&program)?;
        let vectors = Memory::new(PAGE).succeeds("mmap")?;
        vectors.put(0, &VECTORS);
        machine.vm.slot(&region(1, 0, PAGE as u64, vectors.address(0))).succeeds("a slot for vectors")?;
        let vcpu = machine.vcpu(0)?;
        let _other = machine.vcpu(1)?;
        let _gic = if random.below(4) == 0 { None } else { Some(machine.gic()?) };
        let ran = run_for_a_while(&vcpu, &mut random);
        ran.map_err(|failure| Failure::new(format!("round {round}, seed {seed}: {failure}")))?;
        if round % 10 == 0 {
            sane()?;
        }
    }
    sane()
}

fn registers() -> Verdict {
    let mut random = Random::new();
    let mut program = Program::new();
    for _ in 0..200 {
        anything(&mut random, &mut program);
    }
    program.branch_to_start();
    for round in 0..150 {
        let seed = random.0;
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let _gic = if random.below(4) == 0 { None } else { Some(machine.gic()?) };
        let (count, _, _) = vcpu.fd.register_list(0);
        let (_, list, _) = vcpu.fd.register_list(count);
        holds(!list.is_empty(), "there are registers")?;
        for _ in 0..4 {
            for _ in 0..random.below(200) {
                let id = random.of(&list);
                match vcpu.fd.set_register(id, random.value()) {
                    Ok(_) | Err(Errno::EINVAL) => {}
                    Err(error) => {
                        return Err(Failure::new(format!("round {round}, seed {seed}: writing {id:#x}: {error:?}")));
                    }
                }
            }
            if random.below(2) == 0 {
                vcpu.fd.set_register(PC, u64::from(RAM + random.below(0x300) * 4)).succeeds("writing PC")?;
            }
            let ran = run_for_a_while(&vcpu, &mut random);
            ran.map_err(|failure| Failure::new(format!("round {round}, seed {seed}: {failure}")))?;
        }
        if round % 10 == 0 {
            sane()?;
        }
    }
    sane()
}

fn calls() -> Verdict {
    let mut random = Random::new();
    for round in 0..60 {
        let mut program = Program::new();
        program.power_off();
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
        let spare = Memory::new(RAM_BYTES).succeeds("mmap")?;
        for _ in 0..300 {
            match random.below(8) {
                0 | 1 => {
                    // Only memory that is the guest's to have; everything else about it is anything.
                    let slot = UserspaceMemoryRegion {
                        slot: random.of(&[1, 2, 31, 32, 0xffff, 0x1_0001]),
                        flags: random.of(&[0, 0, 1, 2, 3, 4, u32::MAX]),
                        guest_phys_addr: random.value() & random.of(&[u64::MAX, !0xfff]),
                        memory_size: u64::from(random.below(RAM_BYTES as u32)) & random.of(&[u64::MAX, !0xfff]),
                        userspace_addr: spare.address(0),
                    };
                    let _ = machine.vm.slot(&slot);
                }
                2 => {
                    let irq = random.value() as u32;
                    let _ = machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: random.below(3) });
                }
                3 => {
                    let ioctl = random.of(&[KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR]);
                    let attr = random.of(&[0, 1, 2, 3, u64::MAX]);
                    let mut value = random.value();
                    let _ = gic.attribute(ioctl, random.below(9), attr, &mut value);
                }
                4 => {
                    let id = KVM_REG_ARM
                        | random.of(&[KVM_REG_SIZE_U32, KVM_REG_SIZE_U64])
                        | u64::from(random.below(0x16) << 16 | random.below(0x10000));
                    let _ = vcpu.fd.register(id);
                    let _ = vcpu.fd.set_register(id, random.value());
                }
                5 => {
                    let _ = vcpu.fd.give(KVM_SET_MP_STATE, &mut MpState { mp_state: random.below(7) });
                }
                6 => {
                    let _ =
                        vcpu.init(&VcpuInit { target: random.below(3), features: [random.below(5), 0, 0, 0, 0, 0, 0] });
                }
                _ => {
                    let address = DeviceAddr::new(random.below(2).into(), random.below(4).into(), random.value());
                    let _ = machine.vm.give(KVM_ARM_SET_DEVICE_ADDR, &mut { address });
                }
            }
        }
        let running = vcpu.start();
        std::thread::sleep(Duration::from_millis(1));
        match running.interrupt() {
            Ok(Exit::Mmio(_) | Exit::SystemEvent { .. }) | Err(_) => {}
            Ok(exit) => return Err(Failure::new(format!("round {round}: the exit {exit:x?}"))),
        }
    }
    sane()
}

fn creation_race() -> Verdict {
    for _ in 0..50 {
        let machine = Arc::new(Machine::new(&Program::new())?);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let machine = machine.clone();
                std::thread::spawn(move || machine.vm.create(KVM_CREATE_VCPU, 0))
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        equal(results.iter().filter(|result| result.is_ok()).count(), 1, "how many succeed")?;
        for result in results.into_iter().filter(Result::is_err) {
            result.fails(Errno::EEXIST, "the others")?;
        }
    }
    Ok(())
}

fn slot_race() -> Verdict {
    const SECOND: u32 = 0x9000_0000;
    let mut program = Program::new();
    program.set(1, SECOND).set(4, RAM + PAGE as u32);
    let top = program.label();
    program.ldr(2, 1, 0).str(2, 1, 4).add(3, 1).str(3, 4, 0).branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let memory = Memory::new(PAGE).succeeds("mmap")?;
    let runner = {
        let vcpu = vcpu.clone();
        // Ends with the flag, which it sees between two exits.
        std::thread::spawn(move || {
            let mut exits = 0u32;
            loop {
                match vcpu.run() {
                    Ok(Exit::Mmio(_)) => exits += 1,
                    Err(Errno::EINTR) => return Ok(exits),
                    other => return Err(format!("{other:x?}")),
                }
            }
        })
    };
    for round in 0..300 {
        let there = region(1, SECOND.into(), PAGE as u64, memory.address(0));
        machine.vm.slot(&there).succeeds("making the slot")?;
        let before = machine.ram.read(PAGE);
        let lives = crate::machine::await_that(|| machine.ram.read(PAGE) != before);
        lives.succeeds(format_args!("waiting for the guest, round {round}"))?;
        machine.vm.slot(&region(1, SECOND.into(), 0, memory.address(0))).succeeds("deleting the slot")?;
    }
    vcpu.page.exit_immediately(true);
    let exits = runner.join().expect("no panic").map_err(|exit| Failure::new(format!("an exit: {exit}")))?;
    holds(exits > 0, "the guest met the slot's absence")
}

fn line_race() -> Verdict {
    // The guest takes what comes, counts it and ends it.
    const FIRST: u32 = 40;
    let mut program = Program::new();
    program.set(4, GICD).set(5, GICC).set(6, RAM + PAGE as u32);
    program.set(1, 0xffff_ffff).set(2, GICD + 0x104).str(1, 2, 0); // ISENABLER1
    for spi in (FIRST..FIRST + 4).step_by(4) {
        program.set(1, 0x0101_0101).set(2, GICD + 0x800 + spi).str(1, 2, 0); // ITARGETSR
    }
    program.set(1, 1).str(1, 4, 0).set(2, 0xff).str(2, 5, 4).str(1, 5, 0);
    program.set(3, 0).set(8, 1);
    let top = program.label();
    program.str(8, 6, 4).wfi().ldr(0, 5, 0xc).str(0, 5, 0x10).add(3, 1).str(3, 6, 0).branch(top);
    let machine = Arc::new(Machine::new(&program)?);
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let running = vcpu.start();
    machine.await_word(PAGE + 4, 1, "the guest's readiness")?;
    let threads: Vec<_> = (0..4u16)
        .map(|number| {
            let machine = machine.clone();
            std::thread::spawn(move || {
                let irq = IrqLine::Spi { number: FIRST as u16 + number }.encode();
                for round in 0..400 {
                    machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: (round + 1) & 1 })?;
                }
                Ok::<(), Errno>(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic").succeeds("KVM_IRQ_LINE")?;
    }
    // All lines are down now; one that goes up still gets through.
    for number in 0..4u16 {
        let irq = IrqLine::Spi { number: FIRST as u16 + number }.encode();
        let before = machine.ram.read(PAGE);
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 1 }).succeeds("raising a line")?;
        let taken = crate::machine::await_that(|| machine.ram.read(PAGE) != before);
        taken.succeeds(format_args!("waiting for SPI {number}"))?;
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 0 }).succeeds("lowering it")?;
    }
    running.stop()
}
