//! Limits of one second: health checks under load, and a stop during a pause.
//!
//! These tests are a separate target. Cargo runs targets one after another, so tests of other
//! topics do not delay them.

mod health;
mod retry;

use tokio::sync::Mutex;

/// Held by each test of this target, so that they run one after another.
static MACHINE: Mutex<()> = Mutex::const_new(());
