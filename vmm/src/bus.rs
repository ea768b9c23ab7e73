// SPDX-License-Identifier: GPL-2.0-only
//! Carries device accesses that the kernel left to the process to the device that owns the address.

use std::ops::Range;
use std::sync::Arc;

/// A device that is accessed by loads and stores. Several vCPUs call it at once.
pub trait Device: Send + Sync {
    /// Fills `data` (1, 2, 4 or 8 bytes, zeroed) from `offset` bytes into the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1, 2, 4 or 8 bytes) at `offset` bytes into the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Which device owns which addresses: a handful of ranges, looked through in order.
#[derive(Default)]
pub struct Bus {
    devices: Vec<(Range<u64>, Arc<dyn Device>)>,
}

impl Bus {
    /// Gives `range` to `device`.
    ///
    /// # Panics
    ///
    /// If another device owns part of it: the memory map is fixed, so this is a mistake in it.
    pub fn add(&mut self, range: Range<u64>, device: Arc<dyn Device>) {
        assert!(
            self.devices.iter().all(|(other, _)| other.end <= range.start || range.end <= other.start),
            "{range:x?} is taken"
        );
        self.devices.push((range, device));
    }

    /// The owner of all of `length` bytes from `address`, and the offset there.
    fn owner(&self, address: u64, length: usize) -> Option<(&dyn Device, u64)> {
        let end = address.checked_add(length as u64)?;
        let (range, device) = self.devices.iter().find(|(range, _)| range.start <= address && end <= range.end)?;
        Some((&**device, address - range.start))
    }

    /// Reads `length` bytes, 8 at most, with zeros behind them. `None`: no device is there.
    pub fn read(&self, address: u64, length: usize) -> Option<[u8; 8]> {
        let (device, offset) = self.owner(address, length)?;
        let mut data = [0; 8];
        device.read(offset, &mut data[..length]);
        Some(data)
    }

    /// Writes `data`. Where no device is, nothing happens: `false`.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        self.owner(address, data.len()).map(|(device, offset)| device.write(offset, data)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Reads as its offset, remembers writes.
    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Device for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = offset as u8 + 1;
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_owner_at_its_offset_and_nobody_else() {
        let (low, high) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
        let mut bus = Bus::default();
        bus.add(0x1000..0x1010, low.clone());
        bus.add(0x1010..0x1020, high.clone());
        assert_eq!(bus.read(0x1004, 4), Some([5, 0, 0, 0, 0, 0, 0, 0]));
        assert!(bus.write(0x101c, &[1, 2, 3, 4]));
        assert_eq!(*high.0.lock().unwrap(), [(0xc, vec![1, 2, 3, 4])]);
        assert!(low.0.lock().unwrap().is_empty());
    }

    #[test]
    fn outside_and_across_the_edge_is_nobody() {
        let mut bus = Bus::default();
        bus.add(0x1000..0x1010, Arc::new(Probe::default()));
        for address in [0, 0xffe, 0x100d, 0x1010, u64::MAX - 1] {
            assert_eq!(bus.read(address, 4), None, "{address:#x}");
            assert!(!bus.write(address, &[0; 4]));
        }
    }

    #[test]
    #[should_panic(expected = "is taken")]
    fn two_devices_cannot_own_one_address() {
        let mut bus = Bus::default();
        bus.add(0x1000..0x1010, Arc::new(Probe::default()));
        bus.add(0x100f..0x1020, Arc::new(Probe::default()));
    }
}
