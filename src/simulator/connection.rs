//! HTTP connections that can be reset in the middle of a response.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The pause after a failed `accept`, for example because all file descriptors are in use.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The number of bytes that a connection sends before it is reset. `usize::MAX` means no limit.
#[derive(Clone)]
pub(super) struct SendLimit(Arc<AtomicUsize>);

impl SendLimit {
    /// Resets the connection after `bytes` more bytes.
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::SeqCst);
    }
}

/// Accepts connections until `stop`. Every request has the [`SendLimit`] of its connection as an
/// extension.
///
/// Used instead of `axum::serve`, which cannot send an answer without a `Date` header.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve_connection(stream, router.clone(), stop.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_PAUSE).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // If this fails, answers are only slower.
    let _ = stream.set_nodelay(true);
    let limit = SendLimit(Arc::new(AtomicUsize::new(usize::MAX)));
    let stream = InterruptibleStream { stream, limit: limit.clone() };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(limit.clone());
        router.call(request)
    });
    let serving =
        http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // Errors are not logged here, because the client reports them.
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = stop.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ended = serving.await;
}

/// A TCP stream whose writes fail once its [`SendLimit`] is used up.
struct InterruptibleStream {
    stream: TcpStream,
    limit: SendLimit,
}

impl AsyncRead for InterruptibleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for InterruptibleStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.limit.0.load(Ordering::SeqCst);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[..bytes.len().min(left)]))?;
        if left != usize::MAX {
            self.limit.set(left - written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
