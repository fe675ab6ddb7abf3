//! The command line: output, exit codes, secrets.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod commands;
mod copies;
mod events;
mod first_hour;
mod first_minutes;
mod hostile_text;
mod notify;
mod probe;
mod secrets;
mod several_apps;
mod standing_still;
mod stops;
mod system_limits;
