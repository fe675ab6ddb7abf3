//! The change feed: the events of one app after a cursor, oldest first.
//!
//! Within an app, events become visible in the order of their ids. Crawls, `approve` and `undelete`
//! of an app run one after the other, and each makes its events visible before the next one starts.
//! So a reader that continues after the last id it has seen gets every event exactly once.

use super::lists::GroupEvent;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, values};

/// The events after a cursor.
#[derive(Debug)]
pub enum EventsAfter {
    /// The events in the order of their ids. Empty if there are no later events.
    Events(Vec<GroupEvent>),
    /// Retention has removed events after the cursor.
    Removed {
        /// The cursor that continues with the oldest event that remains.
        continue_after: i64,
    },
}

const EVENTS_AFTER: &str = "
SELECT * FROM base_group_events WHERE app_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3";
const LAST_REMOVED_EVENT: &str = "SELECT last_removed_event FROM app WHERE app_id = $1";
const OLDEST_EVENT_AFTER: &str = "
SELECT min(event_id) FROM group_event WHERE app_id = $1 AND event_id > $2";

impl Store {
    /// Returns the events of an app after a cursor, at most `limit`. The cursor 0 starts with the
    /// oldest event.
    pub async fn events_after(&self, app: AppId, after: i64, limit: i64) -> Result<EventsAfter, StoreError> {
        const ACTION: &str = "read the events after a cursor";
        let events: Vec<GroupEvent> =
            self.fetch_all(ACTION, EVENTS_AFTER, &values![app.0, after, limit]).await?;
        // Read after the events, so that a removal between the two queries is noticed.
        let last_removed: Option<(i64,)> =
            self.fetch_optional(ACTION, LAST_REMOVED_EVENT, &values![app.0]).await?;
        match last_removed {
            // The cursor 0 misses nothing, because it starts with the oldest event that remains.
            Some((last_removed,)) if after > 0 && after < last_removed => {
                let (oldest,): (Option<i64>,) =
                    self.fetch_one(ACTION, OLDEST_EVENT_AFTER, &values![app.0, after]).await?;
                Ok(EventsAfter::Removed { continue_after: oldest.map_or(last_removed, |oldest| oldest - 1) })
            }
            _ => Ok(EventsAfter::Events(events)),
        }
    }
}
