//! The invariants that hold after every crawl.

use std::collections::BTreeMap;

use super::{ExistingGroup, Harness, lock};
use crate::readers::assert_spans_match_events;

impl Harness {
    /// Asserts all invariants. No crawl may be running.
    pub async fn assert_invariants(&self) {
        self.assert_rows_are_consistent().await;
        self.assert_events_match_the_table().await;
        assert_spans_match_events(&self.db).await;
        self.assert_crawls_and_days_add_up().await;
        self.assert_no_existing_group_was_deleted().await;
    }

    /// Asserts the invariants that hold at any time, also during a crawl and after a killed one:
    /// the tables are consistent, the views agree with them, and `first_seen_at` and `in_baseline`
    /// of a group never change.
    pub async fn assert_rows_are_consistent(&self) {
        self.db.assert_consistent().await;
        self.event_reader.read(&self.db).await;
        let (now, was_set_back) = self.latest_time.record(self.clock.now());
        let sql = "SELECT group_id, first_seen_at, CASE WHEN in_baseline THEN 'baseline' ELSE 'new' END, last_seen_at,
                          deleted_at, missing_since, group_type, CASE WHEN held THEN 'held' ELSE '' END FROM groups";
        let mut counted: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let (mut live_total, mut missing_total) = (0, 0);
        for row in self.rows(sql).await {
            let [id, first_seen, baseline, last_seen, deleted, missing, group_type, held] =
                <[String; 8]>::try_from(row).unwrap().map(empty_if_null);
            assert!(first_seen <= last_seen && last_seen <= now, "{id}: {first_seen} {last_seen} {now}");
            assert!(deleted.is_empty() || missing.is_empty(), "{id} is both deleted and missing");
            assert!(held.is_empty() || !missing.is_empty(), "{id} is held and not missing");
            assert!(deleted.is_empty() || deleted <= now, "{id}: {deleted}");
            assert!(
                deleted.is_empty() || was_set_back || last_seen <= deleted,
                "{id}: {last_seen} {deleted}"
            );
            let (live, gone) = counted.entry(group_type).or_default();
            *(if deleted.is_empty() { live } else { gone }) += 1;
            live_total += u64::from(deleted.is_empty());
            missing_total += u64::from(!missing.is_empty());
            let origin = (first_seen, baseline);
            let mut origins = lock(&self.origins);
            let known = origins.entry(id.clone()).or_insert_with(|| origin.clone());
            assert_eq!(*known, origin, "first_seen_at or in_baseline of {id} changed");
        }
        let maintained =
            self.rows("SELECT coalesce(group_type, ''), live_count, deleted_count FROM type_status").await;
        for row in maintained {
            let counted = counted.remove(&row[0]).unwrap_or_default();
            assert_eq!((number(&row[1]), number(&row[2])), counted, "the maintained totals of {:?}", row[0]);
        }
        assert_eq!(counted, BTreeMap::new(), "types without maintained totals");
        let maintained = self.lines("SELECT live_count, missing_count FROM app_status").await;
        let counted = format!("{live_total} {missing_total}");
        assert!(maintained.iter().all(|totals| *totals == counted), "{maintained:?}, counted: {counted}");
    }

    /// Asserts that the events of each group are a valid sequence that ends in the state of its
    /// row.
    async fn assert_events_match_the_table(&self) {
        let sql = "SELECT group_id, event, coalesce(old_type, ''), coalesce(new_type, '') FROM group_events ORDER BY event_id";
        let mut histories: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for mut row in self.rows(sql).await {
            histories.entry(row.remove(0)).or_default().push(row);
        }
        let sql =
            "SELECT group_id, CASE WHEN in_baseline THEN 'baseline' ELSE 'new' END, coalesce(group_type, ''),
                          CASE WHEN deleted_at IS NULL THEN '' ELSE 'deleted' END FROM groups";
        for row in self.rows(sql).await {
            let history = histories.remove(&row[0]).unwrap_or_default();
            // A group of the baseline existed before its first event, with an unknown type.
            let (mut live, mut type_name) = (row[1] == "baseline", String::new());
            let mut has_event = false;
            for step in &history {
                let (event, old, new) = (step[0].as_str(), &step[1], &step[2]);
                let possible = match event {
                    "appeared" => !live && !has_event && row[1] == "new",
                    "vanished" | "retyped" => live,
                    "reappeared" => !live && has_event,
                    "undeleted" => !live && has_event && old == new,
                    _ => false,
                };
                let known = |name: &str| !name.is_empty();
                let fits = event == "appeared" || !known(&type_name) || !known(old) || *old == type_name;
                let changes = event != "retyped" || (known(old) && known(new) && old != new);
                assert!(possible && fits && changes, "the history of {}: {history:?}", row[0]);
                (live, has_event) = (event != "vanished", true);
                type_name.clone_from(if event == "vanished" { old } else { new });
            }
            assert_eq!(live, row[3].is_empty(), "the row of {} contradicts its history: {history:?}", row[0]);
            let type_fits = type_name.is_empty() || type_name == row[2];
            assert!(type_fits, "{} has type {:?}, but its history is {history:?}", row[0], row[2]);
        }
        assert_eq!(histories, BTreeMap::new(), "events of groups that do not exist");
        let twice = "SELECT crawl_id, group_id FROM group_events GROUP BY crawl_id, group_id
                     HAVING sum(CASE WHEN event = 'undeleted' THEN 0 ELSE 1 END)
                            > 1 + sum(CASE WHEN event = 'undeleted' THEN 1 ELSE 0 END)";
        assert_eq!(self.lines(twice).await, [""; 0], "groups with two events of one crawl");
    }

    /// Asserts that no crawl is running, that the counts of every crawl equal its events, and that
    /// the counts of the days equal those of the crawls.
    async fn assert_crawls_and_days_add_up(&self) {
        let today = self.today().date;
        assert_eq!(self.value("SELECT count(*) FROM crawls WHERE status = 'running'").await, "0");
        for event in ["appeared", "vanished", "reappeared", "retyped"] {
            let unequal = format!(
                "SELECT crawl_id, {event} FROM crawls c WHERE {event} <>
                 (SELECT count(*) FROM group_events e WHERE e.crawl_id = c.crawl_id AND e.event = '{event}')"
            );
            assert_eq!(self.lines(&unequal).await, [""; 0], "crawls whose count of {event} groups is wrong");
            let all = self.value(&format!("SELECT count(*) FROM group_events WHERE event = '{event}'")).await;
            let days = self.value(&format!("SELECT coalesce(sum({event}), 0) FROM daily_counts")).await;
            assert_eq!(days, all, "the number of {event} groups of all days");
        }
        let stale = format!(
            "SELECT d.group_type, d.live_groups, s.live_count FROM daily_counts d
             JOIN type_status s ON coalesce(s.group_type, '') = coalesce(d.group_type, '')
             WHERE d.day = '{today}' AND d.live_groups <> s.live_count"
        );
        assert_eq!(self.lines(&stale).await, [""; 0], "today's live_groups differ from type_status");
    }

    /// Asserts that no crawl since the last check marked a group deleted that existed throughout
    /// the crawl.
    ///
    /// With `deletion.confirm` there is one exception: `get_group_info` itself is wrong. Without it
    /// there are three:
    /// - The lists are consistently wrong.
    /// - The group was recreated with another type during the crawl, so it may be in no list.
    /// - The group's type has no pass, and it was stored with another type whose pass does not list
    ///   it.
    pub(super) async fn assert_no_existing_group_was_deleted(&self) {
        let last: i64 = self.value("SELECT coalesce(max(crawl_id), 0) FROM crawls").await.parse().unwrap();
        let checked = std::mem::replace(&mut *lock(&self.last_checked), last);
        let deleted = self
            .rows(&format!(
                "SELECT group_id, old_type FROM group_events WHERE event = 'vanished' AND crawl_id > {checked}"
            ))
            .await;
        let mut api_state = lock(&self.api_state);
        api_state.retain_existing(&self.api);
        for row in deleted {
            let Some(ExistingGroup { group_type, retyped }) = api_state.existing.get(&row[0]) else {
                continue;
            };
            if api_state.info_is_wrong {
                *lock(&self.wrong_deletions) += 1;
                continue;
            }
            assert!(!self.deletion.confirm, "{} existed throughout and was deleted", row[0]);
            if api_state.lists_are_wrong || *retyped {
                continue;
            }
            let has_a_pass = self.group_types.iter().any(|configured| configured.as_str() == group_type);
            let as_known = row[1] == *group_type || row[1] == "NULL";
            assert!(!has_a_pass && !as_known, "{} existed throughout and was deleted", row[0]);
        }
    }
}

fn empty_if_null(text: String) -> String {
    if text == "NULL" { String::new() } else { text }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}
