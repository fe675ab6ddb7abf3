//! The simulated time of an app. When time passes, groups are created and dissolved at the rates of
//! the scenario.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, Call, Fault, SeenRequest, SimulatedApp};

use crate::scenarios::{Scenario, Server};

/// The simulated time of a list request: the API allows one a second.
const LIST_REQUEST: TimeDelta = TimeDelta::milliseconds(1050);
/// The simulated time of a `get_group_info` request: the crawler sends at most 50 a second.
const INFO_REQUEST: TimeDelta = TimeDelta::milliseconds(20);
/// The longest step of time. It is short, so that a group can be created and dissolved between two
/// crawls.
const MINUTE: TimeDelta = TimeDelta::seconds(60);

/// Advances the clock of an app, and creates and dissolves groups meanwhile.
pub(crate) struct SimulatedTime {
    scenario: Scenario,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    due_creations: BTreeMap<&'static str, Due>,
    due_dissolutions: Due,
    /// The dissolved groups, with the times of their dissolution.
    dissolved: HashMap<String, DateTime<Utc>>,
    /// The number of groups of each type at recent times, the oldest first.
    counts: VecDeque<(DateTime<Utc>, BTreeMap<String, usize>)>,
    /// Chooses the stale pages of [`Server::StalePages`].
    stale_pages: StdRng,
}

/// The number of groups that are due to be created or dissolved. Each step of time adds a fraction.
#[derive(Default)]
struct Due(f64);

impl Due {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    /// Adds `more`, and removes and returns the integer part.
    fn take(&mut self, more: f64) -> usize {
        self.0 += more;
        let integer = self.0.floor();
        self.0 -= integer;
        integer as usize
    }
}

impl SimulatedTime {
    pub(crate) fn new(scenario: Scenario, clock: Clock) -> Self {
        let state = State {
            due_creations: BTreeMap::new(),
            due_dissolutions: Due::default(),
            dissolved: HashMap::new(),
            counts: VecDeque::new(),
            stale_pages: StdRng::seed_from_u64(1),
        };
        Self { scenario, clock, state: Mutex::new(state) }
    }

    /// Calls `read` with the dissolved groups and the times of their dissolution.
    pub(crate) fn with_dissolved<T>(&self, read: impl FnOnce(&HashMap<String, DateTime<Utc>>) -> T) -> T {
        read(&self.lock().dissolved)
    }

    /// Advances the time by the pause between two crawls.
    pub(crate) fn pause(&self, app: &SimulatedApp) {
        let mut rest = self.scenario.pause;
        while rest > TimeDelta::zero() {
            self.elapse(app, rest.min(MINUTE), true);
            rest -= MINUTE;
        }
    }

    /// Advances the time by the duration of a request, and prepares the answer.
    pub(crate) fn on_request(&self, app: &SimulatedApp, request: &SeenRequest) {
        let is_list = request.call == Call::List;
        self.elapse(app, if is_list { LIST_REQUEST } else { INFO_REQUEST }, self.scenario.moves);
        if !is_list {
            return;
        }
        let fault = match self.scenario.server {
            Server::LateCounts => self.count_a_minute_ago(request).map(Fault::TotalCount),
            Server::StalePages => self.lock().stale_pages.random_bool(0.2).then_some(Fault::Stale),
            _ => return,
        };
        // List requests are sequential, so at most one fault is scripted at a time.
        app.clear_faults();
        if let Some(fault) = fault {
            app.script(At::Request(request.number), fault);
        }
    }

    fn elapse(&self, app: &SimulatedApp, time: TimeDelta, moves: bool) {
        let mut state = self.lock();
        let now = self.clock.now() + time;
        self.clock.set(now);
        if !moves {
            return;
        }
        let seconds = time.as_seconds_f64();
        let dissolutions = state.due_dissolutions.take(self.scenario.dissolved * seconds);
        if dissolutions > 0 {
            let ids = app.dissolve_some(dissolutions);
            state.dissolved.extend(ids.into_iter().map(|id| (id, now)));
        }
        for (name, share) in self.scenario.types {
            let due = state.due_creations.entry(name).or_default();
            app.create_many(name, due.take(share * self.scenario.created * seconds));
        }
        if self.scenario.server == Server::LateCounts {
            state.counts.push_back((now, app.counts()));
            while state.counts.get(1).is_some_and(|(at, _)| *at <= now - MINUTE) {
                state.counts.pop_front();
            }
        }
    }

    /// Returns the TotalCount that this request's list had a minute ago, if the simulation has
    /// lasted that long.
    fn count_a_minute_ago(&self, request: &SeenRequest) -> Option<u64> {
        let state = self.lock();
        let (at, counts) = state.counts.front()?;
        (*at <= self.clock.now() - MINUTE).then(|| match &request.group_type {
            Some(group_type) => counts.get(group_type).copied().unwrap_or(0) as u64,
            None => counts.values().sum::<usize>() as u64,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
