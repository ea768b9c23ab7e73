// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2: how it is made and placed, and lines that the process drives.

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, GICC, GICD, Machine, RAM, set_attribute};
use crate::memory_map::{Memory, PAGE};
use crate::sys::{Answer, Fd, Nowhere};
use crate::system::UNKNOWN;
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("there is one GIC, however it was asked for (EEXIST)", once),
    Case::of("it comes before the first run (EBUSY)", after_a_run),
    Case::of("unknown numbers on its descriptor are ENOTTY", unknown_numbers),
    Case::of("it has the attributes of KVM's", attributes),
    Case::of("addresses are aligned (EINVAL), within 40 bits (E2BIG), and set once (EEXIST)", addresses),
    Case::of("what has no address yet reads as all ones", unset_addresses),
    Case::of("addresses by KVM_ARM_SET_DEVICE_ADDR", legacy_addresses),
    Case::of("values that are not there are EFAULT", bad_pointers),
    Case::of("a vCPU does not run before it has its addresses (ENXIO)", no_addresses),
    Case::of("regions that overlap are EINVAL when a vCPU runs", overlapping),
    Case::of("it has 64 to 1024 interrupts in steps of 32, said once", nr_irqs),
    Case::of("without a vCPU it is not initialised (ENODEV)", no_vcpu),
    Case::of("initialised it stays, and no vCPU comes after (EBUSY)", initialised),
    Case::of("lines without a GIC are ENXIO", lines_without_gic),
    Case::of("lines that there are not are EINVAL", bad_lines),
    Case::of("a line wakes a guest from WFI, as SPI and as PPI", wakes),
    Case::of("a line that stays up interrupts again, one that fell does not", level),
];

fn fixture() -> Result<Machine, Failure> {
    let mut program = Program::new();
    program.power_off();
    Machine::new(&program)
}

fn create(vm: &Fd) -> Result<Fd, Failure> {
    vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")
}

fn set_address(gic: &Fd, kind: u64, address: u64) -> Answer {
    set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, address)
}

fn initialise(gic: &Fd) -> Answer {
    set_attribute(gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0)
}

fn drive(vm: &Fd, line: u32, level: u32) -> Answer {
    vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq: line, level })
}

fn once() -> Verdict {
    let device = |vm: &Fd| vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).map(|_| 0);
    let irqchip = |vm: &Fd| vm.value(KVM_CREATE_IRQCHIP, 0);
    for first in [device, irqchip] {
        for second in [device, irqchip] {
            let machine = fixture()?;
            first(&machine.vm).succeeds("a GIC")?;
            second(&machine.vm).fails(Errno::EEXIST, "another")?;
        }
    }
    Ok(())
}

fn after_a_run() -> Verdict {
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_off()?;
    machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).fails(Errno::EBUSY, "KVM_CREATE_DEVICE")?;
    machine.vm.value(KVM_CREATE_IRQCHIP, 0).fails(Errno::EBUSY, "KVM_CREATE_IRQCHIP")
}

fn unknown_numbers() -> Verdict {
    let machine = fixture()?;
    let gic = create(&machine.vm)?;
    for number in UNKNOWN.iter().chain(&[KVM_GET_API_VERSION, KVM_CREATE_VCPU, KVM_IRQ_LINE, KVM_RUN]) {
        gic.give(*number, &mut [0u8; 128]).fails(Errno::ENOTTY, format_args!("ioctl {number:#x} on a device"))?;
    }
    Ok(())
}

fn attributes() -> Verdict {
    let machine = fixture()?;
    let gic = create(&machine.vm)?;
    let has = |group: u32, attr: u64| gic.attribute(KVM_HAS_DEVICE_ATTR, group, attr, &mut 0);
    for (group, attr) in [
        (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_DIST),
        (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU),
        // Nobody looked at this group's attribute.
        (KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0),
        (KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 5),
        (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT),
    ] {
        has(group, attr).succeeds(format_args!("attribute {attr} of group {group}"))?;
    }
    let mut value = 0;
    for (group, attr) in [
        (KVM_DEV_ARM_VGIC_GRP_ADDR, 2),
        (KVM_DEV_ARM_VGIC_GRP_ADDR, 99),
        (KVM_DEV_ARM_VGIC_GRP_CTRL, 1),
        (KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, 0),
        (KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, 0),
        (KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 0),
        (8, 0),
        (99, 0),
    ] {
        has(group, attr).fails(Errno::ENXIO, format_args!("attribute {attr} of group {group}"))?;
        for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
            let answer = gic.attribute(ioctl, group, attr, &mut value);
            answer.fails(Errno::ENXIO, format_args!("ioctl {ioctl:#x} of attribute {attr} of group {group}"))?;
        }
    }
    gic.attribute(KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &mut value)
        .fails(Errno::ENXIO, "reading a command")
}

fn addresses() -> Verdict {
    for (kind, other) in [(KVM_VGIC_V2_ADDR_TYPE_DIST, 1), (KVM_VGIC_V2_ADDR_TYPE_CPU, 0)] {
        let machine = fixture()?;
        let gic = create(&machine.vm)?;
        for odd in [1, 4, 0x800, 0xfff] {
            let set = set_address(&gic, kind, u64::from(GICD) + odd);
            set.fails(Errno::EINVAL, format_args!("address {kind}, {odd:#x} off"))?;
        }
        for beyond in [1 << 40, 1 << 40 | 1, 1 << 63, u64::MAX, u64::MAX - 0xfff] {
            set_address(&gic, kind, beyond).fails(Errno::E2BIG, format_args!("address {kind} at {beyond:#x}"))?;
        }
        set_address(&gic, kind, GICD.into()).succeeds("an address")?;
        for again in [GICD, GICC] {
            set_address(&gic, kind, again.into()).fails(Errno::EEXIST, "the address again")?;
        }
        let mut value = 0;
        gic.attribute(KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &mut value).succeeds("reading it")?;
        equal(value, GICD.into(), "the address")?;
        set_address(&gic, other, GICC.into()).succeeds("the other address")?;
    }
    Ok(())
}

fn unset_addresses() -> Verdict {
    let machine = fixture()?;
    let gic = create(&machine.vm)?;
    for kind in [KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V2_ADDR_TYPE_CPU] {
        let mut value = 0;
        gic.attribute(KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &mut value).succeeds("reading it")?;
        equal(value, u64::MAX, "an address that was not set")?;
    }
    Ok(())
}

fn legacy_addresses() -> Verdict {
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    let set = |device, kind, address: u64| {
        machine.vm.give(KVM_ARM_SET_DEVICE_ADDR, &mut DeviceAddr::new(device, kind, address))
    };
    set(0, 0, GICD.into()).fails(Errno::ENODEV, "an address of a GIC that is not there")?;
    machine.vm.value(KVM_CREATE_IRQCHIP, 0).succeeds("KVM_CREATE_IRQCHIP")?;
    for device in [1, 2, 0xffff] {
        set(device, 0, GICD.into()).fails(Errno::ENODEV, format_args!("an address of device {device}"))?;
    }
    for kind in [2, 3, 0xffff] {
        set(0, kind, GICD.into()).fails(Errno::ENODEV, format_args!("an address of kind {kind}"))?;
    }
    set(0, KVM_VGIC_V2_ADDR_TYPE_DIST, u64::from(GICD) + 1).fails(Errno::EINVAL, "an odd address")?;
    set(0, KVM_VGIC_V2_ADDR_TYPE_DIST, 1 << 40).fails(Errno::E2BIG, "an address beyond")?;
    set(0, KVM_VGIC_V2_ADDR_TYPE_DIST, GICD.into()).succeeds("the distributor's")?;
    set(0, KVM_VGIC_V2_ADDR_TYPE_DIST, GICD.into()).fails(Errno::EEXIST, "the distributor's again")?;
    set(0, KVM_VGIC_V2_ADDR_TYPE_CPU, GICC.into()).succeeds("the CPU interface's")?;
    vcpu.expect_off()
}

fn bad_pointers() -> Verdict {
    let machine = fixture()?;
    let gic = create(&machine.vm)?;
    for at in Nowhere::ALL {
        for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR] {
            gic.nowhere(ioctl, at).fails(Errno::EFAULT, format_args!("ioctl {ioctl:#x} at {at:?}"))?;
        }
        for group in [KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_NR_IRQS] {
            for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
                let answer = gic.attribute_nowhere(ioctl, group, 0, at);
                answer.fails(Errno::EFAULT, format_args!("ioctl {ioctl:#x} of group {group}, its value at {at:?}"))?;
            }
        }
    }
    // A value has as many bytes as it should.
    let memory = Memory::page_at_the_end().succeeds("mmap")?;
    memory.put(PAGE - 8, &[GICD, 0]);
    for (group, bytes) in [(KVM_DEV_ARM_VGIC_GRP_ADDR, 8), (KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 4)] {
        for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
            let answer = gic.attribute_at(ioctl, group, 0, &memory, PAGE - bytes);
            answer.succeeds(format_args!("ioctl {ioctl:#x} of group {group}, its value at the end of memory"))?;
        }
        memory.write(PAGE - 4, 64);
    }
    Ok(())
}

fn no_addresses() -> Verdict {
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    let gic = create(&machine.vm)?;
    vcpu.run().fails(Errno::ENXIO, "KVM_RUN without addresses")?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_DIST, GICD.into()).succeeds("the distributor's address")?;
    vcpu.run().fails(Errno::ENXIO, "KVM_RUN without the CPU interface's address")?;
    initialise(&gic).succeeds("KVM_DEV_ARM_VGIC_CTRL_INIT")?;
    vcpu.run().fails(Errno::ENXIO, "KVM_RUN when it is initialised")?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_CPU, GICC.into()).succeeds("the CPU interface's address")?;
    vcpu.expect_off()
}

fn overlapping() -> Verdict {
    for (dist, cpu) in [(GICD, GICD), (GICD + 0x1000, GICD)] {
        let machine = fixture()?;
        let vcpu = machine.vcpu(0)?;
        let gic = create(&machine.vm)?;
        set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_DIST, dist.into()).succeeds("the distributor's address")?;
        set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_CPU, cpu.into()).succeeds("the CPU interface's address")?;
        vcpu.run().fails(Errno::EINVAL, format_args!("KVM_RUN with GICD at {dist:#x}, GICC at {cpu:#x}"))?;
    }
    // Side by side is good.
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    let gic = create(&machine.vm)?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_DIST, u64::from(GICD) + 0x2000).succeeds("the distributor's address")?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_CPU, GICD.into()).succeeds("the CPU interface's address")?;
    vcpu.expect_off()
}

fn nr_irqs() -> Verdict {
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    let gic = create(&machine.vm)?;
    let set = |count: u64| set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, count);
    let get = || {
        let mut value = 0;
        gic.attribute(KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &mut value)
            .succeeds("reading the number")?;
        Ok::<u64, Failure>(value)
    };
    equal(get()?, 32, "the number before it was set: the private ones")?;
    for wrong in [0, 1, 31, 32, 33, 63, 65, 80, 95, 1025, 1056, 4096, 0xffff_ffff] {
        set(wrong).fails(Errno::EINVAL, format_args!("{wrong} interrupts"))?;
    }
    set(96).succeeds("96 interrupts")?;
    for again in [96, 64] {
        set(again).fails(Errno::EBUSY, "the number again")?;
    }
    equal(get()?, 96, "the number that was set")?;
    drop(vcpu);
    // By default there are 256.
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 64)
        .fails(Errno::EBUSY, "the number of a GIC that is initialised")?;
    let mut value = 0;
    gic.attribute(KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &mut value).succeeds("reading the number")?;
    equal(value, 256, "the number by default")
}

fn no_vcpu() -> Verdict {
    let machine = fixture()?;
    let gic = create(&machine.vm)?;
    initialise(&gic).fails(Errno::ENODEV, "initialising without a vCPU")?;
    let _vcpu = machine.vcpu(0)?;
    initialise(&gic).succeeds("initialising with one").map(|_| ())
}

fn initialised() -> Verdict {
    let machine = fixture()?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    initialise(&gic).succeeds("initialising it again")?;
    machine.vm.create(KVM_CREATE_VCPU, 1).fails(Errno::EBUSY, "a vCPU more")?;
    // The descriptor is not what keeps it.
    drop(gic);
    machine
        .vm
        .create_device(KVM_DEV_TYPE_ARM_VGIC_V2)
        .fails(Errno::EEXIST, "another after its descriptor was closed")?;
    vcpu.expect_off()
}

fn lines_without_gic() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    for line in [
        IrqLine::Spi { number: 32 },
        IrqLine::Spi { number: 0 },
        IrqLine::Ppi { vcpu: 0, number: 27 },
        IrqLine::Ppi { vcpu: 9, number: 27 },
    ] {
        drive(&machine.vm, line.encode(), 1).fails(Errno::ENXIO, format_args!("{line:?}"))?;
    }
    drive(&machine.vm, 3 << 24, 1).fails(Errno::EINVAL, "a line of type 3")
}

fn bad_lines() -> Verdict {
    let machine = fixture()?;
    let _vcpus = [machine.vcpu(0)?, machine.vcpu(2)?];
    let _gic = machine.gic()?;
    for kind in 3..16 {
        drive(&machine.vm, kind << 24 | 40, 1).fails(Errno::EINVAL, format_args!("a line of type {kind}"))?;
    }
    for number in [0, 1, 15, 31, 256, 1019, 1023, 0xffff] {
        drive(&machine.vm, IrqLine::Spi { number }.encode(), 1).fails(Errno::EINVAL, format_args!("SPI {number}"))?;
    }
    for (vcpu, number) in [(0, 0), (0, 15), (0, 32), (0, 0xffff)]
        .into_iter()
        .chain([1, 3, 7, 8, 255, 256, 4095].map(|missing| (missing, PPI as u16)))
    {
        let line = IrqLine::Ppi { vcpu, number };
        drive(&machine.vm, line.encode(), 1).fails(Errno::EINVAL, format_args!("{line:?}"))?;
    }
    let line = IrqLine::Cpu { vcpu: 0, number: KVM_ARM_IRQ_CPU_IRQ };
    drive(&machine.vm, line.encode(), 1).fails(Errno::ENXIO, "a vCPU's own line beside a GIC")?;
    for line in [
        IrqLine::Spi { number: 32 },
        IrqLine::Spi { number: 255 },
        IrqLine::Ppi { vcpu: 0, number: 16 },
        IrqLine::Ppi { vcpu: 0, number: 31 },
        // The virtual timer's own: taken, and without effect.
        IrqLine::Ppi { vcpu: 0, number: 27 },
        IrqLine::Ppi { vcpu: 2, number: PPI as u16 },
    ] {
        for level in [1, 0, 7, 0] {
            drive(&machine.vm, line.encode(), level).succeeds(format_args!("{line:?}"))?;
        }
    }
    Ok(())
}

/// The shared interrupt of guests that [`enable`] prepares.
pub const SPI: u32 = 40;
const PPI: u32 = 20;

/// Enables [`SPI`] and [`PPI`] with everything off in the CPU itself: interrupts are masked in the CPSR, and wake from WFI all the same.
/// r4 is GICD, r5 GICC, r6 the device.
pub fn enable(program: &mut Program) {
    program.set(4, GICD).set(5, GICC).set(6, DEVICE);
    for (offset, value) in [
        (0x100, 1 << PPI),        // ISENABLER0
        (0x104, 1 << (SPI - 32)), // ISENABLER1
        (0x800 + SPI, 1),         // ITARGETSR: CPU 0
    ] {
        program.set(1, value).set(2, GICD + offset).str(1, 2, 0);
    }
    program.set(1, 1).str(1, 4, 0); // GICD_CTLR
    program.set(2, 0xff).str(2, 5, 4).str(1, 5, 0); // GICC_PMR, GICC_CTLR
}

/// Waits for an interrupt and tells its number. The device may then lower its line before the interrupt ends.
pub fn take(program: &mut Program) {
    program.ldr(0, 5, 0xc).str(0, 6, 0).str(0, 5, 0x10); // GICC_IAR, tell, GICC_EOIR
}

fn wakes() -> Verdict {
    let mut program = Program::new();
    enable(&mut program);
    program.str(6, 6, 4); // Ready.
    for _ in 0..2 {
        program.wfi();
        take(&mut program);
    }
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    // A level that is not 0 is high.
    for (line, number, high) in
        [(IrqLine::Spi { number: SPI as u16 }, SPI, 1), (IrqLine::Ppi { vcpu: 0, number: PPI as u16 }, PPI, 1 << 31)]
    {
        let running = vcpu.start();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let running = running.still("the guest waits in WFI")?;
        drive(&machine.vm, line.encode(), high).succeeds("raising the line")?;
        let exit = running.result()?;
        let told = u64::from(number);
        let expected = Mmio { phys_addr: DEVICE.into(), data: told.to_le_bytes(), len: 4, is_write: true };
        equal(exit, Exit::Mmio(expected), "what the guest tells")?;
        drive(&machine.vm, line.encode(), 0).succeeds("lowering the line")?;
    }
    vcpu.expect_off()
}

fn level() -> Verdict {
    const SPURIOUS: u32 = 1023;
    let mut program = Program::new();
    enable(&mut program);
    program.str(6, 6, 4);
    for _ in 0..3 {
        take(&mut program);
    }
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let line = IrqLine::Spi { number: SPI as u16 }.encode();
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    drive(&machine.vm, line, 1).succeeds("raising the line")?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    // It is still up when the guest ends the interrupt.
    vcpu.expect_write(DEVICE, 4, SPI)?;
    drive(&machine.vm, line, 0).succeeds("lowering the line")?;
    vcpu.expect_write(DEVICE, 4, SPURIOUS)?;
    vcpu.expect_off()?;
    equal(machine.ram.read(0), Program::new().set(4, GICD).words()[0], format_args!("the program at {RAM:#x}"))
}
