//! The lease of an app in PostgreSQL: a row that expires by the server's clock.
//!
//! The holder measures the lease by its monotonic clock, from before it sends each renewal. The
//! server measures from when it executes the renewal, which is later. So the holder stops before
//! another process can take the lease.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use crate::model::SdkAppId;
use crate::store::engine::{
    Fence, PostgresStorage, Server, Store, StoreError, WithAction as _, query, values,
};

/// Inserts the server's time, in unix milliseconds, into a statement.
macro_rules! with_server_time {
    ($before:literal, $after:literal) => {
        concat!($before, "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)", $after)
    };
}

const ACTION: &str = "take the lease of an app";

/// Returns whether the lease is released, and in how many milliseconds it expires.
const SELECT_STATE: &str =
    with_server_time!("SELECT holder IS NULL, expires_at - ", " FROM lease WHERE sdk_app_id = $1");
/// Creates the row of an app, without a holder.
const CREATE: &str = "
INSERT INTO lease (sdk_app_id, fence, holder, host, taken_at, expires_at) VALUES ($1, 0, NULL, '', 0, 0)
ON CONFLICT (sdk_app_id) DO NOTHING";
/// Takes a lease that is released or has expired. Returns the fencing token, and the milliseconds
/// until the first request may be sent. After a release, the previous holder has set this wait.
/// After an expiry the wait is the duration of a lease, because the time of the last request is
/// unknown. Skips a row that is locked, because its holder is renewing it, or because the server
/// has not ended the session of a dead holder yet.
const TAKE: &str = concat!(
    with_server_time!("WITH clock AS (SELECT ", " AS now), "),
    "free AS (
    SELECT l.sdk_app_id, CASE WHEN l.holder IS NULL THEN l.expires_at - clock.now ELSE $4 END AS pause
    FROM lease l CROSS JOIN clock
    WHERE l.sdk_app_id = $1 AND (l.holder IS NULL OR l.expires_at <= clock.now) FOR UPDATE OF l SKIP LOCKED
)
UPDATE lease SET fence = fence + 1, holder = $2, host = $3, taken_at = clock.now, expires_at = clock.now + $4
FROM free CROSS JOIN clock WHERE lease.sdk_app_id = free.sdk_app_id
RETURNING fence, free.pause"
);
/// Shortens a lease whose expiry is further away than the duration of a lease, because the server's
/// clock was set back.
const SHORTEN: &str = concat!(
    with_server_time!("WITH clock AS (SELECT ", " AS now) "),
    "
UPDATE lease SET expires_at = clock.now + $2 FROM clock WHERE sdk_app_id = (
    SELECT l.sdk_app_id FROM lease l
    WHERE l.sdk_app_id = $1 AND l.holder IS NOT NULL AND l.expires_at > clock.now + $2 FOR UPDATE SKIP LOCKED)"
);
const RENEW: &str = with_server_time!(
    "UPDATE lease SET expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
const RELEASE: &str = with_server_time!(
    "UPDATE lease SET holder = NULL, expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
/// Returns the holder of a lease. Ignores a lease whose expiry is further away than the duration of
/// a lease: the server's clock was set back, and a running holder would have renewed the lease
/// since.
pub(super) const SELECT_HOLDER: &str = concat!(
    with_server_time!("WITH clock AS (SELECT ", " AS now) "),
    "SELECT host, taken_at FROM lease CROSS JOIN clock
WHERE sdk_app_id = $1 AND holder IS NOT NULL AND expires_at > clock.now AND expires_at <= clock.now + $2"
);
/// Returns the apps whose leases are held. Ignores the same leases as [`SELECT_HOLDER`].
pub(super) const SELECT_LEASED: &str = concat!(
    with_server_time!("WITH clock AS (SELECT ", " AS now) "),
    "SELECT sdk_app_id FROM lease CROSS JOIN clock
WHERE holder IS NOT NULL AND expires_at > clock.now AND expires_at <= clock.now + $1"
);

/// A held lease: the row of an app.
#[derive(Debug)]
pub(super) struct RowLease {
    server: Server,
    pub(super) fence: Fence,
    /// The earliest time of the first request.
    first_request_at: Instant,
}

impl RowLease {
    /// Takes the lease of an app. Returns `None` if another process holds it.
    pub(super) async fn try_take(
        store: &Store,
        server: &Server,
        app: SdkAppId,
        host: &str,
    ) -> Result<Option<Self>, StoreError> {
        let time_to_live = millis(server.limits().lease);
        // The row is read first, because an attempt to take the lease writes even if it fails.
        let state: Option<(bool, i64)> =
            store.fetch_optional(ACTION, SELECT_STATE, &values![app.get()]).await?;
        match state {
            // The app was never leased.
            None => {
                execute(store, CREATE, app, None).await?;
            }
            // The lease is held, and expires later than any renewal sets.
            Some((false, remaining)) if remaining > time_to_live => {
                if execute(store, SHORTEN, app, Some(time_to_live)).await? > 0 {
                    warn!(%app, "the database server's clock was set back; the lease expires in its usual time");
                }
                return Ok(None);
            }
            // The lease is held.
            Some((false, remaining)) if remaining > 0 => return Ok(None),
            // The lease is released or has expired.
            Some(_) => {}
        }
        // The storage is read before the lease is taken, because every commit checks that the
        // storage is the same as when the lease was taken.
        let storage = PostgresStorage::read_from(server).await?;
        let sent_at = Instant::now();
        let taken = take(store, app, host, time_to_live).await?;
        let Some((fence_number, pause_millis)) = taken else { return Ok(None) };
        let first_request_at =
            Instant::now() + Duration::from_millis(u64::try_from(pause_millis).unwrap_or(0));
        Ok(Some(Self {
            server: server.clone(),
            fence: Fence::new(app, fence_number, storage, sent_at),
            first_request_at,
        }))
    }

    /// Returns how long the first request must wait.
    pub(super) fn pause(&self) -> Duration {
        self.first_request_at.saturating_duration_since(Instant::now())
    }

    /// Renews the lease until it is lost or has expired. Returns the reason.
    pub(super) async fn renew_until_lost(&self) -> StoreError {
        let limits = self.server.limits();
        let renewing = async {
            let mut pause = limits.renewal_interval();
            loop {
                sleep(pause).await;
                pause = match self.renew_if_old().await {
                    Ok(()) => limits.renewal_interval(),
                    // `LeaseLost` counts as transient, because a later crawl may succeed.
                    Err(error) if error.is_transient() && !matches!(error, StoreError::LeaseLost { .. }) => {
                        warn!(%error, "cannot renew the lease; it has not expired yet");
                        limits.renewal_retry_pause()
                    }
                    Err(error) => break error,
                };
            }
        };
        tokio::select! {
            // `wait_for_expiry` must be polled first.
            biased;
            () = self.wait_for_expiry() => StoreError::LeaseExpired { app: self.fence.app },
            lost = renewing => lost,
        }
    }

    /// Completes when the lease has expired by this process's clock. Each poll reads the clock, so
    /// that the first poll after a suspension of the process detects the expiry. Therefore callers
    /// must poll this future before the work.
    async fn wait_for_expiry(&self) {
        loop {
            let deadline = self.deadline();
            let mut timer = pin!(sleep_until(deadline));
            poll_fn(|context| {
                if self.deadline() <= Instant::now() {
                    return Poll::Ready(());
                }
                timer.as_mut().poll(context)
            })
            .await;
            // A renewal may have moved the deadline.
            if self.deadline() <= Instant::now() {
                return;
            }
        }
    }

    /// Returns when the lease expires by this process's clock.
    fn deadline(&self) -> Instant {
        self.fence.last_renewal() + self.server.limits().lease
    }

    /// Renews the lease, unless the last renewal is recent.
    pub(super) async fn renew_if_old(&self) -> Result<(), StoreError> {
        let limits = self.server.limits();
        let sent_at = Instant::now();
        if sent_at < self.fence.last_renewal() + limits.min_renewal_age() {
            return Ok(());
        }
        self.set_expiry(RENEW, limits.lease).await?;
        self.fence.record_renewal(sent_at);
        Ok(())
    }

    /// Releases the lease, unless it has expired. The next holder must not send a request for
    /// `pause`.
    pub(super) async fn release(&self, pause: Duration) {
        if self.deadline() <= Instant::now() {
            return;
        }
        if let Err(error) = self.set_expiry(RELEASE, pause).await {
            warn!(%error, "the lease was not released and will expire");
        }
    }

    /// Sets the expiry of the lease to the server's current time plus `after`. Fails if this
    /// process no longer holds the lease.
    async fn set_expiry(&self, statement: &'static str, after: Duration) -> Result<(), StoreError> {
        let Fence { app, number, .. } = self.fence;
        let update = async || {
            let mut tx = self.server.begin_for_lease().await?;
            let query = query(statement).bind(app.get()).bind(number).bind(millis(after));
            let rows = tx.execute(query, 0).await?;
            tx.commit().await?;
            Ok(rows)
        };
        let updated = tokio::time::timeout(self.server.limits().renewal_limit(), update()).await;
        match updated.unwrap_or(Err(sqlx::Error::PoolTimedOut)).with_action("renew the lease of an app")? {
            0 => Err(StoreError::LeaseLost { app }),
            _ => Ok(()),
        }
    }
}

/// Runs [`CREATE`] without, or [`SHORTEN`] with `time_to_live` (in milliseconds), in a separate
/// transaction. Returns the number of changed rows.
async fn execute(
    store: &Store,
    statement: &'static str,
    app: SdkAppId,
    time_to_live: Option<i64>,
) -> Result<u64, StoreError> {
    let mut write = store.write(ACTION, None);
    loop {
        let mut tx = write.begin().await?;
        let changed = match time_to_live {
            None => tx.execute(statement, &values![app.get()]).await,
            Some(time_to_live) => tx.execute(statement, &values![app.get(), time_to_live]).await,
        };
        if let Some(done) = write.end(tx, changed).await {
            return done;
        }
    }
}

/// Takes the lease. Returns the number of the fencing token and the milliseconds until the first
/// request, or `None` if another process took the lease first.
async fn take(
    store: &Store,
    app: SdkAppId,
    host: &str,
    time_to_live: i64,
) -> Result<Option<(i64, i64)>, StoreError> {
    let holder_id = format!("{:016x}", rand::random::<u64>());
    let mut write = store.write(ACTION, None);
    loop {
        let mut tx = write.begin().await?;
        let taken = tx.fetch_optional(TAKE, &values![app.get(), &holder_id, host, time_to_live]).await;
        if let Some(done) = write.end(tx, taken).await {
            return done;
        }
    }
}

/// Returns a duration in milliseconds, as the statements bind it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
