//! Limits the number of open connections of a listener.
//!
//! At the limit, the connection that has waited longest for a complete request is closed. So slow
//! clients displace only each other. A client that sends its request at once is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Maximum number of open connections. It exceeds the limit on concurrent requests, so that some
/// connections are idle and can be closed.
const MAX_CONNECTIONS: usize = 128;
/// The time that a client gets to send its request before its connection may be closed. It also
/// limits new connections to 128 per 100 ms. So 300 clients that reconnect at once delay another
/// client by a quarter of a second.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// The open connections of a listener. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    open: HashMap<u64, State>,
}

#[derive(Debug)]
struct State {
    /// When the connection began to wait for a request. `None` while a request is answered.
    waiting_since: Option<Instant>,
    close: CancellationToken,
}

impl Connections {
    /// Waits until another connection may be accepted. At the limit, closes a connection.
    pub(super) async fn wait_for_room(&self) {
        loop {
            // The lock must be released before the pause.
            let room = self.lock().make_room();
            let Err(wait) = room else { return };
            sleep(wait).await;
        }
    }

    /// Adds a new connection, which waits for a request.
    pub(super) fn add(&self) -> Connection {
        let mut table = self.lock();
        table.next_id += 1;
        let (id, close) = (table.next_id, CancellationToken::new());
        table.open.insert(id, State { waiting_since: Some(Instant::now()), close: close.clone() });
        Connection { id, close, connections: self.clone() }
    }

    /// Closes the connection that has waited longest for a request.
    pub(super) fn close_one(&self) {
        let mut table = self.lock();
        if let Some((id, _)) = table.next_to_close() {
            table.close(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Closes a connection if the limit is reached. `Err` contains the time until one may be
    /// closed.
    fn make_room(&mut self) -> Result<(), Duration> {
        if self.open.len() < MAX_CONNECTIONS {
            return Ok(());
        }
        let Some((id, waiting_since)) = self.next_to_close() else { return Ok(()) };
        let waited = waiting_since.map_or(MIN_WAIT, |since| since.elapsed());
        if waited < MIN_WAIT {
            return Err(MIN_WAIT.saturating_sub(waited));
        }
        self.close(id);
        Ok(())
    }

    /// Returns the connection that has waited longest for a request. If every connection is
    /// answering a request, returns the oldest one. Only health checks can cause this, because other
    /// requests are limited to fewer than [`MAX_CONNECTIONS`].
    fn next_to_close(&self) -> Option<(u64, Option<Instant>)> {
        let connections = self.open.iter().map(|(id, state)| (*id, state.waiting_since));
        connections.min_by_key(|(id, since)| (since.is_none(), *since, *id))
    }

    fn close(&mut self, id: u64) {
        if let Some(state) = self.open.remove(&id) {
            state.close.cancel();
        }
    }
}

/// An open connection. Dropping it removes it from the table.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    close: CancellationToken,
    connections: Connections,
}

impl Connection {
    /// Waits until the connection must be closed to make room.
    pub(super) async fn close_requested(&self) {
        self.close.cancelled().await;
    }

    /// Marks the connection as answering a request until the returned value is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.set_waiting(None);
        Answering(Arc::clone(self))
    }

    fn set_waiting(&self, since: Option<Instant>) {
        if let Some(state) = self.connections.lock().open.get_mut(&self.id) {
            state.waiting_since = since;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

/// Marks a connection as answering a request. Dropping it marks the connection as waiting.
pub(super) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set_waiting(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn is_closed(connection: &Connection) -> bool {
        connection.close.is_cancelled()
    }

    /// Opens as many connections as are allowed, one per millisecond.
    async fn fill(connections: &Connections) -> Vec<Arc<Connection>> {
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            open.push(Arc::new(connections.add()));
            advance(Duration::from_millis(1)).await;
        }
        open
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_the_connection_that_has_waited_longest_is_closed() {
        let connections = Connections::default();
        let open = fill(&connections).await;
        // Connection 0 is being answered. The answer of connection 1 has just ended.
        let answering = open[0].answering();
        drop(open[1].answering());
        connections.wait_for_room().await;
        assert!(is_closed(&open[2]) && !is_closed(&open[0]) && !is_closed(&open[1]));
        drop(answering);
        let mut added = Vec::new();
        for _ in 3..MAX_CONNECTIONS {
            added.push(Arc::new(connections.add()).answering());
            connections.wait_for_room().await;
        }
        assert!(open[2..].iter().all(|open| is_closed(open)));
        assert!(!is_closed(&open[0]) && !is_closed(&open[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn if_every_connection_is_being_answered_the_oldest_is_closed() {
        let connections = Connections::default();
        let open = fill(&connections).await;
        let _answering: Vec<_> = open.iter().map(Connection::answering).collect();
        connections.wait_for_room().await;
        assert_eq!(open.iter().filter(|open| is_closed(open)).count(), 1);
        assert!(is_closed(&open[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_a_tenth_of_a_second_to_send_its_request() {
        let connections = Connections::default();
        let open: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connections.add()).collect();
        let full_at = Instant::now();
        connections.wait_for_room().await;
        assert_eq!(full_at.elapsed(), MIN_WAIT);
        assert_eq!(open.iter().filter(|open| is_closed(open)).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ended_makes_room() {
        let connections = Connections::default();
        let mut open = fill(&connections).await;
        open.pop();
        connections.wait_for_room().await;
        assert!(!open.iter().any(|open| is_closed(open)));
    }
}
