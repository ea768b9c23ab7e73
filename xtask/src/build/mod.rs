// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask build`: the Hyp image, the module, wsvm and the guests.
//!
//! Order: the Hyp image is linked by itself and made flat; the module's Rust half embeds it and becomes one object for all kernels; each
//! kernel's own build system adds the C shim. Cargo knows what is up to date; so does, by contents, what follows it here.

pub mod image;
mod module;
pub mod object;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::setup::kernel::{self, Choice};
use crate::setup::rust::{self, BARE, LINUX};

/// The variable that tells the module's crate where the Hyp image is.
pub const HYP_IMAGE: &str = "WORLDSWITCH_HYP_IMAGE";

/// What was built.
pub struct Products {
    /// `worldswitch.ko`.
    pub module: PathBuf,
    /// Programs for the host: name and file.
    pub programs: Vec<(String, PathBuf)>,
    /// Bare-metal guests: name and flat image.
    pub guests: Vec<(String, PathBuf)>,
}

/// Builds everything, the module for `choice`.
pub fn build(layout: &Layout, choice: &Choice) -> Result<Products> {
    let _lock = layout.lock()?;
    let object = rust_object(layout)?;
    let kernel = kernel::ensure(layout, choice)?;
    Ok(Products {
        module: module::build(layout, &kernel, &object)?,
        programs: programs_for_the_host(layout)?,
        guests: guests(layout)?,
    })
}

/// `cargo xtask build`: builds for `choice` and says where things are.
pub fn run(layout: &Layout, choice: &Choice) -> Result<u8> {
    let products = build(layout, choice)?;
    println!("{}", products.module.display());
    for (_, path) in products.programs.iter().chain(&products.guests) {
        println!("{}", path.display());
    }
    let review = review(layout)?;
    for name in &review.unreviewed {
        crate::progress(&format!("not on the list linux/panics.txt: {name}"));
    }
    Ok(0)
}

/// Reviews the module's Rust object for panics.
pub fn review(layout: &Layout) -> Result<object::Review> {
    object::review(&object_path(layout), &layout.root.join("linux/panics.txt"))
}

/// The flat Hyp image, for crates that embed it.
pub fn hyp_image(layout: &Layout) -> PathBuf {
    layout.state("hyp.img")
}

fn object_path(layout: &Layout) -> PathBuf {
    layout.state("worldswitch_rust.o")
}

/// The Hyp image and the module's Rust object.
fn rust_object(layout: &Layout) -> Result<PathBuf> {
    let hyp = compile(layout, "worldswitch-hyp", BARE, &[])?;
    image::flatten(&hyp.join("worldswitch-hyp"), &hyp_image(layout))?;
    // Kept for turning addresses of a Hyp panic into names.
    fs::copy(hyp.join("worldswitch-hyp"), layout.state("hyp.elf"))?;
    let folder = compile(layout, "worldswitch-linux", BARE, &[])?;
    let object = object_path(layout);
    object::link(&folder.join("libworldswitch_linux.a"), &object)?;
    Ok(object)
}

/// The crates of programs that run in the host, and what their programs are called.
pub const HOST_PROGRAMS: [(&str, &str); 5] = [
    ("wsvm", "wsvm"),
    ("worldswitch-conformance", "kvm-conformance"),
    ("worldswitch-conformance", "kvm-fuzz"),
    ("worldswitch-conformance", "host-witness"),
    ("worldswitch-conformance", "kexec-again"),
];

fn programs_for_the_host(layout: &Layout) -> Result<Vec<(String, PathBuf)>> {
    HOST_PROGRAMS
        .iter()
        .map(|(package, name)| Ok(((*name).to_owned(), compile(layout, package, LINUX, &[])?.join(name))))
        .collect()
}

/// Every program of the guests' crate, flat.
fn guests(layout: &Layout) -> Result<Vec<(String, PathBuf)>> {
    let names = programs(&layout.root.join("guests"))?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let folder = compile(layout, "worldswitch-guests", BARE, &["--bins"])?;
    names
        .into_iter()
        .map(|name| {
            let flat = layout.state(format!("guests/{name}.bin"));
            image::flatten(&folder.join(&name), &flat)?;
            Ok((name, flat))
        })
        .collect()
}

/// The names of a crate's programs below `src/bin`.
fn programs(folder: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(folder.join("src/bin")) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let program = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
        if let (true, Some(name)) = (program, path.file_stem().and_then(|name| name.to_str())) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A cargo command `verb` on `package` for `target`, as all builds of it are made.
pub fn cargo(layout: &Layout, verb: &str, package: &str, target: &str) -> Command {
    let mut command = rust::cargo(layout, target);
    command
        .arg(verb)
        .args(["--release", "--package", package, "--target", target])
        .arg("--target-dir")
        .arg(&layout.cargo_target)
        .env(HYP_IMAGE, hyp_image(layout))
        .current_dir(&layout.root);
    command
}

/// Compiles `package` and returns the folder of what came out.
fn compile(layout: &Layout, package: &str, target: &str, more: &[&str]) -> Result<PathBuf> {
    let mut command = cargo(layout, "build", package, target);
    let status = command
        .arg("--quiet")
        .args(more)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("cargo: cannot be started")?;
    if !status.success() {
        bail!("{package}: does not compile for {target}");
    }
    Ok(layout.cargo_target.join(target).join("release"))
}
