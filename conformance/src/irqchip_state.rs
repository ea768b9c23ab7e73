// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2's registers as a process reads and writes them (KVM_DEV_ARM_VGIC_GRP_DIST_REGS and CPU_REGS).

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, GICC, GICD, Machine, PC, RAM, set_attribute};
use crate::sys::{Answer, Fd, Nowhere};
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("the registers that there are, and no others (ENXIO)", there),
    Case::of("a vCPU that there is not is EINVAL", no_vcpu),
    Case::of("values that are not there are EFAULT", bad_pointers),
    Case::of("while a vCPU runs they are EBUSY", busy),
    Case::of("the first access makes the GIC", makes_it),
    Case::of("the distributor is read back as written", distributor),
    Case::of("GICD_IIDR takes what it holds (EINVAL), and lets groups be written", groups),
    Case::of("the CPU interface is read back in the formats of GICH_VMCR", interface),
    Case::of("what a guest has in hand goes on in another VM", moved),
    Case::of("what two vCPUs have in hand and sent each other goes on in another VM", moved_pair),
    Case::of("the timer's interrupt, pending and active, moves", moved_timer),
];

const CTLR: u32 = 0x000;
const TYPER: u32 = 0x004;
const IIDR: u32 = 0x008;
const IGROUPR: u32 = 0x080;
const ISENABLER: u32 = 0x100;
const ICENABLER: u32 = 0x180;
const ISPENDR: u32 = 0x200;
const ICPENDR: u32 = 0x280;
const ISACTIVER: u32 = 0x300;
const ICACTIVER: u32 = 0x380;
const IPRIORITYR: u32 = 0x400;
const ITARGETSR: u32 = 0x800;
const ICFGR: u32 = 0xc00;
const SGIR: u32 = 0xf00;
const CPENDSGIR: u32 = 0xf10;
const SPENDSGIR: u32 = 0xf20;
const PMR: u32 = 0x04;
const BPR: u32 = 0x08;
const ABPR: u32 = 0x1c;
const APR: u32 = 0xd0;
const CPU_IIDR: u32 = 0xfc;

const DIST: u32 = KVM_DEV_ARM_VGIC_GRP_DIST_REGS;
const CPU: u32 = KVM_DEV_ARM_VGIC_GRP_CPU_REGS;

fn has(gic: &Fd, group: u32, vcpu: u8, offset: u32) -> Answer {
    gic.attribute(KVM_HAS_DEVICE_ATTR, group, vgic_register_attr(vcpu, offset), &mut 0)
}

fn read(gic: &Fd, group: u32, vcpu: u8, offset: u32) -> Result<u32, Errno> {
    let mut value = 0xffff_ffff_0000_0000;
    gic.attribute(KVM_GET_DEVICE_ATTR, group, vgic_register_attr(vcpu, offset), &mut value)?;
    assert_eq!(value >> 32, 0xffff_ffff, "32 bits are written");
    Ok(value as u32)
}

fn write(gic: &Fd, group: u32, vcpu: u8, offset: u32, value: u32) -> Answer {
    set_attribute(gic, group, vgic_register_attr(vcpu, offset), value.into())
}

fn expect(gic: &Fd, group: u32, vcpu: u8, offset: u32, value: u32) -> Verdict {
    equal(read(gic, group, vcpu, offset), Ok(value), format_args!("group {group}, vCPU {vcpu}, register {offset:#x}"))
}

fn set(gic: &Fd, group: u32, vcpu: u8, offset: u32, value: u32) -> Verdict {
    write(gic, group, vcpu, offset, value)
        .succeeds(format_args!("writing {value:#x} to register {offset:#x}"))
        .map(drop)
}

fn fixture() -> Result<Machine, Failure> {
    let mut program = Program::new();
    program.power_off();
    Machine::new(&program)
}

fn there() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 96).succeeds("96 interrupts")?;
    let mut expected: Vec<u32> = vec![CTLR, TYPER, IIDR, SGIR];
    expected.extend((IGROUPR..IPRIORITYR).filter(|offset| offset % 0x80 < 96 / 8));
    expected.extend((IPRIORITYR..IPRIORITYR + 96).chain(ITARGETSR..ITARGETSR + 96).chain(ICFGR..ICFGR + 96 / 4));
    expected.extend(CPENDSGIR..SPENDSGIR + 0x10);
    expected.retain(|offset| offset % 4 == 0);
    for offset in (0..0x1100).chain([0x8000_0000, 0xffff_fffc]) {
        let what = format_args!("whether there is a GICD register at {offset:#x}");
        equal(has(&gic, DIST, 0, offset).is_ok(), expected.contains(&offset), what)?;
        let expected = [0, PMR, BPR, ABPR, APR, APR + 4, APR + 8, APR + 12, CPU_IIDR].contains(&offset);
        equal(
            has(&gic, CPU, 0, offset).is_ok(),
            expected,
            format_args!("whether there is a GICC register at {offset:#x}"),
        )?;
        if !expected {
            has(&gic, CPU, 0, offset).fails(Errno::ENXIO, format_args!("GICC register {offset:#x}"))?;
            // Who accesses it all the same finds nothing.
            expect(&gic, CPU, 0, offset, 0)?;
            set(&gic, CPU, 0, offset, u32::MAX)?;
        }
    }
    Ok(())
}

fn no_vcpu() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    for vcpu in [1, 7, 8, 255] {
        for group in [DIST, CPU] {
            has(&gic, group, vcpu, 0).fails(Errno::EINVAL, format_args!("asking for vCPU {vcpu}"))?;
            read(&gic, group, vcpu, 0).fails(Errno::EINVAL, format_args!("reading of vCPU {vcpu}"))?;
            write(&gic, group, vcpu, 0, 0).fails(Errno::EINVAL, format_args!("writing of vCPU {vcpu}"))?;
        }
    }
    Ok(())
}

fn bad_pointers() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    for at in Nowhere::ALL {
        for group in [DIST, CPU] {
            for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
                gic.attribute_nowhere(ioctl, group, 0, at).fails(Errno::EFAULT, format_args!("a value at {at:?}"))?;
            }
        }
    }
    Ok(())
}

fn busy() -> Verdict {
    let mut program = Program::new();
    program.set(1, 1).set(2, crate::machine::RAM + 0x1000).str(1, 2, 0).stay();
    let machine = Machine::new(&program)?;
    let (vcpu, _other) = (machine.vcpu(0)?, machine.vcpu(1)?);
    let gic = machine.gic()?;
    let running = vcpu.start();
    machine.await_word(0x1000, 1, "the guest runs")?;
    for vcpu in [0, 1] {
        for group in [DIST, CPU] {
            read(&gic, group, vcpu, 0).fails(Errno::EBUSY, "reading")?;
            write(&gic, group, vcpu, 0, 1).fails(Errno::EBUSY, "writing")?;
            has(&gic, group, vcpu, 0).succeeds("asking whether there is one")?;
        }
    }
    running.stop()?;
    expect(&gic, DIST, 0, CTLR, 0)?;
    expect(&gic, CPU, 0, CTLR, 0)
}

fn makes_it() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    expect(&gic, DIST, 0, TYPER, 7)?;
    machine.vm.create(KVM_CREATE_VCPU, 1).fails(Errno::EBUSY, "a vCPU more")?;
    set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 64).fails(Errno::EBUSY, "the number of its interrupts")
}

fn distributor() -> Verdict {
    let machine = fixture()?;
    let _vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
    let gic = machine.gic()?;
    expect(&gic, DIST, 0, TYPER, 7 | 1 << 5)?;
    expect(&gic, DIST, 0, IIDR, 0x4b00_243b)?;
    set(&gic, DIST, 0, TYPER, 0)?;
    expect(&gic, DIST, 0, TYPER, 7 | 1 << 5)?;
    for (offset, value, reads) in [
        (CTLR, 1, 1),
        (ISENABLER + 4, 0xf0, 0xf0),
        (ICENABLER + 4, 0x30, 0xc0),
        (ICFGR + 8, 0x0000_0302, 0x0000_0202),
        (ISPENDR + 4, 0x80ff, 0x80ff),
        (ICPENDR + 4, 0xf, 0x80f0),
        (ISACTIVER + 4, 0xff, 0xff),
        (ICACTIVER + 4, 0xf, 0xf0),
        (IPRIORITYR + 32, 0xff80_40a7, 0xf880_40a0),
        (ITARGETSR + 32, 0x0703_0201, 0x0303_0201),
        (ITARGETSR, 0, 0x0101_0101),
        (SGIR, 1, 0),
    ] {
        set(&gic, DIST, 0, offset, value)?;
        expect(&gic, DIST, 0, offset, reads)?;
    }
    expect(&gic, DIST, 0, ICENABLER + 4, 0xc0)?;
    // Private ones are each vCPU's.
    set(&gic, DIST, 1, ISENABLER, 1 << 20)?;
    expect(&gic, DIST, 1, ISENABLER, 1 << 20 | 0xffff)?;
    expect(&gic, DIST, 0, ISENABLER, 0xffff)?;
    expect(&gic, DIST, 1, ITARGETSR, 0x0202_0202)?;
    // An SGI is pending for itself, as long as nobody says for whom it is.
    set(&gic, DIST, 1, ISPENDR, 1 << 5)?;
    expect(&gic, DIST, 1, SPENDSGIR + 4, 2 << 8)?;
    set(&gic, DIST, 1, SPENDSGIR + 4, 1 << 8)?;
    set(&gic, DIST, 1, CPENDSGIR + 4, 2 << 8)?;
    expect(&gic, DIST, 1, CPENDSGIR + 4, 1 << 8)?;
    set(&gic, DIST, 1, ICPENDR, 1 << 5)?;
    expect(&gic, DIST, 1, SPENDSGIR + 4, 0)?;
    // Beyond the VM's interrupts is nothing.
    set(&gic, DIST, 0, ISENABLER + 32, u32::MAX)?;
    expect(&gic, DIST, 0, ISENABLER + 32, 0)
}

fn groups() -> Verdict {
    let machine = fixture()?;
    let _vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    set(&gic, DIST, 0, IGROUPR + 4, 6)?;
    expect(&gic, DIST, 0, IGROUPR + 4, 0)?;
    let iidr = read(&gic, DIST, 0, IIDR).succeeds("reading GICD_IIDR")?;
    for wrong in [0, iidr ^ 1, iidr ^ 1 << 12, iidr ^ 3 << 12, iidr ^ 1 << 24] {
        write(&gic, DIST, 0, IIDR, wrong).fails(Errno::EINVAL, format_args!("GICD_IIDR {wrong:#x}"))?;
    }
    set(&gic, DIST, 0, IIDR, iidr)?;
    set(&gic, DIST, 0, IGROUPR + 4, 6)?;
    expect(&gic, DIST, 0, IGROUPR + 4, 6)
}

fn interface() -> Verdict {
    let mut program = Program::new();
    // GICC_CTLR, PMR, BPR, ABPR as the guest writes them.
    program
        .set(5, GICC)
        .set(1, 0x203)
        .str(1, 5, 0)
        .set(1, 0xb8)
        .str(1, 5, PMR)
        .set(1, 5)
        .str(1, 5, BPR)
        .set(1, 6)
        .str(1, 5, ABPR);
    program.set(6, DEVICE).str(6, 6, 0);
    for offset in [0, PMR, BPR, ABPR] {
        program.ldr(1, 5, offset).str(1, 6, 4);
    }
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    expect(&gic, CPU, 0, CPU_IIDR, 0x04b2_043b)?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    for (offset, value) in [(CTLR, 0x203), (PMR, 0xb8 >> 3), (BPR, 5), (ABPR, 6), (APR, 0), (APR + 4, 0)] {
        expect(&gic, CPU, 0, offset, value)?;
    }
    for (offset, value) in [(CTLR, 1), (PMR, 0x1e), (BPR, 3), (ABPR, 4), (APR, 1 << 7), (CPU_IIDR, 0)] {
        set(&gic, CPU, 0, offset, value)?;
    }
    expect(&gic, CPU, 0, APR, 1 << 7)?;
    expect(&gic, CPU, 0, CPU_IIDR, 0x04b2_043b)?;
    set(&gic, CPU, 0, APR, 0)?;
    for value in [1, 0x1e << 3, 3, 4] {
        vcpu.expect_write(DEVICE + 4, 4, value)?;
    }
    vcpu.expect_off()
}

/// SPI 40, 41 and 42: one in hand, one more urgent that waits behind the mask, one that is not enabled; and SGI 2 of its own.
fn moved() -> Verdict {
    let mut program = Program::new();
    program.set(4, GICD).set(5, GICC).set(6, DEVICE);
    for (offset, value) in [
        (ICFGR + 8, 2 << 16 | 2 << 18 | 2 << 20),
        (IPRIORITYR + 40, 0x0030_2060),
        (IPRIORITYR, 0x0050_0000),
        (ITARGETSR + 40, 0x0001_0101),
        (ISENABLER + 4, 3 << 8),
        (CTLR, 1),
    ] {
        program.set(1, value).set(2, GICD + offset).str(1, 2, 0);
    }
    program.set(1, 0xf8).str(1, 5, PMR).set(1, 1).str(1, 5, CTLR);
    program.str(6, 6, 0); // Ready for 40.
    program.ldr(7, 5, 0xc).str(7, 6, 4); // GICC_IAR.
    program.set(1, 2 << 24 | 2).set(2, GICD + SGIR).str(1, 2, 0); // The SGI to itself: less urgent than 41.
    program.set(1, 0x10).str(1, 5, PMR);
    program.str(6, 6, 8); // Moved here, 41 and 42 having come.
    program.set(1, 0xf8).str(1, 5, PMR);
    program.ldr(1, 5, 0xc).str(1, 6, 4).str(1, 5, 0x10); // 41 preempts.
    program.ldr(1, 5, 0xc).str(1, 6, 4); // The SGI preempts 40, which is 0x60.
    program.str(1, 5, 0x10).str(7, 5, 0x10); // End of both.
    program.ldr(1, 5, 0xc).str(1, 6, 4); // Nothing.
    program.set(1, 1 << 10).set(2, GICD + ISENABLER + 4).str(1, 2, 0);
    program.ldr(1, 5, 0xc).str(1, 6, 4).str(1, 5, 0x10); // 42, at last.
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let gic = machine.gic()?;
    let edge = |number: u16| {
        let irq = IrqLine::Spi { number }.encode();
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 1 }).succeeds("KVM_IRQ_LINE")
    };
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    edge(40)?;
    vcpu.expect_write(DEVICE + 4, 4, 40)?;
    vcpu.expect_write(DEVICE + 8, 4, DEVICE)?;
    vcpu.finish_access()?;
    edge(41)?;
    edge(42)?;
    expect(&gic, DIST, 0, ISACTIVER + 4, 1 << 8)?;
    expect(&gic, DIST, 0, ISPENDR + 4, 3 << 9)?;
    expect(&gic, DIST, 0, SPENDSGIR, 1 << 16)?;
    expect(&gic, CPU, 0, APR, 1 << (0x60 >> 3))?;

    let other = Machine::new(&program)?;
    let successor = other.vcpu(0)?;
    let fresh = other.gic()?;
    copy_gic(&gic, &fresh, 1)?;
    crate::machine::copy_registers(&vcpu, &successor)?;
    drop((vcpu, gic, machine));
    for told in [41, 2, 1023, 42] {
        successor.expect_write(DEVICE + 4, 4, told)?;
    }
    successor.expect_off()
}

/// Writes these to the distributor, opens the CPU interface and says so. r5 is GICC, r6 the device.
fn set_up(program: &mut Program, distributor: &[(u32, u32)]) {
    program.set(5, GICC).set(6, DEVICE);
    for (offset, value) in distributor {
        program.set(1, *value).set(2, GICD + offset).str(1, 2, 0);
    }
    program.set(1, 0xf8).str(1, 5, PMR).set(1, 1).str(1, 5, CTLR).str(6, 6, 0);
}

/// Takes an interrupt, if there is one, into a register and tells it.
fn take(program: &mut Program, register: u32) {
    program.ldr(register, 5, 0xc).str(register, 6, 4); // GICC_IAR
}

/// Ends the interrupt in a register.
fn end(program: &mut Program, register: u32) {
    program.str(register, 5, 0x10); // GICC_EOIR
}

/// Sends an SGI to the vCPUs of a mask, and says so.
fn send(program: &mut Program, sgi: u32, to: u32) {
    program.set(1, to << 16 | sgi).set(2, GICD + SGIR).str(1, 2, 0).str(6, 6, 8);
}

/// vCPU 0 gives SPI 40 to vCPU 1 and sends it SGI 3; vCPU 1 has PPI 20 in hand, less urgent than both, and sends SGI 5 back.
fn moved_pair() -> Verdict {
    const SECOND: u32 = 0x800;
    const PPI: u32 = 20;
    let mut first = Program::new();
    let shared =
        [(ICFGR + 8, 2 << 16), (IPRIORITYR + 40, 0x40), (ITARGETSR + 40, 2), (ISENABLER + 4, 1 << 8), (CTLR, 1)];
    set_up(&mut first, &shared);
    send(&mut first, 3, 2);
    take(&mut first, 1);
    end(&mut first, 1);
    take(&mut first, 1);
    first.power_off();
    let mut second = Program::new();
    set_up(&mut second, &[(IPRIORITYR, 0x20 << 24), (IPRIORITYR + PPI, 0x80), (ISENABLER, 1 << PPI)]);
    take(&mut second, 7);
    send(&mut second, 5, 1);
    for _ in 0..2 {
        take(&mut second, 1);
        end(&mut second, 1);
    }
    end(&mut second, 7);
    take(&mut second, 1);
    second.stay();
    let pair = || {
        let machine = Machine::new(&first)?;
        machine.ram.put(SECOND as usize, second.words());
        let vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
        vcpus[1].fd.set_register(PC, (RAM + SECOND).into()).succeeds("writing PC")?;
        let gic = machine.gic()?;
        Ok::<_, Failure>((machine, vcpus, gic))
    };
    let (machine, vcpus, gic) = pair()?;
    let drive = |line: IrqLine, level| {
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq: line.encode(), level }).succeeds("KVM_IRQ_LINE")
    };
    let ppi = IrqLine::Ppi { vcpu: 1, number: PPI as u16 };
    for vcpu in &vcpus {
        vcpu.expect_write(DEVICE, 4, DEVICE)?;
    }
    drive(ppi, 1)?;
    vcpus[1].expect_write(DEVICE + 4, 4, PPI)?;
    drive(ppi, 0)?;
    for vcpu in &vcpus {
        vcpu.expect_write(DEVICE + 8, 4, DEVICE)?;
        vcpu.finish_access()?;
    }
    drive(IrqLine::Spi { number: 40 }, 1)?;
    let in_hand = |gic: &Fd| {
        for (vcpu, offset, value) in [
            (0, ISACTIVER, 0),
            (1, ISACTIVER, 1 << PPI),
            (0, ISPENDR + 4, 1 << 8),
            (0, SPENDSGIR, 0),
            (0, SPENDSGIR + 4, 2 << 8),
            (1, SPENDSGIR, 1 << 24),
            (1, SPENDSGIR + 4, 0),
        ] {
            expect(gic, DIST, vcpu, offset, value)?;
        }
        expect(gic, CPU, 0, APR, 0)?;
        expect(gic, CPU, 1, APR, 1 << (0x80 >> 3))
    };
    in_hand(&gic)?;

    let (_other, successors, fresh) = pair()?;
    copy_gic(&gic, &fresh, 2)?;
    in_hand(&fresh)?;
    for (from, to) in vcpus.iter().zip(&successors) {
        crate::machine::copy_registers(from, to)?;
    }
    drop((vcpus, gic, machine));
    for told in [3, 40, 1023] {
        successors[1].expect_write(DEVICE + 4, 4, told)?;
    }
    for told in [1 << 10 | 5, 1023] {
        successors[0].expect_write(DEVICE + 4, 4, told)?;
    }
    successors[0].expect_off()
}

fn moved_timer() -> Verdict {
    const TIMER: u32 = 27;
    let mut program = Program::new();
    program.set(0, 0).mcr(0, 14, 3, 0).set(0, 1).mcr(0, 14, 3, 1).isb(); // CNTV_TVAL, CNTV_CTL: due at once, and from then on
    set_up(&mut program, &[(ISENABLER, 1 << TIMER), (CTLR, 1)]);
    let take_timers = |program: &mut Program| {
        // It may take a moment until it interrupts once more.
        let top = program.label();
        program.ldr(7, 5, 0xc).set(1, 1023).raw(0xe157_0001).branch_if_equal(top); // GICC_IAR; cmp r7, r1
        program.str(7, 6, 4);
    };
    take_timers(&mut program);
    end(&mut program, 7);
    take_timers(&mut program);
    program.set(0, 0).mcr(0, 14, 3, 1).isb(); // CNTV_CTL
    end(&mut program, 7);
    take(&mut program, 7);
    program.power_off();
    for in_hand in [false, true] {
        let state = |gic: &Fd| {
            expect(gic, DIST, 0, ISPENDR, 1 << TIMER)?;
            expect(gic, DIST, 0, ISACTIVER, u32::from(in_hand) << TIMER)
        };
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let gic = machine.gic()?;
        vcpu.expect_write(DEVICE, 4, DEVICE)?;
        if in_hand {
            vcpu.expect_write(DEVICE + 4, 4, TIMER)?;
        }
        vcpu.finish_access()?;
        state(&gic)?;
        let other = Machine::new(&program)?;
        let successor = other.vcpu(0)?;
        let fresh = other.gic()?;
        copy_gic(&gic, &fresh, 1)?;
        state(&fresh)?;
        crate::machine::copy_registers(&vcpu, &successor)?;
        drop((vcpu, gic, machine));
        if !in_hand {
            successor.expect_write(DEVICE + 4, 4, TIMER)?;
        }
        for told in [TIMER, 1023] {
            successor.expect_write(DEVICE + 4, 4, told)?;
        }
        successor.expect_off()?;
    }
    Ok(())
}

/// Writes what one GIC's registers read into another's, in the order of clients: what is set bit by bit is cleared first, pending state
/// comes after configuration, and the CPU interfaces last.
pub fn copy_gic(from: &Fd, to: &Fd, vcpus: u8) -> Verdict {
    let copy = |group: u32, vcpu: u8, offset: u32| {
        set(to, group, vcpu, offset, read(from, group, vcpu, offset).succeeds("reading")?)
    };
    copy(DIST, 0, CTLR)?;
    copy(DIST, 0, IIDR)?;
    for (base, fields, clears) in [
        (IGROUPR, 32, None),
        (ISENABLER, 32, Some(ICENABLER)),
        (ITARGETSR, 4, None),
        (ICFGR, 16, None),
        (ISPENDR, 32, Some(ICPENDR)),
        (ISACTIVER, 32, Some(ICACTIVER)),
        (IPRIORITYR, 4, None),
    ] {
        for word in 0..256 / fields {
            for vcpu in 0..if word * fields < 32 { vcpus } else { 1 } {
                if let Some(clears) = clears {
                    set(to, DIST, vcpu, clears + word * 4, u32::MAX)?;
                }
                copy(DIST, vcpu, base + word * 4)?;
            }
        }
    }
    for vcpu in 0..vcpus {
        for word in 0..4 {
            set(to, DIST, vcpu, CPENDSGIR + word * 4, u32::MAX)?;
            copy(DIST, vcpu, SPENDSGIR + word * 4)?;
        }
        for offset in [CTLR, PMR, BPR, ABPR, APR] {
            copy(CPU, vcpu, offset)?;
        }
    }
    Ok(())
}
