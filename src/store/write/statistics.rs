//! Stores the API's own statistics of an app.

use chrono::{DateTime, Utc};

use crate::model::AppStatistics;
use crate::store::app::AppId;
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// Records when statistics of the app were last fetched.
const RECORD_FETCH: &str = "UPDATE app SET statistics_at = $2 WHERE app_id = $1";
/// Keeps a figure that the API no longer reports. Does not write a row whose figures are the same.
const STORE_DAY: &str = "
INSERT INTO app_statistic (app_id, day, groups, groups_created, groups_dissolved, groups_active, callbacks_sent,
                           callbacks_answered, fetched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (app_id, day) DO UPDATE SET
    groups = coalesce(excluded.groups, app_statistic.groups),
    groups_created = coalesce(excluded.groups_created, app_statistic.groups_created),
    groups_dissolved = coalesce(excluded.groups_dissolved, app_statistic.groups_dissolved),
    groups_active = coalesce(excluded.groups_active, app_statistic.groups_active),
    callbacks_sent = coalesce(excluded.callbacks_sent, app_statistic.callbacks_sent),
    callbacks_answered = coalesce(excluded.callbacks_answered, app_statistic.callbacks_answered),
    fetched_at = excluded.fetched_at
WHERE coalesce(excluded.groups, app_statistic.groups) IS DISTINCT FROM app_statistic.groups
   OR coalesce(excluded.groups_created, app_statistic.groups_created) IS DISTINCT FROM app_statistic.groups_created
   OR coalesce(excluded.groups_dissolved, app_statistic.groups_dissolved) IS DISTINCT FROM app_statistic.groups_dissolved
   OR coalesce(excluded.groups_active, app_statistic.groups_active) IS DISTINCT FROM app_statistic.groups_active
   OR coalesce(excluded.callbacks_sent, app_statistic.callbacks_sent) IS DISTINCT FROM app_statistic.callbacks_sent
   OR coalesce(excluded.callbacks_answered, app_statistic.callbacks_answered) IS DISTINCT FROM app_statistic.callbacks_answered";

impl Store {
    /// Stores statistics of an app, which were fetched at `fetched_at`. Returns the number of new
    /// and changed rows.
    pub async fn write_statistics(
        &self,
        lease: &Lease,
        app: AppId,
        statistics: &[AppStatistics],
        fetched_at: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let mut write = self.write("store the app's statistics", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let written = write_days(&mut tx, app, statistics, fetched_at.timestamp_millis()).await;
            if let Some(done) = write.end(tx, written).await {
                return done;
            }
        }
    }
}

/// Writes one row for each day, and when the statistics were fetched, in unix milliseconds.
async fn write_days(
    tx: &mut Tx,
    app: AppId,
    statistics: &[AppStatistics],
    fetched_at: i64,
) -> Result<u64, StoreError> {
    tx.execute(RECORD_FETCH, &values![app.0, fetched_at]).await?;
    let mut changed = 0;
    for figures in statistics {
        let day = figures.day.to_string();
        let values = values![
            app.0,
            &day,
            figures.groups,
            figures.groups_created,
            figures.groups_dissolved,
            figures.groups_active,
            figures.callbacks_sent,
            figures.callbacks_answered,
            fetched_at,
        ];
        changed += tx.execute(STORE_DAY, &values).await?;
    }
    Ok(changed)
}
