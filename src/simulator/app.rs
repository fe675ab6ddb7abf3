//! The simulated app: its groups, its scripted faults and its log of requests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::fault::{At, Fault};
use super::gate::{Gate, Held};
use super::groups::Groups;
use super::request::SeenRequest;
use super::settings::Settings;
use super::traffic::Traffic;
use crate::model::GroupType;

/// The simulated app.
pub struct SimulatedApp {
    pub(super) settings: Settings,
    pub(super) groups: Mutex<Groups>,
    /// The copy that [`Fault::Stale`] serves.
    remembered: Mutex<Option<Catalog>>,
    /// Added to the clock for the `Date` of answers.
    date_offset: Mutex<TimeDelta>,
    pub(super) traffic: Mutex<Traffic>,
    hooks: Mutex<Vec<Arc<Hook>>>,
    /// The number of ids invented so far, see [`Fault::InventIds`].
    pub(super) invented: AtomicU64,
    pub(super) stopped: CancellationToken,
}

type Hook = dyn Fn(&SimulatedApp, &SeenRequest) + Send + Sync;

/// Methods that change and read the groups. The types `Work` and `Meeting` are stored as `Private` and `ChatRoom`, their
/// names in the REST API.
impl SimulatedApp {
    /// Creates a group. Does nothing if the id is in use. The id of a dissolved group can be used again, for a new group.
    pub fn create(&self, group_type: &str, id: &str) {
        lock(&self.groups).create(&rest_name(group_type), id);
    }

    /// Creates `n` groups. Their ids follow from the seed: four of five have the form that the API generates, the others
    /// are longer custom ids.
    pub fn create_many(&self, group_type: &str, n: usize) {
        lock(&self.groups).create_many(&rest_name(group_type), n);
    }

    /// Dissolves a group. Returns false if there is no such group.
    pub fn dissolve(&self, id: &str) -> bool {
        lock(&self.groups).dissolve(id)
    }

    /// Dissolves `n` groups of any type, chosen by the seed, or all if there are fewer. Returns their ids.
    pub fn dissolve_some(&self, n: usize) -> Vec<String> {
        lock(&self.groups).dissolve_some(n)
    }

    /// Dissolves a group and creates another one with the same id, because the type of a group cannot change.
    pub fn retype(&self, id: &str, group_type: &str) {
        let mut groups = lock(&self.groups);
        groups.dissolve(id);
        groups.create(&rest_name(group_type), id);
    }

    /// Removes these groups from every list and every count. They still exist for `get_group_info`.
    pub fn hide(&self, ids: &[&str]) {
        let mut groups = lock(&self.groups);
        ids.iter().for_each(|id| groups.hide(id));
    }

    /// Lists every hidden group again.
    pub fn show_all(&self) {
        lock(&self.groups).show_all();
    }

    /// Copies all groups, hidden ones too, for [`Fault::Stale`]. Replaces an earlier copy.
    pub fn remember(&self) {
        let copy = lock(&self.groups).catalog().clone();
        *lock(&self.remembered) = Some(copy);
    }

    /// Returns every group with its type.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<String, String> {
        lock(&self.groups)
            .catalog()
            .groups()
            .map(|(id, group_type)| (id.to_owned(), group_type.to_owned()))
            .collect()
    }

    /// Returns the number of listed groups of every type that the app knows.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        lock(&self.groups).catalog().counts()
    }
}

/// Methods that affect and log requests.
impl SimulatedApp {
    /// Adds a fault for the matching requests.
    pub fn script(&self, at: At, fault: Fault) {
        lock(&self.traffic).add_fault(at, fault);
    }

    /// Removes every scripted fault.
    pub fn heal(&self) {
        lock(&self.traffic).clear_faults();
    }

    /// Holds back the answers of the matching requests until the returned value is released or dropped.
    #[must_use]
    pub fn hold(&self, at: At) -> Held {
        let (gate, held) = Gate::new();
        lock(&self.traffic).add_gate(at, gate);
        held
    }

    /// Registers a hook that runs for every request after its arrival and before its answer. It may call every method.
    pub fn on_request(&self, hook: impl Fn(&SimulatedApp, &SeenRequest) + Send + Sync + 'static) {
        lock(&self.hooks).push(Arc::new(hook));
    }

    /// Sets by how much the `Date` header of answers is ahead of the clock. The check of signatures ignores the offset.
    pub fn set_date_offset(&self, offset: TimeDelta) {
        *lock(&self.date_offset) = offset;
    }

    /// Returns the requests so far, at most the last 100,000.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.traffic).logged()
    }

    pub(super) fn new(settings: Settings) -> Self {
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

    /// Returns the time for the `Date` header of an answer.
    pub(super) fn date(&self) -> DateTime<Utc> {
        self.settings.clock.now() + *lock(&self.date_offset)
    }

    /// Reads the groups or, for [`Fault::Stale`], the copy if there is one.
    pub(super) fn read_groups<T>(&self, faults: &[Fault], read: impl FnOnce(&Catalog) -> T) -> T {
        if faults.contains(&Fault::Stale)
            && let Some(copy) = &*lock(&self.remembered)
        {
            return read(copy);
        }
        read(lock(&self.groups).catalog())
    }

    pub(super) fn call_hooks(&self, request: &SeenRequest) {
        let hooks = lock(&self.hooks).clone(); // hooks run without the lock, so they may call every method
        for hook in hooks {
            hook(self, request);
        }
    }

    pub(super) fn gates(&self, request: &SeenRequest) -> Vec<Gate> {
        lock(&self.traffic).gates_for(request, self.settings.seed)
    }

    pub(super) fn faults(&self, request: &SeenRequest) -> Vec<Fault> {
        lock(&self.traffic).faults_for(request, self.settings.seed)
    }

    pub(super) fn log_answer(&self, number: u64, code: i64) {
        tracing::debug!(request = number, code, "simulator answers");
        lock(&self.traffic).log_answer(number, code);
    }
}

impl fmt::Debug for SimulatedApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedApp").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Returns the name of a type in the REST API.
fn rest_name(group_type: &str) -> String {
    GroupType::new(group_type).map_or_else(|| group_type.to_owned(), |known| known.as_str().to_owned())
}

/// Locks a mutex even if it is poisoned: the panic has been reported, and the guarded data is consistent between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
