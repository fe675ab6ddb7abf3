//! Reads the roll in a task of its own, while the first pages come in.

use tokio_util::task::AbortOnDropHandle;

use super::{CrawlSite, Interrupted};
use crate::roll::{Roll, RollBuilder};
use crate::store::{StoreError, TypeState};

/// The roll, perhaps still being read by a task of its own.
pub(super) enum RollRead {
    Reading(AbortOnDropHandle<Result<Roll, StoreError>>),
    Read(Box<Roll>),
}

impl RollRead {
    pub(super) fn begin(site: &CrawlSite<'_>, states: &[TypeState]) -> Self {
        let mut builder = RollBuilder::with_room(states.iter().map(|state| (state.type_id(), state.live())));
        if states.iter().all(|state| state.live() == 0) {
            return Self::Read(Box::new(builder.finish()));
        }
        let (store, app) = (site.store.clone(), site.app);
        let reading = tokio::spawn(async move {
            store.for_each_live(app, |type_id, id, mark| builder.add(type_id, id, mark)).await?;
            Ok(builder.finish())
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
            Self::Reading(_) => Err(Interrupted::Stopped),
        }
    }

    /// Different ids listed so far.
    pub(super) fn listed(&self) -> u64 {
        match self {
            Self::Read(roll) => roll.listed(),
            Self::Reading(_) => 0,
        }
    }
}
