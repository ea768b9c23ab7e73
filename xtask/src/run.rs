// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask run`: a host, and in it Debian's own kernel as a guest of `wsvm`, for a shell or for one command.
//!
//! The guest is started by the host's `guest` command (`initramfs/guest`). The host's console and, with `--exec`, the guest's go to a log
//! file; the person's terminal is the guest's console, or standard output gets what the command prints in the guest.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::console::{self, Follower, Mark};
use crate::host::{self, Host, HostOptions, NOT_RUN, Task, Tokens};
use crate::initramfs::quoted;
use crate::layout::Layout;
use crate::machine::{self, Ended};
use crate::setup::kernel::{self, Choice};

/// `cargo xtask run`.
#[derive(Args, Debug)]
pub struct RunCommand {
    /// Runs COMMAND in the guest's shell, prints its output and nothing else, and exits with its status
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// Debian's kernel for the guest
    #[arg(long, value_name = "SUITE[/FLAVOUR]", default_value_t)]
    pub guest_kernel: Choice,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub guest_mem: String,
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub guest_cpus: u32,
    /// More of the guest kernel's command line (loglevel=7 shows all that it says)
    #[arg(long, default_value = "")]
    pub guest_append: String,
    #[command(flatten)]
    pub options: HostOptions,
}

/// Runs the command; its exit status is the program's.
pub fn run(layout: &Layout, command: &RunCommand) -> Result<u8> {
    if command.exec.is_none() && !io::stdin().is_terminal() {
        bail!("standard input is not a terminal: give the guest a command with --exec");
    }
    let mut host = Host::prepare(layout, &command.options, true)?;
    let kernel = {
        let _lock = layout.lock()?;
        kernel::ensure(layout, &command.guest_kernel)?
    };
    host.guests_run(kernel, &command.guest_append);
    let machine = format!("--mem {} --cpus {}", quoted(&command.guest_mem), command.guest_cpus);
    match &command.exec {
        Some(script) => {
            let script = format!("exec guest -c {} {machine}", quoted(script));
            execute(layout, &host, &script)
        }
        None => {
            let tty = host.channel();
            let script = format!("exec guest {machine} <{tty} >{tty} 2>&1");
            interact(layout, &host, &script)
        }
    }
}

/// Boots host and guest for a command.
fn execute(layout: &Layout, host: &Host, script: &str) -> Result<u8> {
    let tokens = Tokens::new();
    let started = Instant::now();
    let mut failure = None;
    let mut panicked = None;
    let ended = host.boot(layout, "run", &tokens, Task::Script(script), Box::new(io::stdout()), &mut |line| {
        if let Some(line) = line.and_then(|line| Some(line.split_once("guest: ")?.1)) {
            if Mark::find(line, &tokens.guest) == Some(Mark::Ready) {
                report_time(started.elapsed());
            }
            if line.contains("Kernel panic") {
                failure.get_or_insert(line.to_owned());
                panicked.get_or_insert(Instant::now());
            }
            if line.starts_with("did not come to its end") {
                failure.get_or_insert(line.to_owned());
            }
        }
        // A guest that has panicked stands still: what its kernel has to say takes a moment.
        match panicked {
            Some(since) if since.elapsed() > Duration::from_secs(3) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;
    match failure {
        Some(why) => guest_failed(&ended, &why),
        None => host::status(&ended),
    }
}

fn guest_failed(ended: &Ended, why: &str) -> Result<u8> {
    host::complain(ended);
    let lines = console::tail(&ended.log, 20);
    crate::progress(&format!("the guest: {why}\n{lines}\n(all of it: {})", ended.log.display()));
    Ok(NOT_RUN)
}

/// Boots host and guest for a person.
fn interact(layout: &Layout, host: &Host, script: &str) -> Result<u8> {
    crate::progress("starting host and guest. Way out: Ctrl-A X, or poweroff in the guest");
    let tokens = Tokens::new();
    let log = machine::channel_log(layout, "run");
    let _ = std::fs::remove_file(&log);
    let mut guest = Follower::new(&log);
    let started = Instant::now();
    let mut shown = false;
    let ended = host.boot(layout, "run", &tokens, Task::OnTerminal(script), Box::new(io::sink()), &mut |_| {
        if !shown && guest.lines().iter().any(|line| line.contains("This is the guest")) {
            shown = true;
            report_time(started.elapsed());
        }
        ControlFlow::Continue(())
    })?;
    host::complain(&ended);
    if shown && ended.load_failed.is_none() {
        return Ok(0);
    }
    // Perhaps the person left early; if not, this says why there was no guest.
    match ended.status {
        Some(0) | None if ended.load_failed.is_none() => Ok(0),
        _ => host::status(&ended),
    }
}

/// Says how long it took, also to a terminal in raw mode.
fn report_time(time: Duration) {
    eprint!("xtask: {:.1} s from power-on of the host to the guest's shell\r\n", time.as_secs_f32());
}
