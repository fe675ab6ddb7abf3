//! How a command's result reaches stdout: as text for people, or as one JSON document for programs.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Failure};

#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Output {
    /// Print one JSON document instead: exit_code, result, error
    #[arg(long)]
    json: bool,
}

/// The shape of every JSON document. `result` is null if there is none, `error` if nothing is wrong.
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

    /// Prints a result, as what `text` writes or as JSON, and hands on the code it ends with.
    pub(super) fn print(
        self,
        exit: Exit,
        result: impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Exit, Failure> {
        if self.json {
            print_document(&Document { exit_code: exit.code(), result: Some(result), error: None })?;
        } else {
            to_stdout(text)?;
        }
        Ok(exit)
    }

    /// The same, where the result is sound and something is wrong all the same.
    pub(super) fn print_with_error(
        self,
        (exit, error): (Exit, String),
        result: impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Exit, Failure> {
        eprintln!("{error}");
        if self.json {
            print_document(&Document { exit_code: exit.code(), result: Some(result), error: Some(error) })?;
        } else {
            to_stdout(text)?;
        }
        Ok(exit)
    }

    /// Tells of a command that failed without a result: people on stderr, programs on stdout as well.
    pub(super) fn print_failure(self, failure: &Failure) {
        failure.print();
        if self.json {
            let (exit_code, error) = (failure.exit.code(), Some(failure.causes().join(": ")));
            // The error has been said; there is nobody to tell that stdout is closed.
            let _ = print_document(&Document { exit_code, result: None::<()>, error });
        }
    }
}

fn print_document(document: &Document<impl Serialize>) -> Result<(), Failure> {
    to_stdout(|out| {
        serde_json::to_writer_pretty(&mut *out, document)?;
        writeln!(out)
    })
}

/// Writes one line to stdout.
pub(super) fn say(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    to_stdout(|out| writeln!(out, "{line}"))
}

/// Writes to stdout. A reader that has seen enough, such as `head`, is no failure.
pub(super) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = anyhow::Error::from(error).context("cannot write to stdout");
            Err(Failure::new(Exit::Failed, error))
        }
        _ => Ok(()),
    }
}
