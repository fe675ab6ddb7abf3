//! Measures the speed, the writes and the memory of a crawl. Compares them with the floor (fetching
//! and parsing alone), a simple script, and the database's own bulk load.
//!
//! `cargo bench --bench crawl` runs 100,000 and 1,000,000 groups on both engines and prints
//! Markdown; docs/performance.md lists the options. Every phase, the simulated API and PostgreSQL
//! run in separate processes, which are measured through /proc. Requests are sent without pauses,
//! except with `--paced`.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program for developers that prints figures"
)]

mod after_kill;
mod by_hand;
mod copies;
mod figures;
mod phases;
mod queries;
mod report;
mod server;

use std::time::Duration;

use crate::phases::Role;

const USAGE: &str = "usage: cargo bench --bench crawl [-- [--groups N]... [--sqlite | --postgres] | --apps N | --paced | --queries | --copies | --after-kill]";

/// The default `request_interval`.
const PACE: Duration = Duration::from_millis(1050);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["role", role @ ..] = &arguments[..] {
        return Role::parse(role).run();
    }
    let mut sizes: Vec<u64> = Vec::new();
    let mut engines = vec![report::Engine::Sqlite, report::Engine::Postgres];
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut number = || rest.next().and_then(|number| number.parse().ok());
        match (argument, argument == "--groups" || argument == "--apps") {
            ("--sqlite", _) => engines = vec![report::Engine::Sqlite],
            ("--postgres", _) => engines = vec![report::Engine::Postgres],
            ("--after-kill", _) => return after_kill::after_kill(&engines, 1_000_000),
            ("--copies", _) => return copies::measure(),
            ("--queries", _) => {
                return assert!(queries::run_all(&engines), "a query took longer than its limit");
            }
            ("--paced", _) => return report::compare_with_pace(1_000_000),
            (option, true) => match (option, number()) {
                ("--groups", Some(groups)) => sizes.push(groups),
                ("--apps", Some(apps)) => return report::many_apps(&engines, apps, 100_000),
                _ => return eprintln!("{USAGE}"),
            },
            _ => return eprintln!("{USAGE}"),
        }
    }
    if sizes.is_empty() {
        sizes = vec![100_000, 1_000_000];
    }
    report::compare(&engines, &sizes);
}
