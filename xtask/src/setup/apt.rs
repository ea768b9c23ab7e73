// SPDX-License-Identifier: GPL-2.0-only
//! A private apt.
//!
//! Debian's archive is asked through apt itself, which resolves versions and verifies signatures and checksums, but with a configuration
//! and a state of its own below `target/`: foreign architectures and suites never reach the machine's settings. What it downloads is
//! unpacked with `dpkg -x`, never installed. Of the machine's apt settings only `Acquire::` ones (proxies, mirrors' clock) are kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::child;

/// Where Debian's archive is.
const ARCHIVE: &str = "http://deb.debian.org/debian";
/// The keys that sign it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What is taken for installed when dependencies are resolved.
pub enum Installed {
    /// Nothing.
    Nothing,
    /// What is installed on this machine.
    Machine,
}

/// One private apt configuration.
pub struct Apt {
    folder: PathBuf,
}

/// One version of a package, as the archive describes it.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The names it depends on; of alternatives the first.
    pub depends: Vec<String>,
}

impl Apt {
    /// Writes a configuration into `folder`: the first of `architectures` is the native one, `suites` are the archive's.
    pub fn new(folder: &Path, architectures: &[&str], suites: &[&str], installed: Installed) -> Result<Apt> {
        if !Path::new(KEYRING).exists() {
            return Err(anyhow!(
                "{KEYRING}: missing, so Debian's archive cannot be verified. Install it: apt-get install debian-archive-keyring"
            ));
        }
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(sub)).with_context(|| format!("{}: cannot be created", folder.display()))?;
        }
        let status = match installed {
            Installed::Nothing => {
                let status = folder.join("status");
                fs::write(&status, "")?;
                status
            }
            Installed::Machine => PathBuf::from("/var/lib/dpkg/status"),
        };
        let sources: String =
            suites.iter().map(|suite| format!("deb [signed-by={KEYRING}] {ARCHIVE} {suite} main\n")).collect();
        fs::write(folder.join("sources.list"), sources)?;

        let at = folder.display();
        let mut text = acquire_settings()?;
        text += &format!(
            r#"Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{at}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{at}";
Dir::State::lists "{at}/lists";
Dir::State::extended_states "{at}/extended_states";
Dir::State::status "{status}";
Dir::Cache "{at}";
Dir::Cache::archives "{at}/archives";
Dir::Log "{at}";
APT::Architecture "{native}";
APT::Architectures {{ {all} }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages {{ "none"; }};
Acquire::Retries "3";
Debug::NoLocking "true";
"#,
            status = status.display(),
            native = architectures[0],
            all = architectures.iter().map(|name| format!("\"{name}\"; ")).collect::<String>(),
        );
        fs::write(folder.join("apt.conf"), text)?;
        Ok(Apt { folder: folder.to_path_buf() })
    }

    /// Reads the archive's indices.
    pub fn update(&self) -> Result<()> {
        child::run_logged(self.command("apt-get").arg("update"), &self.folder.join("update.log"))
            .context("its index could not be read")
    }

    /// The newest version of package `name` (`NAME` or `NAME:ARCH`), or `None` if the archive does not serve it.
    pub fn newest(&self, name: &str) -> Result<Option<Package>> {
        let Ok(text) = child::output(self.command("apt-cache").args(["show", name])) else {
            return Ok(None); // apt-cache fails for unknown names
        };
        let text = String::from_utf8(text).context("apt-cache show: not UTF-8")?;
        // apt-cache lists the candidate first.
        Ok(text.split("\n\n").next().and_then(parse_stanza))
    }

    /// Downloads exactly `packages` (`NAME=VERSION`, `NAME:ARCH=VERSION`) and unpacks them into `to`.
    pub fn unpack(&self, packages: &[String], to: &Path) -> Result<()> {
        let folder = tempfile::tempdir_in(&self.folder)?;
        child::run_logged(
            self.command("apt-get").arg("download").args(packages).current_dir(folder.path()),
            &self.folder.join("download.log"),
        )?;
        unpack_folder(folder.path(), to)
    }

    /// Downloads `package` of `release` and what it needs beyond what is installed, and unpacks all of it into `to`.
    pub fn unpack_with_dependencies(&self, package: &str, release: &str, to: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        fs::create_dir_all(archives.join("partial"))?;
        child::run_logged(
            self.command("apt-get").args(["install", "--yes", "--download-only", "--target-release", release, package]),
            &self.folder.join("download.log"),
        )?;
        unpack_folder(&archives, to)?;
        fs::remove_dir_all(&archives)?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// The machine's own settings of how to reach archives.
fn acquire_settings() -> Result<String> {
    let dump = child::output(Command::new("apt-config").arg("dump"))
        .context("apt is needed to fetch Debian's kernels, so this needs Debian or a relative of it")?;
    let kept = |line: &&str| {
        let skipped = ["Acquire::IndexTargets", "Acquire::Languages", "Acquire::Changelogs"];
        line.starts_with("Acquire::") && !skipped.iter().any(|prefix| line.starts_with(prefix))
    };
    Ok(String::from_utf8_lossy(&dump).lines().filter(kept).map(|line| format!("{line}\n")).collect())
}

fn parse_stanza(stanza: &str) -> Option<Package> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let depends = field("Depends")
        .unwrap_or_default()
        .split(',')
        .filter_map(|clause| clause.split(['|', ' ', '(']).find(|word| !word.is_empty()))
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect();
    Some(Package { name: field("Package")?.to_owned(), version: field("Version")?.to_owned(), depends })
}

/// Unpacks each package file of `from` into `to`.
fn unpack_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            child::output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(to))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_gives_the_first_of_alternatives_without_version_or_architecture() {
        let package = parse_stanza(
            "Package: linux-headers-6.12-armmp\nVersion: 6.12.95-1\nDepends: linux-base (>= 4.12~), a | b (= 1), c:any\nSize: 5",
        )
        .expect("a package");
        assert_eq!(package.name, "linux-headers-6.12-armmp");
        assert_eq!(package.version, "6.12.95-1");
        assert_eq!(package.depends, ["linux-base", "a", "c"]);
        assert!(parse_stanza("N: Unable to locate package").is_none());
    }
}
