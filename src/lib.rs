//! Synchronises the groups of Tencent Cloud IM (Chat) apps into an SQL database.

pub mod alarm;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confirmation;
pub mod crawl;
pub mod daemon;
pub mod escape;
pub mod guard;
pub mod lifecycle;
pub mod metrics;
pub mod model;
pub mod pace;
pub mod pages;
pub mod policy;
pub mod publish;
pub mod reconcile;
pub mod roll;
pub mod schedule;
pub mod signals;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod tencent;
pub mod verdict;
pub mod web;
