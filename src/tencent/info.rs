//! The JSON of `get_group_info` (document 269/1616), and the conversion of details.

use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::model::GroupDetails;

/// The URL path of `get_group_info`.
pub const GROUP_INFO_PATH: &str = "/v4/group_open_http_svc/get_group_info";

/// The maximum number of groups in one `get_group_info` request.
pub const MAX_INFO_IDS: usize = 50;

/// The fields of `GroupBaseInfoFilter` for details.
const DETAIL_FIELDS: [&str; 9] = [
    "Type",
    "Name",
    "Introduction",
    "Owner_Account",
    "CreateTime",
    "LastInfoTime",
    "LastMsgTime",
    "MemberNum",
    "MaxMemberNum",
];

/// The maximum length of a text in characters. The API's own limits are lower. This limit bounds
/// the memory that an answer of a broken server takes.
const MAX_CHARACTERS: usize = 1000;
/// The greatest time in unix seconds: the end of the year 9999. Later times have no text in RFC
/// 3339.
const MAX_SECONDS: i64 = 253_402_300_799;
/// The type whose groups have no member count.
const WITHOUT_MEMBER_COUNT: &str = "AVChatRoom";

/// The body of a `get_group_info` request. Without a filter the API sends all fields, including the
/// members.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InfoRequest<'a> {
    pub group_id_list: &'a [&'a str],
    response_filter: ResponseFilter,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResponseFilter {
    group_base_info_filter: &'static [&'static str],
}

impl<'a> InfoRequest<'a> {
    /// Requests only the types of these groups.
    #[must_use]
    pub fn types_of(ids: &'a [&'a str]) -> Self {
        Self::new(ids, &["Type"])
    }

    /// Requests the types and the details of these groups.
    #[must_use]
    pub fn details_of(ids: &'a [&'a str]) -> Self {
        Self::new(ids, &DETAIL_FIELDS)
    }

    fn new(ids: &'a [&'a str], fields: &'static [&'static str]) -> Self {
        Self { group_id_list: ids, response_filter: ResponseFilter { group_base_info_filter: fields } }
    }
}

/// The body of a `get_group_info` answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InfoAnswer {
    /// Meaningful only if there is no `GroupInfo`.
    pub error_code: Option<i64>,
    pub error_info: Option<String>,
    pub group_info: Option<Vec<InfoEntry>>,
}

/// The entry of one group. The details are absent unless they were requested.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InfoEntry {
    pub group_id: String,
    pub error_code: Option<i64>,
    #[serde(rename = "Type")]
    pub group_type: Option<String>,
    pub name: Option<Text>,
    #[serde(rename = "Owner_Account")]
    pub owner: Option<Text>,
    pub introduction: Option<Text>,
    pub create_time: Option<Number>,
    pub last_msg_time: Option<Number>,
    pub last_info_time: Option<Number>,
    pub member_num: Option<Number>,
    pub max_member_num: Option<Number>,
}

/// A text that the databases can store. NUL characters and invalid Unicode are replaced by U+FFFD,
/// and a long text is truncated.
#[derive(Debug)]
pub struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as bytes, because a lone surrogate in a string would make the entire answer fail.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
        let text = String::from_utf8_lossy(bytes);
        let storable = text.chars().map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c });
        Ok(Text(storable.take(MAX_CHARACTERS).collect()))
    }
}

/// A JSON number, or a string that contains a number. `None` if the number is negative or not an
/// integer of 63 bits.
#[derive(Debug)]
pub struct Number(Option<i64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
        Ok(Number(number.try_into().ok()))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_f64<E>(self, _fraction: f64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Number, E> {
        Ok(Number(text.parse().ok().filter(|number| *number >= 0)))
    }
}

/// Returns the details in an entry of a group that exists.
pub(super) fn details(entry: &InfoEntry) -> GroupDetails {
    // An empty text means that the group has none.
    let text =
        |field: &Option<Text>| field.as_ref().map(|Text(text)| text.clone()).filter(|text| !text.is_empty());
    let number = |field: &Option<Number>| field.as_ref().and_then(|Number(number)| *number);
    let millis = |field| {
        let seconds = number(field).filter(|seconds| (1..=MAX_SECONDS).contains(seconds));
        seconds.map(|seconds| seconds * 1000)
    };
    let has_member_count = entry.group_type.as_deref() != Some(WITHOUT_MEMBER_COUNT);
    GroupDetails {
        name: text(&entry.name),
        owner: text(&entry.owner),
        introduction: text(&entry.introduction),
        created_at: millis(&entry.create_time),
        last_message_at: millis(&entry.last_msg_time),
        info_changed_at: millis(&entry.last_info_time),
        member_count: number(&entry.member_num).filter(|_| has_member_count),
        max_member_count: number(&entry.max_member_num).filter(|_| has_member_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> GroupDetails {
        let json = format!(r#"{{"GroupId":"a","ErrorCode":0{fields}}}"#);
        details(&serde_json::from_slice(json.as_bytes()).unwrap())
    }

    #[test]
    fn a_request_for_types_selects_only_the_type() {
        let request = serde_json::to_value(InfoRequest::types_of(&["a", "b"])).unwrap();
        let expected = serde_json::json!({
            "GroupIdList": ["a", "b"], "ResponseFilter": { "GroupBaseInfoFilter": ["Type"] }
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn details_have_unix_milliseconds_and_numbers() {
        let entry = r#","Type":"Public","Name":"fishing","Owner_Account":"leckie","Introduction":"hello",
            "CreateTime":1700000000,"LastMsgTime":1700000001,"LastInfoTime":1700000002,
            "MemberNum":12,"MaxMemberNum":"200","Unknown":{}"#;
        let expected = GroupDetails {
            name: Some("fishing".to_owned()),
            owner: Some("leckie".to_owned()),
            introduction: Some("hello".to_owned()),
            created_at: Some(1_700_000_000_000),
            last_message_at: Some(1_700_000_001_000),
            info_changed_at: Some(1_700_000_002_000),
            member_count: Some(12),
            max_member_count: Some(200),
        };
        assert_eq!(parse(entry), expected);
    }

    #[test]
    fn absent_null_empty_and_impossible_values_are_unknown() {
        let none = GroupDetails::default();
        assert_eq!(parse(""), none);
        assert_eq!(parse(r#","Name":null,"Owner_Account":"","CreateTime":null,"MemberNum":null"#), none);
        assert_eq!(parse(r#","CreateTime":0,"LastMsgTime":-5,"LastInfoTime":99999999999999"#), none);
        assert_eq!(parse(r#","MemberNum":-1,"MaxMemberNum":1.5"#), none);
        assert_eq!(parse(r#","MemberNum":18446744073709551615,"MaxMemberNum":"many""#), none);
    }

    #[test]
    fn a_live_room_has_no_member_count() {
        let room = parse(r#","Type":"AVChatRoom","MemberNum":0,"MaxMemberNum":0"#);
        assert_eq!(room, GroupDetails::default());
    }

    #[test]
    fn a_name_that_a_database_cannot_store_is_repaired() {
        let name = |name: &str| parse(&format!(r#","Name":"{name}""#)).name.unwrap();
        assert_eq!(name(r"a\u0000b"), "a\u{fffd}b");
        assert_eq!(name(r"\ud83d\ude00"), "\u{1f600}");
        assert!(name(r"lone \ud800").starts_with("lone \u{fffd}"));
        assert_eq!(name("\u{202e}bidi"), "\u{202e}bidi");
        assert_eq!(name(&"x".repeat(5000)).len(), 1000);
    }
}
