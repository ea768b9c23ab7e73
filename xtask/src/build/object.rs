// SPDX-License-Identifier: GPL-2.0-only
//! The module's Rust half: one relocatable object for every kernel, linked from the static library.
//!
//! Only what the C shim enters by (symbols that begin with `ws_`) and what that reaches is kept. Then its symbols are reviewed: nothing in
//! it may abort when memory runs out, and each function of `core` that panics must be on the list in `linux/panics.txt` with the reason
//! why nobody can make it run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};

use crate::child;

/// What the shim calls begins so.
const ENTRY_PREFIX: &str = "ws_";

/// Links `library` to the object `to`.
pub fn link(library: &Path, to: &Path) -> Result<()> {
    let entries = entry_points(library)?;
    if entries.is_empty() {
        bail!("{}: defines no {ENTRY_PREFIX}* to enter by", library.display());
    }
    let mut linker = Command::new("arm-linux-gnueabihf-ld");
    linker.args(["-r", "--gc-sections"]);
    for entry in &entries {
        linker.args(["-u", entry]);
    }
    child::output(linker.arg("-o").arg(to).arg(library))?;
    child::output(
        Command::new("arm-linux-gnueabihf-objcopy")
            // The compiler's own notes, which a kernel would load; and names that are nobody's business but ours.
            .args(["-R", ".llvmbc", "-R", ".llvmcmd", "-w"])
            .arg(format!("--keep-global-symbol={ENTRY_PREFIX}*"))
            .arg(to),
    )?;
    Ok(())
}

/// The symbols of `library` that the shim may call.
fn entry_points(library: &Path) -> Result<BTreeSet<String>> {
    let data = fs::read(library).with_context(|| format!("{}: cannot be read", library.display()))?;
    let cannot = || format!("{}: not a static library", library.display());
    let archive = ArchiveFile::parse(&*data).with_context(cannot)?;
    let mut found = BTreeSet::new();
    for member in archive.members() {
        let member = member.with_context(cannot)?;
        let Ok(file) = object::File::parse(member.data(&*data)?) else {
            continue; // Rust's own metadata
        };
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            if symbol.is_definition() && symbol.is_global() && name.starts_with(ENTRY_PREFIX) {
                found.insert(name.to_owned());
            }
        }
    }
    Ok(found)
}

/// What a review of an object found.
#[derive(Debug, Default)]
pub struct Review {
    /// Panicking functions that nobody has reviewed.
    pub unreviewed: Vec<String>,
    /// Lines of the list that match nothing any more.
    pub stale: Vec<String>,
}

/// Reviews the symbols of `object` against the list in `reviewed`. Fails if it allocates as Rust's `alloc` does, which aborts.
pub fn review(object: &Path, reviewed: &Path) -> Result<Review> {
    let data = fs::read(object).with_context(|| format!("{}: cannot be read", object.display()))?;
    let file = object::File::parse(&*data).with_context(|| format!("{}: not an object", object.display()))?;
    let names: BTreeSet<String> = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    let aborting = names.iter().find(|name| name.contains("handle_alloc_error") || name.contains("__rust_alloc"));
    if let Some(name) = aborting {
        bail!("{}: contains {name}: an allocation that fails would abort the host", object.display());
    }
    let list = fs::read_to_string(reviewed).unwrap_or_default();
    compare(names.iter().map(String::as_str), &list)
        .with_context(|| format!("{}: not a list of reviewed panics", reviewed.display()))
}

/// Compares the panicking ones of `names` with `list`: lines `PATTERN # reason`, where PATTERN is a demangled name and may end in `*`.
fn compare<'a>(names: impl Iterator<Item = &'a str>, list: &str) -> Result<Review> {
    let mut patterns = Vec::new();
    for line in list.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(" # ") {
            Some((pattern, reason)) if !reason.trim().is_empty() => patterns.push(pattern.trim()),
            _ => bail!("'{line}' gives no reason; lines are PATTERN # REASON"),
        }
    }
    let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    let panics: BTreeSet<&str> = names.filter(|name| is_panic(name)).collect();
    let known = |name: &&str| patterns.iter().any(|pattern| matches(pattern, name));
    let used = |pattern: &&str| panics.iter().any(|name| matches(pattern, name));
    Ok(Review {
        unreviewed: panics.iter().filter(|name| !known(name)).map(|name| (*name).to_owned()).collect(),
        stale: patterns.iter().filter(|pattern| !used(pattern)).map(|pattern| (*pattern).to_owned()).collect(),
    })
}

/// Whether a function of `core` panics, by its name: those that `core::panicking` holds and the cold halves of checks elsewhere.
fn is_panic(name: &str) -> bool {
    let cold = ["_failed", "_fail", "panic_fmt", "panic_const", "rust_begin_unwind"];
    name.starts_with("core::panicking")
        || name.contains("rust_begin_unwind")
        || (name.starts_with("core::") && cold.iter().any(|end| name.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_need_a_reviewed_reason() {
        let names = [
            "ws_module_init",
            "core::panicking::panic_fmt",
            "core::option::unwrap_failed",
            "core::slice::index::slice_index_fail",
        ];
        let list = "# head\ncore::panicking::* # reached by nobody\ncore::result::unwrap_failed # gone\n";
        let review = compare(names.into_iter(), list).expect("a list");
        assert_eq!(review.unreviewed, ["core::option::unwrap_failed", "core::slice::index::slice_index_fail"]);
        assert_eq!(review.stale, ["core::result::unwrap_failed"]);
        assert!(compare(names.into_iter(), "core::panicking::*\n").is_err());
    }
}
