// SPDX-License-Identifier: GPL-2.0-only
//! Rust's libraries for the two Arm targets.
//!
//! `armv7a-none-eabi` (soft float, no system: the Hyp image, the module, the guests) and `armv7-unknown-linux-gnueabihf` (wsvm). Three
//! ways, the first that works: they are installed; `rustup target add`; or Debian's own compiler `rustc-web` from the machine's suite,
//! unpacked below `target/`, which builds `core` for the first from `rust-web-src` and has the second as a package for armhf.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Installed};
use crate::child;
use crate::layout::Layout;

/// The target of everything that runs without an operating system, and of the module.
pub const BARE: &str = "armv7a-none-eabi";
/// The target of wsvm.
pub const LINUX: &str = "armv7-unknown-linux-gnueabihf";

/// Makes sure that both targets can be built for, and says which way it took if it had to do something.
pub fn ensure(layout: &Layout) -> Result<()> {
    if stamp(layout).exists() {
        return Ok(());
    }
    let missing = missing_targets()?;
    if missing.is_empty() {
        return Ok(());
    }
    if child::on_path("rustup") {
        let names = missing.join(" ");
        crate::progress(&format!("adding Rust targets {names} with rustup"));
        let added = child::run_logged(
            Command::new("rustup").args(["target", "add"]).args(&missing).current_dir(&layout.root),
            &layout.state("logs/rustup.log"),
        );
        match added {
            Ok(()) if missing_targets()?.is_empty() => return Ok(()),
            Ok(()) => bail!("rustup target add {names}: it says it did, but they are not there"),
            Err(error) => crate::progress(&format!("rustup does not serve them: {error:#}")),
        }
    }
    debian(layout).context(format!("Rust's targets are missing; get them by hand: rustup target add {BARE} {LINUX}"))
}

/// Adds a target that is of use but not needed, if rustup is here and serves it. Whether it is there.
pub fn add(layout: &Layout, target: &str) -> bool {
    let missing = || missing_of(&[target]).map_or(true, |missing| !missing.is_empty());
    if missing() && child::on_path("rustup") {
        let mut command = Command::new("rustup");
        command.args(["target", "add", target]).current_dir(&layout.root);
        // Where it fails the target is missing still.
        let _ = child::run_logged(&mut command, &layout.state("logs/rustup.log"));
    }
    !missing()
}

/// A `cargo` command that can build for `target`.
pub fn cargo(layout: &Layout, target: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    if stamp(layout).exists() {
        command
            .env("RUSTC", tree(layout).join("usr/bin/rustc"))
            .env("LD_LIBRARY_PATH", libraries(&tree(layout)))
            .env("RUSTC_BOOTSTRAP", "1");
        if target == BARE {
            command
                .arg("-Zbuild-std=core,compiler_builtins")
                // Debian's compiler brings no linker of its own.
                .env("CARGO_TARGET_ARMV7A_NONE_EABI_LINKER", tree(layout).join("usr/bin/ld.lld"));
        }
    }
    command
}

fn missing_targets() -> Result<Vec<&'static str>> {
    missing_of(&[BARE, LINUX])
}

/// Those of `targets` that the compiler has no libraries for.
fn missing_of<'a>(targets: &[&'a str]) -> Result<Vec<&'a str>> {
    let sysroot = child::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    let absent = |target: &&str| !sysroot.join("lib/rustlib").join(target).join("lib").exists();
    Ok(targets.iter().copied().filter(absent).collect())
}

fn tree(layout: &Layout) -> PathBuf {
    layout.state("tools/rust")
}

fn stamp(layout: &Layout) -> PathBuf {
    layout.state("tools/rust.stamp")
}

fn libraries(root: &Path) -> PathBuf {
    let machine = super::machine_architecture().unwrap_or_default();
    let triplet = if machine == "arm64" { "aarch64" } else { "x86_64" };
    root.join(format!("usr/lib/{triplet}-linux-gnu"))
}

/// Debian's rustc-web, with the source of its library.
fn debian(layout: &Layout) -> Result<()> {
    let codename = super::codename()?;
    crate::progress(&format!("fetching Debian's rustc-web of {codename} instead"));
    let machine = super::machine_architecture()?;
    let folder = layout.state("apt/rust");
    let apt =
        Apt::new(&folder, &[&machine, "armhf"], &[&codename, &format!("{codename}-updates")], Installed::Machine)?;
    apt.update()?;
    let root = tree(layout);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let compiler =
        apt.newest("rustc-web")?.with_context(|| format!("{codename}: Debian's archive does not serve rustc-web"))?;
    let version = compiler.version.split('+').next().unwrap_or_default();
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if numbers(version) < numbers(needed) {
        bail!("{codename}: Debian's rustc-web is {version}, this workspace needs {needed}");
    }
    for package in ["rustc-web", "lld"] {
        apt.unpack_with_dependencies(package, &codename, &root)?;
    }
    apt.unpack(&["rust-web-src".to_owned(), "libstd-rust-web-dev:armhf".to_owned()], &root)?;
    // The compiler looks for the source below its own root; the package links to an absolute path there.
    let link = root.join("usr/lib/rustlib/src/rust");
    let source = fs::read_dir(root.join("usr/src"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("library").exists())
        .context("rust-web-src: holds no library source")?;
    fs::create_dir_all(root.join("usr/lib/rustlib/src"))?;
    let _ = fs::remove_file(&link);
    symlink(source, &link)?;
    fs::write(stamp(layout), format!("{version}\n"))?;
    crate::progress(&format!("Rust: Debian's rustc-web {version}, building core from its source"));
    Ok(())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.85.0") < numbers("1.88"));
        assert!(numbers("1.100.0") > numbers("1.88"));
    }
}
