//! Health checks while a listener has more clients than it serves.

use std::net::SocketAddr;
use std::time::Duration;

use harness::listener::{ServedPages, TOO_MANY, localhost, loopback, request, serve, status};
use tim_group_sync::model::ListenAddress;
use tim_group_sync::web::Listener;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::MACHINE;

/// The maximum time of an answer, whatever other clients do.
const MAX_TIME: Duration = Duration::from_secs(1);

/// Requests a path, and asserts the status and the time of the answer.
async fn assert_answers_in_time(served: &ServedPages, path: &str) {
    let sent = Instant::now();
    assert_eq!(served.status("GET", path, "localhost").await, "200 OK", "{path}");
    assert!(sent.elapsed() < MAX_TIME, "{path} {:?}", sent.elapsed());
}

#[tokio::test]
async fn three_hundred_clients_that_connect_at_once_wait_in_the_queue_of_the_listener() {
    let _alone = MACHINE.lock().await;
    // Without `serve`, no connection is accepted.
    let listener = Listener::bind("metrics.listen", loopback()).await.unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("it was bound to TCP") };
    let mut clients = Vec::new();
    for n in 0..TOO_MANY {
        let client = timeout(MAX_TIME, TcpStream::connect(address)).await;
        clients.push(client.unwrap_or_else(|_| panic!("client {n} is not queued")).unwrap());
    }
}

/// Sends the head of a request so slowly that it never ends, and connects again when it is
/// disconnected.
async fn send_slowly(address: SocketAddr) {
    loop {
        let Ok(mut connection) = TcpStream::connect(address).await else { continue };
        while connection.write_all(b"GET /hello HTTP/1.1\r\nX: ").await.is_ok() {
            let mut answer = [0; 64];
            let waiting = connection.read(&mut answer);
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(200), waiting).await {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_within_a_second_while_three_hundred_clients_are_slow() {
    let _alone = MACHINE.lock().await;
    let served = serve(localhost()).await;
    let clients: Vec<_> = (0..TOO_MANY).map(|_| tokio::spawn(send_slowly(served.address))).collect();
    for path in ["/healthz", "/hello", "/healthz", "/hello", "/healthz"] {
        assert_answers_in_time(&served, path).await;
    }
    clients.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_within_a_second_while_three_hundred_requests_hang() {
    let _alone = MACHINE.lock().await;
    let served = serve(localhost()).await;
    let mut clients = Vec::new();
    for _ in 0..TOO_MANY {
        let mut connection = served.connect().await;
        connection.write_all(request("GET", "/hangs", "localhost").as_bytes()).await.unwrap();
        clients.push(connection);
    }
    assert_answers_in_time(&served, "/healthz").await;
    let busy = served.get("/hello").await;
    assert_eq!(status(&busy), "503 Service Unavailable");
    assert!(busy.contains("\r\nretry-after: 1\r\n"), "{busy}");
}
