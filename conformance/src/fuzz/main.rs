// SPDX-License-Identifier: GPL-2.0-only
//! `kvm-fuzz [--seed N] [--seconds N] [--calls N] [--only processes|guests] [--first N]`: processes and guests that mean harm, many of each.
//!
//! Four processes at a time: hostile ones ([`hostile`]) make any calls with any arguments; others behave and have guests that run wild
//! ([`guests`]). What a process does follows from the seed and its number, threads' races apart. After each round of them the memory
//! that is in use is counted; at the end nobody uses the module, and a guest runs as it should. The kernel's log is for whoever
//! started this to read.
//!
//! The output has the shape of TAP, with lines of `#` for people; the status is 0 if all is well.

mod arena;
mod arguments;
#[path = "../code.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod code;
#[path = "../cpu.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod cpu;
mod descriptors;
mod grammar;
mod guests;
mod hostile;
mod image;
mod instructions;
#[path = "../left_behind.rs"]
mod left_behind;
#[path = "../machine.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod machine;
#[path = "../memory_map.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod memory_map;
#[path = "../sys.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod sys;
mod tally;
mod values;
#[path = "../verdict.rs"]
#[allow(dead_code, reason = "another program of this crate uses the rest")]
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use hostile::{Ending, Plan};
use machine::Machine;
use tally::Tally;
use values::{Values, stream};
use verdict::{Failure, Outcome, Verdict, holds};

const USAGE: &str = "kvm-fuzz [--seed N] [--seconds N] [--calls N] [--only processes|guests] [--first N]";

/// Processes at a time.
const ABREAST: usize = 4;
/// Rounds after which memory is counted; what the first leaves behind, the kernel keeps for later.
const ROUNDS: u32 = 5;
/// Pages that each round may seem to leave behind.
const NOISE: i64 = 16;
/// How long a process may take that nobody kills, and how long until one that was killed is gone. Emulated hosts are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
struct Options {
    seed: u64,
    seconds: u64,
    calls: u64,
    only: Option<String>,
    first: u64,
}

fn options() -> Option<Options> {
    let mut options = Options { seed: 1, seconds: 20, calls: u64::MAX, only: None, first: 0 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match &*name {
            "--seed" => options.seed = value.parse().ok()?,
            "--seconds" => options.seconds = value.parse().ok()?,
            "--calls" => (options.calls, options.seconds) = (value.parse().ok()?, u64::MAX / 2),
            "--only" if ["processes", "guests"].contains(&&*value) => options.only = Some(value),
            "--first" => options.first = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    // What a hostile process becomes when it ends so.
    if std::env::args().nth(1).is_some_and(|argument| argument == "--nothing") {
        return ExitCode::SUCCESS;
    }
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match Run::new(options).and_then(Run::through) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("kvm-fuzz: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A process that lives.
struct Child {
    pid: Pid,
    number: u64,
    /// A hostile one, and its plan.
    plan: Option<Plan>,
    /// When it is killed.
    deadline: Instant,
    killed: bool,
}

/// A run.
struct Run {
    options: Options,
    tally: &'static Tally,
    capabilities: Vec<u32>,
    begun: Instant,
    told: Instant,
    next: u64,
    children: Vec<Child>,
    /// What processes did that they should not.
    complaints: Vec<String>,
    guests: u64,
}

impl Run {
    fn new(options: Options) -> Result<Self, Failure> {
        // SAFETY: a setting of this process: it gets the children of its children when these are gone.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let (kvm, vm) = Machine::empty()?;
        hostile::set_target(machine::preferred_target(&vm)?.target);
        let has = |capability: &u32| {
            kvm.value(uapi::KVM_CHECK_EXTENSION, *capability as usize).is_ok_and(|answer| answer > 0)
        };
        let capabilities = (0..256).filter(has).collect();
        let now = Instant::now();
        let next = options.first;
        let tally = Tally::shared().map_err(|error| Failure::new(format!("mmap: {error}")))?;
        println!("# seed {}, from process {next} on", options.seed);
        Ok(Self {
            options,
            tally,
            capabilities,
            begun: now,
            told: now,
            next,
            children: Vec::new(),
            complaints: Vec::new(),
            guests: 0,
        })
    }

    /// All of it. Whether all is well.
    fn through(mut self) -> Result<bool, Failure> {
        let mut used = vec![left_behind::pages_in_use()?];
        let mut blocks = vec![left_behind::heap_blocks()?];
        for _ in 0..ROUNDS {
            let (began, calls) = (Instant::now(), self.tally.calls());
            while !self.is_over(began, calls) && self.complaints.is_empty() {
                while self.children.len() < ABREAST {
                    self.start()?;
                }
                self.attend()?;
            }
            while !self.children.is_empty() {
                self.attend()?;
            }
            self.tell();
            left_behind::await_no_users()?;
            used.push(left_behind::pages_in_use()?);
            blocks.push(left_behind::heap_blocks()?);
        }
        print!("{}", self.tally.table());
        println!(
            "# {} other things done, {} wild machines' processes with {} exits",
            self.others(),
            self.guests,
            self.exits()
        );
        let growth: Vec<i64> = used.windows(2).map(|two| two[1] - two[0]).collect();
        let has = |capability| self.capabilities.contains(&capability);
        let (missing, open) = self.tally.never_answered(has);
        println!("# {open} answers of calls did not come, of which {} should have", missing.len());
        missing.iter().for_each(|missing| println!("# {missing}"));
        Ok(report(&[
            (
                "processes end when killed, and guests run as guests can",
                match self.complaints.first() {
                    Some(complaint) => Err(Failure::new(complaint)),
                    None => Ok(()),
                },
            ),
            (
                "each call answers what KVM's does",
                self.tally.unexpected_answer(has).map_or(Ok(()), |answer| Err(Failure::new(answer))),
            ),
            (
                "each call succeeds now and then, and fails in each of its ways",
                match missing.first() {
                    Some(first) if self.options.only.as_deref() != Some("guests") => Err(Failure::new(first)),
                    _ => Ok(()),
                },
            ),
            (
                "nothing is left behind",
                left_behind::none_is_lost(&blocks).and(holds(
                    growth.iter().skip(1).min().is_none_or(|least| *least < NOISE),
                    format_args!("no memory is lost; pages that each round lost: {growth:?}"),
                )),
            ),
            ("a guest runs as it should", sane()),
        ]))
    }

    fn others(&self) -> u32 {
        self.tally.others.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn exits(&self) -> u32 {
        self.tally.exits.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether a round is that began then, after so many calls. What the one before it did too much counts for that one: in each there is
    /// something to lose.
    fn is_over(&self, began: Instant, calls: u64) -> bool {
        let part = |all: u64| all / u64::from(ROUNDS);
        began.elapsed().as_secs_f64() > part(self.options.seconds.saturating_mul(1000)) as f64 / 1000.0
            || self.tally.calls() - calls >= part(self.options.calls)
    }

    /// Starts the next process.
    fn start(&mut self) -> Verdict {
        let number = self.next;
        self.next += 1;
        // What it is to be is drawn apart from what it draws itself.
        let mut random = stream(self.options.seed, !number);
        let guests = match self.options.only.as_deref() {
            Some(kind) => kind == "guests",
            None => random.one_in(3),
        };
        let plan = Plan::of(&mut random);
        // SAFETY: this process has one thread.
        match unsafe { fork() }.succeeds("fork")? {
            ForkResult::Child if guests => {
                let status = match guests::live(self.options.seed, number, self.tally) {
                    Ok(()) => 0,
                    Err(failure) => {
                        println!("# process {number}: {failure}");
                        1
                    }
                };
                std::process::exit(status);
            }
            ForkResult::Child => hostile::live(&plan, self.options.seed, number, self.tally),
            ForkResult::Parent { child } => {
                self.guests += u64::from(guests);
                let time =
                    if !guests && plan.ending == Ending::Killed { Duration::from_millis(plan.time) } else { PATIENCE };
                let plan = (!guests).then_some(plan);
                self.children.push(Child { pid: child, number, plan, deadline: Instant::now() + time, killed: false });
                Ok(())
            }
        }
    }

    /// Looks after the processes for a moment.
    fn attend(&mut self) -> Verdict {
        std::thread::sleep(Duration::from_millis(1));
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(status) => self.ended(&status),
                Err(error) => return Err(Failure::new(format!("waitpid: {error}"))),
            }
        }
        let now = Instant::now();
        for child in &mut self.children {
            if now < child.deadline {
                continue;
            }
            if child.killed {
                return Err(Failure::new(format!(
                    "process {} does not end although it was killed ({:?})",
                    child.number, child.plan
                )));
            }
            // One that nobody meant to kill is stuck in a guest by its own making, with all signals blocked.
            let _ = if child.plan.is_some_and(|plan| plan.ending != Ending::Killed) {
                killpg(child.pid, Signal::SIGKILL)
            } else {
                kill(child.pid, Signal::SIGKILL)
            };
            child.killed = true;
            child.deadline = now + PATIENCE;
        }
        if self.told.elapsed() > Duration::from_secs(5) {
            self.tell();
        }
        Ok(())
    }

    fn ended(&mut self, status: &WaitStatus) {
        let Some(index) = self.children.iter().position(|child| Some(child.pid) == status.pid()) else { return };
        let child = self.children.swap_remove(index);
        let good = match status {
            WaitStatus::Exited(_, code) => *code == 0,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => child.killed && child.plan.is_some(),
            _ => false,
        };
        if !good {
            self.complaints.push(format!(
                "process {} ended so: {status:?} ({}); once more: --seed {} --first {}",
                child.number,
                child.plan.map_or("a guest's".to_owned(), |plan| format!("{plan:?}")),
                self.options.seed,
                child.number
            ));
        }
    }

    /// Says how far it is.
    fn tell(&mut self) {
        self.told = Instant::now();
        println!(
            "# {} s: {} processes, {} calls, {} guests' exits",
            self.begun.elapsed().as_secs(),
            self.next - self.options.first,
            self.tally.calls(),
            self.exits()
        );
    }
}

/// A guest still runs as it should.
fn sane() -> Verdict {
    let mut program = code::Program::new();
    program.set(1, machine::DEVICE).set(2, 0x600d).str(2, 1, 0).power_off();
    let vcpu = Machine::new(&program)?.vcpu(0)?;
    vcpu.expect_write(machine::DEVICE, 4, 0x600d)?;
    vcpu.expect_off()
}

/// Prints what was found. Whether all is well.
fn report(findings: &[(&str, Verdict)]) -> bool {
    println!("1..{}", findings.len());
    for (name, verdict) in findings {
        match verdict {
            Ok(()) => println!("ok {name}"),
            Err(failure) => println!("not ok {name}: {failure}"),
        }
    }
    findings.iter().all(|(_, verdict)| verdict.is_ok())
}
