// SPDX-License-Identifier: GPL-2.0-only
//! The device tree that tells the guest what machine it is on; and the check of one that the user gives.
//!
//! A user's tree is handed on as it is: memory, initrd and command line are then what it says. `--dump-dtb` writes the
//! tree that wsvm makes, as a start.
//!
//! Source: the bindings arm/cpus.yaml, arm/psci.yaml, timer/arm,arch_timer.yaml, interrupt-controller/arm,gic.yaml and
//! serial/8250.yaml; Documentation/arch/arm/booting.rst for what `chosen` must say.

use std::ops::Range;

use vm_fdt::FdtWriter;

use crate::layout::{DTB_ROOM, GICC, GICD, UART0, UART0_SPI, UART1, UART1_SPI};

const GIC_PHANDLE: u32 = 1;
const CLOCK_FREQUENCY: u32 = 1_843_200; // the classic UART crystal: 115200 baud at divisor 1

const GIC_SPI: u32 = 0;
const GIC_PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_LOW: u32 = 8;

/// What differs from machine to machine.
#[derive(Clone, Debug)]
pub struct MachineDescription<'a> {
    /// The cores' binding, `arm,cortex-a15` or `arm,cortex-a7`.
    pub cpu_compatible: &'a str,
    /// MPIDR of each vCPU, the one that boots first.
    pub mpidr: &'a [u32],
    /// RAM.
    pub ram: Range<u64>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The initrd.
    pub initrd: Option<Range<u64>>,
}

/// Why a file is no device tree for a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTree {
    /// It does not start as one.
    #[error("not a flattened device tree: it starts with {}. Compile a source: dtc -O dtb -o FILE.dtb FILE.dts", .0.escape_ascii())]
    Foreign(Vec<u8>),
    /// There is nothing in it.
    #[error("empty")]
    Empty,
    /// It ends early.
    #[error("truncated: its head says {expected} bytes, the file has {found}")]
    Truncated {
        /// What its head says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// It is too big for its place in memory.
    #[error("too big: {0} bytes, the most is {DTB_ROOM}")]
    TooBig(u64),
}

/// Checks a device tree that the user gives, and cuts off what follows it.
pub fn check(mut file: Vec<u8>) -> Result<Vec<u8>, BadTree> {
    let found = file.len() as u64;
    if found == 0 {
        return Err(BadTree::Empty);
    }
    let word = |at: usize| file.get(at..at + 4).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    let (Some(0xd00d_feed), Some(size)) = (word(0), word(4)) else {
        file.truncate(8);
        return Err(BadTree::Foreign(file));
    };
    match u64::from(size) {
        size if size > DTB_ROOM => Err(BadTree::TooBig(size)),
        expected if expected > found || expected < 40 => Err(BadTree::Truncated { expected, found }),
        _ => {
            file.truncate(size as usize);
            Ok(file)
        }
    }
}

/// Makes the tree.
pub fn make(machine: &MachineDescription) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("model", "Worldswitch virtual machine")?;
    fdt.property_string_list("compatible", vec!["worldswitch,virt".into(), "linux,dummy-virt".into()])?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;

    let aliases = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &path("serial", &UART0))?;
    fdt.property_string("serial1", &path("serial", &UART1))?;
    fdt.end_node(aliases)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.command_line)?;
    fdt.property_string("stdout-path", "serial0:115200n8")?;
    if let Some(initrd) = &machine.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&name("memory", &machine.ram))?;
    fdt.property_string("device_type", "memory")?;
    reg(&mut fdt, &[&machine.ram])?;
    fdt.end_node(memory)?;

    cpus(&mut fdt, machine)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    interrupts_and_timer(&mut fdt, machine)?;
    serial(&mut fdt, &UART0, UART0_SPI)?;
    serial(&mut fdt, &UART1, UART1_SPI)?;

    fdt.end_node(root)?;
    fdt.finish()
}

fn name(kind: &str, range: &Range<u64>) -> String {
    format!("{kind}@{:x}", range.start)
}

fn path(kind: &str, range: &Range<u64>) -> String {
    format!("/{}", name(kind, range))
}

fn reg(fdt: &mut FdtWriter, ranges: &[&Range<u64>]) -> Result<(), vm_fdt::Error> {
    let cells: Vec<u64> = ranges.iter().flat_map(|range| [range.start, range.end - range.start]).collect();
    fdt.property_array_u64("reg", &cells)
}

fn cpus(fdt: &mut FdtWriter, machine: &MachineDescription) -> Result<(), vm_fdt::Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in machine.mpidr {
        let affinity = mpidr & 0x00ff_ffff;
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", machine.cpu_compatible)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        // Linux weighs CPUs against each other by it, and complains without; all are alike, so any number will do.
        fdt.property_u32("clock-frequency", 1_000_000_000)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

fn interrupts_and_timer(fdt: &mut FdtWriter, machine: &MachineDescription) -> Result<(), vm_fdt::Error> {
    let gic = fdt.begin_node(&name("interrupt-controller", &GICD))?;
    fdt.property_string("compatible", "arm,cortex-a15-gic")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 0)?;
    reg(fdt, &[&GICD, &GICC])?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.end_node(gic)?;

    // Secure and Non-secure physical, virtual, Hyp: PPIs 13, 14, 11, 10, that is interrupts 29, 30, 27, 26.
    let timer = fdt.begin_node("timer")?;
    fdt.property_string_list("compatible", vec!["arm,armv7-timer".into()])?;
    let cpu_mask = ((1u32 << machine.mpidr.len().min(8)) - 1) << 8;
    let cells: Vec<u32> = [13, 14, 11, 10].into_iter().flat_map(|ppi| [GIC_PPI, ppi, cpu_mask | LEVEL_LOW]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)
}

fn serial(fdt: &mut FdtWriter, range: &Range<u64>, spi: u16) -> Result<(), vm_fdt::Error> {
    let node = fdt.begin_node(&name("serial", range))?;
    fdt.property_string("compatible", "ns16550a")?;
    reg(fdt, &[range])?;
    fdt.property_u32("reg-shift", 0)?;
    fdt.property_u32("reg-io-width", 1)?;
    fdt.property_u32("clock-frequency", CLOCK_FREQUENCY)?;
    // The model signals changes, not levels: see `serial`.
    fdt.property_array_u32("interrupts", &[GIC_SPI, u32::from(spi), EDGE_RISING])?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Vec<u8> {
        make(&MachineDescription {
            cpu_compatible: "arm,cortex-a7",
            mpidr: &[0x8000_0000, 0x8000_0001],
            ram: 0x8000_0000..0x9000_0000,
            command_line: "console=ttyS0 quiet",
            initrd: Some(0x8f00_0000..0x8f12_3456),
        })
        .unwrap()
    }

    fn cells(property: fdt::node::NodeProperty) -> Vec<u32> {
        property.value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    #[test]
    fn a_reader_finds_in_it_what_was_put_there() {
        let blob = tree();
        let tree = fdt::Fdt::new(&blob).unwrap();
        assert_eq!(tree.chosen().bootargs(), Some("console=ttyS0 quiet"));
        let chosen = tree.find_node("/chosen").unwrap();
        assert_eq!(cells(chosen.property("linux,initrd-start").unwrap()), [0, 0x8f00_0000]);
        assert_eq!(cells(chosen.property("linux,initrd-end").unwrap()), [0, 0x8f12_3456]);
        let region = tree.memory().regions().next().unwrap();
        assert_eq!((region.starting_address as usize, region.size), (0x8000_0000, Some(0x1000_0000)));
        let cpus: Vec<_> = tree.cpus().map(|cpu| cpu.ids().first()).collect();
        assert_eq!(cpus, [0, 1]);
        let console = tree.find_node("/serial@10000000").unwrap();
        assert_eq!(cells(console.property("interrupts").unwrap()), [0, 0, 1]);
        let gic = tree.find_node("/interrupt-controller@20000000").unwrap();
        let reg: Vec<_> = gic.reg().unwrap().map(|r| (r.starting_address as usize, r.size.unwrap())).collect();
        assert_eq!(reg, [(0x2000_0000, 0x1000), (0x2001_0000, 0x2000)]);
        let timer = tree.find_node("/timer").unwrap();
        assert_eq!(cells(timer.property("interrupts").unwrap())[6..9], [1, 11, 0x308]);
        assert_eq!(tree.find_node("/psci").unwrap().property("method").unwrap().as_str(), Some("hvc"));
    }

    #[test]
    fn a_given_tree_is_checked() {
        let blob = tree();
        let mut longer = blob.clone();
        longer.push(0);
        assert_eq!(check(longer).as_ref(), Ok(&blob));
        assert!(matches!(check(blob[..blob.len() - 1].to_vec()), Err(BadTree::Truncated { .. })));
        assert!(matches!(check(b"/dts-v1/;".to_vec()), Err(BadTree::Foreign(start)) if start == b"/dts-v1/"));
        assert_eq!(check(vec![]), Err(BadTree::Empty));
        let mut huge = vec![0; DTB_ROOM as usize + 1];
        huge[..4].copy_from_slice(&0xd00d_feedu32.to_be_bytes());
        huge[4..8].copy_from_slice(&(DTB_ROOM as u32 + 1).to_be_bytes());
        assert_eq!(check(huge), Err(BadTree::TooBig(DTB_ROOM + 1)));
    }

    #[test]
    fn a_command_line_with_a_zero_byte_is_an_error() {
        let bad =
            MachineDescription { cpu_compatible: "x", mpidr: &[0], ram: 0..1, command_line: "a\0b", initrd: None };
        assert!(make(&bad).is_err());
    }
}
