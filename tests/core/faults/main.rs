//! Faults of the API and of the machine, kills, and random histories.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod backups;
mod faults;
mod files;
mod histories;
mod kills;
