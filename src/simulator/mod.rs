//! Tencent Cloud IM in one process: an app whose groups come and go, behind the real path, over real HTTP, with the
//! real signature check, the documented error codes and, on request, every fault a crawler must live through.
//!
//! It is the upstream of `demo` and `simulate`, of all tests and of the benchmark, so it models the API's
//! documentation and what the documentation leaves open (the order of the list, what a `Next` points at), and knows
//! nothing of the crawler. Two calls exist, `get_appid_group_list` and `get_group_info`; another is a route in `server.rs`.
//!
//! - [`Simulator`] is the running server; it stops when dropped.
//! - [`SimulatedApp`] is what it serves. Its verbs are what happens to an app: groups are created and dissolved,
//!   requests are scripted to fail or held back. They work from any thread, from within hooks too.
//! - [`Fault`] and [`At`] say what goes wrong, and when.

mod catalog;
mod fault;
mod info;
mod line;
mod random;
mod server;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::catalog::Catalog;
use self::fault::Gate;
pub use self::fault::{At, Fault, Held};
pub use self::settings::{AbsentCodes, Cursor, KEY, Listing, Order, Settings};
use self::state::Groups;
use self::traffic::Traffic;
pub use self::traffic::{Call, SeenRequest};
use crate::model::GroupType;

/// The server. Dereferences to the app it serves; stops, answering nothing more, when dropped.
pub struct Simulator {
    app: Arc<SimulatedApp>,
    addr: SocketAddr,
    _stop: DropGuard,
}

impl Simulator {
    /// Listens from the moment this returns, on the current tokio runtime.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let addr = listener.local_addr()?;
        let app = Arc::new(SimulatedApp::new(settings));
        let stopped = app.stopped.clone();
        tokio::spawn(line::serve(listener, server::router(Arc::clone(&app)), stopped.clone()));
        Ok(Self { app, addr, _stop: stopped.drop_guard() })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Scheme, host and port, without a slash at the end.
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

/// The simulated app: its groups, and what becomes of requests.
pub struct SimulatedApp {
    settings: Settings,
    groups: Mutex<Groups>,
    /// The groups that [`Fault::Stale`] serves.
    remembered: Mutex<Option<Catalog>>,
    /// Added to the clock for the `Date` of answers.
    date_offset: Mutex<TimeDelta>,
    traffic: Mutex<Traffic>,
    hooks: Mutex<Vec<Arc<Hook>>>,
    /// Ids invented so far, see [`Fault::InventIds`].
    invented: AtomicU64,
    stopped: CancellationToken,
}

type Hook = dyn Fn(&SimulatedApp, &SeenRequest) + Send + Sync;

/// What happens to the groups. `Work` and `Meeting` become `Private` and `ChatRoom`, as REST calls them.
impl SimulatedApp {
    /// Creates a group, the youngest of all; nothing if the id is in use. An id that comes back is a new group.
    pub fn create(&self, group_type: &str, id: &str) {
        lock(&self.groups).create(&rest_name(group_type), id);
    }

    /// Creates groups with ids that follow from the seed: four of five as the API makes them, the others of the
    /// app's own making and longer.
    pub fn create_many(&self, group_type: &str, n: usize) {
        lock(&self.groups).create_many(&rest_name(group_type), n);
    }

    /// Whether there was such a group.
    pub fn dissolve(&self, id: &str) -> bool {
        lock(&self.groups).dissolve(id)
    }

    /// Dissolves n groups of any type, chosen by the seed, or all if there are fewer. Returns their ids.
    pub fn dissolve_some(&self, n: usize) -> Vec<String> {
        lock(&self.groups).dissolve_some(n)
    }

    /// Dissolves a group and creates another of the same id: the type of a group cannot change.
    pub fn retype(&self, id: &str, group_type: &str) {
        let mut groups = lock(&self.groups);
        groups.dissolve(id);
        groups.create(&rest_name(group_type), id);
    }

    /// Leaves these groups out of every list and every count, though they stand and can be asked about.
    pub fn hide(&self, ids: &[&str]) {
        let mut groups = lock(&self.groups);
        ids.iter().for_each(|id| groups.hide(id));
    }

    /// Lists every hidden group again.
    pub fn show_all(&self) {
        lock(&self.groups).show_all();
    }

    /// Copies all groups as they are now, hidden ones too, for [`Fault::Stale`]. Replaces an earlier copy.
    pub fn remember(&self) {
        let copy = lock(&self.groups).catalog().clone();
        *lock(&self.remembered) = Some(copy);
    }

    /// Every group with its type.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<String, String> {
        lock(&self.groups)
            .catalog()
            .groups()
            .map(|(id, group_type)| (id.to_owned(), group_type.to_owned()))
            .collect()
    }

    /// Groups of every type that the app knows.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        lock(&self.groups).catalog().counts()
    }
}

/// What becomes of requests.
impl SimulatedApp {
    /// Lets requests fail.
    pub fn script(&self, at: At, fault: Fault) {
        lock(&self.traffic).faults.push((at, fault));
    }

    /// Forgets every scripted fault.
    pub fn heal(&self) {
        lock(&self.traffic).faults.clear();
    }

    /// Receives requests without answering them, for as long as the result lives.
    #[must_use]
    pub fn hold(&self, at: At) -> Held {
        let (gate, held) = Gate::new();
        lock(&self.traffic).gates.push((at, gate));
        held
    }

    /// Calls back for every request after it arrived and before it is answered. The callback may use every verb.
    pub fn on_request(&self, hook: impl Fn(&SimulatedApp, &SeenRequest) + Send + Sync + 'static) {
        lock(&self.hooks).push(Arc::new(hook));
    }

    /// Sets how far the `Date` header of answers is ahead of the clock. Signatures are checked against the clock alone.
    pub fn set_date_offset(&self, offset: TimeDelta) {
        *lock(&self.date_offset) = offset;
    }

    /// The requests so far, or the last 100,000 of them.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.traffic).log.iter().cloned().collect()
    }

    fn new(settings: Settings) -> Self {
        Self {
            groups: Mutex::new(Groups::new(settings.listing, settings.seed)),
            remembered: Mutex::default(),
            date_offset: Mutex::default(),
            traffic: Mutex::default(),
            hooks: Mutex::default(),
            invented: AtomicU64::new(0),
            stopped: CancellationToken::new(),
            settings,
        }
    }

    /// The time in the `Date` header of an answer.
    fn date(&self) -> DateTime<Utc> {
        self.settings.clock.now() + *lock(&self.date_offset)
    }

    /// Reads the present groups or, for [`Fault::Stale`], the copy if there is one.
    fn read_groups<T>(&self, faults: &[Fault], read: impl FnOnce(&Catalog) -> T) -> T {
        if faults.contains(&Fault::Stale)
            && let Some(copy) = &*lock(&self.remembered)
        {
            return read(copy);
        }
        read(lock(&self.groups).catalog())
    }

    fn call_hooks(&self, request: &SeenRequest) {
        let hooks = lock(&self.hooks).clone(); // so that no lock is held while they run
        for hook in hooks {
            hook(self, request);
        }
    }

    fn gates(&self, request: &SeenRequest) -> Vec<Gate> {
        self.matching(request, &lock(&self.traffic).gates)
    }

    fn faults(&self, request: &SeenRequest) -> Vec<Fault> {
        self.matching(request, &lock(&self.traffic).faults)
    }

    fn matching<T: Clone>(&self, request: &SeenRequest, rules: &[(At, T)]) -> Vec<T> {
        let seed = self.settings.seed;
        rules.iter().filter(|(at, _)| at.matches(request, seed)).map(|(_, what)| what.clone()).collect()
    }

    fn answered(&self, number: u64, code: i64) {
        tracing::debug!(request = number, code, "the simulator answers");
        let mut traffic = lock(&self.traffic);
        if let Some(seen) = traffic.log.iter_mut().rev().find(|seen| seen.number == number) {
            seen.answered = Some(code);
        }
    }
}

impl fmt::Debug for SimulatedApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedApp").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn rest_name(group_type: &str) -> String {
    GroupType::new(group_type).map_or_else(|| group_type.to_owned(), |known| known.as_str().to_owned())
}

/// A lock is poisoned only by a panic that has already been reported; what it guards is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
