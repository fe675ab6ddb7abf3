//! Holds requests until a test releases them.

use tokio_util::sync::{CancellationToken, DropGuard};

/// A hold: matching requests are received, but not answered until this value is released or
/// dropped.
#[derive(Debug)]
pub struct HeldRequests {
    reached: CancellationToken,
    _release: DropGuard,
}

impl HeldRequests {
    /// Waits until the first matching request has arrived.
    pub async fn reached(&self) {
        self.reached.cancelled().await;
    }

    /// Answers the held requests and all later ones.
    pub fn release(self) {}
}

/// The server's side of a hold.
#[derive(Clone)]
pub(super) struct Gate {
    reached: CancellationToken,
    released: CancellationToken,
}

impl Gate {
    pub(super) fn new() -> (Self, HeldRequests) {
        let gate = Self { reached: CancellationToken::new(), released: CancellationToken::new() };
        let held =
            HeldRequests { reached: gate.reached.clone(), _release: gate.released.clone().drop_guard() };
        (gate, held)
    }

    /// Waits until the hold is released.
    pub(super) async fn pass(&self) {
        self.reached.cancel();
        self.released.cancelled().await;
    }
}
