//! Finds the groups whose details are due to be requested.
//!
//! The groups of new events come first. Then comes the range of ids whose details were requested
//! longest ago, see the table `detail_range`.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::store::app::AppId;
use crate::store::bulk;
use crate::store::engine::{Store, StoreError, values};

/// The maximum number of events that one query reads.
const MAX_EVENTS: i64 = 1000;

/// The groups whose details are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueDetails {
    /// No process has claimed the app's details yet.
    NotStarted,
    /// Live groups of new events. `ids` is empty if all these groups were deleted since.
    /// `last_event` is the newest event that was read.
    New { ids: Vec<String>, last_event: i64 },
    /// All live groups with ids after `after`, up to and including `to`, in order. `to` is `None`
    /// if the range has no upper end.
    Range { ids: Vec<String>, after: String, to: Option<String> },
    /// Nothing is due before this time.
    Nothing { until: DateTime<Utc> },
}

impl DueDetails {
    /// Returns the groups whose details are due.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        match self {
            Self::New { ids, .. } | Self::Range { ids, .. } => ids,
            Self::NotStarted | Self::Nothing { .. } => &[],
        }
    }
}

const LAST_EVENT: &str = "SELECT last_event_id FROM detail_state WHERE app_id = $1";
/// Events of kind `vanished` are read too, so that the next query continues after them.
const NEW_EVENTS: &str = "
SELECT event_id, group_id, event <> 'vanished' FROM base_group_events
WHERE app_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3";
/// Returns the range of ids that was refreshed longest ago: its start, its time, and the start of
/// the next range. A time in the future was written by a wrong clock, so that range is due.
const OLDEST_RANGE: &str = "
SELECT r.after_id, CASE WHEN r.refreshed_at > $2 THEN 0 ELSE r.refreshed_at END AS refreshed_at,
       (SELECT min(n.after_id) FROM detail_range n WHERE n.app_id = r.app_id AND n.after_id > r.after_id)
FROM detail_range r WHERE r.app_id = $1 ORDER BY 2, 1 LIMIT 1";
const LIVE_IDS_AFTER: &str = "
SELECT group_id FROM group_row
WHERE app_id = $1 AND group_id > $2 AND deleted_at IS NULL ORDER BY group_id LIMIT $3";
const LIVE_IDS_BETWEEN: &str = "
SELECT group_id FROM group_row
WHERE app_id = $1 AND group_id > $2 AND group_id <= $4 AND deleted_at IS NULL ORDER BY group_id LIMIT $3";

impl Store {
    /// Returns at most `limit` groups whose details are due: groups of new events, or else groups
    /// whose details are older than `refresh`.
    pub async fn due_details(
        &self,
        app: AppId,
        now: DateTime<Utc>,
        refresh: TimeDelta,
        limit: usize,
    ) -> Result<DueDetails, StoreError> {
        const ACTION: &str = "find groups whose details are due";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let state: Option<(i64,)> = self.fetch_optional(ACTION, LAST_EVENT, &values![app.0]).await?;
        let Some((last_event,)) = state else { return Ok(DueDetails::NotStarted) };
        let after_last_event = values![app.0, last_event, limit.min(MAX_EVENTS)];
        let events: Vec<(i64, String, bool)> = self.fetch_all(ACTION, NEW_EVENTS, &after_last_event).await?;
        if let Some((last_event, ..)) = events.last() {
            let ids: BTreeSet<&str> = events
                .iter()
                .filter(|(.., is_live_after)| *is_live_after)
                .map(|(_, id, _)| id.as_str())
                .collect();
            let groups = bulk::look_up(self, app, &ids.into_iter().collect::<Vec<_>>()).await?;
            let live = groups.into_iter().filter(|(.., deleted)| !deleted).map(|(id, ..)| id);
            return Ok(DueDetails::New { ids: live.collect(), last_event: *last_event });
        }
        let range: Option<(String, i64, Option<String>)> =
            self.fetch_optional(ACTION, OLDEST_RANGE, &values![app.0, now.timestamp_millis()]).await?;
        let Some((after, refreshed_at, end)) = range else { return Ok(DueDetails::NotStarted) };
        let due_at = DateTime::from_timestamp_millis(refreshed_at).unwrap_or_default() + refresh;
        if due_at > now {
            return Ok(DueDetails::Nothing { until: due_at });
        }
        let ids: Vec<(String,)> = match &end {
            Some(end) => {
                self.fetch_all(ACTION, LIVE_IDS_BETWEEN, &values![app.0, &after, limit, end]).await?
            }
            None => self.fetch_all(ACTION, LIVE_IDS_AFTER, &values![app.0, &after, limit]).await?,
        };
        let may_have_more = i64::try_from(ids.len()).unwrap_or(i64::MAX) == limit;
        let ids: Vec<String> = ids.into_iter().map(|(id,)| id).collect();
        // A query that returned `limit` ids may not have reached the end of the range.
        let to = if may_have_more { ids.last().cloned() } else { end };
        Ok(DueDetails::Range { ids, after, to })
    }
}
