//! What can go wrong with an answer, and which requests it goes wrong for.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::random::mixed;
use super::server::Draft;
use super::{Call, SeenRequest};

/// Bigger than any sane cap on an answer.
const OVERSIZED_BYTES: usize = 64 << 20;

/// The requests that a fault or a hold is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Every,
    /// The n-th request since the start, counted from 1.
    Request(u64),
    Requests(RangeInclusive<u64>),
    /// Every request about a list.
    List,
    /// Every request about single groups.
    Info,
    /// The n-th request about single groups since the start, counted from 1.
    InfoRequest(u64),
    InfoRequests(RangeInclusive<u64>),
    /// Every request for this group type.
    Type(String),
    /// This page of this group type, counted from 1 at a `Next` of 0. Asking again with the same `Next` is the same
    /// page: it fails again for a client that tries again, and again in the next pass.
    Page(String, u64),
    /// One request of this many, chosen by the seed.
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
            Self::OneIn(many) => mixed(seed ^ request.number).is_multiple_of(*many),
        }
    }
}

/// What goes wrong. Several faults for one request add up, in the order they were scripted, as far as they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status instead of an answer.
    Status(u16),
    /// The answer comes, but late.
    Delay(Duration),
    /// No answer until the client gives up.
    Timeout,
    /// The connection closes without an answer.
    Reset,
    /// The connection closes in the middle of the answer's body.
    TruncatedBody,
    NotJson,
    /// What a captive portal or a proxy says.
    HtmlWith200,
    /// Far more bytes than any answer has, without a length in advance.
    OversizedBody,
    /// A redirect to the same call: a client that follows it gets an answer, and shows up as another request.
    Redirect,
    /// The API refuses with this code.
    ErrorCode(i64),
    /// The answer has no `Date` header.
    NoDate,
    /// A replica that lags behind answers. Pages, counts and answers about single groups come from the copy of the
    /// last [`SimulatedApp::remember`]. Without such a copy the fault does nothing.
    ///
    /// [`SimulatedApp::remember`]: super::SimulatedApp::remember
    Stale,

    /// Lists all types, as if the filter had not been sent.
    IgnoreGroupType,
    /// The page is served, but `Next` says that it was the last.
    EarlyEnd,
    /// `Next` leads to this same page again.
    RepeatCursor,
    NoNext,
    /// The right `Next`, but written as a text.
    NextAsText,
    /// This text for a `Next`.
    NextIs(String),
    /// No ids, though the list goes on: `Next` is new and leads to the groups this page should have listed.
    EmptyPage,
    /// An app, or a type, without groups.
    EmptyList,
    /// Each id of the page comes twice.
    DuplicateIds,
    /// More ids than there are groups, such as one that no group can have.
    ExtraIds(Vec<String>),
    NoTotalCount,
    /// A `TotalCount` that is not true.
    TotalCount(u64),
    /// The `TotalCount` of the whole app, in spite of the filter.
    AppTotalCount,

    /// An incomplete list that is consistent. A hash of the id and the seed selects one group of this many, which all
    /// pages and all counts leave out. The pass ends with a `Next` of 0.
    Partial(u64),
    /// The page begins with three more entries whose `GroupId` is not valid text: an escaped high surrogate without a
    /// low one, an escaped low surrogate, and bytes that are not UTF-8. `TotalCount` does not count them.
    BrokenIds,
    /// An endless list. The page has as many ids as the request allows, and no group ever had one of them. Every
    /// answer has other ids and another `Next`, which is never 0. `TotalCount` is 2.
    InventIds,

    /// The code of this group. It overrides the faults that set the code of every group.
    GroupCode(String, i64),
    /// The code of the whole answer about single groups, which means nothing beside what is said of each.
    CodeBesideGroups(i64),
    /// The answer does not tell the types of groups.
    NoGroupTypes,
    /// The code of every group. With code 0 a group that does not exist has the type `Public`.
    EveryGroup(i64),
    /// Every second entry is missing.
    FewerGroups,
    /// The entries are in reverse order.
    OtherOrder,
    /// The code of every group is 99999, which is not documented.
    UnknownCodes,
    /// Groups that exist are answered as absent, and absent ones as existing, with the type `Public`.
    SwappedCodes,
}

impl Fault {
    /// What is sent if nothing of an answer is.
    pub(super) fn instead(&self, uri: &Uri) -> Option<Response> {
        let html = [(CONTENT_TYPE, "text/html")];
        match self {
            Self::Status(status) => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some((status, html, "<html><body>scripted</body></html>").into_response())
            }
            Self::NotJson => {
                Some("{\"ActionStatus\":\"OK\",\"ErrorCode\":0,\"GroupIdList\":[{".into_response())
            }
            Self::HtmlWith200 => Some((html, "<html><body>Please log in</body></html>").into_response()),
            Self::OversizedBody => {
                let body = Body::from(vec![0; OVERSIZED_BYTES]).into_data_stream();
                Some(Body::from_stream(body).into_response())
            }
            Self::Redirect => {
                let location = [(LOCATION, uri.to_string())];
                Some((StatusCode::TEMPORARY_REDIRECT, location).into_response())
            }
            _ => None,
        }
    }

    pub(super) fn leaves_out_one_in(&self) -> Option<u64> {
        match self {
            Self::Partial(many) => Some(*many),
            _ => None,
        }
    }

    /// Applies a fault of the page.
    pub(super) fn apply(&self, draft: &mut Draft) {
        match self {
            Self::EarlyEnd => draft.next = Some(0.into()),
            Self::RepeatCursor => draft.next = Some(draft.page.again.into()),
            Self::NoNext => draft.next = None,
            Self::NextAsText => draft.next = Some(draft.page.next.to_string().into()),
            Self::NextIs(text) => draft.next = Some(text.as_str().into()),
            Self::EmptyPage => {
                draft.page.ids.clear();
                draft.next = Some(draft.page.elsewhere.into());
            }
            Self::EmptyList => {
                draft.page.ids.clear();
                draft.total_count = Some(0);
                draft.next = Some(0.into());
            }
            Self::DuplicateIds => {
                let once = draft.page.ids.clone();
                once.iter().for_each(|id| draft.page.ids.push(id));
            }
            Self::ExtraIds(ids) => ids.iter().for_each(|id| draft.page.ids.push(id)),
            Self::NoTotalCount => draft.total_count = None,
            Self::TotalCount(count) => draft.total_count = Some(*count),
            Self::BrokenIds => draft.broken_ids = true,
            Self::AppTotalCount => draft.total_count = Some(draft.page.app_total),
            _ => {}
        }
    }
}

/// Requests held back: received, but not answered until this is released or dropped.
#[derive(Debug)]
pub struct Held {
    reached: CancellationToken,
    _release: DropGuard,
}

impl Held {
    /// Waits until the first of the requests has come.
    pub async fn reached(&self) {
        self.reached.cancelled().await;
    }

    /// Lets the held requests be answered, and all that come later.
    pub fn release(self) {}
}

/// The server's side of a [`Held`]. Its tokens are used as switches that can be waited for.
#[derive(Clone)]
pub(super) struct Gate {
    reached: CancellationToken,
    released: CancellationToken,
}

impl Gate {
    pub(super) fn new() -> (Self, Held) {
        let gate = Self { reached: CancellationToken::new(), released: CancellationToken::new() };
        let held = Held { reached: gate.reached.clone(), _release: gate.released.clone().drop_guard() };
        (gate, held)
    }

    pub(super) async fn pass(&self) {
        self.reached.cancel();
        self.released.cancelled().await;
    }
}
