//! What every step of a crawl needs: its settings, its app, the store, and the signal to stop.

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
use crate::store::{AppId, Batch, Lease, Store, StoreError, TypeState, Written};

/// Time an in-flight request may still take after a stop is requested. The rest of the shutdown budget is for writing its
/// page.
const IN_FLIGHT_GRACE: Duration = Duration::from_secs(2);

/// The context of one crawl. No step changes it.
pub(super) struct CrawlContext<'a> {
    pub(super) settings: &'a CrawlSettings,
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    pub(super) clock: &'a Clock,
    pub(super) app: AppId,
    /// The ids of the configured types.
    pub(super) types: BTreeMap<GroupType, TypeId>,
    pub(super) target: WriteTarget,
    /// The types that the API rejected in the previous crawl. Only a change is logged.
    pub(super) rejected_before: &'a Mutex<BTreeSet<GroupType>>,
    pub(super) stop: &'a CancellationToken,
    pub(super) progress: &'a watch::Sender<Progress>,
}

impl CrawlContext<'_> {
    /// Runs something that makes requests. After a stop is requested, no further request is sent, and one in flight gets
    /// [`IN_FLIGHT_GRACE`] to be answered. `in_flight` is the caller's number of requests in flight.
    pub(super) async fn requesting<T, E>(
        &self,
        mut in_flight: watch::Receiver<usize>,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Interrupted> {
        let stopped = async {
            self.stop.cancelled().await;
            // Whether the request was answered or timed out, the crawl stops.
            let _ =
                tokio::time::timeout(IN_FLIGHT_GRACE, in_flight.wait_for(|requests| *requests == 0)).await;
        };
        tokio::select! {
            biased;
            () = stopped => Err(Interrupted::Stopped),
            // Without the stop, a request that fails now would have been retried.
            outcome = request => match outcome {
                Err(_) if self.stop.is_cancelled() => Err(Interrupted::Stopped),
                outcome => Ok(outcome),
            },
        }
    }

    /// Runs something that may be abandoned at any point, and abandons it when a stop is requested.
    pub(super) async fn unless_stopped<T>(&self, run: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Interrupted::Stopped),
            outcome = run => Ok(outcome),
        }
    }

    /// Writes something, and shows the crawl as queued until [`Self::transaction_began`] is called.
    async fn writing<T>(&self, write: impl Future<Output = T>) -> T {
        self.progress.send_modify(|progress| progress.queued = true);
        let outcome = write.await;
        self.transaction_began();
        outcome
    }

    fn transaction_began(&self) {
        self.progress.send_modify(|progress| progress.queued = false);
    }

    /// Writes groups that were listed under a type. A dry run collects the changes instead.
    pub(super) async fn write_listed(
        &self,
        type_id: TypeId,
        in_baseline: bool,
        at: DateTime<Utc>,
        ids: &GroupIds,
    ) -> Result<Written, StoreError> {
        match &self.target {
            WriteTarget::Database(crawl) => {
                let batch = Batch { app: self.app, crawl: *crawl, type_id, in_baseline, at, ids };
                let on_chunk = || self.transaction_began();
                self.writing(self.store.write_listed(self.lease, &batch, on_chunk)).await
            }
            WriteTarget::DryRun(planned) => {
                let mut written = Written::default();
                let list = |id: &str, known| {
                    lock(planned).list(id, known, (type_id, in_baseline), &mut written);
                };
                self.store.look_up(self.app, ids, list).await?;
                Ok(written)
            }
        }
    }

    /// How many of these ids were never listed before.
    pub(super) async fn count_unknown(&self, ids: &GroupIds) -> Result<u64, StoreError> {
        let mut unknown = 0;
        self.store.look_up(self.app, ids, |_, known| unknown += u64::from(known.is_none())).await?;
        Ok(unknown)
    }

    /// Records that the baseline of a type has ended.
    pub(super) async fn end_baseline(&self, type_id: TypeId) -> Result<(), StoreError> {
        match &self.target {
            WriteTarget::Database(crawl) => {
                self.writing(self.store.end_baseline(self.lease, self.app, type_id, *crawl)).await
            }
            WriteTarget::DryRun(_) => Ok(()),
        }
    }

    /// The id of a type, which need not be configured.
    pub(super) async fn type_id(&self, group_type: &GroupType) -> Result<TypeId, StoreError> {
        if let Some(type_id) = self.types.get(group_type) {
            return Ok(*type_id);
        }
        match &self.target {
            WriteTarget::Database(_) => self.writing(self.store.register_type(self.lease, group_type)).await,
            WriteTarget::DryRun(planned) => Ok(lock(planned).type_id(group_type)),
        }
    }

    /// The totals of each type, with everything that this crawl has written so far.
    pub(super) async fn type_states(&self) -> Result<Vec<TypeState>, StoreError> {
        let mut states = self.store.type_states(self.app).await?;
        if let WriteTarget::DryRun(planned) = &self.target {
            lock(planned).add_to(&mut states);
        }
        Ok(states)
    }
}

/// Fails if the API's answers show that this machine's clock is too far off.
pub(super) fn check_clock(caller: &Caller<'_>) -> Result<(), Interrupted> {
    match caller.clock_skew() {
        Some(skew) if skew.abs() > MAX_CLOCK_SKEW => Err(Interrupted::Clock { skew }),
        _ => Ok(()),
    }
}
