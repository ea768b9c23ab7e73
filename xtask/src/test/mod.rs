// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask test`: everything that says whether the tree is good, cheapest first.
//!
//! Format, lints, licences and the places of `unsafe`; unit tests on this machine; the build, with the review of the module's symbols; then
//! hosts under QEMU ([`table`] says which, [`boot`] runs them); last the benchmarks, for whether they measure. One line a test on
//! standard output, `ok NAME` or `not ok NAME: why`; the last line is `N passed, N failed`.

mod boot;
mod checks;
mod expect;
mod sources;
mod table;

use anyhow::Result;
use clap::Args;

use crate::bench;
use crate::layout::Layout;

/// `cargo xtask test`.
#[derive(Args, Debug)]
pub struct TestCommand {
    /// Only the boots whose name begins so, and nothing else
    #[arg(value_name = "BOOT")]
    pub boots: Vec<String>,
    /// Only what needs no QEMU
    #[arg(long, conflicts_with = "boots")]
    pub no_qemu: bool,
    /// Lists the boots and their tests, and runs nothing
    #[arg(long)]
    pub list: bool,
}

/// How many tests passed and failed.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// A test passed.
    pub fn ok(&mut self, name: &str) {
        println!("ok {name}");
        self.passed += 1;
    }

    /// A test failed.
    pub fn not_ok(&mut self, name: &str, why: &str) {
        println!("not ok {name}: {why}");
        self.failed += 1;
    }

    /// A test that is a function.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        match check() {
            Ok(()) => self.ok(name),
            Err(error) => self.not_ok(name, &format!("{error:#}")),
        }
    }

    /// Tests that somebody else ran and listed.
    pub fn add(&mut self, passed: usize, failed: usize) {
        self.passed += passed;
        self.failed += failed;
    }
}

/// Runs the tests; the status is 0 if all passed.
pub fn run(layout: &Layout, command: &TestCommand) -> Result<u8> {
    let wanted = |name: &str| command.boots.is_empty() || command.boots.iter().any(|start| name.starts_with(&**start));
    let boots: Vec<_> = table::boots().into_iter().filter(|boot| wanted(boot.name)).collect();
    if command.list {
        for boot in &boots {
            println!("{} ({}, {})", boot.name, boot.board.name(), boot.kernel);
            for test in boot.tests {
                println!("    {}", test.name);
            }
        }
        if wanted(bench::TEST) {
            println!("{}: each row of `cargo xtask bench` that is timed has a figure", bench::TEST);
        }
        return Ok(0);
    }
    let mut tally = Tally::default();
    if command.boots.is_empty() {
        checks::run(layout, &mut tally);
    }
    if !command.no_qemu {
        for boot in &boots {
            boot::run(layout, boot, &mut tally);
        }
        if wanted(bench::TEST) {
            bench::test(layout, &mut tally);
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    let good = tally.failed == 0 && tally.passed > 0;
    Ok(if good { 0 } else { 1 })
}
