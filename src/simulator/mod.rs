//! A simulator of Tencent Cloud IM: an app whose groups can be created and dissolved, served over
//! HTTP under the API's paths, with the API's signature check and error codes. Tests can script
//! faults.
//!
//! `demo`, `simulate`, the tests and the benchmarks use it. It implements the API's documentation.
//! What the documentation leaves open is a setting, such as the order of the list and the meaning
//! of `Next`. It does not depend on the crawler. It has three calls, `get_appid_group_list`,
//! `get_group_info` and `getappinfo`; the routes are in `server.rs`.
//!
//! - [`Simulator`] is the running server. Dropping it stops the server.
//! - [`SimulatedApp`] is the app that the server serves. Its methods create and dissolve groups,
//!   script faults and hold requests. They may be called from any thread, and from hooks.
//! - [`Fault`] is one kind of failed or wrong answer. [`At`] selects the requests that it affects.

mod app;
mod authentication;
mod catalog;
mod connection;
mod fault;
mod gate;
mod groups;
mod history;
mod info;
mod list;
mod random;
mod refusal;
mod request;
mod server;
mod settings;
mod statistics;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

pub use self::app::SimulatedApp;
pub use self::fault::{At, Fault};
pub use self::gate::HeldRequests;
pub use self::request::{Call, SeenRequest};
pub use self::settings::{AbsentCodes, Cursor, KEY, Listing, Order, Settings};

/// The running server. It dereferences to the app that it serves. Dropping it stops the server.
pub struct Simulator {
    app: Arc<SimulatedApp>,
    addr: SocketAddr,
    _stop: DropGuard,
}

impl Simulator {
    /// Starts the server on the current tokio runtime. It accepts connections as soon as this
    /// returns.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let addr = listener.local_addr()?;
        let app = Arc::new(SimulatedApp::new(settings));
        let stopped = app.stopped.clone();
        tokio::spawn(connection::serve(listener, server::router(Arc::clone(&app)), stopped.clone()));
        Ok(Self { app, addr, _stop: stopped.drop_guard() })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns scheme, host and port, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Deref for Simulator {
    type Target = SimulatedApp;

    fn deref(&self) -> &SimulatedApp {
        &self.app
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("addr", &self.addr).finish_non_exhaustive()
    }
}
