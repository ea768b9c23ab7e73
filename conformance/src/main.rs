// SPDX-License-Identifier: GPL-2.0-only
//! `kvm-conformance`: asks `/dev/kvm` everything that KVM of Linux 5.6 answered on 32-bit Arm, and says what it answers differently.
//!
//! It runs in a host, as root, with nothing but `/dev/kvm` and `/proc`, and would run as well on a kernel with the original KVM/ARM.
//! The output has the shape of TAP: a plan `1..N`, then `ok NAME` or `not ok NAME: why`, a line each; the status is 0 if all passed.
//!
//! A case is a function in one of the topics' tables. Each runs in a process of its own, this program started again with
//! `--case NAME`, so that one that hangs, dies or leaves descriptors open disturbs no other. Guests are a few instructions put into a
//! memory slot ([`code`]). All `unsafe` is in [`sys`] and [`memory_map`], which make KVM's calls and the process's memory safe to use.

mod aborts;
mod allocation;
mod backings;
mod code;
#[allow(dead_code, reason = "the other program of this crate uses the rest")]
mod cpu;
mod dirty_log;
mod doorbells;
mod escapes;
mod huge_pages;
mod irqchip;
mod irqchip_state;
mod irqfd;
mod left_behind;
mod lifetimes;
mod live_memory;
mod machine;
mod memory;
mod memory_map;
mod memory_races;
mod observed;
mod races;
mod registers;
mod residency;
mod run;
mod sys;
mod system;
mod tracepoints;
mod user_irq;
mod vcpu;
mod vcpu_state;
mod verdict;
mod vm;
mod walks;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use verdict::Verdict;

/// One thing that is so, or not.
struct Case {
    /// What is true if it passes.
    name: &'static str,
    /// Finds out.
    check: fn() -> Verdict,
    /// How many seconds it may take; emulated hosts are slow.
    limit: u64,
}

impl Case {
    /// A case that is quickly decided.
    const fn of(name: &'static str, check: fn() -> Verdict) -> Self {
        Self { name, check, limit: 60 }
    }

    /// The same, with more time.
    const fn within(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }
}

/// A topic: its name, which begins the names of its cases, and its table, or one of them.
type Topic = (&'static str, &'static [Case]);

const TOPICS: &[Topic] = &[
    ("system", system::CASES),
    ("vm", vm::CASES),
    ("memory", memory::CASES),
    ("dirty log", dirty_log::CASES),
    ("vcpu", vcpu::CASES),
    ("vcpu state", vcpu_state::CASES),
    ("registers", registers::CASES),
    ("residency", residency::CASES),
    ("irqchip", irqchip::CASES),
    ("irqchip state", irqchip_state::CASES),
    ("user irq", user_irq::CASES),
    ("irqfd", irqfd::CASES),
    ("doorbells", doorbells::CASES),
    ("run", run::CASES),
    ("aborts", aborts::CASES),
    ("walks", walks::CASES),
    ("escapes", escapes::CASES),
    ("live memory", live_memory::CASES),
    ("races", races::CASES),
    ("memory races", memory_races::CASES),
    ("backings", backings::CASES),
    ("observed", observed::CASES),
    ("observed", tracepoints::CASES),
    ("allocation", allocation::CASES),
    ("lifetimes", lifetimes::CASES),
];

const USAGE: &str = "kvm-conformance [--list] [NAME...]: checks /dev/kvm; only the cases whose name begins so";

/// What of a case's output, the kernel's refusal of its process included, comes before its reason.
const REASON: &str = "not ok: ";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let all = TOPICS
        .iter()
        .flat_map(|(topic, cases)| cases.iter().map(move |case| (format!("{topic}: {}", case.name), case)));
    match arguments[..] {
        ["--case", name] => match { all }.find(|(found, _)| found == name) {
            Some((_, case)) => run_here(case),
            None => ExitCode::from(2),
        },
        ["--list"] => {
            all.for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        _ if arguments.iter().any(|argument| argument.starts_with('-')) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        _ => run_all(&all.filter(|(name, _)| starts_with_any(name, &arguments)).collect::<Vec<_>>()),
    }
}

fn starts_with_any(name: &str, starts: &[&str]) -> bool {
    starts.is_empty() || starts.iter().any(|start| name.starts_with(start))
}

/// Runs one case in this process.
fn run_here(case: &Case) -> ExitCode {
    if let Err(failure) = sys::interruptible().and_then(|()| (case.check)()) {
        println!("{REASON}{failure}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Runs the cases, each in a process of its own.
fn run_all(cases: &[(String, &Case)]) -> ExitCode {
    if cases.is_empty() {
        eprintln!("no case begins so; `kvm-conformance --list` names them");
        return ExitCode::from(2);
    }
    println!("1..{}", cases.len());
    let mut failed = 0;
    for (name, case) in cases {
        match run_apart(name, case.limit) {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                println!("not ok {name}: {why}");
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a case in a process of its own. Why it did not pass.
fn run_apart(name: &str, limit: u64) -> Result<(), String> {
    let mut child = Command::new("/proc/self/exe")
        .args(["--case", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let end = Instant::now() + Duration::from_secs(limit);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("took more than {limit} s"));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stdout.take().map(|mut output| output.read_to_string(&mut said));
    let _ = child.stderr.take().map(|mut output| output.read_to_string(&mut said));
    let reason = said.lines().find_map(|line| line.strip_prefix(REASON));
    Err(reason.map_or_else(|| format!("{status}; {}", said.lines().collect::<Vec<_>>().join("; ")), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_cases_apart_and_fit_a_line() {
        let mut names: Vec<_> =
            TOPICS.iter().flat_map(|(topic, cases)| cases.iter().map(move |case| (topic, case.name))).collect();
        assert!(names.iter().all(|(_, name)| !name.is_empty() && !name.contains(['\n', ':', '#'])));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
