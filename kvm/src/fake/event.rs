// SPDX-License-Identifier: GPL-2.0-only
//! Events of the process, what watches them, and pages that the process has mapped, in tests.

use super::with_held;
use crate::host::{self, Words};
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::boxed::Box;
use std::sync::{Arc, Mutex};

type Action = Box<dyn Fn() + Send>;

#[derive(Default)]
struct EventState {
    signals: AtomicUsize,
    on_signal: Mutex<Option<Action>>,
}

/// An event that counts how often it was signalled.
#[derive(Clone, Default)]
pub struct Event(Arc<EventState>);

impl Event {
    /// How often it was signalled since the last call.
    pub fn take(&self) -> usize {
        self.0.signals.swap(0, Ordering::SeqCst)
    }

    /// Does something whenever it is signalled, at once, as what waits for it may.
    pub fn on_signal(&self, action: impl Fn() + Send + 'static) {
        *super::open(&self.0.on_signal) = Some(Box::new(action));
    }

    /// How many have it, this one included.
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl core::fmt::Debug for Event {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "event {:p}", Arc::as_ptr(&self.0))
    }
}

impl host::EventFd for Event {
    fn signal(&self) {
        assert!(!super::deferred::any(), "a thread is woken while the host's timers are not to be touched");
        with_held(|held| assert!(held.iter().all(|(_, spins)| !spins), "an event is signalled under a spin lock"));
        self.0.signals.fetch_add(1, Ordering::SeqCst);
        if let Some(action) = super::open(&self.0.on_signal).as_ref() {
            action();
        }
    }
}

/// What would watch an event. The test itself calls [`Vm::irqfd_event`](crate::vm::Vm::irqfd_event).
#[derive(Clone, Default)]
pub struct Watch(Arc<WatchState>);

#[derive(Default)]
struct WatchState {
    has_come: AtomicBool,
    started: AtomicBool,
    on_end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Watch {
    /// Of an event that has come already.
    pub fn of_pending() -> Self {
        let watch = Self::default();
        watch.0.has_come.store(true, Ordering::SeqCst);
        watch
    }

    /// Does something when it ends, as an event that comes at the last moment would.
    pub fn on_end(&self, end: impl FnOnce() + Send + 'static) {
        *super::open(&self.0.on_end) = Some(Box::new(end));
    }

    /// Whether it was started.
    pub fn is_started(&self) -> bool {
        self.0.started.load(Ordering::SeqCst)
    }

    /// How many have it, this one included.
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Drop for WatchState {
    fn drop(&mut self) {
        // A call under way may want any lock.
        with_held(|held| assert!(held.is_empty() || std::thread::panicking(), "a watch ends under a lock"));
        if let Some(end) = super::open(&self.on_end).take() {
            end();
        }
    }
}

impl host::Watch for Watch {
    fn start(&self) -> bool {
        assert!(!self.0.started.swap(true, Ordering::SeqCst), "a watch begins twice");
        self.0.has_come.load(Ordering::SeqCst)
    }
}

/// A page that the process has mapped, for the test to read and write.
pub struct ProcessPage(pub Box<Words>);

impl Default for ProcessPage {
    fn default() -> Self {
        Self(Box::new([const { AtomicU32::new(0) }; 1024]))
    }
}

impl Deref for ProcessPage {
    type Target = Words;
    fn deref(&self) -> &Words {
        &self.0
    }
}
