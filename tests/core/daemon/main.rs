//! The daemon: schedule, apps, signals, metrics.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod apps;
mod details;
mod metrics;
mod notifications;
mod schedule;
mod service;
