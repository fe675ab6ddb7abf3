//! The JSON of `get_appid_group_list` (document 269/1614).

use std::fmt;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::model::{GroupIds, is_group_id};

/// The URL path of `get_appid_group_list`.
pub const LIST_GROUPS_PATH: &str = "/v4/group_open_http_svc/get_appid_group_list";

/// The maximum number of groups in one page, which is also the API's default.
pub const MAX_LIMIT: u32 = 10_000;

/// The body of a list request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListRequest {
    pub limit: u32,
    /// 0 for the first page, otherwise the `Next` of the previous answer, which is an opaque
    /// number.
    pub next: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_type: Option<String>,
}

/// The body of a list answer. All fields are optional, because a broken server may omit any of
/// them. The client checks that the required ones are present. Unknown fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListAnswer {
    pub action_status: Option<String>,
    pub error_code: Option<i64>,
    pub error_info: Option<String>,
    pub total_count: Option<u64>,
    pub group_id_list: Option<ListedIds>,
    #[serde(default, deserialize_with = "number_or_numeric_string")]
    pub next: Option<u64>,
}

/// The ids of one page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListedIds {
    pub ids: GroupIds,
    /// The number of ids that were dropped because they are not valid, see [`is_group_id`].
    pub unusable: u64,
}

impl<'de> Deserialize<'de> for ListedIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = ListedIds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects with a GroupId")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<ListedIds, A::Error> {
        let mut listed = ListedIds::default();
        while entries.next_element_seed(EntrySeed(&mut listed))?.is_some() {}
        // Several pages may be in memory at the same time, so unused capacity is released.
        listed.ids.shrink_to_fit();
        Ok(listed)
    }
}

/// Deserialises one `{"GroupId": "…"}` directly into the list of ids, without allocating a string
/// for it.
struct EntrySeed<'a>(&'a mut ListedIds);

impl<'de> de::DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a GroupId")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(is_group_id) = fields.next_key_seed(IsGroupId)? {
            if is_group_id && !found {
                fields.next_value_seed(IdSeed(&mut *self.0))?;
                found = true;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(de::Error::missing_field("GroupId")) }
    }
}

/// Deserialises the name of a field into whether it is `GroupId`.
struct IsGroupId;

impl<'de> de::DeserializeSeed<'de> for IsGroupId {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for IsGroupId {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == "GroupId")
    }
}

/// Deserialises the value of `GroupId` into the list of ids.
struct IdSeed<'a>(&'a mut ListedIds);

impl<'de> de::DeserializeSeed<'de> for IdSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Read as bytes, because invalid UTF-8 or a lone surrogate in a string would make the
        // entire page fail.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IdSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a group id")
    }

    fn visit_bytes<E>(self, id: &[u8]) -> Result<(), E> {
        match std::str::from_utf8(id) {
            Ok(id) if is_group_id(id) => self.0.ids.push(id),
            _ => self.0.unusable += 1,
        }
        Ok(())
    }
}

fn number_or_numeric_string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct CursorVisitor;

    impl<'de> Visitor<'de> for CursorVisitor {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an unsigned 64-bit number")
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(Some).map_err(|_| de::Error::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    deserializer.deserialize_any(CursorVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ListAnswer, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn the_documented_example_is_parsed() {
        // The example of 269/1614. Its Next exceeds 32 bits.
        let answer = parse(
            r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"TotalCount":2,
                "GroupIdList":[{"GroupId":"@TGS#2J4SZEAEL"},{"GroupId":"@TGS#2C5SZEAEF"}],"Next":4454685361}"#,
        )
        .unwrap();
        assert_eq!(answer.next, Some(4_454_685_361));
        assert_eq!(answer.total_count, Some(2));
        let listed = answer.group_id_list.unwrap();
        assert_eq!(listed.ids.iter().collect::<Vec<_>>(), ["@TGS#2J4SZEAEL", "@TGS#2C5SZEAEF"]);
    }

    #[test]
    fn a_cursor_is_an_unsigned_64_bit_number_or_a_string_with_one() {
        assert_eq!(parse(r#"{"Next":18446744073709551615}"#).unwrap().next, Some(u64::MAX));
        assert_eq!(parse(r#"{"Next":"18446744073709551615"}"#).unwrap().next, Some(u64::MAX));
        assert_eq!(parse(r#"{"Next":null}"#).unwrap().next, None);
        assert_eq!(parse("{}").unwrap().next, None);
        for bad in
            [r#"{"Next":"soon"}"#, r#"{"Next":-1}"#, r#"{"Next":1.5}"#, r#"{"Next":18446744073709551616}"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_escapes_are_decoded() {
        let answer = parse(
            r#"{"RequestId":"x","GroupIdList":[{"Type":"Public","GroupId":"a\"\u0041 \\","GroupId":"second"}]}"#,
        )
        .unwrap();
        assert_eq!(answer.group_id_list.unwrap().ids.iter().collect::<Vec<_>>(), ["a\"A \\"]);
    }

    #[test]
    fn an_id_with_a_nul_byte_is_counted_and_dropped() {
        let listed = parse(r#"{"GroupIdList":[{"GroupId":"a\u0000b"},{"GroupId":"c"}]}"#)
            .unwrap()
            .group_id_list
            .unwrap();
        assert_eq!((listed.ids.len(), listed.unusable), (1, 1));
    }

    #[test]
    fn an_id_that_is_not_valid_text_is_counted_and_dropped() {
        let mut body =
            br#"{"GroupIdList":[{"GroupId":"\ud800x"},{"GroupId":"\udc00"},{"GroupId":"a"},{"GroupId":""#
                .to_vec();
        body.extend([0xff, 0xfe]);
        body.extend(br#""},{"GroupId":"\ud83d\ude00"}]}"#);
        let answer: ListAnswer = serde_json::from_slice(&body).unwrap();
        let listed = answer.group_id_list.unwrap();
        assert_eq!(listed.ids.iter().collect::<Vec<_>>(), ["a", "\u{1f600}"]);
        assert_eq!(listed.unusable, 3);
    }

    #[test]
    fn an_entry_without_an_id_is_an_error() {
        assert!(parse(r#"{"GroupIdList":[{"Id":"a"}]}"#).is_err());
        assert!(parse(r#"{"GroupIdList":[{"GroupId":7}]}"#).is_err());
        assert!(parse(r#"{"GroupIdList":["a"]}"#).is_err());
    }
}
