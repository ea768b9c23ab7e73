// SPDX-License-Identifier: GPL-2.0-only
//! What a test's output should be.

/// One demand on what a test prints.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// These words are in it.
    Says(&'static str),
    /// These words are not.
    Lacks(&'static str),
    /// It is this and nothing else, white space at the end apart.
    Is(&'static str),
    /// It has exactly so many lines.
    Lines(usize),
    /// It is a report of tests: `1..N`, then N lines `ok NAME`. Each of them counts.
    Report,
}

impl Expect {
    /// Why `output` is not what it should be.
    pub fn judge(self, output: &str) -> Result<(), String> {
        match self {
            Expect::Says(words) if !output.contains(words) => Err(format!("does not say '{words}'")),
            Expect::Lacks(words) if output.contains(words) => Err(format!("says '{words}'")),
            Expect::Is(text) if output.trim_end() != text => Err(format!("is not '{text}'")),
            Expect::Lines(count) if output.lines().count() != count => {
                Err(format!("has {} lines instead of {count}", output.lines().count()))
            }
            Expect::Report => report(output),
            _ => Ok(()),
        }
    }
}

/// The lines of a report: name, and why it failed if it did.
pub fn report_lines(output: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    output.lines().map(str::trim_end).filter_map(|line| {
        let failed = line.strip_prefix("not ok ").map(|rest| match rest.split_once(": ") {
            Some((name, why)) => (name, Some(why)),
            None => (rest, Some("it does not say why")),
        });
        failed.or_else(|| Some((line.strip_prefix("ok ")?, None)))
    })
}

fn report(output: &str) -> Result<(), String> {
    let mut plan = None;
    let mut ended = 0;
    for line in output.lines().map(str::trim_end) {
        if line.starts_with("ok ") || line.starts_with("not ok ") {
            ended += 1;
        } else if let Some(count) = line.strip_prefix("1..") {
            if plan.is_some() {
                return Err("begins a second time".to_owned());
            }
            plan = count.parse::<usize>().ok();
        }
    }
    match plan {
        None => Err("does not say how many tests there are".to_owned()),
        Some(count) if count != ended => Err(format!("has {ended} tests of {count}")),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_must_be_whole() {
        assert_eq!(report("1..2\r\nok a\r\nok b\r\n"), Ok(()));
        assert!(report("1..2\nok a\n").is_err());
        assert!(report("1..1\nok a\n1..1\n").is_err());
        assert!(report("ok a\n").is_err());
        assert_eq!(report("1..1\nnot ok a: why\n"), Ok(()));
        let lines: Vec<_> = report_lines("1..2\nok a\r\nx\nnot ok b: c: d\n").collect();
        assert_eq!(lines, [("a", None), ("b", Some("c: d"))]);
    }

    #[test]
    fn words_lines_and_whole_texts() {
        assert!(Expect::Says("two").judge("one two\n").is_ok());
        assert!(Expect::Says("three").judge("one two\n").is_err());
        assert!(Expect::Lacks("two").judge("one two\n").is_err());
        assert!(Expect::Is("one").judge("one\n").is_ok());
        assert!(Expect::Lines(1).judge("one\ntwo\n").is_err());
    }
}
