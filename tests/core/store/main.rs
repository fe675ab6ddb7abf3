//! The store: its contract on every engine, its schema, its readers.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod backup;
mod contract;
mod files;
mod ids;
mod published;
mod readers;
mod schema;
mod transfer;
