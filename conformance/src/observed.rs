// SPDX-License-Identifier: GPL-2.0-only
//! What can be seen of guests from outside: statistics in debugfs, and tracepoints.
//!
//! Both are looked at as tools do: by the names of files and events, and by the text of a trace. Statistics that KVM/ARM did not have
//! are looked at only where they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::{LOW, Program, SCTLR_MMU_AND_CACHES, SECTION};
use crate::machine::{CPSR, DEVICE, GICC, GICD, Machine, PC, RAM, Vcpu, r, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};
use std::sync::Arc;
use std::time::Duration;

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a VM has a folder of statistics in debugfs for as long as it lives", folders),
    Case::of("statistics count exits by their kind, for the VM and in the sum", counts),
    Case::of(
        "instructions are read where the syndrome does not describe them, or is not to be believed",
        instructions_read,
    ),
    Case::of("a wait that a signal ends counts as WFI and as no wake-up", waits),
    Case::of("a vCPU polls before it sleeps as the parameters say", polls),
    Case::of("a vCPU whose waits are short rests in its guest, unless the parameter says that it does not", rests),
    Case::of("time in a guest is guest time of its thread, as tools show it", guest_time),
    Case::of("0 written to a statistic clears it, anything else is refused (EINVAL)", cleared),
    Case::of("entries, exits, faults, hypercalls, devices and returns are traced", traced),
    Case::of("every event can be watched by itself", each_event),
    Case::of("cache maintenance by set and way, and caches switched on, are traced", traced_caches),
    Case::of("interrupt lines, timers and waits are traced", traced_interrupts),
    Case::of("changes of the process's memory are traced", traced_memory),
];

/// KVM's folder.
const STATISTICS: &str = "/sys/kernel/debug/kvm";
/// What KVM/ARM has there.
const KVMS: [&str; 11] = [
    "hvc_exit_stat",
    "wfe_exit_stat",
    "wfi_exit_stat",
    "mmio_exit_user",
    "mmio_exit_kernel",
    "exits",
    "halt_successful_poll",
    "halt_attempted_poll",
    "halt_poll_invalid",
    "halt_wakeup",
    "remote_tlb_flush",
];

/// The text of a file of the kernel's.
pub fn read(path: impl AsRef<Path>) -> Result<String, Failure> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn write(path: impl AsRef<Path>, text: &str) -> Verdict {
    let path = path.as_ref();
    fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// The figures in a folder.
fn figures(folder: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    let figure = |path: PathBuf| {
        let text = read(&path)?;
        let value = text.trim().parse().map_err(|_| Failure::new(format!("{}: {text:?}", path.display())))?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), value))
    };
    files.map(figure).collect()
}

fn folder(machine: &Machine) -> PathBuf {
    Path::new(STATISTICS).join(format!("{}-{}", std::process::id(), machine.vm.number()))
}

/// This process's folders.
fn own_folders() -> usize {
    let own = format!("{}-", std::process::id());
    let folders = fs::read_dir(STATISTICS).into_iter().flatten().flatten();
    folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&own)).count()
}

fn folders() -> Verdict {
    let machine = Machine::new(&Program::new())?;
    let figures = figures(&folder(&machine))?;
    for name in KVMS {
        holds(figures.contains_key(name), format_args!("{name} is among {figures:?}"))?;
        holds(Path::new(STATISTICS).join(name).exists(), format_args!("{name} is in {STATISTICS}"))?;
    }
    holds(figures.values().all(|figure| *figure == 0), format_args!("a new VM's figures are zero: {figures:?}"))?;
    let vcpu = machine.vcpu(0)?;
    let Machine { kvm, vm, ram: _ram } = machine;
    drop(vm);
    equal(own_folders(), 1, "folders while a vCPU is open")?;
    // The descriptor's number is free again, and so is not the name.
    let second = kvm.create(KVM_CREATE_VM, 0).succeeds("KVM_CREATE_VM")?;
    equal(own_folders(), 1, "folders of two VMs of the same name")?;
    drop((vcpu, second));
    equal(own_folders(), 0, "folders when nothing is open")
}

/// A guest of each kind of exit, and how often it makes each.
fn busy_guest() -> Program {
    let mut program = Program::new();
    program.call(psci::PSCI_FEATURES).call(psci::AFFINITY_INFO).call(psci::PSCI_VERSION);
    program.set(1, DEVICE).str(1, 1, 0).ldr(2, 1, 0).set(1, GICD).ldr(2, 1, 8).power_off();
    program
}

fn run_busy_guest(machine: &Machine) -> Verdict {
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    vcpu.expect_read(DEVICE, 4, 0x55)?;
    vcpu.expect_off()
}

fn counts() -> Verdict {
    let machine = Machine::new(&busy_guest())?;
    let before = figures(Path::new(STATISTICS))?;
    run_busy_guest(&machine)?;
    let own = figures(&folder(&machine))?;
    let of = |name: &str| own.get(name).copied().unwrap_or(0);
    equal(of("mmio_exit_user"), 2, "mmio_exit_user")?;
    equal(of("mmio_exit_kernel"), 1, "mmio_exit_kernel")?;
    // Some are answered in Hyp mode and are no exits.
    equal(of("hvc_exit_stat") + of("hyp_answers"), 4, "hypercalls")?;
    holds(of("hvc_exit_stat") >= 2, format_args!("AFFINITY_INFO and SYSTEM_OFF are exits: {own:?}"))?;
    let kinds = of("hvc_exit_stat") + 3 + of("irq_exits");
    holds(of("exits") > kinds, format_args!("exits are these and at least one fault: {own:?}"))?;
    equal(of("wfi_exit_stat") + of("wfe_exit_stat") + of("halt_wakeup"), 0, "waits")?;
    let after = figures(Path::new(STATISTICS))?;
    let own_is_in_sum = own.iter().all(|(name, own)| after.get(name) >= Some(own));
    holds(own_is_in_sum, format_args!("the sum {after:?} has {own:?} in it"))?;
    let grew = |name: &str| after.get(name).unwrap_or(&0).saturating_sub(*before.get(name).unwrap_or(&0));
    holds(grew("mmio_exit_user") >= 2, "the sum has grown by them")
}

/// Cortex-A15 r0p4, whose syndrome may name the wrong register for a Thumb store (erratum 766422).
const CORTEX_A15_R0P4: u64 = 0x410f_c0f4;

fn instructions_read() -> Verdict {
    for (code, thumb, name) in [
        (0xe581_2000, false, "str r2, [r1]"),
        (0x0000_600a, true, "str r2, [r1] in Thumb state"),
        (0xe4c1_2001, false, "strb r2, [r1], #1"),
    ] {
        let machine = Machine::new(&Program::new())?;
        machine.ram.write(0, code);
        let vcpu = machine.vcpu(0)?;
        let midr = vcpu.fd.register(cp15_32(0, 0, 0, 0)).succeeds("MIDR")?;
        let state = if thumb { 0x1f3 } else { 0x1d3 };
        for (id, value) in [(r(1), DEVICE.into()), (r(2), 0x22), (CPSR, state)] {
            vcpu.fd.set_register(id, value).succeeds("KVM_SET_ONE_REG")?;
        }
        let writes_back = name.starts_with("strb");
        vcpu.expect_write(DEVICE, if writes_back { 1 } else { 4 }, 0x22)?;
        let is_read = writes_back || thumb && midr == CORTEX_A15_R0P4;
        let count = figures(&folder(&machine))?.get("instructions_read").copied();
        equal(count, Some(is_read.into()), format_args!("instructions_read after {name}, MIDR {midr:#x}"))?;
    }
    Ok(())
}

fn waits() -> Verdict {
    let mut program = Program::new();
    program.wfi().power_off();
    let machine = Machine::new(&program)?;
    let running = machine.vcpu(0)?.start();
    let wfi = folder(&machine).join("wfi_exit_stat");
    crate::machine::await_that(|| read(&wfi).is_ok_and(|text| text.trim() == "1")).succeeds("waiting for WFI")?;
    running.stop()?;
    equal(read(folder(&machine).join("halt_wakeup"))?.trim(), "0", "halt_wakeup")
}

/// Where the module has a parameter. The original was a part of the kernel, and KVM's module in name.
fn parameter(name: &str) -> Option<PathBuf> {
    let of = |module| Path::new("/sys/module").join(module).join("parameters").join(name);
    ["worldswitch", "kvm"].map(of).into_iter().find(|path| path.exists())
}

/// Parameters with other values, until dropped.
#[derive(Default)]
pub struct Parameters(Vec<(PathBuf, String)>);

impl Parameters {
    /// Those of the module.
    pub fn set(values: &[(&str, u32)]) -> Result<Self, Failure> {
        let path = |name: &str| parameter(name).ok_or_else(|| Failure::new(format!("no parameter {name}")));
        values.iter().try_fold(Self::default(), |before, (name, value)| before.and(path(name)?, *value))
    }

    /// A file of a number as well.
    pub fn and(mut self, path: PathBuf, value: u32) -> Result<Self, Failure> {
        self.0.push((path.clone(), read(&path)?));
        write(path, &value.to_string())?;
        Ok(self)
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = fs::write(path, value);
        }
    }
}

fn polls() -> Verdict {
    let mut program = Program::new();
    program.wfi().raw(0xeaff_fffd); // b to the instruction before
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let figure = |name: &str| figures(&folder(&machine)).map(|all| all.get(name).copied().unwrap_or(0));
    let wait = || {
        let waits = figure("wfi_exit_stat")?;
        let running = vcpu.start();
        crate::machine::await_that(|| figure("wfi_exit_stat").is_ok_and(|now| now > waits))
            .succeeds("waiting for WFI")?;
        running.stop()
    };
    let trace = Trace::of(&["kvm_halt_poll_ns"])?;
    let always = Parameters::set(&[("halt_poll_ns", u32::MAX), ("halt_poll_ns_grow_start", u32::MAX)])?;
    // The first that is over in four seconds makes a window, which the next one finds.
    for _ in 0..10 {
        wait()?;
    }
    let attempted = figure("halt_attempted_poll")?;
    holds(attempted > 0, "some wait began with a poll")?;
    holds(figure("halt_successful_poll")? <= attempted, "no more than those were successful")?;
    equal(figure("halt_wakeup")?, 0, "wake-ups of a vCPU that only signals reach")?;
    trace.shows(&["kvm_halt_poll_ns: vcpu 0: halt_poll_ns 4294967295 (grow 0)".into()])?;
    let never = Parameters::set(&[("halt_poll_ns", 0)])?;
    wait()?;
    equal(figure("halt_attempted_poll")?, attempted, "polls when nobody may")?;
    drop((never, always));
    Ok(())
}

/// Where a guest of short waits counts them.
const COUNT: usize = 0x800;

/// A guest that waits for its timer again and again, a quarter of a millisecond each time, and counts.
pub fn short_waits() -> Program {
    let mut program = Program::new();
    program.set(4, GICD).set(5, GICC).set(6, RAM + COUNT as u32).set(7, 0).set(8, 0).set(9, 1);
    program.set(1, u32::MAX).str(1, 4, 0x100).str(9, 4, 0); // GICD_ISENABLER0, GICD_CTLR
    program.set(1, 0xff).str(1, 5, 4).str(9, 5, 0); // GICC_PMR, GICC_CTLR
    let again = program.label();
    set_virtual_timer(&mut program, 1 << 14);
    program.isb().wfi().ldr(0, 5, 0xc).mcr(8, 14, 3, 1).isb().str(0, 5, 0x10); // GICC_IAR; CNTV_CTL; GICC_EOIR
    program.add(7, 1).str(7, 6, 0).branch(again);
    program
}

fn rests() -> Verdict {
    const ROUND: u64 = 20;
    if parameter("halt_rest_ns").is_none() {
        return Ok(()); // the original has none, and every WFI exits
    }
    let machine = Machine::new(&short_waits())?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let exits = || figures(&folder(&machine)).map(|all| all.get("wfi_exit_stat").copied().unwrap_or(0));
    // Whether most of a round's waits exit, as they should or should not, in some round: on a busy machine the timer may be due before
    // the guest waits, or another thread want the CPU. This one looks seldom, so that it is not that thread.
    let round = |most: bool| {
        let (mut exited, mut waited) = (0, 0);
        for _ in 0..50 {
            let before = (exits()?, machine.ram.read(COUNT));
            std::thread::sleep(Duration::from_millis(100));
            waited = u64::from(machine.ram.read(COUNT).wrapping_sub(before.1));
            exited = exits()? - before.0;
            if waited >= ROUND && (exited > waited / 2) == most {
                return Ok(());
            }
        }
        Err(Failure::new(format!("in each round most exit: {}; of {waited} in the last, {exited} did", !most)))
    };
    let _polls = Parameters::set(&[("halt_poll_ns", 0)])?;
    let never = Parameters::set(&[("halt_rest_ns", 0)])?;
    let running = vcpu.start();
    round(true)?;
    drop(never);
    let _always = Parameters::set(&[("halt_rest_ns", u32::MAX)])?;
    let few = round(false);
    running.stop()?;
    few
}

/// The ticks that this process's threads have spent in guests (proc(5), /proc/PID/stat, guest_time).
fn guest_ticks() -> Result<u64, Failure> {
    let text = read("/proc/self/stat")?;
    // The name, which comes second, may contain anything.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().nth(43 - 3).and_then(|field| field.parse().ok());
    ticks.ok_or_else(|| Failure::new(format!("/proc/self/stat has no guest_time: {text}")))
}

fn guest_time() -> Verdict {
    let mut program = Program::new();
    program.stay();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    equal(guest_ticks()?, 0, "ticks in a guest, before there is one")?;
    let running = vcpu.start();
    let counts = crate::machine::await_that(|| guest_ticks().is_ok_and(|ticks| ticks >= 5));
    running.stop()?;
    counts.succeeds("waiting for ticks to count as the guest's")
}

fn cleared() -> Verdict {
    let machine = Machine::new(&busy_guest())?;
    run_busy_guest(&machine)?;
    let folder = folder(&machine);
    let of_file = |name: &str| read(folder.join(name)).map(|text| text.trim().to_owned());
    for text in ["1", "-1", "x"] {
        let refused = fs::write(folder.join("mmio_exit_user"), text).err().and_then(|error| error.raw_os_error());
        equal(refused, Some(Errno::EINVAL as i32), format_args!("writing {text}"))?;
    }
    equal(of_file("mmio_exit_user")?, "2".into(), "what was not cleared")?;
    write(folder.join("mmio_exit_user"), "0")?;
    equal(of_file("mmio_exit_user")?, "0".into(), "what was cleared")?;
    equal(of_file("mmio_exit_kernel")?, "1".into(), "another figure")?;
    // For all VMs at once.
    write(Path::new(STATISTICS).join("mmio_exit_kernel"), "0")?;
    equal(of_file("mmio_exit_kernel")?, "0".into(), "what was cleared for all")
}

/// A trace of this process's own, which ends with it.
pub struct Trace(PathBuf);

/// Where traces are.
pub const TRACING: &str = "/sys/kernel/tracing";

impl Trace {
    /// Watches these events of KVM's.
    pub fn of(events: &[&str]) -> Result<Self, Failure> {
        let at = Path::new(TRACING).join(format!("instances/conformance-{}", std::process::id()));
        fs::create_dir(&at).map_err(|error| Failure::new(format!("{}: {error}", at.display())))?;
        let trace = Self(at);
        events.iter().try_for_each(|event| trace.watch(event, true))?;
        Ok(trace)
    }

    fn watch(&self, event: &str, on: bool) -> Verdict {
        write(self.0.join("events/kvm").join(event).join("enable"), if on { "1" } else { "0" })
    }

    /// The lines of these events, from the event's name on.
    pub fn lines(&self) -> Result<Vec<String>, Failure> {
        let text = read(self.0.join("trace"))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // TASK-PID [CPU] FLAGS TIME: EVENT: FIELDS
        Ok(lines.filter_map(|line| Some(line.split_once(": ")?.1.to_owned())).collect())
    }

    /// One of the lines begins with each of these, in this order.
    pub fn shows(&self, expected: &[String]) -> Verdict {
        let lines = self.lines()?;
        let mut rest = lines.iter();
        for start in expected {
            let found = rest.any(|line| line.starts_with(start.as_str()));
            holds(found, format_args!("{start:?} follows in the trace: {}", lines.join(" | ")))?;
        }
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

fn traced() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).str(1, 1, 0).ldr(2, 1, 4).call(psci::PSCI_VERSION);
    program.set(1, GICD).raw(0xe1c1_20d0).power_off(); // LDRD, which no syndrome describes
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let events =
        ["kvm_entry", "kvm_exit", "kvm_guest_fault", "kvm_mmio", "kvm_hvc", "kvm_mmio_emulate", "kvm_userspace_exit"];
    let trace = Trace::of(&events)?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    vcpu.expect_read(DEVICE + 4, 4, 0x55)?;
    vcpu.expect_off()?;
    let at = |word: u32| RAM + 4 * word;
    trace.shows(&[
        format!("kvm_entry: PC: {RAM:#010x}"),
        format!("kvm_exit: HVC: HSR_EC: 0x0020 (IABT), PC: {RAM:#010x}"),
        format!("kvm_guest_fault: ipa {RAM:#x}, hsr 0x8"),
        format!("kvm_entry: PC: {RAM:#010x}"),
        format!("kvm_exit: HVC: HSR_EC: 0x0024 (DABT), PC: {:#010x}", at(2)),
        format!("kvm_guest_fault: ipa {DEVICE:#x}, hsr 0x93"),
        format!("kvm_mmio: mmio write len 4 gpa {DEVICE:#x} val {DEVICE:#x}"),
        "kvm_userspace_exit: reason KVM_EXIT_MMIO (6)".into(),
        format!("kvm_mmio: mmio unsatisfied-read len 4 gpa {:#x} val 0x0", DEVICE + 4),
        format!("kvm_mmio: mmio read len 4 gpa {:#x} val 0x55", DEVICE + 4),
        format!("kvm_exit: HVC: HSR_EC: 0x0012 (HVC), PC: {:#010x}", at(7)),
        format!("kvm_hvc: HVC at {:#010x} (r0: 0x84000000, imm: 0x0)", at(7)),
        format!("kvm_entry: PC: {:#010x}", at(7)),
        format!("kvm_mmio_emulate: Emulate MMIO at: {:#010x} (instr: e1c120d0, cpsr: ", at(9)),
        format!("kvm_mmio: mmio read len 4 gpa {GICD:#x} val 0x"),
        format!("kvm_mmio: mmio read len 4 gpa {:#x} val 0x", GICD + 4),
        "kvm_userspace_exit: reason KVM_EXIT_SYSTEM_EVENT (24)".into(),
    ])
}

fn each_event() -> Verdict {
    let trace = Trace::of(&[])?;
    let events =
        fs::read_dir(trace.0.join("events/kvm")).map_err(|error| Failure::new(format!("events/kvm: {error}")))?;
    let names: Vec<String> = events.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let mut seen = Vec::new();
    for name in names.iter().filter(|name| !["enable", "filter"].contains(&name.as_str())) {
        write(trace.0.join("trace"), "")?;
        trace.watch(name, true)?;
        // Vm and all anew, since some happen when it is made or goes.
        let machine = Machine::new(&busy_guest())?;
        run_busy_guest(&machine)?;
        trace.watch(name, false)?;
        let lines = trace.lines()?;
        // Nothing is told that is not watched.
        let others = lines.iter().find(|line| !line.starts_with(&format!("{name}: ")));
        equal(others, None, format_args!("others while {name} is watched"))?;
        if !lines.is_empty() {
            seen.push(name.clone());
        }
    }
    for name in ["kvm_entry", "kvm_exit", "kvm_guest_fault", "kvm_mmio", "kvm_hvc", "kvm_userspace_exit"] {
        holds(seen.iter().any(|seen| seen == name), format_args!("{name} is among {seen:?}"))?;
    }
    Ok(())
}

fn traced_caches() -> Verdict {
    const TABLE: u32 = 0x400;
    let mut program = Program::new();
    program.mmu_on(LOW + TABLE, SCTLR_MMU_AND_CACHES).set(0, 0).mcr(0, 7, 14, 2).mcr(0, 7, 14, 2).power_off(); // DCCISW
    let (kvm, vm) = Machine::empty()?;
    let ram = Memory::new(PAGE).succeeds("mmap")?;
    ram.put(0, program.words());
    for section in 0..32u32 {
        ram.write((TABLE + section * 4) as usize, section << 20 | SECTION);
    }
    vm.slot(&region(0, LOW.into(), PAGE as u64, ram.address(0))).succeeds("KVM_SET_USER_MEMORY_REGION")?;
    let machine = Machine { kvm, vm, ram: Arc::new(ram) };
    let vcpu = machine.vcpu(0)?;
    vcpu.fd.set_register(PC, LOW.into()).succeeds("writing PC")?;
    let trace = Trace::of(&["kvm_set_way_flush", "kvm_toggle_cache", "kvm_emulate_cp15_imp"])?;
    vcpu.expect_off()?;
    trace.shows(&[
        "kvm_emulate_cp15_imp: Implementation defined CP15: mcr\tp15, 0, r0, c1, c0, 0".into(),
        "kvm_toggle_cache: VM op at 0x000000000010002c (cache was off, now on)".into(),
    ])?;
    // QEMU's Armv7 cores do not trap maintenance by set and way; its Armv8 cores do, and so does all hardware.
    let set_way = "kvm_emulate_cp15_imp: Implementation defined CP15: mcr\tp15, 0, r0, c7, c14, 2";
    let traps = trace.lines()?.iter().any(|line| line.starts_with(set_way));
    let is_armv8 = read("/proc/cpuinfo")?.lines().any(|line| line.starts_with("Features") && line.contains(" crc32"));
    holds(traps || !is_armv8, "an Armv8 core traps maintenance by set and way")?;
    if !traps {
        return Ok(());
    }
    trace.shows(&[
        set_way.into(),
        "kvm_set_way_flush: S/W flush at 0x000000000010003c (cache on)".into(),
        set_way.into(),
    ])?;
    let flushes = trace.lines()?.iter().filter(|line| line.starts_with("kvm_set_way_flush")).count();
    equal(flushes, 1, "flushes for a run of maintenance")
}

/// Sets the virtual timer to so many ticks from now, in r0.
pub fn set_virtual_timer(program: &mut Program, ticks: u32) {
    program.set(0, ticks).mcr(0, 14, 3, 0).set(0, 1).mcr(0, 14, 3, 1);
}

/// A guest that is to run, and a trace that watches these events.
pub fn run_with_trace(program: &Program, events: &[&str]) -> Result<(Machine, Arc<Vcpu>, Trace), Failure> {
    let machine = Machine::new(program)?;
    let vcpu = machine.vcpu(0)?;
    Ok((machine, vcpu, Trace::of(events)?))
}

/// A wait that ends by the host's timer is traced.
fn traced_wait() -> Verdict {
    let mut program = Program::new();
    set_virtual_timer(&mut program, 200_000);
    program.wfi().power_off();
    let waits =
        ["kvm_wfx", "kvm_vcpu_wakeup", "kvm_timer_hrtimer_expire", "kvm_timer_restore_state", "kvm_get_timer_map"];
    let (machine, vcpu, trace) = run_with_trace(&program, &waits)?;
    // Without a GIC, the process is to hear of the timer's level first.
    vcpu.run().fails(Errno::EINTR, "KVM_RUN when the timer is due")?;
    vcpu.expect_off()?;
    trace.shows(&[
        "kvm_get_timer_map: VCPU: 0, dv: 1, dp: -1, ep: 0".into(),
        "kvm_timer_restore_state: CTL: 0x000000 CVAL:".into(),
        format!("kvm_wfx: guest executed wfi at: {:#010x}", RAM + 4 * 6),
        "kvm_timer_hrtimer_expire: arch_timer_ctx_index: ".into(),
        "kvm_vcpu_wakeup: wait time ".into(),
        "kvm_timer_restore_state: CTL: 0x00000".into(),
    ])?;
    drop(machine);
    Ok(())
}

fn traced_interrupts() -> Verdict {
    // On a busy machine the time may have come before the thread could sleep: then the host's timer has nothing to do.
    let mut wait = traced_wait();
    for _ in 0..20 {
        if wait.is_err() {
            wait = traced_wait();
        }
    }
    wait?;

    let mut program = Program::new();
    set_virtual_timer(&mut program, 0);
    program.set(1, DEVICE).str(1, 1, 0).power_off();
    let lines = ["kvm_irq_line", "vgic_update_irq_pending", "kvm_timer_update_irq"];
    let (machine, vcpu, trace) = run_with_trace(&program, &lines)?;
    let _gic = machine.gic()?;
    let spi = IrqLine::Spi { number: 40 }.encode();
    machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq: spi, level: 1 }).succeeds("KVM_IRQ_LINE")?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    trace.shows(&[
        "kvm_irq_line: Inject VGIC SPI interrupt (1), vcpu->idx: 0, num: 40, level: 1".into(),
        "vgic_update_irq_pending: VCPU: 0, IRQ 40, level: 1".into(),
        "kvm_timer_update_irq: VCPU: 0, IRQ 27, level 1".into(),
        "vgic_update_irq_pending: VCPU: 0, IRQ 27, level: 1".into(),
    ])
}

fn traced_memory() -> Verdict {
    let machine = Machine::new(&Program::new())?;
    let trace = Trace::of(&["kvm_unmap_hva_range"])?;
    let start = machine.ram.address(PAGE);
    machine.ram.unmap(PAGE..2 * PAGE).succeeds("munmap")?;
    trace.shows(&[format!(
        "kvm_unmap_hva_range: mmu notifier unmap range: {start:#010x} -- {:#010x}",
        start + PAGE as u64
    )])
}
