//! Reads a TOML document key by key. The caller passes a parser for the value of each key. This
//! module adds the line to each mistake, records the origin of each value, and reports unknown
//! keys.
//!
//! serde is not used, because it stops at the first mistake, and because its messages may quote a
//! secret.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problems::{ConfigProblems, Mistake, Problem, may_contain_key, names_secret, nearest};

/// The result of parsing one value.
pub(super) type ParseResult<T> = Result<T, Mistake>;

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { file: String, line: usize },
    Environment(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// An effective setting. `Display` writes it as a line of TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    /// The value as TOML, with passwords masked.
    pub value: String,
    pub origin: Origin,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.key, self.value, self.origin)
    }
}

/// A file, and the problems and settings that were found in it so far.
pub(super) struct Document<'t> {
    file: String,
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    settings: RefCell<Vec<Setting>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        let file = file.display().to_string();
        Self { file, text, problems: RefCell::default(), settings: RefCell::default() }
    }

    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Setting>) {
        (self.problems.into_inner(), self.settings.into_inner())
    }

    /// Parses the text as TOML. Uses only the message of a syntax error, because its `Display`
    /// quotes the line, which may contain a secret.
    pub(super) fn table(&self) -> Result<DeTable<'t>, ConfigProblems> {
        DeTable::parse(self.text).map(toml::Spanned::into_inner).map_err(|error| {
            let line = error.span().map(|span| self.line(span.start));
            let fix = match error.message() {
                message if message.contains("duplicate key") => {
                    "Keep one of the lines or sections of that name"
                }
                _ => "Put strings in quotes; the line is not shown, because it may contain a secret",
            };
            let mistake = Mistake::new(format!("is not TOML: {}", error.message()), fix);
            ConfigProblems::new(vec![Problem::new(&self.file, line, String::new(), None, mistake)])
        })
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Sets the effective value of a key and its origin. Replaces an earlier value.
    fn set_value(&self, key: String, value: String, origin: Origin) {
        let mut settings = self.settings.borrow_mut();
        settings.retain(|setting| setting.key != key);
        settings.push(Setting { key, value, origin });
    }

    /// Replaces the effective value of a key that has one. Keeps the origin.
    fn set_displayed_value(&self, key: &str, value: &str) {
        let mut settings = self.settings.borrow_mut();
        settings
            .iter_mut()
            .filter(|setting| setting.key == key)
            .for_each(|setting| value.clone_into(&mut setting.value));
    }
}

/// A value found in the file.
pub(super) struct Entry<'d> {
    pub(super) name: &'d str,
    pub(super) value: &'d DeValue<'d>,
    line: usize,
    /// Whether the value is from the general section. Then its mistakes have already been reported.
    inherited: bool,
}

impl Entry<'_> {
    pub(super) fn as_toml(&self) -> String {
        render(self.value)
    }
}

/// A table of the file, which may be absent. The section of an app may have a general section, in
/// which missing keys are looked up: `[schedule]` for `[apps.prod.schedule]`.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    path: String,
    line: Option<usize>,
    table: Option<&'d DeTable<'d>>,
    general: Option<&'d Section<'d>>,
    /// The keys that were looked up. All other keys are reported as unknown.
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        let (path, known) = (String::new(), RefCell::default());
        Self { document, path, line: None, table: Some(table), general: None, known }
    }

    /// Returns the section with this name. Missing keys are looked up in `general`.
    pub(super) fn section(&self, name: &'static str, general: Option<&'d Section<'d>>) -> Self {
        self.mark_known(name);
        match self.own_entry(name) {
            Some(entry) => Self { general, ..self.section_at(&entry) },
            None => Self { path: self.key(name), table: None, general, known: RefCell::default(), ..*self },
        }
    }

    pub(super) fn section_at(&self, entry: &Entry<'d>) -> Self {
        let table = entry.value.as_table();
        if table.is_none() {
            let fix = format!("Write it as a section: [{}]", self.key(entry.name));
            let mistake = Mistake::new(format!("must be a table, not {}", kind(entry.value)), fix);
            self.report(entry.name, Some(entry.line), None, mistake);
        }
        let (path, line) = (self.key(entry.name), Some(entry.line));
        Self { document: self.document, path, line, table, general: None, known: RefCell::default() }
    }

    /// Returns the entries of this section in the order of the file, without inherited ones.
    pub(super) fn entries(&self) -> Vec<Entry<'d>> {
        let mut entries: Vec<_> = self.table.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries.into_iter().filter_map(|(key, _)| self.own_entry(key.get_ref())).collect()
    }

    fn mark_known(&self, name: &'static str) {
        let mut known = self.known.borrow_mut();
        if !known.contains(&name) {
            known.push(name);
        }
    }

    /// Returns an entry of this section, not of the general one.
    fn own_entry(&self, name: &str) -> Option<Entry<'d>> {
        let (key, value) = self.table?.get_key_value(name)?;
        let line = self.document.line(key.span().start);
        Some(Entry { name: key.get_ref(), value: value.get_ref(), line, inherited: false })
    }

    /// Returns the entry of this section, or else of the general section.
    pub(super) fn find(&self, name: &'static str) -> Option<Entry<'d>> {
        self.mark_known(name);
        let inherited = || Some(Entry { inherited: true, ..self.general?.own_entry(name)? });
        self.own_entry(name).or_else(inherited)
    }

    /// Returns the value of an optional key, or `None` if it is missing or invalid. Reports a
    /// mistake.
    pub(super) fn optional<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&DeValue<'_>) -> ParseResult<T>,
    ) -> Option<T> {
        let entry = self.find(name)?;
        match parse(entry.value) {
            Ok(value) => {
                self.set_value(name, entry.as_toml(), self.origin(&entry));
                Some(value)
            }
            Err(mistake) => {
                self.report_entry(&entry, mistake);
                None
            }
        }
    }

    /// Returns the value of a required key. Reports a mistake if the key is missing or the value is
    /// invalid.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> ParseResult<T>,
    ) -> Option<T> {
        if self.find(name).is_none() {
            self.report_key(name, Mistake::new("is missing", format!("Write {name} = {example}")));
        }
        self.optional(name, parse)
    }

    /// Returns the value of a key, or its default if the key is missing or invalid. The default is
    /// written in TOML and parsed like a value of the file.
    pub(super) fn or_default<T>(
        &self,
        name: &'static str,
        default: &str,
        parse: impl Fn(&DeValue<'_>) -> ParseResult<T>,
    ) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            self.set_value(name, default.to_owned(), Origin::Default);
            let value = DeValue::parse(default).expect("a default is TOML");
            parse(value.get_ref()).expect("a default is valid for its key")
        })
    }

    /// Returns the parsed value of an environment variable that overrides the file. Reports a
    /// mistake, without the value.
    pub(super) fn overridden<T>(
        &self,
        name: &str,
        variable: &'static str,
        parsed: ParseResult<T>,
    ) -> Option<T> {
        let report = |mistake| {
            self.document.report(Problem::new("environment", None, variable.to_owned(), None, mistake));
        };
        let value = parsed.map_err(report).ok()?;
        self.set_value(name, String::new(), Origin::Environment(variable));
        Some(value)
    }

    /// Reports a mistake in the value of an entry.
    pub(super) fn report_entry(&self, entry: &Entry<'_>, mistake: Mistake) {
        if !entry.inherited {
            let value = (!entry.value.is_table()).then(|| entry.as_toml());
            self.report(entry.name, Some(entry.line), value, mistake);
        }
    }

    /// Reports a mistake about a key that is missing, or whose value is valid alone but conflicts
    /// with another key.
    pub(super) fn report_key(&self, name: &str, mistake: Mistake) {
        match self.own_entry(name) {
            Some(entry) => self.report_entry(&entry, mistake),
            None => self.report(name, self.line, None, mistake),
        }
    }

    fn report(&self, name: &str, line: Option<usize>, value: Option<String>, mistake: Mistake) {
        self.document.report(Problem::new(&self.document.file, line, self.key(name), value, mistake));
    }

    /// Sets the effective value of a key and its origin.
    pub(super) fn set_value(&self, name: &str, value: String, origin: Origin) {
        self.document.set_value(self.key(name), value, origin);
    }

    /// Replaces the value that `check --show-config` displays. Keeps the origin.
    pub(super) fn set_displayed_value(&self, name: &str, value: &str) {
        self.document.set_displayed_value(&self.key(name), value);
    }

    pub(super) fn origin(&self, entry: &Entry<'_>) -> Origin {
        Origin::File { file: self.document.file.clone(), line: entry.line }
    }

    /// Reports unknown keys. Must be called after all keys have been looked up.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for entry in self.entries().iter().filter(|entry| !known.contains(&entry.name)) {
            let mistake = if names_secret(entry.name) {
                let file = match self.path.as_str() {
                    "database" => "password_file",
                    "notify" => "secret_file",
                    _ => "secret_key_file",
                };
                Mistake::new(
                    "secrets belong in files, not in the configuration; the value is not shown",
                    format!(
                        "Put only the secret into a file of mode 0600 and write {file} = \
                         \"/path/of/that/file\""
                    ),
                )
            } else if let Some(near) = nearest(entry.name, known.iter().copied()) {
                Mistake::new("unknown key", format!("Did you mean {near}?"))
            } else {
                Mistake::new("unknown key", format!("Known here: {}", known.join(", ")))
            };
            self.report(entry.name, Some(entry.line), None, mistake);
        }
    }

    fn key(&self, name: &str) -> String {
        let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = match name {
            _ if may_contain_key(name) => "(not shown)".to_owned(),
            _ if bare && !name.is_empty() => name.to_owned(),
            _ => quoted(name),
        };
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }
}

/// Returns a text as a TOML string on one line. The escapes are those of JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn render(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| render(value.get_ref())).collect();
            format!("[{}]", values.join(", "))
        }
        DeValue::Table(_) => "{ … }".to_owned(),
    }
}

pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
