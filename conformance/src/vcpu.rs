// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's descriptor: how it is made and initialised, its state of power, what it shares.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{CPSR, Machine, PC, RAM, r};
use crate::sys::{Nowhere, RunPage, try_map};
use crate::system::UNKNOWN;
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("ids go from 0 to 7, each once", ids),
    Case::of("before KVM_ARM_VCPU_INIT there is nothing to run or read (ENOEXEC)", before_init),
    Case::of("a target that is not the host's is EINVAL", targets),
    Case::of("features that there are not are ENOENT", unknown_features),
    Case::of("initialised again with other features it is EINVAL", other_features),
    Case::of("initialised again it is reset", reset),
    Case::of("what reset leaves is Supervisor mode with everything masked", after_reset),
    Case::of("unknown numbers and those of other files are EINVAL", unknown_numbers),
    Case::of("calls that 32-bit Arm does not have are EINVAL", not_arm),
    Case::of("structures that are not there are EFAULT", bad_pointers),
    Case::of("KVM_RUN takes no argument (EINVAL)", run_argument),
    Case::of("power is a state that can be read and written", mp_state),
    Case::of("a signal mask has 8 bytes", signal_mask),
    Case::of("its two pages can be mapped, and no more", mapping),
    Case::of("its page begins blank and stays when the descriptor goes", page),
];

fn machine() -> Result<Machine, Failure> {
    let mut program = Program::new();
    program.power_off();
    Machine::new(&program)
}

fn ids() -> Verdict {
    let machine = machine()?;
    let create = |id: u32| machine.vm.create(KVM_CREATE_VCPU, id as usize);
    let mut kept = Vec::new();
    for id in [3, 0, 7, 1, 2, 4, 5, 6] {
        kept.push(create(id).succeeds(format_args!("vCPU {id}"))?);
    }
    for id in [0, 3, 7] {
        create(id).fails(Errno::EEXIST, format_args!("vCPU {id} again"))?;
    }
    for id in [512, 513, 0x1_0000, 0x8000_0000, u32::MAX] {
        create(id).fails(Errno::EINVAL, format_args!("vCPU {id}"))?;
    }
    // A VM with a GICv2 has no more than eight, whatever the kernel has for others.
    let fresh = self::machine()?;
    let _gic = fresh.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    for id in [8, 9, 255] {
        fresh.vm.create(KVM_CREATE_VCPU, id).fails(Errno::EINVAL, format_args!("vCPU {id} beside a GICv2"))?;
    }
    // The id is taken as long as the VM lives.
    drop(kept);
    create(3).fails(Errno::EEXIST, "vCPU 3 after its descriptor was closed")
}

fn before_init() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    let nothing = |when: &str| {
        vcpu.run().fails(Errno::ENOEXEC, format_args!("KVM_RUN {when}"))?;
        vcpu.fd.register(PC).fails(Errno::ENOEXEC, format_args!("KVM_GET_ONE_REG {when}"))?;
        vcpu.fd.set_register(PC, 0).fails(Errno::ENOEXEC, format_args!("KVM_SET_ONE_REG {when}"))?;
        vcpu.fd
            .give(KVM_ARM_VCPU_FINALIZE, &mut [0u8; 4])
            .fails(Errno::ENOEXEC, format_args!("KVM_ARM_VCPU_FINALIZE {when}"))?;
        vcpu.fd.register_list(0).2.fails(Errno::ENOEXEC, format_args!("KVM_GET_REG_LIST {when}"))
    };
    nothing("before KVM_ARM_VCPU_INIT")?;
    // One that failed initialises nothing.
    vcpu.init(&VcpuInit { target: 99, features: [0; 7] }).fails(Errno::EINVAL, "a wrong target")?;
    nothing("after a KVM_ARM_VCPU_INIT that failed")?;
    vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT")?;
    vcpu.fd.register(PC).succeeds("KVM_GET_ONE_REG").map(|_| ())
}

fn targets() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    let good = machine.target()?;
    for target in [1 - good.target, KVM_ARM_NUM_TARGETS, 5, u32::MAX] {
        vcpu.init(&VcpuInit { target, ..good }).fails(Errno::EINVAL, format_args!("target {target}"))?;
    }
    vcpu.init(&good).succeeds("the preferred target")?;
    vcpu.init(&VcpuInit { target: 1 - good.target, ..good }).fails(Errno::EINVAL, "another target afterwards")
}

fn unknown_features() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.blank_vcpu(0)?;
    let good = machine.target()?;
    for feature in [2, 3, 31, 32, 100, 223] {
        let mut wrong = good;
        wrong.set(feature);
        vcpu.init(&wrong).fails(Errno::ENOENT, format_args!("feature {feature}"))?;
    }
    vcpu.init(&good).succeeds("the features that there are").map(|_| ())
}

fn other_features() -> Verdict {
    let machine = machine()?;
    let with = machine.target()?;
    let without = VcpuInit { features: [0; 7], ..with };
    for (id, (first, second)) in [(with, without), (without, with)].into_iter().enumerate() {
        let vcpu = machine.blank_vcpu(id)?;
        vcpu.init(&first).succeeds("KVM_ARM_VCPU_INIT")?;
        vcpu.init(&second).fails(Errno::EINVAL, "other features")?;
        vcpu.init(&first).succeeds("the same features")?;
        let mut off = first;
        off.set(KVM_ARM_VCPU_POWER_OFF);
        vcpu.init(&off).fails(Errno::EINVAL, "one feature more, off")?;
    }
    Ok(())
}

fn reset() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.vcpu(0)?;
    let sctlr = cp15_32(0, 1, 0, 0);
    let fresh = vcpu.fd.register(sctlr).succeeds("reading SCTLR")?;
    for (id, value) in [(r(0), 7), (PC, 0x1234), (sctlr, fresh ^ 1), (vfp_double(3), 42), (KVM_REG_ARM_TIMER_CVAL, 9)] {
        vcpu.fd.set_register(id, value).succeeds("KVM_SET_ONE_REG")?;
    }
    vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT again")?;
    for (id, value) in [(r(0), 0), (PC, 0), (sctlr, fresh)] {
        equal(vcpu.fd.register(id), Ok(value), format_args!("register {id:#x}"))?;
    }
    vcpu.fd.set_register(PC, RAM.into()).succeeds("writing PC")?;
    vcpu.expect_off()
}

fn after_reset() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    equal(vcpu.fd.register(CPSR), Ok(0x1d3), "CPSR")?;
    for number in 0..13 {
        equal(vcpu.fd.register(r(number)), Ok(0), format_args!("r{number}"))?;
    }
    equal(vcpu.fd.register(KVM_REG_ARM_TIMER_CTL).map(|ctl| ctl & 1), Ok(0), "CNTV_CTL.ENABLE")
}

fn unknown_numbers() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    let others =
        [KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_IRQ_LINE, KVM_CREATE_DEVICE];
    for number in UNKNOWN.iter().chain(&others) {
        vcpu.fd.give(*number, &mut [0u8; 128]).fails(Errno::EINVAL, format_args!("ioctl {number:#x} on a vCPU"))?;
    }
    Ok(())
}

fn not_arm() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    let calls = [
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_GET_FPU,
        KVM_SET_FPU,
        KVM_TRANSLATE,
        KVM_SET_GUEST_DEBUG,
        KVM_ARM_VCPU_FINALIZE,
    ];
    for number in calls {
        vcpu.fd.give(number, &mut [0u8; 256]).fails(Errno::EINVAL, format_args!("ioctl {number:#x}"))?;
    }
    Ok(())
}

fn bad_pointers() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    for at in Nowhere::ALL {
        let calls = [
            KVM_ARM_VCPU_INIT,
            KVM_GET_ONE_REG,
            KVM_SET_ONE_REG,
            KVM_GET_REG_LIST,
            KVM_GET_MP_STATE,
            KVM_SET_MP_STATE,
            KVM_GET_VCPU_EVENTS,
            KVM_SET_VCPU_EVENTS,
            KVM_SET_DEVICE_ATTR,
            KVM_GET_DEVICE_ATTR,
            KVM_HAS_DEVICE_ATTR,
            KVM_ARM_VCPU_FINALIZE,
        ];
        for number in calls {
            vcpu.fd.nowhere(number, at).fails(Errno::EFAULT, format_args!("ioctl {number:#x} at {at:?}"))?;
        }
    }
    vcpu.fd.nowhere(KVM_SET_SIGNAL_MASK, Nowhere::Kernel).fails(Errno::EFAULT, "KVM_SET_SIGNAL_MASK")
}

fn run_argument() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    for argument in [1, 4096, usize::MAX] {
        vcpu.fd.value(KVM_RUN, argument).fails(Errno::EINVAL, format_args!("KVM_RUN with {argument:#x}"))?;
    }
    vcpu.expect_off()
}

fn mp_state() -> Verdict {
    let machine = machine()?;
    let vcpu = machine.vcpu(0)?;
    equal(vcpu.mp_state()?, KVM_MP_STATE_RUNNABLE, "the state after KVM_ARM_VCPU_INIT")?;
    let set = |mp_state| vcpu.fd.give(KVM_SET_MP_STATE, &mut MpState { mp_state });
    for state in [KVM_MP_STATE_STOPPED, KVM_MP_STATE_RUNNABLE] {
        set(state).succeeds("KVM_SET_MP_STATE")?;
        equal(vcpu.mp_state()?, state, "the state that was set")?;
    }
    for state in [1, 2, 3, 4, 6, 99, u32::MAX] {
        set(state).fails(Errno::EINVAL, format_args!("state {state}"))?;
    }
    equal(vcpu.mp_state()?, KVM_MP_STATE_RUNNABLE, "the state after those")?;
    let off = machine.blank_vcpu(1)?;
    let mut init = machine.target()?;
    init.set(KVM_ARM_VCPU_POWER_OFF);
    off.init(&init).succeeds("KVM_ARM_VCPU_INIT")?;
    equal(off.mp_state()?, KVM_MP_STATE_STOPPED, "the state after KVM_ARM_VCPU_INIT with POWER_OFF")?;
    // It sleeps until somebody turns it on, and a signal gets it out.
    let running = off.start();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let running = running.still("a vCPU that is off sleeps in KVM_RUN")?;
    running.stop()
}

fn signal_mask() -> Verdict {
    let vcpu = machine()?.vcpu(0)?;
    for bytes in [0, 4, 7, 9, 16, 128, u32::MAX] {
        let set = vcpu.fd.set_signal_mask(&[Signal::SIGUSR1], bytes);
        set.fails(Errno::EINVAL, format_args!("a set of {bytes} bytes"))?;
    }
    vcpu.fd.set_signal_mask(&[Signal::SIGUSR1], 8).succeeds("a set of 8 bytes")?;
    vcpu.fd.nowhere(KVM_SET_SIGNAL_MASK, Nowhere::Null).succeeds("no set")?;
    vcpu.expect_off()
}

fn mapping() -> Verdict {
    let vcpu = machine()?.blank_vcpu(0)?;
    try_map(&vcpu.fd, 4096, 0)?;
    try_map(&vcpu.fd, 8192, 0)?;
    try_map(&vcpu.fd, 4096, 1)?;
    for (bytes, page) in [(3 * 4096, 0), (8192, 1), (4096, 2), (4096, 3), (4096, 0x7_ffff)] {
        let mapped = try_map(&vcpu.fd, bytes, page);
        holds(mapped.is_err(), format_args!("mmap of {bytes} bytes from page {page} fails"))?;
    }
    Ok(())
}

fn page() -> Verdict {
    let machine = machine()?;
    let fd = machine.vm.create(KVM_CREATE_VCPU, 0).succeeds("KVM_CREATE_VCPU")?;
    let page = RunPage::map(&fd, 8192).succeeds("mmap")?;
    let other = RunPage::map(&fd, 8192).succeeds("mmap")?;
    holds(page.is_blank(), "a new vCPU's page is blank")?;
    page.forget_exit();
    equal(other.exit().reason(), u32::MAX, "what one mapping wrote, in the other")?;
    drop((fd, machine, other));
    equal(page.exit().reason(), u32::MAX, "what was written, after everything was closed")
}
