// SPDX-License-Identifier: GPL-2.0-only
//! `host-witness CPUS COMMAND...`: what a host process notices of virtual machines that run beside it, which should be nothing.
//!
//! While COMMAND runs, threads on each of CPUS (`0`, or `0,1`) keep values in everything that a process has in registers, and look at the
//! clocks: what a world switch forgets to give back to the host, one of them has lost. Each watch is one line of the report
//! that follows, `ok NAME` or `not ok NAME: why`, after a plan `1..N`; the status is COMMAND's, or 1 if a watch failed.

#[path = "../cpu.rs"]
#[allow(dead_code, reason = "the other program of this crate uses the rest")]
mod cpu;
mod watches;

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use watches::WATCHES;

const USAGE: &str = "host-witness CPUS COMMAND...: what a process on CPUS (0, or 0,1) notices while COMMAND runs";

/// What a watch finds wrong.
pub type Finding = Result<(), String>;

/// Something that a process has to itself.
pub struct Watch {
    /// What is true if nothing is found.
    pub name: &'static str,
    /// Looks for a short while. The number is another each time.
    pub look: fn(u32) -> Finding,
}

static OVER: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let cpus: Option<Vec<usize>> =
        arguments.next().and_then(|list| list.split(',').map(|cpu| cpu.parse().ok()).collect());
    let (Some(cpus), Some(command)) = (cpus, arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let threads: Vec<_> = { cpus }
        .into_iter()
        .flat_map(|cpu| WATCHES.iter().map(move |watch| (cpu, watch)))
        .map(|(cpu, watch)| (cpu, watch, thread::spawn(move || keep_watch(cpu, watch.look))))
        .collect();
    let status = Command::new(&command).args(arguments).status();
    OVER.store(true, Ordering::Relaxed);

    println!("1..{}", threads.len());
    let mut failed = false;
    for (cpu, watch, thread) in threads {
        let name = format!("{} on CPU {cpu}", watch.name);
        match thread.join().unwrap_or_else(|_| Err("the watch died".to_owned())) {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                println!("not ok {name}: {why}");
                failed = true;
            }
        }
    }
    match status {
        _ if failed => ExitCode::FAILURE,
        Ok(status) => status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)),
        Err(error) => {
            eprintln!("host-witness: {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Looks again and again, until the command has ended.
fn keep_watch(cpu: usize, look: fn(u32) -> Finding) -> Finding {
    let mut here = CpuSet::new();
    here.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here))
        .map_err(|error| format!("CPU {cpu}: {error}"))?;
    let mut looks = 0;
    loop {
        look(looks)?;
        looks += 1;
        if OVER.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}
