// SPDX-License-Identifier: GPL-2.0-only
//! The root file system of host and guest: an uncompressed newc archive with busybox, one `/init` for both, and what a boot needs.
//!
//! `/etc/worldswitch` tells `/init` what to do (see `initramfs/init`); it is written anew for each boot.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpio::newc;

const INIT: &str = include_str!("../initramfs/init");

enum Node {
    Folder,
    /// A file of this machine.
    File(PathBuf, u32),
    /// A file with these contents.
    Text(Vec<u8>, u32),
    Link(Vec<u8>),
    /// A character device: major, minor.
    Device(u32, u32),
}

/// An archive in the making: paths without leading slash to what lies there.
pub struct Initramfs {
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    /// busybox and `/init`, with `settings` for it.
    pub fn new(busybox: &Path, settings: &[(&str, &str)]) -> Result<Initramfs> {
        let mut new = Initramfs { nodes: BTreeMap::new() };
        for folder in ["dev", "proc", "sys", "tmp", "root", "sbin", "usr/bin", "usr/sbin", "run"] {
            new.folder(folder);
        }
        // The kernel opens /dev/console for init before anything is mounted.
        new.put("dev/console", Node::Device(5, 1));
        new.put("dev/null", Node::Device(1, 3));
        new.file(busybox, "bin/busybox")?;
        new.put("bin/sh", Node::Link(b"busybox".to_vec()));
        new.text("init", INIT, 0o755);
        new.text("etc/worldswitch", &assignments(settings), 0o644);
        Ok(new)
    }

    /// Adds a file with contents.
    pub fn text(&mut self, path: &str, contents: &str, mode: u32) {
        self.put(path, Node::Text(contents.as_bytes().to_vec(), mode));
    }

    /// Adds the file `from`.
    pub fn file(&mut self, from: &Path, path: &str) -> Result<()> {
        let metadata = fs::metadata(from).with_context(|| format!("{}: cannot be read", from.display()))?;
        let mode = metadata.permissions().mode() & 0o777;
        self.put(path, Node::File(from.to_path_buf(), mode));
        Ok(())
    }

    /// Adds `PATH[:DEST]`, a file or a folder with all in it; without DEST it goes to `/root`.
    pub fn with(&mut self, argument: &str) -> Result<()> {
        let (from, to) = match argument.rsplit_once(':') {
            Some((from, to)) => (PathBuf::from(from), to.to_owned()),
            None => {
                let from = PathBuf::from(argument);
                let whole = fs::canonicalize(&from).with_context(|| format!("--with {argument}: cannot be read"))?;
                let Some(name) = whole.file_name().and_then(|name| name.to_str()) else {
                    bail!("--with {argument}: has no name; say where it goes, as PATH:DEST");
                };
                (from, format!("root/{name}"))
            }
        };
        let to = to.trim_matches('/').to_owned();
        if to.split('/').any(|part| part == "..") {
            bail!("--with {argument}: DEST must not contain '..'");
        }
        self.tree(&from, &to).with_context(|| format!("--with {argument}"))
    }

    fn tree(&mut self, from: &Path, to: &str) -> Result<()> {
        let metadata = fs::metadata(from).with_context(|| format!("{}: cannot be read", from.display()))?;
        if metadata.is_file() {
            return self.file(from, to);
        }
        if !metadata.is_dir() {
            bail!("{}: neither a file nor a folder", from.display());
        }
        self.folder(to);
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                bail!("{}: its name is not UTF-8", entry.path().display());
            };
            let inner = format!("{to}/{name}");
            if entry.file_type()?.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.put(&inner, Node::Link(target.as_os_str().as_bytes().to_vec()));
            } else {
                self.tree(&entry.path(), &inner)?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &str) {
        if !path.is_empty() {
            self.put(path, Node::Folder);
        }
    }

    /// Adds a node and the folders above it.
    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        let mut above = path;
        while let Some((folder, _)) = above.rsplit_once('/') {
            self.nodes.entry(folder.to_owned()).or_insert(Node::Folder);
            above = folder;
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    pub fn write(&self, to: &Path) -> Result<()> {
        let cannot = || format!("{}: cannot be written", to.display());
        let mut out = BufWriter::new(File::create(to).with_context(cannot)?);
        // The map is sorted, so that folders come before what lies in them.
        for (inode, (path, node)) in self.nodes.iter().enumerate() {
            let entry = newc::Builder::new(path).ino(inode as u32 + 1);
            match node {
                Node::Folder => put(&mut out, entry.mode(0o040755), b""),
                Node::Text(bytes, mode) => put(&mut out, entry.mode(0o100000 | mode), bytes),
                Node::Link(target) => put(&mut out, entry.mode(0o120777), target),
                Node::Device(major, minor) => {
                    let entry = entry.mode(0o020600).rdev_major(*major).rdev_minor(*minor);
                    put(&mut out, entry, b"")
                }
                Node::File(from, mode) => {
                    let bytes = fs::read(from).with_context(|| format!("{}: cannot be read", from.display()))?;
                    put(&mut out, entry.mode(0o100000 | mode), &bytes)
                }
            }
            .with_context(cannot)?;
        }
        newc::trailer(&mut out).and_then(|out| out.flush()).with_context(cannot)
    }
}

/// Settings as a shell reads them.
pub fn assignments(settings: &[(&str, &str)]) -> String {
    settings.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect()
}

/// `text` as one word for a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn put(out: &mut impl Write, entry: newc::Builder, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::other("a file of 4 GiB or more does not fit into an initramfs"))?;
    let mut writer = entry.write(out, length);
    writer.write_all(bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_a_reader_finds() {
        let folder = tempfile::tempdir().expect("a folder");
        let busybox = folder.path().join("busybox");
        fs::write(&busybox, "elf").expect("written");
        fs::create_dir_all(folder.path().join("tests/deep")).expect("made");
        fs::write(folder.path().join("tests/deep/one"), "1").expect("written");
        let mut image = Initramfs::new(&busybox, &[("EXEC", "it's")]).expect("made");
        image.with(&format!("{}:/opt/tests/", folder.path().join("tests").display())).expect("added");
        let file = folder.path().join("image");
        image.write(&file).expect("written");

        let mut found = BTreeMap::new();
        let mut rest = File::open(&file).expect("opened");
        loop {
            let mut reader = newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mode = reader.entry().mode();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut reader, &mut bytes).expect("read");
            found.insert(name, (mode, bytes));
            rest = reader.finish().expect("finished");
        }
        assert_eq!(found["opt/tests/deep/one"].1, b"1");
        assert_eq!(found["opt/tests"].0, 0o040755);
        assert_eq!(
            found["etc/worldswitch"].1,
            br"EXEC='it'\''s'
"
        );
        assert_eq!(found["init"].0, 0o100755);
        assert_eq!(found["bin/sh"].1, b"busybox");
        assert!(image.with("/nonexistent").is_err());
        assert!(image.with("/etc:/../x").is_err());
    }
}
