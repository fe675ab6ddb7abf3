//! The part of Tencent Cloud IM's REST API that the crawl needs.

pub mod client;
pub mod error;
pub mod probe;
pub mod region;
pub mod usersig;
pub mod wire;

pub use client::{Client, ClientSettings, GroupAnswer, Page};
pub use error::ApiError;
