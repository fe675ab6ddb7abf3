//! Requests seen, and what is to become of those to come.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::fault::{At, Fault, Gate};

/// Requests remembered; older ones are forgotten.
const MAX_LOGGED: usize = 100_000;

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
    /// Counted from 1 among the requests of the same call.
    pub nth_of_call: u64,
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
    pub(super) fn of(call: Call, arrived_at: Instant) -> Self {
        Self {
            number: 0,
            arrived_at,
            call,
            nth_of_call: 0,
            groups: Vec::new(),
            group_type: None,
            limit: 0,
            next: 0,
            page: 0,
            answered: None,
        }
    }
}

#[derive(Default)]
pub(super) struct Traffic {
    received: u64,
    lists_received: u64,
    infos_received: u64,
    pub(super) log: VecDeque<SeenRequest>,
    last_admitted: Option<Instant>,
    /// When the `get_group_info` requests of the last second were admitted, the oldest first.
    infos_admitted: VecDeque<Instant>,
    /// By filter: the last `Next`, and which page of its pass that asked for.
    passes: HashMap<Option<String>, (u64, u64)>,
    pub(super) faults: Vec<(At, Fault)>,
    pub(super) gates: Vec<(At, Gate)>,
}

impl Traffic {
    pub(super) fn note_list(
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

    pub(super) fn note_info(&mut self, arrived_at: Instant, groups: Vec<String>) -> SeenRequest {
        self.note(SeenRequest { groups, ..SeenRequest::of(Call::Info, arrived_at) })
    }

    fn note(&mut self, request: SeenRequest) -> SeenRequest {
        self.received += 1;
        let of_call = match request.call {
            Call::List => &mut self.lists_received,
            Call::Info => &mut self.infos_received,
        };
        *of_call += 1;
        let request = SeenRequest { number: self.received, nth_of_call: *of_call, ..request };
        if self.log.len() == MAX_LOGGED {
            self.log.pop_front();
        }
        self.log.push_back(request.clone());
        request
    }

    /// Counts arrivals; a refused one does not put off the next.
    pub(super) fn admit(&mut self, arrived_at: Instant, min_interval: Duration) -> bool {
        let admitted = self.last_admitted.is_none_or(|last| arrived_at - last >= min_interval);
        if admitted {
            self.last_admitted = Some(arrived_at);
        }
        admitted
    }

    /// Admits at most so many `get_group_info` requests within any second. A refused one does not put off the next.
    pub(super) fn admit_info(&mut self, arrived_at: Instant, per_second: u32) -> bool {
        let is_old = |at: &Instant| arrived_at.saturating_duration_since(*at) >= Duration::from_secs(1);
        while self.infos_admitted.pop_front_if(|at| is_old(at)).is_some() {}
        let admitted = self.infos_admitted.len() < per_second as usize;
        if admitted {
            self.infos_admitted.push_back(arrived_at);
        }
        admitted
    }
}
