// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine's descriptor, but for memory and interrupts; and who may use it.

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, Machine, RAM, region};
use crate::memory_map::{Memory, PAGE};
use crate::sys::{Fd, Nowhere, process};
use crate::system::UNKNOWN;
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("unknown numbers and those of other files are EINVAL", unknown_numbers),
    Case::of("structures that are not there are EFAULT", bad_pointers),
    Case::of("the preferred target is a Cortex-A7 on that, else a Cortex-A15, without features", preferred_target),
    Case::of("calls from another process are EIO, on VM, vCPU and device", another_process),
    Case::of("devices that there are not are ENODEV", unknown_devices),
    Case::of("asking whether a device could be made makes none", test_devices),
    Case::of("descriptors are called as KVM's, in /proc/self/fd", names),
    Case::of("two VMs know nothing of each other", two_vms),
    Case::of("nothing of a VM or device can be mapped", mapping),
];

fn vm() -> Result<Fd, Failure> {
    Machine::empty().map(|(_, vm)| vm)
}

fn unknown_numbers() -> Verdict {
    let vm = vm()?;
    let others = [
        KVM_GET_API_VERSION,
        KVM_CREATE_VM,
        KVM_GET_VCPU_MMAP_SIZE,
        KVM_RUN,
        KVM_ARM_VCPU_INIT,
        KVM_GET_REG_LIST,
        KVM_SET_DEVICE_ATTR,
    ];
    for number in UNKNOWN.iter().chain(&others) {
        vm.give(*number, &mut [0u8; 128]).fails(Errno::EINVAL, format_args!("ioctl {number:#x} on a VM"))?;
    }
    Ok(())
}

fn bad_pointers() -> Verdict {
    let vm = vm()?;
    for at in Nowhere::ALL {
        let calls = [
            KVM_SET_USER_MEMORY_REGION,
            KVM_ENABLE_CAP,
            KVM_GET_DIRTY_LOG,
            KVM_CLEAR_DIRTY_LOG,
            KVM_IRQ_LINE,
            KVM_CREATE_DEVICE,
            KVM_ARM_SET_DEVICE_ADDR,
            KVM_ARM_PREFERRED_TARGET,
        ];
        for number in calls {
            vm.nowhere(number, at).fails(Errno::EFAULT, format_args!("ioctl {number:#x} at {at:?}"))?;
        }
    }
    Ok(())
}

fn preferred_target() -> Verdict {
    let mut init = VcpuInit { target: 99, features: [99; 7] };
    vm()?.give(KVM_ARM_PREFERRED_TARGET, &mut init).succeeds("KVM_ARM_PREFERRED_TARGET")?;
    let midr = Machine::new(&Program::new())?.vcpu(0)?.fd.register(CP15_MIDR).succeeds("MIDR")? as u32;
    let expected = if midr & 0xff00_fff0 == 0x4100_c070 { KVM_ARM_TARGET_CORTEX_A7 } else { KVM_ARM_TARGET_CORTEX_A15 };
    equal(init.target, expected, format_args!("the target of a core with MIDR {midr:#x}"))?;
    equal(init.features, [0; 7], "the features")
}

fn another_process() -> Verdict {
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    let child = process(|| {
        let eio = |answer: crate::sys::Answer| answer == Err(Errno::EIO);
        let calls = [
            eio(machine.vm.value(KVM_CREATE_VCPU, 1)),
            eio(machine.vm.value(KVM_CHECK_EXTENSION, 0)),
            eio(machine.vm.slot(&region(1, 0, 0x1000, machine.ram.address(0)))),
            eio(machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq: IrqLine::Spi { number: 40 }.encode(), level: 1 })),
            eio(machine.vm.value(UNKNOWN[0], 0)),
            eio(vcpu.fd.value(KVM_RUN, 0)),
            eio(vcpu.fd.set_register(crate::machine::PC, 0)),
            eio(vcpu.fd.value(UNKNOWN[0], 0)),
            eio(gic.give(KVM_GET_DEVICE_ATTR, &mut [0u8; 24])),
        ];
        calls.iter().position(|good| !good).map_or(0, |index| index as u8 + 1)
    })
    .succeeds("fork")?;
    match waitpid(child, None).succeeds("waitpid")? {
        WaitStatus::Exited(_, 0) => {}
        WaitStatus::Exited(_, call) => return Err(Failure::new(format!("call {call} of another process is not EIO"))),
        other => return Err(Failure::new(format!("the other process: {other:?}"))),
    }
    // The VM is none the worse.
    vcpu.expect_off()
}

fn unknown_devices() -> Verdict {
    let vm = vm()?;
    // Types that have no device here: 0 is none, 7 and 8 need a GICv3.
    for device_type in [0, 1, 2, 3, 6, KVM_DEV_TYPE_ARM_VGIC_V3, KVM_DEV_TYPE_ARM_VGIC_ITS, 9, 99, u32::MAX] {
        for flags in [0, KVM_CREATE_DEVICE_TEST] {
            let mut request = CreateDevice { device_type, fd: 0, flags };
            vm.give(KVM_CREATE_DEVICE, &mut request)
                .fails(Errno::ENODEV, format_args!("a device of type {device_type}"))?;
        }
    }
    Ok(())
}

fn test_devices() -> Verdict {
    let vm = vm()?;
    let test = CreateDevice { device_type: KVM_DEV_TYPE_ARM_VGIC_V2, fd: 77, flags: KVM_CREATE_DEVICE_TEST };
    for _ in 0..2 {
        let mut request = test;
        vm.give(KVM_CREATE_DEVICE, &mut request).succeeds("KVM_CREATE_DEVICE_TEST")?;
        equal(request, test, "the structure afterwards")?;
    }
    let memory = Memory::new(PAGE).succeeds("mmap")?;
    memory.put(0, &[KVM_DEV_TYPE_ARM_VGIC_V2, 0, 0]);
    memory.protect(0..PAGE, false).succeeds("mprotect")?;
    vm.inside(KVM_CREATE_DEVICE, &memory, 0).fails(Errno::EFAULT, "KVM_CREATE_DEVICE in readonly memory")?;
    vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE").map(|_| ())
}

fn names() -> Verdict {
    let machine = Machine::new(&Program::new())?;
    let vcpu = machine.vcpu(3)?;
    let gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    for (fd, name) in [(&machine.vm, "kvm-vm"), (&vcpu.fd, "kvm-vcpu:3"), (&gic, "kvm-arm-vgic-v2")] {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.number()));
        let link = link.map_err(|error| Failure::new(format!("{name}: {error}")))?;
        equal(link.to_str(), Some(&*format!("anon_inode:{name}")), "a descriptor's name")?;
    }
    Ok(())
}

fn two_vms() -> Verdict {
    let mut machines = Vec::new();
    for value in [1u32, 2] {
        let mut program = Program::new();
        // Each tells what its own memory holds, at one and the same address.
        program.set(1, RAM + 0x1000).ldr(2, 1, 0).set(3, DEVICE).str(2, 3, 0).power_off();
        let machine = Machine::new(&program)?;
        machine.ram.write(0x1000, value);
        machines.push((value, machine));
    }
    let mut vcpus = Vec::new();
    for (value, machine) in &machines {
        vcpus.push((*value, machine.vcpu(0)?));
    }
    for (value, vcpu) in &vcpus {
        vcpu.expect_write(DEVICE, 4, *value)?;
    }
    for (_, vcpu) in &vcpus {
        vcpu.expect_off()?;
    }
    Ok(())
}

fn mapping() -> Verdict {
    let vm = vm()?;
    let gic = vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    holds(crate::sys::try_map(&vm, 4096, 0).is_err(), "mmap of a VM fails")?;
    holds(crate::sys::try_map(&gic, 4096, 0).is_err(), "mmap of a device fails")
}
