//! The simulator's `getappinfo` (document 269/4193): the figures of the last 30 days, which follow
//! from the creations and dissolutions of groups.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, Days, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{SimulatedApp, lock};
use super::fault::Fault;
use super::refusal::{Refusal, parse};
use super::request::SeenRequest;
use crate::model::LocalDay;

/// The number of days in an answer. The last one is the day before the request.
const DAYS: u64 = 30;

/// The body of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatisticsBody {
    /// The fields to return. Without it, all fields are returned.
    request_field: Option<Vec<String>>,
}

/// The numbers of created and dissolved groups by day, in Beijing time.
#[derive(Default)]
pub(super) struct History(BTreeMap<NaiveDate, Changes>);

#[derive(Clone, Copy, Default)]
struct Changes {
    created: u64,
    dissolved: u64,
}

impl History {
    pub(super) fn add(&mut self, at: DateTime<Utc>, created: usize, dissolved: usize) {
        if created + dissolved > 0 {
            let changes = self.0.entry(beijing_day(at)).or_default();
            changes.created += created as u64;
            changes.dissolved += dissolved as u64;
        }
    }

    /// Returns the fields of each of the last days before `today`, in ascending order. There are no
    /// messages. Each creation and each dissolution has one callback, and all are answered.
    fn days(&self, today: NaiveDate) -> Vec<Vec<(&'static str, u64)>> {
        let days = (1..=DAYS).rev().filter_map(|ago| today.checked_sub_days(Days::new(ago)));
        days.map(|day| {
            let Changes { created, dissolved } = self.0.get(&day).copied().unwrap_or_default();
            let groups = self.0.range(..=day).fold(0, |groups: u64, (_, changes)| {
                (groups + changes.created).saturating_sub(changes.dissolved)
            });
            vec![
                ("Date", day.format("%Y%m%d").to_string().parse().unwrap_or_default()),
                ("GroupAllGroupNum", groups),
                ("GroupNewGroupNum", created),
                ("GroupDestroyGroupNum", dissolved),
                ("GroupSendMsgGroupNum", 0),
                ("CallBackReq", created + dissolved),
                ("CallBackRsp", created + dissolved),
            ]
        })
        .collect()
    }
}

fn beijing_day(at: DateTime<Utc>) -> NaiveDate {
    LocalDay::new(at, Tz::Asia__Shanghai).date
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
    pub(super) fn statistics(&self, asked: &StatisticsBody, faults: &[Fault]) -> Vec<u8> {
        let is_sent = |field: &str| {
            let is_asked =
                asked.request_field.as_ref().is_none_or(|fields| fields.iter().any(|f| f == field));
            is_asked && !faults.iter().any(|fault| matches!(fault, Fault::NoStatistic(name) if name == field))
        };
        let days = lock(&self.history).days(beijing_day(self.settings.clock.now()));
        let entry = |fields: Vec<(&str, u64)>| -> Map<String, Value> {
            let sent = fields.into_iter().filter(|(field, _)| is_sent(field));
            sent.map(|(field, number)| (field.to_owned(), json!(number.to_string()))).collect()
        };
        let result: Vec<_> = days.into_iter().map(entry).collect();
        json!({ "ErrorCode": 0, "ErrorInfo": "OK", "Result": result }).to_string().into_bytes()
    }
}
