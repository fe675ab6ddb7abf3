//! The simulator's `get_appid_group_list` (document 269/1614).

use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::{Deserialize, Serialize, Serializer};

use super::app::{SimulatedApp, lock};
use super::catalog::{Page, PageRequest};
use super::fault::Fault;
use super::random::invented_id;
use super::refusal::{Refusal, parse};
use super::request::SeenRequest;
use crate::model::GroupIds;
use crate::tencent::wire::MAX_LIMIT;

/// The body of a list request. All its fields are optional.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListBody {
    limit: u32,
    next: u64,
    group_type: Option<String>,
}

impl Default for ListBody {
    fn default() -> Self {
        Self { limit: MAX_LIMIT, next: 0, group_type: None }
    }
}

/// The fields of an answer that faults can change.
struct Draft {
    page: Page,
    total_count: Option<u64>,
    next: Option<serde_json::Value>,
    broken_ids: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    action_status: &'static str,
    error_info: &'static str,
    error_code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_count: Option<u64>,
    #[serde(serialize_with = "entries")]
    group_id_list: &'a GroupIds,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<serde_json::Value>,
}

fn entries<S: Serializer>(ids: &GroupIds, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry<'a> {
        group_id: &'a str,
    }
    serializer.collect_seq(ids.iter().map(|group_id| Entry { group_id }))
}

impl SimulatedApp {
    /// Logs a list request. Returns its body, or why it is refused.
    pub(super) fn receive_list(
        &self,
        authenticated: Result<(), Refusal>,
        body: &[u8],
    ) -> (SeenRequest, Result<ListBody, Refusal>) {
        let body = parse::<ListBody>(body).and_then(|body| {
            let is_valid = (1..=MAX_LIMIT).contains(&body.limit);
            if is_valid { Ok(body) } else { Err(Refusal(10004, "Limit must be between 1 and 10000")) }
        });
        let mut traffic = lock(&self.traffic);
        let arrived_at = Instant::now();
        let (group_type, limit, next) =
            body.as_ref().map_or((None, 0, 0), |body| (body.group_type.clone(), body.limit, body.next));
        let request = traffic.log_list(arrived_at, group_type, limit, next);
        let admitted = authenticated.and_then(|()| {
            let is_too_early =
                self.settings.min_interval.is_some_and(|interval| !traffic.admit_list(arrived_at, interval));
            // The documentation does not say which code the rate limit has. It describes 10006 with
            // this call as the example.
            if is_too_early { Err(Refusal(10006, "operations come too frequently")) } else { Ok(()) }
        });
        (request, admitted.and(body))
    }

    /// Returns the body of an answer.
    pub(super) fn list(
        &self,
        request_number: u64,
        request_body: &ListBody,
        faults: &[Fault],
    ) -> Result<Vec<u8>, Refusal> {
        let filter = request_body.group_type.as_deref().filter(|_| !faults.contains(&Fault::IgnoreGroupType));
        if filter.is_some_and(|group_type| !lock(&self.groups).catalog().knows_type(group_type)) {
            return Err(Refusal(10004, "unknown GroupType"));
        }
        let leave_out_one_in: Vec<u64> = faults
            .iter()
            .filter_map(|fault| match fault {
                Fault::Partial(n) => Some(*n),
                _ => None,
            })
            .collect();
        let request = PageRequest {
            request_number,
            filter,
            next: request_body.next,
            limit: request_body.limit as usize,
            leave_out_one_in: &leave_out_one_in,
        };
        let page = self
            .read_groups(faults, |groups| groups.page(request))
            .ok_or(Refusal(10004, "unknown Next for this GroupType"))?;
        let mut draft = Draft {
            total_count: Some(page.total_count),
            next: Some(page.next.into()),
            page,
            broken_ids: false,
        };
        for fault in faults {
            match fault {
                Fault::InventIds => self.invent_ids(&mut draft, request_body),
                fault => apply(fault, &mut draft),
            }
        }
        let body = serialize(draft);
        if body.len() <= self.settings.max_answer_bytes {
            Ok(body)
        } else {
            Err(Refusal(10018, "the answer would be too large"))
        }
    }

    /// Replaces the ids of the page by ids that no group has, and `Next` by a fresh cursor.
    fn invent_ids(&self, draft: &mut Draft, request_body: &ListBody) {
        let community = request_body.group_type.as_deref() == Some("Community");
        let first = self.invented.fetch_add(request_body.limit.into(), Ordering::Relaxed);
        draft.page.ids.clear();
        for n in first..first + u64::from(request_body.limit) {
            draft.page.ids.push(&invented_id(community, n, self.settings.seed));
        }
        // A low count, so that only the client's own limits end the list.
        draft.total_count = Some(2);
        draft.next = Some(draft.page.fresh_cursor.into());
    }
}

/// Applies a fault of the page. Ignores other faults.
fn apply(fault: &Fault, draft: &mut Draft) {
    match fault {
        Fault::EarlyEnd => draft.next = Some(0.into()),
        Fault::RepeatCursor => draft.next = Some(draft.page.same_page_cursor.into()),
        Fault::NoNext => draft.next = None,
        Fault::NextAsText => draft.next = Some(draft.page.next.to_string().into()),
        Fault::NextIs(text) => draft.next = Some(text.as_str().into()),
        Fault::EmptyPage => {
            draft.page.ids.clear();
            draft.next = Some(draft.page.alternative_cursor.into());
        }
        Fault::EmptyList => {
            draft.page.ids.clear();
            draft.total_count = Some(0);
            draft.next = Some(0.into());
        }
        Fault::DuplicateIds => {
            let once = draft.page.ids.clone();
            once.iter().for_each(|id| draft.page.ids.push(id));
        }
        Fault::ExtraIds(ids) => ids.iter().for_each(|id| draft.page.ids.push(id)),
        Fault::NoTotalCount => draft.total_count = None,
        Fault::TotalCount(count) => draft.total_count = Some(*count),
        Fault::BrokenIds => draft.broken_ids = true,
        Fault::AppTotalCount => draft.total_count = Some(draft.page.app_total),
        _ => {}
    }
}

fn serialize(draft: Draft) -> Vec<u8> {
    let mut body = serde_json::to_vec(&Answer {
        action_status: "OK",
        error_info: "",
        error_code: 0,
        total_count: draft.total_count,
        group_id_list: &draft.page.ids,
        next: draft.next,
    })
    .expect("strings and numbers always serialise");
    if draft.broken_ids {
        add_broken_ids(&mut body, draft.page.ids.is_empty());
    }
    body
}

/// Inserts entries whose ids are not valid text at the beginning of the list. They are inserted
/// into the serialised body, because the serialiser cannot write such ids.
fn add_broken_ids(body: &mut Vec<u8>, list_is_empty: bool) {
    const LIST: &[u8] = br#""GroupIdList":["#;
    const ENTRIES: &[u8] = b"{\"GroupId\":\"\\ud800x\"},{\"GroupId\":\"\\udc00\"},{\"GroupId\":\"\xFF\xFE\"}";
    let list_at = body.windows(LIST.len()).position(|bytes| bytes == LIST).expect("every page has a list");
    let at = list_at + LIST.len();
    let comma: &[u8] = if list_is_empty { b"" } else { b"," };
    body.splice(at..at, [ENTRIES, comma].concat());
}
