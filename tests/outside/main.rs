//! Compatibility with other programs: a browser, Datasette, Grafana, DuckDB, pandas, systemd, and
//! the commands of the documentation.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod datasette;
mod docs;
mod docs_commands;
mod docs_in_chinese;
mod fifty;
mod grafana;
mod page;
mod pictures;
mod states;
mod unit;
mod warehouse;
