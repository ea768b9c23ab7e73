// SPDX-License-Identifier: GPL-2.0-only
//! Where a vCPU's thread sleeps, and its timer, in tests.
//!
//! Most tests have one thread: what would wake the sleeper is done by [`Waiter::on_sleep`], and a sleep is a turn of a loop. Another
//! thread that is to wake it has a [`Waker`] for as long as it may. A thread that nobody is left to wake fails the test; under loom it
//! sleeps, and loom sees that.

use super::{Host, may_sleep, open};
use crate::host::{self, Waiter as _, Wake};
use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)]
use loom::sync::{Condvar, Mutex as LockMutex, MutexGuard as LockGuard};
use std::boxed::Box;
use std::sync::{Arc, Mutex, PoisonError, Weak};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex as LockMutex, MutexGuard as LockGuard};

/// Woken and not yet seen; signal pending.
type Flags = (bool, bool);

/// How often a thread sleeps before the test fails.
const PATIENCE: usize = 100;

#[derive(Default)]
struct WaiterState {
    flags: LockMutex<Flags>,
    bell: Condvar,
    wakes: AtomicUsize,
    kicks: AtomicUsize,
    wakers: AtomicUsize,
    on_sleep: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

/// Where a vCPU's thread sleeps. Clones are the same place.
#[derive(Clone, Default)]
pub struct Waiter(Arc<WaiterState>);

impl Waiter {
    /// How often it was woken.
    pub fn wakes(&self) -> usize {
        self.0.wakes.load(Ordering::SeqCst)
    }

    /// How often it was kicked.
    pub fn kicks(&self) -> usize {
        self.0.kicks.load(Ordering::SeqCst)
    }

    /// Makes a signal pending, or no longer.
    pub fn set_signal(&self, pending: bool) {
        self.flags().1 = pending;
        self.0.bell.notify_all();
    }

    fn flags(&self) -> LockGuard<'_, Flags> {
        self.0.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For another thread that is to wake it.
    pub fn waker(&self) -> Waker {
        self.0.wakers.fetch_add(1, Ordering::SeqCst);
        Waker(self.clone())
    }

    /// Sleeps, if another thread is to wake it.
    #[cfg(not(loom))]
    fn sleep<'a>(&self, flags: LockGuard<'a, Flags>) -> LockGuard<'a, Flags> {
        if self.0.wakers.load(Ordering::SeqCst) == 0 {
            return flags;
        }
        self.0.bell.wait(flags).unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps. If nobody is left who could wake it, the model fails.
    #[cfg(loom)]
    fn sleep<'a>(&self, flags: LockGuard<'a, Flags>) -> LockGuard<'a, Flags> {
        self.0.bell.wait(flags).unwrap()
    }

    /// Runs `on_sleep` each time that the thread is about to sleep: the world's chance to wake it, in a test with one thread.
    pub fn on_sleep(&self, on_sleep: impl FnMut() + Send + 'static) {
        *open(&self.0.on_sleep) = Some(Box::new(on_sleep));
    }
}

impl host::Waiter for Waiter {
    fn adopt(&self) {}

    fn wait(&self, ready: impl Fn() -> bool) -> Wake {
        may_sleep();
        for _ in 0..PATIENCE {
            if ready() {
                return Wake::Ready;
            }
            if self.flags().1 {
                return Wake::Signal;
            }
            if let Some(on_sleep) = open(&self.0.on_sleep).as_mut() {
                on_sleep();
            }
            let mut flags = self.flags();
            if !flags.0 && !flags.1 {
                flags = self.sleep(flags);
            }
            flags.0 = false;
        }
        panic!("the vCPU's thread would sleep for ever");
    }

    fn wake(&self) {
        assert!(!super::deferred::any(), "the host's timers are not to be touched now");
        self.0.wakes.fetch_add(1, Ordering::SeqCst);
        self.flags().0 = true;
        self.0.bell.notify_all();
    }

    fn kick(&self) {
        self.0.kicks.fetch_add(1, Ordering::SeqCst);
    }
}

/// That a thread may still wake a [`Waiter`].
pub struct Waker(Waiter);

impl Drop for Waker {
    fn drop(&mut self) {
        let _flags = self.0.flags();
        self.0.0.wakers.fetch_sub(1, Ordering::SeqCst);
        self.0.0.bell.notify_all();
    }
}

pub(super) struct TimerState {
    due: Mutex<Option<u64>>,
    waiter: Waiter,
}

/// A timer on the made-up clock: fires in [`Host::advance_to`], or at once when armed for the past.
pub struct WakeTimer {
    state: Arc<TimerState>,
    host: Host,
}

impl TimerState {
    pub(super) fn fire_if_due(&self, count: u64) {
        // Waking may arm it again.
        let due = open(&self.due).take_if(|due| *due <= count).is_some();
        if due {
            self.waiter.wake();
        }
    }
}

impl WakeTimer {
    pub(super) fn new(host: &Host, waiter: &Waiter) -> Self {
        let state = Arc::new(TimerState { due: Mutex::new(None), waiter: waiter.clone() });
        Self { state, host: host.clone() }
    }

    pub(super) fn downgrade(&self) -> Weak<TimerState> {
        Arc::downgrade(&self.state)
    }

    /// What it is armed for.
    pub fn due(&self) -> Option<u64> {
        *open(&self.state.due)
    }
}

impl host::WakeTimer for WakeTimer {
    fn arm(&self, count: u64) {
        assert!(!super::deferred::any(), "the host's timers are not to be touched now");
        *open(&self.state.due) = Some(count);
        self.host.advance_to(host::Host::counter(&self.host));
    }

    fn cancel(&self) {
        assert!(!super::deferred::any(), "the host's timers are not to be touched now");
        *open(&self.state.due) = None;
    }
}
