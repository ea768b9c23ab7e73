// SPDX-License-Identifier: GPL-2.0-only
//! Lists that guests' exits look into and calls of the process change, seldom.
//!
//! A list is sorted by guest physical address. Who looks holds a spin lock, and first asks without it whether there is anything in the
//! list at all. Who changes it holds a mutex. What is added goes to a longer copy, which takes the list's place in one step, so that
//! nothing is allocated and nothing long is done under the spin lock, and a list that does not find memory stays as it is. What
//! is removed leaves an empty place behind, which the next copy leaves out: to remove always succeeds.

use crate::host::{Host, Lock, OutOfMemory};
use core::sync::atomic::{AtomicU32, Ordering};

/// A place of a list.
pub struct Place<T> {
    /// The address that it is sorted by.
    pub at: u64,
    /// `None`: what was here is gone.
    pub value: Option<T>,
}

type Places<H, T> = Option<<H as Host>::Array<Place<T>>>;

/// A list.
pub struct ReadMostly<H: Host, T: Clone> {
    changes: H::Mutex<()>,
    places: H::Spin<Places<H, T>>,
    /// How many places are not empty. Written with `changes` held.
    len: AtomicU32,
}

impl<H: Host, T: Clone> ReadMostly<H, T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { changes: Lock::new(()), places: Lock::new(None), len: AtomicU32::new(0) }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much is in it.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Looks into it, with a spin lock held.
    pub fn look<R>(&self, look: impl FnOnce(&[Place<T>]) -> R) -> R {
        look(self.places.lock().as_deref().unwrap_or_default())
    }

    /// Nobody else changes it until what this returns is dropped. May sleep.
    pub fn change(&self) -> Change<'_, H, T> {
        Change { list: self, _changes: self.changes.lock() }
    }
}

/// The right to change a list.
pub struct Change<'a, H: Host, T: Clone> {
    list: &'a ReadMostly<H, T>,
    _changes: <H::Mutex<()> as Lock<()>>::Guard<'a>,
}

impl<H: Host, T: Clone> Change<'_, H, T> {
    /// Adds a value, behind those that are at the same address. May sleep.
    pub fn add(&self, host: &H, at: u64, value: T) -> Result<(), OutOfMemory> {
        let len = self.list.len();
        let mut added = Some(Place { at, value: Some(value) });
        let mut next = 0;
        // Each is copied under a lock of its own: there may be many.
        let longer = host.array(len + 1, |_| {
            self.list.look(|places| {
                let left = places.get(next..).unwrap_or_default();
                let found = left.iter().position(|place| place.value.is_some());
                let place = found.and_then(|found| left.get(found));
                match (place, found) {
                    (Some(place), Some(found)) if place.at <= at || added.is_none() => {
                        next += found + 1;
                        Place { at: place.at, value: place.value.clone() }
                    }
                    _ => added.take().unwrap_or(Place { at: u64::MAX, value: None }),
                }
            })
        })?;
        let _shorter = self.list.places.lock().replace(longer);
        self.list.len.store(len as u32 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the first value out that is meant. It is the caller's to drop: this holds a lock.
    pub fn remove(&self, is_meant: impl Fn(u64, &T) -> bool) -> Option<T> {
        let mut places = self.list.places.lock();
        let removed = places.as_deref_mut()?.iter_mut().find_map(|place| {
            let at = place.at;
            place.value.take_if(|value| is_meant(at, value))
        })?;
        self.list.len.store((self.list.len() as u32).wrapping_sub(1), Ordering::Relaxed);
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::vec::Vec;

    type List = ReadMostly<fake::Host, Arc<u32>>;

    fn contents(list: &List) -> Vec<(u64, u32)> {
        list.look(|places| places.iter().filter_map(|place| Some((place.at, **place.value.as_ref()?))).collect())
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_list(steps in proptest::collection::vec((0..3u32, 0..8u64), 0..60)) {
            let host = fake::Host::new();
            let list = List::new();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (number, (kind, at)) in (0..).zip(steps) {
                if kind == 0 {
                    let removed = list.change().remove(|place, _| place == at);
                    let expected = model.iter().position(|(place, _)| *place == at).map(|index| model.remove(index).1);
                    prop_assert_eq!(removed.map(|value| *value), expected);
                } else {
                    // Now and then there is no memory.
                    host.allow_allocations((number % 5 == 0).then_some(0));
                    let added = list.change().add(&host, at, Arc::new(number));
                    prop_assert_eq!(added.is_err(), number % 5 == 0);
                    if added.is_ok() {
                        let index = model.partition_point(|(place, _)| *place <= at);
                        model.insert(index, (at, number));
                    }
                }
                prop_assert_eq!(contents(&list), model.clone());
                prop_assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }

    #[test]
    fn nothing_that_was_removed_is_kept() {
        let host = fake::Host::new();
        let list = List::new();
        let value = Arc::new(5);
        for at in 0..3 {
            list.change().add(&host, at, value.clone()).unwrap();
        }
        assert_eq!(Arc::strong_count(&value), 4);
        assert!(list.change().remove(|at, _| at == 1).is_some());
        assert_eq!(Arc::strong_count(&value), 3);
        drop(list);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
