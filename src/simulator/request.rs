//! The log entry of a request.

use std::time::Instant;

/// The API call that a request makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `get_appid_group_list`.
    List,
    /// `get_group_info`.
    Info,
    /// `getappinfo`.
    Statistics,
}

/// A request that the simulator received.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The number of the request, counted from 1.
    pub number: u64,
    pub arrived_at: Instant,
    pub call: Call,
    /// The number of the request among the requests of the same call, counted from 1.
    pub nth_of_call: u64,
    /// The ids in a `get_group_info` request.
    pub groups: Vec<String>,
    /// The `GroupType` filter of a list request.
    pub group_type: Option<String>,
    /// The `Limit` of a list request; 0 if the body is invalid or the request is not for a list.
    pub limit: u32,
    /// The `Next` of a list request; 0 if the body is invalid or the request is not for a list.
    pub next: u64,
    /// The number of the page in its pass, counted from 1, see [`At::Page`].
    ///
    /// [`At::Page`]: super::At::Page
    pub page: u64,
    /// The error code of the answer, 0 for success. `None` if no answer has been sent, or a fault
    /// replaced it.
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
