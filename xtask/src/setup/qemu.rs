// SPDX-License-Identifier: GPL-2.0-only
//! QEMU 10.0 or later: the machine's own, or Debian's backport unpacked below `target/`.
//!
//! Earlier ones do not trap what this hypervisor traps (bookworm's 7.2 lacks HCR.TIDCP).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Installed};
use crate::child;
use crate::layout::Layout;

/// A QEMU for Arm, ready to run.
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it is not installed.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    /// The QEMU at `program`, whatever its version.
    pub fn at(program: &Path) -> Result<Qemu> {
        let qemu = Qemu { program: program.to_path_buf(), unpacked: None };
        qemu.version()?;
        Ok(qemu)
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        // Ends with us, however we end.
        let mut command = if child::on_path("setpriv") {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        if let Some(root) = &self.unpacked {
            let libraries = library_folders(root);
            command.env("LD_LIBRARY_PATH", libraries);
            command.arg("-L").arg(root.join("usr/share/qemu"));
        }
        command
    }

    /// Its version: major, minor.
    pub fn version(&self) -> Result<(u32, u32)> {
        let text = child::output(self.command().arg("--version"))?;
        let text = String::from_utf8_lossy(&text);
        parse_version(&text).with_context(|| format!("{}: does not say QEMU's version", self.program.display()))
    }
}

/// The QEMU to use, fetched if neither the machine nor `target/` has it.
pub fn ensure(layout: &Layout) -> Result<Qemu> {
    let root = layout.state("tools/qemu");
    let stamp = layout.state("tools/qemu.stamp");
    let unpacked = Qemu { program: root.join("usr/bin/qemu-system-arm"), unpacked: Some(root.clone()) };
    if stamp.exists() {
        return Ok(unpacked);
    }
    let installed = Qemu { program: "qemu-system-arm".into(), unpacked: None };
    if child::on_path("qemu-system-arm") && installed.version().is_ok_and(|v| v >= (10, 0)) {
        return Ok(installed);
    }
    crate::progress("fetching QEMU 10 from Debian (this machine has none, or an older one)");
    let codename = super::codename()?;
    let backports = format!("{codename}-backports");
    let machine = super::machine_architecture()?;
    let folder = layout.state("apt/qemu");
    let apt =
        Apt::new(&folder, &[&machine], &[&codename, &format!("{codename}-updates"), &backports], Installed::Machine)?;
    apt.update()?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    apt.unpack_with_dependencies("qemu-system-arm", &backports, &root)
        .context("QEMU could not be fetched. Install QEMU 10.0 or later, or name one with --qemu")?;
    let version = unpacked.version()?;
    if version < (10, 0) {
        bail!(
            "{codename}: Debian has QEMU {}.{} there, 10.0 is needed. Install it and name it with --qemu",
            version.0,
            version.1
        );
    }
    fs::write(&stamp, format!("{}.{}\n", version.0, version.1))?;
    Ok(unpacked)
}

/// The library folders of an unpacked tree, as LD_LIBRARY_PATH wants them.
fn library_folders(root: &Path) -> std::ffi::OsString {
    let mut folders = Vec::new();
    for base in ["usr/lib", "lib"] {
        let base = root.join(base);
        if let Ok(entries) = fs::read_dir(&base) {
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().contains("-linux-gnu") {
                    folders.push(entry.path());
                    // Some libraries keep private ones a folder further down.
                    if let Ok(inner) = fs::read_dir(entry.path()) {
                        folders.extend(inner.flatten().map(|e| e.path()).filter(|p| p.is_dir()));
                    }
                }
            }
        }
    }
    std::env::join_paths(folders).unwrap_or_default()
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split("version ").nth(1)?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_qemu_prints_them() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)";
        assert_eq!(parse_version(debian), Some((10, 0)));
        assert_eq!(parse_version("QEMU emulator version 7.2.17"), Some((7, 2)));
        assert_eq!(parse_version("command not found"), None);
    }
}
