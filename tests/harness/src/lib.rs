//! What the tests share: a simulated API, a database on either engine, the daemon, the program as a process, a browser.

pub mod browser;
pub mod cli;
pub mod crawl;
pub mod daemon;
pub mod dashboard;
pub mod log;
pub mod postgres;
pub mod program;
pub mod schema;
pub mod store;

use std::path::Path;

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}
