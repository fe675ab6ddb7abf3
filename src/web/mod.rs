//! The HTTP listeners. They answer only GET and HEAD requests, which change nothing.
//!
//! These limits bound the work for clients:
//! - the number of connections (`connections`);
//! - the number of concurrent requests;
//! - the size of a request;
//! - the time for the head of a request, for an answer, and for a connection.
//!
//! `/healthz` and `/readyz` are answered under any load. They are exempt from the limit on
//! requests, and slow clients cannot keep a new connection from being accepted.
//!
//! A listener is bound before the service reports that it is ready ([`Listener::bind`]), and then
//! runs as a supervised task ([`Listener::serve`]).

mod connections;
pub mod dashboard;
pub mod health;
mod hosts;
mod socket;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::warn;

use self::connections::{Connection, Connections};
pub use self::hosts::AllowedHosts;
use self::socket::{Socket, Stream};
use crate::model::ListenAddress;

/// Maximum number of concurrent requests, without those of [`ALWAYS_ANSWERED`]. Further requests
/// get status 503 at once.
const MAX_REQUESTS: usize = 32;
/// Paths that are exempt from the limit on requests. Their answers are cheap, and supervisors
/// restart the service if they get none.
const ALWAYS_ANSWERED: [&str; 2] = ["/healthz", "/readyz"];
/// Timeout for the head of a request, and for the next request on a keep-alive connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The age at which a connection is closed gracefully.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// Time that a graceful close allows for the current answer. At shutdown it must end before the
/// hard stop, four seconds after the soft stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a request's head in bytes. The head includes all cookies that a browser has for
/// `localhost`.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Maximum size of a request's body in bytes. No request needs a body.
const MAX_BODY_BYTES: usize = 1024;
/// Pause after a failed accept, for example because the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener cannot be opened. The configuration or the machine must be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {error}; {}", remedy(.key, .address, .error))]
pub struct ListenError {
    key: &'static str,
    address: ListenAddress,
    /// Not the `source` of this error, because the message contains it.
    error: io::Error,
}

/// Returns what to change so that the listener can be opened.
fn remedy(key: &str, address: &ListenAddress, error: &io::Error) -> &'static str {
    let is_unix = matches!(address, ListenAddress::Unix(_));
    // An option cannot disable its listener.
    let is_option = key.starts_with("--");
    match error.kind() {
        ErrorKind::AddrInUse if is_option => {
            "another program listens there, perhaps another instance of this one: stop it, or set \
             another port"
        }
        ErrorKind::PermissionDenied if is_option => "set a port of 1024 or above",
        ErrorKind::AddrInUse if is_unix => {
            "another program listens there, or the file is not a socket: stop the program, or \
             write another path"
        }
        ErrorKind::NotFound | ErrorKind::PermissionDenied if is_unix => {
            "its folder must exist, and the user of this program must be able to write to it"
        }
        ErrorKind::AddrInUse => {
            "another program listens there, perhaps another instance of this one: stop it, or set \
             another port, or \"\" for no listener"
        }
        ErrorKind::PermissionDenied => "set a port of 1024 or above, or \"\" for no listener",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address: set 127.0.0.1, another address of this machine, or \
             0.0.0.0 for all of them"
        }
        _ if is_option => "set another address",
        _ => "set another address, or \"\" for no listener",
    }
}

/// An open HTTP listener.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: ListenAddress,
}

impl Listener {
    /// Opens a listener. `key` is the configuration key of the address, for the error.
    pub async fn bind(key: &'static str, address: impl Into<ListenAddress>) -> Result<Self, ListenError> {
        let address = address.into();
        let failed = |error| ListenError { key, address: address.clone(), error };
        let socket = Socket::bind(&address).await.map_err(failed)?;
        let address = socket.address().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Returns the address, with the port that the system chose if the configuration has port 0.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Serves routes until `stop` is cancelled. Answers under way then have two seconds to end.
    pub async fn serve(self, routes: Router, hosts: AllowedHosts, stop: CancellationToken) {
        let routes = with_limits(routes, hosts);
        let open = Connections::default();
        let mut serving = JoinSet::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&open) => accepted,
            };
            while serving.try_join_next().is_some() {}
            let connection = Arc::new(open.add());
            serving.spawn(serve_connection(stream, connection, routes.clone(), stop.clone()));
        }
        drop(self);
        serving.join_all().await;
    }

    async fn accept(&self, open: &Connections) -> Stream {
        let mut logged = false;
        open.wait_for_room().await;
        loop {
            match self.socket.accept().await {
                Ok(stream) => return stream,
                // The client closed the connection before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted
                            | ErrorKind::ConnectionReset
                            | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => {
                    if !logged {
                        warn!(address = %self.address, "cannot accept connections, retrying: {error}");
                        logged = true;
                    }
                    // Frees a file descriptor.
                    open.close_one();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(
    stream: Stream,
    connection: Arc<Connection>,
    routes: Router,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(routes);
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let answering = connection.answering();
        let answer = routes.call(request);
        async move {
            let _answering = answering;
            answer.await
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    let mut serving = pin!(serving);
    // Errors of a connection are not logged, because its client sees them. `biased` polls the
    // connection first, so a request that has arrived is read before the connection can be closed.
    tokio::select! {
        biased;
        _ended = serving.as_mut() => return,
        () = connection.close_requested() => return,
        () = stop.cancelled() => {}
        () = sleep(MAX_CONNECTION_AGE) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ended = timeout(CLOSE_TIMEOUT, serving).await;
}

/// The checks before a request is answered: its host, and the number of concurrent requests.
#[derive(Clone)]
struct Admission {
    hosts: AllowedHosts,
    requests: Arc<Semaphore>,
}

/// Adds the limits and headers that apply to all routes.
fn with_limits(routes: Router, hosts: AllowedHosts) -> Router {
    let header = |name: HeaderName, value| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let admission = Admission { hosts, requests: Arc::new(Semaphore::new(MAX_REQUESTS)) };
    // The last layer is the outermost.
    routes
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(CatchPanicLayer::custom(|_panic: Box<dyn std::any::Any + Send>| panic_response()))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .layer(from_fn_with_state(admission, check_request))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(X_FRAME_OPTIONS, "DENY"))
        .layer(header(REFERRER_POLICY, "no-referrer"))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
}

/// Returns the response after a panic. Only the log contains the message of the panic.
fn panic_response() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "this page failed; the log says why\n").into_response()
}

async fn check_request(
    State(Admission { hosts, requests }): State<Admission>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    if !hosts.allow(&request) {
        let why = "this listener accepts only localhost, IP addresses and the names in allowed_hosts\n";
        return Ok((StatusCode::FORBIDDEN, why).into_response());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let why = "only GET and HEAD are allowed\n";
        return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], why).into_response());
    }
    if ALWAYS_ANSWERED.contains(&request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let Ok(_permit) = requests.try_acquire() else {
        let why = "too many requests are being answered; try again\n";
        return Ok((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response());
    };
    Ok(next.run(request).await)
}
