// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong before and while a machine runs: one line each, for a person, saying what and what to do.

use std::io;
use std::path::PathBuf;

use crate::device_tree;
use crate::kernel_image::BadImage;
use crate::layout::{BadPlacement, MAX_RAM};
use crate::saved_machine::BadFile;

/// Everything that ends `wsvm` with status 1 or 3.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel image cannot be booted.
    #[error("{}: {source}", .path.display())]
    Kernel {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: BadImage,
    },
    /// The initrd is empty.
    #[error("{}: the initrd is empty", .path.display())]
    EmptyInitrd {
        /// Which one.
        path: PathBuf,
    },
    /// The given device tree is none.
    #[error("{}: {source}", .path.display())]
    DeviceTree {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: device_tree::BadTree,
    },
    /// The device tree could not be written: a command line with a zero byte in it, for one.
    #[error("cannot make the device tree: {0}")]
    MakeDeviceTree(#[from] vm_fdt::Error),
    /// Kernel, initrd and device tree do not fit into the memory.
    #[error("{0}")]
    Placement(#[from] BadPlacement),
    /// More memory than a 32-bit process can map.
    #[error("{mib}M is too much memory: a 32-bit process can give a guest at most {}M. Give --mem less", MAX_RAM >> 20)]
    TooMuchMemory {
        /// What was asked for.
        mib: u64,
    },
    /// The host would not give the memory.
    #[error(
        "cannot map {mib}M for the guest: {source}. The host has too little memory, or too little address space in one piece: give --mem less"
    )]
    MapMemory {
        /// What was asked for.
        mib: u64,
        /// The host's answer.
        source: io::Error,
    },
    /// Huge pages were asked for, but the memory is no whole number of them.
    #[error(
        "{mib}M is no whole number of huge pages, which have 2M each: such a machine needs an even number of MiB, or no --huge-pages"
    )]
    NoWholeHugePages {
        /// What was asked for.
        mib: u64,
    },
    /// The host's pool has not as many huge pages.
    #[error("cannot take {count} huge pages of 2M for the guest{when}: {source}. {advice}")]
    HugePages {
        /// How many.
        count: usize,
        /// When, if not at the start.
        when: &'static str,
        /// The host's answer.
        source: io::Error,
        /// What to do.
        advice: String,
    },
    /// Guest memory could not be filled.
    #[error("cannot fill guest memory: {0}")]
    FillMemory(#[from] vm_memory::GuestMemoryError),
    /// A machine cannot be saved to this file.
    #[error("cannot save to {}: {source}. --save takes the name of a file that is not there yet, in a folder that is", .path.display())]
    SaveTarget {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// `/dev/kvm` could not be opened.
    #[error("/dev/kvm: {source}. {advice}")]
    OpenKvm {
        /// Why not.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// `/dev/kvm` speaks another version.
    #[error("/dev/kvm speaks version {0} of KVM's interface, wsvm speaks {expected}", expected = uapi::KVM_API_VERSION)]
    ApiVersion(i32),
    /// `/dev/kvm` lacks something.
    #[error("/dev/kvm has no {0}, which wsvm needs: is this the worldswitch module?")]
    MissingCapability(&'static str),
    /// A call to KVM failed.
    #[error("{call}: {source}{advice}")]
    Kvm {
        /// Which call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do, with a leading separator; empty where nothing is known.
        advice: &'static str,
    },
    /// More vCPUs than the host's KVM takes.
    #[error("{asked} CPUs are too many: this host's KVM gives a machine at most {most}. Give --cpus less")]
    TooManyCpus {
        /// What was asked for.
        asked: u32,
        /// What there is.
        most: u32,
    },
    /// A call to the host other than KVM failed.
    #[error("{what}: {source}")]
    Host {
        /// Doing what.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There can be no file for a serial port's output.
    #[error("cannot write the second serial port's output to {}: {source}. Give --serial another file", .path.display())]
    SerialOutput {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no saved machine, or none that can go on here.
    #[error("{}: {source}", .path.display())]
    SavedMachine {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: BadFile,
    },
    /// A resumed guest asked to be started again.
    #[error("the guest resets, and a resumed machine has no kernel to start again: use wsvm run")]
    ResetAfterResumption,
    /// The guest ran, and what it said was lost.
    #[error("output of the guest's {port} was lost: {source}")]
    LostOutput {
        /// Which serial port.
        port: &'static str,
        /// Why it could not be written.
        source: io::Error,
    },
    /// The guest cannot go on.
    #[error("the guest died: {0}")]
    GuestDied(String),
}

impl Error {
    /// A file could not be handled.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// A machine cannot be saved to this file.
    pub fn save_target(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::SaveTarget { path, source }
    }

    /// A serial port's output cannot go to this file.
    pub fn serial_output(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::SerialOutput { path, source }
    }

    /// A call to the host failed.
    pub fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// The process's status for this error.
    pub fn status(&self) -> u8 {
        match self {
            Self::GuestDied(_) => 3,
            _ => 1,
        }
    }
}
