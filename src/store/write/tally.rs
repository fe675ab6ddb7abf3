//! Maintains the totals of each group type, so that no reader has to count a million rows.

use std::collections::BTreeMap;

use crate::model::{CrawlId, TypeId};
use crate::store::app::AppId;
use crate::store::engine::{StoreError, Tx, values};

/// The changes to the totals of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TotalsChange {
    pub(super) live: i64,
    pub(super) missing: i64,
    pub(super) deleted: i64,
}

/// The number of events that a transaction recorded for one type, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EventCounts {
    pub(super) appeared: i64,
    pub(super) vanished: i64,
    pub(super) reappeared: i64,
    pub(super) retyped: i64,
}

/// The changes of a transaction to totals and events, by type.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) totals: BTreeMap<TypeId, TotalsChange>,
    pub(super) events: BTreeMap<TypeId, EventCounts>,
}

const ADD_TO_TOTALS: &str = "
INSERT INTO type_state (app_id, type_id, live_count, missing_count, deleted_count) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (app_id, type_id) DO UPDATE SET
    live_count = type_state.live_count + excluded.live_count,
    missing_count = type_state.missing_count + excluded.missing_count,
    deleted_count = type_state.deleted_count + excluded.deleted_count";
const ADD_TO_EVENTS: &str = "
INSERT INTO crawl_change (crawl_id, type_id, appeared, vanished, reappeared, retyped) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (crawl_id, type_id) DO UPDATE SET
    appeared = crawl_change.appeared + excluded.appeared,
    vanished = crawl_change.vanished + excluded.vanished,
    reappeared = crawl_change.reappeared + excluded.reappeared,
    retyped = crawl_change.retyped + excluded.retyped";

const STORED_GROUPS: &str = "
SELECT CAST(coalesce(sum(live_count + deleted_count), 0) AS BIGINT) FROM type_state WHERE app_id = $1";

/// Returns the number of an app's groups, including deleted ones.
pub(super) async fn stored_groups(tx: &mut Tx, app: AppId) -> Result<u64, StoreError> {
    let (groups,): (i64,) = tx.fetch_one(STORED_GROUPS, &values![app.0]).await?;
    Ok(groups.cast_unsigned())
}

impl Tally {
    /// Returns the changes of one type, to add to.
    pub(super) fn totals(&mut self, type_id: TypeId) -> &mut TotalsChange {
        self.totals.entry(type_id).or_default()
    }

    /// Returns the events of one type, to add to.
    pub(super) fn events(&mut self, type_id: TypeId) -> &mut EventCounts {
        self.events.entry(type_id).or_default()
    }

    /// Writes the changes: adds them to the totals of the app and to the events of the crawl.
    pub(super) async fn write(&self, tx: &mut Tx, app: AppId, crawl: CrawlId) -> Result<(), StoreError> {
        self.write_totals(tx, app).await?;
        for (type_id, events) in &self.events {
            let EventCounts { appeared, vanished, reappeared, retyped } = *events;
            if *events != EventCounts::default() {
                let values = values![crawl.0, type_id.0, appeared, vanished, reappeared, retyped];
                tx.execute(ADD_TO_EVENTS, &values).await?;
            }
        }
        Ok(())
    }

    /// Writes only the changes to the totals of the app.
    pub(super) async fn write_totals(&self, tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
        for (type_id, change) in &self.totals {
            let TotalsChange { live, missing, deleted } = *change;
            if *change != TotalsChange::default() {
                tx.execute(ADD_TO_TOTALS, &values![app.0, type_id.0, live, missing, deleted]).await?;
            }
        }
        Ok(())
    }
}
