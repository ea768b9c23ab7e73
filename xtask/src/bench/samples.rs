// SPDX-License-Identifier: GPL-2.0-only
//! What the benchmark guests printed, and the figures that follow from it.
//!
//! QEMU's clock advances by 1 ns for each instruction, whichever CPU and whichever world executes it, so that a tick of the counter
//! is a fixed number of instructions. A loop was run at two lengths, each several times. Now and then the host's own timer comes
//! in between and makes a run longer, never shorter: the shortest run of each length is the one without it. The difference of the two,
//! over the difference of the lengths, is what one turn costs; what a run costs once is gone.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// How much later than after a long wait a wake-up may be that still counts as one from rest.
const RESTED: f64 = 1.05;

/// One run of a guest.
#[derive(Debug, Default)]
pub struct Samples {
    clock: u64,
    /// Instructions of the guest's own in one turn of a loop.
    own: BTreeMap<String, u32>,
    /// The shortest time in instructions, by loop and length.
    shortest: BTreeMap<String, BTreeMap<u32, f64>>,
}

impl Samples {
    /// Reads what a guest printed.
    pub fn parse(text: &str) -> Result<Samples> {
        let mut samples = Samples::default();
        let mut ended = false;
        let mut ticks: Vec<(&str, u32, f64, f64)> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let unreadable = || format!("a line of the guest's cannot be read: {line}");
            match words[..] {
                ["clock", hertz] => samples.clock = hertz.parse().with_context(unreadable)?,
                ["loop", key, own] => {
                    samples.own.insert(key.to_owned(), own.parse().with_context(unreadable)?);
                }
                ["sample", key, length, time, own] => ticks.push((
                    key,
                    length.parse().with_context(unreadable)?,
                    time.parse().with_context(unreadable)?,
                    own.parse().with_context(unreadable)?,
                )),
                ["failed", key] => bail!("the guest says that its loop '{key}' did not do what it is to measure"),
                ["end"] => ended = true,
                _ => {}
            }
        }
        if !ended || samples.clock == 0 {
            bail!("the guest did not come to its end. It said:\n{}", text.trim_end());
        }
        for (key, length, ticks, own) in ticks {
            let instructions = ticks * samples.per_tick() - own;
            let shortest = samples.shortest.entry(key.to_owned()).or_default().entry(length).or_insert(f64::INFINITY);
            *shortest = shortest.min(instructions);
        }
        Ok(samples)
    }

    /// Instructions in a tick of the counter, at one instruction a nanosecond.
    pub fn per_tick(&self) -> f64 {
        1e9 / self.clock as f64
    }

    /// Instructions of the guest's own in one turn of a loop, where it said so.
    pub fn own(&self, key: &str) -> Option<u32> {
        self.own.get(key).copied()
    }

    /// What one turn of the loop `key` costs.
    pub fn turn(&self, key: &str) -> Result<f64> {
        let lengths = self.shortest.get(key).with_context(|| format!("the guest did not measure '{key}'"))?;
        let mut ends = [lengths.first_key_value(), lengths.last_key_value()].into_iter().flatten();
        match (ends.next(), ends.next()) {
            (Some((short, less)), Some((long, more))) if short < long => Ok((more - less) / f64::from(long - short)),
            _ => bail!("the guest measured '{key}' at one length only"),
        }
    }

    /// How many instructions pass from the time that a guest waits for until it goes on, if the CPU has come to rest: what a turn of
    /// the loop `key` takes beyond the wait of `ticks`.
    pub fn late(&self, key: &str, ticks: u32) -> Result<f64> {
        Ok(self.turn(key)? - f64::from(ticks) * self.per_tick())
    }

    /// The instructions on the way into a wait and out of it, by the search `key`: `turns` waits of each length. `late` is what a wake-up
    /// from rest costs. See the head of `guests/src/bin/bench_operations.rs` for why they can be told from rest.
    pub fn way_in_and_out(&self, key: &str, turns: u32, late: f64) -> Result<f64> {
        let search = self.shortest.get(key).with_context(|| format!("the guest did not measure '{key}'"))?;
        let mut found = None;
        for (ticks, instructions) in search.iter().rev() {
            let turn = instructions / f64::from(turns);
            if turn - f64::from(*ticks) * self.per_tick() > late * RESTED {
                break;
            }
            found = Some(turn);
        }
        found.with_context(|| format!("no wait of '{key}' is long enough for the CPU to rest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "clock 62500000\r\nloop call 8\r\n";

    fn parse(lines: &str) -> Result<Samples> {
        Samples::parse(&format!("{HEAD}{lines}end\r\n"))
    }

    #[test]
    fn a_turn_is_the_difference_of_the_shortest_runs() {
        // 100 instructions a turn and 480 once; one run of each length was disturbed.
        let samples = parse(
            "sample call 400 2530 0\nsample call 400 2600 0\nsample call 800 9999 0\nsample call 800 5030 0\nnoise\n",
        )
        .expect("parsed");
        assert_eq!(samples.turn("call").expect("a turn"), 100.0);
        assert_eq!(samples.own("call"), Some(8));
        assert!(samples.turn("other").is_err());
    }

    #[test]
    fn what_the_guest_spent_by_itself_is_taken_off_each_run() {
        // The longer time is the shorter one without what the guest did by itself.
        let samples =
            parse("sample call 10 1000 12000\nsample call 10 1001 13000\nsample call 20 2000 22000\n").expect("parsed");
        assert_eq!(samples.turn("call").expect("a turn"), (10_000.0 - 3_016.0) / 10.0);
    }

    #[test]
    fn what_is_cut_off_or_failed_gives_no_figures() {
        assert!(Samples::parse(&format!("{HEAD}sample call 1 2 0\n")).is_err());
        assert!(Samples::parse("end\n").is_err());
        assert!(parse("failed call\n").is_err());
        assert!(parse("sample call 1 x 0\n").is_err());
        assert!(parse("sample call 1 2 0\n").expect("parsed").turn("call").is_err());
    }

    #[test]
    fn the_way_into_a_wait_shows_where_the_cpu_first_rests() {
        // 300 ticks on the way in, 100 on the way out. Below 200 the time comes before the guest has left: a shorter way.
        let mut lines = String::from("sample wait 5 6000 0\nsample wait 10 11500 0\n");
        for ticks in (0..1000u32).step_by(10) {
            let turn = if ticks < 200 { ticks.max(90) } else { ticks.max(300) + 100 };
            lines += &format!("sample search {ticks} {} 0\n", turn * 4);
        }
        let samples = parse(&lines).expect("parsed");
        let late = samples.late("wait", 1000).expect("late");
        assert_eq!(late, 1600.0);
        assert_eq!(samples.way_in_and_out("search", 4, late).expect("found"), 6400.0);
        assert!(samples.way_in_and_out("search", 4, 100.0).is_err());
    }
}
