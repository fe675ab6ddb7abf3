//! A client for the part of Tencent Cloud IM's REST API that the crawl uses.
//!
//! Comments cite the vendor's documentation by number: document 269/1614 is
//! <https://cloud.tencent.com/document/product/269/1614>.

pub mod client;
pub mod error;
pub mod info;
pub mod probe;
pub mod region;
pub mod statistics;
pub mod usersig;
pub mod wire;

pub use client::{Client, ClientSettings, Fields, GroupAnswer, Page};
pub use error::ApiError;
