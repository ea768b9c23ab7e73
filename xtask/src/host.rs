// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask host`: boots a host with the module loaded, for a shell or for one command.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bench;
use crate::board::Board;
use crate::build::{self, Products};
use crate::console;
use crate::initramfs::{Initramfs, assignments};
use crate::layout::Layout;
use crate::machine::{self, Boot, Ended, Terminal, Watch};
use crate::setup::kernel::{self, Choice, Kernel};
use crate::setup::qemu::{self, Qemu};

/// What an `--exec` ends with when its command could not be run to its end.
pub const NOT_RUN: u8 = 125;

const GUEST: &str = include_str!("../initramfs/guest");
const BARE: &str = include_str!("../initramfs/bare");
/// The bare-metal guest that is ended from without.
const ENDLESS: &str = "restart";

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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: Option<u32>,
    /// How much memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub mem: String,
    /// An empty disk of this size, /dev/vda. A host that hibernates to it (mkswap, swapon, `echo reboot >/sys/power/disk`) goes on from it
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<String>,
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
    pub kernel: Kernel,
    /// How it is started.
    pub options: HostOptions,
    /// Whether it loads the module.
    pub load: bool,
    qemu: Qemu,
    busybox: PathBuf,
    products: Option<Products>,
    guest_kernel: Kernel,
    guest_append: String,
    scratch: tempfile::TempDir,
}

/// What a host does once it is up.
#[derive(Clone, Copy)]
pub enum Task<'a> {
    /// A shell on the console.
    Shell,
    /// This script; what it prints comes out of the second port.
    Script(&'a str),
    /// This script, with the second port being the person's terminal.
    OnTerminal(&'a str),
}

/// The marks of a boot, by which to know its lines on the kernel log.
pub struct Tokens {
    /// The host's.
    pub host: String,
    /// Its guests'.
    pub guest: String,
}

impl Tokens {
    /// New ones.
    pub fn new() -> Tokens {
        Tokens { host: console::token(), guest: console::token() }
    }
}

impl Host {
    /// Fetches and builds what such a host needs. Without the module loaded it may do without what does not build.
    pub fn prepare(layout: &Layout, options: &HostOptions, load: bool) -> Result<Host> {
        let products = match build::build(layout, &options.kernel) {
            Ok(products) => Some(products),
            Err(error) if load => return Err(error),
            Err(error) => {
                crate::progress(&format!("going on without module, wsvm and guests: {error:#}"));
                None
            }
        };
        let _lock = layout.lock()?;
        Ok(Host {
            kernel: kernel::ensure(layout, &options.kernel)?,
            guest_kernel: kernel::ensure(layout, &Choice::default())?,
            guest_append: String::new(),
            qemu: match &options.qemu {
                Some(path) => Qemu::at(path)?,
                None => qemu::ensure(layout)?,
            },
            busybox: kernel::ensure_busybox(layout)?,
            products,
            options: options.clone(),
            load,
            scratch: tempfile::tempdir().context("no temporary folder")?,
        })
    }

    /// Gives its Linux guests this kernel, and more of a command line.
    pub fn guests_run(&mut self, kernel: Kernel, append: &str) {
        self.guest_kernel = kernel;
        self.guest_append = append.to_owned();
    }

    /// The names of the bare-metal guests in `/guests` that are tests.
    pub fn bare_guests(&self) -> impl Iterator<Item = &str> {
        let guests = self.products.iter().flat_map(|products| &products.guests);
        guests.map(|(name, _)| &**name).filter(|name| !name.starts_with(bench::GUESTS) && *name != ENDLESS)
    }

    /// The version of its QEMU.
    pub fn qemu_version(&self) -> Result<String> {
        let (major, minor) = self.qemu.version()?;
        Ok(format!("{major}.{minor}"))
    }

    /// The tty of the second port, in the host.
    pub fn channel(&self) -> String {
        format!("/dev/{}", self.options.board.describe().channel)
    }

    /// Boots it for `task`, with log files called `name`. What comes out of the second port goes to `output`.
    pub fn boot(
        &self,
        layout: &Layout,
        name: &str,
        tokens: &Tokens,
        task: Task,
        output: Box<dyn Write + Send>,
        watch: Watch,
    ) -> Result<Ended> {
        let initramfs = self.initramfs(tokens, task)?;
        let disk = self.options.disk.as_deref().map(|size| self.disk(size)).transpose()?;
        let (terminal, seconds) = match task {
            Task::Shell => (Terminal::Console, 0),
            Task::Script(_) => (Terminal::None, self.options.timeout),
            Task::OnTerminal(_) => (Terminal::Channel, 0),
        };
        let boot = Boot {
            board: self.options.board,
            kernel: &self.kernel,
            initramfs: &initramfs,
            qemu: &self.qemu,
            cpu: self.options.cpu.as_deref(),
            smp: self.options.smp,
            mem: &self.options.mem,
            disk: disk.as_deref(),
            append: &self.options.append,
            qemu_args: &self.options.qemu_arg,
            terminal,
            name,
            token: &tokens.host,
            limit: (seconds > 0).then(|| Duration::from_secs(seconds)),
        };
        machine::run(layout, &boot, output, watch)
    }

    /// Makes the disk anew.
    fn disk(&self, size: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join("disk");
        let bytes = bytes(size).with_context(|| format!("--disk {size}: not a size, such as 512M"))?;
        File::create(&path).and_then(|file| file.set_len(bytes)).context("the disk cannot be made")?;
        Ok(path)
    }

    /// Writes the host's root file system.
    fn initramfs(&self, tokens: &Tokens, task: Task) -> Result<PathBuf> {
        let board = self.options.board.describe();
        // A script has no terminal, and should find the same host wherever it is started.
        let (rows, columns) = match task {
            Task::Script(_) => (String::new(), String::new()),
            Task::Shell | Task::OnTerminal(_) => terminal_size(),
        };
        let mut image = Initramfs::new(
            &self.busybox,
            &[
                ("ROLE", "host"),
                ("LOAD", if self.load { "yes" } else { "no" }),
                ("CONSOLE", &format!("/dev/{}", board.console)),
                ("CHANNEL", &self.channel()),
                ("TOKEN", &tokens.host),
                ("DISK", if self.options.disk.is_some() { "yes" } else { "no" }),
                ("ROWS", &rows),
                ("COLUMNS", &columns),
            ],
        )?;
        if let Task::Script(script) | Task::OnTerminal(script) = task {
            image.text("etc/exec", script, 0o755);
        }
        if self.options.disk.is_some() {
            for driver in ["virtio/virtio_mmio", "block/virtio_blk"] {
                image.file(&self.kernel.driver(driver)?, &format!("lib/drivers/{driver}.ko"))?;
            }
        }
        if let Some(products) = &self.products {
            image.file(&products.module, "lib/worldswitch/worldswitch.ko")?;
            for (name, path) in &products.programs {
                image.file(path, &format!("bin/{name}"))?;
            }
            for (name, path) in &products.guests {
                image.file(path, &format!("guests/{name}.bin"))?;
            }
            image.text("bin/bare", BARE, 0o755);
            self.add_linux_guest(&mut image, &products.module, tokens, (&rows, &columns))?;
        }
        for argument in &self.options.with {
            image.with(argument)?;
        }
        let path = self.scratch.path().join("host.cpio");
        image.write(&path)?;
        Ok(path)
    }

    /// Adds Debian's kernel, a root file system and the `guest` command to `image`.
    fn add_linux_guest(&self, image: &mut Initramfs, module: &Path, tokens: &Tokens, size: (&str, &str)) -> Result<()> {
        let mut guest = Initramfs::new(
            &self.busybox,
            &[
                ("ROLE", "guest"),
                ("LOAD", "no"),
                ("CONSOLE", "/dev/ttyS0"),
                ("CHANNEL", "/dev/ttyS1"),
                ("TOKEN", &tokens.guest),
                ("ROWS", size.0),
                ("COLUMNS", size.1),
            ],
        )?;
        // For trying what happens: a guest has no Hyp mode to take.
        if self.guest_kernel.release == self.kernel.release {
            guest.file(module, "lib/worldswitch/worldswitch.ko")?;
        }
        let path = self.scratch.path().join("guest.cpio");
        guest.write(&path)?;
        image.file(&path, "boot/guest.cpio")?;
        image.file(&self.guest_kernel.image(), "boot/vmlinuz")?;
        image.text("bin/guest", GUEST, 0o755);
        let settings = [("TOKEN", &*tokens.guest), ("APPEND", &self.guest_append)];
        image.text("etc/worldswitch-guest", &assignments(&settings), 0o644);
        Ok(())
    }
}

/// Runs the command; its exit status is the program's.
pub fn run(layout: &Layout, command: &HostCommand) -> Result<u8> {
    let host = Host::prepare(layout, &command.options, !command.no_load)?;
    let tokens = Tokens::new();
    let watch: Watch = &mut |_| ControlFlow::Continue(());
    match &command.exec {
        Some(script) => {
            let output = Box::new(io::stdout());
            let task = Task::Script(script);
            let ended = host.boot(layout, "host", &tokens, task, output, watch)?;
            status(&ended)
        }
        None => {
            if !io::stdin().is_terminal() {
                bail!("standard input is not a terminal: give the host a command with --exec");
            }
            crate::progress("starting the host. Way out: Ctrl-A X");
            let nowhere = Box::new(io::sink());
            let ended = host.boot(layout, "host", &tokens, Task::Shell, nowhere, watch)?;
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
        format!("the host ended before its command did (QEMU: {})", ended.qemu)
    };
    bail!("{how}\n{lines}\n(all of it: {log})");
}

/// Shows what the host's kernel complained of.
pub fn complain(ended: &Ended) {
    if let Some(line) = console::first_bad_line(&ended.log) {
        crate::progress(&format!("the host's kernel complained: {line}"));
        crate::progress(&format!("its log: {}", ended.log.display()));
    }
}

/// What a size such as 512M or 1G says.
fn bytes(size: &str) -> Option<u64> {
    let (number, unit) = size.split_at_checked(size.len().checked_sub(1)?)?;
    let shift = match unit {
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The terminal's rows and columns, or nothing.
fn terminal_size() -> (String, String) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => (size.ws_row.to_string(), size.ws_col.to_string()),
        _ => (String::new(), String::new()),
    }
}
