// SPDX-License-Identifier: GPL-2.0-only
//! What needs no QEMU: format, lints, sources, unit tests, builds.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Tally, modinfo, sources, vectors};
use crate::build;
use crate::child;
use crate::layout::Layout;
use crate::setup;
use crate::setup::rust::{BARE, LINUX};

/// How many seconds building and running the unit tests may take.
const UNIT_TEST_LIMIT: u32 = 1200;

/// Runs all of it.
pub fn run(layout: &Layout, tally: &mut Tally) {
    tally.check("every source is formatted", || {
        let mut command = host_cargo(layout, &["fmt", "--all", "--check"]);
        child::run_logged(&mut command, &layout.state("logs/fmt.log"))
    });
    tally.check("every source names its licence", || sources::licences(&layout.root));
    tally.check("unsafe code stays where it belongs", || sources::unsafe_places(&layout.root));

    crate::progress("clippy and unit tests");
    tally.check("clippy is content with what runs here", || {
        let mut command = host_cargo(layout, &["clippy", "--all-targets"]);
        deny_warnings(layout, &mut command)
    });
    unit_tests(layout, "unit tests", host_cargo(layout, &["test", "--no-fail-fast"]), tally);
    unit_tests(layout, "unit tests under loom", loom_cargo(layout), tally);
    with_32_bits(layout, tally);
    let mut every_value = host_cargo(layout, &["test", "--release", "--package", "worldswitch-arch", "--lib"]);
    every_value.args(["--", "--ignored"]);
    unit_tests(layout, "unit tests with all values of a word", every_value, tally);

    // The builds come before clippy for Arm: the module's crate embeds the Hyp image.
    for choice in setup::default_kernels() {
        let name = format!("the module builds for {choice} without warnings");
        tally.check(&name, || build::build(layout, &choice).map(|_| ()));
    }
    tally.check("nothing in the module panics unreviewed", || review(layout));
    tally.check(
        "each Hyp vector leads where it should, on cores that want it by way of an empty branch predictor",
        || vectors::review(&layout.state("hyp.elf")),
    );
    for choice in setup::default_kernels() {
        let name = format!("modinfo of the module for {choice} says what it is, and of each parameter what it does");
        tally.check(&name, || modinfo::check(layout, &choice));
    }
    let bare = ["worldswitch-hyp", "worldswitch-linux", "worldswitch-guests"].map(|package| (package, BARE));
    let mut programs = build::HOST_PROGRAMS.map(|(package, _)| (package, LINUX)).to_vec();
    programs.dedup();
    for (package, target) in bare.into_iter().chain(programs) {
        tally.check(&format!("clippy is content with {package} for Arm"), || {
            deny_warnings(layout, &mut build::cargo(layout, "clippy", package, target))
        });
    }
}

fn deny_warnings(layout: &Layout, command: &mut Command) -> Result<()> {
    child::run_logged(command.args(["--", "-D", "warnings"]), &layout.state("logs/clippy.log"))
}

fn review(layout: &Layout) -> Result<()> {
    let review = build::review(layout)?;
    if !review.unreviewed.is_empty() {
        bail!("not in linux/panics.txt: {}", review.unreviewed.join(", "));
    }
    if !review.stale.is_empty() {
        bail!("in linux/panics.txt, but not in the module: {}", review.stale.join(", "));
    }
    Ok(())
}

/// cargo for this machine.
fn host_cargo(layout: &Layout, arguments: &[&str]) -> Command {
    cargo_into(layout, &layout.cargo_target, arguments)
}

/// The same, building into `target`.
fn cargo_into(layout: &Layout, target: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(&layout.root);
    if arguments[0] != "fmt" {
        command.arg("--target-dir").arg(target);
    }
    command
}

/// cargo for the tests of what takes no lock, with loom's atomics: built apart, since the flag changes every crate.
fn loom_cargo(layout: &Layout) -> Command {
    let apart = layout.cargo_target.join("loom");
    let mut command = cargo_into(layout, &apart, &["test", "--package", "worldswitch-kvm", "--lib", "loom_tests"]);
    command.env("RUSTFLAGS", "--cfg loom");
    command
}

/// A target whose `usize` has 32 bits, as Arm's has, and whose programs this machine runs; its libraries and linker come with Rust.
const NARROW: &str = "i686-unknown-linux-musl";

/// Runs the unit tests of what the module is made of where `usize` is as wide as there, if this machine can: what overflows 32 bits only
/// does not show where it has 64.
fn with_32_bits(layout: &Layout, tally: &mut Tally) {
    if !cfg!(target_arch = "x86_64") {
        return crate::progress("skipped: unit tests with 32-bit addresses (they run on x86-64)");
    }
    if !setup::rust::add(layout, NARROW) {
        return crate::progress(&format!("skipped: unit tests with 32-bit addresses (`rustup target add {NARROW}`)"));
    }
    let mut command = host_cargo(layout, &["test", "--no-fail-fast", "--lib", "--target", NARROW]);
    command.args(["--package", "worldswitch-arch", "--package", "worldswitch-kvm", "--package", "worldswitch-uapi"]);
    command.env("CARGO_TARGET_I686_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    unit_tests(layout, "unit tests with 32-bit addresses", command, tally);
}

/// Which unit tests Miri runs.
pub struct Miri {
    packages: &'static [&'static str],
    /// Those whose names contain one of these; none: all.
    filters: &'static [&'static str],
    /// How many seconds they may take.
    limit: u32,
}

impl Miri {
    /// Some that take it no minutes.
    pub const SOME: Self = Self {
        packages: &["worldswitch-kvm"],
        filters: &["psci::tests", "run::event_tests", "vgic::register_tests"],
        limit: UNIT_TEST_LIMIT,
    };
    /// All.
    pub const ALL: Self = Self { packages: &["worldswitch-arch", "worldswitch-kvm"], filters: &[], limit: 4 * 3600 };
}

/// Runs unit tests under Miri, where a nightly compiler has it.
pub fn under_miri(layout: &Layout, which: &Miri, tally: &mut Tally) {
    // By name: this is for rustup, which knows of toolchains; CARGO names one toolchain's.
    let miri = || {
        let mut command = Command::new("cargo");
        command.args(["+nightly", "miri"]).current_dir(&layout.root);
        command
    };
    let answer = miri().arg("--version").output();
    if !answer.is_ok_and(|answer| answer.status.success()) {
        crate::progress("skipped: unit tests under Miri (`rustup +nightly component add miri rust-src` installs it)");
        return;
    }
    let mut command = miri();
    command.args(["test", "--no-fail-fast", "--lib", "--target-dir"]).arg(layout.cargo_target.join("miri"));
    command.args(which.packages.iter().flat_map(|package| ["--package", package])).arg("--").args(which.filters);
    // Properties read the clock and the files of failures before; two cases of each have to do.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "2");
    unit_tests_within(which.limit, layout, "unit tests under Miri", command, tally);
}

/// Unit tests, by `cargo`: each test counts.
fn unit_tests(layout: &Layout, name: &str, cargo: Command, tally: &mut Tally) {
    unit_tests_within(UNIT_TEST_LIMIT, layout, name, cargo, tally);
}

fn unit_tests_within(limit: u32, layout: &Layout, name: &str, cargo: Command, tally: &mut Tally) {
    let path = layout.state(format!("logs/{}.log", name.replace(' ', "-")));
    match count_unit_tests(limit, layout, &path, &cargo) {
        Ok((0, 0)) => tally.not_ok(name, "cargo test ran none"),
        Ok((passed, 0)) => {
            println!("ok {name}: {passed}");
            tally.add(passed, 0);
        }
        Ok((passed, failed)) => {
            println!("not ok {name}: {failed} of {} (all of it: {})", passed + failed, path.display());
            tally.add(passed, failed);
        }
        Err(error) => tally.not_ok(name, &format!("{error:#}")),
    }
}

fn count_unit_tests(limit: u32, layout: &Layout, path: &Path, cargo: &Command) -> Result<(usize, usize)> {
    let mut log = std::fs::File::create(path)?;
    // libtest has no time limit of its own. When it is over, or we are, all that cargo started ends.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10", &limit.to_string()])
        .arg(cargo.get_program())
        .args(cargo.get_args())
        .envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(&layout.root);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()
        .context("cargo test: cannot be started")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        writeln!(log, "{line}")?;
        if let Some((good, bad)) = result_line(&line) {
            passed += good;
            failed += bad;
        } else if line.starts_with("test ") && line.ends_with("FAILED") {
            println!("not ok {}", line.trim_start_matches("test "));
        } else if line.contains("has been running for over") {
            crate::progress(&line);
        }
    }
    let status = child.wait()?;
    if status.code() == Some(124) {
        bail!("they took more than {limit} s\n{}\n(all of it: {})", crate::console::tail(path, 5), path.display());
    }
    if !status.success() && failed == 0 {
        bail!("cargo test: {status}\n{}\n(all of it: {})", crate::console::tail(path, 15), path.display());
    }
    Ok((passed, failed))
}

/// What libtest says at the end of a test program: passed, failed.
fn result_line(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| counts.split("; ").find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok());
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_counts_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(result_line(line), Some((12, 0)));
        let line = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(result_line(line), Some((3, 2)));
        assert_eq!(result_line("test foo ... ok"), None);
    }
}
