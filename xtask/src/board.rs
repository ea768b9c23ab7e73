// SPDX-License-Identifier: GPL-2.0-only
//! The boards that QEMU has and that are hosts here.
//!
//! Each has a serial port for the kernel's console and a second one for what a command prints, so that the two never mix. Boards with a
//! device tree take it from the kernel's package; where it leaves the second port off, it is switched on in a copy.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// A board to be the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Board {
    /// QEMU's own, with virtualization: Cortex-A15 (or A7) and GICv2.
    Virt,
    /// Versatile Express with Cortex-A15, started in Hyp mode.
    VexpressA15,
    /// Orange Pi PC: Allwinner H3, four Cortex-A7.
    OrangepiPc,
    /// i.MX7 Dual Sabre: two Cortex-A7.
    Mcimx7dSabre,
    /// Versatile Express started in Secure mode, so that Linux never sees Hyp mode: not a host.
    VexpressA15Secure,
    /// `virt` without virtualization: not a host.
    VirtEl1,
}

/// What QEMU and the kernel are told for a board.
pub struct Description {
    /// QEMU's `-machine`.
    pub machine: &'static str,
    /// QEMU's `-cpu`, where it can be chosen.
    pub cpu: Option<&'static str>,
    /// The device tree's file name.
    pub device_tree: Option<&'static str>,
    /// The kernel's console.
    pub console: &'static str,
    /// The tty of the second port.
    pub channel: &'static str,
    /// The second port's place among QEMU's `-serial`.
    pub channel_index: usize,
    /// The second port's node name, if the device tree leaves it off.
    pub switch_on: Option<&'static str>,
    /// CPUs, unless told otherwise.
    pub cpus: u32,
}

impl Board {
    /// How to start it.
    pub fn describe(self) -> Description {
        let virt = Description {
            machine: "virt,virtualization=on,gic-version=2",
            cpu: Some("cortex-a15"),
            device_tree: None,
            console: "ttyAMA0",
            channel: "ttyAMA1",
            channel_index: 1,
            switch_on: None,
            cpus: 2,
        };
        match self {
            Board::Virt => virt,
            Board::VirtEl1 => Description { machine: "virt,virtualization=off,gic-version=2", ..virt },
            Board::VexpressA15 => Description {
                machine: "vexpress-a15,virtualization=on,secure=off",
                cpu: None,
                device_tree: Some("vexpress-v2p-ca15-tc1.dtb"),
                ..virt
            },
            Board::VexpressA15Secure => Description {
                machine: "vexpress-a15,virtualization=on,secure=on",
                cpu: None,
                device_tree: Some("vexpress-v2p-ca15-tc1.dtb"),
                ..virt
            },
            Board::OrangepiPc => Description {
                machine: "orangepi-pc",
                cpu: None,
                device_tree: Some("sun8i-h3-orangepi-pc.dtb"),
                console: "ttyS0",
                channel: "ttyS1",
                channel_index: 1,
                switch_on: Some("serial@1c28400"),
                cpus: 4,
            },
            Board::Mcimx7dSabre => Description {
                machine: "mcimx7d-sabre",
                cpu: None,
                device_tree: Some("imx7d-sdb.dtb"),
                console: "ttymxc0",
                channel: "ttymxc5",
                channel_index: 5,
                switch_on: None,
                cpus: 2,
            },
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Copies the device tree `from` to `to` with the node `name` switched on.
pub fn switch_on(from: &Path, to: &Path, name: &str) -> Result<()> {
    let mut blob = fs::read(from)
        .with_context(|| format!("{}: cannot be read: this kernel has no device tree for the board", from.display()))?;
    let Some(at) = status_of(&blob, name) else {
        bail!("{}: has no node {name} with a status", from.display());
    };
    // "disabled" is longer: what follows the first NUL does not count.
    blob[at].fill(0);
    let start = at_start(&blob, name).unwrap_or_default();
    blob[start..start + 4].copy_from_slice(b"okay");
    fs::write(to, blob).with_context(|| format!("{}: cannot be written", to.display()))
}

fn at_start(blob: &[u8], name: &str) -> Option<usize> {
    status_of(blob, name).map(|range| range.start)
}

/// Where the value of `status` of the first node called `name` lies in a flattened device tree (Devicetree Specification v0.4, 5.4).
fn status_of(blob: &[u8], name: &str) -> Option<std::ops::Range<usize>> {
    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROPERTY: u32 = 3;
    const NOP: u32 = 4;
    let word = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(blob.get(at..at + 4)?.try_into().ok()?)) };
    let text = |at: usize| -> Option<&[u8]> { blob.get(at..)?.split(|byte| *byte == 0).next() };
    let mut at = word(8)? as usize;
    let strings = word(12)? as usize;
    let mut inside = None;
    let mut depth = 0usize;
    loop {
        let token = word(at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                depth += 1;
                let node = text(at)?;
                if node == name.as_bytes() {
                    inside.get_or_insert(depth);
                }
                at = (at + node.len() + 1).next_multiple_of(4);
            }
            END_NODE => {
                if inside == Some(depth) {
                    return None;
                }
                depth = depth.checked_sub(1)?;
            }
            PROPERTY => {
                let length = word(at)? as usize;
                let property = text(strings + word(at + 4)? as usize)?;
                at += 8;
                if inside == Some(depth) && property == b"status" && length >= 5 {
                    return Some(at..at + length);
                }
                at = (at + length).next_multiple_of(4);
            }
            NOP => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one node `serial@1` that is disabled.
    fn tree() -> Vec<u8> {
        let mut blob = vec![0; 40];
        let mut put = |bytes: &[u8]| {
            blob.extend_from_slice(bytes);
            while !blob.len().is_multiple_of(4) {
                blob.push(0);
            }
        };
        put(&1u32.to_be_bytes());
        put(b"\0");
        put(&1u32.to_be_bytes());
        put(b"serial@1\0");
        put(&3u32.to_be_bytes());
        put(&9u32.to_be_bytes());
        put(&0u32.to_be_bytes());
        put(b"disabled\0");
        put(&2u32.to_be_bytes());
        put(&2u32.to_be_bytes());
        put(&9u32.to_be_bytes());
        let strings = blob.len() as u32;
        blob.extend_from_slice(b"status\0");
        blob[8..12].copy_from_slice(&40u32.to_be_bytes());
        blob[12..16].copy_from_slice(&strings.to_be_bytes());
        blob
    }

    #[test]
    fn a_node_is_switched_on_in_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&from, tree()).expect("written");
        switch_on(&from, &to, "serial@1").expect("switched on");
        let blob = fs::read(&to).expect("read");
        assert_eq!(blob.len(), tree().len());
        assert_eq!(&blob[status_of(&blob, "serial@1").expect("status")], b"okay\0\0\0\0\0");
        assert!(switch_on(&from, &to, "serial@2").is_err());
    }

    #[test]
    fn a_truncated_tree_has_no_status() {
        let whole = tree();
        for length in 0..whole.len() - 7 {
            status_of(&whole[..length], "serial@2");
            assert_eq!(status_of(&whole[..length], "serial@2"), None);
        }
    }
}
