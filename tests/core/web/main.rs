//! The HTTP listeners and the JSON behind the dashboard.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod condition;
mod dashboard;
mod events;
mod listener;
