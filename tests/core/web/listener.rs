//! Limits and security headers of the HTTP listeners. Most tests that depend on time pause tokio's
//! clock, so that they do not wait.

use std::net::SocketAddr;
use std::time::Duration;

use harness::listener::{TOO_MANY, body, localhost, loopback, pages, request, rest_of, serve, status};
use tim_group_sync::model::ListenAddress;
use tim_group_sync::web::{AllowedHosts, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const MAX_HEAD_BYTES: usize = 32 * 1024;

#[tokio::test]
async fn only_get_and_head_are_allowed() {
    let served = serve(localhost()).await;
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
async fn every_answer_has_the_security_headers() {
    let served = serve(localhost()).await;
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
async fn a_host_header_with_a_foreign_name_is_refused_against_dns_rebinding() {
    let served = serve(localhost()).await;
    for allowed in
        ["localhost", "LOCALHOST:9878", "tim.localhost", "127.0.0.1:9878", "[::1]:9878", "192.0.2.7"]
    {
        assert_eq!(served.status("GET", "/hello", allowed).await, "200 OK", "{allowed}");
    }
    for refused in
        ["evil.example", "evil.example:9878", "localhost.evil.example", "127.0.0.1.evil.example", "a b"]
    {
        assert_eq!(served.status("GET", "/hello", refused).await, "403 Forbidden", "{refused}");
    }
    let absolute_url =
        "GET http://evil.example/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&served.ask(absolute_url).await), "403 Forbidden");
    let without_host = served.ask("GET /hello HTTP/1.0\r\n\r\n").await;
    assert!(without_host.starts_with("HTTP/1.0 200 OK"), "a health check without a host: {without_host}");

    let anywhere = serve(AllowedHosts::Any).await;
    assert_eq!(anywhere.status("GET", "/hello", "metrics.example").await, "200 OK");
}

#[tokio::test]
async fn configured_names_are_accepted_besides_localhost_and_addresses() {
    let names = ["metrics.example.com".to_owned()];
    let served = serve(AllowedHosts::of(&"0.0.0.0:1".parse::<SocketAddr>().unwrap().into(), &names)).await;
    for allowed in ["metrics.example.com", "Metrics.Example.com.:9878", "localhost", "192.0.2.7:9878"] {
        assert_eq!(served.status("GET", "/hello", allowed).await, "200 OK", "{allowed}");
    }
    for refused in ["example.com", "evil.example", "metrics.example.com.evil.example"] {
        assert_eq!(served.status("GET", "/hello", refused).await, "403 Forbidden", "{refused}");
    }
}

#[tokio::test]
async fn without_names_a_listener_that_is_not_on_loopback_accepts_any_host() {
    let names = ["im.example.com".to_owned()];
    for (address, without_names, with_names) in [
        ("127.0.0.1:1", false, false),
        ("[::1]:1", false, false),
        ("0.0.0.0:1", true, false),
        ("192.0.2.7:1", true, false),
    ] {
        let address = address.parse::<SocketAddr>().unwrap().into();
        assert_eq!(AllowedHosts::of(&address, &[]) == AllowedHosts::Any, without_names, "{address}");
        assert_eq!(AllowedHosts::of(&address, &names) == AllowedHosts::Any, with_names, "{address}");
    }
    let socket = ListenAddress::Unix("/run/tim.sock".into());
    assert_eq!(AllowedHosts::of(&socket, &[]), AllowedHosts::Any);
}

#[tokio::test]
async fn a_panic_fails_only_its_request_and_reveals_no_details() {
    let served = serve(localhost()).await;
    let answer = served.get("/panics").await;
    assert_eq!(status(&answer), "500 Internal Server Error");
    assert_eq!(body(&answer), "this page failed; the log says why\n");
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_hangs_is_aborted() {
    let served = serve(localhost()).await;
    let started = Instant::now();
    assert_eq!(served.status("GET", "/hangs", "localhost").await, "503 Service Unavailable");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_its_request_too_slowly_is_disconnected() {
    let served = serve(localhost()).await;
    for sent in ["", "GET /hello HTTP/1.1\r\nHo", "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut connection = served.connect().await;
        connection.write_all(sent.as_bytes()).await.unwrap();
        let started = Instant::now();
        rest_of(&mut connection).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(6), "{sent:?} {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_request_has_a_small_head_and_no_body() {
    let served = serve(localhost()).await;
    // The head has exactly as many bytes as the listener reads. Unread bytes would reset the
    // connection.
    let long = format!("GET /hello HTTP/1.1\r\nHost: localhost\r\nCookie: {}", "x".repeat(MAX_HEAD_BYTES));
    assert_eq!(status(&served.ask(&long[..MAX_HEAD_BYTES]).await), "431 Request Header Fields Too Large");
    let head =
        "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(status(&served.ask(head).await), "413 Payload Too Large");
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_an_idle_client_is_disconnected_and_a_new_one_is_served() {
    let served = serve(localhost()).await;
    let mut oldest = served.connect().await;
    let mut idle = Vec::new();
    for _ in 0..TOO_MANY {
        idle.push(served.connect().await);
    }
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
    assert_eq!(rest_of(&mut oldest).await.unwrap(), "", "the connection that has waited longest is closed");
}

#[tokio::test]
async fn a_unix_socket_is_accessible_to_its_owner_and_group_and_removed_at_the_stop() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let address = ListenAddress::Unix(path.clone());
    // A killed process does not remove its socket.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind("metrics.listen", address.clone()).await.unwrap();
    assert_eq!(listener.address().to_string(), format!("unix:{}", path.display()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let stop = CancellationToken::new();
    let hosts = AllowedHosts::of(&address, &[]);
    let task = tokio::spawn(listener.serve(pages(), hosts, stop.clone()));
    let mut connection = UnixStream::connect(&path).await.unwrap();
    let request = request("GET", "/hello", "im.example.com");
    connection.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(body(&rest_of(&mut connection).await.unwrap()), "hello\n");

    let why = Listener::bind("metrics.listen", address.clone()).await.unwrap_err().to_string();
    assert!(why.contains("another program listens there"), "{why}");
    assert!(UnixStream::connect(&path).await.is_ok(), "the first listener still accepts connections");
    stop.cancel();
    task.await.unwrap();
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    Listener::bind("metrics.listen", address).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let nowhere = ListenAddress::Unix(folder.path().join("no/metrics.sock"));
    let why = Listener::bind("metrics.listen", nowhere).await.unwrap_err().to_string();
    assert!(why.contains("its folder must exist"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_closes_idle_connections_at_once_and_allows_two_seconds_for_answers() {
    let served = serve(localhost()).await;
    let mut idle = served.connect().await;
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.unwrap();
    let mut hanging = served.connect().await;
    hanging.write_all(request("GET", "/hangs", "localhost").as_bytes()).await.unwrap();
    // Connections are accepted in order, so the hanging one is being served once a later one is
    // answered.
    assert_eq!(served.status("GET", "/hello", "localhost").await, "200 OK");
    let stopped = Instant::now();
    served.stop.cancel();
    assert!(rest_of(&mut idle).await.unwrap().contains("hello"));
    assert_eq!(rest_of(&mut hanging).await.unwrap(), "");
    served.task.await.unwrap();
    assert!(stopped.elapsed() <= Duration::from_secs(3), "{:?}", stopped.elapsed());
    assert!(TcpStream::connect(served.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_reports_the_setting_the_reason_and_the_remedy() {
    let taken = std::net::TcpListener::bind(loopback()).unwrap();
    let address = taken.local_addr().unwrap();
    let why = Listener::bind("metrics.listen", address).await.unwrap_err().to_string();
    assert!(
        why.starts_with(&format!("cannot listen on {address} (metrics.listen): Address already in use")),
        "{why}"
    );
    assert!(why.ends_with("or set another port, or \"\" for no listener"), "{why}");

    // An address from a block that is reserved for documentation, which no machine has.
    let foreign = "192.0.2.7:9878".parse::<SocketAddr>().unwrap();
    let why = Listener::bind("dashboard.listen", foreign).await.unwrap_err().to_string();
    assert!(why.starts_with("cannot listen on 192.0.2.7:9878 (dashboard.listen): Cannot assign"), "{why}");
    assert!(why.contains("this machine has no such address"), "{why}");
}
