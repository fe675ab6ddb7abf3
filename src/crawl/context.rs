//! The context of a crawl: its settings, its app, the store, and the stop signal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock_skew::MAX_CLOCK_SKEW;
use super::dry_run::{WriteTarget, lock};
use super::error::Interrupted;
use super::progress::Progress;
use super::settings::CrawlSettings;
use crate::clock::Clock;
use crate::model::{GroupIds, GroupType, TypeId};
use crate::pages::Caller;
use crate::store::{AppId, Lease, ListedBatch, Store, StoreError, TypeState, WrittenCounts};

/// The time that an in-flight request may still take after a stop is requested. The rest of the
/// shutdown budget is reserved for writing its page.
const IN_FLIGHT_GRACE: Duration = Duration::from_secs(2);

/// The context of one crawl. It is not modified during the crawl.
pub(super) struct CrawlContext<'a> {
    pub(super) settings: &'a CrawlSettings,
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    pub(super) clock: &'a Clock,
    pub(super) app: AppId,
    /// The keys of the configured types.
    pub(super) types: BTreeMap<GroupType, TypeId>,
    pub(super) target: WriteTarget,
    /// The types that the API rejected in the previous crawl. Only changes of this set are logged.
    pub(super) rejected_before: &'a Mutex<BTreeSet<GroupType>>,
    pub(super) stop: &'a CancellationToken,
    pub(super) progress: &'a watch::Sender<Progress>,
}

impl CrawlContext<'_> {
    /// Runs a future that makes requests, until a stop is requested. After that, requests in flight
    /// may finish within [`IN_FLIGHT_GRACE`]. `in_flight` is the number of requests in flight, see
    /// [`Caller::in_flight`].
    pub(super) async fn requesting<T, E>(
        &self,
        mut in_flight: watch::Receiver<usize>,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Interrupted> {
        let stopped = async {
            self.stop.cancelled().await;
            // The crawl stops even if the requests did not finish in time.
            let _ =
                tokio::time::timeout(IN_FLIGHT_GRACE, in_flight.wait_for(|requests| *requests == 0)).await;
        };
        tokio::select! {
            biased;
            () = stopped => Err(Interrupted::Stopped),
            // If a request fails after the stop, the crawl is reported as stopped and not as
            // failed, because the request would otherwise be retried.
            outcome = request => match outcome {
                Err(_) if self.stop.is_cancelled() => Err(Interrupted::Stopped),
                outcome => Ok(outcome),
            },
        }
    }

    /// Runs a future, and drops it when a stop is requested.
    pub(super) async fn unless_stopped<T>(&self, run: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Interrupted::Stopped),
            outcome = run => Ok(outcome),
        }
    }

    /// Runs a write. Its start and its end count as progress for the watchdog.
    async fn write<T>(&self, write: impl Future<Output = T>) -> T {
        self.report_progress();
        let outcome = write.await;
        self.report_progress();
        outcome
    }

    /// Publishes the unchanged progress, which restarts the watchdog's time limit.
    pub(super) fn report_progress(&self) {
        self.progress.send_modify(|_| ());
    }

    /// Writes groups that were listed under a type. In a dry run, collects the changes instead.
    pub(super) async fn write_listed(
        &self,
        type_id: TypeId,
        in_baseline: bool,
        at: DateTime<Utc>,
        ids: &GroupIds,
    ) -> Result<WrittenCounts, StoreError> {
        match &self.target {
            WriteTarget::Database(crawl) => {
                let batch = ListedBatch { app: self.app, crawl: *crawl, type_id, in_baseline, at, ids };
                let on_chunk = || self.report_progress();
                self.write(self.store.write_listed(self.lease, &batch, on_chunk)).await
            }
            WriteTarget::DryRun(planned) => {
                let mut written = WrittenCounts::default();
                let list = |id: &str, known| {
                    lock(planned).list(id, known, (type_id, in_baseline), &mut written);
                };
                self.store.look_up(self.app, ids, list).await?;
                Ok(written)
            }
        }
    }

    /// Returns how many of these ids the database does not have.
    pub(super) async fn count_unknown(&self, ids: &GroupIds) -> Result<u64, StoreError> {
        let mut unknown = 0;
        self.store.look_up(self.app, ids, |_, known| unknown += u64::from(known.is_none())).await?;
        Ok(unknown)
    }

    /// Records that the baseline of a type has ended. Does nothing in a dry run.
    pub(super) async fn end_baseline(&self, type_id: TypeId) -> Result<(), StoreError> {
        match &self.target {
            WriteTarget::Database(crawl) => {
                self.write(self.store.end_baseline(self.lease, self.app, type_id, *crawl)).await
            }
            WriteTarget::DryRun(_) => Ok(()),
        }
    }

    /// Returns the key of a type, and registers the type if the database does not have it.
    pub(super) async fn type_id(&self, group_type: &GroupType) -> Result<TypeId, StoreError> {
        if let Some(type_id) = self.types.get(group_type) {
            return Ok(*type_id);
        }
        match &self.target {
            WriteTarget::Database(_) => self.write(self.store.register_type(self.lease, group_type)).await,
            WriteTarget::DryRun(planned) => Ok(lock(planned).type_id(group_type)),
        }
    }

    /// Returns the totals of each type, including the changes that this crawl has made so far.
    pub(super) async fn type_states(&self) -> Result<Vec<TypeState>, StoreError> {
        let mut states = self.store.type_states(self.app).await?;
        if let WriteTarget::DryRun(planned) = &self.target {
            lock(planned).add_to(&mut states);
        }
        Ok(states)
    }
}

/// Returns an error if this machine's clock differs from the API's by more than [`MAX_CLOCK_SKEW`].
pub(super) fn check_clock(caller: &Caller<'_>) -> Result<(), Interrupted> {
    match caller.clock_skew() {
        Some(skew) if skew.abs() > MAX_CLOCK_SKEW => Err(Interrupted::Clock { skew }),
        _ => Ok(()),
    }
}
