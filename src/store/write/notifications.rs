//! Records the last notification about each condition of each app, so that several processes send
//! a notification only once.
//!
//! Each change is a compare-and-swap: it takes effect only if the row has not changed since the
//! caller read it. If several processes try to claim the same notification, one of them succeeds.

use crate::store::engine::{Store, StoreError, Tx, values};

/// The last notification about a condition of an app. Times are unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct NotificationRow {
    pub sdk_app_id: i64,
    /// The name of the condition, for example `late`, see `notify::message::Event`.
    pub event: String,
    /// The state of the condition that the notification reports: `begins`, `lasts` or `ends`.
    pub state: String,
    /// When the condition was first noticed.
    pub begun_at: i64,
    /// When the sending process claimed the notification, or last renewed the claim.
    pub claimed_at: i64,
    /// The random token of that process.
    pub claimed_by: String,
    /// When the notification was delivered. `None` if it was not delivered yet.
    pub delivered_at: Option<i64>,
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotificationChange {
    /// Claims a notification. `previous` is the row as the caller has read it, or `None` if there
    /// was none.
    Claim { previous: Option<NotificationRow>, new: NotificationRow },
    /// Records that the notification of this row was delivered. Takes effect even if the same
    /// process has renewed its claim meanwhile.
    Deliver { row: NotificationRow, at: i64 },
}

const SELECT_ALL: &str = "
SELECT sdk_app_id, event, state, begun_at, claimed_at, claimed_by, delivered_at
FROM notification ORDER BY sdk_app_id, event";
const INSERT: &str = "
INSERT INTO notification (sdk_app_id, event, state, begun_at, claimed_at, claimed_by, delivered_at)
VALUES ($1, $2, $3, $4, $5, $6, NULL)
ON CONFLICT (sdk_app_id, event) DO NOTHING";
const REPLACE: &str = "
UPDATE notification SET state = $3, begun_at = $4, claimed_at = $5, claimed_by = $6, delivered_at = NULL
WHERE sdk_app_id = $1 AND event = $2 AND state = $7 AND begun_at = $8 AND claimed_at = $9 AND claimed_by = $10
  AND coalesce(delivered_at, -1) = $11";
const DELIVER: &str = "
UPDATE notification SET delivered_at = $5
WHERE sdk_app_id = $1 AND event = $2 AND state = $3 AND claimed_by = $4 AND delivered_at IS NULL";

impl Store {
    /// Returns the last notification about each condition.
    pub async fn notifications(&self) -> Result<Vec<NotificationRow>, StoreError> {
        self.fetch_all("read which notifications were sent", SELECT_ALL, &[]).await
    }

    /// Applies changes in one transaction. Returns for each change whether it took effect.
    pub async fn record_notifications(
        &self,
        changes: &[NotificationChange],
    ) -> Result<Vec<bool>, StoreError> {
        let mut write = self.write("record which notifications are sent", None);
        loop {
            let mut tx = write.begin().await?;
            let took_effect = apply(&mut tx, changes).await;
            if let Some(done) = write.end(tx, took_effect).await {
                return done;
            }
        }
    }
}

async fn apply(tx: &mut Tx, changes: &[NotificationChange]) -> Result<Vec<bool>, StoreError> {
    let mut took_effect = Vec::new();
    for change in changes {
        let rows = match change {
            NotificationChange::Claim { previous: None, new } => {
                let values = values![
                    new.sdk_app_id,
                    &new.event,
                    &new.state,
                    new.begun_at,
                    new.claimed_at,
                    &new.claimed_by
                ];
                tx.execute(INSERT, &values).await?
            }
            NotificationChange::Claim { previous: Some(previous), new } => {
                let values = values![
                    new.sdk_app_id,
                    &new.event,
                    &new.state,
                    new.begun_at,
                    new.claimed_at,
                    &new.claimed_by,
                    &previous.state,
                    previous.begun_at,
                    previous.claimed_at,
                    &previous.claimed_by,
                    previous.delivered_at.unwrap_or(-1)
                ];
                tx.execute(REPLACE, &values).await?
            }
            NotificationChange::Deliver { row, at } => {
                let values = values![row.sdk_app_id, &row.event, &row.state, &row.claimed_by, *at];
                tx.execute(DELIVER, &values).await?
            }
        };
        took_effect.push(rows > 0);
    }
    Ok(took_effect)
}
