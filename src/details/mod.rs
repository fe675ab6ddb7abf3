//! Keeps the details of groups up to date: names, owners, times and member counts from
//! `get_group_info` (document 269/1616).
//!
//! [`DetailsRefresher::run`] runs between the crawls of an app. It requests the details of groups
//! with new events first, and then those that are the oldest. `store` decides which groups these
//! are, and records which groups were requested. So an interrupted run continues where it stopped.
//! Only changed details are written.

mod refresher;
mod requests;

pub use self::refresher::{DetailsRefresher, DetailsSettings, RefreshError};
