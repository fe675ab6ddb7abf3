//! Raw answers of the API, for `check --probe`: the JSON as the server sent it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::Client;
use super::error::{ApiError, describe_json};
use super::info::{GROUP_INFO_PATH, InfoRequest};
use super::wire::{LIST_GROUPS_PATH, ListRequest};
use crate::pace::Disposition;

/// An API call that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `get_appid_group_list`.
    List,
    /// `get_group_info`.
    Info,
}

impl Call {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "get_appid_group_list",
            Self::Info => "get_group_info",
        }
    }

    /// Returns the documented top-level fields (documents 269/1614 and 269/1616).
    #[must_use]
    pub fn documented_fields(self) -> &'static [&'static str] {
        match self {
            Self::List => &["ActionStatus", "ErrorCode", "ErrorInfo", "GroupIdList", "Next", "TotalCount"],
            Self::Info => &["ActionStatus", "ErrorCode", "ErrorInfo", "GroupInfo"],
        }
    }

    /// Returns the documented fields of an entry that the request selects.
    #[must_use]
    pub fn requested_entry_fields(self) -> &'static [&'static str] {
        match self {
            Self::List => &["GroupId"],
            Self::Info => &["GroupId", "ErrorCode", "ErrorInfo", "Type"],
        }
    }

    /// Returns the documented fields of an entry that the request does not select.
    #[must_use]
    pub fn filtered_entry_fields(self) -> &'static [&'static str] {
        match self {
            Self::List => &[],
            Self::Info => &[
                "AppDefinedData",
                "ApplyJoinOption",
                "CreateTime",
                "FaceUrl",
                "InfoSeq",
                "Introduction",
                "InviteJoinOption",
                "LastInfoTime",
                "LastMsgTime",
                "MaxMemberNum",
                "MemberList",
                "MemberNum",
                "Name",
                "NextMsgSeq",
                "Notification",
                "Owner_Account",
                "ShutUpAllMember",
            ],
        }
    }

    fn entries_field(self) -> &'static str {
        match self {
            Self::List => "GroupIdList",
            Self::Info => "GroupInfo",
        }
    }
}

/// A form of random group ids that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownId {
    Default,
    Community,
    Custom,
    TooLong,
    ControlCharacter,
}

impl UnknownId {
    pub const ALL: [Self; 5] =
        [Self::Default, Self::Community, Self::Custom, Self::TooLong, Self::ControlCharacter];

    /// Returns a random id of this form, with at least 12 random characters, so that no group has
    /// it by chance.
    #[must_use]
    pub fn random(self) -> String {
        match self {
            Self::Default => format!("@TGS#{}", random_text(12)),
            Self::Community => format!("@TGS#_@TGS#{}", random_text(12)),
            Self::Custom => format!("probe-{}", random_text(20)),
            // Custom ids have at most 48 bytes (document 269/1502).
            Self::TooLong => format!("probe-{}", random_text(58)),
            // Custom ids are printable ASCII. In JSON the character is written as \u0001.
            Self::ControlCharacter => format!("probe-{}\u{1}", random_text(20)),
        }
    }
}

fn random_text(length: usize) -> String {
    const CHARACTERS: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    (0..length).map(|_| char::from(CHARACTERS[rand::random_range(0..CHARACTERS.len())])).collect()
}

/// An answer as the server sent it.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    pub call: Call,
    pub status: u16,
    /// The `Date` header.
    pub date: Option<String>,
    pub body: Value,
}

/// The page in a raw answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub total_count: Option<u64>,
    pub ids: Vec<String>,
    pub next: Option<u64>,
}

/// The entry of one group in a raw `get_group_info` answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub group_id: Option<String>,
    pub code: Option<i64>,
    pub group_type: Option<String>,
}

impl RawAnswer {
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.body["ErrorCode"].as_i64()
    }

    #[must_use]
    pub fn action_status(&self) -> Option<&str> {
        self.body["ActionStatus"].as_str()
    }

    /// Returns the page. A missing or invalid field is left empty.
    #[must_use]
    pub fn listed(&self) -> Listed {
        let ids = self.entries().into_iter().flatten().filter_map(|entry| text(entry, "GroupId")).collect();
        let next = &self.body["Next"];
        Listed {
            total_count: self.body["TotalCount"].as_u64(),
            ids,
            next: next.as_u64().or_else(|| next.as_str()?.parse().ok()),
        }
    }

    /// Returns the entries of `GroupInfo`, or `None` if the answer has no such list.
    #[must_use]
    pub fn group_entries(&self) -> Option<Vec<Entry>> {
        let read = |entry: &Value| Entry {
            group_id: text(entry, "GroupId"),
            code: entry["ErrorCode"].as_i64(),
            group_type: text(entry, "Type"),
        };
        Some(self.entries()?.iter().map(read).collect())
    }

    /// Returns the names of the top-level fields.
    #[must_use]
    pub fn fields(&self) -> BTreeSet<String> {
        names(&self.body).collect()
    }

    /// Returns the names of the fields of all entries.
    #[must_use]
    pub fn entry_fields(&self) -> BTreeSet<String> {
        self.entries().into_iter().flatten().flat_map(names).collect()
    }

    /// Returns an error if the answer has a code of a transient failure and no entries, so that a
    /// retry may succeed.
    #[must_use]
    pub fn transient_failure(&self) -> Option<ApiError> {
        let error = match self.code() {
            Some(code) if self.entries().is_none() => {
                ApiError::Answered { code, info: String::new(), advice: None }
            }
            _ => return None,
        };
        let is_transient = matches!(error.disposition(), Disposition::Retry | Disposition::Throttle { .. });
        is_transient.then_some(error)
    }

    fn entries(&self) -> Option<&Vec<Value>> {
        self.body[self.call.entries_field()].as_array()
    }
}

fn text(entry: &Value, field: &str) -> Option<String> {
    entry[field].as_str().map(str::to_owned)
}

fn names(object: &Value) -> impl Iterator<Item = String> {
    object.as_object().into_iter().flat_map(|fields| fields.keys().cloned())
}

impl Client {
    /// Requests one page and returns the raw answer.
    pub async fn list_raw(&self, request: &ListRequest) -> Result<RawAnswer, ApiError> {
        self.raw(Call::List, LIST_GROUPS_PATH, request).await
    }

    /// Requests the types of single groups and returns the raw answer.
    pub async fn group_info_raw(&self, ids: &[&str]) -> Result<RawAnswer, ApiError> {
        self.raw(Call::Info, GROUP_INFO_PATH, &InfoRequest::types_of(ids)).await
    }

    async fn raw(
        &self,
        call: Call,
        path: &str,
        request: &(impl serde::Serialize + Sync),
    ) -> Result<RawAnswer, ApiError> {
        let response = self.exchange(path, request, &self.usersig()).await?;
        let status = response.status.as_u16();
        match serde_json::from_slice(&response.body) {
            Ok(body) => Ok(RawAnswer { call, status, date: response.date, body }),
            Err(_) if !response.status.is_success() => Err(ApiError::Status { host: self.host(), status }),
            Err(error) => Err(describe_json(&error, &response.body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(call: Call, body: Value) -> RawAnswer {
        RawAnswer { call, status: 200, date: None, body }
    }

    #[test]
    fn missing_and_invalid_fields_of_a_page_are_empty() {
        let body = json!({
            "ErrorCode": 0, "TotalCount": 2, "Next": u64::MAX, "RequestId": "r",
            "GroupIdList": [{ "GroupId": "a", "Type": "Public" }, { "GroupId": "b" }, {}],
        });
        let page = answer(Call::List, body);
        let expected =
            Listed { total_count: Some(2), ids: vec!["a".to_owned(), "b".to_owned()], next: Some(u64::MAX) };
        assert_eq!(page.listed(), expected);
        assert!(page.fields().contains("RequestId") && page.entry_fields().contains("Type"));
        assert_eq!(answer(Call::List, json!({ "Next": "7" })).listed().next, Some(7));
        for nonsense in [json!([]), json!("text"), json!(null), json!({ "GroupIdList": 7 })] {
            assert_eq!(answer(Call::List, nonsense).listed(), Listed::default());
        }
    }

    #[test]
    fn an_answer_without_entries_has_none() {
        let answered = answer(Call::Info, json!({ "GroupInfo": [{ "GroupId": "a", "ErrorCode": 10010 }] }));
        let entry = Entry { group_id: Some("a".to_owned()), code: Some(10010), group_type: None };
        assert_eq!(answered.group_entries(), Some(vec![entry]));
        assert_eq!(answer(Call::Info, json!({ "ErrorCode": 10007 })).group_entries(), None);
    }

    #[test]
    fn only_transient_codes_without_entries_are_failures() {
        let failure = |body| answer(Call::Info, body).transient_failure().and_then(|error| error.code());
        assert_eq!(failure(json!({ "ErrorCode": 10006 })), Some(10006));
        assert_eq!(failure(json!({ "ErrorCode": 10002 })), Some(10002));
        assert_eq!(failure(json!({ "ErrorCode": 10002, "GroupInfo": [] })), None);
        assert_eq!(failure(json!({ "ErrorCode": 10015 })), None);
        assert_eq!(failure(json!({ "ErrorCode": 0 })), None);
    }

    #[test]
    fn unknown_ids_have_their_documented_forms() {
        let [default, community, custom, too_long, control] = UnknownId::ALL.map(UnknownId::random);
        assert!(default.starts_with("@TGS#") && default.len() == 17, "{default}");
        assert!(community.starts_with("@TGS#_") && community.len() <= 48, "{community}");
        assert!(!custom.starts_with("@TGS#") && custom.len() <= 48, "{custom}");
        assert!(too_long.len() > 48 && control.chars().any(char::is_control));
        assert_ne!(UnknownId::Default.random(), default);
    }
}
