// SPDX-License-Identifier: GPL-2.0-only
//! Tracepoints that scripts know: that all are there with their fields, and those that come of more than a guest that runs: eventfds, the
//! timer that is emulated, a poll that catches the end of a wait, and what the host asks when it looks for memory that nobody uses.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::mman::MmapAdvise;

use crate::Case;
use crate::code::Program;
use crate::doorbells::{eventfd, told};
use crate::irqchip::{SPI, enable, take};
use crate::irqfd;
use crate::machine::{DEVICE, Machine, RAM, Vcpu};
use crate::memory_map::PAGE;
use crate::observed::{Parameters, TRACING, Trace, read, run_with_trace, set_virtual_timer, short_waits};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("KVM's tracepoints are there, and have KVM's fields", fields),
    Case::of("both timers are traced at entries and exits, the physical one as it is emulated", timers),
    Case::of("an interrupt by an eventfd is traced, and the end of one that tells of it", eventfds),
    Case::of("a wait that is over while the vCPU polls is traced as a poll", polled),
    Case::of(
        "the host's looking for unused memory is traced, and the guest's next access to it, if paging out looks",
        aged,
    ),
];

/// Each tracepoint of KVM on 32-bit Arm (Linux 5.6), and its fields in their order.
const TRACEPOINTS: [(&str, &[&str]); 28] = [
    ("kvm_entry", &["vcpu_pc"]),
    ("kvm_exit", &["ret", "esr_ec", "vcpu_pc"]),
    ("kvm_guest_fault", &["vcpu_pc", "hsr", "hxfar", "ipa"]),
    ("kvm_access_fault", &["ipa"]),
    ("kvm_irq_line", &["type", "vcpu_idx", "irq_num", "level"]),
    ("kvm_mmio_emulate", &["vcpu_pc", "instr", "cpsr"]),
    ("kvm_unmap_hva_range", &["start", "end"]),
    ("kvm_set_spte_hva", &["hva"]),
    ("kvm_age_hva", &["start", "end"]),
    ("kvm_test_age_hva", &["hva"]),
    ("kvm_set_way_flush", &["vcpu_pc", "cache"]),
    ("kvm_toggle_cache", &["vcpu_pc", "was", "now"]),
    ("kvm_timer_update_irq", &["vcpu_id", "irq", "level"]),
    ("kvm_get_timer_map", &["vcpu_id", "direct_vtimer", "direct_ptimer", "emul_ptimer"]),
    ("kvm_timer_save_state", &["ctl", "cval", "timer_idx"]),
    ("kvm_timer_restore_state", &["ctl", "cval", "timer_idx"]),
    ("kvm_timer_hrtimer_expire", &["timer_idx"]),
    ("kvm_timer_emulate", &["timer_idx", "should_fire"]),
    ("kvm_emulate_cp15_imp", &["Op1", "Rt1", "CRn", "CRm", "Op2", "is_write"]),
    ("kvm_wfx", &["vcpu_pc", "is_wfe"]),
    ("kvm_hvc", &["vcpu_pc", "r0", "imm"]),
    ("vgic_update_irq_pending", &["vcpu_id", "irq", "level"]),
    ("kvm_mmio", &["type", "len", "gpa", "val"]),
    ("kvm_userspace_exit", &["reason", "errno"]),
    ("kvm_vcpu_wakeup", &["ns", "waited", "valid"]),
    ("kvm_halt_poll_ns", &["grow", "vcpu_id", "new", "old"]),
    ("kvm_set_irq", &["gsi", "level", "irq_source_id"]),
    ("kvm_ack_irq", &["irqchip", "pin"]),
];

fn fields() -> Verdict {
    for (name, expected) in TRACEPOINTS {
        let format = read(Path::new(TRACING).join("events/kvm").join(name).join("format"))?;
        // field:TYPE NAME; offset:... - after those that all events have.
        let declared = format.lines().filter_map(|line| line.trim().strip_prefix("field:")?.split(';').next());
        let names = declared.filter_map(|declaration| declaration.split_whitespace().last());
        let own: Vec<&str> = names.filter(|field| !field.starts_with("common_")).collect();
        equal(own.as_slice(), expected, format_args!("the fields of {name}"))?;
    }
    Ok(())
}

/// Looks again and again until something is so, for some seconds.
fn at_last(look: impl Fn() -> Verdict) -> Verdict {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = look();
        if seen.is_ok() || Instant::now() > end {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn timers() -> Verdict {
    let mut program = Program::new();
    set_virtual_timer(&mut program, i32::MAX as u32);
    program.set(0, 0).mcr(0, 14, 2, 0).set(0, 1).mcr(0, 14, 2, 1); // CNTP_TVAL, CNTP_CTL: due at once
    program.set(1, DEVICE).str(1, 1, 0).power_off();
    let events = [
        "kvm_timer_emulate",
        "kvm_timer_save_state",
        "kvm_timer_restore_state",
        "kvm_timer_update_irq",
        "vgic_update_irq_pending",
    ];
    let (machine, vcpu, trace) = run_with_trace(&program, &events)?;
    let _gic = machine.gic()?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    vcpu.expect_off()?;
    trace.shows(&[
        "kvm_timer_restore_state: CTL: 0x000000 CVAL: ".into(),
        "kvm_timer_emulate: arch_timer_ctx_index: 0 (should_fire: 0)".into(),
        "kvm_timer_save_state:    CTL: 0x000001 CVAL: ".into(),
        "kvm_timer_update_irq: VCPU: 0, IRQ 30, level 1".into(),
        "vgic_update_irq_pending: VCPU: 0, IRQ 30, level: 1".into(),
        "kvm_timer_restore_state: CTL: 0x000001 CVAL: ".into(),
        "kvm_timer_emulate: arch_timer_ctx_index: 0 (should_fire: 1)".into(),
    ])?;
    let lines = trace.lines()?;
    let is_virtual = |line: &String| line.ends_with("arch_timer_ctx_index: 1");
    let mut states = lines.iter().filter(|line| line.contains("CVAL:"));
    holds(states.all(is_virtual), format_args!("only the virtual timer is in the hardware: {}", lines.join(" | ")))
}

fn eventfds() -> Verdict {
    let mut program = Program::new();
    enable(&mut program);
    program.str(6, 6, 4);
    take(&mut program);
    program.power_off();
    let (machine, vcpu, trace) = run_with_trace(&program, &["kvm_set_irq", "kvm_ack_irq"])?;
    let _gic = machine.gic()?;
    vcpu.expect_write(DEVICE + 4, 4, DEVICE)?;
    let gsi = SPI - 32;
    let (event, end, plain) = (eventfd(0)?, eventfd(0)?, eventfd(0)?);
    irqfd::assign_resampling(&machine.vm, &event, gsi, &end).succeeds("KVM_IRQFD")?;
    irqfd::assign(&machine.vm, &plain, gsi + 1).succeeds("KVM_IRQFD")?;
    event.write(1).succeeds("writing to an eventfd")?;
    vcpu.expect_write(DEVICE, 4, SPI)?;
    vcpu.expect_off()?;
    equal(told(&end)?, 1, "what was told at the end")?;
    plain.write(1).succeeds("writing to an eventfd")?;
    // Who interrupts need not be the one that writes.
    let expected = [
        format!("kvm_set_irq: gsi {gsi} level 1 source "),
        format!("kvm_ack_irq: irqchip 0 pin {gsi}"),
        format!("kvm_set_irq: gsi {gsi} level 0 source "),
        format!("kvm_set_irq: gsi {} level 1 source ", gsi + 1),
        format!("kvm_set_irq: gsi {} level 0 source ", gsi + 1),
    ];
    at_last(|| trace.shows(&expected))?;
    let ends = trace.lines()?.iter().filter(|line| line.starts_with("kvm_ack_irq")).count();
    equal(ends, 1, "ends that are traced")
}

fn polled() -> Verdict {
    let machine = Machine::new(&short_waits())?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let _always = Parameters::set(&[("halt_poll_ns", u32::MAX), ("halt_poll_ns_grow_start", u32::MAX)])?;
    let trace = Trace::of(&["kvm_vcpu_wakeup"])?;
    let running = vcpu.start();
    let shown = at_last(|| trace.shows(&["kvm_vcpu_wakeup: poll time ".into()]));
    let lines = trace.lines();
    running.stop()?;
    shown?;
    let lines = lines?;
    let valid = lines.iter().filter(|line| line.contains("poll time ")).all(|line| line.ends_with(", polling valid"));
    holds(valid, format_args!("an interrupt ended each poll: {}", lines.join(" | ")))
}

/// A guest that reads the first word of a page each time that it is let, and tells it.
fn reader(page: u32) -> Program {
    let mut program = Program::new();
    program.set(1, page).set(2, DEVICE);
    let top = program.label();
    program.ldr(0, 1, 0).str(0, 2, 0).branch(top);
    program
}

/// Whether paging out (MADV_PAGEOUT) first looks whether the memory is used, as Linux did before 6.9.
fn paging_out_looks() -> Result<bool, Failure> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) < (Some(6), Some(9)))
}

fn aged() -> Verdict {
    const AT: usize = 4 * PAGE;
    if !paging_out_looks()? {
        return Ok(()); // and nothing else makes the host look at once
    }
    let (machine, vcpu, trace): (Machine, Arc<Vcpu>, Trace) =
        run_with_trace(&reader(RAM + AT as u32), &["kvm_age_hva", "kvm_access_fault"])?;
    machine.ram.write(AT, 77);
    vcpu.expect_write(DEVICE, 4, 77)?;
    let (start, end) = (machine.ram.address(AT), machine.ram.address(AT + PAGE));
    let expected = [
        format!("kvm_age_hva: mmu notifier age hva: {start:#010x} -- {end:#010x}"),
        format!("kvm_access_fault: IPA: {:x}", RAM as usize + AT),
    ];
    // The kernel passes over pages that are on their way to its lists.
    at_last(|| {
        machine.ram.advise(AT..AT + PAGE, MmapAdvise::MADV_PAGEOUT).succeeds("MADV_PAGEOUT")?;
        vcpu.expect_write(DEVICE, 4, 77)?;
        trace.shows(&expected)
    })
}
