//! Requests that a test holds back.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests that were received and are not answered until this value is released or dropped.
#[derive(Debug)]
pub struct Held {
    reached: CancellationToken,
    _release: DropGuard,
}

impl Held {
    /// Waits until the first matching request has arrived.
    pub async fn reached(&self) {
        self.reached.cancelled().await;
    }

    /// Answers the held requests and all later ones.
    pub fn release(self) {}
}

/// The server's side of a [`Held`]. Each token is a flag that tasks can wait for.
#[derive(Clone)]
pub(super) struct Gate {
    reached: CancellationToken,
    released: CancellationToken,
}

impl Gate {
    pub(super) fn new() -> (Self, Held) {
        let gate = Self { reached: CancellationToken::new(), released: CancellationToken::new() };
        let held = Held { reached: gate.reached.clone(), _release: gate.released.clone().drop_guard() };
        (gate, held)
    }

    pub(super) async fn pass(&self) {
        self.reached.cancel();
        self.released.cancelled().await;
    }
}
