//! The store: its contract on every engine, its schema, its readers.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod contract;
mod published;
mod readers;
mod schema;
