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
    /// It is a bare-metal guest's report: `1..N`, then N lines `ok NAME`.
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

fn report(output: &str) -> Result<(), String> {
    let mut plan = None;
    let mut passed = 0;
    for line in output.lines().map(str::trim_end) {
        if line.starts_with("not ok ") {
            return Err(line.to_owned());
        }
        if line.starts_with("ok ") {
            passed += 1;
        } else if let Some(count) = line.strip_prefix("1..") {
            if plan.is_some() {
                return Err("the guest began a second time".to_owned());
            }
            plan = count.parse::<usize>().ok();
        }
    }
    match plan {
        None => Err("the guest did not say what it would test".to_owned()),
        Some(count) if count != passed => Err(format!("the guest ended after {passed} of {count}")),
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
        assert_eq!(report("1..1\nnot ok a: why\n"), Err("not ok a: why".to_owned()));
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
