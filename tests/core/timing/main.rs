//! Upper limits of real elapsed time: health checks under load, retries, and stops.
//!
//! These tests have a target of their own, because cargo runs targets one after another. So the
//! tests of other topics do not delay them.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod health;
mod retry;
mod stops;

use tokio::sync::RwLock;

/// Keeps the tests of this target from delaying each other. A test that loads the machine holds it
/// exclusively. Tests that mostly wait share it, so that they wait at the same time.
static MACHINE: RwLock<()> = RwLock::const_new(());
