//! Everything that needs a server or a database: one binary, so that it links once.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and a failed test is a panic"
)]

mod apps;
mod architecture;
mod cli;
mod confirmation;
mod crawls;
mod daemon;
mod dashboard;
mod datasette;
mod docs;
mod docs_commands;
mod faults;
mod first_hour;
mod grafana;
mod kills;
mod metrics;
mod page;
mod pictures;
mod postgres;
mod postgres_program;
mod postgres_servers;
mod probe;
mod properties;
mod published;
mod readers;
mod schema;
mod secrets;
mod service;
mod store_contract;
mod support;
mod support_browser;
mod support_dashboard;
mod support_engines;
mod support_postgres;
mod support_program;
mod unit;
mod views;
mod web;
