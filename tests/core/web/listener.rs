//! What a client may do to a listener, and what a listener does to its clients. Where time is bounded it is set, not
//! waited for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tim_group_sync::web::{AllowedHosts, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// More connections than a listener serves at once.
const TOO_MANY: usize = 65;
const MAX_HEAD_BYTES: usize = 32 * 1024;

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn pages() -> Router {
    Router::new()
        .route("/hello", get(async || "hello\n"))
        .route("/panics", get(async || -> &'static str { panic!("a test wants this panic") }))
        .route("/hangs", get(async || -> Infallible { std::future::pending().await }))
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn serve(hosts: AllowedHosts) -> Served {
    let listener = Listener::bind("metrics.listen", loopback()).await.unwrap();
    let (address, stop) = (listener.address(), CancellationToken::new());
    let task = tokio::spawn(listener.serve(pages(), hosts, stop.clone()));
    Served { address, stop, task }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The whole answer to a request that says no more on this connection.
    async fn ask(&self, request: &str) -> String {
        let mut connection = self.connect().await;
        connection.write_all(request.as_bytes()).await.unwrap();
        rest_of(&mut connection).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&request("GET", path, "localhost")).await
    }

    async fn status(&self, method: &str, path: &str, host: &str) -> String {
        status(&self.ask(&request(method, path, host)).await).to_owned()
    }
}

fn request(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn status(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

async fn rest_of(connection: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn a_page_is_read_with_get_and_head_and_nothing_else() {
    let served = serve(AllowedHosts::Loopback).await;
    let answer = served.get("/hello").await;
    assert_eq!((status(&answer), body(&answer)), ("200 OK", "hello\n"));
    let answer = served.ask(&request("HEAD", "/hello", "localhost")).await;
    assert_eq!((status(&answer), body(&answer)), ("200 OK", ""));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "MAGIC"] {
        for path in ["/hello", "/other"] {
            let answer = served.ask(&request(method, path, "localhost")).await;
            assert_eq!(status(&answer), "405 Method Not Allowed", "{method}");
            assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
        }
    }
    assert_eq!(served.status("GET", "/other", "localhost").await, "404 Not Found");
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let served = serve(AllowedHosts::Loopback).await;
    for path in ["/hello", "/other", "/panics"] {
        let answer = served.get(path).await;
        for header in [
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
        ] {
            assert!(answer.contains(&format!("\r\n{header}\r\n")), "{path}: no {header} in {answer}");
        }
    }
}

#[tokio::test]
async fn a_page_of_somebody_elses_cannot_have_its_name_lead_here() {
    let served = serve(AllowedHosts::Loopback).await;
    for near in ["localhost", "LOCALHOST:9878", "tim.localhost", "127.0.0.1:9878", "[::1]:9878", "192.0.2.7"]
    {
        assert_eq!(served.status("GET", "/hello", near).await, "200 OK", "{near}");
    }
    for far in
        ["evil.example", "evil.example:9878", "localhost.evil.example", "127.0.0.1.evil.example", "a b"]
    {
        assert_eq!(served.status("GET", "/hello", far).await, "403 Forbidden", "{far}");
    }
    let of_another = "GET http://evil.example/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&served.ask(of_another).await), "403 Forbidden");
    let old = served.ask("GET /hello HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "a health check without a host: {old}");

    let anywhere = serve(AllowedHosts::Any).await;
    assert_eq!(anywhere.status("GET", "/hello", "metrics.example").await, "200 OK");
}

#[tokio::test]
async fn a_listener_on_loopback_is_near_and_any_other_is_anywhere() {
    for (address, hosts) in [
        ("127.0.0.1:1", AllowedHosts::Loopback),
        ("[::1]:1", AllowedHosts::Loopback),
        ("0.0.0.0:1", AllowedHosts::Any),
        ("192.0.2.7:1", AllowedHosts::Any),
    ] {
        assert_eq!(AllowedHosts::of(address.parse().unwrap()), hosts, "{address}");
    }
}

#[tokio::test]
async fn a_page_that_panics_fails_alone_and_says_nothing_of_its_inside() {
    let served = serve(AllowedHosts::Loopback).await;
    let answer = served.get("/panics").await;
    assert_eq!(status(&answer), "500 Internal Server Error");
    assert_eq!(body(&answer), "this page failed; the log says why\n");
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_hangs_is_given_up() {
    let served = serve(AllowedHosts::Loopback).await;
    let asked = Instant::now();
    assert_eq!(served.status("GET", "/hangs", "localhost").await, "503 Service Unavailable");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_slow_to_ask_is_cut_off() {
    let served = serve(AllowedHosts::Loopback).await;
    for said in ["", "GET /hello HTTP/1.1\r\nHo", "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut connection = served.connect().await;
        connection.write_all(said.as_bytes()).await.unwrap();
        let asked = Instant::now();
        rest_of(&mut connection).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(15), "{said:?} {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn a_request_has_a_small_head_and_no_body() {
    let served = serve(AllowedHosts::Loopback).await;
    // No byte more than is read before the answer: an unread one would break the connection.
    let long = format!("GET /hello HTTP/1.1\r\nHost: localhost\r\nCookie: {}", "x".repeat(MAX_HEAD_BYTES));
    assert_eq!(status(&served.ask(&long[..MAX_HEAD_BYTES]).await), "431 Request Header Fields Too Large");
    let head =
        "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(status(&served.ask(head).await), "413 Payload Too Large");
}

#[tokio::test(start_paused = true)]
async fn more_clients_than_there_is_room_for_wait_until_the_idle_ones_are_cut_off() {
    let served = serve(AllowedHosts::Loopback).await;
    let mut idle = Vec::new();
    for _ in 0..TOO_MANY {
        idle.push(served.connect().await);
    }
    let asked = Instant::now();
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
    assert!(asked.elapsed() >= Duration::from_secs(9), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_closes_idle_connections_at_once_and_gives_answers_two_seconds() {
    let served = serve(AllowedHosts::Loopback).await;
    let mut idle = served.connect().await;
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.unwrap();
    let mut hanging = served.connect().await;
    hanging.write_all(request("GET", "/hangs", "localhost").as_bytes()).await.unwrap();
    // A connection that was made later has been answered: so the hanging one is being served.
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
    let stopped = Instant::now();
    served.stop.cancel();
    assert!(rest_of(&mut idle).await.unwrap().contains("hello"));
    assert_eq!(rest_of(&mut hanging).await.unwrap(), "");
    served.task.await.unwrap();
    assert!(stopped.elapsed() <= Duration::from_secs(3), "{:?}", stopped.elapsed());
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_says_which_why_and_what_to_do() {
    let taken = std::net::TcpListener::bind(loopback()).unwrap();
    let address = taken.local_addr().unwrap();
    let why = Listener::bind("metrics.listen", address).await.unwrap_err().to_string();
    assert!(
        why.starts_with(&format!("cannot listen on {address} (metrics.listen): Address already in use")),
        "{why}"
    );
    assert!(why.ends_with("stop it, write another port, or \"\" for none"), "{why}");

    // An address for documents, which nobody has.
    let foreign = "192.0.2.7:9878".parse().unwrap();
    let why = Listener::bind("dashboard.listen", foreign).await.unwrap_err().to_string();
    assert!(why.starts_with("cannot listen on 192.0.2.7:9878 (dashboard.listen): Cannot assign"), "{why}");
    assert!(why.contains("this machine has no such address"), "{why}");
}
