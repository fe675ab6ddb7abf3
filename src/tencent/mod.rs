//! Tencent Cloud IM's REST API, as far as a crawl needs it. Knows nothing of SQL.

pub mod region;
pub mod usersig;
pub mod wire;
