// SPDX-License-Identifier: GPL-2.0-only
//! Virtual machines whose interrupt controller the process emulates (KVM_CAP_ARM_USER_IRQ).

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, Machine, PC, RAM, Vcpu};
use crate::sys::Fd;
use crate::verdict::{Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of(
        "VMs have a GIC of the kernel's where KVM_CAP_IRQCHIP says so, else ENXIO and ENODEV",
        with_or_without_gic,
    ),
    Case::of("lines of vCPUs that there are not are EINVAL", bad_lines),
    Case::of("a vCPU's IRQ and FIQ lines reach a guest that runs", lines),
    Case::of("a line wakes a guest from WFI", wakes),
    Case::of("the virtual timer's level ends KVM_RUN, and its interrupt goes by way of the process", virtual_timer),
    Case::of("so does the physical timer's", physical_timer),
];

/// Where the vectors are, from the beginning of [`RAM`].
const VECTORS: usize = 0x2000;
/// What the guest writes to, from the beginning of [`RAM`].
const WORD: usize = 0x3000;
/// CPSIE, with its A, I and F bits.
const CPSIE: u32 = 0xf108_0000;
const F: u32 = 1 << 6;
const I: u32 = 1 << 7;
/// SUBS PC, LR, #4: returns from an interrupt.
const RETURN: u32 = 0xe25e_f004;

fn drive(vm: &Fd, vcpu: u16, number: u16, level: u32) -> crate::sys::Answer {
    vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq: IrqLine::Cpu { vcpu, number }.encode(), level })
}

/// A machine with `program`, and `handler` at both interrupts' vectors.
fn machine(program: &Program, irq: &Program, fiq: &Program) -> Result<Machine, crate::verdict::Failure> {
    let machine = Machine::new(program)?;
    // The vectors branch to where there is room.
    let branch = |from: usize, to: usize| 0xea00_0000 | ((to - from - 8) / 4) as u32;
    for (vector, at, handler) in [(0x18, 0x100, irq), (0x1c, 0x200, fiq)] {
        machine.ram.put(VECTORS + vector, &[branch(vector, at)]);
        machine.ram.put(VECTORS + at, handler.words());
    }
    Ok(machine)
}

/// Sets VBAR, and r6 to the device.
fn prologue(program: &mut Program) {
    program.set(1, RAM + VECTORS as u32).mcr(1, 12, 0, 0).isb().set(6, DEVICE);
}

fn with_or_without_gic() -> Verdict {
    let device = |vm: &Fd| vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).map(|_| 0);
    let machine = || Machine::new(Program::new().power_off());
    let kvm = Fd::kvm().succeeds("opening /dev/kvm")?;
    if kvm.value(KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP as usize) != Ok(0) {
        device(&machine()?.vm).succeeds("KVM_CREATE_DEVICE")?;
        return machine()?.vm.value(KVM_CREATE_IRQCHIP, 0).succeeds("KVM_CREATE_IRQCHIP").map(|_| ());
    }
    let machine = machine()?;
    device(&machine.vm).fails(Errno::ENODEV, "KVM_CREATE_DEVICE")?;
    let mut test =
        CreateDevice { device_type: KVM_DEV_TYPE_ARM_VGIC_V2, flags: KVM_CREATE_DEVICE_TEST, ..Default::default() };
    machine.vm.give(KVM_CREATE_DEVICE, &mut test).fails(Errno::ENODEV, "KVM_CREATE_DEVICE_TEST")?;
    machine.vm.value(KVM_CREATE_IRQCHIP, 0).fails(Errno::ENXIO, "KVM_CREATE_IRQCHIP")?;
    let mut address = DeviceAddr { id: KVM_ARM_DEVICE_VGIC_V2 << 16, addr: 0x0800_0000 };
    machine.vm.give(KVM_ARM_SET_DEVICE_ADDR, &mut address).fails(Errno::ENXIO, "KVM_ARM_SET_DEVICE_ADDR")?;
    machine.vcpu(0)?.expect_off()
}

fn bad_lines() -> Verdict {
    let machine = Machine::new(Program::new().power_off())?;
    let vcpu = machine.vcpu(0)?;
    for vcpu in [1, 8, 255, 4095] {
        drive(&machine.vm, vcpu, KVM_ARM_IRQ_CPU_IRQ, 1).fails(Errno::EINVAL, format_args!("a line of vCPU {vcpu}"))?;
    }
    for number in [2, 3, 27, 0xffff] {
        drive(&machine.vm, 0, number, 1).fails(Errno::EINVAL, format_args!("line {number} of a vCPU"))?;
    }
    for number in [KVM_ARM_IRQ_CPU_IRQ, KVM_ARM_IRQ_CPU_FIQ] {
        for level in [1, 1, 0, 0, 7] {
            drive(&machine.vm, 0, number, level).succeeds(format_args!("line {number}"))?;
        }
    }
    vcpu.expect_off()
}

fn lines() -> Verdict {
    let mut program = Program::new();
    prologue(&mut program);
    program.set(2, RAM + WORD as u32).set(3, 1).str(3, 2, 0).raw(CPSIE | I | F).stay();
    // Each tells the process which it is, and returns when the line has fallen.
    let (mut irq, mut fiq) = (Program::new(), Program::new());
    irq.set(0, 1).str(0, 6, 0).raw(RETURN);
    // r8 and on are FIQ mode's own.
    fiq.set(0, 2).str(0, 6, 0).raw(RETURN);
    let machine = machine(&program, &irq, &fiq)?;
    let vcpu = machine.vcpu(0)?;
    for (number, told) in [(KVM_ARM_IRQ_CPU_IRQ, 1), (KVM_ARM_IRQ_CPU_FIQ, 2), (KVM_ARM_IRQ_CPU_IRQ, 1)] {
        let running = vcpu.start();
        machine.await_word(WORD, 1, "the guest runs")?;
        drive(&machine.vm, 0, number, 1).succeeds("raising a line")?;
        expect_told(running.result()?, told)?;
        drive(&machine.vm, 0, number, 0).succeeds("lowering it")?;
    }
    // Where a vCPU begins anew, they are low.
    for number in [KVM_ARM_IRQ_CPU_IRQ, KVM_ARM_IRQ_CPU_FIQ] {
        drive(&machine.vm, 0, number, 1).succeeds("raising a line")?;
    }
    vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT again")?;
    vcpu.fd.set_register(PC, RAM.into()).succeeds("writing PC")?;
    machine.ram.write(WORD, 0);
    let running = vcpu.start();
    machine.await_word(WORD, 1, "the guest runs anew")?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    let running = running.still("with both lines low the guest is left alone")?;
    running.stop()
}

fn expect_told(exit: Exit, told: u32) -> Verdict {
    let data = u64::from(told).to_le_bytes();
    equal(exit, Exit::Mmio(Mmio { phys_addr: DEVICE.into(), data, len: 4, is_write: true }), "what the handler tells")
}

fn wakes() -> Verdict {
    let mut program = Program::new();
    program.set(6, DEVICE).str(6, 6, 4).wfi().str(6, 6, 8).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    let running = vcpu.start();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let running = running.still("the guest waits in WFI")?;
    drive(&machine.vm, 0, KVM_ARM_IRQ_CPU_FIQ, 1).succeeds("raising a line")?;
    let exit = running.result()?;
    let data = u64::from(DEVICE).to_le_bytes();
    equal(
        exit,
        Exit::Mmio(Mmio { phys_addr: u64::from(DEVICE) + 8, data, len: 4, is_write: true }),
        "the guest goes on",
    )?;
    vcpu.expect_off()
}

/// A timer's registers by CRm: 3 the virtual one's, 2 the physical one's.
fn set_timer(program: &mut Program, crm: u32, ctl: u32) {
    program.set(1, ctl).mcr(1, 14, crm, 1).isb();
}

fn virtual_timer() -> Verdict {
    timer(3, KVM_ARM_DEV_EL1_VTIMER)
}

fn physical_timer() -> Verdict {
    timer(2, KVM_ARM_DEV_EL1_PTIMER)
}

/// The device is the process's interrupt controller: it is read to acknowledge, and written to end.
fn timer(crm: u32, bit: u64) -> Verdict {
    let mut program = Program::new();
    prologue(&mut program);
    // Due in 2^20 ticks by TVAL: some milliseconds.
    program.set(1, 1 << 20).mcr(1, 14, crm, 0);
    set_timer(&mut program, crm, 1);
    program.raw(CPSIE | I).wfi().str(6, 6, 8);
    // Not masked in the timer, but in the CPU: its level is told once, and the guest waits for more.
    program.raw(0xf10c_0080).set(1, 1).mcr(1, 14, crm, 0);
    set_timer(&mut program, crm, 1);
    program.wfi().wfi().str(6, 6, 12).power_off();
    let mut handler = Program::new();
    handler.ldr(0, 6, 0);
    set_timer(&mut handler, crm, 0);
    handler.str(0, 6, 4).raw(RETURN);
    let machine = machine(&program, &handler, &Program::new())?;
    let vcpu = machine.vcpu(0)?;

    expect_level(&vcpu, bit)?;
    drive(&machine.vm, 0, KVM_ARM_IRQ_CPU_IRQ, 1).succeeds("raising the line")?;
    vcpu.expect_read(DEVICE, 4, 27)?;
    equal(vcpu.page.device_irq_level(), bit, "the level while the guest handles it")?;
    // What the guest does to the emulated timer is seen at once; of the other, if anything has the guest leave just then.
    let mut exit = vcpu.run();
    let told = exit == Err(Errno::EINTR);
    holds(told || bit != KVM_ARM_DEV_EL1_PTIMER, "KVM_RUN returns when the emulated timer's level falls")?;
    if told {
        equal(vcpu.page.device_irq_level(), 0, "the level that ended it")?;
        exit = vcpu.run();
    }
    let data = 27u64.to_le_bytes();
    let written = Exit::Mmio(Mmio { phys_addr: u64::from(DEVICE) + 4, data, len: 4, is_write: true });
    equal(exit.succeeds("KVM_RUN")?, written, "what the handler writes")?;
    equal(vcpu.page.device_irq_level(), 0, "the level once the guest has turned the timer off")?;
    drive(&machine.vm, 0, KVM_ARM_IRQ_CPU_IRQ, 0).succeeds("lowering the line")?;
    vcpu.expect_write(DEVICE + 8, 4, DEVICE)?;

    expect_level(&vcpu, bit)?;
    let running = vcpu.start();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let running = running.still("the guest waits, though a timer is due that the process knows about")?;
    drive(&machine.vm, 0, KVM_ARM_IRQ_CPU_IRQ, 1).succeeds("raising the line")?;
    let data = u64::from(DEVICE).to_le_bytes();
    let expected = Exit::Mmio(Mmio { phys_addr: u64::from(DEVICE) + 12, data, len: 4, is_write: true });
    equal(running.result()?, expected, "the guest goes on")?;
    vcpu.expect_off()
}

/// Runs until KVM_RUN returns for a timer's level.
fn expect_level(vcpu: &Vcpu, level: u64) -> Verdict {
    vcpu.page.forget_exit();
    vcpu.run().fails(Errno::EINTR, "KVM_RUN when a timer is due")?;
    equal(vcpu.page.exit(), Exit::Interrupted, "the exit when a timer is due")?;
    equal(vcpu.page.device_irq_level(), level, "the timers' levels")
}
