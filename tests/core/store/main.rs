//! The store on either engine, its schema, and other programs that read its SQLite file.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod apps;
mod backup;
mod crawl_end;
mod files;
mod ids;
mod lease;
mod listing;
mod migrations;
mod published;
mod readers;
mod retention;
mod schema;
mod transfer;
mod undelete;
mod views;
mod withheld;
