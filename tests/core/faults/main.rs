//! Faults of the API and the machine, killed processes, and random histories.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod backups;
mod faults;
mod feed;
mod files;
mod histories;
mod kills;
