// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask host`: boots a host with the module loaded, for a shell or for one command.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::board::Board;
use crate::console;
use crate::initramfs::Initramfs;
use crate::layout::Layout;
use crate::machine::{self, Boot, Ended, Terminal};
use crate::setup::kernel::{self, Choice};
use crate::setup::qemu::{self, Qemu};

/// What an `--exec` ends with when its command could not be run to its end.
pub const NOT_RUN: u8 = 125;

/// What kind of host.
#[derive(Args, Clone, Debug)]
pub struct HostOptions {
    /// Adds a file or folder to the host, by default to /root (repeatable)
    #[arg(long, value_name = "PATH[:DEST]")]
    pub with: Vec<String>,
    /// Debian's kernel for the host: bookworm, bookworm/armmp, trixie, bookworm-backports, forky, bullseye...
    #[arg(long, value_name = "SUITE[/FLAVOUR]", default_value_t)]
    pub kernel: Choice,
    /// The board that QEMU is
    #[arg(long, value_enum, default_value = "virt")]
    pub board: Board,
    /// The CPU (virt: cortex-a15, cortex-a7, max) [default: the board's]
    #[arg(long)]
    pub cpu: Option<String>,
    /// How many CPUs [default: the board's]
    #[arg(long, value_name = "N")]
    pub smp: Option<u32>,
    /// How much memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub mem: String,
    /// More of the host kernel's command line
    #[arg(long, default_value = "")]
    pub append: String,
    /// One more argument for QEMU (repeatable)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arg: Vec<String>,
    /// This QEMU instead of the one that setup found
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Ends the host after so many seconds (with --exec; 0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub timeout: u64,
}

/// `cargo xtask host`.
#[derive(Args, Debug)]
pub struct HostCommand {
    /// Runs COMMAND in the host's shell, prints its output and nothing else, and exits with its status
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// Does not load the module
    #[arg(long)]
    pub no_load: bool,
    #[command(flatten)]
    pub options: HostOptions,
}

/// A host made ready to boot, once or several times.
pub struct Host {
    /// Its kernel.
    pub kernel: kernel::Kernel,
    qemu: Qemu,
    busybox: PathBuf,
    options: HostOptions,
    load: bool,
    scratch: tempfile::TempDir,
    /// Files to add: from, to.
    files: Vec<(PathBuf, String)>,
}

impl Host {
    /// Fetches and builds what such a host needs.
    pub fn prepare(layout: &Layout, options: &HostOptions, load: bool) -> Result<Host> {
        let _lock = layout.lock()?;
        let kernel = kernel::ensure(layout, &options.kernel)?;
        let qemu = match &options.qemu {
            Some(path) => Qemu::at(path)?,
            None => qemu::ensure(layout)?,
        };
        let files = Vec::new();
        Ok(Host {
            kernel,
            qemu,
            busybox: kernel::ensure_busybox(layout)?,
            options: options.clone(),
            load,
            scratch: tempfile::tempdir().context("no temporary folder")?,
            files,
        })
    }

    /// Adds the file `from` as `to`.
    pub fn add(&mut self, from: &Path, to: &str) {
        self.files.push((from.to_path_buf(), to.to_owned()));
    }

    /// A path for a file that lives as long as this host.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// busybox.
    pub fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// The tty of the second port, in the host.
    pub fn channel(&self) -> String {
        format!("/dev/{}", self.options.board.describe().channel)
    }

    /// Boots it to run `script`. What the script prints goes to `output`, every line of the console to `watch`.
    pub fn exec(
        &self,
        layout: &Layout,
        name: &str,
        script: &str,
        output: Box<dyn Write + Send>,
        watch: &mut dyn FnMut(&str),
    ) -> Result<Ended> {
        self.boot(layout, name, "exec", script, Terminal::None, output, watch)
    }

    /// Boots it for a person: to a shell on the console, or to `script`, which uses the second port as the terminal.
    pub fn interact(
        &self,
        layout: &Layout,
        name: &str,
        script: Option<&str>,
        watch: &mut dyn FnMut(&str),
    ) -> Result<Ended> {
        let nowhere = Box::new(io::sink());
        match script {
            None => self.boot(layout, name, "shell", "", Terminal::Console, nowhere, watch),
            Some(script) => self.boot(
                layout,
                name,
                "exec",
                script,
                Terminal::Channel,
                nowhere,
                watch,
            ),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the two callers above name them")]
    fn boot(
        &self,
        layout: &Layout,
        name: &str,
        mode: &str,
        script: &str,
        terminal: Terminal,
        output: Box<dyn Write + Send>,
        watch: &mut dyn FnMut(&str),
    ) -> Result<Ended> {
        let token = console::token();
        let board = self.options.board.describe();
        let (rows, columns) = terminal_size();
        let mut image = Initramfs::new(
            &self.busybox,
            &[
                ("ROLE", "host"),
                ("MODE", mode),
                ("LOAD", if self.load { "yes" } else { "no" }),
                ("CONSOLE", &format!("/dev/{}", board.console)),
                ("CHANNEL", &self.channel()),
                ("TOKEN", &token),
                ("ROWS", &rows),
                ("COLUMNS", &columns),
                (
                    "BANNER",
                    "This is the host. Way out: poweroff, or Ctrl-A X.",
                ),
            ],
        )?;
        image.text("etc/exec", script, 0o755);
        for (from, to) in &self.files {
            image.file(from, to)?;
        }
        for argument in &self.options.with {
            image.with(argument)?;
        }
        let initramfs = self.scratch("host.cpio");
        image.write(&initramfs)?;
        let limit = (terminal == Terminal::None && self.options.timeout > 0)
            .then(|| Duration::from_secs(self.options.timeout));
        let boot = Boot {
            board: self.options.board,
            kernel: &self.kernel,
            initramfs: &initramfs,
            qemu: &self.qemu,
            cpu: self.options.cpu.as_deref(),
            smp: self.options.smp,
            mem: &self.options.mem,
            append: &self.options.append,
            qemu_args: &self.options.qemu_arg,
            terminal,
            name,
            token: &token,
            limit,
        };
        machine::run(layout, &boot, output, watch)
    }
}

/// Runs the command; its exit status is the program's.
pub fn run(layout: &Layout, command: &HostCommand) -> Result<u8> {
    let host = Host::prepare(layout, &command.options, !command.no_load)?;
    match &command.exec {
        Some(script) => {
            let output = Box::new(io::stdout());
            let ended = host.exec(layout, "host", script, output, &mut |_| {})?;
            status(&ended)
        }
        None => {
            if !io::stdin().is_terminal() {
                bail!("standard input is not a terminal: give the host a command with --exec");
            }
            crate::progress("starting the host. Way out: Ctrl-A X");
            let ended = host.interact(layout, "host", None, &mut |_| {})?;
            complain(&ended);
            Ok(0)
        }
    }
}

/// The status that the command ended with, or an error that says why there is none.
pub fn status(ended: &Ended) -> Result<u8> {
    complain(ended);
    let log = ended.log.display();
    if let Some(why) = &ended.load_failed {
        let lines = console::tail(&ended.log, 12);
        bail!("the host refused the module: {why}\n{lines}\n(all of it: {log})");
    }
    if let Some(number) = ended.status {
        return Ok(u8::try_from(number).unwrap_or(u8::MAX));
    }
    let lines = console::tail(&ended.log, 12);
    let how = if ended.timed_out {
        "the host took too long and was ended (--timeout)".to_owned()
    } else {
        format!(
            "the host ended before its command did (QEMU: {})",
            ended.qemu
        )
    };
    bail!("{how}\n{lines}\n(all of it: {log})");
}

/// Shows what the host's kernel complained of.
fn complain(ended: &Ended) {
    if let Some(line) = console::first_bad_line(&ended.log) {
        crate::progress(&format!("the host's kernel complained: {line}"));
        crate::progress(&format!("its log: {}", ended.log.display()));
    }
}

/// The terminal's rows and columns, or nothing.
pub fn terminal_size() -> (String, String) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => (size.ws_row.to_string(), size.ws_col.to_string()),
        _ => (String::new(), String::new()),
    }
}
