// SPDX-License-Identifier: GPL-2.0-only
//! One boot of a host under QEMU.
//!
//! The kernel's console always goes to a log file. The other serial port carries what the command prints: QEMU writes it to its own
//! standard output, which is a pipe to us. For a person, one of the two ports is the terminal instead, shared with QEMU's monitor, so that
//! Ctrl-A X always is a way out.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::board::{self, Board};
use crate::console::{Follower, Mark};
use crate::layout::Layout;
use crate::setup::kernel::Kernel;
use crate::setup::qemu::Qemu;

/// Which port a person types into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// None: the second port's output comes to us.
    None,
    /// The kernel's console.
    Console,
    /// The second port.
    Channel,
}

/// What to start.
pub struct Boot<'a> {
    /// The board.
    pub board: Board,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its root file system.
    pub initramfs: &'a Path,
    /// QEMU.
    pub qemu: &'a Qemu,
    /// QEMU's `-cpu`, instead of the board's.
    pub cpu: Option<&'a str>,
    /// CPUs, instead of the board's.
    pub smp: Option<u32>,
    /// QEMU's `-m`.
    pub mem: &'a str,
    /// A disk's file.
    pub disk: Option<&'a Path>,
    /// More of the kernel's command line.
    pub append: &'a str,
    /// More arguments for QEMU.
    pub qemu_args: &'a [String],
    /// Who types where.
    pub terminal: Terminal,
    /// The name of the log files.
    pub name: &'a str,
    /// What marks `/init`'s lines.
    pub token: &'a str,
    /// How long it may take.
    pub limit: Option<Duration>,
}

/// How a boot ended.
pub struct Ended {
    /// The command's status, if the host came to say it.
    pub status: Option<i32>,
    /// What insmod said, if it failed.
    pub load_failed: Option<String>,
    /// Whether it took too long and was ended.
    pub timed_out: bool,
    /// How QEMU ended.
    pub qemu: ExitStatus,
    /// The kernel's console.
    pub log: PathBuf,
}

/// Where the console of the boot called `name` is logged.
pub fn console_log(layout: &Layout, name: &str) -> PathBuf {
    layout.state(format!("logs/{name}-console.log"))
}

/// Where the second port of the boot called `name` is logged when a person types into it.
pub fn channel_log(layout: &Layout, name: &str) -> PathBuf {
    layout.state(format!("logs/{name}-channel.log"))
}

/// Who is told what happens while a host runs: each line of its console, and `None` many times a second. A break ends the host.
pub type Watch<'a> = &'a mut dyn FnMut(Option<&str>) -> ControlFlow<()>;

/// Starts a host and stays with it until it ends. What comes out of the second port goes to `channel` as it comes.
pub fn run(layout: &Layout, boot: &Boot, channel: Box<dyn Write + Send>, watch: Watch) -> Result<Ended> {
    let log = console_log(layout, boot.name);
    let mut command = qemu_command(layout, boot, &log)?;
    std::fs::create_dir_all(layout.state("logs"))?;
    let _ = std::fs::remove_file(&log);
    let mut child = command.spawn().with_context(|| format!("{}: cannot be started", crate::child::typed(&command)))?;
    let copier = child.stdout.take().map(|pipe| thread::spawn(move || copy(pipe, channel)));
    let ended = attend(&mut child, boot, &log, watch);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    if let Some(copier) = copier {
        let _ = copier.join();
    }
    ended
}

/// Waits for the end of QEMU, reading the console meanwhile.
fn attend(child: &mut Child, boot: &Boot, log: &Path, watch: Watch) -> Result<Ended> {
    let started = Instant::now();
    let mut follower = Follower::new(log);
    let mut status = None;
    let mut load_failed = None;
    let mut timed_out = false;
    let mut stopped = false;
    let mut told = None;
    loop {
        let gone = child.try_wait()?;
        for line in follower.lines() {
            stopped |= watch(Some(&line)).is_break();
            match Mark::find(&line, boot.token) {
                Some(Mark::Status(number)) => status = Some(number),
                Some(Mark::LoadFailed(why)) => load_failed = Some(why),
                Some(Mark::Ready) | None => {}
            }
        }
        if let Some(qemu) = gone {
            return Ok(Ended { status, load_failed, timed_out, qemu, log: log.to_path_buf() });
        }
        stopped |= watch(None).is_break();
        let now = Instant::now();
        // Some boards cannot power themselves off.
        let over = boot.terminal == Terminal::None && (status.is_some() || load_failed.is_some());
        if over && now - *told.get_or_insert(now) > Duration::from_secs(10) || stopped {
            child.kill()?;
        }
        if boot.limit.is_some_and(|limit| now - started > limit) && !over {
            timed_out = true;
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn copy(mut from: impl Read, mut to: Box<dyn Write + Send>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            return;
        }
        // Nobody may be reading any more: the host must go on all the same.
        let _ = to.write_all(&buffer[..count]).and_then(|()| to.flush());
    }
}

fn qemu_command(layout: &Layout, boot: &Boot, log: &Path) -> Result<Command> {
    let board = boot.board.describe();
    let mut command = boot.qemu.command();
    command
        .args(["-machine", board.machine])
        .args(["-smp", &boot.smp.unwrap_or(board.cpus).to_string()])
        .args(["-m", boot.mem])
        .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(boot.kernel.image())
        .arg("-initrd")
        .arg(boot.initramfs);
    if let Some(cpu) = boot.cpu.or(board.cpu) {
        command.args(["-cpu", cpu]);
    }
    if let Some(name) = board.device_tree {
        let original = boot.kernel.device_tree(name);
        match board.switch_on {
            Some(node) => {
                let copy = layout.state(format!("logs/{}.dtb", boot.name));
                board::switch_on(&original, &copy, node)?;
                command.arg("-dtb").arg(copy);
            }
            None if original.exists() => {
                command.arg("-dtb").arg(original);
            }
            None => bail!("{}: this kernel has no device tree for the board", original.display()),
        }
    }
    // A panic ends QEMU at once (-no-reboot); what user space writes to the kernel log is never dropped.
    let mut line = format!("console={},115200 panic=-1 printk.devkmsg=on", board.console);
    if boot.terminal == Terminal::Console {
        line += " quiet";
    }
    line = format!("{line} {}", boot.append);
    command.args(["-append", line.trim_end()]);

    let to_file = |id: &str, path: &Path| format!("file,id={id},path={}", escaped(path));
    let to_person =
        |id: &str, path: &Path| format!("stdio,id={id},mux=on,signal=off,logfile={},logappend=off", escaped(path));
    let console = match boot.terminal {
        Terminal::Console => to_person("console", log),
        _ => to_file("console", log),
    };
    let channel = match boot.terminal {
        Terminal::None => to_file("channel", Path::new("/dev/stdout")),
        Terminal::Console => "null,id=channel".to_owned(),
        Terminal::Channel => to_person("channel", &channel_log(layout, boot.name)),
    };
    command.args(["-chardev", &console, "-chardev", &channel]);
    match boot.terminal {
        Terminal::None => {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        Terminal::Console => {
            command.args(["-mon", "chardev=console,mode=readline"]);
        }
        Terminal::Channel => {
            command.args(["-mon", "chardev=channel,mode=readline"]);
        }
    }
    command.args(["-serial", "chardev:console"]);
    for _ in 1..board.channel_index {
        command.args(["-serial", "null"]);
    }
    command.args(["-serial", "chardev:channel"]);
    if let Some(disk) = boot.disk {
        command.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", escaped(disk))]);
        command.args(["-device", "virtio-blk-device,drive=disk"]);
    }
    command.args(boot.qemu_args);
    Ok(command)
}

/// A path in one of QEMU's comma-separated lists.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
