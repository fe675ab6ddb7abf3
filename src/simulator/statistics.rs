//! The simulator's `getappinfo` (document 269/4193): the figures of the last 30 days, which follow
//! from the creations and dissolutions of groups.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{SimulatedApp, lock};
use super::fault::Fault;
use super::history::HistoryDay;
use super::refusal::{Refusal, parse};
use super::request::SeenRequest;

/// The body of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatisticsBody {
    /// The fields to return. Without it, all fields are returned.
    request_field: Option<Vec<String>>,
}

impl SimulatedApp {
    /// Logs a request. Returns its body, or why it is refused.
    pub(super) fn receive_statistics(
        &self,
        authenticated: Result<(), Refusal>,
        body: &[u8],
    ) -> (SeenRequest, Result<StatisticsBody, Refusal>) {
        let request = lock(&self.traffic).log_statistics(Instant::now());
        (request, authenticated.and_then(|()| parse(body)))
    }

    /// Returns the body of an answer. Numbers are strings, and there is no `ActionStatus`.
    pub(super) fn statistics(&self, request_body: &StatisticsBody, faults: &[Fault]) -> Vec<u8> {
        let is_sent = |field: &str| {
            let is_requested =
                request_body.request_field.as_ref().is_none_or(|fields| fields.iter().any(|f| f == field));
            is_requested
                && !faults.iter().any(|fault| matches!(fault, Fault::NoStatistic(name) if name == field))
        };
        let entry = |day: HistoryDay| -> Map<String, Value> {
            let sent = fields(&day).into_iter().filter(|(field, _)| is_sent(field));
            sent.map(|(field, value)| (field.to_owned(), json!(value))).collect()
        };
        let days = lock(&self.history).last_days(self.settings.clock.now());
        let result: Vec<_> = days.into_iter().map(entry).collect();
        json!({ "ErrorCode": 0, "ErrorInfo": "OK", "Result": result }).to_string().into_bytes()
    }
}

/// Returns the fields of a day. There are no messages. Each creation and each dissolution has one
/// callback, and all callbacks are answered.
fn fields(day: &HistoryDay) -> [(&'static str, String); 7] {
    let HistoryDay { day, groups, created, dissolved } = day;
    let callbacks = (created + dissolved).to_string();
    [
        ("Date", day.format("%Y%m%d").to_string()),
        ("GroupAllGroupNum", groups.to_string()),
        ("GroupNewGroupNum", created.to_string()),
        ("GroupDestroyGroupNum", dissolved.to_string()),
        ("GroupSendMsgGroupNum", "0".to_owned()),
        ("CallBackReq", callbacks.clone()),
        ("CallBackRsp", callbacks),
    ]
}
