//! Everything that needs a server or a database: one binary, so that it links once.

#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod crawls;
mod faults;
mod properties;
mod support;
