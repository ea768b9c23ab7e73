// SPDX-License-Identifier: GPL-2.0-only
//! Hyp mode's part of a guest's trips, counted from QEMU's log.
//!
//! With `-d in_asm,exec,nochain` and `-dfilter` on the Hyp image's addresses QEMU logs each block of the image's code when it translates
//! it, with its instructions, and each time that it executes it, by its address. Both together are every instruction that was executed in
//! Hyp mode. Nothing else of the host has code at these addresses; that each logged instruction is the image's is checked all
//! the same.
//!
//! A stay in Hyp mode ends with ERET. One that begins at the host's vector table is a call from the host. A stay from the guest that is
//! followed by a call is a trip through the host's kernel, one that is followed by another from the guest was answered in Hyp mode.
//! The guest does hardly anything but hypercalls, so that the trip that is seen most often is one's.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};

/// Where the host's traps arrive in a vector table (ARM DDI 0406C.d, B1.8.1: Hyp Trap).
const TRAP: u32 = 0x14;
const ERET: u32 = 0xe160_006e;

/// Instructions that were executed in Hyp mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// All.
    pub all: u32,
    /// Moves from and to coprocessors 15, 11 and 10: MRC, MCR, MRRC, MCRR.
    pub coprocessor: u32,
    /// Moves from and to banked registers of other modes: MRS, MSR.
    pub banked: u32,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.all += other.all;
        self.coprocessor += other.coprocessor;
        self.banked += other.banked;
    }

    fn instruction(opcode: u32) -> Count {
        Count { all: 1, coprocessor: is_coprocessor_move(opcode).into(), banked: is_banked_move(opcode).into() }
    }
}

/// MRC, MCR, MRRC or MCRR of coprocessor 15, 11 or 10 (A8.8.98, A8.8.99, A8.8.107, A8.8.108; A7.8 for VMRS and VMSR).
fn is_coprocessor_move(opcode: u32) -> bool {
    let one = opcode & 0x0f00_0010 == 0x0e00_0010;
    let two = opcode & 0x0fe0_0000 == 0x0c40_0000;
    (one || two) && matches!(opcode >> 8 & 0xf, 10 | 11 | 15)
}

/// MRS or MSR of a banked register (B9.3.9, B9.3.10).
fn is_banked_move(opcode: u32) -> bool {
    opcode & 0x0fb0_0eff == 0x0100_0200 || opcode & 0x0fb0_fef0 == 0x0120_f200
}

/// The Hyp image.
pub struct Image {
    /// Its bytes.
    bytes: Vec<u8>,
    /// Where a call from the host arrives.
    call: u32,
}

impl Image {
    /// From the flat image and from the linked program that it was made of.
    pub fn new(flat: Vec<u8>, linked: &[u8]) -> Result<Image> {
        let file = object::File::parse(linked)?;
        let table = file.symbols().find(|symbol| symbol.name() == Ok("hyp_host_vectors"));
        let table = table.context("the Hyp image has no hyp_host_vectors")?;
        Ok(Image { bytes: flat, call: table.address() as u32 + TRAP })
    }

    fn opcode(&self, address: u32) -> Option<u32> {
        let at = address.checked_sub(hyp_abi::layout::IMAGE_BASE)? as usize;
        Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A block of code.
#[derive(Default)]
struct Block {
    count: Count,
    returns: bool,
}

/// What was seen of trips, each with how often.
#[derive(Default)]
pub struct Trips {
    through_the_kernel: BTreeMap<Count, u32>,
    in_hyp_mode: BTreeMap<Count, u32>,
}

impl Trips {
    /// Reads QEMU's log.
    pub fn read(log: impl BufRead, image: &Image) -> Result<Trips> {
        let mut trips = Trips::default();
        let mut blocks: BTreeMap<u32, Block> = BTreeMap::new();
        let mut translated = None;
        // The block that the log names last, which may not have been executed after all.
        let mut last = None;
        let mut stay = Stay::default();
        for line in log.lines() {
            let line = line?;
            if let Some(rest) = line.strip_prefix("Trace ") {
                if let Some(address) = last {
                    stay.execute(address, &blocks, image, &mut trips)?;
                }
                last = Some(traced(rest).with_context(|| format!("QEMU's log: no address: {line}"))?);
            } else if line.starts_with("Stopped execution") {
                last = None;
            } else if line.starts_with("IN:") {
                // What was executed before is counted by what it was then.
                if let Some(address) = last.take() {
                    stay.execute(address, &blocks, image, &mut trips)?;
                }
                translated = None;
            } else if let Some((address, opcode)) = instruction(&line) {
                if image.opcode(address) != Some(opcode) {
                    bail!("QEMU's log: {address:#x} is not the Hyp image's: {line}");
                }
                let first = *translated.get_or_insert(address);
                let block = blocks.entry(first).or_default();
                if first == address {
                    *block = Block::default();
                }
                block.count.add(Count::instruction(opcode));
                block.returns |= opcode == ERET;
            }
        }
        Ok(trips)
    }

    /// The trip through the host's kernel that was made most often.
    pub fn through_the_kernel(&self) -> Option<Count> {
        most_often(&self.through_the_kernel)
    }

    /// The trip into Hyp mode alone that was made most often.
    pub fn in_hyp_mode(&self) -> Option<Count> {
        most_often(&self.in_hyp_mode)
    }
}

/// Where in a trip the CPU is.
#[derive(Default)]
struct Stay {
    /// The stay that goes on.
    now: Count,
    called: bool,
    /// The stay from the guest that has ended.
    guest: Option<Count>,
}

impl Stay {
    fn execute(&mut self, at: u32, blocks: &BTreeMap<u32, Block>, image: &Image, trips: &mut Trips) -> Result<()> {
        let block =
            blocks.get(&at).with_context(|| format!("QEMU's log: the block at {at:#x} was never translated"))?;
        if self.now == Count::default() {
            self.called = at == image.call;
        }
        self.now.add(block.count);
        if !block.returns {
            return Ok(());
        }
        let stay = std::mem::take(&mut self.now);
        match (self.guest.take(), self.called) {
            (Some(mut trip), true) => {
                trip.add(stay);
                *trips.through_the_kernel.entry(trip).or_default() += 1;
            }
            (Some(trip), false) => {
                *trips.in_hyp_mode.entry(trip).or_default() += 1;
                self.guest = Some(stay);
            }
            (None, true) => {}
            (None, false) => self.guest = Some(stay),
        }
        Ok(())
    }
}

fn most_often(trips: &BTreeMap<Count, u32>) -> Option<Count> {
    let (count, times) = trips.iter().max_by_key(|(_, times)| **times)?;
    // A few stays that are alike are no loop.
    (*times >= 1000).then_some(*count)
}

/// The address in `0: 0x7f2c12ca03c0 [00000400/00000000fe002660/00000060/ff020200]`.
fn traced(line: &str) -> Option<u32> {
    let address = line.split('/').nth(1)?;
    u32::try_from(u64::from_str_radix(address, 16).ok()?).ok()
}

/// Address and opcode in `0xfe002660:  e282d901  add sp, r2, #0x4000`.
fn instruction(line: &str) -> Option<(u32, u32)> {
    let (address, rest) = line.strip_prefix("0x")?.split_once(':')?;
    let opcode = rest.split_whitespace().next()?;
    Some((u32::from_str_radix(address, 16).ok()?, u32::from_str_radix(opcode, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_told_from_their_neighbours() {
        // mrc p15; mcr p15, 4; mrrc p15; mcrr p15; vmrs r0, fpscr
        for opcode in [0xee9d_3f50, 0xee8d_df50, 0xec51_0f1e, 0xec41_0f1e, 0xeef1_0a10] {
            assert!(is_coprocessor_move(opcode) && !is_banked_move(opcode), "{opcode:#x}");
        }
        // mrs r1, SP_svc; mrs r4, SPSR_fiq; msr SPSR_svc, r3; msr ELR_hyp, r3; mrs r0, r8_usr
        for opcode in [0xe103_1300, 0xe14e_4200, 0xe163_f303, 0xe12e_f303, 0xe100_0200] {
            assert!(is_banked_move(opcode) && !is_coprocessor_move(opcode), "{opcode:#x}");
        }
        // mrs r0, cpsr; mrs r0, spsr; msr cpsr_c, r0; vldm; mcr p14; add; eret; hvc; cps; bx lr
        for opcode in [
            0xe10f_0000,
            0xe14f_0000,
            0xe121_f000,
            0xecb0_0b20,
            0xee00_0e10,
            0xe082_0001,
            ERET,
            0xe140_0070,
            0xf102_0016,
            0xe12f_ff1e,
        ] {
            assert!(!is_banked_move(opcode) && !is_coprocessor_move(opcode), "{opcode:#x}");
        }
    }

    /// An image: the guest's entry (3 instructions, then ERET 1 behind), the host's entry (ERET 2 behind).
    fn image() -> Image {
        let code: [u32; 8] = [0xee9d_3f50, 0xe082_0001, 0xea00_0000, ERET, 0xe103_1300, 0xe082_0001, ERET, 0];
        Image { bytes: code.iter().flat_map(|word| word.to_le_bytes()).collect(), call: 0xfe00_0010 }
    }

    fn translation(image: &Image, address: u32, length: u32) -> String {
        let lines = (0..length).map(|n| {
            let at = address + 4 * n;
            format!("0x{at:08x}:  {:08x}  something\n", image.opcode(at).unwrap_or_default())
        });
        format!("----------------\nIN: \n{}\n", lines.collect::<String>())
    }

    fn trace(address: u32) -> String {
        format!("Trace 0: 0x7f2c12ca03c0 [00000400/00000000{address:08x}/00000060/ff020200] \n")
    }

    #[test]
    fn stays_are_put_together_to_trips() {
        let image = image();
        let (guest, end, host) = (0xfe00_0000, 0xfe00_000c, 0xfe00_0010);
        let mut log = String::new();
        // A call of the host's with no guest before it; then each block's code once.
        log += &(translation(&image, host, 3) + &trace(host) + &translation(&image, guest, 3));
        log += &translation(&image, end, 1);
        let stay = trace(guest) + &trace(end);
        for _ in 0..1001 {
            log += &stay;
            // Logged, but not executed.
            log += &(trace(host) + "Stopped execution of TB chain before 0x7f [fe000010]\n" + &trace(host));
        }
        for _ in 0..1003 {
            log += &stay;
        }
        let trips = Trips::read(log.as_bytes(), &image).expect("read");
        assert_eq!(trips.through_the_kernel(), Some(Count { all: 7, coprocessor: 1, banked: 1 }));
        assert_eq!(trips.in_hyp_mode(), Some(Count { all: 4, coprocessor: 1, banked: 0 }));
        let few = Trips::read((translation(&image, guest, 4) + &trace(guest)).as_bytes(), &image).expect("read");
        assert_eq!((few.through_the_kernel(), few.in_hyp_mode()), (None, None));
    }

    #[test]
    fn what_is_not_the_images_is_an_error() {
        let image = image();
        assert!(Trips::read(&b"IN:\n0xfe000000:  e0820001  add\n"[..], &image).is_err());
        assert!(Trips::read(&b"IN:\n0xfe100000:  e0820001  add\n"[..], &image).is_err());
        let never = trace(0xfe00_0004) + &trace(0xfe00_0004);
        assert!(Trips::read(never.as_bytes(), &image).is_err());
    }
}
