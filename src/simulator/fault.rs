//! Scripted faults of answers, and the selection of the requests that they affect.
//!
//! This module only defines the values. `server.rs` applies faults of the transport, `list.rs`
//! faults of pages, `info.rs` faults of entries about single groups, and `statistics.rs` faults of
//! `getappinfo`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::random::mixed;
use super::request::{Call, SeenRequest};

/// Selects the requests that a fault or a hold affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Every,
    /// The n-th request since the start, counted from 1.
    Request(u64),
    Requests(RangeInclusive<u64>),
    /// Every list request.
    List,
    /// Every `get_group_info` request.
    Info,
    /// The n-th `get_group_info` request since the start, counted from 1.
    InfoRequest(u64),
    InfoRequests(RangeInclusive<u64>),
    /// Every `getappinfo` request.
    Statistics,
    /// Every list request with this `GroupType`.
    Type(String),
    /// One page of the list of one group type, in every pass. Pages are counted from 1, which has a
    /// `Next` of 0. A request that repeats the previous `Next`, such as a retry, is for the same
    /// page.
    Page(String, u64),
    /// One request in n, chosen pseudo-randomly from the seed.
    OneIn(u64),
}

impl At {
    pub(super) fn matches(&self, request: &SeenRequest, seed: u64) -> bool {
        let is_for = |group_type: &String| request.group_type.as_ref() == Some(group_type);
        match self {
            Self::Every => true,
            Self::Request(number) => request.number == *number,
            Self::Requests(numbers) => numbers.contains(&request.number),
            Self::List => request.call == Call::List,
            Self::Info => request.call == Call::Info,
            Self::InfoRequest(nth) => request.call == Call::Info && request.nth_of_call == *nth,
            Self::InfoRequests(range) => request.call == Call::Info && range.contains(&request.nth_of_call),
            Self::Statistics => request.call == Call::Statistics,
            Self::Type(group_type) => is_for(group_type),
            Self::Page(group_type, page) => is_for(group_type) && request.page == *page,
            Self::OneIn(n) => mixed(seed ^ request.number).is_multiple_of(*n),
        }
    }
}

/// A fault of an answer. Several faults of one request are applied in the order in which they were
/// scripted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status, with an HTML page, replaces the answer.
    Status(u16),
    /// The answer is sent after this delay.
    Delay(Duration),
    /// No answer is sent. The connection stays open until the client closes it.
    Timeout,
    /// The connection closes without an answer.
    Reset,
    /// The connection closes in the middle of the answer's body.
    TruncatedBody,
    /// The body is truncated JSON, in a complete HTTP response.
    NotJson,
    /// An HTML page with status 200 replaces the answer, as from a captive portal.
    HtmlWith200,
    /// This body replaces that of the answer.
    Body(String),
    /// A body of 64 MiB, sent without a `Content-Length`, replaces the answer.
    OversizedBody,
    /// A redirect to the same URL replaces the answer. A client that follows it is answered, and
    /// its second request is logged.
    Redirect,
    /// The API answers with this `ErrorCode`.
    ErrorCode(i64),
    /// The answer has no `Date` header.
    NoDate,
    /// A stale replica answers: pages, counts and entries are those of the copy that
    /// [`SimulatedApp::save_stale_copy`] saved. Without a copy the fault has no effect.
    ///
    /// [`SimulatedApp::save_stale_copy`]: super::SimulatedApp::save_stale_copy
    Stale,

    /// The `GroupType` filter is ignored: groups of all types are listed.
    IgnoreGroupType,
    /// The page is sent with a `Next` of 0, which ends the list.
    EarlyEnd,
    /// `Next` is a cursor to the same page.
    RepeatCursor,
    /// The page has no `Next`.
    NoNext,
    /// The correct `Next` is written as a string.
    NextAsText,
    /// `Next` is this string.
    NextIs(String),
    /// The page has no ids, and `Next` is another cursor to the same page.
    EmptyPage,
    /// The list is empty: no ids, a `TotalCount` of 0 and a `Next` of 0.
    EmptyList,
    /// Each id of the page is listed twice.
    DuplicateIds,
    /// These ids are listed in addition to the page's groups.
    ExtraIds(Vec<String>),
    /// The page has no `TotalCount`.
    NoTotalCount,
    /// `TotalCount` is this number.
    TotalCount(u64),
    /// `TotalCount` is that of the entire app, although the list is filtered.
    AppTotalCount,

    /// The list is incomplete but consistent: one group in n, selected by a hash of its id and the
    /// seed, is left out of all pages and all counts.
    Partial(u64),
    /// The page begins with three more entries whose `GroupId` is not valid text: an escaped high
    /// surrogate without a low one, an escaped low surrogate, and bytes that are not UTF-8.
    /// `TotalCount` does not count them.
    BrokenIds,
    /// The list is endless. Each page is full of ids that no group ever had, no id and no `Next`
    /// repeats, and `TotalCount` is 2, so that only the client's own limits end the list.
    InventIds,

    /// One group has this code. It takes precedence over faults that set the codes of all groups.
    GroupCode(String, i64),
    /// The top-level code of a `get_group_info` answer is this, although the answer has an entry
    /// for each group.
    CodeBesideGroups(i64),
    /// The answer has no group types.
    NoGroupTypes,
    /// All groups have this code. With code 0, a group that does not exist has the type `Public`.
    EveryGroup(i64),
    /// Every second entry is left out.
    FewerGroups,
    /// The entries are in reverse order.
    ReverseOrder,
    /// All groups have the undocumented code 99999.
    UnknownCodes,
    /// Groups that exist have the code of absent groups. Absent groups have code 0 and the type
    /// `Public`.
    SwappedCodes,

    /// The entries of a `getappinfo` answer lack this field.
    NoStatistic(String),
}
