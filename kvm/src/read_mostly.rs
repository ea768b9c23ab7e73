// SPDX-License-Identifier: GPL-2.0-only
//! Lists that guests' exits look into and calls of the process change, seldom.
//!
//! A list is sorted by a key, so that who looks can search. Who looks holds a spin lock, and first asks without it whether there is
//! anything in the list at all. Who changes it holds a mutex. What is added goes to a longer copy, which takes the list's place in one
//! step, so that nothing is allocated and nothing long is done under the spin lock, and a list that does not find memory stays as it is.
//! What is removed leaves an empty place behind, which the next copy leaves out: to remove always succeeds.

use crate::atomic::{AtomicU32, Ordering};
use crate::host::{Host, Lock, OutOfMemory};

/// How many places are looked at under one taking of the spin lock where there may be many to be looked at.
const PIECE: usize = 32;

/// A place of a list.
pub struct Place<K, T> {
    /// What it is sorted by.
    pub key: K,
    /// `None`: what was here is gone.
    pub value: Option<T>,
}

/// What has this key, if no two in the list have the same.
pub fn find<'a, K: Ord, T>(places: &'a [Place<K, T>], key: &K) -> Option<&'a T> {
    places.get(number_of(places, key)?)?.value.as_ref()
}

fn number_of<K: Ord, T>(places: &[Place<K, T>], key: &K) -> Option<usize> {
    places.binary_search_by(|place| place.key.cmp(key)).ok()
}

type Places<H, K, T> = Option<<H as Host>::Array<Place<K, T>>>;

/// A list of values by keys.
pub struct ReadMostly<H: Host, K, T: Clone> {
    changes: H::Mutex<()>,
    places: H::Spin<Places<H, K, T>>,
    /// How many places are not empty. Written with `changes` held.
    len: AtomicU32,
}

impl<H: Host, K: Copy + Ord, T: Clone> ReadMostly<H, K, T> {
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
    pub fn look<R>(&self, look: impl FnOnce(&[Place<K, T>]) -> R) -> R {
        look(self.places.lock().as_deref().unwrap_or_default())
    }

    /// Nobody else changes it until what this returns is dropped. May sleep.
    pub fn change(&self) -> Change<'_, H, K, T> {
        Change { list: self, _changes: self.changes.lock() }
    }
}

/// The right to change a list.
pub struct Change<'a, H: Host, K, T: Clone> {
    list: &'a ReadMostly<H, K, T>,
    _changes: <H::Mutex<()> as Lock<()>>::Guard<'a>,
}

impl<H: Host, K: Copy + Ord, T: Clone> Change<'_, H, K, T> {
    /// The first place from number `next` on that is not empty, by its key and what `look` makes of its value; `next` is its number.
    fn first_from<R>(&self, next: &mut usize, look: impl Fn(&T) -> R) -> Option<(K, R)> {
        loop {
            // Nobody else changes the list, so it stays the same from piece to piece.
            let found = self.list.look(|places| {
                let piece = places.get(*next..).unwrap_or_default();
                let looked_at = piece.len().min(PIECE);
                let full = |place: &Place<K, T>| Some((place.key, look(place.value.as_ref()?)));
                match piece.iter().take(PIECE).enumerate().find_map(|(index, place)| Some((index, full(place)?))) {
                    Some((index, found)) => Ok((index, Some(found))),
                    None if looked_at < PIECE => Ok((looked_at, None)),
                    None => Err(looked_at),
                }
            });
            match found {
                Ok((empty, found)) => {
                    *next += empty;
                    return found;
                }
                Err(empty) => *next += empty,
            }
        }
    }

    /// The first key in the list that is `key` or greater.
    pub fn first_key(&self, key: &K) -> Option<K> {
        let mut next = self.list.look(|places| places.partition_point(|place| place.key < *key));
        self.first_from(&mut next, |_| ()).map(|(key, ())| key)
    }

    /// Adds a value, behind those that have the same key. May sleep.
    pub fn add(&self, host: &H, key: K, value: T) -> Result<(), OutOfMemory> {
        let len = self.list.len();
        let mut added = Some(value);
        let mut next = 0;
        let longer = host.array(len + 1, |_| match self.first_from(&mut next, T::clone) {
            Some((other, value)) if other <= key || added.is_none() => {
                next += 1;
                Place { key: other, value: Some(value) }
            }
            _ => Place { key, value: added.take() },
        })?;
        let _shorter = self.list.places.lock().replace(longer);
        self.list.len.store(len as u32 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the first value out that is meant. It is the caller's to drop: this holds a lock.
    pub fn remove(&self, is_meant: impl Fn(&T) -> bool) -> Option<T> {
        self.take(|places| places.iter_mut().find_map(|place| place.value.take_if(|value| is_meant(value))))
    }

    /// The same for what has this key, if no two in the list have the same.
    pub fn remove_at(&self, key: &K, is_meant: impl Fn(&T) -> bool) -> Option<T> {
        self.take(|places| places.get_mut(number_of(places, key)?)?.value.take_if(|value| is_meant(value)))
    }

    fn take(&self, find: impl FnOnce(&mut [Place<K, T>]) -> Option<T>) -> Option<T> {
        let mut places = self.list.places.lock();
        let removed = find(places.as_deref_mut()?)?;
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

    type List = ReadMostly<fake::Host, u64, Arc<u32>>;

    fn contents(list: &List) -> Vec<(u64, u32)> {
        list.look(|places| places.iter().filter_map(|place| Some((place.key, **place.value.as_ref()?))).collect())
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_list(steps in proptest::collection::vec((0..3u32, 0..8u64), 0..60)) {
            let host = fake::Host::new();
            let list = List::new();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (number, (kind, at)) in (0..).zip(steps) {
                if kind == 0 {
                    let meant = |value: u32| u64::from(value % 8) == at;
                    let removed = list.change().remove(|value| meant(**value));
                    let expected = model.iter().position(|(_, value)| meant(*value)).map(|index| model.remove(index).1);
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
                let first = model.iter().map(|(place, _)| *place).find(|place| *place >= at);
                prop_assert_eq!(list.change().first_key(&at), first);
            }
        }
    }

    /// Many are searched, and none of many that are gone keeps the lock for long.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn what_is_unique_is_found_among_many() {
        let host = fake::Host::new();
        let list = List::new();
        for number in 0..500u32 {
            // In an order that is neither up nor down.
            let at = u64::from(number * 263 % 500);
            list.change().add(&host, at, Arc::new(number)).unwrap();
        }
        for at in 0..500u64 {
            let meant = list.look(|places| find(places, &at).cloned()).expect("it was added");
            assert_eq!(u64::from(*meant * 263 % 500), at);
            assert!(list.change().remove_at(&at, |value| *value != meant).is_none());
            if at % 100 != 0 {
                assert_eq!(list.change().remove_at(&at, |value| *value == meant), Some(meant));
                assert!(list.change().remove_at(&at, |_| true).is_none());
            }
            assert_eq!(list.look(|places| find(places, &at).is_some()), at % 100 == 0);
        }
        assert!(list.look(|places| find(places, &500).is_none()));
        for at in 0..500u64 {
            assert_eq!(list.change().first_key(&at), Some(at.next_multiple_of(100)).filter(|next| *next < 500));
        }
        assert_eq!((list.len(), list.look(<[_]>::len)), (5, 500));
        list.change().add(&host, 250, Arc::new(0)).unwrap();
        assert_eq!(contents(&list).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 100, 200, 250, 300, 400]);
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
        assert!(list.change().remove_at(&1, |_| true).is_some());
        assert_eq!(Arc::strong_count(&value), 3);
        drop(list);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
