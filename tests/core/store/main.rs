//! The store on either engine, its schema, and other programs that read its SQLite file.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod backup;
mod contract;
mod files;
mod ids;
mod published;
mod readers;
mod schema;
mod transfer;
