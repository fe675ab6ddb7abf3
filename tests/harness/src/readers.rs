//! Guarantees for readers of the views, checked after every crawl of an end-to-end test: the change
//! feed has every event exactly once, and the spans of groups follow from their events.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::store::TestDatabase;

/// A reader of the change feed that remembers the last event it has read.
#[derive(Debug, Default)]
pub struct EventReader {
    seen: Mutex<Vec<i64>>,
}

impl EventReader {
    /// Reads the events after the last one that was read. Asserts that they are new, and that the
    /// table has no other unread event.
    pub async fn read(&self, db: &TestDatabase) {
        let after = self.last();
        let sql = format!("SELECT event_id FROM group_events WHERE event_id > {after} ORDER BY event_id");
        let new: Vec<i64> = db.lines(&sql).await.iter().map(|id| id.parse().unwrap()).collect();
        let seen = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(new);
            seen.clone()
        };
        let all = db.lines("SELECT event_id FROM group_events ORDER BY event_id").await;
        let missed: Vec<&String> =
            all.iter().filter(|id| seen.binary_search(&id.parse().unwrap()).is_err()).collect();
        assert!(missed.is_empty(), "events that the change feed skipped: {missed:?}");
    }

    fn last(&self) -> i64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last().copied().unwrap_or(0)
    }
}

/// Asserts that `group_spans` contains the spans that follow from the events.
pub async fn assert_spans_match_events(db: &TestDatabase) {
    let mut expected: BTreeMap<String, Vec<(String, Option<String>)>> = BTreeMap::new();
    let sql = "SELECT group_id, first_seen_at FROM groups WHERE in_baseline";
    for row in db.rows(sql).await {
        expected.insert(row[0].clone(), vec![(row[1].clone(), None)]);
    }
    for row in db.rows("SELECT group_id, event, occurred_at FROM group_events ORDER BY event_id").await {
        let [id, event, at] = <[String; 3]>::try_from(row).unwrap();
        let spans = expected.entry(id).or_default();
        match event.as_str() {
            "vanished" => end_span(spans, &at),
            "undeleted" => spans.last_mut().unwrap().1 = None,
            "retyped" => {
                end_span(spans, &at);
                begin_span(spans, at);
            }
            _ => begin_span(spans, at),
        }
    }
    let mut actual: BTreeMap<String, Vec<(String, Option<String>)>> = BTreeMap::new();
    let sql = "SELECT group_id, live_from, live_until FROM group_spans
               ORDER BY group_id, live_from, CASE WHEN live_until IS NULL THEN 1 ELSE 0 END, live_until";
    for row in db.rows(sql).await {
        let [id, from, until] = <[String; 3]>::try_from(row).unwrap();
        actual.entry(id).or_default().push((from, Some(until).filter(|until| until != "NULL")));
    }
    assert_eq!(actual, expected, "the spans of groups");
    let types = "SELECT g.group_id FROM groups g JOIN group_spans s
                 ON s.group_id = g.group_id AND s.sdk_app_id = g.sdk_app_id AND s.live_until IS NULL
                 WHERE coalesce(s.group_type, '') <> coalesce(g.group_type, '') OR g.deleted_at IS NOT NULL";
    assert_eq!(
        db.lines(types).await,
        [""; 0],
        "groups whose current span has another type, or that are deleted"
    );
}

fn begin_span(spans: &mut Vec<(String, Option<String>)>, at: String) {
    // Spans do not overlap even if the clock was set back.
    let after = spans.last().and_then(|(_, until)| until.clone()).unwrap_or_default();
    spans.push((at.max(after), None));
}

fn end_span(spans: &mut [(String, Option<String>)], at: &str) {
    let (from, until) = spans.last_mut().unwrap();
    *until = Some(at.to_owned().max(from.clone()));
}
