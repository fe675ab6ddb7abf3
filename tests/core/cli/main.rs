//! The command line: output, exit codes, secrets.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod commands;
mod copies;
mod demo;
mod events;
mod hostile_text;
mod init_and_check;
mod notify;
mod probe;
mod secrets;
mod several_apps;
mod status;
mod status_problems;
mod stops;
mod system_limits;
