// SPDX-License-Identifier: GPL-2.0-only
//! `wsvm`, a virtual machine monitor for KVM on 32-bit Arm.
//!
//! One trip through it: [`machine`] opens the files and judges the kernel ([`kernel_image`]), decides what goes where ([`layout`]), maps memory
//! ([`guest_memory`]), has KVM make machine, vCPUs and GIC ([`kvm`] over [`kvm_fd`]), writes the device tree ([`device_tree`]), and
//! starts a thread for each vCPU ([`vcpu`]). A vCPU's device accesses go over the [`bus`] to the serial ports ([`serial`]), whose
//! input comes from the [`terminal`].
//!
//! It runs on 32-bit Arm; elsewhere it compiles, and its tests run.
#![deny(unsafe_op_in_unsafe_fn)]

mod bus;
mod device_tree;
mod error;
mod guest_memory;
mod kernel_image;
mod kvm;
mod kvm_fd;
mod layout;
mod machine;
mod saved_machine;
mod serial;
mod terminal;
mod vcpu;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::Error;
use crate::guest_memory::Backing;
use crate::layout::{MAX_CPUS, MIN_RAM};
use crate::machine::{Configuration, End, Resumption};

const STATUSES: &str = "\
Exit status:
  0        the guest powered off, or was saved
  1        the machine could not be run, or its output not be written: a file, the host, /dev/kvm; one line on standard error
           says what and what to do
  2        wrong usage
  3        the guest died: one line on standard error says how
  4        ended by Ctrl-A X
  128 + n  ended by signal n (SIGINT, SIGTERM, SIGHUP, SIGQUIT)
";

const CONSOLE: &str = "\
The console is the guest's first serial port, ttyS0: --append console=ttyS0. If standard input is a terminal, every key goes to the \
guest but Ctrl-A: Ctrl-A X ends the machine, Ctrl-A A sends a Ctrl-A. A guest that resets is started again from the same files.
";

/// Runs virtual machines on KVM for 32-bit Arm
#[derive(Parser)]
#[command(version, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a machine until it powers off
    #[command(after_help = STATUSES, after_long_help = format!("{CONSOLE}\n{STATUSES}"))]
    Run(Run),
    /// Go on with a machine that was saved by SIGUSR1 (see run --save), on the same kind of core; it ends (status 1) when its guest resets
    #[command(after_help = STATUSES)]
    Resume(Resume),
}

#[derive(Args)]
struct Run {
    /// The kernel: a zImage, such as Debian's /boot/vmlinuz-VERSION-armmp
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line (repeatable: the texts are joined by spaces)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "dtb")]
    append: Vec<String>,
    /// Memory: MiB, or with a suffix K, M or G; at least 16M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory_size)]
    mem: u64,
    /// Take the memory from the host's pool of huge pages (root sets its size: /proc/sys/vm/nr_hugepages): all of it at the start, and anew when the guest restarts
    #[arg(long)]
    huge_pages: bool,
    /// How many CPUs: 1 to 8
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS))]
    cpus: u32,
    /// A device tree to use as it is, instead of wsvm's own: memory, command line and initrd's place are what it says
    #[arg(long, value_name = "FILE")]
    dtb: Option<PathBuf>,
    /// Append the output of the second serial port, ttyS1, to this file
    #[arg(long, value_name = "FILE")]
    serial: Option<PathBuf>,
    /// Write the device tree that the guest gets to this file
    #[arg(long, value_name = "FILE")]
    dump_dtb: Option<PathBuf>,
    /// On SIGUSR1, save the machine to this file, which is not there yet, and end (status 0): wsvm resume goes on with it. A machine that cannot be written then (no space) goes on
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

#[derive(Args)]
struct Resume {
    /// The saved machine
    machine: PathBuf,
    /// Take the memory from the host's pool of huge pages (see run --huge-pages)
    #[arg(long)]
    huge_pages: bool,
    /// Append the output of the second serial port, ttyS1, to this file
    #[arg(long, value_name = "FILE")]
    serial: Option<PathBuf>,
    /// On SIGUSR1, save the machine to this file, which is not there yet, and end (status 0)
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Reads a size of memory: whole pages, at least [`MIN_RAM`]. What is too much is for the machine to say.
fn memory_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1u64 << 20),
    };
    let count: u64 = digits.parse().map_err(|_| "a number with K, M or G, such as 256M".to_string())?;
    let bytes = count.checked_mul(unit).ok_or("more than any machine has")?;
    if bytes < MIN_RAM {
        return Err(format!("at least {}M", MIN_RAM >> 20));
    }
    if bytes % (1 << 20) != 0 {
        return Err("a whole number of MiB".into());
    }
    Ok(bytes)
}

fn carry_out(command: Command) -> Result<End, Error> {
    match command {
        Command::Run(run) => machine::run(&Configuration {
            kernel: run.kernel,
            initrd: run.initrd,
            command_line: run.append.join(" "),
            memory: run.mem,
            backing: backing(run.huge_pages),
            cpus: run.cpus,
            dtb: run.dtb,
            serial: run.serial,
            dump_dtb: run.dump_dtb,
            save: run.save,
        }),
        Command::Resume(resume) => machine::resume(&Resumption {
            machine: resume.machine,
            backing: backing(resume.huge_pages),
            serial: resume.serial,
            save: resume.save,
        }),
    }
}

fn backing(huge_pages: bool) -> Backing {
    if huge_pages { Backing::HugePages } else { Backing::Any }
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::put_back();
        report(panic);
    }));
    // The terminal is as it was before anything is said.
    match carry_out(command) {
        Ok(End::PowerOff | End::Saved) => ExitCode::SUCCESS,
        Ok(End::Escape) => ExitCode::from(4),
        Ok(End::Signal(signal)) => ExitCode::from(128 + signal as u8),
        Err(error) => {
            eprintln!("wsvm: {error}");
            ExitCode::from(error.status())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
        let line = [
            "wsvm",
            "run",
            "--kernel",
            "k",
            "--append",
            "-v console=ttyS0",
            "--append",
            "quiet",
            "--mem",
            "1G",
            "--cpus",
            "2",
        ];
        let Command::Run(run) = CommandLine::try_parse_from(line).unwrap().command else { panic!("another command") };
        assert_eq!((run.mem, run.cpus, run.append.join(" ").as_str()), (1 << 30, 2, "-v console=ttyS0 quiet"));
        for cpus in ["0", "9"] {
            let error = CommandLine::try_parse_from(["wsvm", "run", "--kernel", "k", "--cpus", cpus]).err().unwrap();
            assert!(error.to_string().contains("1..=8"), "{error}");
        }
        assert!(CommandLine::try_parse_from(["wsvm", "run", "--kernel", "k", "--dtb", "d", "--append", "x"]).is_err());
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(memory_size("256M"), Ok(256 << 20));
        assert_eq!(memory_size("256"), Ok(256 << 20));
        assert_eq!(memory_size("2g"), Ok(2 << 30));
        assert_eq!(memory_size("32768k"), Ok(32 << 20));
        for bad in ["", "M", "1.5G", "-1", "8M", "16385K", "99999999999999999999", "18446744073709551615G", "256é"] {
            assert!(memory_size(bad).is_err(), "{bad}");
        }
    }
}
