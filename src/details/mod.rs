//! Keeps the details of groups up to date: names, owners, times and member counts from
//! `get_group_info` (document 269/1616).
//!
//! [`DetailsRefresher::run`] runs between the crawls of an app. It asks about the groups of new
//! events first, and then about those whose details are the oldest. `store` decides which groups
//! these are, and records what was asked, so an interrupted run continues where it stopped. It
//! writes only details that have changed.

mod refresher;
mod requests;

pub use self::refresher::{DetailsRefresher, DetailsSettings, RefreshError};
