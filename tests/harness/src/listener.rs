//! [`ServedPages`]: an HTTP listener on loopback with some pages, and raw requests to it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tim_group_sync::model::ListenAddress;
use tim_group_sync::web::{AllowedHosts, Listener};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// More connections than a listener keeps open.
pub const TOO_MANY: usize = 300;

/// A listener with [`pages`], and its task.
pub struct ServedPages {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

/// Pages that answer, panic and hang.
pub fn pages() -> Router {
    Router::new()
        .route("/hello", get(async || "hello\n"))
        .route("/healthz", get(async || "alive\n"))
        .route("/panics", get(async || -> &'static str { panic!("intended panic") }))
        .route("/hangs", get(async || -> Infallible { std::future::pending().await }))
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// The hosts that a listener on loopback accepts without configured names.
pub fn localhost() -> AllowedHosts {
    AllowedHosts::of(&loopback().into(), &[])
}

/// Starts a listener on a port that the system chooses.
pub async fn serve(hosts: AllowedHosts) -> ServedPages {
    let listener = Listener::bind("metrics.listen", loopback()).await.unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("it was bound to TCP") };
    let stop = CancellationToken::new();
    let task = tokio::spawn(listener.serve(pages(), hosts, stop.clone()));
    ServedPages { address, stop, task }
}

impl ServedPages {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request and returns the complete answer. The server closes the connection.
    pub async fn ask(&self, request: &str) -> String {
        let mut connection = self.connect().await;
        connection.write_all(request.as_bytes()).await.unwrap();
        rest_of(&mut connection).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> String {
        self.ask(&request("GET", path, "localhost")).await
    }

    pub async fn status(&self, method: &str, path: &str, host: &str) -> String {
        status(&self.ask(&request(method, path, host)).await).to_owned()
    }
}

/// Returns a request that asks the server to close the connection.
pub fn request(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Returns the status of an answer.
pub fn status(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ")
}

/// Returns the body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// Reads until the server closes the connection.
pub async fn rest_of(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}
