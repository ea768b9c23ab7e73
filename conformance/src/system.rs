// SPDX-License-Identifier: GPL-2.0-only
//! `/dev/kvm` itself.

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::machine::Machine;
use crate::sys::{Fd, try_map};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("the version of the interface is 12", version),
    Case::of("a vCPU's file has two pages to map", mmap_size),
    Case::of("extensions have KVM's values, on the system and on a VM", extensions),
    Case::of("extensions that KVM did not have are 0", strange_extensions),
    Case::of("a VM without a GIC takes the vCPUs that extensions speak of, and no others (EINVAL)", vcpu_ids),
    Case::of("a VM has type 0", vm_types),
    Case::of("tracing, long withdrawn, is not supported", tracing),
    Case::of("unknown numbers and those of other files are EINVAL", unknown_numbers),
    Case::of("/dev/kvm cannot be mapped", mapping),
    Case::of("new descriptors are closed on exec", close_on_exec),
];

fn kvm() -> Result<Fd, Failure> {
    Fd::kvm().succeeds("opening /dev/kvm")
}

fn version() -> Verdict {
    let kvm = kvm()?;
    equal(kvm.value(KVM_GET_API_VERSION, 0), Ok(12), "KVM_GET_API_VERSION")?;
    kvm.value(KVM_GET_API_VERSION, 1).fails(Errno::EINVAL, "KVM_GET_API_VERSION with an argument")
}

fn mmap_size() -> Verdict {
    let kvm = kvm()?;
    equal(kvm.value(KVM_GET_VCPU_MMAP_SIZE, 0), Ok(8192), "KVM_GET_VCPU_MMAP_SIZE")?;
    kvm.value(KVM_GET_VCPU_MMAP_SIZE, 1).fails(Errno::EINVAL, "KVM_GET_VCPU_MMAP_SIZE with an argument")
}

/// Extensions with a value that KVM/ARM always gave.
const ALWAYS: &[(u32, i32)] = &[
    (KVM_CAP_IRQCHIP, 1),
    (KVM_CAP_USER_MEMORY, 1),
    (KVM_CAP_NR_MEMSLOTS, 512), // KVM/ARM: 32
    (KVM_CAP_MP_STATE, 1),
    (KVM_CAP_SYNC_MMU, 1),
    (KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1),
    (KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1),
    (KVM_CAP_INTERNAL_ERROR_DATA, 1),
    (KVM_CAP_ONE_REG, 1),
    (KVM_CAP_READONLY_MEM, 1),
    (KVM_CAP_ARM_PSCI, 1),
    (KVM_CAP_ARM_SET_DEVICE_ADDR, 1),
    (KVM_CAP_DEVICE_CTRL, 1),
    (KVM_CAP_ARM_PSCI_0_2, 1),
    (KVM_CAP_CHECK_EXTENSION_VM, 1),
    (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1),
    (KVM_CAP_ENABLE_CAP_VM, 1),
    (KVM_CAP_IMMEDIATE_EXIT, 1),
    (KVM_CAP_VCPU_EVENTS, 1),
    (KVM_CAP_ARM_USER_IRQ, 1),
    (KVM_CAP_ARM_IRQ_LINE_LAYOUT_2, 1),
    (KVM_CAP_ARM_NISV_TO_USER, 1),
    (KVM_CAP_ARM_INJECT_EXT_DABT, 1),
    (KVM_CAP_COALESCED_MMIO, 1),
    (KVM_CAP_IRQ_ROUTING, 4096),
    (KVM_CAP_IRQFD, 1),
    (KVM_CAP_IOEVENTFD, 1),
    (KVM_CAP_SIGNAL_MSI, 1),
    (KVM_CAP_IRQFD_RESAMPLE, 1),
    (KVM_CAP_IOEVENTFD_ANY_LENGTH, 1),
    (KVM_CAP_COALESCED_PIO, 1),
];

fn extensions() -> Verdict {
    let (kvm, vm) = Machine::empty()?;
    for (name, fd) in [("the system", &kvm), ("a VM", &vm)] {
        let extension = |number: u32| fd.value(KVM_CHECK_EXTENSION, number as usize).succeeds("KVM_CHECK_EXTENSION");
        for (number, value) in ALWAYS {
            equal(extension(*number)?, *value, format_args!("extension {number} of {name}"))?;
        }
        let online = std::thread::available_parallelism().map_or(0, |count| count.get() as i32);
        equal(extension(KVM_CAP_NR_VCPUS)?, online, "KVM_CAP_NR_VCPUS, the host's CPUs")?;
        let max = extension(KVM_CAP_MAX_VCPUS)?;
        // Only a VM can say whether its messages have a device's number.
        let devid = fd.value(KVM_CHECK_EXTENSION, KVM_CAP_MSI_DEVID as usize);
        equal(
            devid,
            if name == "a VM" { Ok(0) } else { Err(Errno::EINVAL) },
            format_args!("KVM_CAP_MSI_DEVID of {name}"),
        )?;
        holds(max >= 8 && extension(KVM_CAP_MAX_VCPU_ID)? >= max, "there can be 8 vCPUs or more, each with an id")?;
    }
    Ok(())
}

/// All others, those that KVM learned later included.
fn strange_extensions() -> Verdict {
    let kvm = kvm()?;
    let counts = [KVM_CAP_NR_VCPUS, KVM_CAP_MAX_VCPUS, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MSI_DEVID];
    let is_there = |number: &u32| counts.contains(number) || ALWAYS.iter().any(|(other, _)| other == number);
    for number in (0..400).filter(|number| !is_there(number)).chain([0x7fff_ffff, u32::MAX]) {
        equal(kvm.value(KVM_CHECK_EXTENSION, number as usize), Ok(0), format_args!("extension {number}"))?;
    }
    Ok(())
}

fn vcpu_ids() -> Verdict {
    let (_kvm, vm) = Machine::empty()?;
    let extension = |number: u32| vm.value(KVM_CHECK_EXTENSION, number as usize).succeeds("KVM_CHECK_EXTENSION");
    let (beyond, mut left) = (extension(KVM_CAP_MAX_VCPU_ID)?, extension(KVM_CAP_MAX_VCPUS)?);
    for id in (0..513).rev() {
        let (made, what) = (vm.create(KVM_CREATE_VCPU, id as usize), format!("vCPU {id} of {beyond}"));
        if id < beyond && left > 0 {
            made.succeeds(what)?;
            left -= 1;
        } else {
            made.fails(Errno::EINVAL, what)?;
        }
    }
    equal(left, 0, "the vCPUs that could not be made")
}

fn vm_types() -> Verdict {
    let kvm = kvm()?;
    for kind in [1, 32, 40, 0x8000_0000, u32::MAX] {
        kvm.create(KVM_CREATE_VM, kind as usize).fails(Errno::EINVAL, format_args!("a VM of type {kind:#x}"))?;
    }
    kvm.create(KVM_CREATE_VM, 0).succeeds("a VM of type 0").map(|_| ())
}

fn tracing() -> Verdict {
    let kvm = kvm()?;
    kvm.give(KVM_TRACE_ENABLE, &mut [0u8; 8]).fails(Errno::EOPNOTSUPP, "KVM_TRACE_ENABLE")?;
    kvm.value(KVM_TRACE_PAUSE, 0).fails(Errno::EOPNOTSUPP, "KVM_TRACE_PAUSE")?;
    kvm.value(KVM_TRACE_DISABLE, 0).fails(Errno::EOPNOTSUPP, "KVM_TRACE_DISABLE")
}

/// Numbers that no file of KVM's answers: of other sequence, size, direction and magic.
pub const UNKNOWN: &[u32] =
    &[io(0x02), io(0x3f), io(0xff), iow::<u32>(0x00), ior::<u64>(0x80), 0xaf00, 0x0000_0001, 0x5401];

fn unknown_numbers() -> Verdict {
    let kvm = kvm()?;
    // VM and vCPU calls among them.
    let others =
        [KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP, KVM_RUN, KVM_IRQ_LINE, KVM_SET_USER_MEMORY_REGION, KVM_GET_ONE_REG];
    for number in UNKNOWN.iter().chain(&others) {
        kvm.give(*number, &mut [0u8; 128]).fails(Errno::EINVAL, format_args!("ioctl {number:#x} on /dev/kvm"))?;
    }
    Ok(())
}

fn mapping() -> Verdict {
    holds(try_map(&kvm()?, 4096, 0).is_err(), "mmap of /dev/kvm fails")
}

fn close_on_exec() -> Verdict {
    let (_, vm) = Machine::empty()?;
    let vcpu = vm.create(KVM_CREATE_VCPU, 0).succeeds("KVM_CREATE_VCPU")?;
    let gic = vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    for (name, fd) in [("VM", &vm), ("vCPU", &vcpu), ("device", &gic)] {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).succeeds("F_GETFD")?;
        equal(flags, libc::FD_CLOEXEC, format_args!("the flags of a {name}'s descriptor"))?;
    }
    Ok(())
}
