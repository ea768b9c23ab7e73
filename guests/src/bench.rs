// SPDX-License-Identifier: GPL-2.0-only
//! Benchmarks: loops timed by the virtual counter, and the lines that `cargo xtask bench` reads.
//!
//! A loop runs at two lengths, several times each, and every time that it took is printed; whoever reads them takes the shortest of
//! each length and divides the difference by the difference of the lengths, so that what a loop costs once does not count. Nothing is
//! printed before everything is measured: the console is a device of the process, and its threads would still be at work.
//!
//! | line | meaning |
//! |---|---|
//! | `clock HERTZ` | the counter's frequency |
//! | `loop KEY COUNT` | how many instructions of the guest's own one turn of the loop has |
//! | `sample KEY LENGTH TICKS OWN` | the loop, that often, took so long; OWN instructions of the guest's in it are not to be counted |
//! | `failed KEY` | the loop did not do what it is to measure |
//! | `end` | nothing is missing |

use core::cell::UnsafeCell;

use crate::{exceptions, gic, println, psci, sysreg, timer};

/// How often each length runs.
pub const TIMES: usize = 8;

/// How one run went.
#[derive(Clone, Copy, Default)]
pub struct Went {
    /// Instructions of the guest's own that are not to be counted.
    pub own: u32,
    /// How often the loop did not see what it is to see.
    pub misses: u32,
}

#[derive(Clone, Copy)]
struct Sample {
    key: &'static str,
    length: u32,
    ticks: u32,
    went: Went,
}

/// The samples of one benchmark program, at most `SAMPLES` of them.
pub struct Bench<const SAMPLES: usize> {
    samples: [Sample; SAMPLES],
    count: usize,
}

impl<const SAMPLES: usize> Bench<SAMPLES> {
    /// One without samples.
    #[expect(clippy::new_without_default, reason = "a program has one, and makes it once")]
    pub fn new() -> Self {
        let nothing = Sample { key: "", length: 0, ticks: 0, went: Went::default() };
        Self { samples: [nothing; SAMPLES], count: 0 }
    }

    /// Times `run` at the lengths `length` and `2 * length`, after one run that warms up. `own` is how many instructions one
    /// turn of the loop has.
    pub fn measure(&mut self, key: &'static str, own: u32, length: u32, mut run: impl FnMut(u32) -> Went) {
        println!("loop {key} {own}");
        run(length);
        for _ in 0..TIMES {
            self.once(key, length, || run(length));
            self.once(key, 2 * length, || run(2 * length));
        }
    }

    /// Times `run` once.
    pub fn once(&mut self, key: &'static str, length: u32, run: impl FnOnce() -> Went) {
        let start = sysreg::cntvct::read();
        let went = run();
        let ticks = (sysreg::cntvct::read() - start) as u32;
        if let Some(sample) = self.samples.get_mut(self.count) {
            *sample = Sample { key, length, ticks, went };
        }
        self.count += 1;
    }

    /// Prints all, and ends the machine.
    pub fn end(&self) -> ! {
        println!("clock {}", sysreg::cntfrq::read());
        for Sample { key, length, ticks, went } in &self.samples[..self.count.min(SAMPLES)] {
            println!("sample {key} {length} {ticks} {}", went.own);
            if went.misses > 0 {
                println!("failed {key}");
            }
        }
        // Without this line the reader knows that samples are missing.
        if self.count <= SAMPLES {
            println!("end");
        }
        psci::system_off()
    }
}

/// A second vCPU, and two words that both see: the first is the second vCPU's to use, the other says that it is there.
pub struct Second(UnsafeCell<[u32; 2]>);
// SAFETY: the words are accessed by single loads and stores only, uncached, since the MMU is off.
unsafe impl Sync for Second {}

impl Second {
    /// One that has not been started.
    #[expect(clippy::new_without_default, reason = "it is made in a static")]
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; 2]))
    }

    /// The address of the word that the second vCPU uses.
    pub fn word(&self) -> u32 {
        self.0.get() as u32
    }

    /// Starts vCPU 1 at `entry`, with the words' address in r0, no stack, interrupts masked and the MMU off, and waits until it
    /// is there.
    pub fn start(&self, entry: unsafe extern "C" fn() -> !) {
        psci::call(uapi::psci::CPU_ON, [1, entry as *const () as u32, self.word()]);
        // SAFETY: the word is alive, and read as the second vCPU writes it: whole.
        while unsafe { self.0.get().cast::<u32>().add(1).read_volatile() } == 0 {}
    }
}

/// A program of one benchmark between two vCPUs: starts vCPU 1 at `other`, measures `run` on vCPU 0 as [`Bench::measure`] does, and
/// ends the machine.
pub fn between_two(
    second: &Second,
    other: unsafe extern "C" fn() -> !,
    key: &'static str,
    own: u32,
    length: u32,
    run: impl FnMut(u32) -> Went,
) -> ! {
    exceptions::watch("bench");
    gic::enable();
    settle();
    second.start(other);
    let mut bench = Bench::<{ 2 * TIMES }>::new();
    bench.measure(key, own, length, run);
    bench.end()
}

/// Vectors for a loop that is interrupted: only IRQ is expected, and what follows is its handler. Any other exception stops here, and
/// its time limit ends the guest.
#[macro_export]
macro_rules! irq_vectors {
    ($name:ident, $($instruction:literal),+ $(,)?) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".balign 32",
                ".rept 6",
                "b .",
                ".endr",
                "b 2f",
                "b .",
                "2:",
                $($instruction),+
            )
        }
    };
}

/// Waits for half a second, so that the host can put the vCPUs where they are to run. For use before the second is started: a
/// vCPU that spins with YIELD makes time pass very slowly.
pub fn settle() {
    gic::set_priority(gic::VIRTUAL_TIMER, 0x80);
    gic::enable_private(gic::VIRTUAL_TIMER);
    timer::fire_in(500_000);
    while sysreg::cntv_ctl::read() & timer::ISTATUS == 0 {
        sysreg::wfi();
    }
    gic::end(gic::acknowledge());
    timer::off();
    gic::disable_private(gic::VIRTUAL_TIMER);
}
