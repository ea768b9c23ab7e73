// SPDX-License-Identifier: GPL-2.0-only
//! Whose registers are in the hardware: a process that reads and writes a vCPU's between its runs, wherever they are at the moment.
//!
//! Two machines run the same program in turn, each with values of its own. The program shows a register to the process by a
//! device write, or changes it first; the process writes the register before a run that shows it, and reads it after one that
//! changed it. What happens between its call and the run is different each time ([`BETWEEN`]): nothing, the other machine's turn on
//! the same CPU, a move to another CPU, and back.

use std::sync::Arc;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use uapi::{KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_VFP_FPEXC, core_index, core_reg, cp15_32, cp15_64, vfp_double};

use crate::Case;
use crate::code::Program;
use crate::cpu::{self, APSR, FPSCR, Registers};
use crate::machine::{DEVICE, Machine, Vcpu};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("what a process writes between runs is what the guest has", written_registers),
    Case::of("what a guest changes is what a process reads between runs", changed_registers),
    Case::of("the thread that runs a guest keeps its own registers", own_registers),
];

/// A register of which a guest can have 32 bits in r2.
struct Register {
    name: &'static str,
    id: u64,
    /// To r2.
    read: u32,
    /// From r2.
    write: u32,
    /// The bits that hold anything.
    bits: u32,
    /// The register's upper half, which `write` wants in r3.
    high: u32,
}

impl Register {
    const fn cp15(name: &'static str, [op1, crn, crm, op2]: [u8; 4], bits: u32) -> Self {
        let access = (op1 as u32) << 21 | (crn as u32) << 16 | 2 << 12 | (op2 as u32) << 5 | crm as u32;
        let (read, write) = (0xee10_0f10 | access, 0xee00_0f10 | access);
        Self { name, id: cp15_32(op1, crn, crm, op2), read, write, bits, high: 0 }
    }

    const fn core(name: &'static str, index: u16, read: u32, write: u32) -> Self {
        Self { name, id: core_reg(index), read, write, bits: u32::MAX, high: 0 }
    }

    /// Its whole value, given what the guest has in r2.
    fn whole(&self, value: u32) -> u64 {
        u64::from(self.high) << 32 | u64::from(value)
    }
}

/// One of each class that a world switch treats in its own way.
const REGISTERS: [Register; 20] = [
    Register::cp15("CSSELR", [2, 0, 0, 0], 1),
    Register::cp15("TTBR0", [0, 2, 0, 0], 0xffff_c000),
    Register::cp15("DACR", [0, 3, 0, 0], u32::MAX),
    Register::cp15("DFAR", [0, 6, 0, 0], u32::MAX),
    Register::cp15("IFAR", [0, 6, 0, 2], u32::MAX),
    Register::cp15("NMRR", [0, 10, 2, 1], u32::MAX),
    Register::cp15("VBAR", [0, 12, 0, 0], 0xffff_ffe0),
    Register::cp15("CONTEXTIDR", [0, 13, 0, 1], u32::MAX),
    Register::cp15("TPIDRURW", [0, 13, 0, 2], u32::MAX),
    Register::cp15("TPIDRURO", [0, 13, 0, 3], u32::MAX),
    Register::cp15("TPIDRPRW", [0, 13, 0, 4], u32::MAX),
    Register::core("r5", core_index::R0 + 5, 0xe1a0_2005, 0xe1a0_5002), // MOV
    Register::core("r10", core_index::R0 + 10, 0xe1a0_200a, 0xe1a0_a002),
    Register::core("SP_svc", core_index::SP_SVC, 0xe1a0_200d, 0xe1a0_d002),
    Register::core("LR_svc", core_index::SP_SVC + 1, 0xe1a0_200e, 0xe1a0_e002),
    Register::core("SP_irq", core_index::SP_IRQ, 0xe101_2300, 0xe121_f302), // MRS, MSR (banked)
    Register::core("r10_fiq", core_index::R8_FIQ + 2, 0xe10a_2200, 0xe12a_f202),
    Register {
        name: "d9",
        id: vfp_double(9),
        read: 0xee19_2b10,
        write: 0xee09_2b10,
        bits: u32::MAX,
        high: 0x0bad_cafe,
    },
    Register {
        name: "CNTV_CVAL",
        id: KVM_REG_ARM_TIMER_CVAL,
        read: 0xec53_2f3e,
        write: 0xec43_2f3e,
        bits: u32::MAX,
        high: 7,
    },
    Register { name: "PAR", id: cp15_64(0, 7), read: 0xec53_2f07, write: 0xec43_2f07, bits: 0xffff_f000, high: 0x55 },
];

/// What happens between the process's call and the run.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The other machine's turn.
    Other,
    /// To the other CPU.
    Move,
}

const BETWEEN: [&[Step]; 7] = [
    &[],
    &[Step::Other],
    &[Step::Move],
    &[Step::Move, Step::Other],
    &[Step::Other, Step::Move],
    &[Step::Move, Step::Other, Step::Move],
    &[Step::Other, Step::Move, Step::Other, Step::Move, Step::Other],
];

/// The CPUs that this thread may use: it is on one of them at a time.
struct Cpus {
    all: Vec<usize>,
    here: usize,
}

impl Cpus {
    fn new() -> Result<Self, Failure> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).succeeds("sched_getaffinity")?;
        let all = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect();
        let mut cpus = Self { all, here: 0 };
        cpus.go_on()?;
        Ok(cpus)
    }

    /// To the next, which on a host with one CPU is the same.
    fn go_on(&mut self) -> Verdict {
        self.here = (self.here + 1) % self.all.len();
        let mut set = CpuSet::new();
        set.set(self.all[self.here]).succeeds("a CPU's number")?;
        sched_setaffinity(Pid::from_raw(0), &set).succeeds("sched_setaffinity")
    }
}

/// One of two machines.
struct Twin {
    _machine: Machine,
    vcpu: Arc<Vcpu>,
    /// What each of [`REGISTERS`] should be, as far as r2 shows it.
    expected: Vec<u32>,
    /// Which register the program shows next.
    next: usize,
    count: u32,
    seed: u32,
}

impl Twin {
    fn new(seed: u32, program: &Program) -> Result<Self, Failure> {
        let machine = Machine::new(program)?;
        let vcpu = machine.vcpu(0)?;
        // Both privileges may use VFP, and it is on.
        vcpu.fd.set_register(cp15_32(0, 1, 0, 2), 0xf << 20).succeeds("writing CPACR")?;
        vcpu.fd.set_register(KVM_REG_ARM_VFP_FPEXC, 1 << 30).succeeds("writing FPEXC")?;
        let mut twin = Self { _machine: machine, vcpu, expected: vec![0; REGISTERS.len()], next: 0, count: 0, seed };
        for index in 0..REGISTERS.len() {
            twin.write(index)?;
        }
        Ok(twin)
    }

    /// Writes a new value of its own to a register.
    fn write(&mut self, index: usize) -> Verdict {
        let register = &REGISTERS[index];
        self.count += 1;
        let value = (self.seed + self.count).wrapping_mul(0x9e37_79b9) & register.bits;
        self.expected[index] = value;
        self.vcpu
            .fd
            .set_register(register.id, register.whole(value))
            .succeeds(format_args!("writing {}", register.name))?;
        Ok(())
    }

    /// Runs until the program has shown its next register.
    fn show(&mut self) -> Verdict {
        let (register, value) = (&REGISTERS[self.next], self.expected[self.next]);
        let why = |failure| Failure::new(format!("machine {}, {}: {failure}", self.seed, register.name));
        self.vcpu.expect_write(DEVICE, 4, value).map_err(why)?;
        self.next = (self.next + 1) % REGISTERS.len();
        Ok(())
    }

    /// Reads all registers.
    fn read(&self, between: &[Step]) -> Verdict {
        for (register, value) in REGISTERS.iter().zip(&self.expected) {
            let what = format_args!("{} of machine {} after {between:?}", register.name, self.seed);
            equal(self.vcpu.fd.register(register.id), Ok(register.whole(*value)), what)?;
        }
        Ok(())
    }
}

/// Shows r2 to the process. r1 and r4 are left to the program.
fn begin() -> Program {
    let mut program = Program::new();
    program.set(1, DEVICE);
    program
}

fn written_registers() -> Verdict {
    let mut program = begin();
    let top = program.label();
    for register in &REGISTERS {
        program.raw(register.read).str(2, 1, 0);
    }
    program.branch(top);
    let mut twins = [Twin::new(1000, &program)?, Twin::new(2000, &program)?];
    in_turn(&mut twins, |twin, _| twin.write(twin.next), Twin::show)
}

fn changed_registers() -> Verdict {
    const EOR_R2_R2_R4: u32 = 0xe022_2004;
    let mut program = begin();
    let top = program.label();
    for register in &REGISTERS {
        program.raw(register.read).set(4, register.bits).raw(EOR_R2_R2_R4).set(3, register.high);
        program.raw(register.write).str(2, 1, 0);
    }
    program.branch(top);
    let mut twins = [Twin::new(3000, &program)?, Twin::new(4000, &program)?];
    in_turn(
        &mut twins,
        |twin, between| twin.read(between),
        |twin| {
            twin.expected[twin.next] ^= REGISTERS[twin.next].bits;
            twin.show()
        },
    )
}

/// The kernel gives each thread its own TPIDRURW, so what a guest leaves in it shows in no thread but this.
fn own_registers() -> Verdict {
    const MVN_R2_R2: u32 = 0xe1e0_2002;
    let mut program = begin();
    let top = program.label();
    // All of VFP, the thread word and the flags change in the guest; and each register is shown, so that this is many stays.
    for register in &REGISTERS {
        program.raw(register.read).raw(MVN_R2_R2).set(3, register.high).raw(register.write).str(2, 1, 0);
    }
    const VMVN_EACH: [u32; 2] = [0xf3b0_05c0, 0x0000_2002]; // VMVN Qd, Qm: q0, and from one to the next; from q8 on with D and M
    for quad in 0..16 {
        let (number, upper) = ((quad & 7) * VMVN_EACH[1], quad >> 3);
        program.raw(VMVN_EACH[0] | number | upper << 22 | upper << 5);
    }
    program.str(2, 1, 0).branch(top);
    let twin = Twin::new(5000, &program)?;
    for run in 0..200u32 {
        let value = |place: u32| (run << 8 | place).wrapping_mul(0x9e37_79b9);
        cpu::set_thread_word(value(0));
        let mut registers = Registers {
            r: std::array::from_fn(|place| value(1 + place as u32)),
            apsr: value(20) & APSR,
            fpscr: value(21) & FPSCR,
            d: std::array::from_fn(|place| u64::from(value(22 + place as u32)) << 32 | u64::from(run)),
        };
        let mut before = registers;
        twin.vcpu.fd.run_with(&mut registers).succeeds("KVM_RUN")?;
        before.r[..3].copy_from_slice(&registers.r[..3]);
        before.r[7] = registers.r[7];
        equal(cpu::thread_word(), value(0), "TPIDRURW")?;
        holds(registers == before, before.difference(&registers))?;
    }
    Ok(())
}

/// Has both machines run by turns: the process's call, what comes in between, the run; and once more after that.
fn in_turn(
    twins: &mut [Twin; 2],
    call: impl Fn(&mut Twin, &[Step]) -> Verdict,
    run: impl Fn(&mut Twin) -> Verdict,
) -> Verdict {
    let mut cpus = Cpus::new()?;
    // Each register meets each of the ways.
    for round in 0..2 * REGISTERS.len() * BETWEEN.len() {
        let between = BETWEEN[round % BETWEEN.len()];
        call(&mut twins[0], between)?;
        for step in between {
            match step {
                Step::Other => run(&mut twins[1])?,
                Step::Move => cpus.go_on()?,
            }
        }
        run(&mut twins[0])?;
        call(&mut twins[0], between)?;
        twins.swap(0, 1);
        // So that the ways do not always meet the same registers.
        if round % (BETWEEN.len() * 3) == 0 {
            run(&mut twins[0])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_an_assemblers() {
        // mrc p15, 0, r2, c13, c0, 2; mcr the same.
        let tpidrurw = REGISTERS.iter().find(|register| register.name == "TPIDRURW").expect("it is there");
        assert_eq!((tpidrurw.read, tpidrurw.write), (0xee1d_2f50, 0xee0d_2f50));
        let r5 = REGISTERS.iter().find(|register| register.name == "r5").expect("it is there");
        assert_eq!(r5.id, crate::machine::r(5));
    }
}
