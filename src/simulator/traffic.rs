//! The log of requests, the rate limits, and the scripted faults and holds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::fault::{At, Fault};
use super::gate::Gate;
use super::request::{Call, SeenRequest};

/// The maximum number of requests in the log. The oldest ones are removed.
const MAX_LOGGED: usize = 100_000;

/// The requests so far, and what is scripted for the next ones.
#[derive(Default)]
pub(super) struct Traffic {
    received: u64,
    lists_received: u64,
    infos_received: u64,
    statistics_received: u64,
    log: VecDeque<SeenRequest>,
    /// The time at which the last list request was admitted.
    last_list_admitted: Option<Instant>,
    /// The times at which the `get_group_info` requests of the last second were admitted, in
    /// ascending order.
    infos_admitted: VecDeque<Instant>,
    /// For each filter, the `Next` and the page number of the last request.
    passes: HashMap<Option<String>, (u64, u64)>,
    faults: Vec<(At, Fault)>,
    gates: Vec<(At, Gate)>,
}

impl Traffic {
    pub(super) fn log_list(
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
        self.log(SeenRequest { group_type, limit, next, page, ..SeenRequest::of(Call::List, arrived_at) })
    }

    pub(super) fn log_info(&mut self, arrived_at: Instant, groups: Vec<String>) -> SeenRequest {
        self.log(SeenRequest { groups, ..SeenRequest::of(Call::Info, arrived_at) })
    }

    pub(super) fn log_statistics(&mut self, arrived_at: Instant) -> SeenRequest {
        self.log(SeenRequest::of(Call::Statistics, arrived_at))
    }

    fn log(&mut self, request: SeenRequest) -> SeenRequest {
        self.received += 1;
        let of_call = match request.call {
            Call::List => &mut self.lists_received,
            Call::Info => &mut self.infos_received,
            Call::Statistics => &mut self.statistics_received,
        };
        *of_call += 1;
        let request = SeenRequest { number: self.received, nth_of_call: *of_call, ..request };
        if self.log.len() == MAX_LOGGED {
            self.log.pop_front();
        }
        self.log.push_back(request.clone());
        request
    }

    pub(super) fn log_answer(&mut self, number: u64, code: i64) {
        if let Some(seen) = self.log.iter_mut().rev().find(|seen| seen.number == number) {
            seen.answered = Some(code);
        }
    }

    pub(super) fn logged(&self) -> Vec<SeenRequest> {
        self.log.iter().cloned().collect()
    }

    /// Returns whether a list request is admitted: at least `min_interval` after the last admitted
    /// one. Refused requests do not count.
    pub(super) fn admit_list(&mut self, arrived_at: Instant, min_interval: Duration) -> bool {
        let admitted = self.last_list_admitted.is_none_or(|last| arrived_at - last >= min_interval);
        if admitted {
            self.last_list_admitted = Some(arrived_at);
        }
        admitted
    }

    /// Returns whether a `get_group_info` request is admitted: at most `per_second` within any
    /// second. Refused requests do not count.
    pub(super) fn admit_info(&mut self, arrived_at: Instant, per_second: u32) -> bool {
        let is_old = |at: &Instant| arrived_at.saturating_duration_since(*at) >= Duration::from_secs(1);
        while self.infos_admitted.pop_front_if(|at| is_old(at)).is_some() {}
        let admitted = self.infos_admitted.len() < per_second as usize;
        if admitted {
            self.infos_admitted.push_back(arrived_at);
        }
        admitted
    }

    pub(super) fn add_fault(&mut self, at: At, fault: Fault) {
        self.faults.push((at, fault));
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn add_gate(&mut self, at: At, gate: Gate) {
        self.gates.push((at, gate));
    }

    pub(super) fn faults_for(&self, request: &SeenRequest, seed: u64) -> Vec<Fault> {
        matching(&self.faults, request, seed)
    }

    pub(super) fn gates_for(&self, request: &SeenRequest, seed: u64) -> Vec<Gate> {
        matching(&self.gates, request, seed)
    }
}

/// Returns what is scripted for a request.
fn matching<T: Clone>(rules: &[(At, T)], request: &SeenRequest, seed: u64) -> Vec<T> {
    rules.iter().filter(|(at, _)| at.matches(request, seed)).map(|(_, rule)| rule.clone()).collect()
}
