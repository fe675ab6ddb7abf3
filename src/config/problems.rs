//! The problems of a configuration. A message includes the remedy and never contains a secret.

use std::fmt;

use serde::Serialize;
use strsim::levenshtein;

use crate::escape::one_line;

/// A violated rule and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    pub rule: String,
    /// The remedy as a sentence, or empty if it is obvious from the rule.
    pub fix: String,
}

impl Mistake {
    pub(super) fn new(rule: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { rule: rule.into(), fix: fix.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, ". {}", self.fix) }
    }
}

impl std::error::Error for Mistake {}

/// A mistake with its location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The path of the file as it was given, or `environment`.
    pub file: String,
    pub line: Option<usize>,
    /// The dotted key or the environment variable. Empty if the problem concerns the entire file.
    pub key: String,
    /// The value as written. `None` if it may be a secret.
    pub value: Option<String>,
    #[serde(flatten)]
    pub mistake: Mistake,
}

impl Problem {
    /// Creates a problem, and hides everything in it that looks like a secret. This is the only
    /// constructor.
    pub(super) fn new(
        file: &str,
        line: Option<usize>,
        key: String,
        value: Option<String>,
        mistake: Mistake,
    ) -> Self {
        let hidden =
            || Mistake::new("is invalid; the value is not shown, because it looks like a secret", "");
        let mistake = if may_contain_key(&mistake.to_string()) { hidden() } else { mistake };
        let value = value.filter(|value| may_be_shown(&key, value));
        Self { file: file.to_owned(), line, key, value, mistake }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path is from the command line or the environment. Its problem must stay on one line.
        f.write_str(&one_line(&self.file))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.mistake)
    }
}

/// All problems of a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigProblems(Vec<Problem>);

impl ConfigProblems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self(problems)
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// Returns whether the name of a key suggests that its value is a secret and not the path of a
/// file.
pub(super) fn names_secret(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let suspicious = ["secret", "passw", "pwd", "usersig", "token", "credential", "privatekey", "apikey"];
    !plain.ends_with("file") && !plain.ends_with("path") && suspicious.iter().any(|part| plain.contains(part))
}

/// Returns whether a text looks as if it contains a key: at least 32 consecutive ASCII letters and
/// digits, with at least one of each.
pub(super) fn may_contain_key(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
        let (digit, letter) = (|b: u8| b.is_ascii_digit(), |b: u8| b.is_ascii_alphabetic());
        run.len() >= 32 && run.bytes().any(digit) && run.bytes().any(letter)
    })
}

/// Returns whether a value looks as if it contains a password, for example in a URL.
fn may_contain_password(value: &str) -> bool {
    let address = value.split_once("://").map_or(value, |(_, rest)| rest);
    let lower = value.to_lowercase();
    address.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
        || ["password=", "pwd=", "usersig="].iter().any(|name| lower.contains(name))
}

/// Returns whether a value may be shown. The database URL is never shown, because even a malformed
/// one can contain a password. Neither is `notify.url_file`, which may be the URL itself.
fn may_be_shown(key: &str, value: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    value.len() <= 120
        && !["database.url", "notify.url_file"].contains(&key)
        && !names_secret(name)
        && !may_contain_key(value)
        && !may_contain_password(value)
}

/// Returns the candidate nearest to a misspelt name. Candidates that differ by more than two edits,
/// or by more than half of their length, are ignored.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    candidates
        .into_iter()
        .map(|candidate| (levenshtein(&plain(name), &plain(candidate)), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits * 2 <= candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}
