// SPDX-License-Identifier: GPL-2.0-only
//! The descriptors of a hostile process: a few of each kind, which its threads make, use, copy and close behind each other's backs.
//!
//! A place holds a number and says nothing of what it is by now: another thread may have closed it, and its number may be something
//! else's. Numbers from [`OWN`] on are the process's own and never here.

use std::sync::atomic::{AtomicI32, Ordering};

use fastrand::Rng;

use crate::values::Values;

/// The first number that is not KVM's. More than so many a process has not, so that it runs out of them.
pub const OWN: i32 = 96;
/// How many descriptors a process may have.
pub const LIMIT: u64 = 128;

/// What a descriptor was when it was put here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `/dev/kvm`.
    System,
    /// A virtual machine.
    Vm,
    /// A vCPU.
    Vcpu,
    /// A device.
    Device,
    /// An eventfd.
    Event,
    /// Something that KVM knows nothing of.
    Stranger,
}

const KINDS: [Kind; 6] = [Kind::System, Kind::Vm, Kind::Vcpu, Kind::Device, Kind::Event, Kind::Stranger];
/// Places for each kind.
const PLACES: usize = 4;

/// All of a process.
pub struct Descriptors([[AtomicI32; PLACES]; KINDS.len()]);

impl Descriptors {
    /// None.
    pub const fn new() -> Self {
        Self([const { [const { AtomicI32::new(-1) }; PLACES] }; KINDS.len()])
    }

    fn place(&self, kind: Kind, random: &mut Rng) -> &AtomicI32 {
        &self.0[kind as usize][random.usize(..PLACES)]
    }

    /// One that was of this kind, or -1 if there is none.
    pub fn get(&self, kind: Kind, random: &mut Rng) -> i32 {
        let first = random.usize(..PLACES);
        let mut places =
            (0..PLACES).map(|place| self.0[kind as usize][(first + place) % PLACES].load(Ordering::Relaxed));
        places.find(|fd| *fd >= 0).unwrap_or(-1)
    }

    /// One of any kind, or a number that is none.
    pub fn any(&self, random: &mut Rng) -> i32 {
        if random.one_in(8) {
            return random.of(&[-1, i32::MIN, i32::MAX, 4096, OWN - 1]);
        }
        let kind = random.of(&KINDS);
        self.get(kind, random)
    }

    /// Takes a new one in. What was in its place is given back to be closed, or forgotten, open, until all are closed.
    pub fn put(&self, kind: Kind, fd: i32, random: &mut Rng) {
        let old = self.place(kind, random).swap(fd, Ordering::Relaxed);
        if !random.one_in(4) {
            close(old);
        }
    }

    /// Closes one; its number may stay here.
    pub fn close(&self, random: &mut Rng) {
        let kind = random.of(&KINDS);
        let place = self.place(kind, random);
        let stays = random.one_in(4);
        let fd = place.load(Ordering::Relaxed);
        if !stays {
            place.store(-1, Ordering::Relaxed);
        }
        close(fd);
    }

    /// Closes all, those that nobody remembers too, in some order.
    pub fn close_all(&self, random: &mut Rng) {
        let mut numbers: [i32; (OWN - 3) as usize] = std::array::from_fn(|index| index as i32 + 3);
        random.shuffle(&mut numbers);
        numbers.into_iter().for_each(close);
    }
}

/// Closes a number that may be open.
fn close(fd: i32) {
    if (3..OWN).contains(&fd) {
        // SAFETY: nothing of this program's is below `OWN` but what the threads use at their own risk.
        unsafe { libc::close(fd) };
    }
}
