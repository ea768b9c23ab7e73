// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask`: sets up, builds, runs and tests Worldswitch on a developer's machine.
//!
//! Standard output carries what a command was asked for (the output of `--exec`, test results), standard error everything else.

mod bench;
mod board;
mod build;
mod child;
mod console;
mod fuzz;
mod host;
mod initramfs;
mod layout;
mod machine;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use layout::Layout;

/// Sets up, builds, runs and tests Worldswitch. The first use of any command fetches what this machine lacks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetches what this machine lacks, and nothing else
    Setup,
    /// Builds the Hyp image, worldswitch.ko, wsvm and the guests, and prints where they are
    Build {
        /// The kernel to build the module for
        #[arg(long, value_name = "SUITE[/FLAVOUR]", default_value_t)]
        kernel: setup::kernel::Choice,
    },
    /// Boots the host, and in it Debian's kernel as a guest, to the guest's shell
    Run(run::RunCommand),
    /// Boots the host with the module loaded and gives its shell
    Host(host::HostCommand),
    /// Runs every test: N passed, N failed
    Test(test::TestCommand),
    /// Has processes and guests that mean harm try a host, for minutes
    Fuzz(fuzz::FuzzCommand),
    /// Measures what each operation of a virtual machine costs, in instructions
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let exec = match &arguments.command {
        Task::Host(command) => command.exec.is_some(),
        Task::Run(command) => command.exec.is_some(),
        _ => false,
    };
    match perform(&arguments.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if exec { host::NOT_RUN } else { 1 })
        }
    }
}

fn perform(task: &Task) -> anyhow::Result<u8> {
    let layout = Layout::new()?;
    setup::ensure(&layout)?;
    match task {
        Task::Setup => Ok(0),
        Task::Build { kernel } => build::run(&layout, kernel),
        Task::Run(command) => run::run(&layout, command),
        Task::Host(command) => host::run(&layout, command),
        Task::Test(command) => test::run(&layout, command),
        Task::Fuzz(command) => fuzz::run(&layout, command),
        Task::Bench(command) => bench::run(&layout, command),
    }
}

/// Tells the person what is going on.
fn progress(line: &str) {
    eprintln!("xtask: {line}");
}
