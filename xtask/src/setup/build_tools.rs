// SPDX-License-Identifier: GPL-2.0-only
//! A kernel's build tools on a machine that is older than they are.
//!
//! `linux-kbuild` of a later suite may need a later C library than the machine has. Then that suite's own C library is unpacked beside the
//! tools, and each of them becomes a script that starts it by that library's loader.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use crate::initramfs::quoted;

/// Makes the tools below `root/usr/lib/linux-kbuild-*` run on this machine.
pub fn make_runnable(apt: &Apt, root: &Path, machine: &str) -> Result<()> {
    let mut tools = Vec::new();
    for entry in fs::read_dir(root.join("usr/lib"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("linux-kbuild-")) {
            find_programs(&path, &mut tools)?;
        }
    }
    if tools.iter().all(|tool| runs(tool)) {
        return Ok(());
    }
    let library = apt
        .newest(&format!("libc6:{machine}"))?
        .context("its build tools need a later C library than this machine's, and its suite serves none")?;
    crate::progress(&format!("its build tools need a later C library: fetching libc6 {}", library.version));
    let home = root.join("libc");
    apt.unpack(&[format!("libc6:{machine}={}", library.version)], &home)?;
    let loader = find(&home, |name| name.starts_with("ld-linux"))?.context("libc6: holds no loader")?;
    let folder = loader.parent().context("libc6: its loader is nowhere")?;
    for tool in &tools {
        wrap(tool, &loader, folder)?;
    }
    Ok(())
}

/// Whether the machine's C library is late enough for `tool`.
fn runs(tool: &Path) -> bool {
    // Told so, the loader lists the libraries instead of starting the program. Other libraries may well be missing: they are for tools that
    // building a module does not use.
    match Command::new(tool).env("LD_TRACE_LOADED_OBJECTS", "1").output() {
        Ok(output) => !String::from_utf8_lossy(&output.stderr).contains("GLIBC_"),
        Err(_) => false,
    }
}

/// Puts a script in the place of `tool`. Some tools look for others beside what they were called as.
fn wrap(tool: &Path, loader: &Path, libraries: &Path) -> Result<()> {
    let mut program = tool.as_os_str().to_owned();
    program.push(".program");
    fs::rename(tool, &program)?;
    let word = |path: &Path| quoted(&path.to_string_lossy());
    let script = format!(
        "#!/bin/sh\nexec {} --library-path {} --argv0 \"$0\" {} \"$@\"\n",
        word(loader),
        word(libraries),
        word(Path::new(&program))
    );
    fs::write(tool, script)?;
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Every ELF program below `folder`.
fn find_programs(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_programs(&entry.path(), found)?;
        } else if kind.is_file() && is_program(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    let executable = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0);
    let mut magic = [0; 4];
    executable && fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"\x7fELF"
}

/// The first file below `folder` whose name is as wanted; links are not followed.
fn find(folder: &Path, wanted: fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some(path) = find(&entry.path(), wanted)? {
                return Ok(Some(path));
            }
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(wanted) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
