//! The simulated app: its groups, its scripted faults and its log of requests.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::fault::{At, Fault};
use super::gate::{Gate, HeldRequests};
use super::groups::Groups;
use super::history::History;
use super::request::SeenRequest;
use super::settings::Settings;
use super::traffic::Traffic;
use crate::model::GroupType;

/// The simulated app.
pub struct SimulatedApp {
    pub(super) settings: Settings,
    pub(super) groups: Mutex<Groups>,
    pub(super) history: Mutex<History>,
    /// The copy that [`Fault::Stale`] serves.
    stale_copy: Mutex<Option<Catalog>>,
    /// The fields of groups that override generated ones in answers of `get_group_info`.
    details: Mutex<HashMap<String, Map<String, Value>>>,
    /// The offset of the `Date` of answers from the clock.
    date_offset: Mutex<TimeDelta>,
    pub(super) traffic: Mutex<Traffic>,
    hooks: Mutex<Vec<Arc<Hook>>>,
    /// The number of ids that [`Fault::InventIds`] has generated so far.
    pub(super) invented: AtomicU64,
    pub(super) stopped: CancellationToken,
}

type Hook = dyn Fn(&SimulatedApp, &SeenRequest) + Send + Sync;

/// Methods that change and read the groups. The types `Work` and `Meeting` are stored under their
/// names in the REST API, `Private` and `ChatRoom`.
impl SimulatedApp {
    /// Creates a group. Does nothing if the id is in use. The id of a dissolved group can be used
    /// again.
    pub fn create(&self, group_type: &str, id: &str) {
        let created = lock(&self.groups).create(&rest_name(group_type), id);
        self.record(usize::from(created), 0);
    }

    /// Creates `n` groups whose ids are computed from the seed. Four of five ids have the form that
    /// the API generates, the others are longer custom ids.
    pub fn create_many(&self, group_type: &str, n: usize) {
        lock(&self.groups).create_many(&rest_name(group_type), n);
        self.record(n, 0);
    }

    /// Dissolves a group. Returns false if there is no such group.
    pub fn dissolve(&self, id: &str) -> bool {
        let dissolved = lock(&self.groups).dissolve(id);
        self.record(0, usize::from(dissolved));
        dissolved
    }

    /// Dissolves `n` listed groups of any type, or all if there are fewer. They are chosen
    /// pseudo-randomly. Returns their ids.
    pub fn dissolve_some(&self, n: usize) -> Vec<String> {
        let dissolved = lock(&self.groups).dissolve_some(n);
        self.record(0, dissolved.len());
        dissolved
    }

    /// Replaces a group by a group of another type with the same id. In the API the type of a group
    /// cannot change.
    pub fn retype(&self, id: &str, group_type: &str) {
        let mut groups = lock(&self.groups);
        let dissolved = groups.dissolve(id);
        let created = groups.create(&rest_name(group_type), id);
        drop(groups);
        self.record(usize::from(created), usize::from(dissolved));
    }

    /// Removes these groups from all lists and counts. For `get_group_info` they still exist.
    pub fn hide(&self, ids: &[&str]) {
        let mut groups = lock(&self.groups);
        ids.iter().for_each(|id| groups.hide(id));
    }

    /// Sets fields of a group in the answers of `get_group_info`, such as `Name`. Other fields are
    /// generated from the id.
    pub fn set_details(&self, id: &str, fields: Map<String, Value>) {
        lock(&self.details).entry(id.to_owned()).or_default().extend(fields);
    }

    pub(super) fn details_of(&self, id: &str) -> Map<String, Value> {
        lock(&self.details).get(id).cloned().unwrap_or_default()
    }

    /// Lists every hidden group again.
    pub fn show_all(&self) {
        lock(&self.groups).show_all();
    }

    /// Saves a copy of all groups, including hidden ones, for [`Fault::Stale`]. Replaces an earlier
    /// copy.
    pub fn save_stale_copy(&self) {
        let copy = lock(&self.groups).catalog().clone();
        *lock(&self.stale_copy) = Some(copy);
    }

    /// Returns all groups with their types, including hidden groups.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<String, String> {
        lock(&self.groups)
            .catalog()
            .groups()
            .map(|(id, group_type)| (id.to_owned(), group_type.to_owned()))
            .collect()
    }

    /// Returns a number that grows when groups are created or dissolved. While it does not change,
    /// [`Self::truth`] does not change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        lock(&self.groups).revision()
    }

    /// Returns the number of listed groups of each known type.
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

    /// Removes all scripted faults.
    pub fn clear_faults(&self) {
        lock(&self.traffic).clear_faults();
    }

    /// Delays the answers of matching requests until the returned value is released or dropped.
    #[must_use]
    pub fn hold(&self, at: At) -> HeldRequests {
        let (gate, held) = Gate::new();
        lock(&self.traffic).add_gate(at, gate);
        held
    }

    /// Registers a hook that is called for every request between its arrival and its answer. The
    /// hook may call all methods of the app.
    pub fn on_request(&self, hook: impl Fn(&SimulatedApp, &SeenRequest) + Send + Sync + 'static) {
        lock(&self.hooks).push(Arc::new(hook));
    }

    /// Sets by how much the `Date` header of answers is ahead of the clock. Does not affect the
    /// check of signatures.
    pub fn set_date_offset(&self, offset: TimeDelta) {
        *lock(&self.date_offset) = offset;
    }

    /// Returns the requests so far, at most the latest 100,000.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.traffic).logged()
    }

    pub(super) fn new(settings: Settings) -> Self {
        Self {
            groups: Mutex::new(Groups::new(settings.listing, settings.seed)),
            history: Mutex::default(),
            stale_copy: Mutex::default(),
            details: Mutex::default(),
            date_offset: Mutex::default(),
            traffic: Mutex::default(),
            hooks: Mutex::default(),
            invented: AtomicU64::new(0),
            stopped: CancellationToken::new(),
            settings,
        }
    }

    /// Adds created and dissolved groups to the history of the current day.
    fn record(&self, created: usize, dissolved: usize) {
        lock(&self.history).add(self.settings.clock.now(), created, dissolved);
    }

    /// Returns the time for the `Date` header of an answer.
    pub(super) fn date(&self) -> DateTime<Utc> {
        self.settings.clock.now() + *lock(&self.date_offset)
    }

    /// Reads the groups, or the saved copy if there is one and the faults include [`Fault::Stale`].
    pub(super) fn read_groups<T>(&self, faults: &[Fault], read: impl FnOnce(&Catalog) -> T) -> T {
        if faults.contains(&Fault::Stale)
            && let Some(copy) = &*lock(&self.stale_copy)
        {
            return read(copy);
        }
        read(lock(&self.groups).catalog())
    }

    pub(super) fn call_hooks(&self, request: &SeenRequest) {
        // The hooks are called without the lock, because they may call all methods.
        let hooks = lock(&self.hooks).clone();
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

/// Locks a mutex, even if it is poisoned: the data is consistent between statements, and the panic
/// has been reported.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
