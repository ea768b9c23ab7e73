// SPDX-License-Identifier: GPL-2.0-only
//! Registers one by one, and their list.

use std::collections::BTreeSet;
use std::sync::Arc;

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{CPSR, Machine, PC, Vcpu, r};
use crate::memory_map::{Memory, PAGE};
use crate::sys::Nowhere;
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("the list's length comes with E2BIG, the list with enough room", list_room),
    Case::of("the list names every kind of register, none twice", list_contents),
    Case::of("a vCPU comes up with KVM/ARM's list of registers and their values", reset_values),
    Case::of("every listed register can be read, and takes what it holds", read_and_write_back),
    Case::of("the same without PSCI 0.2", read_and_write_back_without_psci),
    Case::of("identification registers take nothing else (EINVAL)", invariant),
    Case::of("core registers hold any value", core_values),
    Case::of("floating-point registers hold any value", vfp_values),
    Case::of("CPSR takes a guest's modes and no other (EINVAL)", cpsr_modes),
    Case::of("ids of no register are ENOENT", unknown_ids),
    Case::of("ids that are not 32-bit Arm's are EINVAL", other_architectures),
    Case::of("values that are not there are EFAULT", bad_pointers),
    Case::of("of a value no more is read or written than the register has", value_sizes),
    Case::of("a pointer that was extended with its sign is good", sign_extended),
    Case::of("each vCPU has its own registers, and its number in MPIDR", per_vcpu),
    Case::of("the version of PSCI is 1.0, and can be less", psci_version),
    Case::of("without PSCI 0.2 the version is 0.1, and cannot be more", psci_0_1),
    Case::of("the virtual timer's registers hold their values, and the count counts", timer),
    Case::of("the virtual count is the VM's", shared_count),
];

fn machine() -> Result<Machine, Failure> {
    Machine::new(&Program::new())
}

fn vcpu() -> Result<Arc<Vcpu>, Failure> {
    machine()?.vcpu(0)
}

fn list_of(vcpu: &Vcpu) -> Result<Vec<u64>, Failure> {
    let (count, _, _) = vcpu.fd.register_list(0);
    let (_, list, answer) = vcpu.fd.register_list(count);
    answer.succeeds("KVM_GET_REG_LIST")?;
    equal(list.len() as u64, count, "the list's length")?;
    Ok(list)
}

fn list_room() -> Verdict {
    let vcpu = vcpu()?;
    let (count, list, answer) = vcpu.fd.register_list(0);
    answer.fails(Errno::E2BIG, "a list without room")?;
    holds(count > 100 && list.is_empty(), format_args!("E2BIG says how many, {count}, and nothing else"))?;
    for room in [1, count - 1] {
        let (again, list, answer) = vcpu.fd.register_list(room);
        answer.fails(Errno::E2BIG, format_args!("a list with room for {room}"))?;
        equal((again, list.len()), (count, 0), "the count, and what was written")?;
    }
    for room in [count, count + 1, u64::MAX] {
        let (again, list, answer) = vcpu.fd.register_list(room);
        answer.succeeds(format_args!("a list with room for {room}"))?;
        equal((again, list.len() as u64), (count, count), "the count and the list")?;
    }
    Ok(())
}

fn list_contents() -> Verdict {
    let list = list_of(&*vcpu()?)?;
    let set: BTreeSet<u64> = list.iter().copied().collect();
    equal(set.len(), list.len(), "ids, each counted once")?;
    let expected = (0..core_index::COUNT).map(core_reg).chain((0..16).map(vfp_double)).chain([
        KVM_REG_ARM_PSCI_VERSION,
        KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1,
        KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2,
        KVM_REG_ARM_TIMER_CTL,
        KVM_REG_ARM_TIMER_CNT,
        KVM_REG_ARM_TIMER_CVAL,
        KVM_REG_ARM_VFP_FPSID,
        KVM_REG_ARM_VFP_FPSCR,
        KVM_REG_ARM_VFP_FPEXC,
        KVM_REG_ARM_VFP_MVFR0,
        KVM_REG_ARM_VFP_MVFR1,
        CP15_MIDR,
        CP15_MPIDR,
        cp15_32(0, 1, 0, 0),
        cp15_32(0, 2, 0, 0),
        cp15_64(0, 2),
        cp15_64(0, 7),
        ccsidr(0),
    ]);
    match expected.into_iter().find(|id| !set.contains(id)) {
        None => Ok(()),
        Some(id) => Err(Failure::new(format!("{id:#x} is not in the list"))),
    }
}

/// What KVM/ARM of Linux 5.4 listed on a Cortex-A15, with what each held after KVM_ARM_VCPU_INIT with PSCI 0.2.
const ORIGINAL: &str = include_str!("../../kvm/src/one_reg/original.txt");

const ACTLR: u64 = cp15_32(0, 1, 0, 1);
const L2CTLR: u64 = cp15_32(1, 9, 0, 2);

fn reset_values() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT")?;
    let number = |text| u64::from_str_radix(text, 16).map_err(|_| Failure::new(format!("{text} is no number")));
    let mut original = Vec::new();
    for (id, value) in ORIGINAL.lines().filter_map(|line| line.split_once(' ')) {
        original.push((number(id)?, number(value)?));
    }
    // How many caches there are is the core's affair.
    let is_cache = |id: &u64| matches!(Register::from_id(*id), Ok(Register::Ccsidr { .. }));
    let list = list_of(&vcpu)?;
    let others = list.iter().filter(|id| !is_cache(id));
    holds(
        others.eq(original.iter().map(|(id, _)| id).filter(|id| !is_cache(id))),
        format_args!("the list is KVM/ARM's, in its order: {list:x?}"),
    )?;
    let midr = vcpu.fd.register(CP15_MIDR).succeeds("MIDR")?;
    let same_core = original.contains(&(CP15_MIDR, midr));
    for (id, expected) in original {
        let of_the_core = is_invariant(id) && !same_core;
        // What the core needs, or its firmware can do, about speculation is ours to say (docs/differences.md).
        let is_told_anew =
            [KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1, KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2]
                .contains(&id);
        if of_the_core || is_told_anew {
            continue;
        }
        let value = vcpu.fd.register(id).succeeds(format_args!("reading {id:#x}"))?;
        // ACTLR and L2CTLR are the core's but for what says whether there are several, and how many.
        let mask = match id {
            _ if same_core => u64::MAX,
            ACTLR => 1 << 6,
            L2CTLR => 3 << 24,
            _ => u64::MAX,
        };
        equal(value & mask, expected & mask, format_args!("{id:#x} of a core with MIDR {midr:#x}"))?;
    }
    Ok(())
}

fn read_and_write_back() -> Verdict {
    write_back(&*vcpu()?)
}

fn read_and_write_back_without_psci() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    let init = VcpuInit { features: [0; 7], ..machine.target()? };
    vcpu.init(&init).succeeds("KVM_ARM_VCPU_INIT")?;
    write_back(&vcpu)
}

fn write_back(vcpu: &Vcpu) -> Verdict {
    let mut values = Vec::new();
    for id in list_of(vcpu)? {
        let value = vcpu.fd.register(id).succeeds(format_args!("reading {id:#x}"))?;
        values.push((id, value));
    }
    for (id, value) in &values {
        vcpu.fd.set_register(*id, *value).succeeds(format_args!("writing {value:#x} back to {id:#x}"))?;
    }
    for (id, value) in values.into_iter().filter(|(id, _)| *id != KVM_REG_ARM_TIMER_CNT) {
        equal(vcpu.fd.register(id), Ok(value), format_args!("{id:#x} after it was written back"))?;
    }
    Ok(())
}

/// Whether a register says what the core is, and cannot be changed.
fn is_invariant(id: u64) -> bool {
    match Register::from_id(id) {
        Ok(Register::Ccsidr { .. }) => true,
        Ok(Register::VfpSystem(register)) => matches!(register, VfpSystem::Fpsid | VfpSystem::Mvfr0 | VfpSystem::Mvfr1),
        // c0: identification, but for CSSELR (op1 2) and MPIDR.
        Ok(Register::Cp15 { crn: 0, op1, .. }) => op1 != 2 && id != CP15_MPIDR,
        _ => false,
    }
}

fn invariant() -> Verdict {
    let vcpu = vcpu()?;
    let list: Vec<u64> = list_of(&vcpu)?.into_iter().filter(|id| is_invariant(*id)).collect();
    holds(list.len() >= 20, format_args!("there are identification registers: {}", list.len()))?;
    for id in list {
        let value = vcpu.fd.register(id).succeeds("KVM_GET_ONE_REG")?;
        for other in [value ^ 1, value ^ 0x8000_0000, !value & 0xffff_ffff] {
            vcpu.fd
                .set_register(id, other)
                .fails(Errno::EINVAL, format_args!("{other:#x} to {id:#x}, which is {value:#x}"))?;
        }
        equal(vcpu.fd.register(id), Ok(value), format_args!("{id:#x} afterwards"))?;
    }
    Ok(())
}

fn core_values() -> Verdict {
    let vcpu = vcpu()?;
    let others = || (0..core_index::COUNT).filter(|index| *index != core_index::CPSR);
    for salt in [0x1111_0000u32, 0xeeee_ff00, 0x0000_0003] {
        let value = |index: u16| u64::from(salt ^ (u32::from(index) * 0x0101_0101));
        for index in others() {
            vcpu.fd
                .set_register(core_reg(index), value(index))
                .succeeds(format_args!("writing core register {index}"))?;
        }
        for index in others() {
            equal(vcpu.fd.register(core_reg(index)), Ok(value(index)), format_args!("core register {index}"))?;
        }
    }
    Ok(())
}

fn vfp_values() -> Verdict {
    let vcpu = vcpu()?;
    let doubles: Vec<u64> = list_of(&vcpu)?
        .into_iter()
        .filter(|id| matches!(Register::from_id(*id), Ok(Register::VfpDouble { .. })))
        .collect();
    holds(doubles.len() == 16 || doubles.len() == 32, format_args!("there are 16 or 32 of them: {}", doubles.len()))?;
    let value = |id: u64| (id & 31).wrapping_mul(0x0102_0304_0506_0708) ^ 0xff00_0000_8000_0001;
    for id in &doubles {
        vcpu.fd.set_register(*id, value(*id)).succeeds(format_args!("writing {id:#x}"))?;
    }
    for id in &doubles {
        equal(vcpu.fd.register(*id), Ok(value(*id)), format_args!("{id:#x}"))?;
    }
    Ok(())
}

fn cpsr_modes() -> Verdict {
    let vcpu = vcpu()?;
    // User, FIQ, IRQ, Supervisor, Abort, Undefined.
    const GOOD: [u64; 6] = [0x10, 0x11, 0x12, 0x13, 0x17, 0x1b];
    for mode in GOOD {
        for rest in [0x1c0, 0xf000_0000, 0x20, 0x200] {
            vcpu.fd.set_register(CPSR, rest | mode).succeeds(format_args!("CPSR {:#x}", rest | mode))?;
            equal(vcpu.fd.register(CPSR), Ok(rest | mode), "CPSR")?;
        }
    }
    // Hyp, Monitor, what is no mode, and the 26-bit modes. (KVM refused System mode as well; whoever takes it does no harm.)
    for mode in (0..32).filter(|mode| !GOOD.contains(mode) && *mode != 0x1f) {
        vcpu.fd.set_register(CPSR, 0x1c0 | mode).fails(Errno::EINVAL, format_args!("CPSR with mode {mode:#x}"))?;
    }
    equal(vcpu.fd.register(CPSR), Ok(0x200 | 0x1b), "CPSR after those")
}

fn unknown_ids() -> Verdict {
    let vcpu = vcpu()?;
    let ids = [
        core_reg(core_index::COUNT),
        core_reg(0xffff),
        PC ^ KVM_REG_SIZE_U32 ^ KVM_REG_SIZE_U64,
        PC & !KVM_REG_SIZE_MASK,
        CP15_MIDR ^ KVM_REG_SIZE_U32 ^ KVM_REG_SIZE_U64,
        cp15_32(7, 15, 15, 7),
        cp15_32(4, 1, 1, 0),
        cp15_64(0, 15),
        cp15_64(6, 2),
        vfp_double(0) + 32,
        KVM_REG_ARM_VFP_FPSID + 2,
        ccsidr(15),
        ccsidr(0) + 0x100,
        KVM_REG_ARM_PSCI_VERSION + 0x7f,
        KVM_REG_ARM | KVM_REG_SIZE_U32 | 0x13 << 16,
        KVM_REG_ARM | KVM_REG_SIZE_U32 | 0x1f << 16,
        KVM_REG_ARM | KVM_REG_SIZE_U32 | 14 << 16,
    ];
    for id in ids {
        vcpu.fd.register(id).fails(Errno::ENOENT, format_args!("reading {id:#x}"))?;
        vcpu.fd.set_register(id, 0).fails(Errno::ENOENT, format_args!("writing {id:#x}"))?;
    }
    Ok(())
}

fn other_architectures() -> Verdict {
    let vcpu = vcpu()?;
    for id in [0, PC & !KVM_REG_ARCH_MASK, 0x6030_0000_0010_0000, 0x2030_0000_0000_0000, PC | 1 << 40, PC | 1 << 33] {
        vcpu.fd.register(id).fails(Errno::EINVAL, format_args!("reading {id:#x}"))?;
        vcpu.fd.set_register(id, 0).fails(Errno::EINVAL, format_args!("writing {id:#x}"))?;
    }
    Ok(())
}

fn bad_pointers() -> Verdict {
    let vcpu = vcpu()?;
    let ids = [
        r(0),
        CP15_MPIDR,
        CP15_MIDR,
        ccsidr(0),
        vfp_double(0),
        KVM_REG_ARM_VFP_FPSCR,
        KVM_REG_ARM_PSCI_VERSION,
        KVM_REG_ARM_TIMER_CVAL,
    ];
    for id in ids {
        for at in Nowhere::ALL {
            for ioctl in [KVM_GET_ONE_REG, KVM_SET_ONE_REG] {
                vcpu.fd
                    .register_nowhere(ioctl, id, at)
                    .fails(Errno::EFAULT, format_args!("{id:#x}, its value at {at:?}"))?;
            }
        }
    }
    Ok(())
}

fn value_sizes() -> Verdict {
    let vcpu = vcpu()?;
    let ids = list_of(&vcpu)?;
    let memory = Memory::page_at_the_end().succeeds("mmap")?;
    for id in ids {
        let bytes = 1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
        for ioctl in [KVM_GET_ONE_REG, KVM_SET_ONE_REG] {
            let answer = vcpu.fd.register_at(ioctl, id, &memory, PAGE - bytes);
            answer.succeeds(format_args!("ioctl {ioctl:#x} of {id:#x}, its value at the end of memory"))?;
        }
    }
    Ok(())
}

fn sign_extended() -> Verdict {
    let vcpu = vcpu()?;
    if cfg!(target_pointer_width = "32") {
        vcpu.fd.set_register(r(3), 0x1234_5678).succeeds("writing r3")?;
        equal(vcpu.fd.register_sign_extended(r(3)), Ok(0x1234_5678), "r3")?;
    }
    Ok(())
}

fn per_vcpu() -> Verdict {
    let machine = machine()?;
    let mut vcpus = Vec::new();
    for id in 0..8 {
        let vcpu = machine.vcpu(id)?;
        vcpu.fd.set_register(r(4), id as u64 + 0x100).succeeds("writing r4")?;
        vcpu.fd.set_register(vfp_double(4), id as u64 + 0x200).succeeds("writing d4")?;
        vcpus.push(vcpu);
    }
    for (id, vcpu) in (0u64..).zip(&vcpus) {
        equal(vcpu.fd.register(r(4)), Ok(id + 0x100), format_args!("r4 of vCPU {id}"))?;
        equal(vcpu.fd.register(vfp_double(4)), Ok(id + 0x200), format_args!("d4 of vCPU {id}"))?;
        let mpidr = vcpu.fd.register(CP15_MPIDR).succeeds("reading MPIDR")?;
        equal(mpidr & 0xff_ffff, ((id / 4) << 8) | (id % 4), format_args!("MPIDR's affinity of vCPU {id}"))?;
        equal(mpidr >> 31, 1, "MPIDR's format")?;
    }
    Ok(())
}

fn psci_version() -> Verdict {
    let vcpu = vcpu()?;
    let version = || vcpu.fd.register(KVM_REG_ARM_PSCI_VERSION);
    equal(version(), Ok(psci::VERSION_1_0.into()), "the version")?;
    for wrong in [0, u64::from(psci::VERSION_0_1), 3, 0x1_0001, 0x2_0000, 1 << 32 | u64::from(psci::VERSION_1_0)] {
        if wrong >> 32 == 0 {
            vcpu.fd
                .set_register(KVM_REG_ARM_PSCI_VERSION, wrong)
                .fails(Errno::EINVAL, format_args!("version {wrong:#x}"))?;
        }
    }
    for good in [psci::VERSION_0_2, psci::VERSION_1_0] {
        vcpu.fd.set_register(KVM_REG_ARM_PSCI_VERSION, good.into()).succeeds(format_args!("version {good:#x}"))?;
        equal(version(), Ok(good.into()), "the version that was set")?;
    }
    Ok(())
}

fn psci_0_1() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    let init = VcpuInit { features: [0; 7], ..machine.target()? };
    vcpu.init(&init).succeeds("KVM_ARM_VCPU_INIT")?;
    equal(vcpu.fd.register(KVM_REG_ARM_PSCI_VERSION), Ok(psci::VERSION_0_1.into()), "the version")?;
    for wrong in [psci::VERSION_0_2, psci::VERSION_1_0] {
        vcpu.fd
            .set_register(KVM_REG_ARM_PSCI_VERSION, wrong.into())
            .fails(Errno::EINVAL, format_args!("version {wrong:#x}"))?;
    }
    vcpu.fd.set_register(KVM_REG_ARM_PSCI_VERSION, psci::VERSION_0_1.into()).succeeds("version 0.1").map(|_| ())
}

fn timer() -> Verdict {
    let vcpu = vcpu()?;
    let read = |id: u64| vcpu.fd.register(id).succeeds(format_args!("reading {id:#x}"));
    for value in [0u64, 0x1234_5678_9abc_def0, u64::MAX] {
        vcpu.fd.set_register(KVM_REG_ARM_TIMER_CVAL, value).succeeds("writing CNTV_CVAL")?;
        equal(read(KVM_REG_ARM_TIMER_CVAL)?, value, "CNTV_CVAL")?;
    }
    for control in [3, 2, 1, 0] {
        vcpu.fd.set_register(KVM_REG_ARM_TIMER_CTL, control).succeeds("writing CNTV_CTL")?;
        equal(read(KVM_REG_ARM_TIMER_CTL)? & 3, control, "CNTV_CTL")?;
    }
    for count in [0u64, 1 << 40, 0x7000_0000_0000_0000] {
        vcpu.fd.set_register(KVM_REG_ARM_TIMER_CNT, count).succeeds("writing CNTVCT")?;
        let (first, second) = (read(KVM_REG_ARM_TIMER_CNT)?, read(KVM_REG_ARM_TIMER_CNT)?);
        // A minute's worth of ticks at any rate.
        holds(
            count <= first && first < second.max(first + 1) && second < count + (60 << 30),
            format_args!("{first:#x} and {second:#x} follow {count:#x}"),
        )?;
    }
    Ok(())
}

fn shared_count() -> Verdict {
    let machine = machine()?;
    let (one, two) = (machine.vcpu(0)?, machine.vcpu(1)?);
    let count = 1 << 50;
    one.fd.set_register(KVM_REG_ARM_TIMER_CNT, count).succeeds("writing CNTVCT")?;
    let other = two.fd.register(KVM_REG_ARM_TIMER_CNT).succeeds("reading CNTVCT")?;
    holds(
        count <= other && other < count + (60 << 30),
        format_args!("the other vCPU's count {other:#x} follows {count:#x}"),
    )
}
