//! Crawls: which groups they list, mark as missing, delete and count.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod baselines;
mod changes;
mod clocks;
mod confirmation;
mod details;
mod dry_run;
mod empty_lists;
mod group_types;
mod learned_types;
mod lookups;
mod readers;
mod recipes;
mod records;
mod retention;
mod statistics;
mod verdicts;
mod views;
mod wrong_lists;
