// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask fuzz`: a host with processes and guests that mean harm, for minutes (`conformance/src/fuzz`).
//!
//! The first fifth of the time belongs to wild guests with `host-witness` beside them, the rest to guests and hostile processes mixed. Then
//! the module is unloaded and loaded again, and a bare-metal guest runs. All follows from the seed, threads' races apart: a run
//! that failed is repeated by its seed and from the process that was last begun before it did.

use std::io;
use std::ops::ControlFlow;

use anyhow::Result;
use clap::Args;

use crate::console;
use crate::host::{self, Host, HostOptions, Task, Tokens};
use crate::layout::Layout;

/// `cargo xtask fuzz`.
#[derive(Args, Debug)]
pub struct FuzzCommand {
    /// What everything follows from [default: another each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// For so long
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub minutes: u64,
    /// Until there were so many calls, instead of for a time
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    pub calls: Option<u64>,
    /// Begins with process N of the seed's, without the guests that come before all
    #[arg(long, value_name = "N")]
    pub first: Option<u64>,
    #[command(flatten)]
    pub options: HostOptions,
}

/// Runs it; the status is 0 if all is well, the host's log included.
pub fn run(layout: &Layout, command: &FuzzCommand) -> Result<u8> {
    let seed = command.seed.unwrap_or_else(|| u64::from_str_radix(&console::token(), 16).unwrap_or(1) >> 16);
    let seconds = command.minutes * 60;
    let mut options = command.options.clone();
    // What is asked for comes on top of what a command may take; nobody knows how long so many calls take.
    if options.timeout > 0 {
        options.timeout = if command.calls.is_some() { 0 } else { options.timeout + seconds };
    }
    let host = Host::prepare(layout, &options, true)?;
    crate::progress(&format!("seed {seed}"));
    let tokens = Tokens::new();
    let script = script(command, seed, seconds);
    let task = Task::Script(&script);
    let ended = host.boot(layout, "fuzz", &tokens, task, Box::new(io::stdout()), &mut |_| ControlFlow::Continue(()))?;
    let clean = console::first_bad_line(&ended.log).is_none();
    let status = host::status(&ended);
    if clean && matches!(status, Ok(0)) {
        return Ok(0);
    }
    crate::progress(&format!(
        "once more: the same command with --seed {seed}, and --first N to begin with the process that was last begun"
    ));
    status.map(|status| status.max(1))
}

/// What the host is to do.
fn script(command: &FuzzCommand, seed: u64, seconds: u64) -> String {
    let (guests, bound) = match command.calls {
        Some(calls) => (0, format!("--calls {calls}")),
        None => (seconds / 5, format!("--seconds {}", seconds - seconds / 5)),
    };
    let witness = if guests > 0 && command.first.is_none() {
        format!("host-witness 0 kvm-fuzz --seed {seed} --only guests --seconds {guests} || exit 1\n")
    } else {
        String::new()
    };
    let first = command.first.map_or(String::new(), |first| format!(" --first {first}"));
    format!(
        "{witness}kvm-fuzz --seed {seed} {bound}{first} || exit 1
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko && bare first_light"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        fuzz: FuzzCommand,
    }

    fn script_of(arguments: &[&str]) -> String {
        let arguments = Arguments::try_parse_from([&["fuzz"], arguments].concat()).expect("arguments");
        script(&arguments.fuzz, 7, arguments.fuzz.minutes * 60)
    }

    #[test]
    fn a_run_is_bounded_by_time_or_by_calls() {
        let script = script_of(&["--minutes", "10"]);
        assert!(
            script.contains("--only guests --seconds 120 ") && script.contains("--seed 7 --seconds 480 "),
            "{script}"
        );
        let script = script_of(&["--calls", "5000", "--first", "12"]);
        assert!(script.starts_with("kvm-fuzz --seed 7 --calls 5000 --first 12 "), "{script}");
    }
}
