// SPDX-License-Identifier: GPL-2.0-only
//! What each distributor register reads and does, by the manual (ARM IHI 0048B, 4.3), and what list registers are filled with.

use super::{CpuInterface, Interrupt, Invalid, Kicks, Vgic};
use arch::gic::{ListRegister, gicd, gich};
use std::vec;
use std::vec::Vec;

fn vgic(vcpus: usize, nr_irqs: usize) -> Vgic<Vec<Interrupt>> {
    let storage = vec![Interrupt::default(); Vgic::<Vec<Interrupt>>::storage(vcpus, nr_irqs)];
    Vgic::new(vcpus, nr_irqs, storage, 4).expect("sound sizes")
}

/// Two vCPUs, distributor on, SPI 40 enabled for vCPU 1 and SPI 41 for vCPU 0, both level-sensitive, interfaces open.
fn ready() -> (Vgic<Vec<Interrupt>>, CpuInterface) {
    let mut vgic = vgic(2, 64);
    let _ = vgic.dist_write(0, gicd::CTLR, 4, 1);
    let _ = vgic.dist_write(0, gicd::ISENABLER + 4, 4, 0x300);
    let _ = vgic.dist_write(0, gicd::ITARGETSR + 40, 4, 0x0102);
    let interface = CpuInterface { vmcr: 0x1f << 27 | 1, ..CpuInterface::default() };
    (vgic, interface)
}

/// Enters, lets `guest` do as hardware would with the list registers, and exits.
fn stay<'a>(
    vgic: &'a mut Vgic<Vec<Interrupt>>,
    vcpu: usize,
    interface: &mut CpuInterface,
    guest: impl FnOnce(&mut [ListRegister]),
) -> super::Exit<'a> {
    vgic.enter(vcpu, interface);
    guest(&mut interface.lr[..interface.used]);
    vgic.exit(vcpu, interface)
}

#[test]
fn sizes_are_checked() {
    let make = |vcpus, nr_irqs, len| Vgic::new(vcpus, nr_irqs, vec![Interrupt::default(); len], 4).map(|_| ());
    assert_eq!(make(0, 64, 9999), Err(Invalid::Vcpu));
    assert_eq!(make(9, 64, 9999), Err(Invalid::Vcpu));
    for nr_irqs in [0, 32, 63, 65, 1025, 1056] {
        assert_eq!(make(1, nr_irqs, 9999), Err(Invalid::Size), "{nr_irqs}");
    }
    assert_eq!(make(2, 96, 2 * 32 + 63), Err(Invalid::Size));
    assert_eq!(make(2, 96, 2 * 32 + 64), Ok(()));
    assert_eq!(make(8, 1024, 8 * 32 + 992), Ok(()));
}

#[test]
fn identification_says_what_there_is() {
    let vgic = vgic(5, 160);
    assert_eq!(vgic.dist_read(0, gicd::TYPER, 4), 4 << 5 | 4);
    assert_eq!(vgic.dist_read(0, gicd::IIDR, 4), 0x4b00_243b);
    assert_eq!(vgic.dist_read(0, gicd::ICPIDR2, 4), 0);
}

#[test]
fn reset_is_quiet() {
    let vgic = vgic(2, 64);
    assert_eq!(vgic.dist_read(1, gicd::CTLR, 4), 0);
    assert_eq!(vgic.dist_read(1, gicd::ISENABLER, 4), 0xffff, "SGIs are enabled");
    assert_eq!(vgic.dist_read(1, gicd::ISENABLER + 4, 4), 0);
    assert_eq!(vgic.dist_read(1, gicd::ICFGR, 4), 0xaaaa_aaaa, "SGIs are edge-triggered");
    assert_eq!(vgic.dist_read(1, gicd::ICFGR + 4, 4), 0);
    for offset in (gicd::ISPENDR..gicd::ITARGETSR).step_by(4) {
        assert_eq!(vgic.dist_read(1, offset, 4), 0, "{offset:#x}");
    }
}

#[test]
fn control_keeps_the_two_group_enables() {
    let mut vgic = vgic(1, 64);
    let _ = vgic.dist_write(0, gicd::CTLR, 4, u32::MAX);
    assert_eq!(vgic.dist_read(0, gicd::CTLR, 4), 3);
    let _ = vgic.dist_write(0, gicd::TYPER, 4, u32::MAX);
    assert_eq!(vgic.dist_read(0, gicd::TYPER, 4), 1);
}

#[test]
fn enables_are_set_and_cleared_by_ones_and_banked_below_32() {
    let mut vgic = vgic(2, 96);
    let _ = vgic.dist_write(0, gicd::ISENABLER + 8, 4, 0x8000_0005);
    let _ = vgic.dist_write(0, gicd::ICENABLER + 8, 4, 0x0000_0004);
    assert_eq!(vgic.dist_read(1, gicd::ISENABLER + 8, 4), 0x8000_0001);
    assert_eq!(vgic.dist_read(1, gicd::ICENABLER + 8, 4), 0x8000_0001);
    let _ = vgic.dist_write(0, gicd::ISENABLER, 4, 1 << 27);
    assert_eq!(vgic.dist_read(0, gicd::ISENABLER, 4), 1 << 27 | 0xffff);
    assert_eq!(vgic.dist_read(1, gicd::ISENABLER, 4), 0xffff);
    let _ = vgic.dist_write(0, gicd::ISENABLER + 12, 4, u32::MAX);
    assert_eq!(vgic.dist_read(0, gicd::ISENABLER + 12, 4), 0, "the VM has 96 interrupts");
}

#[test]
fn the_last_four_numbers_are_no_interrupts() {
    let mut vgic = vgic(1, 1024);
    let _ = vgic.dist_write(0, gicd::ISENABLER + 124, 4, u32::MAX);
    assert_eq!(vgic.dist_read(0, gicd::ISENABLER + 124, 4), 0x0fff_ffff);
    assert_eq!(vgic.dist_read(0, gicd::TYPER, 4) & 0x1f, 31);
    assert_eq!(vgic.set_level(0, 1019, true), Ok(Kicks::NONE));
    assert_eq!(vgic.set_level(0, 1020, true), Err(Invalid::Interrupt));
}

#[test]
fn priorities_have_five_bits_and_byte_access() {
    let mut vgic = vgic(1, 64);
    let _ = vgic.dist_write(0, gicd::IPRIORITYR + 33, 1, 0xff);
    assert_eq!(vgic.dist_read(0, gicd::IPRIORITYR + 32, 4), 0xf800);
    let _ = vgic.dist_write(0, gicd::IPRIORITYR + 32, 4, 0x0817_20a7);
    assert_eq!(vgic.dist_read(0, gicd::IPRIORITYR + 32, 4), 0x0810_20a0);
    assert_eq!(vgic.dist_read(0, gicd::IPRIORITYR + 34, 1), 0x10);
}

#[test]
fn accesses_of_other_width_or_alignment_do_nothing() {
    let mut vgic = vgic(1, 64);
    for (offset, len) in [
        (gicd::ISENABLER + 4, 1),
        (gicd::ISENABLER + 4, 2),
        (gicd::IPRIORITYR + 32, 2),
        (gicd::IPRIORITYR + 33, 4),
        (gicd::CTLR, 1),
        (gicd::CTLR, 8),
        (gicd::IPRIORITYR + 32, 0),
        (gicd::SIZE, 4),
        (u32::MAX, 4),
        (u32::MAX - 3, 4),
        (gicd::SPENDSGIR + 16, 1),
    ] {
        let _ = vgic.dist_write(0, offset, len, u32::MAX);
        assert_eq!(vgic.dist_read(0, offset, len), 0, "{offset:#x}/{len}");
    }
    assert_eq!(vgic.dist_read(0, gicd::ISENABLER + 4, 4), 0);
    assert_eq!(vgic.dist_read(0, gicd::IPRIORITYR + 32, 4), 0);
}

#[test]
fn targets_are_those_the_vm_has_and_read_as_oneself_for_private_ones() {
    let mut vgic = vgic(3, 64);
    let _ = vgic.dist_write(2, gicd::ITARGETSR + 36, 4, 0xff05_0300);
    assert_eq!(vgic.dist_read(0, gicd::ITARGETSR + 36, 4), 0x0705_0300);
    let _ = vgic.dist_write(2, gicd::ITARGETSR, 4, 0);
    assert_eq!(vgic.dist_read(2, gicd::ITARGETSR, 4), 0x0404_0404);
    assert_eq!(vgic.dist_read(0, gicd::ITARGETSR + 28, 4), 0x0101_0101);
}

#[test]
fn an_spi_goes_to_its_lowest_target_and_to_nobody_without_one() {
    let (mut vgic, _) = ready();
    assert_eq!(vgic.set_level(0, 40, true), Ok(Kicks::one(1)));
    assert_eq!((vgic.has_deliverable(0, 0), vgic.has_deliverable(1, 0)), (false, false), "masked after reset");
    assert_eq!(vgic.dist_write(0, gicd::ITARGETSR + 40, 1, 3), Kicks::one(0));
    assert_eq!(vgic.dist_write(0, gicd::ITARGETSR + 40, 1, 0), Kicks::NONE);
    assert_eq!(vgic.dist_write(0, gicd::ITARGETSR + 40, 1, 2), Kicks::one(1));
}

#[test]
fn a_single_vcpu_is_every_interrupts_target() {
    let mut vgic = vgic(1, 64);
    let _ = vgic.dist_write(0, gicd::CTLR, 4, 1);
    let _ = vgic.dist_write(0, gicd::ISENABLER + 4, 4, 1);
    assert_eq!(vgic.set_level(0, 32, true), Ok(Kicks::one(0)));
}

#[test]
fn configuration_is_for_spis_and_its_lower_bits_are_reserved() {
    let mut vgic = vgic(1, 64);
    for offset in [0, 4, 8] {
        let _ = vgic.dist_write(0, gicd::ICFGR + offset, 4, 0xffff_0000);
    }
    assert_eq!(vgic.dist_read(0, gicd::ICFGR, 4), 0xaaaa_aaaa);
    assert_eq!(vgic.dist_read(0, gicd::ICFGR + 4, 4), 0);
    assert_eq!(vgic.dist_read(0, gicd::ICFGR + 8, 4), 0xaaaa_0000);
}

#[test]
fn sgis_have_no_input_and_their_pending_bits_are_read_only() {
    let mut vgic = vgic(2, 64);
    assert_eq!(vgic.set_level(0, 5, true), Err(Invalid::Interrupt));
    assert_eq!(vgic.set_level(7, 20, true), Err(Invalid::Interrupt), "no such vCPU");
    let _ = vgic.dist_write(0, gicd::ISPENDR, 4, 0xffff);
    assert_eq!(vgic.dist_read(0, gicd::ISPENDR, 4), 0);
    let _ = vgic.dist_write(0, gicd::SGIR, 4, 0x0200_0003);
    assert_eq!(vgic.dist_read(0, gicd::ISPENDR, 4), 8);
    let _ = vgic.dist_write(0, gicd::ICPENDR, 4, 8);
    assert_eq!(vgic.dist_read(0, gicd::ISPENDR, 4), 8);
}

#[test]
fn sgi_sources_are_kept_set_and_cleared_each_for_itself() {
    let mut vgic = vgic(4, 64);
    let _ = vgic.dist_write(0, gicd::CTLR, 4, 1);
    assert_eq!(vgic.dist_write(1, gicd::SGIR, 4, 0x000c_0002), Kicks::one(2) | Kicks::one(3));
    assert_eq!(vgic.dist_write(3, gicd::SGIR, 4, 0x0100_0002), Kicks::one(0) | Kicks::one(1) | Kicks::one(2));
    assert_eq!(vgic.dist_write(3, gicd::SGIR, 4, 0x0100_0002), Kicks::NONE, "already pending");
    assert_eq!(vgic.dist_read(2, gicd::SPENDSGIR, 4), 0x000a_0000);
    assert_eq!(vgic.dist_read(3, gicd::CPENDSGIR + 2, 1), 0x02);
    let _ = vgic.dist_write(2, gicd::CPENDSGIR + 2, 1, 0x08);
    let _ = vgic.dist_write(2, gicd::SPENDSGIR + 2, 1, 0xf4);
    assert_eq!(vgic.dist_read(2, gicd::SPENDSGIR, 4), 0x0006_0000, "the VM has four vCPUs");
}

#[test]
fn pending_is_latch_or_line() {
    let (mut vgic, _) = ready();
    let pending = |vgic: &Vgic<_>| vgic.dist_read(0, gicd::ISPENDR + 4, 4);
    assert_eq!(vgic.set_level(0, 40, true), Ok(Kicks::one(1)));
    let _ = vgic.dist_write(0, gicd::ICPENDR + 4, 4, 0x100);
    assert_eq!(pending(&vgic), 0x100, "the line is still high");
    assert_eq!(vgic.dist_write(0, gicd::ISPENDR + 4, 4, 0x100), Kicks::one(1));
    assert_eq!(vgic.set_level(0, 40, false), Ok(Kicks::one(1)));
    assert_eq!(pending(&vgic), 0x100, "the latch stays");
    let _ = vgic.dist_write(0, gicd::ICPENDR + 4, 4, 0x100);
    assert_eq!(pending(&vgic), 0);
    let _ = vgic.dist_write(0, gicd::ICFGR + 8, 4, 2 << 16);
    assert_eq!(vgic.set_level(0, 40, true), Ok(Kicks::one(1)));
    assert_eq!(vgic.set_level(0, 40, false), Ok(Kicks::NONE));
    assert_eq!(pending(&vgic), 0x100, "an edge is remembered");
    assert_eq!(vgic.set_level(0, 40, true), Ok(Kicks::NONE), "and counts once until acknowledged");
    let _ = vgic.dist_write(0, gicd::ICPENDR + 4, 4, 0x100);
    assert_eq!(pending(&vgic), 0);
}

#[test]
fn waking_needs_enable_distributor_group_and_mask() {
    let (mut vgic, mut interface) = ready();
    let _ = stay(&mut vgic, 0, &mut interface, |_| ());
    let _ = vgic.dist_write(0, gicd::IPRIORITYR + 41, 1, 0x80);
    assert!(!vgic.has_deliverable(0, interface.vmcr));
    let _ = vgic.set_level(0, 41, true);
    assert!(vgic.has_deliverable(0, interface.vmcr));
    for (offset, off, on) in [
        (gicd::CTLR, 0, 1),
        (gicd::CTLR, 2, 1),
        (gicd::IPRIORITYR + 40, 0xf800, 0x8000),
        (gicd::ITARGETSR + 40, 0x0202, 0x0102),
        (gicd::IGROUPR + 4, 0x200, 0),
    ] {
        let _ = vgic.dist_write(0, offset, 4, off);
        assert!(!vgic.has_deliverable(0, interface.vmcr), "{offset:#x}");
        let _ = vgic.dist_write(0, offset, 4, on);
        assert!(vgic.has_deliverable(0, interface.vmcr), "{offset:#x}");
    }
    for vmcr in [0x1f << 27, 0x10 << 27 | 1, 0x1f << 27 | 2] {
        assert!(!vgic.has_deliverable(0, vmcr), "{vmcr:#x}");
    }
    let _ = stay(&mut vgic, 0, &mut interface, |_| ());
    let _ = vgic.dist_write(0, gicd::ICENABLER + 4, 4, 0x200);
    assert!(!vgic.has_deliverable(0, interface.vmcr));
}

#[test]
fn nothing_to_do_costs_nothing() {
    let (mut vgic, mut interface) = ready();
    vgic.enter(0, &mut interface);
    assert_eq!((interface.used, interface.hcr), (0, gich::HCR_EN));
}

#[test]
fn a_level_interrupt_asks_for_notice_and_is_reported_when_ended_if_somebody_resamples_it() {
    for resampled in [false, true] {
        a_level_interrupt_ends(resampled);
    }
}

fn a_level_interrupt_ends(resampled: bool) {
    let (mut vgic, mut interface) = ready();
    if resampled {
        vgic.resampled().insert(41);
    }
    let _ = vgic.set_level(0, 41, true);
    let exit = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [ListRegister::new(41, 0).with_pending(true).with_eoi_notice()]);
        lr[0] = lr[0].with_pending(false).with_active(true);
    });
    assert_eq!((exit.kicks, exit.ended().count()), (Kicks::NONE, 0));
    assert_eq!(vgic.dist_read(0, gicd::ISACTIVER + 4, 4), 0x200);
    assert!(!vgic.has_deliverable(0, interface.vmcr), "active: not again");
    let exit = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [ListRegister::new(41, 0).with_active(true).with_eoi_notice()], "never pending and active");
        lr[0] = lr[0].with_active(false);
    });
    assert!(exit.ended().eq(resampled.then_some(41)));
    assert_eq!(vgic.has_deliverable(0, interface.vmcr), !resampled, "else the line is still high");
}

#[test]
fn orders_from_outside_reach_a_loaded_interrupt() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.dist_write(0, gicd::ICFGR + 8, 4, 2 << 18);
    // Cleared while it waits in vCPU 0's list register.
    let _ = vgic.set_level(0, 41, true);
    vgic.enter(0, &mut interface);
    assert_eq!(vgic.dist_read(1, gicd::ISPENDR + 4, 4), 0x200, "still reads as pending");
    assert_eq!(vgic.dist_write(1, gicd::ICPENDR + 4, 4, 0x200), Kicks::one(0));
    let _ = vgic.exit(0, &interface);
    assert!(!vgic.has_deliverable(0, interface.vmcr));
    // Made active, then inactive again.
    let _ = vgic.set_level(0, 41, true);
    vgic.enter(0, &mut interface);
    assert_eq!(vgic.dist_write(1, gicd::ISACTIVER + 4, 4, 0x200), Kicks::one(0));
    assert_eq!(vgic.dist_read(1, gicd::ISACTIVER + 4, 4), 0x200);
    let _ = vgic.exit(0, &interface);
    assert_eq!(vgic.dist_read(1, gicd::ISACTIVER + 4, 4), 0x200);
    vgic.enter(0, &mut interface);
    assert_eq!(vgic.deactivate(1, 41).kicks, Kicks::one(0));
    let _ = vgic.exit(0, &interface);
    assert_eq!(vgic.dist_read(1, gicd::ICACTIVER + 4, 4), 0);
    assert!(vgic.has_deliverable(0, interface.vmcr), "still pending");
    // Sent elsewhere: the new target must look.
    vgic.enter(0, &mut interface);
    assert_eq!(vgic.dist_write(1, gicd::ITARGETSR + 41, 1, 2), Kicks::one(0));
    assert_eq!(vgic.exit(0, &interface).kicks, Kicks::one(1));
}

#[test]
fn active_and_pending_of_spis_need_the_others_out() {
    let needs = Vgic::<Vec<Interrupt>>::needs_others_out;
    for base in [gicd::ISPENDR, gicd::ICPENDR, gicd::ISACTIVER, gicd::ICACTIVER] {
        assert!(!needs(base) && needs(base + 4) && needs(base + 124));
    }
    assert!(!needs(gicd::ISENABLER + 4) && !needs(gicd::IPRIORITYR + 32) && !needs(gicd::CTLR));
}

#[test]
fn two_senders_of_one_sgi_follow_each_other() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.dist_write(0, gicd::SGIR, 4, 0x0001_0006);
    let _ = vgic.dist_write(1, gicd::SGIR, 4, 0x0001_0006);
    let first = ListRegister::new(6, 0).with_pending(true).with_source(0).with_eoi_notice();
    let _ = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [first]);
        lr[0] = lr[0].with_pending(false).with_active(true);
    });
    let _ = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [first.with_pending(false).with_active(true)], "the second waits for the end of the first");
        lr[0] = lr[0].with_active(false);
    });
    let _ = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [ListRegister::new(6, 0).with_pending(true).with_source(1)], "the last needs no notice");
        lr[0] = ListRegister::EMPTY;
    });
    assert_eq!(vgic.dist_read(0, gicd::SPENDSGIR + 6, 1), 0);
}

#[test]
fn the_timer_is_tied_to_hardware() {
    let (mut vgic, mut interface) = ready();
    assert_eq!(vgic.map_hw(0, 15, 27), Err(Invalid::Interrupt));
    assert_eq!(vgic.map_hw(0, 32, 27), Err(Invalid::Interrupt));
    assert_eq!(vgic.map_hw(0, 27, 1020), Err(Invalid::Interrupt));
    assert_eq!(vgic.map_hw(2, 27, 27), Err(Invalid::Vcpu));
    assert_eq!(vgic.map_hw(0, 27, 30), Ok(()));
    assert!(!vgic.hw_active(0, 27));
    assert_eq!(vgic.set_level(0, 27, true), Ok(Kicks::NONE), "not enabled yet");
    assert!(vgic.hw_active(0, 27), "and yet the host must not be bothered by it again");
    assert_eq!(vgic.dist_write(0, gicd::ISENABLER, 4, 1 << 27), Kicks::one(0));
    let _ = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [ListRegister::new(27, 0).with_pending(true).with_hardware(30)]);
        lr[0] = lr[0].with_pending(false).with_active(true);
    });
    let _ = vgic.set_level(0, 27, false);
    assert!(vgic.hw_active(0, 27), "its handler runs");
    let exit = stay(&mut vgic, 0, &mut interface, |lr| lr[0] = lr[0].with_active(false));
    assert_eq!(exit.ended().count(), 0);
    assert!(!vgic.hw_active(0, 27));
    assert_eq!(vgic.unmap_hw(0, 27), Ok(()));
    let _ = vgic.set_level(0, 27, true);
    assert!(!vgic.hw_active(0, 27));
}

#[test]
fn what_is_active_stays_when_the_distributor_is_turned_off() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.set_level(0, 41, true);
    let _ = stay(&mut vgic, 0, &mut interface, |lr| lr[0] = lr[0].with_pending(false).with_active(true));
    vgic.enter(0, &mut interface);
    assert_eq!(vgic.dist_write(1, gicd::CTLR, 4, 0), Kicks::one(0), "who runs with it must come out");
    let _ = vgic.exit(0, &interface);
    let _ = vgic.dist_write(0, gicd::SGIR, 4, 0x0001_0006);
    vgic.enter(0, &mut interface);
    assert_eq!(interface.used, 1);
    assert!(interface.lr[0].active() && interface.lr[0].intid() == 41);
    let _ = vgic.exit(0, &interface);
    assert_eq!(vgic.dist_write(0, gicd::CTLR, 4, 1), Kicks::one(0));
}

#[test]
fn entering_twice_loses_nothing() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.dist_write(0, gicd::SGIR, 4, 0x0001_0006);
    let _ = vgic.set_level(0, 41, true);
    vgic.enter(0, &mut interface);
    let first = interface;
    vgic.enter(0, &mut interface);
    assert_eq!(interface, first);
}

#[test]
fn the_innermost_handlers_keep_their_list_registers() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.dist_write(0, gicd::ISENABLER + 4, 4, u32::MAX);
    for intid in 48..54 {
        let _ = vgic.dist_write(0, gicd::ITARGETSR + intid, 1, 1);
        let _ = vgic.dist_write(0, gicd::IPRIORITYR + intid, 1, (60 - intid) << 3);
        let _ = vgic.set_level(0, intid, true);
        let _ = stay(&mut vgic, 0, &mut interface, |lr| {
            let last = lr.iter_mut().find(|lr| lr.pending()).expect("the new one is loaded");
            *last = last.with_pending(false).with_active(true);
        });
    }
    vgic.enter(0, &mut interface);
    assert_eq!(interface.lr[..interface.used].iter().map(|lr| lr.intid()).collect::<Vec<_>>(), [53, 52, 51, 50]);
    assert_eq!(interface.hcr, gich::HCR_EN | gich::HCR_LRENPIE);
}

#[test]
fn what_waits_for_another_vcpu_behind_a_handler_gives_notice() {
    let (mut vgic, mut interface) = ready();
    let _ = vgic.dist_write(0, gicd::ICFGR + 8, 4, 2 << 18);
    let _ = vgic.set_level(0, 41, true);
    let _ = stay(&mut vgic, 0, &mut interface, |lr| lr[0] = lr[0].with_pending(false).with_active(true));
    let _ = vgic.set_level(0, 41, true);
    let _ = vgic.dist_write(0, gicd::ITARGETSR + 41, 1, 2);
    let exit = stay(&mut vgic, 0, &mut interface, |lr| {
        assert_eq!(lr, [ListRegister::new(41, 0).with_active(true).with_eoi_notice()]);
        lr[0] = lr[0].with_active(false);
    });
    assert_eq!((exit.kicks, exit.ended().count()), (Kicks::one(1), 0));
}

#[test]
fn an_order_counts_whatever_has_become_of_a_loaded_interrupt() {
    let (mut vgic, mut interface) = ready();
    let active = |vgic: &Vgic<_>| vgic.dist_read(0, gicd::ISACTIVER + 4, 4);
    let _ = vgic.set_level(0, 41, true);
    // Taken by the guest, which the vGIC does not know yet.
    vgic.enter(0, &mut interface);
    interface.lr[0] = interface.lr[0].with_pending(false).with_active(true);
    assert_eq!(vgic.dist_write(1, gicd::ICACTIVER + 4, 4, 0x200), Kicks::one(0));
    let _ = vgic.exit(0, &interface);
    assert_eq!(active(&vgic), 0);
    // Ended by the guest, likewise.
    let _ = stay(&mut vgic, 0, &mut interface, |lr| lr[0] = lr[0].with_pending(false).with_active(true));
    vgic.enter(0, &mut interface);
    interface.lr[0] = interface.lr[0].with_active(false);
    assert_eq!(vgic.dist_write(1, gicd::ISACTIVER + 4, 4, 0x200), Kicks::one(0));
    let _ = vgic.exit(0, &interface);
    assert_eq!(active(&vgic), 0x200);
}
