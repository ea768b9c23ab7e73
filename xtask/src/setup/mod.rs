// SPDX-License-Identifier: GPL-2.0-only
//! Setup: what a fresh machine lacks, fetched once by whatever command comes first.
//!
//! Each part looks first whether it is there, by a stamp or a file below `target/`, and asks the network only if not: a second run asks
//! nothing. Machine packages (the cross compiler) are installed from the machine's own suite; everything foreign stays below `target/`.

pub mod apt;
mod build_tools;
pub mod emulator;
pub mod kernel;
mod packages;
pub mod qemu;
pub mod rust;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::child;
use crate::layout::Layout;
use kernel::Choice;

/// The kernels that the module is always tested on.
pub fn default_kernels() -> [Choice; 2] {
    [Choice::default(), Choice::new("bookworm", "armmp")]
}

/// Makes sure of everything that commands need with their default options.
pub fn ensure(layout: &Layout) -> Result<()> {
    let _lock = layout.lock()?;
    packages::ensure(layout)?;
    rust::ensure(layout)?;
    qemu::ensure(layout)?;
    kernel::ensure_busybox(layout)?;
    for choice in default_kernels() {
        kernel::ensure(layout, &choice)?;
    }
    Ok(())
}

/// Debian's name of this machine's architecture.
pub fn machine_architecture() -> Result<String> {
    let name = child::output(Command::new("dpkg").arg("--print-architecture"))
        .context("dpkg is needed to unpack Debian's packages, so this needs Debian or a relative of it")?;
    Ok(String::from_utf8_lossy(&name).trim().to_owned())
}

/// Debian's codename of this machine's release.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release: cannot be read")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release: names no VERSION_CODENAME; Debian 12 is what this was made for")
}
