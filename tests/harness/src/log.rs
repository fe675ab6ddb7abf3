//! Captures the log lines of one test.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::util::SubscriberInitExt as _;

/// The log lines of the current thread so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Captures what the current thread logs until the guard is dropped.
pub fn capture_log() -> (Log, LogGuard) {
    // tracing caches per call site whether any subscriber is interested. With only one subscriber,
    // a thread without a subscriber could disable a call site for all threads. A second subscriber
    // prevents that.
    let other = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = subscriber.set_default();
    (log, LogGuard { _default: guard, _other: other })
}

pub struct LogGuard {
    _default: tracing::subscriber::DefaultGuard,
    _other: tracing::Dispatch,
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
