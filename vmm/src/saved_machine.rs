// SPDX-License-Identifier: GPL-2.0-only
//! A machine in a file, from which `wsvm resume` goes on.
//!
//! The file is a sequence of 64-bit little-endian words: a mark and a version; how much memory there is; each vCPU's state; the GIC's;
//! the serial ports'; and then memory, page by page with its number, without the pages that are all zeros. Lists begin with their
//! length. The end is marked, so that a file that was cut short is found out, and a checksum (CRC-32) of all before it follows, so that one
//! that has changed is. What a file says is looked at where it is used, too: by KVM, which refuses what cannot be, and by the memory's
//! bounds.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use crc32fast::Hasher;
use vm_superio::SerialState;

use crate::error::Error;
use crate::guest_memory::GuestRam;
use crate::kvm::state::{GicWrite, VcpuState};
use crate::layout::{MAX_CPUS, MAX_RAM, MIN_RAM};

/// "wsvm" and the version of the format.
const MARK: u64 = u64::from_le_bytes(*b"wsvm\0\0\0\x02");
/// Number of a page that is none: the end.
const END: u64 = u64::MAX;
const PAGE: usize = 4096;
/// More elements than any list here has.
const LONGEST: u64 = 1 << 16;

/// A machine that stands still, but for its memory.
#[derive(Clone, Debug)]
pub struct SavedMachine {
    /// Bytes of RAM.
    pub memory: u64,
    /// The vCPUs, by their numbers.
    pub vcpus: Vec<VcpuState>,
    /// The GIC.
    pub gic: Vec<GicWrite>,
    /// The serial ports, in their order.
    pub ports: Vec<SerialState>,
}

/// Why a file is no saved machine.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It is something else.
    #[error("not a saved machine of this version of wsvm")]
    Mark,
    /// It says what cannot be.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// It ends too early.
    #[error("it ends too early: it was cut off")]
    CutOff,
    /// It cannot be read.
    #[error("{0}")]
    Read(io::Error),
    /// This host does not take what it says.
    #[error("it cannot go on here: it was saved on another kind of core, or is damaged ({call}: {source})")]
    Refused {
        /// What was refused.
        call: &'static str,
        /// How.
        source: io::Error,
    },
}

impl From<io::Error> for BadFile {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::CutOff } else { Self::Read(error) }
    }
}

/// A file of which a checksum is kept as it is written or read.
pub struct Summed<F> {
    file: F,
    sum: Hasher,
}

impl<F> Summed<F> {
    fn new(file: F) -> Self {
        Self { file, sum: Hasher::new() }
    }

    /// The checksum of what was written or read so far.
    fn sum(&self) -> u64 {
        self.sum.clone().finalize().into()
    }
}

impl<F: Write> Write for Summed<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<F: Read> Read for Summed<F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(bytes)?;
        self.sum.update(&bytes[..read]);
        Ok(read)
    }
}

fn write_word(to: &mut impl Write, word: u64) -> io::Result<()> {
    to.write_all(&word.to_le_bytes())
}

fn read_word(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_list<T>(from: &mut impl Read, mut element: impl FnMut(&[u64]) -> T, words: usize) -> Result<Vec<T>, BadFile> {
    let count = read_word(from)?;
    if count > LONGEST {
        return Err(BadFile::Damaged("a list is too long"));
    }
    let mut buffer = vec![0; words];
    let mut list = Vec::new();
    for _ in 0..count {
        for word in &mut buffer {
            *word = read_word(from)?;
        }
        list.push(element(&buffer));
    }
    Ok(list)
}

/// Whether a machine could be saved to this file, which must not be there yet.
pub fn check_target(path: &Path) -> Result<(), Error> {
    File::create_new(path).and_then(|_| std::fs::remove_file(path)).map_err(Error::save_target(path))
}

impl SavedMachine {
    /// Writes it and its memory to a file, which must not be there yet.
    pub fn write(&self, path: &Path, ram: &GuestRam) -> Result<(), Error> {
        let file = File::create_new(path).map_err(Error::save_target(path))?;
        let written = self.write_to(file, path, ram);
        if written.is_err() {
            // Half a machine is none, and would be in the way of the next.
            let _ = std::fs::remove_file(path);
        }
        written
    }

    fn write_to(&self, file: File, path: &Path, ram: &GuestRam) -> Result<(), Error> {
        let mut file = Summed::new(BufWriter::with_capacity(64 * PAGE, file));
        self.write_words(&mut file).map_err(Error::file(path))?;
        let (mut page, guest) = ([0; PAGE], ram.guest());
        for (number, at) in guest.step_by(PAGE).enumerate() {
            ram.read(&mut page, at)?;
            if page.iter().any(|byte| *byte != 0) {
                let written = write_word(&mut file, number as u64).and_then(|()| file.write_all(&page));
                written.map_err(Error::file(path))?;
            }
        }
        let mut end = || {
            write_word(&mut file, END)?;
            let sum = file.sum();
            write_word(&mut file, sum)?;
            file.flush()?;
            file.file.get_ref().sync_all()
        };
        end().map_err(Error::file(path))
    }

    fn write_words(&self, file: &mut impl Write) -> io::Result<()> {
        let mut words = vec![MARK, self.memory, self.vcpus.len() as u64];
        for VcpuState { registers, mp_state, async_abort } in &self.vcpus {
            words.extend([u64::from(*mp_state), u64::from(*async_abort), registers.len() as u64]);
            words.extend(registers.iter().flat_map(|(id, value)| [*id, *value]));
        }
        words.push(self.gic.len() as u64);
        words.extend(self.gic.iter().flat_map(|write| [write.group.into(), write.attr, write.value.into()]));
        words.push(self.ports.len() as u64);
        for port in &self.ports {
            words.extend(port_registers(port).map(u64::from));
            words.push(port.in_buffer.len() as u64);
            words.extend(port.in_buffer.iter().map(|byte| u64::from(*byte)));
        }
        words.into_iter().try_for_each(|word| write_word(file, word))
    }

    /// Reads all but the memory, which is what is left in the file.
    pub fn read(file: &mut impl Read) -> Result<Self, BadFile> {
        match read_word(file).map_err(BadFile::from) {
            Ok(MARK) => {}
            Ok(_) | Err(BadFile::CutOff) => return Err(BadFile::Mark),
            Err(error) => return Err(error),
        }
        let memory = read_word(file)?;
        if !(MIN_RAM..=MAX_RAM).contains(&memory) || !memory.is_multiple_of(1 << 20) {
            return Err(BadFile::Damaged("its memory has a size that no machine has"));
        }
        let vcpus = read_word(file)?;
        if !(1..=MAX_CPUS as u64).contains(&vcpus) {
            return Err(BadFile::Damaged("it has more CPUs than any machine, or none"));
        }
        let vcpus = (0..vcpus).map(|_| {
            let (mp_state, async_abort) = (read_word(file)? as u32, read_word(file)? != 0);
            let registers = read_list(file, |words| (words[0], words[1]), 2)?;
            Ok(VcpuState { registers, mp_state, async_abort })
        });
        let vcpus = vcpus.collect::<Result<_, BadFile>>()?;
        let write = |words: &[u64]| GicWrite { group: words[0] as u32, attr: words[1], value: words[2] as u32 };
        let gic = read_list(file, write, 3)?;
        let ports = read_word(file)?;
        if ports > LONGEST {
            return Err(BadFile::Damaged("a list is too long"));
        }
        let ports = (0..ports).map(|_| read_port(file)).collect::<Result<_, BadFile>>()?;
        Ok(Self { memory, vcpus, gic, ports })
    }
}

/// Opens a saved machine's file.
pub fn open(path: &Path) -> Result<Summed<BufReader<File>>, Error> {
    let file = File::open(path).map_err(Error::file(path))?;
    Ok(Summed::new(BufReader::with_capacity(64 * PAGE, file)))
}

/// Reads the memory that follows a machine in its file, and whether all of the file is as it was written.
pub fn read_memory(file: &mut Summed<impl Read>, ram: &GuestRam) -> Result<(), BadFile> {
    let (mut page, guest) = ([0; PAGE], ram.guest());
    loop {
        let number = read_word(file)?;
        if number == END {
            let sum = file.sum();
            if read_word(file)? != sum {
                return Err(BadFile::Damaged("it is not what was written: its checksum is another"));
            }
            return Ok(());
        }
        file.read_exact(&mut page)?;
        let at = number.checked_mul(PAGE as u64).and_then(|offset| guest.start.checked_add(offset));
        let written = at.filter(|at| *at < guest.end).map(|at| ram.write(&page, at));
        if !matches!(written, Some(Ok(()))) {
            return Err(BadFile::Damaged("it has a page beyond its memory"));
        }
    }
}

fn port_registers(port: &SerialState) -> [u8; 9] {
    [
        port.baud_divisor_low,
        port.baud_divisor_high,
        port.interrupt_enable,
        port.interrupt_identification,
        port.line_control,
        port.line_status,
        port.modem_control,
        port.modem_status,
        port.scratch,
    ]
}

fn read_port(file: &mut impl Read) -> Result<SerialState, BadFile> {
    let mut registers = [0; 9];
    for register in &mut registers {
        *register = read_word(file)? as u8;
    }
    let [
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable,
        interrupt_identification,
        line_control,
        line_status,
        modem_control,
        modem_status,
        scratch,
    ] = registers;
    let in_buffer = read_list(file, |words| words[0] as u8, 1)?;
    Ok(SerialState {
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable,
        interrupt_identification,
        line_control,
        line_status,
        modem_control,
        modem_status,
        scratch,
        in_buffer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::Backing;
    use vmm_sys_util::tempdir::TempDir;

    fn machine() -> SavedMachine {
        let vcpu = |seed: u64| VcpuState {
            registers: (0..5).map(|index| (seed << 32 | index, !index * seed)).collect(),
            mp_state: seed as u32,
            async_abort: seed == 1,
        };
        let gic = (0..7).map(|index| GicWrite { group: 1 + index % 2, attr: 1 << 32 | 4, value: !index }).collect();
        let port = |scratch: u8| SerialState { scratch, in_buffer: vec![scratch; 3], ..SerialState::default() };
        SavedMachine { memory: MIN_RAM, vcpus: vec![vcpu(0), vcpu(1)], gic, ports: vec![port(1), port(2)] }
    }

    fn words(machine: &SavedMachine) -> Vec<u8> {
        let mut words = Vec::new();
        machine.write_words(&mut words).unwrap();
        words
    }

    #[test]
    fn a_machine_comes_back_with_its_memory() {
        let base = crate::layout::RAM_BASE;
        let (ram, other) = (
            GuestRam::map(base..base + MIN_RAM, Backing::Any).unwrap(),
            GuestRam::map(base..base + MIN_RAM, Backing::Any).unwrap(),
        );
        ram.write(b"first", base).unwrap();
        ram.write(b"last", base + MIN_RAM - 4).unwrap();
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("machine");
        machine().write(&path, &ram).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 3 * 4096, "pages of zeros are left out");
        assert!(matches!(machine().write(&path, &ram), Err(Error::SaveTarget { .. })), "nothing is overwritten");

        let mut file = open(&path).unwrap();
        let read = SavedMachine::read(&mut file).unwrap();
        assert_eq!((read.memory, &read.vcpus, &read.gic), (MIN_RAM, &machine().vcpus, &machine().gic));
        assert_eq!(words(&read), words(&machine()), "the ports");
        read_memory(&mut file, &other).unwrap();
        let (mut first, mut last) = ([0; 5], [0; 4]);
        other.read(&mut first, base).unwrap();
        other.read(&mut last, base + MIN_RAM - 4).unwrap();
        assert_eq!((&first, &last), (b"first", b"last"));
    }

    #[test]
    fn what_is_no_machine_is_refused() {
        let good = words(&machine());
        assert!(matches!(SavedMachine::read(&mut &good[1..]), Err(BadFile::Mark)));
        for cut in 0..8 {
            assert!(matches!(SavedMachine::read(&mut &good[..cut]), Err(BadFile::Mark)), "{cut} bytes");
        }
        for cut in 8..good.len() {
            assert!(matches!(SavedMachine::read(&mut &good[..cut]), Err(BadFile::CutOff)), "{cut} bytes");
        }
        for (word, wrong) in [(1, 0u64), (1, MIN_RAM + 1), (1, u64::MAX), (2, 0), (2, 9), (5, u64::MAX)] {
            let mut bad = good.clone();
            bad[word * 8..word * 8 + 8].copy_from_slice(&wrong.to_le_bytes());
            assert!(matches!(SavedMachine::read(&mut &bad[..]), Err(BadFile::Damaged(_))), "word {word}: {wrong:#x}");
        }
        let base = crate::layout::RAM_BASE;
        let ram = GuestRam::map(base..base + MIN_RAM, Backing::Any).unwrap();
        for number in [MIN_RAM / 4096, u64::MAX / 4096, u64::MAX - 1] {
            let mut page = number.to_le_bytes().to_vec();
            page.extend([1; PAGE]);
            let mut file = Summed::new(&page[..]);
            assert!(matches!(read_memory(&mut file, &ram), Err(BadFile::Damaged(_))), "page {number:#x}");
        }
        assert!(matches!(read_memory(&mut Summed::new(&[0u8; 100][..]), &ram), Err(BadFile::CutOff)));
    }

    #[test]
    fn no_bit_of_a_file_changes_unnoticed() {
        let base = crate::layout::RAM_BASE;
        let ram = GuestRam::map(base..base + MIN_RAM, Backing::Any).unwrap();
        ram.write(b"a word", base + 2 * PAGE as u64).unwrap();
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("machine");
        machine().write(&path, &ram).unwrap();
        let good = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            let mut file = Summed::new(bytes);
            SavedMachine::read(&mut file).and_then(|_| read_memory(&mut file, &ram))
        };
        read(&good).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert!(read(&bad).is_err(), "byte {byte}");
        }
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "{cut} bytes");
        }
    }
}
