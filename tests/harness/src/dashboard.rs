//! The dashboard's listener on a test database, and an HTTP client that sends exactly the given
//! bytes.

use std::net::SocketAddr;

use serde_json::Value;
use tim_group_sync::clock::Clock;
use tim_group_sync::daemon::{Apps, Database};
use tim_group_sync::model::ListenAddress;
use tim_group_sync::store::Store;
use tim_group_sync::web::dashboard;
use tim_group_sync::web::{AllowedHosts, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running dashboard. Dropping it stops the listener.
pub struct Dashboard {
    pub address: SocketAddr,
    pub database: watch::Sender<Database>,
    _stop: DropGuard,
}

/// A complete HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Dashboard {
    /// Serves the dashboard of a process that has no apps of its own.
    pub async fn for_store(store: &Store) -> Self {
        Self::for_daemon(store, watch::Sender::new(Apps::new()).subscribe(), &Clock::system()).await
    }

    /// Serves the dashboard of a daemon, whose clock it uses.
    pub async fn for_daemon(store: &Store, apps: watch::Receiver<Apps>, clock: &Clock) -> Self {
        Self::serve("127.0.0.1:0".parse().unwrap(), store, apps, clock).await
    }

    /// Serves a dashboard at the address of an earlier one.
    pub async fn at_address(address: SocketAddr, store: &Store) -> Self {
        let apps = watch::Sender::new(Apps::new()).subscribe();
        Self::serve(address, store, apps, &Clock::system()).await
    }

    async fn serve(address: SocketAddr, store: &Store, apps: watch::Receiver<Apps>, clock: &Clock) -> Self {
        let database = watch::Sender::new(Database::Open(store.clone()));
        let listener = Listener::bind("dashboard.listen", address).await.unwrap();
        let ListenAddress::Tcp(address) = *listener.address() else { panic!("it was bound to TCP") };
        let (hosts, stop) = (AllowedHosts::of(listener.address(), &[]), CancellationToken::new());
        let routes = dashboard::routes(database.subscribe(), apps, clock.clone());
        tokio::spawn(listener.serve(routes, hosts, stop.clone()));
        Self { address, database, _stop: stop.drop_guard() }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Sends these bytes and reads the answer until the connection is closed.
    pub async fn send_raw(&self, request: &[u8]) -> Answer {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        self.send_raw(request.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    /// Returns the state of the first app in the list of apps.
    pub async fn first_app(&self) -> Value {
        self.json("/api/apps").await["apps"][0].clone()
    }

    /// Returns the JSON of a successful answer.
    pub async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.has_header("content-type: application/json"), "{}", answer.head);
        answer.json()
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Returns the error message in the answer.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    /// Returns the value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn has_header(&self, line: &str) -> bool {
        self.head.lines().any(|header| header == line)
    }
}
