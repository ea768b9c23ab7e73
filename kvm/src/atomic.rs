// SPDX-License-Identifier: GPL-2.0-only
//! Atomics of what is looked at without a lock: core's, and loom's where its models run this crate's own code (`loom_tests.rs`).
//!
//! What the hardware or a process reads and writes at the same time (tables, pages) is always core's.

#[cfg(not(all(test, loom)))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(all(test, loom))]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
