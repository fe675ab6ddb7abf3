//! Prints the result of a command to stdout: as text, or as one JSON document. Messages go to
//! stderr.
//!
//! All output is escaped, see [`crate::escape`]. JSON values stay the same.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};

use clap::Args;
use serde::Serialize;
use tracing::Level;

use super::exit::{Exit, Failure};
use crate::{escape, telemetry};

#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Output {
    /// Print one JSON document with exit_code, result and error instead of text
    #[arg(long)]
    json: bool,
}

/// The structure of every JSON document. `result` and `error` are null if there is none.
#[derive(Serialize)]
struct Document<R> {
    exit_code: u8,
    result: Option<R>,
    error: Option<String>,
}

impl Output {
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as JSON, or as the text that `text` writes. Returns `exit`.
    pub(super) fn print(
        self,
        exit: Exit,
        result: impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Exit, Failure> {
        self.print_with_error_in_text((exit, None), result, text)
    }

    /// Prints a result whose text includes the error. In JSON, the error is a separate field.
    /// Returns `exit`.
    pub(super) fn print_with_error_in_text(
        self,
        (exit, error): (Exit, Option<String>),
        result: impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Exit, Failure> {
        if self.json {
            print_document(&Document { exit_code: exit.code(), result: Some(result), error })?;
        } else {
            to_stdout(text)?;
        }
        Ok(exit)
    }

    /// Prints an error to stderr, and a result to stdout. The JSON document contains both. Returns
    /// `exit`.
    pub(super) fn print_with_error_on_stderr(
        self,
        (exit, error): (Exit, String),
        result: impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Exit, Failure> {
        message(format_args!("{error}"));
        if self.json {
            print_document(&Document { exit_code: exit.code(), result: Some(result), error: Some(error) })?;
        } else {
            to_stdout(text)?;
        }
        Ok(exit)
    }

    /// Prints the failure of a command without a result: to stderr, and with `--json` also to
    /// stdout.
    pub(super) fn print_failure(self, failure: &Failure) {
        failure.print();
        if self.json {
            let (exit_code, error) = (failure.exit.code(), Some(failure.causes().join(": ")));
            // The error is already on stderr. Nothing can be done if stdout is closed.
            let _ = print_document(&Document { exit_code, result: None::<()>, error });
        }
    }
}

fn print_document(document: &Document<impl Serialize>) -> Result<(), Failure> {
    to_stdout(|out| writeln!(out, "{}", escape::json(&serde_json::to_string_pretty(document)?)))
}

/// Writes a message to stderr. It is lost if stderr is closed or full.
pub(super) fn message(message: fmt::Arguments<'_>) {
    telemetry::write_message(Level::INFO, &message.to_string());
}

/// Writes a warning to stderr, as [`message`] does.
pub(super) fn warning(warning: &str) {
    telemetry::write_message(Level::WARN, &format!("warning: {warning}"));
}

/// Writes a question to stderr, without a line break.
pub(super) fn prompt(question: &str) {
    telemetry::write_prompt(question);
}

/// Writes one line to stdout.
pub(super) fn print_line(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    to_stdout(|out| writeln!(out, "{line}"))
}

/// Writes to stdout. A closed pipe is not an error, because a reader such as `head` may have read
/// enough.
pub(super) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = EscapedWriter(BufWriter::new(io::stdout().lock()));
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = anyhow::Error::from(error).context("cannot write to stdout");
            Err(Failure::new(Exit::Failed, error))
        }
        _ => Ok(()),
    }
}

/// Escapes unsafe characters in text of several lines. Each call of `write` must contain complete
/// characters, as the calls of `write!` do.
struct EscapedWriter<W>(W);

impl<W: Write> Write for EscapedWriter<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write_all(escape::lines(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
