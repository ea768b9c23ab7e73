// SPDX-License-Identifier: GPL-2.0-only
//! Rules about the sources that no compiler knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const LICENCE: &str = "SPDX-License-Identifier: GPL-2.0-only";

/// Crates that say `forbid(unsafe_code)` themselves.
const SAFE_CRATES: [&str; 4] = ["arch", "hyp-abi", "kvm", "uapi"];

/// Crates that may contain unsafe code: what runs on bare metal, what calls the kernel, and clients of KVM, which map memory and call
/// ioctl.
const UNSAFE_CRATES: [&str; 5] = ["hyp", "linux", "guests", "vmm", "conformance"];

/// Each source begins with its licence.
pub fn licences(root: &Path) -> Result<()> {
    for path in sources(root)? {
        let head = text(&path)?;
        if !head.lines().take(2).any(|line| line.contains(LICENCE)) {
            bail!("{}: does not begin with {LICENCE}", shown(root, &path));
        }
    }
    Ok(())
}

/// Unsafe code is only where the architecture allows it.
pub fn unsafe_places(root: &Path) -> Result<()> {
    for name in SAFE_CRATES {
        let head = text(&root.join(name).join("src/lib.rs"))?;
        if !head.contains("#![forbid(unsafe_code)]") {
            bail!("{name}/src/lib.rs: does not forbid unsafe code");
        }
    }
    for path in sources(root)? {
        let place = shown(root, &path);
        let allowed = place.split('/').next().is_some_and(|name| UNSAFE_CRATES.contains(&name));
        if allowed || !place.ends_with(".rs") {
            continue;
        }
        if let Some(line) = first_unsafe(&text(&path)?) {
            bail!("{place}:{line}: unsafe code does not belong here");
        }
    }
    Ok(())
}

/// The line of the first `unsafe` outside of comments and strings.
fn first_unsafe(source: &str) -> Option<usize> {
    for (number, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        // Text between quotes is not code. A string over several lines is no matter: it only makes this stricter.
        let code: String = code.split('"').step_by(2).collect();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if code.split(|c| !word(c)).any(|name| name == "unsafe") {
            return Some(number + 1);
        }
    }
    None
}

/// Every file that is source.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
                continue;
            }
            let source = [".rs", ".c", ".h", ".S", ".ld", ".sh"].iter().any(|end| name.ends_with(end));
            let script = name == "Kbuild" || folder.ends_with("xtask/initramfs");
            if source || script {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_seen_in_code_only() {
        assert_eq!(first_unsafe("fn a() {}\nunsafe fn b() {}"), Some(2));
        assert_eq!(first_unsafe("#[unsafe(no_mangle)]"), Some(1));
        assert_eq!(first_unsafe("x(\"a\", unsafe { y })"), Some(1));
        for fine in ["#![forbid(unsafe_code)]", "// unsafe", "f(\"unsafe\")", "unsafely()"] {
            assert_eq!(first_unsafe(fine), None, "{fine}");
        }
    }
}
