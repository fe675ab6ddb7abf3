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

mod fault;
mod line;
mod server;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::fault::Gate;
pub use self::fault::{At, Fault, Held};
use self::line::{Cut, Lines};
use self::state::Groups;
use crate::clock::Clock;
use crate::model::{GroupType, SdkAppId};
use crate::tencent::usersig::SecretKey;

/// Requests remembered; older ones are forgotten.
const MAX_LOGGED: usize = 100_000;

/// What is fixed about a simulated app. The default is unpaced, listens on a free loopback port, and lists the oldest
/// groups first by cursors that are stable under churn.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub sdk_app_id: SdkAppId,
    /// The only administrator.
    pub identifier: String,
    pub secret_key: SecretKey,
    /// A call that arrives sooner than this after the last admitted one is refused with 10006. The API's is a second.
    pub min_interval: Option<Duration>,
    pub listing: Listing,
    /// A longer answer is replaced by error 10018.
    pub max_answer_bytes: usize,
    /// Judges the age of signatures.
    pub clock: Clock,
    /// Ids, shuffles, cursors and random choices follow from it.
    pub seed: u64,
}

/// The key of the simulated app, unless its settings have another. It opens nothing but the simulation.
pub const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            sdk_app_id: SdkAppId::new(1_400_000_000).expect("the number is positive"),
            identifier: "administrator".to_owned(),
            secret_key: SecretKey::new(KEY),
            min_interval: None,
            listing: Listing::default(),
            max_answer_bytes: 1 << 20,
            clock: Clock::system(),
            seed: 1,
        }
    }
}

/// How the app lists its groups: the documentation does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub order: Order,
    pub cursor: Cursor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
    /// An order that stands still but has nothing to do with age, as by a hash of the id.
    Shuffled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// `Next` names the last listed group: no standing group is ever skipped.
    #[default]
    Key,
    /// `Next` is an index: the list shifts under it, so that groups are skipped or come twice.
    Position,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A page of the list of groups.
    List,
    /// What there is to say of single groups.
    Info,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Counted from 1.
    pub number: u64,
    pub arrived_at: Instant,
    pub call: Call,
    /// The groups asked about.
    pub groups: Vec<String>,
    /// The filter.
    pub group_type: Option<String>,
    /// 0, as `next`, if the body could not be read, or is not about a list.
    pub limit: u32,
    pub next: u64,
    /// Page of the pass over this filter, counted from 1; see [`At::Page`].
    pub page: u64,
    /// The error code of the answer, 0 for a page; `None` if there is no answer of the API, or none yet.
    pub answered: Option<i64>,
}

impl SeenRequest {
    fn of(call: Call, arrived_at: Instant) -> Self {
        Self {
            number: 0,
            arrived_at,
            call,
            groups: Vec::new(),
            group_type: None,
            limit: 0,
            next: 0,
            page: 0,
            answered: None,
        }
    }
}

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
        let service = server::router(Arc::clone(&app)).into_make_service_with_connect_info::<Cut>();
        let stopped = app.stopped.clone();
        let serve = axum::serve(Lines(listener), service);
        tokio::spawn(serve.with_graceful_shutdown(stopped.clone().cancelled_owned()).into_future());
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
    traffic: Mutex<Traffic>,
    hooks: Mutex<Vec<Arc<Hook>>>,
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

    /// Every group with its type.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<String, String> {
        lock(&self.groups).groups().map(|(id, group_type)| (id.to_owned(), group_type.to_owned())).collect()
    }

    /// Groups of every type that the app knows.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        lock(&self.groups).counts()
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

    /// The requests so far, or the last 100,000 of them.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.traffic).log.iter().cloned().collect()
    }

    fn new(settings: Settings) -> Self {
        Self {
            groups: Mutex::new(Groups::new(settings.listing, settings.seed)),
            traffic: Mutex::default(),
            hooks: Mutex::default(),
            stopped: CancellationToken::new(),
            settings,
        }
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

/// Requests seen, and what is to become of those to come.
#[derive(Default)]
struct Traffic {
    received: u64,
    log: VecDeque<SeenRequest>,
    last_admitted: Option<Instant>,
    /// By filter: the last `Next`, and which page of its pass that asked for.
    passes: HashMap<Option<String>, (u64, u64)>,
    faults: Vec<(At, Fault)>,
    gates: Vec<(At, Gate)>,
}

impl Traffic {
    fn note_list(
        &mut self,
        arrived_at: Instant,
        group_type: Option<String>,
        limit: u32,
        next: u64,
    ) -> SeenRequest {
        let (last_next, page) = self.passes.entry(group_type.clone()).or_default();
        *page = match next {
            0 => 1,
            _ if next == *last_next => *page,
            _ => *page + 1,
        };
        *last_next = next;
        let page = *page;
        self.note(SeenRequest { group_type, limit, next, page, ..SeenRequest::of(Call::List, arrived_at) })
    }

    fn note_info(&mut self, arrived_at: Instant, groups: Vec<String>) -> SeenRequest {
        self.note(SeenRequest { groups, ..SeenRequest::of(Call::Info, arrived_at) })
    }

    fn note(&mut self, request: SeenRequest) -> SeenRequest {
        self.received += 1;
        let request = SeenRequest { number: self.received, ..request };
        if self.log.len() == MAX_LOGGED {
            self.log.pop_front();
        }
        self.log.push_back(request.clone());
        request
    }

    /// Counts arrivals; a refused one does not put off the next.
    fn admit(&mut self, arrived_at: Instant, min_interval: Duration) -> bool {
        let admitted = self.last_admitted.is_none_or(|last| arrived_at - last >= min_interval);
        if admitted {
            self.last_admitted = Some(arrived_at);
        }
        admitted
    }
}

fn rest_name(group_type: &str) -> String {
    GroupType::new(group_type).map_or_else(|| group_type.to_owned(), |known| known.as_str().to_owned())
}

/// A lock is poisoned only by a panic that has already been reported; what it guards is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
