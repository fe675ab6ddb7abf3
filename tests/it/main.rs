//! Everything that needs a server or a database: one binary, so that it links once.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in functions marked as tests, and these are called by those"
)]

mod crawls;
mod faults;
mod properties;
mod support;
