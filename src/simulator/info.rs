//! The simulator's `get_group_info` (document 269/1616).

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::app::{SimulatedApp, lock};
use super::fault::Fault;
use super::refusal::{Refusal, parse};
use super::request::SeenRequest;
use crate::tencent::info::MAX_INFO_IDS;

/// An undocumented code.
const UNKNOWN_CODE: i64 = 99999;

/// The earliest generated creation time, in unix seconds: 2025-01-01.
const FIRST_CREATED: u64 = 1_735_689_600;

/// The type of a group that a fault reports as existing.
const INVENTED_TYPE: &str = "Public";

/// The body of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InfoBody {
    group_id_list: Vec<String>,
    #[serde(default)]
    response_filter: ResponseFilter,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResponseFilter {
    group_base_info_filter: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    action_status: &'static str,
    error_code: i64,
    error_info: &'static str,
    group_info: Vec<Entry<'a>>,
}

/// The part of an answer about one group.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    group_id: &'a str,
    error_code: i64,
    error_info: &'static str,
    #[serde(rename = "Type", skip_serializing_if = "Option::is_none")]
    group_type: Option<String>,
    /// The requested details.
    #[serde(flatten)]
    details: Map<String, Value>,
    /// The code that the group would have if it did not exist.
    #[serde(skip)]
    absent_code: i64,
}

impl Entry<'_> {
    fn set_code(&mut self, code: i64) {
        self.error_code = code;
        if code == 0 {
            self.group_type.get_or_insert_with(|| INVENTED_TYPE.to_owned());
        }
    }
}

impl SimulatedApp {
    /// Logs a request. Returns its body, or why it is refused.
    pub(super) fn receive_info(
        &self,
        authenticated: Result<(), Refusal>,
        body: &[u8],
    ) -> (SeenRequest, Result<InfoBody, Refusal>) {
        let body = parse::<InfoBody>(body).and_then(|body| {
            let is_valid = (1..=MAX_INFO_IDS).contains(&body.group_id_list.len());
            if is_valid { Ok(body) } else { Err(Refusal(10004, "GroupIdList must have 1 to 50 groups")) }
        });
        let groups = body.as_ref().map_or_else(|_| Vec::new(), |body| body.group_id_list.clone());
        let mut traffic = lock(&self.traffic);
        let arrived_at = Instant::now();
        let request = traffic.log_info(arrived_at, groups);
        let admitted = authenticated.and_then(|()| {
            let limit = self.settings.info_per_second;
            let is_over_limit = limit.is_some_and(|limit| !traffic.admit_info(arrived_at, limit));
            if is_over_limit { Err(Refusal(60011, "too many requests for this SDKAppID")) } else { Ok(()) }
        });
        (request, admitted.and(body))
    }

    /// Returns the body of an answer.
    pub(super) fn group_info(&self, request_body: &InfoBody, faults: &[Fault]) -> Vec<u8> {
        let mut entries = self.read_groups(faults, |groups| -> Vec<Entry<'_>> {
            let entry = |id| {
                let group_type = groups.type_of(id).map(str::to_owned);
                let absent_code = self.settings.absent.of(id);
                let error_code = if group_type.is_some() { 0 } else { absent_code };
                let details = Map::new();
                Entry { group_id: id, error_code, error_info: "", group_type, details, absent_code }
            };
            request_body.group_id_list.iter().map(String::as_str).map(entry).collect()
        });
        // Codes for single groups are applied last, because they override codes for all groups.
        // They are applied in reverse, so that the code that was scripted first takes precedence.
        let (for_one, for_all): (Vec<_>, Vec<_>) =
            faults.iter().partition(|fault| matches!(fault, Fault::GroupCode(..)));
        for fault in for_all.into_iter().chain(for_one.into_iter().rev()) {
            apply(fault, &mut entries);
        }

        let filter = request_body.response_filter.group_base_info_filter.as_deref();
        let with_types = filter.is_none_or(|fields| fields.iter().any(|field| field == "Type"))
            && !faults.contains(&Fault::NoGroupTypes);
        for entry in &mut entries {
            if let Some(group_type) = entry.group_type.as_deref().filter(|_| entry.error_code == 0) {
                entry.details = generated_details(entry.group_id, group_type);
                entry.details.extend(self.details_of(entry.group_id));
                entry.details.retain(|field, _| filter.is_none_or(|fields| fields.contains(field)));
            }
            entry.group_type.take_if(|_| entry.error_code != 0 || !with_types);
        }
        let code = faults.iter().find_map(|fault| match fault {
            Fault::CodeBesideGroups(code) => Some(*code),
            _ => None,
        });
        let answer = Answer {
            action_status: if code.is_some() { "FAIL" } else { "OK" },
            error_code: code.unwrap_or(0),
            error_info: "",
            group_info: entries,
        };
        serde_json::to_vec(&answer).expect("strings and numbers always serialise")
    }
}

/// Returns details that are computed from the id. The API does not count the members of live rooms.
fn generated_details(id: &str, group_type: &str) -> Map<String, Value> {
    let number = id.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let created = FIRST_CREATED + number % (365 * 24 * 3600);
    let mut details = Map::from_iter([
        ("Name".to_owned(), Value::from(format!("Group {}", number % 10_000))),
        ("Introduction".to_owned(), Value::from("")),
        ("Owner_Account".to_owned(), Value::from(format!("user_{}", number % 500))),
        ("CreateTime".to_owned(), Value::from(created)),
        ("LastInfoTime".to_owned(), Value::from(created)),
        (
            "LastMsgTime".to_owned(),
            Value::from(if number.is_multiple_of(7) { 0 } else { created + number % 86_400 }),
        ),
    ]);
    if group_type != "AVChatRoom" {
        details.insert("MemberNum".to_owned(), Value::from(number % 200 + 1));
        details
            .insert("MaxMemberNum".to_owned(), Value::from(if group_type == "Private" { 200 } else { 2000 }));
    }
    details
}

/// Applies a fault of the entries. Ignores other faults.
fn apply(fault: &Fault, entries: &mut Vec<Entry<'_>>) {
    match fault {
        Fault::EveryGroup(code) => entries.iter_mut().for_each(|entry| entry.set_code(*code)),
        Fault::UnknownCodes => entries.iter_mut().for_each(|entry| entry.set_code(UNKNOWN_CODE)),
        Fault::SwappedCodes => {
            for entry in entries {
                entry.set_code(if entry.error_code == 0 { entry.absent_code } else { 0 });
            }
        }
        Fault::GroupCode(id, code) => {
            entries
                .iter_mut()
                .filter(|entry| entry.group_id == id)
                .for_each(|entry| entry.error_code = *code);
        }
        Fault::FewerGroups => {
            let mut nth = 0;
            entries.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
        Fault::ReverseOrder => entries.reverse(),
        _ => {}
    }
}
