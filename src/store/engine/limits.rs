//! How long this program waits for a PostgreSQL server, and the server for this program.
//!
//! A connection can fall silent without an error: a firewall forgets it, a virtual address moves, a host loses power. Then
//! only a limit ends the wait. Each side has its own: the program gives up an answer, and the server ends the transaction of a
//! program that it hears no more from, so that its locks block no other process.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

/// The limits of one store. All processes that share a database must use the same ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a lease outlives its last renewal.
    pub lease: Duration,
    /// A connection with TLS and authentication. It takes milliseconds to a second, even on a busy server.
    pub connect: Duration,
    /// An answer that needs no work of the server, such as that of BEGIN and ROLLBACK.
    pub round_trip: Duration,
    /// A statement or a COMMIT, plus [`Limits::per_row`] for each row that a statement is about.
    pub statement: Duration,
    /// Measured: 10 µs for a row on a fast disk. The rest is for a slow and busy server.
    pub per_row: Duration,
    /// A free connection of the pool. Many apps may queue with a bulk write each.
    pub queue: Duration,
    /// On the server: the lock of another transaction.
    pub lock: Duration,
    /// On the server: the next statement of an open transaction. The program sends it within milliseconds.
    pub idle_in_transaction: Duration,
    /// On the server: silence of a connection until TCP asks whether the other side exists.
    pub keepalive_idle: Duration,
}

impl Default for Limits {
    /// The values of the product. The sum of `idle_in_transaction` and one statement is less than a lease lasts: when a lease
    /// has expired, the transactions of its dead holder have ended or end soon.
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
    /// Returns the same limits in proportion, for tests that do not wait for the real ones.
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

    /// The limit of a statement about this many rows.
    pub(super) fn for_rows(self, rows: u64) -> Duration {
        self.statement + self.per_row.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))
    }

    /// The limit of a query that reads this many rows of a table. Reading a row takes a twentieth of writing it, at most.
    pub(super) fn for_scan(self, rows: u64) -> Duration {
        self.for_rows(rows / 20)
    }

    /// How often a lease is renewed.
    pub(in crate::store) fn renewal_interval(self) -> Duration {
        self.lease * 4 / 15
    }

    /// A renewal before this much time has passed since the last one does nothing.
    pub(in crate::store) fn min_renewal_age(self) -> Duration {
        self.lease / 6
    }

    /// A renewal that takes longer fails and is tried again. It leaves time for two more attempts before the lease expires.
    pub(in crate::store) fn renewal(self) -> Duration {
        self.lease / 5
    }

    /// The pause after a renewal that failed.
    pub(in crate::store) fn renewal_retry(self) -> Duration {
        self.lease / 30
    }

    /// How long a session of the server outlives the program that opened it, at most, when it waits in a transaction.
    pub(super) fn abandoned_session(self) -> Duration {
        self.idle_in_transaction + self.round_trip
    }

    /// Returns the statements that set the server's limits in a transaction, each with a semicolon before it. They hold for
    /// this transaction alone, so that they work behind a pooler. What only Linux can do is left out for other servers.
    pub(super) fn settings(self, server_runs_linux: bool) -> String {
        let idle_seconds = self.keepalive_idle.as_secs().max(1);
        let mut settings = vec![
            ("idle_in_transaction_session_timeout", millis(self.idle_in_transaction)),
            ("lock_timeout", millis(self.lock)),
            // Ends a statement that the program has given up. Thrice the limit, so that it is never the first to expire for
            // tens of thousands of rows.
            ("statement_timeout", millis(self.statement * 3)),
            ("tcp_keepalives_idle", idle_seconds.into()),
            ("tcp_keepalives_interval", (idle_seconds / 2).max(1).into()),
            ("tcp_keepalives_count", 3),
        ];
        if server_runs_linux {
            settings.extend([
                ("tcp_user_timeout", millis(self.keepalive_idle) * 3 / 2),
                // Notices during a statement that the connection was closed.
                ("client_connection_check_interval", millis(self.keepalive_idle / 2)),
            ]);
        }
        settings.into_iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a String cannot fail.
            let _ = write!(text, "; SET LOCAL {name} = {value}");
            text
        })
    }
}

/// Returns whole milliseconds for a setting of the server, at least 1, because 0 means no limit there.
pub(super) fn millis(duration: Duration) -> u128 {
    duration.as_millis().max(1)
}

/// Waits for an answer of the server for at most this long.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(no_answer(limit)))
}

pub(super) fn no_answer(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {}", humantime::format_duration(limit));
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}

pub(super) fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_holders_transaction_ends_before_its_lease_does() {
        for limits in [Limits::default(), Limits::default().divided_by(15)] {
            assert!(limits.idle_in_transaction * 2 < limits.lease, "{limits:?}");
            assert!(limits.renewal_interval() + 2 * limits.renewal() < limits.lease, "{limits:?}");
            assert!(limits.lock < limits.statement, "{limits:?}: the server's sentence says more");
        }
    }

    #[test]
    fn a_statement_may_take_longer_the_more_rows_it_is_about() {
        let limits = Limits::default();
        assert_eq!(limits.for_rows(0), Duration::from_secs(20));
        assert_eq!(limits.for_rows(50_000), Duration::from_secs(30));
        assert_eq!(limits.for_rows(10_000_000), Duration::from_secs(2020));
    }

    #[test]
    fn a_limit_is_never_rounded_to_none() {
        let settings = Limits::default().divided_by(1_000_000).settings(true);
        assert!(!settings.contains("= 0;") && !settings.ends_with("= 0"), "{settings}");
    }
}
