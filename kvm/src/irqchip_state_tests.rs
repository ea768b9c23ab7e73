// SPDX-License-Identifier: GPL-2.0-only

use super::*;
use crate::run::Return;
use crate::run::machine::{Machine, OPEN, at};
use arch::gic::gicc;
use hyp_abi::context::ExitCode;

fn dist(vcpu: usize, offset: u32) -> Word {
    Word { half: Half::Distributor, vcpu, offset }
}

fn cpu(vcpu: usize, offset: u32) -> Word {
    Word { half: Half::CpuInterface, vcpu, offset }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn registers_are_there_as_far_as_interrupts_are() {
    let machine = Machine::bare(1);
    let has = |word| machine.vm.has_irqchip_word(word);
    machine.vm.create_irqchip().unwrap();
    // How many there are is not known yet, but the private ones.
    assert_eq!((has(dist(0, gicd::ISENABLER)), has(dist(0, gicd::ISENABLER + 4))), (Ok(true), Ok(false)));
    machine.vm.set_nr_irqs(64).unwrap();
    let there: std::vec::Vec<u32> = (0..0x1200).filter(|&offset| has(dist(0, offset)).unwrap()).collect();
    let mut expected = std::vec::Vec::from([0, 4, 8]);
    for base in (0x80..0x400).step_by(0x80) {
        expected.extend([base, base + 4]);
    }
    expected.extend((0x400..0x440).step_by(4).chain((0x800..0x840).step_by(4)).chain((0xc00..0xc10).step_by(4)));
    expected.extend((0xf00..0xf04).step_by(4).chain((0xf10..0xf30).step_by(4)));
    assert_eq!(there, expected);
    assert_eq!((has(cpu(0, gicc::PMR)), has(cpu(0, gicc::IAR)), has(cpu(0, 0x1000))), (Ok(true), Ok(false), Ok(false)));
    for vcpu in [1, 7, 8, 255] {
        assert_eq!(has(cpu(vcpu, gicc::PMR)), Err(IrqchipError::Invalid));
        assert_eq!(machine.vm.read_irqchip(&machine.hypervisor, dist(vcpu, 0)), Err(IrqchipError::Invalid));
    }
}

#[test]
fn reading_makes_the_interrupt_controller() {
    let machine = Machine::bare(2);
    assert_eq!(machine.vm.read_irqchip(&machine.hypervisor, dist(0, gicd::TYPER)), Err(IrqchipError::Missing));
    machine.vm.create_irqchip().unwrap();
    assert_eq!(machine.vm.read_irqchip(&machine.hypervisor, dist(0, gicd::TYPER)), Ok(7 | 1 << 5));
    assert_eq!(machine.vm.nr_irqs(), Some(256));
    let refused = machine.vm.write_irqchip(&machine.hypervisor, dist(0, gicd::IIDR), 0);
    assert_eq!(refused, Err(IrqchipError::Invalid));
}

#[test]
fn the_interface_is_what_the_last_run_left_and_what_the_next_one_begins_with() {
    let mut machine = Machine::new(2);
    machine.open_interface();
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        host.with_cpu_interface(|interface| {
            assert_eq!(interface.vmcr, OPEN);
            (interface.vmcr, interface.apr) = (0x15 << 27 | 2, 1 << 4);
            interface.hcr |= 1 << 2; // Else nothing but VMCR would be looked at.
        });
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(1), Return::Interrupted);
    let (vm, hypervisor) = (machine.vm.clone(), machine.hypervisor.clone());
    let read = |word| vm.read_irqchip(&hypervisor, word).unwrap();
    assert_eq!([gicc::CTLR, gicc::PMR].map(|offset| read(cpu(1, offset))), [2, 0x15]);
    assert_eq!(read(cpu(0, gicc::PMR)), 0x1f, "another vCPU's");
    vm.write_irqchip(&hypervisor, cpu(1, gicc::PMR), 0x0a).unwrap();
    vm.write_irqchip(&hypervisor, cpu(1, gicc::APR0), 1 << 9).unwrap();
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        host.with_cpu_interface(|interface| assert_eq!((interface.vmcr, interface.apr), (0x0a << 27 | 2, 1 << 9)));
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(1), Return::Interrupted);
    assert_eq!(read(cpu(1, gicc::APR0)), 1 << 9);
}

#[test]
fn nobody_reads_or_writes_while_a_vcpu_runs() {
    let mut machine = Machine::new(2);
    let (vm, hypervisor) = (machine.vm.clone(), machine.hypervisor.clone());
    let inside = (vm.clone(), hypervisor.clone());
    machine.script([at(0, move |_| {
        let (vm, hypervisor) = &inside;
        // Any vCPU's registers, whichever runs.
        for vcpu in [0, 1] {
            assert_eq!(vm.read_irqchip(hypervisor, dist(vcpu, gicd::CTLR)), Err(IrqchipError::Busy));
            assert_eq!(vm.write_irqchip(hypervisor, cpu(vcpu, gicc::PMR), 3), Err(IrqchipError::Busy));
        }
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(vm.read_irqchip(&hypervisor, cpu(0, gicc::PMR)), Ok(0));
}
