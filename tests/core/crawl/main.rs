//! Crawls: which groups they list, mark as missing, delete and count.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod confirmation;
mod crawls;
mod details;
mod readers;
mod recipes;
mod statistics;
mod views;
