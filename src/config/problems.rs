//! What is wrong with a configuration, in sentences that say what to write instead, and never with a secret in them.

use std::fmt;

use serde::Serialize;

/// A broken rule and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    pub rule: String,
    /// A sentence of its own; empty if the rule says it all.
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

/// A mistake and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as it was named, or `environment`.
    pub file: String,
    pub line: Option<usize>,
    /// The dotted key or the variable; empty if the mistake is the file itself.
    pub key: String,
    /// What is written there, if it can be shown.
    pub value: Option<String>,
    #[serde(flatten)]
    pub mistake: Mistake,
}

impl Problem {
    /// The one place where problems are made: what looks like a secret goes no further.
    pub(super) fn new(
        file: &str,
        line: Option<usize>,
        key: String,
        value: Option<String>,
        mistake: Mistake,
    ) -> Self {
        let hidden = || Mistake::new("breaks a rule, but looks like a secret, so it is not shown", "");
        let mistake = if holds_key(&mistake.to_string()) { hidden() } else { mistake };
        let value = value.filter(|value| is_open(&key, value));
        Self { file: file.to_owned(), line, key, value, mistake }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
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

/// Whether a key's name says that its value is a secret itself, not the file that holds one.
pub(super) fn names_secret(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let suspicious = ["secret", "passw", "pwd", "usersig", "token", "credential", "privatekey", "apikey"];
    !plain.ends_with("file") && !plain.ends_with("path") && suspicious.iter().any(|word| plain.contains(word))
}

/// Whether a text holds a long run of letters and digits mixed, as keys are.
pub(super) fn holds_key(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
        let (digit, letter) = (|b: u8| b.is_ascii_digit(), |b: u8| b.is_ascii_alphabetic());
        run.len() >= 32 && run.bytes().any(digit) && run.bytes().any(letter)
    })
}

/// Whether a value looks as if it were a URL with a password.
fn holds_password(value: &str) -> bool {
    let address = value.split_once("://").map_or(value, |(_, rest)| rest);
    let lower = value.to_lowercase();
    address.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
        || ["password=", "pwd=", "usersig="].iter().any(|word| lower.contains(word))
}

/// Whether a value may be shown. A database's URL never is: half a URL can hide a whole password.
fn is_open(key: &str, value: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    value.len() <= 120
        && key != "database.url"
        && !names_secret(name)
        && !holds_key(value)
        && !holds_password(value)
}

/// The candidate a mistyped word was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    candidates
        .into_iter()
        .map(|candidate| (edits(&plain(word), &plain(candidate)), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits * 2 <= candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, a row at a time.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (n, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[to.len()]
}
