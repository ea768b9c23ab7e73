// SPDX-License-Identifier: GPL-2.0-only
//! Tests in a host under QEMU: one boot, and a list of shell scripts that run in it one after the other.
//!
//! The host prints what each script prints between two marks, which bear a token of this boot; the kernel log has a mark where each test
//! begins, so that a complaint of the kernel can be laid at a test's door. A host that dies fails the test that was running and those that
//! never ran. Whatever the tests say, a line in the host's log that no good run has fails the boot.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Result;

use super::Tally;
use super::expect::{self, Expect};
use crate::board::Board;
use crate::console;
use crate::host::{Host, HostOptions, Task, Tokens};
use crate::initramfs::quoted;
use crate::layout::Layout;
use crate::setup;
use crate::setup::kernel::{Choice, Unserved};

/// A host, and what is tried in it.
pub struct Boot {
    /// Its name: log files are called by it.
    pub name: &'static str,
    /// The board.
    pub board: Board,
    /// The host's kernel.
    pub kernel: Choice,
    /// The CPU, instead of the board's.
    pub cpu: Option<&'static str>,
    /// CPUs, instead of the board's.
    pub smp: Option<u32>,
    /// QEMU's `-m`.
    pub mem: &'static str,
    /// An empty disk of this size.
    pub disk: Option<&'static str>,
    /// More of the kernel's command line.
    pub append: &'static str,
    /// More arguments for QEMU.
    pub qemu_args: &'static [&'static str],
    /// Whether the module is loaded before the first test.
    pub load: bool,
    /// What the host's log may say although no good run does.
    pub tolerated: &'static [&'static str],
    /// How many seconds all of it may take.
    pub limit: u64,
    /// Runs every bare-metal guest before the tests, each in a machine of its own, expecting its report.
    pub bare_guests: bool,
    /// The tests, in order.
    pub tests: &'static [Test],
}

impl Boot {
    /// A boot of the default host with the module loaded, to be changed by struct update.
    pub fn of(name: &'static str) -> Boot {
        Boot {
            name,
            board: Board::Virt,
            kernel: Choice::default(),
            cpu: None,
            smp: None,
            mem: "1G",
            disk: None,
            append: "",
            qemu_args: &[],
            load: true,
            tolerated: &[],
            limit: 1800,
            bare_guests: false,
            tests: &[],
        }
    }
}

/// One script, and how it should go.
#[derive(Clone, Copy)]
pub struct Test {
    /// What is true if it passes.
    pub name: &'static str,
    /// The script, for busybox's shell.
    pub script: &'static str,
    /// The status it should end with.
    pub status: i32,
    /// What it should print.
    pub expect: &'static [Expect],
    /// How many seconds it may take.
    pub limit: u32,
}

impl Test {
    /// A script that should end with status 0, to be changed by struct update.
    pub const fn of(name: &'static str, script: &'static str) -> Test {
        Test { name, script, status: 0, expect: &[], limit: 300 }
    }

    /// The same, and its output should be as demanded.
    pub const fn expecting(mut self, expect: &'static [Expect]) -> Test {
        self.expect = expect;
        self
    }

    /// The same, ending with another status.
    pub const fn failing(mut self, status: i32) -> Test {
        self.status = status;
        self
    }

    /// The same, with more time.
    pub const fn within(mut self, seconds: u32) -> Test {
        self.limit = seconds;
        self
    }
}

/// A test as this boot runs it.
struct Item {
    name: String,
    script: String,
    status: i32,
    expect: Vec<Expect>,
    limit: u32,
}

/// How a script went.
struct Went {
    index: usize,
    status: i32,
    output: String,
}

/// Boots and judges. A kernel that cannot be had today is no failure of ours.
pub fn run(layout: &Layout, boot: &Boot, tally: &mut Tally) {
    match fetch_kernel(layout, &boot.kernel) {
        Ok(()) => {}
        Err(error) if error.is::<Unserved>() => {
            crate::progress(&format!("skipped: {}: {error:#}", boot.name));
            return;
        }
        Err(error) => return tally.not_ok(boot.name, &format!("{error:#}")),
    }
    let options = HostOptions {
        with: Vec::new(),
        kernel: boot.kernel.clone(),
        board: boot.board,
        cpu: boot.cpu.map(str::to_owned),
        smp: boot.smp,
        mem: boot.mem.to_owned(),
        disk: boot.disk.map(str::to_owned),
        append: boot.append.to_owned(),
        qemu_arg: boot.qemu_args.iter().map(|argument| (*argument).to_owned()).collect(),
        qemu: None,
        timeout: boot.limit,
    };
    crate::progress(&format!("booting {} ({})", boot.name, boot.kernel));
    let result = prepare(layout, boot, &options).and_then(|(host, items)| attend(layout, boot, &host, &items, tally));
    if let Err(error) = result {
        tally.not_ok(boot.name, &format!("{error:#}"));
    }
}

/// Fetches a kernel that setup has not.
fn fetch_kernel(layout: &Layout, kernel: &Choice) -> Result<()> {
    if !setup::default_kernels().contains(kernel) {
        let _lock = layout.lock()?;
        setup::kernel::ensure(layout, kernel)?;
    }
    Ok(())
}

fn prepare(layout: &Layout, boot: &Boot, options: &HostOptions) -> Result<(Host, Vec<Item>)> {
    let mut host = Host::prepare(layout, options, true)?;
    host.load = boot.load;
    let mut items = Vec::new();
    if boot.bare_guests {
        for name in host.bare_guests() {
            items.push(Item {
                name: format!("{}: guest {name}", boot.name),
                script: format!("wsvm run --kernel /guests/{name}.bin --mem 64M --cpus {} </dev/null", cpus_of(name)),
                status: 0,
                expect: vec![Expect::Report],
                limit: 180,
            });
        }
    }
    items.extend(boot.tests.iter().map(|test| Item {
        name: format!("{}: {}", boot.name, test.name),
        script: test.script.to_owned(),
        status: test.status,
        expect: test.expect.to_vec(),
        limit: test.limit,
    }));
    Ok((host, items))
}

/// How many CPUs a bare-metal guest is given: all that KVM has for it, if it is about more than one.
fn cpus_of(guest: &str) -> u32 {
    if guest.starts_with("smp") { 8 } else { 1 }
}

fn attend(layout: &Layout, boot: &Boot, host: &Host, items: &[Item], tally: &mut Tally) -> Result<()> {
    let tokens = Tokens::new();
    let (sender, receiver) = channel();
    let output = Box::new(Splitter::new(&tokens.host, sender));
    let script = script(items, &tokens.host);
    let mut judged = BTreeMap::new();
    let log = crate::machine::console_log(layout, &log_name(boot));
    let mut judge_all = |tally: &mut Tally, receiver: &Receiver<Went>| {
        for went in receiver.try_iter() {
            if let Some(item) = items.get(went.index) {
                judge(item, &went, &log, tally);
                judged.insert(went.index, ());
            }
        }
    };
    let ended = host.boot(layout, &log_name(boot), &tokens, Task::Script(&script), output, &mut |_| {
        judge_all(tally, &receiver);
        ControlFlow::Continue(())
    })?;
    judge_all(tally, &receiver);

    let mut why = if let Some(said) = &ended.load_failed {
        format!("the host refused the module: {said}")
    } else if ended.timed_out {
        format!("the host did not end within {} s", boot.limit)
    } else {
        format!("the host ended early (QEMU: {})", ended.qemu)
    };
    for (index, item) in items.iter().enumerate() {
        if !judged.contains_key(&index) {
            tally.not_ok(&item.name, &format!("{why} (log: {})", log.display()));
            why = "the host had ended".to_owned();
        }
    }
    let name = format!("{}: the host's log is clean", boot.name);
    match complaint(&log, &tokens.host, boot.tolerated) {
        None => tally.ok(&name),
        Some(line) => tally.not_ok(&name, &format!("{line} (log: {})", log.display())),
    }
    Ok(())
}

fn log_name(boot: &Boot) -> String {
    format!("test-{}", boot.name)
}

/// The first line of the log that no good run has, and in which test it came.
fn complaint(log: &Path, token: &str, tolerated: &[&str]) -> Option<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mark = format!("worldswitch {token} test ");
    let mut test = "before the first test".to_owned();
    for line in text.lines() {
        if let Some((_, name)) = line.split_once(&mark) {
            test = format!("in '{}'", name.trim());
        } else if console::is_bad(line) && !tolerated.iter().any(|words| line.contains(words)) {
            return Some(format!("{} {test}", line.trim_end()));
        }
    }
    None
}

fn judge(item: &Item, went: &Went, log: &Path, tally: &mut Tally) {
    let wrong = if went.status != item.status {
        Some(match went.status {
            143 | 137 => format!("took more than {} s", item.limit),
            other => format!("its status is {other} instead of {}", item.status),
        })
    } else {
        item.expect.iter().find_map(|expect| {
            let why = expect.judge(&went.output).err()?;
            Some(format!("its output {why}"))
        })
    };
    let reports = item.expect.iter().any(|expect| matches!(expect, Expect::Report));
    let mut good = true;
    for (test, why) in expect::report_lines(&went.output).filter(|_| reports) {
        let name = format!("{}: {test}", item.name);
        match why {
            None => tally.ok(&name),
            Some(why) => tally.not_ok(&name, why),
        }
        good &= why.is_none();
    }
    match wrong {
        // Its parts have counted.
        None if reports && good => {}
        None if reports => println!("  the host's log: {}", log.display()),
        None => tally.ok(&item.name),
        Some(why) => {
            tally.not_ok(&item.name, &why);
            let lines: Vec<&str> = went.output.lines().collect();
            for line in &lines[lines.len().saturating_sub(30)..] {
                println!("  | {line}");
            }
            println!("  the host's log: {}", log.display());
        }
    }
}

/// The script that runs all `items` in the host.
fn script(items: &[Item], token: &str) -> String {
    let mut script = String::new();
    for (index, item) in items.iter().enumerate() {
        script += &format!("echo {} >/dev/kmsg\n", quoted(&format!("<0>worldswitch {token} test {}", item.name)));
        script += &format!("printf '\\n@{token} begin {index}\\n'\n");
        script += &format!("timeout {} sh -c {}\n", item.limit, quoted(&item.script));
        script += "status=$?\n";
        // What a script that took too long has started goes with it.
        script += "case $status in 143|137) killall -q -9 wsvm guest ;; esac\n";
        script += &format!("printf '\\n@{token} end {index} %s\\n' $status\n");
    }
    script
}

/// Cuts what the host prints into tests.
struct Splitter {
    begin: Vec<u8>,
    end: Vec<u8>,
    pending: Vec<u8>,
    sender: Sender<Went>,
}

impl Splitter {
    fn new(token: &str, sender: Sender<Went>) -> Splitter {
        Splitter {
            begin: format!("\n@{token} begin ").into_bytes(),
            end: format!("\n@{token} end ").into_bytes(),
            pending: Vec::new(),
            sender,
        }
    }

    /// Takes the next whole test off the front.
    fn next(&mut self) -> Option<Went> {
        let begin = find(&self.pending, &self.begin)? + self.begin.len();
        let text = begin + find(&self.pending[begin..], b"\n")? + 1;
        // The line's end may be the newline that the end's mark begins with.
        let mark = text - 1 + find(&self.pending[text - 1..], &self.end)?;
        let numbers = mark + self.end.len();
        let over = numbers + find(&self.pending[numbers..], b"\n")?;
        let line = String::from_utf8_lossy(&self.pending[numbers..over]).into_owned();
        let (index, status) = line.trim().split_once(' ')?;
        let went = Went {
            index: index.parse().ok()?,
            status: status.parse().ok()?,
            output: String::from_utf8_lossy(self.pending.get(text..mark).unwrap_or_default()).into_owned(),
        };
        self.pending.drain(..over);
        Some(went)
    }
}

impl Write for Splitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        while let Some(went) = self.next() {
            let _ = self.sender.send(went);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_into_tests_however_it_arrives() {
        let stream = b"noise\n@t begin 0\none\ntwo\n@t end 0 3\n\n@t begin 1\n\n@t end 1 0\n\n@t begin 2\nlost";
        for step in 1..stream.len() {
            let (sender, receiver) = channel();
            let mut splitter = Splitter::new("t", sender);
            for piece in stream.chunks(step) {
                splitter.write_all(piece).expect("written");
            }
            let all: Vec<_> = receiver.try_iter().map(|went| (went.index, went.status, went.output)).collect();
            assert_eq!(all, [(0, 3, "one\ntwo".to_owned()), (1, 0, String::new())], "step {step}");
        }
    }

    #[test]
    fn a_complaint_names_its_test_and_may_be_tolerated() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let text = "[1] fine\n[2] worldswitch t test virt: one\n[3] WARNING: at x\n";
        std::fs::write(&log, text).expect("written");
        let line = complaint(&log, "t", &[]).expect("a complaint");
        assert_eq!(line, "[3] WARNING: at x in 'virt: one'");
        assert_eq!(complaint(&log, "t", &["at x"]), None);
    }
}
