// SPDX-License-Identifier: GPL-2.0-only
//! What is left of processes that are gone: pages in use, users of the module.

use crate::machine::await_that;
use crate::verdict::{Failure, Outcome, Verdict};

/// The module's name.
const MODULE: &str = "worldswitch";

/// How many users the module has; `None` where KVM is something else.
pub fn users() -> Result<Option<u32>, Failure> {
    let modules =
        std::fs::read_to_string("/proc/modules").map_err(|error| Failure::new(format!("/proc/modules: {error}")))?;
    let line = modules.lines().find_map(|line| line.strip_prefix(MODULE)?.strip_prefix(' '));
    Ok(line.and_then(|line| line.split(' ').nth(1)?.parse().ok()))
}

/// Waits until it has none.
pub fn await_no_users() -> Verdict {
    await_that(|| matches!(users(), Ok(Some(0) | None))).succeeds("waiting until nobody uses the module")
}

/// Pages in use, but for what is a cache. Those that a CPU keeps at hand are free, though `MemFree` does not count them.
pub fn pages_in_use() -> Result<i64, Failure> {
    // What can be freed is, so that it does not count.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let read = |file: &str| std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{file}: {error}")));
    let sum = |text: &str, names: &[&str]| -> i64 {
        let number = |line: &str| {
            let (name, number) = line.trim().split_once(' ')?;
            names.contains(&name).then(|| number.trim().parse::<i64>().ok())?
        };
        text.lines().filter_map(number).sum()
    };
    let zones = read("/proc/zoneinfo")?;
    let caches = sum(&read("/proc/vmstat")?, &["nr_file_pages", "nr_slab_reclaimable"]);
    Ok(sum(&zones, &["managed"]) - sum(&zones, &["nr_free_pages", "count:"]) - caches)
}
