// SPDX-License-Identifier: GPL-2.0-only
//! Links each guest by the crate's own script, and only by it.

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("guest.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    println!("cargo::rustc-link-arg-bins=--orphan-handling=error");
    println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
}
