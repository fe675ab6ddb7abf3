//! Keeps the groups of a Tencent Cloud IM (Chat) app in SQL.

pub mod clock;
pub mod config;
pub mod model;
pub mod tencent;
