//! Code that the test targets share: a simulated API, a database on either engine, the daemon, the
//! program as a process, and a browser.

pub mod browser;
pub mod campaign;
pub mod cli;
pub mod crawl;
pub mod daemon;
pub mod dashboard;
pub mod listener;
pub mod log;
pub mod network;
pub mod postgres;
pub mod program;
pub mod readers;
pub mod receiver;
pub mod schema;
pub mod store;

use std::io::Write as _;
use std::path::Path;

/// Returns the root folder of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Reports that a test, or a part of one, is skipped. Writes to stderr, which the test runner does
/// not capture, and appends to the file that `SKIPPED_TESTS` names.
pub fn skip(reason: &str) {
    let line = format!("SKIPPED: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(file) = std::env::var_os("SKIPPED_TESTS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
