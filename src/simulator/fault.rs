//! Scripted faults: what is wrong with an answer, and which requests it affects.
//!
//! These are values only. Each fault is applied where the answer is built: `server.rs` applies faults of the transport,
//! `list.rs` those of a page, `info.rs` those of entries about single groups.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::random::mixed;
use super::request::{Call, SeenRequest};

/// Selects the requests that a fault, or a [`Held`], applies to.
///
/// [`Held`]: super::Held
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
    /// Every list request with this `GroupType`.
    Type(String),
    /// One page of the list of one group type, counted from 1 at a `Next` of 0. A repeated `Next` is the same page, so a
    /// retry is affected too, and so is the next pass.
    Page(String, u64),
    /// One request in n, chosen by the seed.
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
            Self::Type(group_type) => is_for(group_type),
            Self::Page(group_type, page) => is_for(group_type) && request.page == *page,
            Self::OneIn(n) => mixed(seed ^ request.number).is_multiple_of(*n),
        }
    }
}

/// What is wrong with an answer. Several faults of one request are applied in the order in which they were scripted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status instead of an answer.
    Status(u16),
    /// The answer is sent after this delay.
    Delay(Duration),
    /// No answer is sent. The connection stays open until the client closes it.
    Timeout,
    /// The connection closes without an answer.
    Reset,
    /// The connection closes in the middle of the answer's body.
    TruncatedBody,
    NotJson,
    /// An HTML page, as a captive portal or a proxy sends it.
    HtmlWith200,
    /// A body far above any limit on the size of an answer, sent without a `Content-Length`.
    OversizedBody,
    /// A redirect to the same URL. A client that follows it is answered, and its second request is logged.
    Redirect,
    /// The API answers with this `ErrorCode`.
    ErrorCode(i64),
    /// The answer has no `Date` header.
    NoDate,
    /// A stale replica answers. Pages, counts and answers about single groups come from the copy that the last
    /// [`SimulatedApp::remember`] made. Without such a copy the fault does nothing.
    ///
    /// [`SimulatedApp::remember`]: super::SimulatedApp::remember
    Stale,

    /// The `GroupType` filter is ignored: groups of all types are listed.
    IgnoreGroupType,
    /// The page is sent with a `Next` of 0, which ends the list.
    EarlyEnd,
    /// `Next` points at this same page.
    RepeatCursor,
    NoNext,
    /// The correct `Next`, written as a string.
    NextAsText,
    /// This string as `Next`.
    NextIs(String),
    /// A page without ids before the end of the list. `Next` is a new cursor to the groups that this page should have
    /// listed.
    EmptyPage,
    /// An empty list: no ids, a `TotalCount` of 0 and a `Next` of 0.
    EmptyList,
    /// Each id of the page is listed twice.
    DuplicateIds,
    /// Ids that are listed in addition to the page's groups.
    ExtraIds(Vec<String>),
    NoTotalCount,
    /// This `TotalCount`.
    TotalCount(u64),
    /// The `TotalCount` of the entire app, although the list is filtered.
    AppTotalCount,

    /// An incomplete but consistent list. One group in n, selected by a hash of its id and the seed, is missing from all
    /// pages and all counts. The pass ends with a `Next` of 0.
    Partial(u64),
    /// The page begins with three more entries whose `GroupId` is not valid text: an escaped high surrogate without a
    /// low one, an escaped low surrogate, and bytes that are not UTF-8. `TotalCount` does not count them.
    BrokenIds,
    /// An endless list. Each page is full and has ids that no group ever had. No id and no `Next` repeats, `Next` is
    /// never 0, and `TotalCount` is 2.
    InventIds,

    /// This code for one group. It takes precedence over the faults that set the code of every group.
    GroupCode(String, i64),
    /// This code for the entire `get_group_info` answer, which still has an entry for each group.
    CodeBesideGroups(i64),
    /// The answer has no group types.
    NoGroupTypes,
    /// This code for every group. With code 0, a group that does not exist gets the type `Public`.
    EveryGroup(i64),
    /// Every second entry is missing.
    FewerGroups,
    /// The entries are in reverse order.
    OtherOrder,
    /// Code 99999, which is not documented, for every group.
    UnknownCodes,
    /// Groups that exist are reported as absent. Absent ones are reported as existing, with the type `Public`.
    SwappedCodes,
}
