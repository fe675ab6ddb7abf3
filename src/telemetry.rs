//! Logging to stderr: text for terminals and the journal, JSON for collectors. Secrets are never
//! logged.
//!
//! If a line cannot be written, it is lost without an error: stderr may be a closed pipe, a full
//! disk or a file at its size limit. Each event is one line, whatever untrusted text it contains.
//! A panic is an event as well.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::escape;

/// The most verbose levels of libraries that log URLs, headers or SQL statements. The configured
/// filter cannot exceed them.
const MAX_LEVELS: [(&str, Level); 8] = [
    ("h2", Level::INFO),
    ("hyper", Level::INFO),
    ("hyper_util", Level::INFO),
    ("reqwest", Level::INFO),
    ("rustls", Level::INFO),
    ("sqlx", Level::WARN),
    // A server repeats its notices with every connection. The store warns once.
    ("sqlx::postgres::notice", Level::ERROR),
    // It logs every job that is added.
    ("tokio_cron_scheduler", Level::WARN),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal and in the journal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// The progress bars on the terminal. They are hidden while a log line is written.
static BARS: OnceLock<Mutex<MultiProgress>> = OnceLock::new();

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging, of panics too. Later calls have no effect. An invalid filter is replaced by
/// `info`.
pub fn init(filter: &str, format: Format) {
    let journal = is_journal();
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !journal && !io::stderr().is_terminal(),
    };
    let (filter, handle) = reload::Layer::new(parse_filter(filter));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let escape = if json {
        escape::json
    } else if colour {
        escape::coloured
    } else {
        escape::one_line
    };
    let lines = fmt::layer()
        .with_writer(StderrWriter { journal, escape })
        .with_target(false)
        .with_ansi(colour)
        // Internal errors would be printed with a macro that panics if stderr is closed.
        .log_internal_errors(false);
    // Both filters apply to the entire registry. A per-layer filter would lose lines: it caches its
    // decision until the next event of the thread, and sqlx checks whether an event is enabled
    // without emitting it.
    let registry =
        tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !exceeds_max_level(metadata)));
    let initialised = if json {
        registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init()
    } else if journal {
        registry.with(lines.compact().without_time()).try_init()
    } else {
        registry.with(lines.compact()).try_init()
    };
    // This fails if logging was started before, as in tests.
    if initialised.is_ok() {
        let _first = FILTER.set(handle);
        panic::set_hook(Box::new(log_panic));
    }
}

/// Logs a panic as one line. The default hook would write several lines, which the journal and
/// collectors do not recognise as one error. The backtrace is logged if `RUST_BACKTRACE` is set.
fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("(the panic has no message)");
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    tracing::error!(
        thread = thread.name(),
        location = info.location().map(tracing::field::display),
        backtrace = is_captured.then(|| tracing::field::display(&backtrace)),
        "the program panicked, which is a bug: {message}"
    );
}

#[must_use]
pub fn has_started() -> bool {
    FILTER.get().is_some()
}

/// Replaces the filter. Has no effect before [`init`].
pub fn set_filter(filter: &str) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(parse_filter(filter))
    {
        tracing::warn!(%error, "cannot change the log filter; the previous one remains in effect");
    }
}

fn parse_filter(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Hides these progress bars while a log line is written.
pub fn share_terminal_with(bars: &MultiProgress) {
    let shared = BARS.get_or_init(|| Mutex::new(bars.clone()));
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = bars.clone();
}

fn exceeds_max_level(metadata: &Metadata<'_>) -> bool {
    MAX_LEVELS.iter().any(|(library, cap)| {
        let of_library = metadata
            .target()
            .strip_prefix(library)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'));
        of_library && metadata.level() > cap
    })
}

/// Returns whether stderr is connected to systemd's journal. systemd sets `JOURNAL_STREAM` to the
/// device and inode of this connection, see systemd.exec(5).
#[must_use]
pub fn is_journal() -> bool {
    let Ok(connected) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| connected == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Writes a message of a command to stderr. In the journal each line has the priority prefix of the
/// level. Unsafe characters are escaped. A message that cannot be written is lost.
pub fn write_message(level: Level, message: &str) {
    let priority = if is_journal() { priority(level) } else { "" };
    let mut text = String::with_capacity(message.len() + 16);
    for line in escape::lines(message).lines() {
        text.extend([priority, line, "\n"]);
    }
    write_stderr(text.as_bytes());
}

/// Writes a prompt to stderr, without a line break, so that the user answers on the same line.
pub fn write_prompt(prompt: &str) {
    write_stderr(escape::lines(prompt).as_bytes());
}

/// Writes to stderr, and hides the progress bars meanwhile. Errors are ignored, because there is no
/// other place to report them.
fn write_stderr(text: &[u8]) {
    let write = || {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text).and_then(|()| stderr.flush());
    };
    match BARS.get() {
        Some(bars) => bars.lock().unwrap_or_else(PoisonError::into_inner).suspend(write),
        None => write(),
    }
}

/// Returns the priority prefix of a line in the journal, see sd-daemon(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Writes lines to stderr, in the journal with the priority prefixes of sd-daemon(3). The crate
/// tracing-journald is not used, because it bypasses stderr and writes to the journal's socket in
/// another format.
#[derive(Clone, Copy)]
struct StderrWriter {
    /// Whether each line gets a priority prefix.
    journal: bool,
    /// Escapes unsafe characters in the format of the lines.
    escape: fn(&str) -> Cow<'_, str>,
}

impl MakeWriter<'_> for StderrWriter {
    type Writer = Stderr;

    fn make_writer(&self) -> Stderr {
        Stderr { priority: "", escape: self.escape }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Stderr {
        let priority = if self.journal { priority(*metadata.level()) } else { "" };
        Stderr { priority, escape: self.escape }
    }
}

struct Stderr {
    priority: &'static str,
    escape: fn(&str) -> Cow<'_, str>,
}

/// Expects one complete line with each call of `write`. Writing always succeeds.
impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = (self.escape)(text.strip_suffix('\n').unwrap_or(&text));
        write_stderr([self.priority, &text, "\n"].concat().as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;

    /// Runs this test again in a child process, because the panic hook belongs to the entire
    /// process. The child's stderr is a file, which the child takes for the journal.
    #[test]
    fn a_panic_is_one_line_of_error_priority_in_the_journal() {
        const CHILD: &str = "TIM_GROUP_SYNC_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            init("info", Format::Auto);
            let worker = thread::Builder::new().name("worker".to_owned());
            let panicking = worker.spawn(|| panic!("intended\npanic")).unwrap();
            panicking.join().unwrap_err();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = File::create(&path).unwrap();
        let metadata = journal.metadata().unwrap();
        // libtest would capture the output of the default hook without --nocapture.
        let arguments = [
            "--nocapture",
            "--exact",
            "telemetry::tests::a_panic_is_one_line_of_error_priority_in_the_journal",
        ];
        let child = Command::new(std::env::current_exe().unwrap())
            .args(arguments)
            .env(CHILD, "1")
            .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
            .env_remove("RUST_BACKTRACE")
            .stderr(journal)
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let log = std::fs::read_to_string(path).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        for part in ["<3>ERROR ", "intended\\npanic", "thread=\"worker\"", "location=src/telemetry.rs:"] {
            assert!(log.contains(part), "{part}: {log}");
        }
    }
}
