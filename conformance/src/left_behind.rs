// SPDX-License-Identifier: GPL-2.0-only
//! What is left of processes that are gone: users of the module, blocks of the heap that it has, pages in use.

use crate::machine::await_that;
use crate::verdict::{Failure, Outcome, Verdict, holds};

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

/// How many blocks of the heap the module has; 0 where KVM is something else.
pub fn heap_blocks() -> Result<u32, Failure> {
    let file = format!("/sys/module/{MODULE}/parameters/heap_blocks");
    match std::fs::read_to_string(&file) {
        Ok(count) => count.trim().parse().map_err(|error| Failure::new(format!("{file}: {count}: {error}"))),
        Err(_) => Ok(0),
    }
}

/// Of rounds after which it had so many, the first apart, not each added to them.
pub fn none_is_lost(blocks: &[u32]) -> Verdict {
    let growth: Vec<i64> = blocks.windows(2).map(|two| i64::from(two[1]) - i64::from(two[0])).collect();
    holds(
        growth.iter().skip(1).min().is_none_or(|least| *least <= 0),
        format_args!("the module loses no block of the heap; in turn the rounds left {growth:?}"),
    )
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
