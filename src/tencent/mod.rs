//! Tencent Cloud IM's REST API, as far as a crawl needs it. Knows nothing of SQL.

pub mod client;
pub mod error;
pub mod probe;
pub mod region;
pub mod usersig;
pub mod wire;

pub use client::{Client, ClientSettings, GroupAnswer, Page};
pub use error::ApiError;
