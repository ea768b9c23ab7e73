// SPDX-License-Identifier: GPL-2.0-only
//! `worldswitch.ko` for one kernel: the C shim and the Rust object, built by that kernel's own build system in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::image::write_if_different;
use crate::child;
use crate::layout::Layout;
use crate::setup::kernel::Kernel;
use crate::setup::machine_architecture;

/// The name that `linux/shim/Kbuild` knows the Rust object by.
const OBJECT: &str = "worldswitch_rust.o_linked";

/// The module's version: the workspace's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds the module for `kernel` with the Rust object `object`, if anything has changed since the last time.
pub fn build(layout: &Layout, kernel: &Kernel, object: &Path) -> Result<PathBuf> {
    let folder = layout.state("module").join(kernel.choice.slug());
    let module = folder.join("worldswitch.ko");
    let stamp = folder.join("built-for");
    let changed = copy_sources(&layout.root.join("linux/shim"), &folder, object)?;
    let built_for = format!("{} {VERSION}", kernel.release);
    let same = fs::read_to_string(&stamp).is_ok_and(|found| found == built_for);
    if !changed && same && module.exists() {
        return Ok(module);
    }
    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_file(&module);
    crate::progress(&format!("building worldswitch.ko for {} ({})", kernel.choice, kernel.release));
    let log = layout.state(format!("logs/module-{}.log", kernel.choice.slug()));
    child::run_logged(
        Command::new("make")
            .arg("-C")
            .arg(kernel.headers())
            .arg(format!("M={}", folder.display()))
            .args(["ARCH=arm", "CROSS_COMPILE=arm-linux-gnueabihf-"])
            .arg(format!("CC={}", compiler()))
            .arg(format!("DEB_BUILD_ARCH={}", machine_architecture()?))
            .args(["DEB_HOST_ARCH=armhf", "DEB_HOST_GNU_TYPE=arm-linux-gnueabihf"])
            // For modinfo.
            .arg(format!("WS_VERSION={VERSION}"))
            .arg("modules")
            // What the caller's own make or cargo left for its children is not meant for this one.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS"),
        &log,
    )
    .with_context(|| format!("the module does not build for {}", kernel.choice))?;
    if let Some(line) = first_warning(&fs::read_to_string(&log)?) {
        bail!("the module builds for {} with a warning: {line}\n(all of it: {})", kernel.choice, log.display());
    }
    fs::write(&stamp, built_for)?;
    Ok(module)
}

/// The compiler that bookworm's kernels are built with if it is here, or else the machine's.
fn compiler() -> &'static str {
    let preferred = "arm-linux-gnueabihf-gcc-12";
    if child::on_path(preferred) { preferred } else { "arm-linux-gnueabihf-gcc" }
}

/// The first warning in the log of a build, save those that say nothing about our files.
fn first_warning(log: &str) -> Option<&str> {
    let harmless =
        ["the compiler differs", "pahole version differs", "Skipping BTF", "Clock skew", "modification time"];
    log.lines()
        .filter(|line| line.to_ascii_lowercase().contains("warning"))
        .find(|line| !harmless.iter().any(|words| line.contains(words)))
}

/// Makes `folder` hold the shim's files and the object, touching only what differs; whether anything did.
fn copy_sources(shim: &Path, folder: &Path, object: &Path) -> Result<bool> {
    let mut wanted = vec![(OBJECT.to_owned(), object.to_path_buf())];
    for entry in fs::read_dir(shim).with_context(|| format!("{}: missing", shim.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name == "Kbuild" || name.ends_with(".c") || name.ends_with(".h") {
            wanted.push((name.to_owned(), path));
        }
    }
    let mut changed = false;
    for (name, from) in &wanted {
        let bytes = fs::read(from).with_context(|| format!("{}: cannot be read", from.display()))?;
        let to = folder.join(name);
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            changed = true;
            write_if_different(&to, &bytes)?;
        }
    }
    // A source that is gone must not be built any more.
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ours = (name.ends_with(".c") && !name.ends_with(".mod.c")) || name.ends_with(".h");
        if ours && !wanted.iter().any(|(wanted, _)| wanted == name) {
            fs::remove_file(&path)?;
            changed = true;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_count_unless_they_are_about_the_machine() {
        assert_eq!(first_warning("  CC [M]  main.o\n  LD [M] worldswitch.ko\n"), None);
        assert_eq!(first_warning("warning: the compiler differs from the one used"), None);
        let bad = "WARNING: modpost: \"ws_x\" undefined!";
        assert_eq!(first_warning(bad), Some(bad));
    }

    #[test]
    fn sources_follow_the_shim() {
        let folder = tempfile::tempdir().expect("a folder");
        let (shim, to) = (folder.path().join("shim"), folder.path().join("to"));
        fs::create_dir_all(&shim).expect("made");
        let object = folder.path().join("o");
        for (name, text) in [("o", "obj"), ("shim/a.c", "int a;"), ("shim/notes.txt", "")] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        assert!(copy_sources(&shim, &to, &object).expect("copied"));
        assert!(!copy_sources(&shim, &to, &object).expect("copied"));
        fs::write(to.join("worldswitch.mod.c"), "").expect("written");
        fs::rename(shim.join("a.c"), shim.join("b.c")).expect("renamed");
        assert!(copy_sources(&shim, &to, &object).expect("copied"));
        let mut names: Vec<_> =
            fs::read_dir(&to).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["b.c", "worldswitch.mod.c", OBJECT]);
    }
}
