// SPDX-License-Identifier: GPL-2.0-only
//! Debian's armhf kernels: image, device trees, headers, and the build tools that run on this machine.
//!
//! Each suite and flavour is unpacked into a folder of its own with the paths of the packages below `root/`. The version is whatever the
//! suite's metapackages name today. Headers name `/usr/src` and `/usr/lib` by absolute path: the unpacked copies are pointed at their place.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

use super::apt::{Apt, Installed, Package};
use super::build_tools;
use crate::layout::Layout;

/// A kernel to boot or to build for: a Debian suite and a flavour of its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `bookworm`, `trixie`, `bookworm-backports`...
    pub suite: String,
    /// `armmp` or `armmp-lpae`.
    pub flavour: String,
}

impl Default for Choice {
    fn default() -> Choice {
        Choice::new("bookworm", "armmp-lpae")
    }
}

impl Choice {
    /// `flavour` of `suite`.
    pub fn new(suite: &str, flavour: &str) -> Choice {
        Choice { suite: suite.to_owned(), flavour: flavour.to_owned() }
    }

    /// A name for folders and files.
    pub fn slug(&self) -> String {
        format!("{}-{}", self.suite, self.flavour)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.suite, self.flavour)
    }
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Choice> {
        let (suite, flavour) = text.split_once('/').unwrap_or((text, "armmp-lpae"));
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if suite.is_empty() || !suite.chars().all(named) {
            bail!("{text}: not SUITE or SUITE/FLAVOUR, such as bookworm/armmp");
        }
        if !["armmp", "armmp-lpae"].contains(&flavour) {
            bail!("{flavour}: not a flavour of Debian's armhf kernel. There are armmp and armmp-lpae");
        }
        Ok(Choice::new(suite, flavour))
    }
}

/// What Debian's archive does not have, or no longer.
#[derive(Debug)]
pub struct Unserved(String);

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Unserved {}

/// An unpacked kernel.
pub struct Kernel {
    /// Which it is.
    pub choice: Choice,
    /// What `uname -r` says on it.
    pub release: String,
    root: PathBuf,
}

impl Kernel {
    /// The kernel image.
    pub fn image(&self) -> PathBuf {
        let own = format!("usr/lib/modules/{}/vmlinuz", self.release); // from 7.2 on
        let boot = format!("boot/vmlinuz-{}", self.release);
        let own = self.root.join(own);
        if own.exists() { own } else { self.root.join(boot) }
    }

    /// A board's device tree.
    pub fn device_tree(&self, name: &str) -> PathBuf {
        let folder = format!("usr/lib/linux-image-{}", self.release);
        self.root.join(folder).join(name)
    }

    /// A driver of the kernel's package that is a module: its path below `drivers`, without `.ko`.
    pub fn driver(&self, name: &str) -> Result<PathBuf> {
        let below = format!("lib/modules/{}/kernel/drivers/{name}.ko", self.release);
        let candidates = [self.root.join(&below), self.root.join("usr").join(&below)];
        let found = candidates.into_iter().find(|path| path.exists());
        found.with_context(|| format!("{below}: not in the packages of {} as it is (compressed?)", self.choice))
    }

    /// The folder to build modules against.
    pub fn headers(&self) -> PathBuf {
        let folder = format!("usr/src/linux-headers-{}", self.release);
        self.root.join(folder)
    }
}

/// The kernel `choice`, fetched if it is not here yet.
pub fn ensure(layout: &Layout, choice: &Choice) -> Result<Kernel> {
    let folder = layout.state("kernels").join(choice.slug());
    let stamp = folder.join("release");
    let root = folder.join("root");
    if let Ok(release) = fs::read_to_string(&stamp) {
        return Ok(Kernel { choice: choice.clone(), release: release.trim().to_owned(), root });
    }
    crate::progress(&format!("fetching Debian's kernel {choice} for armhf"));
    let apt = suite_apt(layout, &choice.suite)?;
    let unserved = |what: &str| {
        anyhow!(Unserved(format!(
            "{choice}: Debian's archive does not serve {what} for armhf in this suite (any more)"
        )))
    };
    let find = |name: &str| apt.newest(name)?.ok_or_else(|| unserved(name));

    let flavour = &choice.flavour;
    let image_meta = find(&format!("linux-image-{flavour}"))?;
    let image_name = dependency(&image_meta, "linux-image-", "")?;
    let image = find(&image_name)?;
    let release = image_name.trim_start_matches("linux-image-").trim_end_matches("-unsigned").to_owned();
    let headers_meta = find(&format!("linux-headers-{flavour}"))?;
    let headers = find(&dependency(&headers_meta, "linux-headers-", flavour)?)?;
    let common = find(&dependency(&headers, "linux-headers-", "-common")?)?;
    let tools_name = dependency(&headers, "linux-kbuild-", "")?;
    let machine = super::machine_architecture()?;
    let tools = find(&format!("{tools_name}:{machine}"))?;

    let mut packages: Vec<String> =
        [&image, &headers, &common].map(|package| format!("{}={}", package.name, package.version)).to_vec();
    packages.push(format!("{}:{machine}={}", tools.name, tools.version));
    // From 7.2 on image, modules and configuration are packages of their own, named after the release.
    for part in image.depends.iter().filter(|name| name.ends_with(&release)) {
        let part = find(part)?;
        packages.push(format!("{}={}", part.name, part.version));
    }
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    apt.unpack(&packages, &root).with_context(|| format!("{choice}: the kernel's packages could not be fetched"))?;

    let kernel = Kernel { choice: choice.clone(), release, root };
    relocate(&kernel)?;
    build_tools::make_runnable(&apt, &kernel.root, &machine).with_context(|| choice.to_string())?;
    for path in [kernel.image(), kernel.headers().join("Makefile")] {
        if !path.exists() {
            bail!("{}: not in the packages of {choice}", path.display());
        }
    }
    fs::write(&stamp, format!("{}\n", kernel.release))?;
    crate::progress(&format!("Debian's kernel {choice} is {}", kernel.release));
    Ok(kernel)
}

/// A static armhf busybox, fetched if it is not here yet.
pub fn ensure_busybox(layout: &Layout) -> Result<PathBuf> {
    let root = layout.state("busybox");
    let path = root.join("bin/busybox");
    if path.exists() {
        return Ok(path);
    }
    crate::progress("fetching busybox for armhf");
    let suite = Choice::default().suite;
    let apt = suite_apt(layout, &suite)?;
    let package = apt
        .newest("busybox-static")?
        .with_context(|| format!("{suite}: Debian's archive does not serve busybox-static for armhf"))?;
    let wanted = format!("{}={}", package.name, package.version);
    let unpacked = tempfile::tempdir_in(&layout.state)?;
    apt.unpack(&[wanted], unpacked.path())?;
    fs::create_dir_all(root.join("bin"))?;
    let found = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|name| unpacked.path().join(name))
        .find(|candidate| candidate.exists())
        .context("busybox-static: the package holds no bin/busybox")?;
    fs::rename(found, &path)?;
    Ok(path)
}

/// The archive's view of `suite` for armhf, read once per process at most.
fn suite_apt(layout: &Layout, suite: &str) -> Result<Apt> {
    let folder = layout.state("apt").join(suite);
    let machine = super::machine_architecture()?;
    let apt = Apt::new(&folder, &["armhf", &machine], &[suite], Installed::Nothing)?;
    let fresh = folder.join("fresh");
    let recently = |path: &Path| -> Option<bool> {
        let age = fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()?;
        Some(age.as_secs() < 600)
    };
    if recently(&fresh) != Some(true) {
        apt.update().with_context(|| {
            Unserved(format!("{suite}: Debian's archive does not serve this suite, or not as it should just now"))
        })?;
        fs::write(&fresh, "")?;
    }
    Ok(apt)
}

fn dependency(package: &Package, prefix: &str, suffix: &str) -> Result<String> {
    package.depends.iter().find(|name| name.starts_with(prefix) && name.ends_with(suffix)).cloned().with_context(|| {
        format!(
            "{} {}: depends on no {prefix}*{suffix}: the archive has changed its names",
            package.name, package.version
        )
    })
}

/// Points absolute paths in the unpacked headers at where they were unpacked to.
fn relocate(kernel: &Kernel) -> Result<()> {
    let src = kernel.root.join("usr/src");
    for entry in fs::read_dir(&src).with_context(|| format!("{}: missing", src.display()))? {
        let folder = entry?.path();
        let makefile = folder.join("Makefile");
        if let Ok(text) = fs::read_to_string(&makefile) {
            let root = kernel.root.display();
            let moved = text
                .replace("/usr/src/", &format!("{root}/usr/src/"))
                .replace("/usr/lib/linux-kbuild", &format!("{root}/usr/lib/linux-kbuild"));
            if moved != text {
                fs::write(&makefile, moved)?;
            }
        }
        for inner in fs::read_dir(&folder)? {
            let link = inner?.path();
            let Ok(target) = fs::read_link(&link) else {
                continue;
            };
            if let Ok(inside) = target.strip_prefix("/") {
                fs::remove_file(&link)?;
                symlink(kernel.root.join(inside), &link)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_suite_with_an_optional_flavour() {
        let parse = |text: &str| text.parse::<Choice>().ok();
        assert_eq!(parse("bookworm"), Some(Choice::default()));
        assert_eq!(parse("trixie/armmp"), Some(Choice::new("trixie", "armmp")));
        for wrong in ["", "/armmp", "bookworm/amd64", "../etc", "a b"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
