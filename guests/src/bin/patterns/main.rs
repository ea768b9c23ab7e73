// SPDX-License-Identifier: GPL-2.0-only
//! Everything that a guest can change is kept: every register of every class, over every kind of exit, from every mode.
//!
//! A trip fills all of them with patterns ([`registers`], [`trip`]): the banks of all modes, CP15, the virtual timer, VFP, the CPU interface
//! of the GIC with an interrupt that is active and one that is pending. Then it leaves the guest in one of the [`trip::EXITS`], and
//! compares all that it finds afterwards. One test for each way to translate; each makes all trips, in so many rounds. If there are two
//! vCPUs, both make theirs at the same time.
//!
//! The patterns come from a seed and the vCPU's number, so that of two machines with different seeds, and of two vCPUs, each would find
//! the other's values. The command line says `seed=NUMBER rounds=NUMBER`, and `moves=1` if it is saved and resumed meanwhile, which
//! gives it another offset.
#![no_std]
#![no_main]

mod registers;
mod trip;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use guests::test::{Failure, Verdict};
use guests::{check, check_eq, device_tree, exceptions, gic, guest, mmio, mmu, psci, smp, sysreg, timer, uart, vfp};
use registers::{BANKS, CP15, Setting};
use trip::{EXITS, Exit, Frame, Live, Mode, Need};

guest!(
    all_is_kept_with_the_mmu_off,
    all_is_kept_with_the_mmu_off_in_the_long_format,
    all_is_kept_under_short_descriptors,
    all_is_kept_under_long_descriptors,
    the_virtual_count_keeps_its_offset,
);

fn all_is_kept_with_the_mmu_off() -> Verdict {
    all_is_kept(Setting::Off)
}

fn all_is_kept_with_the_mmu_off_in_the_long_format() -> Verdict {
    all_is_kept(Setting::OffLong)
}

fn all_is_kept_under_short_descriptors() -> Verdict {
    mmu::map_flat();
    all_is_kept(Setting::Short)
}

fn all_is_kept_under_long_descriptors() -> Verdict {
    all_is_kept(Setting::Long)
}

fn seed() -> u32 {
    device_tree::number("seed").unwrap_or(1)
}

fn rounds() -> u32 {
    device_tree::number("rounds").unwrap_or(1)
}

/// How many vCPUs have something of their own here: a serial port's scratch register, for one.
const MOST_CPUS: usize = 2;

/// Each vCPU makes its trips, all of them at the same time.
fn all_is_kept(setting: Setting) -> Verdict {
    let cpus = smp::cpus().min(MOST_CPUS as u32);
    for cpu in 1..cpus {
        if smp::starts(cpu) == 0 {
            check_eq!("CPU_ON", smp::turn_on(cpu, cpu), 0);
            check!(smp::wait_for(|| smp::starts(cpu) != 0), "vCPU {cpu} does not start");
        }
        smp::post(cpu, other_vcpu, setting as u32 * MOST_CPUS as u32 + cpu);
    }
    let own = trips(setting, 0);
    for cpu in 1..cpus {
        match smp::result(cpu) {
            None => return Err(Failure::new(format_args!("vCPU {cpu} does not end"))),
            Some(0) => {}
            Some(_) => {
                // SAFETY: the vCPU is done with it.
                let failure = unsafe { (*OWN[cpu as usize].failure.get()).take() };
                return own.and(Err(failure.unwrap_or(Failure::new_empty())));
            }
        }
    }
    own
}

/// Work for [`smp::post`]: 0 if all was kept.
fn other_vcpu(argument: u32) -> u32 {
    let cpu = argument as usize % MOST_CPUS;
    let Some(setting) = Setting::ALL.into_iter().find(|setting| *setting as u32 == argument / MOST_CPUS as u32) else {
        return 1;
    };
    // The work may be seen before the SGI that tells of it, which must not come in the midst of it.
    let calls = OWN[cpu].calls.load(Ordering::Relaxed) + 1;
    OWN[cpu].calls.store(calls, Ordering::Relaxed);
    let told = smp::wait_for(|| {
        smp::collect(cpu as u32);
        smp::received(cpu as u32, 0, smp::CALL) == calls
    });
    let failure = if told { trips(setting, cpu).err() } else { Some(Failure::new(format_args!("no SGI came"))) };
    let failed = failure.is_some();
    // SAFETY: the boot vCPU looks at it when this vCPU has answered.
    unsafe { *OWN[cpu].failure.get() = failure };
    failed.into()
}

/// What a vCPU keeps from one test to the next.
#[repr(align(64))]
struct Own {
    /// How often it was given work.
    calls: AtomicU32,
    /// How many pages were touched.
    pages: AtomicU32,
    offset: Offset,
    failure: UnsafeCell<Option<Failure>>,
}
// SAFETY: each vCPU uses its own, and the boot vCPU takes another's failure when that has put it there.
unsafe impl Sync for Own {}

static OWN: [Own; MOST_CPUS] = [const {
    Own {
        calls: AtomicU32::new(0),
        pages: AtomicU32::new(0),
        offset: Offset { least: AtomicU32::new(0), most: AtomicU32::new(0), known: AtomicU32::new(0) },
        failure: UnsafeCell::new(None),
    }
}; MOST_CPUS];

/// Makes all trips of this vCPU.
fn trips(setting: Setting, cpu: usize) -> Verdict {
    match setting {
        Setting::Off | Setting::OffLong => {}
        Setting::Short => mmu::on(),
        Setting::Long => mmu::on_long(),
    }
    let verdict = rounds_of_trips(setting, cpu);
    if setting.translates() {
        mmu::off();
        sysreg::ttbcr::write(0);
    }
    verdict
}

fn rounds_of_trips(setting: Setting, cpu: usize) -> Verdict {
    let mut patterns = Patterns { seed: seed() + 0x100 * cpu as u32, count: setting as u32, cpu };
    for round in 0..rounds() {
        let interrupts = Interrupts::prepare(&mut patterns, round % 2 == 0)?;
        let trips = Mode::ALL.into_iter().flat_map(|mode| EXITS.iter().map(move |exit| (mode, exit)));
        let verdict = { trips }
            .filter(|(mode, exit)| *mode != Mode::User || exit.user)
            .try_for_each(|(mode, exit)| trip(&mut patterns, setting, mode, exit));
        verdict.and(interrupts.finish())?;
    }
    Ok(())
}

/// An exception that no exit of User mode's should take. The stack is the boot vCPU's: nothing is left to go back to.
extern "C" fn lost() -> ! {
    sysreg::vbar::write(exceptions::vectors as *const () as u32);
    guests::println!("not ok {}: an exception was taken from User mode", exceptions::current_test());
    psci::system_off()
}

/// Values that depend on the seed and on how many were made before.
struct Patterns {
    seed: u32,
    count: u32,
    /// Whose.
    cpu: usize,
}

impl Patterns {
    fn word(&mut self) -> u32 {
        self.count = self.count.wrapping_add(4);
        let mut value = self.seed.wrapping_mul(0x9e37_79b9) ^ self.count;
        for factor in [0x21f0_aaad, 0x735a_2d97] {
            value = (value ^ value >> 16).wrapping_mul(factor);
        }
        value ^ value >> 15
    }

    fn wide(&mut self) -> u64 {
        u64::from(self.word()) << 32 | u64::from(self.word())
    }
}

/// What is read and written one by one.
struct Kept {
    cp15: [u64; CP15.len()],
    banks: [u32; BANKS.len()],
    timer: u32,
}

impl Kept {
    fn read() -> Self {
        Self {
            cp15: core::array::from_fn(|index| (CP15[index].read)()),
            banks: core::array::from_fn(|index| (BANKS[index].read)()),
            timer: sysreg::cntv_ctl::read() & (timer::ENABLE | timer::IMASK),
        }
    }

    /// SCTLR first, which says where vectors are.
    fn put_back(&self) {
        for (register, value) in CP15.iter().zip(self.cp15).rev() {
            (register.write)(value, Setting::OffLong);
        }
        for (bank, value) in BANKS.iter().zip(self.banks) {
            (bank.write)(value);
        }
        sysreg::cntv_ctl::write(self.timer);
    }
}

/// What of SPSR and of CPSR's flags a test may choose.
const SPSR: u32 = 0xf80f_03ff;
const CPSR_FLAGS: u32 = 0xf80f_0000;
const FPSCR: u32 = 0xf7c0_009f;
/// SCTLR: where exceptions go, and in which state: V, EE, TE.
const SCTLR_VECTORS: u64 = 1 << 13 | 1 << 25 | 1 << 30;
/// CNTKCTL: User mode may read the virtual count and use the physical timer: PL0VCTEN, PL0PTEN.
const CNTKCTL_USER: u64 = 1 << 1 | 1 << 9;

/// Fills everything, leaves, compares everything.
fn trip(patterns: &mut Patterns, setting: Setting, mode: Mode, exit: &Exit) -> Verdict {
    vfp::on();
    // Emulated; one of the exits reads it. KVM has no name for it by which a machine's could be saved.
    sysreg::cntp_cval::write(if device_tree::number("moves").is_some() { 0 } else { patterns.wide() });
    let saved = Kept::read();

    let priorities = if exit.need == Need::Timer { 0xf8 } else { patterns.word() & 0xf8 };
    mmio::write32(gic::GICC_PMR, priorities);
    mmio::write32(gic::GICC_BPR, patterns.word() & 7);
    // The least that it may be is the implementation's choice, and no more than 4.
    let points = 4 + (patterns.word() & 3);
    mmio::write32(gic::GICC_ABPR, points);
    check_eq!("GICC_ABPR", mmio::read32(gic::GICC_ABPR), points);
    let interface = Interface::read();

    let bank: vfp::Bank = core::array::from_fn(|_| patterns.wide());
    vfp::load(&bank);
    vfp::set_fpscr(patterns.word() & FPSCR);
    let fpscr = vfp::fpscr();
    let vfp_is_on = exit.need == Need::Vfp || patterns.word() & 1 != 0;
    let fpexc = if vfp_is_on { vfp::EN } else { 0 };
    vfp::set_fpexc(fpexc);

    let mut frames: [Frame; 8] = core::array::from_fn(|_| Frame::new(mode, exit));
    let frame = &mut frames[patterns.seed as usize % 8];
    frame.before = live(patterns, exit);

    let (control, compare) = virtual_timer(patterns, exit.need);
    let values: [u64; CP15.len()] = core::array::from_fn(|index| {
        let (register, pattern) = (&CP15[index], patterns.wide());
        let of_pattern = (register.shape)(setting).value(saved.cp15[index], pattern);
        match register.name {
            "VBAR" if mode == Mode::User => trip::vectors as *const () as u64,
            "SCTLR" if mode == Mode::User => of_pattern & !SCTLR_VECTORS,
            "CNTKCTL" if mode == Mode::User => of_pattern | CNTKCTL_USER,
            "CNTV_CVAL" => compare,
            "CPACR" if vfp_is_on => saved.cp15[index],
            // Nobody, PL1 only, everybody.
            "CPACR" => (register.shape)(setting).value(saved.cp15[index], [0, 0x5, 0xf][pattern as usize % 3] << 20),
            _ => of_pattern,
        }
    });
    let banks: [u32; BANKS.len()] =
        core::array::from_fn(|index| patterns.word() & if BANKS[index].is_spsr { SPSR } else { u32::MAX });

    for (bank, value) in BANKS.iter().zip(banks) {
        (bank.write)(value);
    }
    for (register, value) in CP15.iter().zip(values) {
        (register.write)(value, setting);
    }
    sysreg::cntv_ctl::write(control);
    let before = Kept::read();
    // SAFETY: Supervisor mode; the exits read devices and registers, and write to pages that are nobody's.
    unsafe { trip::go(frame) };
    let after = Kept::read();
    saved.put_back();

    let fpexc_after = vfp::fpexc();
    vfp::set_fpexc(vfp::EN);
    let fpscr_after = vfp::fpscr();
    let bank_after = vfp::store();
    mmio::read32(gic::GICD_IIDR); // on the way back in the timer's interrupt is seen to be gone
    let interface_after = Interface::read();

    let name = exit.name;
    for (index, register) in CP15.iter().enumerate() {
        let (value, before, after) = (values[index], before.cp15[index], after.cp15[index]);
        let shape = (register.shape)(setting);
        let chosen = shape.writable | shape.fixed;
        check!(!shape.exact || before & chosen == value & chosen, "{} took {before:#x} for {value:#x}", register.name);
        check!(after == before, "{} after {name}, {mode:?}: {after:#x} instead of {before:#x}", register.name);
    }
    for (index, bank) in BANKS.iter().enumerate().filter(|(_, bank)| !mode.uses_bank_of(bank.mode)) {
        let (value, before, after) = (banks[index], before.banks[index], after.banks[index]);
        check!(bank.is_spsr || before == value, "{} took {before:#x} for {value:#x}", bank.name);
        check!(after == before, "{} after {name}, {mode:?}: {after:#x} instead of {before:#x}", bank.name);
    }
    check!(after.timer == control, "CNTV_CTL after {name}: {:#x} instead of {control:#x}", after.timer);
    compare_live(frame, exit)?;
    check!(fpexc_after == fpexc, "FPEXC after {name}: {fpexc_after:#x} instead of {fpexc:#x}");
    check!(fpscr_after == fpscr, "FPSCR after {name}: {fpscr_after:#x} instead of {fpscr:#x}");
    for (number, (before, after)) in bank.iter().zip(&bank_after).enumerate() {
        check!(before == after, "d{number} after {name}: {after:#x} instead of {before:#x}");
    }
    if exit.need == Need::Vfp {
        let [_, _, low, high, ..] = frame.after.r;
        check_eq!("d7 as VFP's first use had it", u64::from(high) << 32 | u64::from(low), bank[7]);
    }
    interface_after.compare(&interface, name)?;
    OWN[patterns.cpu].offset.narrow()
}

/// What [`trip::go`] loads.
fn live(patterns: &mut Patterns, exit: &Exit) -> Live {
    let mut live = Live {
        r: core::array::from_fn(|_| patterns.word()),
        cpsr: patterns.word() & CPSR_FLAGS,
        spsr: patterns.word() & SPSR,
        user: core::array::from_fn(|_| patterns.word()),
        supervisor: core::array::from_fn(|_| patterns.word()),
    };
    live.r[..exit.inputs.len()].copy_from_slice(exit.inputs);
    if patterns.cpu != 0 {
        live.r.iter_mut().filter(|r| **r == uart::SCRATCH).for_each(|r| *r = uart::SECOND_SCRATCH);
    }
    match exit.need {
        Need::FreshPage => live.r[1] = fresh_page(patterns.cpu),
        Need::FreshCode => live.r[1] = fresh_code(patterns.cpu),
        _ => {}
    }
    live
}

fn compare_live(frame: &Frame, exit: &Exit) -> Verdict {
    let (Frame { before, after, mode, .. }, name) = (frame, exit.name);
    for (number, (before, after)) in before.r.iter().zip(&after.r).enumerate() {
        let number = if number == 13 { 14 } else { number };
        let changed = exit.outputs & 1 << number != 0;
        check!(changed || before == after, "r{number} after {name}, {mode:?}: {after:#x} instead of {before:#x}");
    }
    if let Some(answer) = exit.answer {
        let (place, expected) = answer(before);
        let answer = after.r[place];
        check!(answer == expected, "the answer to {name}, {mode:?}: {answer:#x} instead of {expected:#x}");
    }
    let (flags, own) = (if exit.outputs & trip::FLAGS == 0 { CPSR_FLAGS } else { 0 }, 0xff00 & sysreg::cpsr());
    check_eq!("CPSR's flags", after.cpsr & flags, before.cpsr & flags);
    check_eq!("CPSR", after.cpsr & 0xffff, own | *mode as u32);
    if !matches!(mode, Mode::System | Mode::User) {
        check!(
            after.spsr == before.spsr,
            "{mode:?}'s SPSR after {name}: {:#x} instead of {:#x}",
            after.spsr,
            before.spsr
        );
    }
    if *mode == Mode::Fiq {
        check!(
            after.user == before.user,
            "r8_usr to r12_usr after {name}: {:x?} instead of {:x?}",
            after.user,
            before.user
        );
    }
    // The SVC from User mode has taken LR.
    let kept = match mode {
        Mode::Supervisor => 0,
        Mode::User => 1,
        _ => 2,
    };
    let (after, before) = (&after.supervisor[..kept], &before.supervisor[..kept]);
    check!(after == before, "SP_svc, LR_svc after {name}, {mode:?}: {after:x?} instead of {before:x?}");
    Ok(())
}

/// CNTV_CTL and CNTV_CVAL: off, masked, or enabled for a day that never comes; or for very soon.
fn virtual_timer(patterns: &mut Patterns, need: Need) -> (u32, u64) {
    if need == Need::Timer {
        return (timer::ENABLE, sysreg::cntvct::read() + u64::from(timer::ticks(300)));
    }
    match patterns.word() % 4 {
        0 => (0, patterns.wide()),
        1 => (timer::IMASK, patterns.wide()),
        2 => (timer::ENABLE | timer::IMASK, patterns.wide() >> 40), // long over
        _ => (timer::ENABLE, patterns.wide() | 1 << 63),
    }
}

/// A page that this vCPU did not touch before, until its part of memory is at its end and all begin again.
fn fresh_page(cpu: usize) -> u32 {
    const FIRST: u32 = 0x8010_0000;
    const PAGES: u32 = 0x1e00 / MOST_CPUS as u32;
    let page = OWN[cpu].pages.load(Ordering::Relaxed);
    OWN[cpu].pages.store((page + 1) % PAGES, Ordering::Relaxed);
    FIRST + (cpu as u32 * PAGES + page) * 0x1000
}

/// The end of such a page, with [`trip::BACK`] behind it. All that is ever written to a page stands at its beginning.
fn fresh_code(cpu: usize) -> u32 {
    let first = fresh_page(cpu);
    let second = fresh_page(cpu);
    if second != first + 0x1000 {
        return fresh_code(cpu); // they begin again in between
    }
    mmio::write32(second, trip::BACK);
    sysreg::clean_to_unification(second);
    first + 0xffc
}

/// Two software-generated interrupts: one active during a round of trips, and one perhaps pending.
struct Interrupts {
    pending: Option<u32>,
    active: u32,
}

impl Interrupts {
    fn prepare(patterns: &mut Patterns, pending: bool) -> Result<Self, guests::test::Failure> {
        let pattern = patterns.word();
        let (first, second) = (pattern & 7, 8 + (pattern >> 3 & 7));
        let urgency = 0x40 + (pattern >> 8) as u8 % 8 * 8;
        gic::enable();
        for (interrupt, priority) in [(first, urgency), (second, urgency + 0x40), (gic::VIRTUAL_TIMER, 0)] {
            gic::set_priority(interrupt, priority);
            gic::enable_private(interrupt);
        }
        gic::send_to_self(first);
        let active = gic::acknowledge();
        check_eq!("the interrupt", active & 0x3ff, first); // above it, the sender
        if pending {
            gic::send_to_self(second);
        }
        Ok(Self { pending: pending.then_some(second), active })
    }

    fn finish(self) -> Verdict {
        mmio::write32(gic::GICC_PMR, 0xff);
        gic::end(self.active);
        check_eq!("the running priority", mmio::read32(gic::GICC_RPR), 0xff);
        let next = gic::acknowledge();
        check_eq!("what is next", next & 0x3ff, self.pending.unwrap_or(gic::SPURIOUS));
        if self.pending.is_some() {
            gic::end(next);
        }
        gic::disable_private(gic::VIRTUAL_TIMER);
        Ok(())
    }
}

/// What the CPU interface and the distributor say of it.
struct Interface([u32; 9]);

const INTERFACE: [(&str, u32); 9] = [
    ("GICC_CTLR", gic::GICC_CTLR),
    ("GICC_PMR", gic::GICC_PMR),
    ("GICC_BPR", gic::GICC_BPR),
    ("GICC_ABPR", gic::GICC_ABPR),
    ("GICC_APR", gic::GICC_APR),
    ("GICC_RPR", gic::GICC_RPR),
    ("GICC_HPPIR", gic::GICC_HPPIR),
    ("GICD_ISPENDR", gic::GICD_ISPENDR),
    ("GICD_ISACTIVER", gic::GICD_ISACTIVER),
];

impl Interface {
    fn read() -> Self {
        Self(INTERFACE.map(|(_, address)| mmio::read32(address)))
    }

    fn compare(&self, before: &Self, exit: &str) -> Verdict {
        for ((name, _), (after, before)) in INTERFACE.iter().zip(self.0.iter().zip(&before.0)) {
            check!(after == before, "{name} after {exit}: {after:#x} instead of {before:#x}");
        }
        Ok(())
    }
}

/// By how much the physical count is ahead of the virtual one, as narrow as it is known.
struct Offset {
    least: AtomicU32,
    most: AtomicU32,
    known: AtomicU32,
}

impl Offset {
    /// Reads both counts. The offset is the same for ever, so what every look allows must have something in common.
    fn narrow(&self) -> Verdict {
        if device_tree::number("moves").is_some() {
            return Ok(());
        }
        let (first, between, last) = (sysreg::cntpct::read(), sysreg::cntvct::read(), sysreg::cntpct::read());
        let (mut least, mut most) = (first.wrapping_sub(between) as u32, last.wrapping_sub(between) as u32);
        if self.known.swap(1, Ordering::Relaxed) != 0 {
            // Differences, so that it does not matter where the words wrap.
            let (known, room) = (self.least.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
            let ahead = least.wrapping_sub(known) as i32;
            let behind = most.wrapping_sub(room) as i32;
            least = if ahead > 0 { least } else { known };
            most = if behind < 0 { most } else { room };
            check!(
                most.wrapping_sub(least) as i32 >= 0,
                "CNTVOFF moved: {ahead} ticks from {known:#x}, {behind} from {room:#x}"
            );
        }
        self.least.store(least, Ordering::Relaxed);
        self.most.store(most, Ordering::Relaxed);
        Ok(())
    }
}

fn the_virtual_count_keeps_its_offset() -> Verdict {
    for _ in 0..1000 * rounds() {
        let before = sysreg::cntvct::read();
        mmio::read32(gic::GICD_IIDR);
        let after = sysreg::cntvct::read();
        check!(before <= after, "the virtual count went back from {before:#x} to {after:#x}");
        OWN[0].offset.narrow()?;
    }
    Ok(())
}
