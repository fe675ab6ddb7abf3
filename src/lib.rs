//! Keeps the groups of a Tencent Cloud IM (Chat) app in SQL.

pub mod alarm;
pub mod clock;
pub mod lifecycle;
pub mod model;
pub mod schedule;
pub mod tencent;
