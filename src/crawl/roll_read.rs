//! Reads the roll in a task of its own, while the first pages come in.

use tokio_util::task::AbortOnDropHandle;

use super::progress::SignsOfLife;
use super::{CrawlSite, Interrupted};
use crate::model::TypeId;
use crate::roll::{Roll, RollBuilder};
use crate::store::{StoreError, TypeState};

/// The roll, perhaps still being read by a task of its own.
pub(super) enum RollRead {
    Reading(AbortOnDropHandle<Result<Roll, StoreError>>),
    Read(Box<Roll>),
    /// With the thread that works on it; for good if that was not waited for, because the crawl is given up.
    Lent,
}

impl RollRead {
    pub(super) fn begin(site: &CrawlSite<'_>, states: &[TypeState]) -> Self {
        let room: Vec<(TypeId, u64)> = states.iter().map(|state| (state.type_id(), state.live())).collect();
        let begin = move || RollBuilder::with_room(room.iter().copied());
        if states.iter().all(|state| state.live() == 0) {
            return Self::Read(Box::new(begin().finish()));
        }
        let (store, app, mut signs) = (site.store.clone(), site.app, SignsOfLife::of(site.progress));
        let reading = tokio::spawn(async move {
            let each = |builder: &mut RollBuilder, type_id, id: &str, mark| {
                builder.add(type_id, id, mark);
                signs.count();
            };
            Ok(store.gather_live(app, begin, each).await?.finish())
        });
        Self::Reading(AbortOnDropHandle::new(reading))
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    pub(super) async fn ready(&mut self) -> Result<&mut Roll, Interrupted> {
        if let Self::Reading(reading) = self {
            let roll = reading.await.map_err(|panic| Interrupted::Panicked(panic.to_string()))??;
            *self = Self::Read(Box::new(roll));
        }
        match self {
            Self::Read(roll) => Ok(roll),
            Self::Reading(_) | Self::Lent => Err(Interrupted::Stopped),
        }
    }

    /// Works on the roll on a thread of its own, so that the next page is received meanwhile.
    pub(super) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Roll) -> T + Send + 'static,
    ) -> Result<T, Interrupted> {
        self.ready().await?;
        let Self::Read(mut roll) = std::mem::replace(self, Self::Lent) else {
            return Err(Interrupted::Stopped);
        };
        let working = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut roll);
            (roll, outcome)
        });
        let (roll, outcome) = working.await.map_err(|panic| Interrupted::Panicked(panic.to_string()))?;
        *self = Self::Read(roll);
        Ok(outcome)
    }

    /// Different ids listed so far.
    pub(super) fn listed(&self) -> u64 {
        match self {
            Self::Read(roll) => roll.listed(),
            Self::Reading(_) | Self::Lent => 0,
        }
    }
}
