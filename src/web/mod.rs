//! The HTTP listeners. They answer only GET and HEAD requests, which change nothing.
//!
//! The work for clients is bounded: the number of connections, the size of a request, and the time for the head of a request,
//! for its answer and for a connection.
//!
//! A listener is bound before the service reports that it is ready ([`Listener::bind`]), and then runs as a supervised task
//! ([`Listener::serve`]).

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

/// Connections at a time. Further ones wait in the backlog of the operating system.
const MAX_CONNECTIONS: usize = 64;
/// Timeout for the head of a request, and for the next request on a keep-alive connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The age at which a connection is closed gracefully.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// Time that a graceful close allows for the current answer. At shutdown it must end before the hard stop, which follows after
/// four seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The size of a request's head, including the cookies that a browser has for `localhost`.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// No request needs a body.
const MAX_BODY_BYTES: usize = 1024;
/// Pause after a failed accept, for example because the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A listener cannot be opened. The configuration or the machine has to be changed.
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

/// The host names that requests may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Accepts only `localhost` and IP literals as `Host`, which defeats DNS rebinding.
    Loopback,
    Any,
}

impl AllowedHosts {
    /// Returns the default for a listener on this address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if address.ip().is_loopback() { Self::Loopback } else { Self::Any }
    }

    fn allow(self, request: &Request) -> bool {
        // Browsers always send a host, and DNS rebinding needs a browser.
        self == Self::Any
            || requested_host(request).is_none_or(|host| host.as_deref().is_ok_and(is_localhost_or_address))
    }
}

/// Returns the host of a request's URL or `Host` header, if there is one. `Err` if the header is malformed.
fn requested_host(request: &Request) -> Option<Result<String, ()>> {
    if let Some(host) = request.uri().host() {
        return Some(Ok(host.to_owned()));
    }
    let header = request.headers().get(HOST)?;
    let authority = header.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    Some(authority.map(|authority| authority.host().to_owned()).ok_or(()))
}

fn is_localhost_or_address(host: &str) -> bool {
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
    /// Opens a listener. `key` is the configuration key of the address, for the error.
    pub async fn bind(key: &'static str, address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { key, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Returns the address, with the port that the system chose if the configuration has port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves routes until `stop`. Answers under way then get two seconds to end.
    pub async fn serve(self, routes: Router, hosts: AllowedHosts, stop: CancellationToken) {
        let routes = with_limits(routes, hosts);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let (connection, slot) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&slots) => accepted,
            };
            while connections.try_join_next().is_some() {}
            connections.spawn(serve_connection(connection, slot, routes.clone(), stop.clone()));
        }
        drop(self);
        connections.join_all().await;
    }

    async fn accept(&self, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return pending().await };
        loop {
            match self.listener.accept().await {
                Ok((connection, _)) => return (connection, slot),
                // The client closed the connection before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted
                            | ErrorKind::ConnectionReset
                            | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => {
                    warn!(address = %self.address, "cannot accept connections, retrying: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers the requests of one connection.
async fn serve_connection(
    connection: TcpStream,
    slot: OwnedSemaphorePermit,
    routes: Router,
    stop: CancellationToken,
) {
    let _slot = slot;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes));
    let mut serving = pin!(serving);
    // Errors of a connection are not logged: its client sees them.
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(MAX_CONNECTION_AGE) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ended = timeout(CLOSE_TIMEOUT, serving).await;
}

/// Adds the limits and headers that apply to all routes.
fn with_limits(routes: Router, hosts: AllowedHosts) -> Router {
    let header = |name: HeaderName, value| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    // The last layer is the outermost.
    routes
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(CatchPanicLayer::custom(|_panic: Box<dyn std::any::Any + Send>| panicked()))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .layer(from_fn_with_state(hosts, check_request))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(X_FRAME_OPTIONS, "DENY"))
        .layer(header(REFERRER_POLICY, "no-referrer"))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
}

/// The answer after a panic, whose message is only in the log.
fn panicked() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the log says why\n").into_response()
}

async fn check_request(
    State(hosts): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    Ok(if !hosts.allow(&request) {
        let why = "this listener accepts only localhost and IP addresses as host names\n";
        (StatusCode::FORBIDDEN, why).into_response()
    } else if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "only GET and HEAD are allowed\n")
            .into_response()
    })
}
