// SPDX-License-Identifier: GPL-2.0-only
//! Debian's QEMU for armhf, to run in the host: what a user of such a board would have without KVM.
//!
//! Of the package and all that it needs only the program, the dynamic linker and the shared libraries are kept: the host's root file system
//! lies in memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::{Apt, Installed};
use super::kernel::Choice;
use crate::layout::Layout;

/// The folder with `qemu-system-arm` and, in `lib`, the dynamic linker and libraries; fetched if it is not here yet.
pub fn ensure(layout: &Layout) -> Result<PathBuf> {
    let folder = layout.state("emulator");
    if folder.exists() {
        return Ok(folder);
    }
    crate::progress("fetching Debian's QEMU for armhf (40 MB)");
    let suite = Choice::default().suite;
    let apt = Apt::new(&layout.state("apt/emulator"), &["armhf"], &[&suite], Installed::Nothing)?;
    apt.update()?;
    let unpacked = tempfile::tempdir_in(&layout.state)?;
    apt.unpack_with_dependencies("qemu-system-arm", &suite, unpacked.path())?;
    let kept = tempfile::tempdir_in(&layout.state)?;
    let libraries = kept.path().join("lib");
    fs::create_dir(&libraries)?;
    for from in ["lib", "usr/lib"] {
        keep_libraries(&unpacked.path().join(from).join("arm-linux-gnueabihf"), &libraries)?;
    }
    let program = "qemu-system-arm";
    fs::rename(unpacked.path().join("usr/bin").join(program), kept.path().join(program))
        .context("qemu-system-arm: the package holds no such program")?;
    fs::rename(kept.keep(), &folder)?;
    Ok(folder)
}

/// Moves shared libraries, and links to them, from one folder to another.
fn keep_libraries(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("{}: cannot be read", from.display()))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().contains(".so") {
            fs::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
