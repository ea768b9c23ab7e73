// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask test`: everything that says whether the tree is good, cheapest first.
//!
//! Format, lints, licences and the places of `unsafe`; unit tests on this machine; the build, with the review of the module's symbols; then
//! hosts under QEMU ([`table`] says which, [`boot`] runs them); last the benchmarks, for whether they measure. One line a test on
//! standard output, `ok NAME` or `not ok NAME: why`; the last line is `N passed, N failed`.

mod boot;
mod checks;
mod expect;
mod modinfo;
mod sources;
mod table;
mod vectors;

use anyhow::{Result, bail};
use clap::Args;

use crate::bench;
use crate::layout::Layout;
use checks::Miri;

/// `cargo xtask test`.
#[derive(Args, Debug)]
pub struct TestCommand {
    /// Only this boot, or if none is called so, those whose name begins so; and nothing else
    #[arg(value_name = "BOOT")]
    pub boots: Vec<String>,
    /// Only what needs no QEMU
    #[arg(long, conflicts_with = "boots")]
    pub no_qemu: bool,
    /// Only the unit tests of arch and kvm under Miri, and all that it can (the whole run takes some); for about an hour
    #[arg(long, conflicts_with_all = ["boots", "no_qemu"])]
    pub miri: bool,
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

    /// Prints the counts; 0 if all is well.
    fn status(&self) -> u8 {
        println!("{} passed, {} failed", self.passed, self.failed);
        u8::from(self.failed != 0 || self.passed == 0)
    }

    /// Tests that somebody else ran and listed.
    pub fn add(&mut self, passed: usize, failed: usize) {
        self.passed += passed;
        self.failed += failed;
    }
}

/// Runs the tests; the status is 0 if all passed.
pub fn run(layout: &Layout, command: &TestCommand) -> Result<u8> {
    let boots = table::boots();
    let names: Vec<&str> = boots.iter().map(|boot| boot.name).chain([bench::TEST]).collect();
    let chosen = chosen(&names, &command.boots)?;
    let wanted = |name: &str| chosen.contains(&name);
    let boots: Vec<_> = boots.into_iter().filter(|boot| wanted(boot.name)).collect();
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
    if command.miri {
        checks::under_miri(layout, &Miri::ALL, &mut tally);
        return Ok(tally.status());
    }
    if command.boots.is_empty() {
        checks::run(layout, &mut tally);
    }
    if command.boots.is_empty() && !command.no_qemu {
        checks::under_miri(layout, &Miri::SOME, &mut tally);
    }
    if !command.no_qemu {
        for boot in &boots {
            boot::run(layout, boot, &mut tally);
        }
        if wanted(bench::TEST) {
            bench::test(layout, &mut tally);
        }
    }
    Ok(tally.status())
}

/// The names that are asked for: all if nothing is. Each word asks for the one that is called so, or for those that begin so.
fn chosen<'a>(names: &[&'a str], words: &[String]) -> Result<Vec<&'a str>> {
    if words.is_empty() {
        return Ok(names.to_vec());
    }
    let mut chosen = Vec::new();
    for word in words {
        let exactly = names.iter().any(|name| name == word);
        let before = chosen.len();
        chosen.extend(names.iter().filter(|name| if exactly { *name == word } else { name.starts_with(&**word) }));
        if chosen.len() == before {
            bail!("{word}: no boot is called so or begins so. There are {}", names.join(", "));
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_chooses_the_boot_of_that_name_or_those_that_begin_so() {
        let names = ["virt", "virt-el1", "hyp-panics-a7", "hyp-panics-a17"];
        let choose = |words: &[&str]| chosen(&names, &words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(choose(&[]).unwrap(), names);
        assert_eq!(choose(&["virt"]).unwrap(), ["virt"]);
        assert_eq!(choose(&["hyp-panics", "virt-el1"]).unwrap(), ["hyp-panics-a7", "hyp-panics-a17", "virt-el1"]);
        assert!(choose(&["virt", "vrit"]).unwrap_err().to_string().starts_with("vrit: "));
    }
}
