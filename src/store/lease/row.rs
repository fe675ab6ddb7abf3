//! The lease of an app in PostgreSQL: a row with an expiry by the server's clock.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::model::SdkAppId;
use crate::store::engine::{
    Attempted as _, Fence, PostgresStorage, Server, Store, StoreError, TIME_TO_LIVE, query, values,
};

/// [`Row::renew_if_old`] does nothing before this much time has passed since the last renewal.
const MIN_RENEWAL_AGE: Duration = Duration::from_secs(5);
/// A renewal that takes longer fails and is tried again: the network may be gone without an error.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(6);

// The server's clock, in unix milliseconds.
macro_rules! with_server_time {
    ($before:literal, $after:literal) => {
        concat!($before, "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)", $after)
    };
}

const STATE: &str =
    with_server_time!("SELECT holder IS NULL, expires_at - ", " FROM lease WHERE sdk_app_id = $1");
const TAKE: &str = concat!(
    with_server_time!("WITH clock AS (SELECT ", " AS now)"),
    "
INSERT INTO lease AS l (sdk_app_id, fence, holder, host, taken_at, expires_at)
SELECT $1, 1, $2, $3, clock.now, clock.now + $4 FROM clock
ON CONFLICT (sdk_app_id) DO UPDATE SET
    fence = l.fence + 1, holder = excluded.holder, host = excluded.host, taken_at = excluded.taken_at,
    expires_at = excluded.expires_at
WHERE l.expires_at <= excluded.taken_at
RETURNING fence"
);
const RENEW: &str = with_server_time!(
    "UPDATE lease SET expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
const RELEASE: &str = with_server_time!(
    "UPDATE lease SET holder = NULL, expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
pub(super) const HOLDER: &str = with_server_time!(
    "SELECT host, taken_at FROM lease WHERE sdk_app_id = $1 AND holder IS NOT NULL AND expires_at > ",
    ""
);
pub(super) const LEASED: &str =
    with_server_time!("SELECT sdk_app_id FROM lease WHERE holder IS NOT NULL AND expires_at > ", "");

/// A held lease.
#[derive(Debug)]
pub(super) struct Row {
    server: Server,
    pub(super) fence: Fence,
}

impl Row {
    /// Takes the lease of an app. `None` if another process holds it. If the last holder released it, but no request may be
    /// sent yet, waits until one may.
    pub(super) async fn try_take(
        store: &Store,
        server: &Server,
        app: SdkAppId,
        host: &str,
    ) -> Result<Option<Self>, StoreError> {
        loop {
            // Only read while it is held: an attempt to take it in vain would write.
            let state: Option<(bool, i64)> =
                store.fetch_optional("take the lease of an app", STATE, &values![app.get()]).await?;
            match state {
                Some((false, left)) if left > 0 => return Ok(None),
                Some((true, left)) if left > 0 => {
                    tokio::time::sleep(Duration::from_millis(left.cast_unsigned())).await;
                }
                _ => {
                    // Read first: every commit checks that the storage is still this one.
                    let storage = PostgresStorage::of(server).await?;
                    let asked = Instant::now();
                    if let Some(number) = take(store, app, host).await? {
                        let fence = Fence::new(app, number, storage, asked);
                        return Ok(Some(Self { server: server.clone(), fence }));
                    }
                }
            }
        }
    }

    /// Renews the lease unless it was renewed a moment ago.
    pub(super) async fn renew_if_old(&self) -> Result<(), StoreError> {
        if self.fence.since_renewal() < MIN_RENEWAL_AGE {
            return Ok(());
        }
        let asked = Instant::now();
        match self.set_expiry(RENEW, TIME_TO_LIVE).await {
            Ok(()) => {
                self.fence.set_renewed(asked);
                Ok(())
            }
            // No other process can have taken it yet.
            Err(error) if self.still_holds_after(&error) => {
                warn!(%error, "cannot renew the lease; it has not expired yet");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn still_holds_after(&self, error: &StoreError) -> bool {
        let lost = matches!(error, StoreError::LeaseLost { .. });
        !lost && error.is_passing() && self.fence.since_renewal() < TIME_TO_LIVE
    }

    /// Releases the lease. The row stays taken for `pause`, in which nobody may send a request.
    pub(super) async fn release(&self, pause: Duration) {
        if let Err(error) = self.set_expiry(RELEASE, pause).await {
            warn!(%error, "the lease was not released and will expire");
        }
    }

    /// Sets when the lease expires, counted from now, if this process still holds it.
    async fn set_expiry(&self, statement: &'static str, after: Duration) -> Result<(), StoreError> {
        let Fence { app, number, .. } = self.fence;
        let update = async || {
            let mut tx = self.server.begin_for_lease().await?;
            let done =
                query(statement).bind(app.get()).bind(number).bind(millis(after)).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        };
        let updated = tokio::time::timeout(RENEWAL_TIMEOUT, update()).await;
        match updated.unwrap_or(Err(sqlx::Error::PoolTimedOut)).attempted("renew the lease of an app")? {
            0 => Err(StoreError::LeaseLost { app }),
            _ => Ok(()),
        }
    }
}

/// Returns the number of the acquisition, or `None` if another process was faster.
async fn take(store: &Store, app: SdkAppId, host: &str) -> Result<Option<i64>, StoreError> {
    let token = format!("{:016x}", rand::random::<u64>());
    let mut write = store.write("take the lease of an app", None);
    loop {
        let mut tx = write.begin().await?;
        let values = values![app.get(), &token, host, millis(TIME_TO_LIVE)];
        let taken = tx.fetch_optional(TAKE, &values).await;
        if let Some(done) = write.end(tx, taken).await {
            return done.map(|taken: Option<(i64,)>| taken.map(|(number,)| number));
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
