// SPDX-License-Identifier: GPL-2.0-only
//! The console of a host or guest: its log file, followed while it grows; our own marks in it; and lines that no good run has.
//!
//! `/init` marks what it has to tell with `worldswitch TOKEN WORDS` on the kernel log, TOKEN being new for each boot, so that nothing that
//! a command prints is taken for a mark.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A console's log file, read as it grows.
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    partial: Vec<u8>,
}

impl Follower {
    /// Follows `path`, which need not be there yet.
    pub fn new(path: &Path) -> Follower {
        Follower { path: path.to_path_buf(), file: None, partial: Vec::new() }
    }

    /// The lines that have become whole since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return Vec::new();
        };
        let mut bytes = Vec::new();
        if file.read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        self.partial.extend(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

/// What `/init` told of a boot.
#[derive(Debug, PartialEq, Eq)]
pub enum Mark {
    /// The command starts now.
    Ready,
    /// The module could not be loaded: what insmod said.
    LoadFailed(String),
    /// The command ended with this status.
    Status(i32),
}

impl Mark {
    /// The mark in `line`, if it bears one of ours.
    pub fn find(line: &str, token: &str) -> Option<Mark> {
        let rest = line.split_once("worldswitch ")?.1.strip_prefix(token)?;
        let words = rest.trim();
        match words.split_once(' ') {
            None if words == "ready" => Some(Mark::Ready),
            Some(("load-failed", why)) => Some(Mark::LoadFailed(why.to_owned())),
            Some(("status", number)) => number.trim().parse().ok().map(Mark::Status),
            _ => None,
        }
    }
}

/// What a kernel says when something is wrong with it.
const BAD: [&str; 20] = [
    "WARNING:",
    "BUG:",
    "BUG at",
    "Oops",
    "Internal error",
    "Unable to handle kernel",
    "Hyp panic",
    "HYP panic",
    "Kernel panic",
    "cut here",
    "self-detected stall",
    "detected stalls",
    "rcu_sched kthread starved",
    "blocked for more than",
    "soft lockup",
    "Bad page",
    "refcount_t:",
    "nobody cared",
    "leak",
    "Unhandled prefetch abort",
];

/// The first line of a host's log that no good run has. What a guest said there (`guest: `) is the guest's business.
pub fn first_bad_line(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    String::from_utf8_lossy(&text).lines().find(|line| is_bad(line)).map(|line| line.trim_end().to_owned())
}

/// Whether `line` is one that no good run has.
pub fn is_bad(line: &str) -> bool {
    !line.contains("guest: ") && BAD.iter().any(|pattern| line.contains(pattern))
}

/// The last `count` lines of a log.
pub fn tail(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A new token for a boot's marks.
pub fn token() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_need_the_token() {
        let line = "[    4.5] worldswitch 0123 status 7\r";
        assert_eq!(Mark::find(line, "0123"), Some(Mark::Status(7)));
        assert_eq!(Mark::find(line, "0124"), None);
        let failed = "[1.0] worldswitch 0123 load-failed insmod: can't insert: No such device";
        assert_eq!(
            Mark::find(failed, "0123"),
            Some(Mark::LoadFailed("insmod: can't insert: No such device".to_owned()))
        );
        assert_eq!(Mark::find("worldswitch 0123 ready", "0123"), Some(Mark::Ready));
        assert_eq!(Mark::find("worldswitch 0123 status x", "0123"), None);
    }

    #[test]
    fn bad_lines_are_the_hosts_only() {
        assert!(is_bad("[ 1.0] WARNING: CPU: 0 PID: 1 at kernel/softirq.c:1"));
        assert!(is_bad("[ 1.0] Internal error: Oops - undefined instruction: 0"));
        assert!(!is_bad("[ 1.0] guest: Kernel panic - not syncing"));
        assert!(!is_bad("[ 1.0] debug: nothing"));
    }

    #[test]
    fn a_follower_gives_whole_lines_once() {
        use std::io::Write;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut follower = Follower::new(&path);
        assert!(follower.lines().is_empty());
        let mut file = File::create(&path).expect("created");
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(follower.lines(), ["one"]);
        file.write_all(b"o\r\n").expect("written");
        assert_eq!(follower.lines(), ["two"]);
        assert!(follower.lines().is_empty());
    }
}
