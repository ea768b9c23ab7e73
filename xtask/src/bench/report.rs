// SPDX-License-Identifier: GPL-2.0-only
//! The table that a person reads, the JSON that programs read, and the baseline that a run is compared with.
//!
//! The baseline is a file of the repository: whoever makes an operation cheaper or dearer runs `cargo xtask bench --accept`, and the
//! change shows in review.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::emulated::ToTheShell;

/// What was measured on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The host's kernel, as `uname -r` says it.
    pub release: String,
    /// QEMU's version.
    pub qemu: String,
    /// Instructions by row.
    pub instructions: BTreeMap<String, i64>,
}

/// The committed figures, by kernel: `SUITE/FLAVOUR`.
pub type Baselines = BTreeMap<String, Baseline>;

/// One measured row.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub id: &'static str,
    /// What was measured.
    pub operation: &'static str,
    /// Instructions for one, to the next whole one.
    pub instructions: i64,
    /// Of them, the guest's own, where that is known.
    pub guest: Option<u32>,
    /// What the original needed.
    pub original: Option<u32>,
    /// What is to be reached at most.
    pub target: Option<u32>,
    /// How much more than in the baseline.
    pub change: Option<i64>,
}

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The host's kernel.
    pub kernel: String,
    /// The same, as `uname -r` says it.
    pub release: String,
    /// QEMU's version.
    pub qemu: String,
    /// The rows that could be measured, in the table's order.
    pub rows: Vec<Measured>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// A Linux guest with KVM and without, if that was measured.
    pub to_the_shell: Option<ToTheShell>,
}

impl Measured {
    fn reached(&self) -> bool {
        self.target.is_none_or(|target| self.instructions <= i64::from(target))
    }
}

impl Report {
    /// Compares with `baseline`.
    pub fn compare(&mut self, baseline: &Baseline) {
        for row in &mut self.rows {
            row.change = baseline.instructions.get(row.id).map(|before| row.instructions - before);
        }
        for (what, now, then) in [("kernel", &self.release, &baseline.release), ("QEMU", &self.qemu, &baseline.qemu)] {
            if now != then {
                self.notes
                    .push(format!("the baseline is of {what} {then}, this run of {now}: figures may differ by that"));
            }
        }
        for id in baseline.instructions.keys().filter(|id| !self.rows.iter().any(|row| row.id == **id)) {
            self.notes.push(format!("{id}: in the baseline, but not measured"));
        }
    }

    /// What to compare later runs with.
    pub fn baseline(&self) -> Baseline {
        Baseline {
            release: self.release.clone(),
            qemu: self.qemu.clone(),
            instructions: self.rows.iter().map(|row| (row.id.to_owned(), row.instructions)).collect(),
        }
    }

    /// The table: instructions for one operation.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.operation.len()).max().unwrap_or_default();
        let mut text =
            format!("Instructions for one operation, all included; {} on QEMU {}\n\n", self.release, self.qemu);
        let heads = ("operation", "this", "original", "target", "ratio", "baseline", "guest");
        let _ = writeln!(
            text,
            "{:width$}  {:>7} {:>9} {:>7}   {:>5}  {:>9} {:>6}",
            heads.0, heads.1, heads.2, heads.3, heads.4, heads.5, heads.6
        );
        for row in &self.rows {
            let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
            let ratio = row
                .original
                .map_or("-".to_owned(), |original| format!("{:.2}", row.instructions as f64 / f64::from(original)));
            let change = match row.change {
                None => "new".to_owned(),
                Some(0) => "same".to_owned(),
                Some(change) => format!("{change:+}"),
            };
            let _ = writeln!(
                text,
                "{:width$}  {:>7} {:>9} {:>7} {} {ratio:>5}  {change:>9} {:>6}",
                row.operation,
                row.instructions,
                number(row.original),
                number(row.target),
                if row.reached() { ' ' } else { '!' },
                number(row.guest),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        if let Some(shell) = &self.to_the_shell {
            let _ = writeln!(text, "\n{shell}");
        }
        let missed = self.rows.iter().filter(|row| !row.reached()).count();
        let dearer = self.rows.iter().filter(|row| row.change.is_some_and(|change| change > 0)).count();
        let cheaper = self.rows.iter().filter(|row| row.change.is_some_and(|change| change < 0)).count();
        let _ = writeln!(text, "\n{missed} above target (!); against the baseline {dearer} dearer, {cheaper} cheaper");
        text
    }
}

/// Reads the baselines; none if there is no such file.
pub fn read_baselines(path: &Path) -> Result<Baselines> {
    if !path.exists() {
        return Ok(Baselines::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: not a baseline", path.display()))
}

/// Writes `what` as JSON, for people too.
pub fn write_json(path: &Path, what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(what)? + "\n";
    fs::write(path, text).with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(id: &'static str, instructions: i64, target: Option<u32>) -> Measured {
        Measured { id, operation: id, instructions, guest: None, original: Some(1000), target, change: None }
    }

    fn report(rows: Vec<Measured>) -> Report {
        Report {
            kernel: "s/f".to_owned(),
            release: "6.1".to_owned(),
            qemu: "10.0".to_owned(),
            rows,
            notes: Vec::new(),
            to_the_shell: None,
        }
    }

    #[test]
    fn a_regression_and_a_missed_target_are_seen() {
        let before = report(vec![measured("one", 100, None), measured("two", 500, None), measured("gone", 1, None)]);
        let mut now =
            report(vec![measured("one", 110, Some(105)), measured("two", 400, Some(400)), measured("new", 5, None)]);
        now.compare(&before.baseline());
        assert_eq!(now.rows.iter().map(|row| row.change).collect::<Vec<_>>(), [Some(10), Some(-100), None]);
        let table = now.table();
        let line = |id: &str| {
            table.lines().find(|line| line.starts_with(id)).map(|line| line.split_whitespace().collect::<Vec<_>>())
        };
        assert_eq!(line("one"), Some(vec!["one", "110", "1000", "105", "!", "0.11", "+10", "-"]));
        assert_eq!(line("two"), Some(vec!["two", "400", "1000", "400", "0.40", "-100", "-"]));
        assert_eq!(line("new"), Some(vec!["new", "5", "1000", "-", "0.01", "new", "-"]));
        assert!(table.contains("note: gone: in the baseline, but not measured"));
        assert!(table.ends_with("1 above target (!); against the baseline 1 dearer, 1 cheaper\n"));
    }

    #[test]
    fn a_baseline_of_other_tools_is_pointed_out() {
        let mut now = report(vec![measured("one", 100, None)]);
        now.compare(&Baseline { qemu: "11.0".to_owned(), ..now.baseline() });
        assert_eq!(now.notes.len(), 1);
        assert_eq!(now.rows[0].change, Some(0));
    }

    #[test]
    fn baselines_survive_their_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("baseline.json");
        assert_eq!(read_baselines(&path).expect("none"), Baselines::new());
        let all = Baselines::from([("s/f".to_owned(), report(vec![measured("one", 7, None)]).baseline())]);
        write_json(&path, &all).expect("written");
        assert_eq!(read_baselines(&path).expect("read"), all);
        fs::write(&path, "{").expect("written");
        assert!(read_baselines(&path).is_err());
    }
}
