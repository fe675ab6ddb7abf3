//! Limits of how long this program and a PostgreSQL server wait for each other.
//!
//! A connection can fail without an error: a firewall drops its state, a virtual address moves, or
//! a host loses power. Then only a limit ends the wait. The program stops waiting for an answer.
//! The server ends the transaction of a failed client, which releases its locks.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

/// The limits of one store. All processes that share a database must use the same limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a lease is valid after its last renewal.
    pub lease: Duration,
    /// The limit for opening a connection with TLS and authentication, which takes milliseconds,
    /// even on a busy server.
    pub connect: Duration,
    /// The limit for a statement that needs no work of the server, such as BEGIN and ROLLBACK.
    pub round_trip: Duration,
    /// The limit for a statement or a COMMIT, plus [`Limits::per_row`] for each affected row.
    pub statement: Duration,
    /// Added to `statement` for each row. A row takes 10 µs on a fast disk; the rest is a margin
    /// for a slow and busy server.
    pub per_row: Duration,
    /// How long a transaction waits for a free connection of the pool. Many apps may queue with a
    /// bulk write each.
    pub queue: Duration,
    /// How long the server waits for a lock that another transaction holds.
    pub lock: Duration,
    /// How long the server waits for the next statement of an open transaction. The program sends
    /// its next statement within milliseconds.
    pub idle_in_transaction: Duration,
    /// How long a connection is idle before the server sends TCP keepalive probes.
    pub keepalive_idle: Duration,
}

impl Default for Limits {
    /// Returns the limits in production. `idle_in_transaction` is less than half of `lease`, so
    /// that the server ends the idle transaction of a dead holder before the holder's lease
    /// expires.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            round_trip: Duration::from_secs(5),
            statement: Duration::from_secs(20),
            per_row: Duration::from_micros(200),
            queue: Duration::from_secs(30),
            lock: Duration::from_secs(10),
            idle_in_transaction: Duration::from_secs(10),
            keepalive_idle: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Returns all limits divided by `divisor`, so that tests run faster.
    #[must_use]
    pub fn divided_by(self, divisor: u32) -> Self {
        Self {
            lease: self.lease / divisor,
            connect: self.connect / divisor,
            round_trip: self.round_trip / divisor,
            statement: self.statement / divisor,
            per_row: self.per_row / divisor,
            queue: self.queue / divisor,
            lock: self.lock / divisor,
            idle_in_transaction: self.idle_in_transaction / divisor,
            keepalive_idle: self.keepalive_idle / divisor,
        }
    }

    /// Returns the limit of a statement that affects this many rows.
    pub(super) fn for_rows(self, rows: u64) -> Duration {
        self.statement + self.per_row.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))
    }

    /// Returns the limit of a query that reads this many rows of a table. Reading a row takes at
    /// most a twentieth of the time of writing it.
    pub(super) fn for_scan(self, rows: u64) -> Duration {
        self.for_rows(rows / 20)
    }

    /// Returns the interval at which a lease is renewed: 8 s in production.
    pub(in crate::store) fn renewal_interval(self) -> Duration {
        self.lease * 4 / 15
    }

    /// Returns the age of the last renewal below which another renewal does nothing: 5 s in
    /// production.
    pub(in crate::store) fn min_renewal_age(self) -> Duration {
        self.lease / 6
    }

    /// Returns the limit of one renewal: 6 s in production. After a first failure, time for two
    /// more attempts remains before the lease expires.
    pub(in crate::store) fn renewal_limit(self) -> Duration {
        self.lease / 5
    }

    /// Returns the pause after a failed renewal: 1 s in production.
    pub(in crate::store) fn renewal_retry_pause(self) -> Duration {
        self.lease / 30
    }

    /// Returns the longest time that the server keeps the session of a dead client whose
    /// transaction is idle.
    pub(super) fn abandoned_session_limit(self) -> Duration {
        self.idle_in_transaction + self.round_trip
    }

    /// Returns the statements that set the server's limits in a transaction, each preceded by a
    /// semicolon. The limits apply only to that transaction, so they work behind a pooler. Limits
    /// that only Linux supports are omitted on other servers.
    pub(super) fn server_settings(self, server_runs_linux: bool) -> String {
        let idle_seconds = self.keepalive_idle.as_secs().max(1);
        let mut settings = vec![
            ("idle_in_transaction_session_timeout", millis(self.idle_in_transaction)),
            ("lock_timeout", millis(self.lock)),
            // Ends a statement whose answer the program no longer waits for. It is three times the
            // program's own limit, which therefore expires first for up to 200,000 rows.
            ("statement_timeout", millis(self.statement * 3)),
            ("tcp_keepalives_idle", idle_seconds.into()),
            ("tcp_keepalives_interval", (idle_seconds / 2).max(1).into()),
            ("tcp_keepalives_count", 3),
        ];
        if server_runs_linux {
            settings.extend([
                ("tcp_user_timeout", millis(self.keepalive_idle) * 3 / 2),
                // Detects a closed connection while a statement runs.
                ("client_connection_check_interval", millis(self.keepalive_idle / 2)),
            ]);
        }
        settings.into_iter().fold(String::new(), |mut sql, (name, value)| {
            // Writing to a String cannot fail.
            let _ = write!(sql, "; SET LOCAL {name} = {value}");
            sql
        })
    }
}

/// Returns milliseconds for a server setting. At least 1, because 0 means no limit.
pub(super) fn millis(duration: Duration) -> u128 {
    duration.as_millis().max(1)
}

/// Waits for an answer of the server, for at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(no_answer_error(limit)))
}

pub(super) fn no_answer_error(limit: Duration) -> sqlx::Error {
    let message = format!("no answer within {}", humantime::format_duration(limit));
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}

pub(super) fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_holders_transaction_ends_before_the_lease_expires() {
        for limits in [Limits::default(), Limits::default().divided_by(15)] {
            assert!(limits.idle_in_transaction * 2 < limits.lease, "{limits:?}");
            // A failed renewal and two more attempts, with a pause before each of them.
            let last_attempt_ends =
                limits.renewal_interval() + 3 * limits.renewal_limit() + 2 * limits.renewal_retry_pause();
            assert!(last_attempt_ends < limits.lease, "{limits:?}");
            assert!(limits.lock < limits.statement, "{limits:?}: the server's error is more specific");
        }
    }

    #[test]
    fn the_limit_of_a_statement_grows_with_the_number_of_its_rows() {
        let limits = Limits::default();
        assert_eq!(limits.for_rows(0), Duration::from_secs(20));
        assert_eq!(limits.for_rows(50_000), Duration::from_secs(30));
        assert_eq!(limits.for_rows(10_000_000), Duration::from_secs(2020));
    }

    #[test]
    fn a_limit_is_never_rounded_to_none() {
        let settings = Limits::default().divided_by(1_000_000).server_settings(true);
        assert!(!settings.contains("= 0;") && !settings.ends_with("= 0"), "{settings}");
    }
}
