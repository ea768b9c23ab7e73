// SPDX-License-Identifier: GPL-2.0-only
//! Machine packages: what builds the module and wsvm, from the machine's own suite.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::child;
use crate::layout::Layout;

/// A package, and how to see that it is there.
const NEEDED: [(&str, Sign); 5] = [
    ("gcc-arm-linux-gnueabihf", Sign::Program("arm-linux-gnueabihf-gcc")),
    ("binutils-arm-linux-gnueabihf", Sign::Program("arm-linux-gnueabihf-ld")),
    ("libc6-dev-armhf-cross", Sign::File("/usr/arm-linux-gnueabihf/lib/libc.a")),
    ("gcc", Sign::Program("gcc")),
    ("make", Sign::Program("make")),
];

enum Sign {
    Program(&'static str),
    File(&'static str),
}

impl Sign {
    fn seen(&self) -> bool {
        match self {
            Sign::Program(name) => child::on_path(name),
            Sign::File(path) => Path::new(path).exists(),
        }
    }
}

/// Installs what is missing: as root, by sudo if that asks no password, or else says what to type.
pub fn ensure(layout: &Layout) -> Result<()> {
    let missing: Vec<&str> = NEEDED.iter().filter(|(_, sign)| !sign.seen()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {list}");
    let prefix: &[&str] = if rustix::process::geteuid().is_root() {
        &[]
    } else if sudo_works() {
        &["sudo", "-n"]
    } else {
        bail!("this machine lacks {list}, and only root can install it. Type: sudo sh -c '{by_hand}'");
    };
    crate::progress(&format!("installing {list}"));
    let command = |arguments: &[&str]| {
        let words: Vec<&str> = prefix
            .iter()
            .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"].iter())
            .chain(arguments)
            .copied()
            .collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    // A failing index of some other source is no reason to stop: the installation tells.
    let _ = child::run_logged(&mut command(&["update"]), &layout.state("logs/apt-update.log"));
    let mut install = command(&["install", "--yes", "--no-install-recommends"]);
    child::run_logged(install.args(&missing), &layout.state("logs/apt-install.log"))
        .with_context(|| format!("{list}: could not be installed. Try by hand: {by_hand}"))?;
    for (package, sign) in NEEDED {
        if !sign.seen() {
            bail!("{package}: installed, but what it should bring is not there");
        }
    }
    Ok(())
}

fn sudo_works() -> bool {
    Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
