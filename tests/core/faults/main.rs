//! Faults of the API and the machine, killed processes, and random histories.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod answers;
mod backups;
mod campaigns;
mod error_codes;
mod feed;
mod files;
mod histories;
mod interruptions;
mod kills;
mod logs;
mod random_apps;
mod request_interval;
