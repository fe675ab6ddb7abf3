//! The commands: output, exit codes, secrets.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod commands;
mod events;
mod first_hour;
mod probe;
mod secrets;
