//! [`Network`]: a proxy between stores and a PostgreSQL server. Tests can cut its connections.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    Open,
    /// Nothing passes in either direction, and neither side is notified, as after a firewall has
    /// forgotten the connection.
    Silent,
    Closed,
}

/// The connections that a cut affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The open connection that was opened last. New connections pass.
    Newest,
    /// Every second open connection. New connections pass.
    EverySecond,
    /// All open connections, and new ones until [`Network::restore`].
    All,
}

/// A cut of the connection that sends the next statement with this text in a writing transaction.
#[derive(Clone, Copy, Debug)]
struct CutAt {
    text: &'static str,
    /// Whether the statement reaches the server, which then executes it.
    arrives: bool,
    state: ConnectionState,
}

/// A proxy on its own Unix socket.
pub struct Network {
    folder: TempDir,
    shared: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    /// The folder of the server's socket.
    server: PathBuf,
    /// The state of new connections.
    new: ConnectionState,
    /// The scripted cut that was not made yet.
    next_cut: Option<CutAt>,
    connections: Vec<watch::Sender<ConnectionState>>,
}

impl Network {
    /// Starts a proxy for the server with a socket in this folder.
    pub fn in_front_of(server: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.6432")).unwrap();
        let state = State {
            server: server.to_owned(),
            new: ConnectionState::Open,
            next_cut: None,
            connections: Vec::new(),
        };
        let shared = Arc::new(Mutex::new(state));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { folder, shared, accepting }
    }

    /// Returns the folder of the proxy's socket, for port 6432.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts these connections into another state.
    pub fn cut(&self, which: Cut, state: ConnectionState) {
        let mut shared = lock(&self.shared);
        shared.connections.retain(|connection| connection.receiver_count() > 0);
        let open =
            shared.connections.iter().filter(|connection| *connection.borrow() == ConnectionState::Open);
        let open: Vec<_> = open.collect();
        let chosen: Vec<_> = match which {
            Cut::Newest => open.into_iter().rev().take(1).collect(),
            Cut::EverySecond => open.into_iter().step_by(2).collect(),
            Cut::All => open,
        };
        for connection in chosen {
            connection.send_replace(state);
        }
        if which == Cut::All {
            shared.new = state;
        }
    }

    /// Cuts, once, the connection that sends this text in a writing transaction. If `arrives`, the
    /// cut follows the server's answer. Otherwise the text does not reach the server.
    pub fn cut_at(&self, text: &'static str, arrives: bool, state: ConnectionState) {
        let before = lock(&self.shared).next_cut.replace(CutAt { text, arrives, state });
        assert!(before.is_none(), "the previous cut was not made: {before:?}");
    }

    /// Lets new connections pass. Connections that were cut stay cut.
    pub fn restore(&self) {
        lock(&self.shared).new = ConnectionState::Open;
    }

    /// Forwards new connections to another server, and closes the existing ones.
    pub fn forward_to(&self, server: &Path) {
        server.clone_into(&mut lock(&self.shared).server);
        self.close(|_| true);
    }

    /// Closes the silent connections, so that the server notices their end.
    pub fn close_silent(&self) {
        self.close(|state| state == ConnectionState::Silent);
    }

    fn close(&self, which: impl Fn(ConnectionState) -> bool) {
        for connection in &lock(&self.shared).connections {
            let state = *connection.borrow();
            if which(state) {
                connection.send_replace(ConnectionState::Closed);
            }
        }
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        let shared = lock(&self.shared);
        let is_open = |connection: &&watch::Sender<ConnectionState>| {
            connection.receiver_count() > 0 && *connection.borrow() == ConnectionState::Open
        };
        shared.connections.iter().filter(is_open).count()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.close(|_| true);
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, shared: Arc<Mutex<State>>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (state, receiver) = watch::channel(lock(&shared).new);
        lock(&shared).connections.push(state.clone());
        let forwarder =
            Forwarder { client, upstream: None, state, shared: Arc::clone(&shared), only_reads: false };
        tokio::spawn(forwarder.run(receiver));
    }
}

struct Forwarder {
    client: UnixStream,
    upstream: Option<UnixStream>,
    state: watch::Sender<ConnectionState>,
    shared: Arc<Mutex<State>>,
    /// Whether the client's current transaction is read-only.
    only_reads: bool,
}

impl Forwarder {
    /// Forwards data until one side closes the connection or it is cut.
    async fn run(mut self, mut state: watch::Receiver<ConnectionState>) -> std::io::Result<()> {
        let (mut up, mut down) = ([0; 8192], [0; 8192]);
        loop {
            let now = *state.borrow_and_update();
            match now {
                ConnectionState::Closed => return Ok(()),
                ConnectionState::Silent => {
                    if state.changed().await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                ConnectionState::Open => {}
            }
            if self.upstream.is_none() {
                let server = lock(&self.shared).server.join(".s.PGSQL.5432");
                self.upstream = Some(UnixStream::connect(&server).await?);
            }
            let Some(server) = &mut self.upstream else { return Ok(()) };
            tokio::select! {
                biased;
                Ok(()) = state.changed() => {}
                sent = self.client.read(&mut up) => match sent? {
                    0 => return Ok(()),
                    sent => self.forward_to_server(&up[..sent]).await?,
                },
                received = server.read(&mut down) => match received? {
                    0 => return Ok(()),
                    received => self.client.write_all(&down[..received]).await?,
                },
            }
        }
    }

    async fn forward_to_server(&mut self, sent: &[u8]) -> std::io::Result<()> {
        let contains = |text: &str| sent.windows(text.len()).any(|window| window == text.as_bytes());
        if contains("BEGIN") {
            self.only_reads = contains("READ ONLY");
        }
        let only_reads = self.only_reads;
        let cut = lock(&self.shared).next_cut.take_if(|cut| !only_reads && contains(cut.text));
        let Some(server) = &mut self.upstream else { return Ok(()) };
        match cut {
            Some(CutAt { arrives: false, .. }) => {}
            None | Some(CutAt { arrives: true, .. }) => server.write_all(sent).await?,
        }
        if let Some(cut) = cut {
            if cut.arrives {
                // An answer proves that the statement was executed.
                server.readable().await?;
            }
            self.state.send_replace(cut.state);
        }
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}
