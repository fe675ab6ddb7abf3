//! Serves pages over HTTP, to read and never to change anything. Whatever clients do, the work for them is bounded:
//! so many connections, so much time for a request's head, for its answer and for a connection, next to no body.
//!
//! A listener is bound before the service says that it is ready, and served for as long as it runs: [`Listener::bind`],
//! then [`Listener::serve`] as a supervised task.

pub mod dashboard;
pub mod health;

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::warn;

/// More wait in the system's queue until one of these has ended.
const MAX_CONNECTIONS: usize = 64;
/// For the head of a request, and for the next one on a connection that is kept open.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// For the head of an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A connection is closed at this age, once the answer in hand is sent …
const LONGEST_CONNECTION: Duration = Duration::from_secs(300);
/// … which may take so long, at the end of the program too: less than the four seconds until all is interrupted.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// For the head of a request; browsers with all their cookies of localhost send some.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// No request here has a body.
const MAX_BODY_BYTES: usize = 1024;
/// Pause when the system gives no connection, as when all file descriptors are taken.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A listener could not be opened. Someone has to change something.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}; {}", remedy(.source))]
pub struct ListenError {
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there, perhaps another instance of this one: stop it, write another port, or \
             \"\" for none"
        }
        ErrorKind::PermissionDenied => "write a port from 1024 on, or \"\" for none",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address: write 127.0.0.1, an address that it has, or 0.0.0.0 for all of them"
        }
        _ => "write another address, or \"\" for none",
    }
}

/// By which names the pages may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// By `localhost` and by addresses. A page of somebody else's that a browser shows can have its own name lead to
    /// this machine and read what is here; it cannot have one of these.
    Near,
    Any,
}

impl Hosts {
    /// What suits a listener on this address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if address.ip().is_loopback() { Self::Near } else { Self::Any }
    }

    fn allow(self, request: &Request) -> bool {
        // A request without a host comes from no browser.
        self == Self::Any || asked_host(request).is_none_or(|host| host.as_deref().is_ok_and(is_near))
    }
}

/// The host that a request is for; `Err` if it makes no sense.
fn asked_host(request: &Request) -> Option<Result<String, ()>> {
    if let Some(host) = request.uri().host() {
        return Some(Ok(host.to_owned()));
    }
    let header = request.headers().get(HOST)?;
    let authority = header.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    Some(authority.map(|authority| authority.host().to_owned()).ok_or(()))
}

fn is_near(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// An open listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Opens a listener on the address that the configuration has under `key`.
    pub async fn bind(key: &'static str, address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { key, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; with a port, if the configuration left that to the system.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves pages until `stop`, and then what is in hand for a little longer.
    pub async fn serve(self, pages: Router, hosts: Hosts, stop: CancellationToken) {
        let pages = guarded(pages, hosts);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let (connection, slot) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&slots) => accepted,
            };
            while connections.try_join_next().is_some() {}
            connections.spawn(converse(connection, slot, pages.clone(), stop.clone()));
        }
        drop(self);
        connections.join_all().await;
    }

    async fn accept(&self, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return pending().await };
        loop {
            match self.listener.accept().await {
                Ok((connection, _)) => return (connection, slot),
                // The client has gone again.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted
                            | ErrorKind::ConnectionReset
                            | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => {
                    warn!(address = %self.address, "no connection can be taken, trying again: {error}");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

/// Answers the requests of one connection.
async fn converse(connection: TcpStream, slot: OwnedSemaphorePermit, pages: Router, stop: CancellationToken) {
    let _slot = slot;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(pages));
    let mut serving = pin!(serving);
    // What goes wrong on a connection is its client's to notice.
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(LONGEST_CONNECTION) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ended = timeout(LAST_ANSWER, serving).await;
}

/// The pages with everything around them that holds for all.
fn guarded(pages: Router, hosts: Hosts) -> Router {
    let header = |name: HeaderName, value| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    // The last layer is the outermost.
    pages
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(CatchPanicLayer::custom(|_panic: Box<dyn std::any::Any + Send>| failed()))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN))
        .layer(from_fn_with_state(hosts, admit))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(X_FRAME_OPTIONS, "DENY"))
        .layer(header(REFERRER_POLICY, "no-referrer"))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
}

/// What a client is told of a failure: the log has the rest.
fn failed() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the log says why\n").into_response()
}

async fn admit(State(hosts): State<Hosts>, request: Request, next: Next) -> Result<Response, Infallible> {
    Ok(if !hosts.allow(&request) {
        let why = "this address answers to localhost and to IP addresses, not to other names\n";
        (StatusCode::FORBIDDEN, why).into_response()
    } else if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "only to be read\n").into_response()
    })
}
