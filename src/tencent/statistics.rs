//! The JSON of `getappinfo` (document 269/4193): the app's figures of the last 30 days.
//!
//! The documentation shows numbers as strings. Numbers are accepted in both forms. A figure that is
//! not a number from 0 to 2^63 - 1 becomes `None`. The other figures of the day are kept.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::debug;

use super::error::{ApiError, describe_json};
use crate::model::AppStatistics;

/// The URL path of `getappinfo`.
pub const STATISTICS_PATH: &str = "/v4/openconfigsvr/getappinfo";

/// The body of a request: the fields to return.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatisticsRequest {
    request_field: [&'static str; 7],
}

impl StatisticsRequest {
    pub(super) const fn new() -> Self {
        Self {
            request_field: [
                "Date",
                "GroupAllGroupNum",
                "GroupNewGroupNum",
                "GroupDestroyGroupNum",
                "GroupSendMsgGroupNum",
                "CallBackReq",
                "CallBackRsp",
            ],
        }
    }
}

/// The body of an answer. It has no `ActionStatus`. Unknown fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    error_code: Value,
    error_info: Option<String>,
    result: Option<Vec<Entry>>,
}

/// The figures of one day.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    date: Value,
    group_all_group_num: Value,
    group_new_group_num: Value,
    group_destroy_group_num: Value,
    group_send_msg_group_num: Value,
    call_back_req: Value,
    call_back_rsp: Value,
}

/// Reads the days of an answer, in ascending order. Ignores entries without a valid day and entries
/// without any figure. If a day is repeated, its last entry counts.
pub(super) fn read_statistics(body: &[u8]) -> Result<Vec<AppStatistics>, ApiError> {
    let malformed = |what: &str| ApiError::Malformed { what: what.to_owned() };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| describe_json(&error, body))?;
    let code = number(&answer.error_code).ok_or_else(|| malformed("no ErrorCode"))?;
    if code != 0 {
        let info = answer.error_info.unwrap_or_default();
        return Err(ApiError::Answered { code, info, advice: None });
    }
    let entries = answer.result.ok_or_else(|| malformed("no Result"))?;
    let days: BTreeMap<NaiveDate, AppStatistics> =
        entries.iter().filter_map(statistics).map(|statistics| (statistics.day, statistics)).collect();
    Ok(days.into_values().collect())
}

fn statistics(entry: &Entry) -> Option<AppStatistics> {
    let Some(day) = day(&entry.date) else {
        let date: String = entry.date.to_string().chars().take(20).collect();
        debug!(date, "ignoring an entry of getappinfo: its Date is not yyyymmdd");
        return None;
    };
    let figure = |value| number(value).filter(|number| *number >= 0);
    let statistics = AppStatistics {
        day,
        groups: figure(&entry.group_all_group_num),
        groups_created: figure(&entry.group_new_group_num),
        groups_dissolved: figure(&entry.group_destroy_group_num),
        groups_active: figure(&entry.group_send_msg_group_num),
        callbacks_sent: figure(&entry.call_back_req),
        callbacks_answered: figure(&entry.call_back_rsp),
    };
    let figures = [
        statistics.groups,
        statistics.groups_created,
        statistics.groups_dissolved,
        statistics.groups_active,
        statistics.callbacks_sent,
        statistics.callbacks_answered,
    ];
    if figures.iter().all(Option::is_none) {
        debug!(%day, "ignoring an entry of getappinfo: it has no figures");
        return None;
    }
    Some(statistics)
}

/// Returns a number, which may be written as a string.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn day(value: &Value) -> Option<NaiveDate> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let is_date = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_date { NaiveDate::parse_from_str(&text, "%Y%m%d").ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<AppStatistics>, ApiError> {
        read_statistics(body.as_bytes())
    }

    /// Returns the figures of an answer with this result, each with its day.
    fn figures(result: &str) -> Vec<(String, [Option<i64>; 6])> {
        let days = read(&format!(r#"{{"ErrorCode":0,"ErrorInfo":"OK","Result":{result}}}"#)).unwrap();
        let figures = |day: AppStatistics| {
            let AppStatistics { groups, groups_created, groups_dissolved, groups_active, .. } = day;
            let groups = [groups, groups_created, groups_dissolved, groups_active];
            let [all, new, gone, active] = groups;
            (day.day.to_string(), [all, new, gone, active, day.callbacks_sent, day.callbacks_answered])
        };
        days.into_iter().map(figures).collect()
    }

    #[test]
    fn the_documented_example_is_parsed() {
        let example = r#"[{"APNSMsgNum":"22","Date":"20160607","GroupAllGroupNum":"41913",
            "GroupNewGroupNum":"35904","GroupDestroyGroupNum":"35019","GroupSendMsgGroupNum":"5189",
            "CallBackReq":"73069","CallBackRsp":"72902","ActiveUserNum":"23948"}]"#;
        let expected = [41913, 35904, 35019, 5189, 73069, 72902].map(Some);
        assert_eq!(figures(example), [("2016-06-07".to_owned(), expected)]);
    }

    #[test]
    fn a_figure_is_a_number_or_a_string_and_anything_else_is_not_reported() {
        let groups = |value: &str| {
            figures(&format!(r#"[{{"Date":20260301,"CallBackReq":7,"GroupAllGroupNum":{value}}}]"#))[0].1[0]
        };
        for seven in ["7", r#""7""#, r#"" 7 ""#, r#""007""#] {
            assert_eq!(groups(seven), Some(7), "{seven}");
        }
        for nothing in [
            "-7",
            r#""-7""#,
            "7.5",
            r#""""#,
            r#""seven""#,
            "null",
            "true",
            "[7]",
            r#"{"n":7}"#,
            "9223372036854775808",
            r#""99999999999999999999""#,
            "99999999999999999999",
        ] {
            assert_eq!(groups(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn entries_without_a_day_or_without_figures_are_ignored_and_the_last_entry_of_a_day_counts() {
        let with = |date: &str| format!(r#"[{{"Date":{date},"GroupAllGroupNum":"7"}}]"#);
        for bad in [
            r#""2026-03-01""#,
            r#""20260231""#,
            r#""2026030""#,
            r#""+2026301""#,
            r#""""#,
            "null",
            "-20260301",
            "{}",
        ] {
            assert_eq!(figures(&with(bad)), [], "{bad}");
        }
        assert_eq!(figures(r#"[{"Date":"20260301"},{}]"#), []);
        let days = figures(
            r#"[{"Date":"20260302","CallBackReq":1},{"Date":"20260301","CallBackReq":2},{"Date":"20260302","CallBackReq":3}]"#,
        );
        let days: Vec<_> = days.iter().map(|(day, figures)| (day.as_str(), figures[4])).collect();
        assert_eq!(days, [("2026-03-01", Some(2)), ("2026-03-02", Some(3))]);
    }

    #[test]
    fn an_answer_needs_an_error_code_and_a_result_and_no_action_status() {
        assert_eq!(figures("[]"), []);
        assert_eq!(read(r#"{"ErrorCode":"0","Result":[]}"#).unwrap(), []);
        let refused = read(r#"{"ErrorCode":60006,"ErrorInfo":"no"}"#).unwrap_err();
        assert_eq!(refused.code(), Some(60006));
        for bad in [
            "",
            "<html></html>",
            "[]",
            "{}",
            r#"{"ErrorCode":0}"#,
            r#"{"Result":[]}"#,
            r#"{"ErrorCode":0,"Result":null}"#,
            r#"{"ErrorCode":0,"Result":{}}"#,
            r#"{"ErrorCode":0,"Result":[7]}"#,
        ] {
            assert!(matches!(read(bad), Err(ApiError::Malformed { .. })), "{bad}");
        }
    }
}
