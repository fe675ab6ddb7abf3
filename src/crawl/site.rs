//! What every step of one crawl needs and none changes.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Interrupted;
use super::ledger::Ledger;
use super::progress::Progress;
use crate::clock::Clock;
use crate::pages::Caller;
use crate::store::{AppId, Lease, Store};

/// Time an in-flight request may still take after a stop is requested. The rest of the shutdown budget is for writing its
/// page.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// A difference between this machine's clock and the API's at which a crawl fails: its times would be wrong for good.
const TOLERATED_SKEW: TimeDelta = TimeDelta::hours(1);

/// Where a crawl takes place.
pub(super) struct CrawlSite<'a> {
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    pub(super) clock: &'a Clock,
    pub(super) app: AppId,
    pub(super) ledger: Ledger,
    /// The types of groups are asked about and kept.
    pub(super) learns_types: bool,
    pub(super) stop: &'a CancellationToken,
    pub(super) progress: &'a watch::Sender<Progress>,
}

impl CrawlSite<'_> {
    /// Makes a request, unless the program is to stop: then one that waits for its answer still gets some time, and no
    /// other is sent.
    pub(super) async fn asking<T, E>(
        &self,
        mut in_flight: watch::Receiver<usize>,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Interrupted> {
        let stopped = async {
            self.stop.cancelled().await;
            // Either way it is over: answered, or late.
            let _ = tokio::time::timeout(LAST_ANSWER, in_flight.wait_for(|requests| *requests == 0)).await;
        };
        tokio::select! {
            biased;
            () = stopped => Err(Interrupted::Stopped),
            // One that failed meanwhile would have been made again.
            outcome = request => match outcome {
                Err(_) if self.stop.is_cancelled() => Err(Interrupted::Stopped),
                outcome => Ok(outcome),
            },
        }
    }

    /// Writes something, and shows that it waits for its turn to, until [`Self::has_turn`] says otherwise.
    pub(super) async fn writing<T>(&self, write: impl Future<Output = T>) -> T {
        self.progress.send_modify(|progress| progress.queued = true);
        let outcome = write.await;
        self.has_turn();
        outcome
    }

    /// A sign of life from a transaction that has begun.
    pub(super) fn has_turn(&self) {
        self.progress.send_modify(|progress| progress.queued = false);
    }

    /// Runs something that may be abandoned at any point, unless the program is to stop.
    pub(super) async fn unless_stopped<T>(&self, run: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Interrupted::Stopped),
            outcome = run => Ok(outcome),
        }
    }
}

/// Fails if this machine's clock and the API's are too far apart, as far as the API's answers have told.
pub(super) fn check_clock(caller: &Caller<'_>) -> Result<(), Interrupted> {
    match caller.clock_skew() {
        Some(skew) if skew.abs() > TOLERATED_SKEW => Err(Interrupted::Clock { skew }),
        _ => Ok(()),
    }
}
