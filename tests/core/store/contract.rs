//! The behaviour of the store. Each test runs on both engines.

#![deny(dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use harness::postgres::{PostgresServer, ServerDatabase};
use harness::store::{LeasedApp, Location, TestDatabase, at, day, group_types, sdk_app_id};
use harness::store_tests;
use tim_group_sync::clock::Clock;
use tim_group_sync::confirmation::{LookupHistory, LookupRecord};
use tim_group_sync::model::{
    AppStatistics, Counts, CrawlId, CrawlStatus, GroupIds, LocalDay, ReasonCode, SdkAppId, TypeId, Verdict,
};
use tim_group_sync::reconcile::{Confirmation, Settlement};
use tim_group_sync::roll::Mark;
use tim_group_sync::store::{
    AgeLimits, AppIdentity, Approval, Closing, CrawlDeletions, CrawlEvents, CrawlHistory, DatabaseLocation,
    HistoryChanges, PassRecord, Purged, Reason, RowCounts, Store, StoreError, Written,
};

store_tests![
    an_app_keeps_its_number_when_it_is_renamed,
    a_name_belongs_to_the_app_that_was_registered_with_it_last,
    registering_an_app_again_uses_no_new_ids,
    a_type_that_is_no_longer_configured_is_kept,
    an_app_that_is_not_in_the_configuration_is_shown_as_not_configured_until_it_returns,
    the_first_list_of_a_type_has_no_events,
    a_group_that_is_listed_later_has_appeared,
    listing_the_same_groups_again_changes_nothing,
    a_deleted_group_that_is_listed_again_has_reappeared_under_the_listed_type,
    a_live_group_listed_under_another_type_is_retyped,
    a_type_learned_for_a_group_without_one_is_no_event,
    an_unfiltered_list_keeps_stored_types_also_of_reappeared_groups,
    a_listed_group_is_no_longer_missing,
    ids_are_kept_byte_for_byte,
    more_ids_than_fit_a_statement_are_written_in_one_transaction,
    a_group_in_two_batches_is_written_once,
    apps_do_not_see_each_others_groups,
    a_complete_crawl_without_unlisted_groups_deletes_nothing,
    an_exact_absence_deletes_at_once_and_last_seen_at_is_the_last_conclusion_of_the_type,
    a_group_absent_from_a_moving_list_is_missing_first_and_then_vanished,
    a_missing_group_keeps_its_last_seen_at,
    a_failed_crawl_concludes_nothing_and_records_its_counts_and_reason,
    a_crawl_is_closed_once_and_a_second_end_writes_nothing,
    running_crawls_of_ended_processes_are_closed_by_the_next_crawl,
    a_tick_is_served_by_one_crawl,
    a_day_adds_up_its_crawls_and_keeps_the_last_total_counts,
    a_day_in_the_future_is_replaced_by_the_newest_crawls_day_and_correct_days_are_kept,
    withheld_deletions_leave_groups_live_missing_and_held_until_approved,
    confirmed_deletions_can_be_approved_alone_and_the_others_stay_withheld,
    a_held_group_that_is_listed_again_is_no_longer_held,
    the_lookup_history_of_groups_is_added_replaced_and_removed,
    held_groups_are_due_for_a_question_except_confirmed_and_undone_ones,
    undelete_restores_only_groups_that_were_not_changed_since,
    an_approved_deletion_is_undone_and_approved_again,
    an_undeleted_group_that_is_listed_later_does_not_reappear,
    undoing_deletions_of_groups_that_were_listed_again_changes_nothing,
    forgetting_an_app_removes_all_its_rows_and_no_others,
    forgetting_that_was_aborted_is_finished_later,
    an_app_that_is_partially_forgotten_can_be_crawled_again,
    old_deleted_groups_are_removed_in_batches_and_totals_stay_correct,
    old_events_are_removed_and_newer_ones_and_those_of_other_apps_are_kept,
    old_crawls_are_removed_unless_other_rows_refer_to_them,
    passes_are_visible_in_the_counts_once_the_crawl_has_ended,
    the_state_of_earlier_crawls_is_read_from_those_that_reached_their_end,
    events_of_a_running_crawl_are_not_visible,
    every_live_group_is_read_once_with_its_type_and_marks,
    only_one_of_two_processes_holds_the_lease,
    the_holder_of_the_lease_is_known,
    views_have_the_columns_of_the_contract_in_their_order,
    a_crawl_without_changes_rewrites_no_group,
    the_deletions_of_a_crawl_become_visible_at_once,
    the_overview_has_counts_and_crawls,
    hosts_that_crawl_different_group_types_are_reported,
    a_database_without_tables_is_distinguished_from_a_newer_one,
    tables_of_every_earlier_version_are_migrated_with_their_rows,
    the_printed_sql_creates_the_same_tables,
    two_programs_can_migrate_an_empty_database_at_the_same_time,
];

async fn an_app_keeps_its_number_when_it_is_renamed(db: &TestDatabase) {
    let named = |name: &str| AppIdentity { sdk_app_id: sdk_app_id(), name: name.to_owned() };
    let (first, _) = db.store.register_app(&named("prod"), &[]).await.unwrap();
    let (second, _) = db.store.register_app(&named("live"), &[]).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(db.lines("SELECT app, configured FROM app_status").await, ["live|1"]);
}

async fn a_name_belongs_to_the_app_that_was_registered_with_it_last(db: &TestDatabase) {
    for number in [1, 2, 2, 3, 1] {
        let prod = AppIdentity { sdk_app_id: SdkAppId::new(number).unwrap(), name: "prod".to_owned() };
        db.store.register_app(&prod, &[]).await.unwrap();
    }
    let apps = "SELECT sdk_app_id, app FROM app_status ORDER BY sdk_app_id";
    assert_eq!(db.lines(apps).await, ["1|prod", "2|prod (2)", "3|prod (3)"]);
}

async fn registering_an_app_again_uses_no_new_ids(db: &TestDatabase) {
    let own = group_types(&["Public", "Own1"]);
    let identity = |number: i64| AppIdentity {
        sdk_app_id: SdkAppId::new(number).unwrap(),
        name: format!("app{number}"),
    };
    for _ in 0..5 {
        db.store.register_app(&identity(1), &own).await.unwrap();
    }
    let (_, types) = db.store.register_app(&identity(2), &group_types(&["Own1", "Own2"])).await.unwrap();
    assert_eq!(types.values().map(|type_id| type_id.0).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(db.lines("SELECT app_id FROM app ORDER BY 1").await, ["1", "2"]);
}

async fn a_type_that_is_no_longer_configured_is_kept(db: &TestDatabase) {
    let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    db.store.register_app(&identity, &group_types(&["Public", "Community"])).await.unwrap();
    db.store.register_app(&identity, &group_types(&["Public", "Work"])).await.unwrap();
    assert_eq!(
        db.lines("SELECT group_type, sdk_name, name_zh, configured FROM type_status ORDER BY 1").await,
        ["Community|Community|社群|0", "Private|Work|好友工作群|1", "Public|Public|陌生人社交群|1"]
    );
}

async fn an_app_that_is_not_in_the_configuration_is_shown_as_not_configured_until_it_returns(
    db: &TestDatabase,
) {
    let identity = |number: i64| AppIdentity {
        sdk_app_id: SdkAppId::new(number).unwrap(),
        name: format!("app{number}"),
    };
    for number in [1, 2, 3] {
        db.store.register_app(&identity(number), &[]).await.unwrap();
    }
    db.store.set_configured(&[SdkAppId::new(2).unwrap(), SdkAppId::new(9).unwrap()]).await.unwrap();
    let configured = "SELECT app, configured FROM app_status ORDER BY app";
    assert_eq!(db.lines(configured).await, ["app1|0", "app2|1", "app3|0"]);
    db.store.register_app(&identity(3), &[]).await.unwrap();
    assert_eq!(db.lines(configured).await, ["app1|0", "app2|1", "app3|1"]);
}

async fn the_first_list_of_a_type_has_no_events(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(1, 0)).await;
    let written = leased.list_baseline(crawl, leased.public, at(1, 1), &["b", "a"]).await;
    assert_eq!(written, Written { first_listed: 2, ..Written::default() });
    db.store.end_baseline(&leased.lease, leased.app, leased.public, crawl).await.unwrap();
    let events = leased.complete(crawl, at(1, 0), at(1, 2), &[leased.public]).await;
    assert_eq!(events, CrawlEvents::default());
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|01:01|NULL|NULL|0|1", "b|Public|01:01|01:01|NULL|NULL|0|1"]
    );
    assert!(leased.events().await.is_empty());
    let states = db.store.type_states(leased.app).await.unwrap();
    let past: BTreeMap<TypeId, bool> =
        states.iter().map(|state| (state.type_id(), state.past_baseline())).collect();
    assert_eq!(past, BTreeMap::from([(leased.public, true), (leased.private, false)]));
    // Ending the baseline again does not change its crawl.
    let second = leased.open(at(2, 0)).await;
    db.store.end_baseline(&leased.lease, leased.app, leased.public, second).await.unwrap();
    let first = format!("SELECT baseline_crawl_id FROM type_state WHERE type_id = {}", leased.public.0);
    assert_eq!(db.value(&first).await, crawl.to_string());
}

async fn a_group_that_is_listed_later_has_appeared(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let written = leased.list(crawl, leased.public, at(2, 1), &["a", "b"]).await;
    assert_eq!(written, Written { first_listed: 1, appeared: 1, ..Written::default() });
    let events = leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    assert_eq!(events, CrawlEvents { appeared: 1, ..CrawlEvents::default() });
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|02:00|NULL|NULL|0|1", "b|Public|02:01|02:01|NULL|NULL|0|0"]
    );
    assert_eq!(leased.events().await, [format!("appeared|b|NULL|Public|{crawl}")]);
}

async fn listing_the_same_groups_again_changes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let first = leased.list(crawl, leased.public, at(2, 1), &["a", "b", "p"]).await;
    assert_eq!(first, Written { first_listed: 1, appeared: 1, reappeared: 0, retyped: 1 });
    let rows = db.lines("SELECT * FROM group_row ORDER BY group_id").await;
    let again = leased.list(crawl, leased.public, at(2, 5), &["a", "b", "p"]).await;
    assert_eq!(again, Written::default());
    assert_eq!(db.lines("SELECT * FROM group_row ORDER BY group_id").await, rows);
    assert_eq!(db.value("SELECT count(*) FROM group_event").await, "2");
}

async fn a_deleted_group_that_is_listed_again_has_reappeared_under_the_listed_type(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a", "b"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    db.assert_consistent().await;
    let crawl = leased.open(at(3, 0)).await;
    let written = leased.list(crawl, leased.private, at(3, 1), &["a"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    let written = leased.list(crawl, leased.public, at(3, 1), &["b"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    let events = leased.complete(crawl, at(3, 0), at(3, 2), &[leased.public, leased.private]).await;
    assert_eq!(events, CrawlEvents { reappeared: 2, ..CrawlEvents::default() });
    assert_eq!(
        leased.groups().await,
        ["a|Private|01:01|03:01|NULL|NULL|0|1", "b|Public|01:01|03:01|NULL|NULL|0|1"]
    );
    assert_eq!(
        leased.events().await[2..],
        [format!("reappeared|a|Public|Private|{crawl}"), format!("reappeared|b|Public|Public|{crawl}")]
    );
}

async fn a_live_group_listed_under_another_type_is_retyped(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let written = leased.list(crawl, leased.private, at(2, 1), &["a"]).await;
    assert_eq!(written, Written { retyped: 1, ..Written::default() });
    let events = leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public, leased.private]).await;
    assert_eq!(events, CrawlEvents { retyped: 1, ..CrawlEvents::default() });
    assert_eq!(leased.events().await, [format!("retyped|a|Public|Private|{crawl}")]);
    let counts = "SELECT group_type, live_count FROM type_status ORDER BY group_type";
    assert_eq!(db.lines(counts).await, ["Private|1", "Public|1"]);
}

async fn a_type_learned_for_a_group_without_one_is_no_event(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &[], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, TypeId::UNKNOWN, at(2, 1), &["x", "y"]).await;
    let learned = leased.list(crawl, leased.private, at(2, 2), &["x"]).await;
    assert_eq!(learned, Written::default());
    leased.complete(crawl, at(2, 0), at(2, 3), &[leased.private]).await;
    let shown = db.lines("SELECT group_id, group_type FROM groups ORDER BY group_id").await;
    assert_eq!(shown, ["x|Private", "y|NULL"]);
    assert_eq!(
        leased.events().await,
        [format!("appeared|x|NULL|NULL|{crawl}"), format!("appeared|y|NULL|NULL|{crawl}")]
    );
}

async fn an_unfiltered_list_keeps_stored_types_also_of_reappeared_groups(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["b"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    let written = leased.list(crawl, TypeId::UNKNOWN, at(3, 1), &["a", "b"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    leased.complete(crawl, at(3, 0), at(3, 2), &[leased.public]).await;
    let shown = db.lines("SELECT group_id, group_type, deleted_at FROM groups ORDER BY group_id").await;
    assert_eq!(shown, ["a|Public|NULL", "b|Public|NULL"]);
    assert_eq!(leased.events().await[1..], [format!("reappeared|b|Public|Public|{crawl}")]);
}

async fn a_listed_group_is_no_longer_missing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let missing = leased.settle(&[(leased.public, Verdict::Moving)], &["a", "b"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    db.assert_consistent().await;
    assert_eq!(db.value("SELECT missing_count FROM app_status").await, "2");
    let crawl = leased.open(at(3, 0)).await;
    // One group is listed under its own type, the other under another type.
    assert_eq!(leased.list(crawl, leased.public, at(3, 1), &["a"]).await, Written::default());
    let retyped = leased.list(crawl, leased.private, at(3, 1), &["b"]).await;
    assert_eq!(retyped, Written { retyped: 1, ..Written::default() });
    leased.complete(crawl, at(3, 0), at(3, 2), &[leased.public, leased.private]).await;
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|03:01|NULL|NULL|0|1", "b|Private|01:01|03:01|NULL|NULL|0|1"]
    );
    assert_eq!(db.value("SELECT missing_count FROM app_status").await, "0");
}

async fn ids_are_kept_byte_for_byte(db: &TestDatabase) {
    let long = "x".repeat(128);
    let longest = "y".repeat(255);
    let ids = [
        "@TGS#_@TGS#cQVLVHIM62CJ",
        "A",
        "a",
        "a ",
        " a",
        "a'b",
        "a\"b",
        "a\\b",
        "a\\\\b",
        "{a,b}",
        "NULL",
        "null",
        "[\"a\"]",
        "a;--",
        "$1",
        "%s",
        "ä",
        "a\u{308}",
        "群组",
        "👩‍👩‍👧",
        "\u{200b}",
        "ß",
        "ss",
        &long,
        &longest,
    ];
    let leased = LeasedApp::after_baseline(db, &[], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let written = leased.list(crawl, leased.public, at(2, 1), &ids).await;
    assert_eq!(written.first_listed, ids.len() as u64);
    assert_eq!(leased.list(crawl, leased.public, at(2, 1), &ids).await, Written::default());
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let mut named = Vec::new();
    db.store.gather_live(leased.app, || (), |(), _, id, _| named.push(id.to_owned())).await.unwrap();
    named.sort_unstable();
    assert_eq!(named, sorted);
    assert_eq!(db.lines("SELECT group_id FROM groups ORDER BY group_id").await, sorted);
    // All but one of these ids vanish.
    let gone: Vec<&str> = ids.into_iter().filter(|id| *id != "a ").collect();
    let settlement = leased.settle(&[(leased.public, Verdict::Exact)], &gone).await;
    let events = leased.close(crawl, at(2, 0), at(2, 2), &settlement).await.unwrap();
    assert_eq!(events.vanished.cast_unsigned(), gone.len() as u64);
    assert_eq!(db.lines("SELECT group_id FROM live_groups").await, ["a "]);
}

async fn more_ids_than_fit_a_statement_are_written_in_one_transaction(db: &TestDatabase) {
    let ids: Vec<String> = (0..50_003).map(|n| format!("@TGS#{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(1, 0)).await;
    assert_eq!(leased.list_baseline(crawl, leased.public, at(1, 1), &ids).await.first_listed, 50_003);
    let again = leased.list_baseline(crawl, leased.private, at(1, 2), &ids[..20_001]).await;
    assert_eq!(again, Written { retyped: 20_001, ..Written::default() });
    let mut counted = 0;
    db.store.gather_live(leased.app, || (), |(), _, _, _| counted += 1).await.unwrap();
    assert_eq!(counted, 50_003);
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Moving)];
    let settlement = leased.settle_all(&passes).await;
    let events = leased.close(crawl, at(1, 0), at(1, 3), &settlement).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 30_002, retyped: 20_001, ..CrawlEvents::default() });
    assert_eq!(db.value("SELECT missing_count FROM app_status").await, "20001");
}

async fn a_group_in_two_batches_is_written_once(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &[], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let first = leased.list(crawl, leased.public, at(2, 1), &["a", "b"]).await;
    let second = leased.list(crawl, leased.public, at(2, 2), &["b", "c"]).await;
    assert_eq!((first.appeared, second.appeared), (2, 1));
    assert_eq!(second.first_listed, 1);
}

async fn apps_do_not_see_each_others_groups(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let other = AppIdentity { sdk_app_id: SdkAppId::new(7).unwrap(), name: "test".to_owned() };
    let (app, _) = db.store.register_app(&other, &group_types(&["Public"])).await.unwrap();
    let lease = db.store.try_lease(other.sdk_app_id).await.unwrap().unwrap();
    let other = LeasedApp { db, app, public: leased.public, private: leased.private, lease };
    let crawl = other.open(at(2, 0)).await;
    assert_eq!(other.list(crawl, leased.public, at(2, 1), &["a", "z"]).await.first_listed, 2);
    let settlement = other.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    other.close(crawl, at(2, 0), at(2, 2), &settlement).await.unwrap();
    let shown = db.lines("SELECT app, group_id FROM live_groups ORDER BY app, group_id").await;
    assert_eq!(shown, ["prod|a", "prod|b", "test|z"]);
}

async fn a_complete_crawl_without_unlisted_groups_deletes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let crawls = "SELECT status, deletions, requests, groups_listed, started_at, finished_at, reason FROM crawls WHERE crawl_id = ";
    assert_eq!(
        db.lines(&format!("{crawls}{crawl}")).await,
        ["complete|none|4|6|2026-03-01T02:00:00Z|2026-03-01T02:02:00Z|NULL"]
    );
    // Only the groups of the concluded type have a newer `last_seen_at`.
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|02:00|NULL|NULL|0|1", "p|Private|01:01|01:01|NULL|NULL|0|1"]
    );
    let as_of = db.lines("SELECT group_type, as_of FROM type_status ORDER BY group_type").await;
    assert_eq!(as_of, ["Private|2026-03-01T01:00:00Z", "Public|2026-03-01T02:00:00Z"]);
}

async fn an_exact_absence_deletes_at_once_and_last_seen_at_is_the_last_conclusion_of_the_type(
    db: &TestDatabase,
) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public, leased.private]).await;
    let crawl = leased.open(at(3, 0)).await;
    let gone =
        leased.settle(&[(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)], &["a"]).await;
    let events = leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|03:02|NULL|0|1",
            "b|Public|01:01|03:00|NULL|NULL|0|1",
            "p|Private|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(leased.events().await, [format!("vanished|a|Public|NULL|{crawl}")]);
    let crawls = format!("SELECT status, deletions, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&crawls).await, ["complete|applied|1"]);
    let counts = "SELECT group_type, live_count, deleted_count FROM type_status ORDER BY group_type";
    assert_eq!(db.lines(counts).await, ["Private|1|0", "Public|1|1"]);
}

async fn a_group_absent_from_a_moving_list_is_missing_first_and_then_vanished(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let moving = [(leased.public, Verdict::Moving)];
    let crawl = leased.open(at(2, 0)).await;
    let missing = leased.settle(&moving, &["a"]).await;
    let events = leased.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|01:01|NULL|02:00|0|1", "b|Public|01:01|02:00|NULL|NULL|0|1"]
    );
    let deletions = format!("SELECT status, deletions FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&deletions).await, ["complete|none"]);
    let crawl = leased.open(at(3, 0)).await;
    let gone = leased.settle(&moving, &["a"]).await;
    let events = leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(leased.groups().await[0], "a|Public|01:01|01:01|03:02|NULL|0|1");
}

async fn a_missing_group_keeps_its_last_seen_at(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let crawl = leased.open(at(3, 0)).await;
    let missing = leased.settle(&[(leased.public, Verdict::Moving)], &["a"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &missing).await.unwrap();
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|02:00|NULL|03:00|0|1", "b|Public|01:01|03:00|NULL|NULL|0|1"]
    );
}

async fn a_failed_crawl_concludes_nothing_and_records_its_counts_and_reason(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["b"]).await;
    leased.fail(crawl, at(2, 0), at(2, 2)).await;
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, error_code, reason FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(db.lines(&shown).await, ["failed|NULL|1|timeout|NULL|no answer within 10s"]);
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|01:01|NULL|NULL|0|1", "b|Public|02:01|02:01|NULL|NULL|0|0"]
    );
    let counts = "SELECT total_count, total_count_at_start, listed_count, recorded_at FROM app_counts ORDER BY crawl_id DESC LIMIT 1";
    assert_eq!(db.lines(counts).await, ["8|7|6|2026-03-01T02:02:00Z"]);
    assert_eq!(
        db.lines("SELECT last_complete_crawl_at, last_crawl_status, last_crawl_reason FROM app_status").await,
        ["2026-03-01T01:02:00Z|failed|no answer within 10s"]
    );
}

async fn a_crawl_is_closed_once_and_a_second_end_writes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    let everything = || async {
        let mut all = leased.groups().await;
        all.extend(db.lines("SELECT * FROM crawls ORDER BY crawl_id").await);
        all.extend(db.lines("SELECT * FROM type_status ORDER BY group_type").await);
        all.extend(db.lines("SELECT * FROM daily_counts ORDER BY group_type").await);
        all
    };
    let before = everything().await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    for finished_at in [at(2, 2), at(2, 9)] {
        let again = leased.close(crawl, at(2, 0), finished_at, &gone).await;
        assert!(matches!(again, Err(StoreError::Superseded { crawl: which }) if which == crawl), "{again:?}");
    }
    assert_eq!(everything().await, before);
}

async fn running_crawls_of_ended_processes_are_closed_by_the_next_crawl(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let dead = leased.open(at(2, 0)).await;
    leased.list(dead, leased.public, at(2, 1), &["b"]).await;
    let next = leased.open(at(3, 0)).await;
    assert!(next > dead);
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, reason, finished_at FROM crawls WHERE crawl_id = {dead}"
    );
    assert_eq!(
        db.lines(&shown).await,
        ["failed|NULL|1|process_ended|the process ended before the crawl did|2026-03-01T03:00:00Z"]
    );
    assert_eq!(leased.events().await, [format!("appeared|b|NULL|Public|{dead}")]);
}

async fn a_tick_is_served_by_one_crawl(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    // A crawl that fails does not serve the tick.
    let crawl = leased.try_open(at(2, 0), Some(at(2, 0))).await.unwrap();
    leased.fail(crawl, at(2, 0), at(2, 1)).await;
    let crawl = leased.try_open(at(2, 2), Some(at(2, 0))).await.unwrap();
    leased.complete(crawl, at(2, 2), at(2, 3), &[]).await;
    assert_eq!(leased.try_open(at(2, 4), Some(at(2, 0))).await, None);
    // Crawls without a tick have no influence.
    for minute in [10, 20] {
        let crawl = leased.open(at(3, minute)).await;
        leased.complete(crawl, at(3, minute), at(3, minute + 1), &[]).await;
    }
    let crawl = leased.open(at(3, 30)).await;
    leased.fail(crawl, at(3, 30), at(3, 31)).await;
    assert_eq!(db.store.last_start(leased.app).await.unwrap(), Some(at(3, 20)));
    let dues = db.lines("SELECT trigger, due_at FROM crawls ORDER BY crawl_id").await;
    assert_eq!(
        dues,
        [
            "schedule|2026-03-01T02:00:00Z",
            "schedule|2026-03-01T02:00:00Z",
            "command|NULL",
            "command|NULL",
            "command|NULL"
        ]
    );
}

fn pass(type_id: TypeId, verdict: Option<Verdict>, stated: &[u64], distinct: u64) -> PassRecord {
    let mut counts = Counts::default();
    stated.iter().for_each(|count| counts.add(Some(*count)));
    PassRecord {
        type_id,
        recorded_at: at(2, 1),
        verdict,
        pages: 1,
        counts,
        distinct,
        repeats: 0,
        first_listed: 0,
        unusable: 0,
    }
}

async fn a_day_in_the_future_is_replaced_by_the_newest_crawls_day_and_correct_days_are_kept(
    db: &TestDatabase,
) {
    let leased = LeasedApp::after_baseline(db, &["a"], &[]).await;
    let nothing = Settlement::nothing();
    let close = async |hour, days: i64| {
        let crawl = leased.open(at(hour, 0)).await;
        let closing = leased.closing(crawl, at(hour, 0), at(hour, 1), &nothing);
        let closing =
            Closing { day: LocalDay { date: day().date + TimeDelta::days(days), ..day() }, ..closing };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    };
    let days = "SELECT DISTINCT day FROM daily_counts ORDER BY day";
    close(2, 400).await;
    close(3, 1).await;
    assert_eq!(db.lines(days).await, ["2026-03-01", "2026-03-02"]);
    close(4, 2).await;
    close(5, 3).await;
    close(6, -400).await;
    let kept = db.lines(days).await;
    assert_eq!(kept[1..], ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]);
}

async fn a_day_adds_up_its_crawls_and_keeps_the_last_total_counts(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["c", "d"]).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    let passes = [pass(leased.public, Some(Verdict::Exact), &[9], 9)];
    let closing = Closing { passes: &passes, ..leased.closing(crawl, at(2, 0), at(2, 2), &gone) };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.private, at(3, 1), &["d"]).await;
    // The pass has no TotalCount, so the earlier one is kept.
    let passes = [pass(leased.public, None, &[], 0)];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        status: CrawlStatus::Cancelled,
        ..leased.closing(crawl, at(3, 0), at(3, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let shown = "SELECT day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped
                 FROM daily_counts ORDER BY group_type";
    assert_eq!(db.lines(shown).await, ["2026-03-01|Private|1|NULL|0|0|0|1", "2026-03-01|Public|2|9|2|1|0|0"]);
}

async fn withheld_deletions_leave_groups_live_missing_and_held_until_approved(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let missing = leased.settle(&[(leased.public, Verdict::Moving)], &["b"]).await;
    leased.close(crawl, at(2, 0), at(2, 1), &missing).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    let events = leased.close(crawl, at(3, 0), at(3, 2), &withheld).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|NULL|03:00|1|1",
            "b|Public|01:01|01:01|NULL|02:00|1|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    let shown = format!("SELECT status, deletions, withheld, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&shown).await, ["complete|withheld|2|0"]);
    let mut marks = Vec::new();
    db.store
        .gather_live(leased.app, || (), |(), _, id, mark| marks.push((id.to_owned(), mark)))
        .await
        .unwrap();
    marks.sort_by(|a, b| a.0.cmp(&b.0));
    let held = Mark { missing: true, held: true };
    assert_eq!(marks, [("a".to_owned(), held), ("b".to_owned(), held), ("c".to_owned(), Mark::default())]);

    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!((waiting.withheld, waiting.sdk_app_id()), (2, Some(sdk_app_id())));
    assert_eq!(held_ids(db, &waiting, crawl, Approval::All).await, ["a", "b"]);
    let approve = || db.store.approve(&leased.lease, &waiting, (crawl, Approval::All), at(4, 0), day());
    assert_eq!(approve().await.unwrap(), 2);
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|02:00|04:00|NULL|0|1",
            "b|Public|01:01|01:01|04:00|NULL|0|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(db.lines(&shown).await, ["complete|approved|2|2"]);
    assert_eq!(
        leased.events().await,
        [format!("vanished|a|Public|NULL|{crawl}"), format!("vanished|b|Public|NULL|{crawl}")]
    );
    assert_eq!(approve().await.unwrap(), 0);
    assert_eq!(db.lines(&shown).await, ["complete|approved|2|2"]);
}

async fn held_ids(db: &TestDatabase, of: &CrawlDeletions, crawl: CrawlId, which: Approval) -> Vec<String> {
    let groups = db.store.held_groups(of, crawl, which).await.unwrap();
    groups.into_iter().map(|(id, _)| id).collect()
}

async fn confirmed_deletions_can_be_approved_alone_and_the_others_stay_withheld(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &["p", "q", "r"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let mut withheld = leased.settle(&passes, &["a", "b", "p", "q"]).await;
    withheld.withhold(&[leased.public], Confirmation::On, true);
    withheld.withhold(&[leased.private], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 2), &withheld).await.unwrap();
    let shown = format!(
        "SELECT deletions, vanished, withheld, withheld_confirmed, held_count FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(db.lines(&shown).await, ["withheld|0|4|2|4"]);
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(db.lines(held).await, ["a|1", "b|1", "p|0", "q|0"]);
    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    let all = db.store.held_groups(&waiting, crawl, Approval::All).await.unwrap();
    let expected = [("a", true), ("b", true), ("p", false), ("q", false)];
    assert_eq!(all, expected.map(|(id, confirmed)| (id.to_owned(), confirmed)));
    assert_eq!(held_ids(db, &waiting, crawl, Approval::Confirmed).await, ["a", "b"]);

    let approve = async |which| {
        let approved = db.store.approve(&leased.lease, &waiting, (crawl, which), at(3, 0), day()).await;
        db.assert_consistent().await;
        approved.unwrap()
    };
    assert_eq!(approve(Approval::Confirmed).await, 2);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|2|2"]);
    assert_eq!(db.lines(held).await, ["p|0", "q|0"]);
    assert_eq!(db.lines("SELECT group_id FROM live_groups ORDER BY 1").await, ["c", "p", "q", "r"]);
    assert_eq!(approve(Approval::Confirmed).await, 0);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|2|2"]);

    // A later crawl marks another group as confirmed.
    let history =
        HistoryChanges { round: 2, confirmed_held: ["p", "c"].into_iter().collect(), ..Default::default() };
    close_with_history(&leased, 4, &history).await;
    assert_eq!(db.lines(held).await, ["p|1", "q|0"]);
    assert_eq!(db.lines(&shown).await, ["withheld|2|4|3|2"]);
    assert_eq!(approve(Approval::Confirmed).await, 1);
    assert_eq!(db.lines(&shown).await, ["withheld|3|4|3|1"]);
    assert_eq!(approve(Approval::All).await, 1);
    assert_eq!(db.lines(&shown).await, ["approved|4|4|3|0"]);
}

/// Makes a complete crawl at this hour that lists every live group that is not held and writes
/// these changes of the lookup history.
async fn close_with_history(leased: &LeasedApp<'_>, hour: u32, history: &HistoryChanges) {
    let crawl = leased.open(at(hour, 0)).await;
    let settlement = leased.settle(&[(leased.public, Verdict::Exact)], &[]).await;
    let closing =
        Closing { history: Some(history), ..leased.closing(crawl, at(hour, 0), at(hour, 2), &settlement) };
    leased.db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    leased.db.assert_consistent().await;
}

async fn the_lookup_history_of_groups_is_added_replaced_and_removed(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d"], &[]).await;
    let history = async || {
        let LookupHistory { round, records } = db.store.history(leased.app).await.unwrap();
        (round, records.into_iter().collect::<BTreeMap<String, LookupRecord>>())
    };
    let of = |groups: &[(&str, LookupRecord)]| {
        groups.iter().map(|(id, asked)| ((*id).to_owned(), *asked)).collect()
    };
    let set = |groups: &[(&str, LookupRecord)]| {
        let mut set: BTreeMap<LookupRecord, GroupIds> = BTreeMap::new();
        groups.iter().for_each(|(id, asked)| set.entry(*asked).or_default().push(id));
        set
    };
    assert_eq!(history().await, (1, BTreeMap::new()));
    let (stood, unlearned) =
        (LookupRecord::after_existing(None, 1), LookupRecord::after_unusable_answer(None, 1));
    let kept = [("a", stood), ("b", stood), ("c", unlearned)];
    close_with_history(&leased, 2, &HistoryChanges { round: 1, set: set(&kept), ..Default::default() }).await;
    assert_eq!(history().await, (2, of(&kept)));
    // A failed crawl does not change the history.
    let failed = leased.open(at(3, 0)).await;
    leased.fail(failed, at(3, 0), at(3, 1)).await;
    assert_eq!(history().await, (2, of(&kept)));

    let stood_again = LookupRecord::after_existing(Some(&stood), 2);
    let changes = HistoryChanges {
        round: 2,
        set: set(&[("a", stood_again)]),
        remove: ["b", "never asked about"].into_iter().collect(),
        ..Default::default()
    };
    close_with_history(&leased, 4, &changes).await;
    assert_eq!(history().await, (3, of(&[("a", stood_again), ("c", unlearned)])));

    // A deleted group is removed from the history by the next crawl.
    let crawl = leased.open(at(5, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["c"]).await;
    let prune = HistoryChanges { round: 3, prune: true, ..Default::default() };
    let closing = Closing { history: Some(&prune), ..leased.closing(crawl, at(5, 0), at(5, 2), &gone) };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(history().await, (4, of(&[("a", stood_again)])));
}

async fn held_groups_are_due_for_a_question_except_confirmed_and_undone_ones(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d", "e"], &["p", "q"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let undone = leased.settle(&passes, &["d"]).await;
    leased.close(crawl, at(2, 0), at(2, 1), &undone).await.unwrap();
    let deleted = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.undelete(&leased.lease, &deleted, crawl, at(2, 5), day()).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    let mut withheld = leased.settle(&passes, &["a", "b", "c", "p"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    withheld.withhold(&[leased.private], Confirmation::On, true);
    leased.close(crawl, at(3, 0), at(3, 1), &withheld).await.unwrap();
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(db.lines(held).await, ["a|0", "b|0", "c|0", "d|0", "p|1"]);

    let to_ask = async |round, most| {
        let groups = db.store.held_to_ask(leased.app, round, most).await.unwrap();
        assert!(groups.iter().all(|(_, type_id)| *type_id == leased.public), "{groups:?}");
        groups.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(to_ask(1, 10).await, "a b c");
    let set = BTreeMap::from([
        (LookupRecord::after_unusable_answer(None, 1), ["a"].into_iter().collect()),
        (
            LookupRecord { unusable_streak: 3, round: 1, due_round: 4, ..LookupRecord::default() },
            ["b"].into_iter().collect(),
        ),
    ]);
    close_with_history(&leased, 4, &HistoryChanges { round: 1, set, ..Default::default() }).await;
    assert_eq!(to_ask(1, 10).await, "c");
    assert_eq!(to_ask(2, 10).await, "c a", "groups that were never asked about come first");
    assert_eq!(to_ask(4, 10).await, "c a b");
    assert_eq!(to_ask(4, 2).await, "c a");
}

async fn a_held_group_that_is_listed_again_is_no_longer_held(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 1), &withheld).await.unwrap();
    let next = leased.open(at(3, 0)).await;
    assert_eq!(leased.list(next, leased.public, at(3, 1), &["a"]).await, Written::default());
    leased.complete(next, at(3, 0), at(3, 2), &[leased.public]).await;
    let shown = "SELECT group_id, held, missing_since FROM groups ORDER BY group_id";
    assert_eq!(db.lines(shown).await, ["a|0|NULL", "b|1|2026-03-01T02:00:00Z"]);
    let waiting = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!(held_ids(db, &waiting, crawl, Approval::All).await, ["b"]);
}

async fn undelete_restores_only_groups_that_were_not_changed_since(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c", "d"], &["p"]).await;
    let first = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let gone = leased.settle(&passes, &["a", "b", "p"]).await;
    leased.close(first, at(2, 0), at(2, 2), &gone).await.unwrap();
    // One group returns and is deleted again by another crawl, so undoing the first crawl does not
    // restore it.
    let second = leased.open(at(3, 0)).await;
    leased.list(second, leased.public, at(3, 1), &["b"]).await;
    leased.complete(second, at(3, 0), at(3, 2), &[leased.public]).await;
    let third = leased.open(at(4, 0)).await;
    let gone = leased.settle(&passes, &["b", "c"]).await;
    leased.close(third, at(4, 0), at(4, 2), &gone).await.unwrap();

    let crawl = db.store.crawl_deletions(first).await.unwrap().unwrap();
    assert_eq!((crawl.vanished, crawl.undeleted), (3, 0));
    assert_eq!(db.store.deleted_groups(&crawl, first).await.unwrap(), ["a", "p"]);
    let undelete = || db.store.undelete(&leased.lease, &crawl, first, at(5, 0), day());
    assert_eq!(undelete().await.unwrap(), 2);
    db.assert_consistent().await;
    assert_eq!(
        leased.groups().await,
        [
            "a|Public|01:01|01:01|NULL|02:00|1|1",
            "b|Public|01:01|03:01|04:02|NULL|0|1",
            "c|Public|01:01|03:00|04:02|NULL|0|1",
            "d|Public|01:01|04:00|NULL|NULL|0|1",
            "p|Private|01:01|01:01|NULL|02:00|1|1"
        ]
    );
    let conflicts = leased.events().await;
    assert_eq!(
        conflicts[conflicts.len() - 2..],
        [format!("undeleted|a|Public|Public|{first}"), format!("undeleted|p|Private|Private|{first}")]
    );
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {first}");
    assert_eq!(db.lines(&shown).await, ["withheld|3|2|2"]);
    let days = "SELECT group_type, live_groups, vanished FROM daily_counts ORDER BY group_type";
    assert_eq!(db.lines(days).await, ["Private|1|1", "Public|2|4"]);
    assert_eq!(undelete().await.unwrap(), 0);
    assert_eq!(db.lines(&shown).await, ["withheld|3|2|2"]);
    // The next crawl lacks some of them and does not change them. `approve` deletes them again.
    let next = leased.open(at(6, 0)).await;
    let absent = leased.settle(&passes, &["a", "p"]).await;
    assert_eq!(leased.close(next, at(6, 0), at(6, 2), &absent).await.unwrap(), CrawlEvents::default());
    let crawl = db.store.crawl_deletions(first).await.unwrap().unwrap();
    assert_eq!(
        db.store.approve(&leased.lease, &crawl, (first, Approval::All), at(7, 0), day()).await.unwrap(),
        2
    );
    assert_eq!(db.lines(&shown).await, ["approved|5|2|2"]);
    assert_eq!(db.lines("SELECT group_id FROM live_groups").await, ["d"]);
}

async fn an_approved_deletion_is_undone_and_approved_again(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Exact), (leased.private, Verdict::Exact)];
    let mut gone = leased.settle(&passes, &["a", "b", "p"]).await;
    gone.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = async || db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {crawl}");
    // A group that was deleted at once is withheld after the deletion is undone.
    let undone = db.store.undelete(&leased.lease, &held().await, crawl, at(3, 0), day()).await.unwrap();
    assert_eq!((undone, db.lines(&shown).await.remove(0)), (1, "withheld|1|3|1".to_owned()));
    db.assert_consistent().await;
    for (minute, vanished, undeleted) in [(0, 4, 4), (10, 7, 7)] {
        let approved = db
            .store
            .approve(&leased.lease, &held().await, (crawl, Approval::All), at(4, minute), day())
            .await;
        assert_eq!(approved.unwrap(), 3);
        db.assert_consistent().await;
        let undone = db.store.undelete(&leased.lease, &held().await, crawl, at(4, minute + 5), day()).await;
        assert_eq!(undone.unwrap(), 3);
        db.assert_consistent().await;
        assert_eq!(db.lines(&shown).await, [format!("withheld|{vanished}|3|{undeleted}")]);
    }
    assert_eq!(db.value("SELECT count(*) FROM live_groups WHERE held").await, "3");
}

async fn an_undeleted_group_that_is_listed_later_does_not_reappear(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    db.store.undelete(&leased.lease, &held, crawl, at(3, 0), day()).await.unwrap();
    let next = leased.open(at(4, 0)).await;
    assert_eq!(leased.list(next, leased.public, at(4, 1), &["a"]).await, Written::default());
    leased.complete(next, at(4, 0), at(4, 2), &[leased.public]).await;
    assert_eq!(
        leased.groups().await,
        ["a|Public|01:01|04:01|NULL|NULL|0|1", "b|Public|01:01|04:00|NULL|NULL|0|1"]
    );
}

async fn undoing_deletions_of_groups_that_were_listed_again_changes_nothing(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let next = leased.open(at(3, 0)).await;
    leased.list(next, leased.public, at(3, 1), &["a"]).await;
    leased.complete(next, at(3, 0), at(3, 2), &[leased.public]).await;
    let everything = async || {
        let mut all = leased.groups().await;
        for table in ["crawl", "group_event", "daily_count", "type_state"] {
            all.extend(db.lines(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
        }
        all
    };
    let before = everything().await;
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    assert_eq!(db.store.undelete(&leased.lease, &held, crawl, at(4, 0), day()).await.unwrap(), 0);
    assert_eq!(everything().await, before);
}

/// Creates two apps with rows in every table.
async fn two_apps(db: &TestDatabase) -> [LeasedApp<'_>; 2] {
    let ids: Vec<String> = (0..20_100).map(|n| format!("{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let leased = LeasedApp::after_baseline(db, &ids, &["p"]).await;
    let other = AppIdentity { sdk_app_id: SdkAppId::new(7).unwrap(), name: "other".to_owned() };
    let (app, _) = db.store.register_app(&other, &group_types(&["Public", "Private"])).await.unwrap();
    let lease = db.store.try_lease(other.sdk_app_id).await.unwrap().unwrap();
    let other = LeasedApp { db, app, public: leased.public, private: leased.private, lease };
    let crawl = other.open(at(1, 0)).await;
    other.list(crawl, other.public, at(1, 1), &["a", "b", "000001"]).await;
    other.complete(crawl, at(1, 0), at(1, 2), &[other.public]).await;
    for (leased, gone) in [(&leased, &ids[..12_000]), (&other, &["a"][..])] {
        let crawl = leased.open(at(2, 0)).await;
        leased.list(crawl, leased.public, at(2, 1), &["new"]).await;
        let settlement = leased.settle(&[(leased.public, Verdict::Exact)], gone).await;
        let passes = [pass(leased.public, Some(Verdict::Exact), &[9], 9)];
        let set = BTreeMap::from([(LookupRecord::after_existing(None, 1), ["new"].into_iter().collect())]);
        let history = HistoryChanges { round: 1, set, ..Default::default() };
        let closing = Closing {
            passes: &passes,
            history: Some(&history),
            ..leased.closing(crawl, at(2, 0), at(2, 2), &settlement)
        };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
        let statistics = [AppStatistics {
            day: day().date,
            groups: Some(7),
            groups_created: None,
            groups_dissolved: None,
            groups_active: None,
            callbacks_sent: None,
            callbacks_answered: None,
        }];
        db.store.write_statistics(&leased.lease, leased.app, &statistics, at(2, 3)).await.unwrap();
    }
    [leased, other]
}

/// Returns every table that has rows of apps, with the number of rows of each app.
async fn rows_by_app(db: &TestDatabase) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, of) in [
        ("group_row", "app_id"),
        ("group_event", "app_id"),
        ("group_question", "app_id"),
        ("notification", "(SELECT app_id FROM app a WHERE a.sdk_app_id = r.sdk_app_id)"),
        ("daily_count", "app_id"),
        ("app_statistic", "app_id"),
        ("type_state", "app_id"),
        ("crawl", "app_id"),
        ("app", "app_id"),
        ("crawl_pass", "(SELECT app_id FROM crawl c WHERE c.crawl_id = r.crawl_id)"),
        ("crawl_change", "(SELECT app_id FROM crawl c WHERE c.crawl_id = r.crawl_id)"),
    ] {
        let counted = format!("SELECT {of}, count(*) FROM {table} r GROUP BY 1 ORDER BY 1");
        rows.extend(db.lines(&counted).await.iter().map(|line| format!("{table} {line}")));
    }
    rows
}

async fn forgetting_an_app_removes_all_its_rows_and_no_others(db: &TestDatabase) {
    let [leased, other] = two_apps(db).await;
    let known = db.store.find_apps("prod").await.unwrap();
    assert_eq!(
        known.iter().map(|app| (app.id(), app.name.as_str())).collect::<Vec<_>>(),
        [(leased.app, "prod")]
    );
    assert_eq!(db.store.find_apps("7").await.unwrap()[0].id(), other.app);
    assert!(db.store.find_apps("nobody").await.unwrap().is_empty());
    let row_counts = db.store.row_counts(leased.app).await.unwrap();
    assert_eq!(row_counts, RowCounts { groups: 20_102, events: 12_001, crawls: 2, days: 1 });
    let of_other = format!(" {}|", other.app.0);
    let expected: Vec<String> =
        rows_by_app(db).await.into_iter().filter(|line| line.contains(&of_other)).collect();
    let mut batches = Vec::new();
    db.store.forget(&leased.lease, leased.app, |rows| batches.push(rows)).await.unwrap();
    assert_eq!(rows_by_app(db).await, expected);
    assert!(batches.len() > 4 && batches.iter().all(|rows| *rows <= 10_000), "{batches:?}");
    // Forgetting an app twice does no harm.
    db.store.forget(&leased.lease, leased.app, |_| ()).await.unwrap();
    assert_eq!(rows_by_app(db).await, expected);
}

async fn forgetting_that_was_aborted_is_finished_later(db: &TestDatabase) {
    let [leased, other] = two_apps(db).await;
    forget_partially(&leased).await;
    assert_eq!(db.store.find_apps("prod").await.unwrap().len(), 1);
    let totals = "SELECT sum(live_count + deleted_count) FROM type_state WHERE app_id = ";
    let counted = "SELECT count(*) FROM group_row WHERE app_id = ";
    let left = db.value(&format!("{counted}{}", leased.app.0)).await;
    assert_eq!(db.value(&format!("{totals}{}", leased.app.0)).await, left);
    db.store.forget(&leased.lease, leased.app, |_| ()).await.unwrap();
    assert_eq!(db.lines("SELECT app FROM app_status").await, ["other"]);
    assert_eq!(db.lines("SELECT DISTINCT app_id FROM group_row").await, [other.app.0.to_string()]);
}

async fn an_app_that_is_partially_forgotten_can_be_crawled_again(db: &TestDatabase) {
    let [leased, _other] = two_apps(db).await;
    forget_partially(&leased).await;
    let states = db.store.type_states(leased.app).await.unwrap();
    assert!(states.iter().all(|state| !state.past_baseline()), "{states:?}");
    let crawl = leased.open(at(5, 0)).await;
    leased.list_baseline(crawl, leased.public, at(5, 1), &["000000", "new"]).await;
    leased.complete(crawl, at(5, 0), at(5, 2), &[leased.public]).await;
    db.store.forget(&leased.lease, leased.app, |_| ()).await.unwrap();
}

/// Starts to forget the app, and aborts when the first groups are removed.
async fn forget_partially(leased: &LeasedApp<'_>) {
    let (db, app) = (leased.db, leased.app);
    let stop = tokio_util::sync::CancellationToken::new();
    let groups = db.store.row_counts(app).await.unwrap().groups.unsigned_abs();
    let mut removed = 0;
    let forgetting = db.store.forget(&leased.lease, app, |rows| {
        removed += rows;
        // The other tables have fewer rows than this, so groups are removed by now.
        if removed > groups {
            stop.cancel();
        }
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        done = forgetting => panic!("forgetting was not aborted: {done:?}"),
    }
}

async fn old_deleted_groups_are_removed_in_batches_and_totals_stay_correct(db: &TestDatabase) {
    let [leased, other] = two_apps(db).await;
    let crawl = leased.open(at(3, 0)).await;
    let gone = leased.settle(&[(leased.private, Verdict::Exact)], &["p"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    // Each transaction is reported, also the last one, which removes nothing.
    for (minute, groups, transactions) in [(2, 0, 1), (3, 12_000, 3)] {
        let limits = AgeLimits { deleted_groups: Some(at(2, minute)), ..AgeLimits::default() };
        let mut each = 0;
        let purged = db.store.purge(&leased.lease, (leased.app, crawl), &limits, || each += 1).await.unwrap();
        assert_eq!((purged, each), (Purged { groups, ..Purged::default() }, transactions));
    }
    let left = format!(
        "SELECT group_id, deleted_at FROM group_row WHERE app_id = {} AND deleted_at IS NOT NULL",
        leased.app.0
    );
    assert_eq!(db.lines(&left).await.len(), 1);
    let noted =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&noted).await, ["12000|0|0"]);
    assert_eq!(db.value("SELECT sum(deleted_count) FROM type_status WHERE app = 'other'").await, "1");
    drop(other);
}

async fn old_events_are_removed_and_newer_ones_and_those_of_other_apps_are_kept(db: &TestDatabase) {
    let [leased, _other] = two_apps(db).await;
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.public, at(3, 1), &["newer"]).await;
    leased.complete(crawl, at(3, 0), at(3, 2), &[leased.public]).await;
    let limits = AgeLimits { events: Some(at(3, 1)), ..AgeLimits::default() };
    let purged = db.store.purge(&leased.lease, (leased.app, crawl), &limits, || ()).await.unwrap();
    assert_eq!(purged, Purged { events: 12_001, ..Purged::default() });
    let left = "SELECT app, group_id FROM group_events ORDER BY app, group_id";
    assert_eq!(
        db.lines(left).await,
        ["other|000001", "other|a", "other|a", "other|b", "other|new", "prod|newer"]
    );
    assert_eq!(
        db.store.purge(&leased.lease, (leased.app, crawl), &limits, || ()).await.unwrap(),
        Purged::default()
    );
    let noted =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(db.lines(&noted).await, ["0|12001|0"]);
}

async fn old_crawls_are_removed_unless_other_rows_refer_to_them(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &[]).await;
    let passes = [pass(leased.public, Some(Verdict::Exact), &[9], 9)];
    let close = async |hour, status, leftover, settlement: &Settlement| {
        let crawl = leased.open(at(hour, 0)).await;
        let closing = leased.closing(crawl, at(hour, 0), at(hour, 1), settlement);
        let closing = Closing { passes: &passes, status, leftover, ..closing };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
        crawl
    };
    let nothing = Settlement::nothing();
    let exact = [(leased.public, Verdict::Exact)];
    close(2, CrawlStatus::Complete, Some(0), &nothing).await;
    let with_event = close(3, CrawlStatus::Complete, None, &leased.settle(&exact, &["a"]).await).await;
    let mut held = leased.settle(&exact, &["b"]).await;
    held.withhold(&[leased.public], Confirmation::Off, true);
    let holding = close(4, CrawlStatus::Complete, None, &held).await;
    close(5, CrawlStatus::Failed, None, &nothing).await;
    let leftover = close(6, CrawlStatus::Incomplete, Some(3), &nothing).await;
    let incomplete = close(7, CrawlStatus::Incomplete, None, &nothing).await;
    close(8, CrawlStatus::Failed, None, &nothing).await;
    let failed = close(9, CrawlStatus::Failed, None, &nothing).await;
    let complete = close(10, CrawlStatus::Complete, None, &nothing).await;
    let running = leased.open(at(11, 0)).await;
    let before =
        (db.store.crawl_history(leased.app).await.unwrap(), db.store.last_start(leased.app).await.unwrap());
    let days = day().date.succ_opt().unwrap();
    let limits = AgeLimits { counts: Some((at(12, 0), days)), ..AgeLimits::default() };
    let purged = db.store.purge(&leased.lease, (leased.app, running), &limits, || ()).await.unwrap();
    // Removed: three crawls, their passes, the passes of a crawl that is kept for its event, and
    // two types of one day.
    assert_eq!(purged, Purged { counts: 3 + 3 + 1 + 2, ..Purged::default() });
    let first = db.value("SELECT min(crawl_id) FROM crawl").await.parse().unwrap();
    let expected =
        [first, with_event.0, holding.0, leftover.0, incomplete.0, failed.0, complete.0, running.0];
    assert_eq!(db.lines("SELECT crawl_id FROM crawl ORDER BY 1").await, expected.map(|id| id.to_string()));
    let after =
        (db.store.crawl_history(leased.app).await.unwrap(), db.store.last_start(leased.app).await.unwrap());
    assert_eq!(after, before);
    assert!(db.lines("SELECT * FROM daily_counts").await.is_empty());
    leased.fail(running, at(11, 0), at(11, 1)).await;
}

async fn passes_are_visible_in_the_counts_once_the_crawl_has_ended(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(2, 0)).await;
    let shown =
        "SELECT group_type, total_count, total_count_min, total_count_max, listed_count, verdict, recorded_at
                 FROM type_counts ORDER BY group_type";
    assert!(db.lines(shown).await.is_empty());
    assert!(db.lines("SELECT * FROM app_counts").await.is_empty());
    let passes = [
        pass(leased.public, Some(Verdict::Moving), &[7, 9, 8], 9),
        pass(leased.private, Some(Verdict::Rejected), &[], 0),
        pass(TypeId::UNKNOWN, Some(Verdict::Exact), &[20], 20),
    ];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        total_at_end: None,
        total_at_start: Some(u64::MAX),
        ..leased.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(
        db.lines(shown).await,
        [
            "Private|NULL|NULL|NULL|0|rejected|2026-03-01T02:01:00Z",
            "Public|8|7|9|9|moving|2026-03-01T02:01:00Z"
        ]
    );
    // A TotalCount that exceeds the range of the column is stored as the largest value.
    assert_eq!(db.value("SELECT total_count FROM app_counts").await, i64::MAX.to_string());
}

async fn the_state_of_earlier_crawls_is_read_from_those_that_reached_their_end(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    assert_eq!(db.store.crawl_history(leased.app).await.unwrap(), CrawlHistory::default());
    assert_eq!(db.store.last_start(leased.app).await.unwrap(), None);
    let close = async |hour, status, leftover| {
        let crawl = leased.open(at(hour, 0)).await;
        let nothing = Settlement::nothing();
        let closing =
            Closing { status, leftover, ..leased.closing(crawl, at(hour, 0), at(hour, 1), &nothing) };
        db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
        db.store.crawl_history(leased.app).await.unwrap()
    };
    let past = |crawled_before, leftover_last_time| CrawlHistory {
        crawled_before,
        leftover_last_time,
        unfiltered_next: false,
    };
    assert_eq!(close(2, CrawlStatus::Failed, None).await, past(false, false));
    assert_eq!(close(3, CrawlStatus::Incomplete, Some(3)).await, past(true, true));
    assert_eq!(close(4, CrawlStatus::Failed, None).await, past(true, true));
    assert_eq!(close(5, CrawlStatus::Complete, Some(0)).await, past(true, false));
}

async fn events_of_a_running_crawl_are_not_visible(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &[], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["a"]).await;
    assert!(leased.events().await.is_empty());
    assert_eq!(db.lines("SELECT group_id FROM live_groups").await, ["a"]);
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    assert_eq!(leased.events().await.len(), 1);
}

async fn every_live_group_is_read_once_with_its_type_and_marks(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b", "c"], &["p", "q"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let passes = [(leased.public, Verdict::Moving), (leased.private, Verdict::Moving)];
    let missing = leased.settle(&passes, &["b", "q"]).await;
    leased.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    let crawl = leased.open(at(3, 0)).await;
    leased.list(crawl, leased.private, at(3, 1), &["q"]).await;
    let gone = leased.settle(&[(leased.private, Verdict::Exact)], &["p"]).await;
    leased.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    let mut named = Vec::new();
    let naming = db.store.gather_live(
        leased.app,
        || (),
        |(), type_id, id, mark| named.push((id.to_owned(), type_id, mark)),
    );
    naming.await.unwrap();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let plain = Mark::default();
    assert_eq!(
        named,
        [
            ("a".to_owned(), leased.public, plain),
            ("b".to_owned(), leased.public, Mark { missing: true, held: false }),
            ("c".to_owned(), leased.public, plain),
            ("q".to_owned(), leased.private, plain),
        ]
    );
}

async fn only_one_of_two_processes_holds_the_lease(db: &TestDatabase) {
    let other = db.open_another_store().await;
    let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    assert!(other.try_lease(sdk_app_id()).await.unwrap().is_none());
    assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
    // Each app has its own lease.
    assert!(other.try_lease(SdkAppId::new(7).unwrap()).await.unwrap().is_some());
    let mut notices = 0;
    let waiting = other.lease(sdk_app_id(), |waits| {
        assert_eq!(waits, notices);
        notices += 1;
    });
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lease.release(Clock::system().now(), Duration::from_millis(400)).await;
        std::time::Instant::now()
    };
    let (taken, released) = tokio::join!(waiting, releasing);
    let taken = taken.unwrap();
    assert!(notices >= 1);
    let first_request = released.elapsed() + taken.pause(Clock::system().now());
    assert!(first_request >= Duration::from_millis(380), "{first_request:?}");
}

async fn the_holder_of_the_lease_is_known(db: &TestDatabase) {
    let other = db.open_another_store().await;
    assert_eq!(other.lease_holder(sdk_app_id()).await.unwrap(), None);
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(Clock::system().now()).await;
    let holder = other.lease_holder(sdk_app_id()).await.unwrap().expect("the lease is held");
    assert!(!holder.host.is_empty());
    let since = Clock::system().now() - holder.since.expect("the lease states its start");
    assert!(since.abs() < chrono::Duration::seconds(60), "{since}");
    leased.fail(crawl, at(2, 0), at(2, 1)).await;
    leased.lease.release(Clock::system().now(), Duration::ZERO).await;
    assert_eq!(other.lease_holder(sdk_app_id()).await.unwrap(), None);
}

async fn views_have_the_columns_of_the_contract_in_their_order(db: &TestDatabase) {
    let groups =
        "group_id group_type first_seen_at in_baseline last_seen_at deleted_at missing_since held confirmed";
    for (view, columns) in [
        ("groups", groups),
        ("live_groups", groups),
        ("group_events", "event_id occurred_at group_id event old_type new_type crawl_id"),
        ("app_counts", "recorded_at total_count total_count_at_start listed_count crawl_id"),
        (
            "type_counts",
            "recorded_at group_type total_count total_count_min total_count_max listed_count verdict crawl_id",
        ),
        (
            "daily_counts",
            "day group_type live_groups total_count appeared vanished reappeared retyped live_before net_growth \
             timezone complete_crawls",
        ),
        (
            "crawls",
            "crawl_id trigger due_at started_at finished_at status deletions requests groups_listed appeared vanished \
             reappeared retyped withheld reason_code error_code reason host version undeleted spared purged_groups \
             purged_events purged_counts day duration_seconds held_count asked confirmed unlearned unasked \
             withheld_confirmed",
        ),
        (
            "app_status",
            "configured live_count missing_count last_complete_crawl_at last_crawl_status last_crawl_deletions \
             last_crawl_reason last_crawl_at running_since total_count held_count details_count oldest_details_at",
        ),
        (
            "type_status",
            "group_type sdk_name name_zh live_count deleted_count as_of configured missing_count total_count",
        ),
        ("group_lifetimes", "group_id group_type first_seen_at deleted_at lifetime_seconds"),
        (
            "daily_crawls",
            "day crawls complete incomplete failed cancelled success_rate requests total_seconds longest_seconds \
             timezone complete_crawls",
        ),
        ("group_spans", "group_id group_type live_from live_until in_baseline complete_from"),
        (
            "group_details",
            "group_id name owner created_at last_message_at info_changed_at member_count max_member_count \
             introduction as_of",
        ),
        (
            "monthly_counts",
            "month timezone group_type peak_total_count peak_at last_total_count average_total_count snapshots net_growth",
        ),
        (
            "app_statistics",
            "day groups groups_created groups_dissolved groups_active callbacks_sent callbacks_answered live_groups fetched_at",
        ),
    ] {
        let expected: Vec<&str> = ["sdk_app_id", "app"].into_iter().chain(columns.split(' ')).collect();
        assert_eq!(db.columns(view).await, expected, "{view}");
    }
}

async fn a_crawl_without_changes_rewrites_no_group(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let written = match &db.location {
        Location::Postgres(_) => {
            "SELECT string_agg(group_id || ctid::text || xmin::text, ' ' ORDER BY group_id) FROM group_row"
        }
        // SQLite has no row versions, so the rows themselves are compared.
        Location::Sqlite(_) => "SELECT group_concat(group_id || last_seen_at, ' ') FROM group_row",
    };
    let before = db.value(written).await;
    let crawl = leased.open(at(2, 0)).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public, leased.private]).await;
    assert_eq!(db.value(written).await, before);
    // `last_seen_at` advances nevertheless.
    assert!(
        leased.groups().await.iter().all(|group| group.contains("|02:00|NULL")),
        "{:?}",
        leased.groups().await
    );
}

async fn the_deletions_of_a_crawl_become_visible_at_once(db: &TestDatabase) {
    let ids: Vec<String> = (0..25_000).map(|n| format!("{n:05}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(1, 0)).await;
    leased.list_baseline(crawl, leased.public, at(1, 1), &ids).await;
    let gone = leased.settle_all(&[(leased.public, Verdict::Exact)]).await;
    let closing = leased.close(crawl, at(1, 0), at(1, 2), &gone);
    tokio::pin!(closing);
    let shown =
        "SELECT (SELECT count(*) FROM live_groups), (SELECT count(*) FROM group_events), status, vanished,
                        (SELECT live_count FROM app_status) FROM crawls";
    let mut seen = Vec::new();
    loop {
        tokio::select! {
            closed = &mut closing => {
                closed.unwrap();
                break;
            }
            lines = db.lines(shown) => seen.push(lines.join("")),
        }
    }
    seen.push(db.lines(shown).await.join(""));
    seen.dedup();
    assert_eq!(seen.last().unwrap(), "0|25000|complete|25000|0");
    assert!(seen.len() <= 2 && (seen.len() == 1 || seen[0] == "25000|0|running|0|25000"), "{seen:?}");
}

async fn the_overview_has_counts_and_crawls(db: &TestDatabase) {
    let leased = LeasedApp::after_baseline(db, &["a", "b"], &["p"]).await;
    let crawl = leased.open(at(2, 0)).await;
    let nothing = Settlement::nothing();
    let reason = Reason {
        code: ReasonCode::ShortListing,
        error_code: Some(10006),
        text: "Public listed 1 of 2".to_owned(),
    };
    let closing = Closing {
        status: CrawlStatus::Incomplete,
        reason: Some(reason),
        ..leased.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    db.store.close_crawl(&leased.lease, &closing, |_| ()).await.unwrap();
    let running = leased.open(at(3, 0)).await;
    let statuses = db.store.app_statuses().await.unwrap();
    let [status] = &statuses[..] else { panic!("{statuses:?}") };
    assert_eq!((status.app.as_str(), status.configured), ("prod", true));
    let types: Vec<_> = status
        .types
        .iter()
        .map(|row| &row.of_type)
        .map(|of_type| (of_type.group_type.as_deref(), of_type.live_count, of_type.configured))
        .collect();
    assert_eq!(types, [(Some("Public"), 2, true), (Some("Private"), 1, true)]);
    assert_eq!(status.last_complete_crawl.as_ref().unwrap().finished(), Some(at(1, 2)));
    let last = status.last_crawl.as_ref().unwrap();
    assert_eq!((last.crawl_id, last.status.as_str(), last.error_code), (crawl.0, "incomplete", Some(10006)));
    assert_eq!(status.running_crawl.as_ref().unwrap().crawl_id, running.0);
}

async fn hosts_that_crawl_different_group_types_are_reported(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    let conflicts = async || {
        let statuses = db.store.app_statuses().await.unwrap();
        let lines = statuses[0].differing_group_types.iter();
        lines.map(|on| format!("{} {}", on.host, on.group_types.join("+"))).collect::<Vec<_>>()
    };
    assert_eq!(conflicts().await, [""; 0]);
    leased.crawl_on("b", 1, &["Public"]).await;
    assert_eq!(conflicts().await, [""; 0]);
    // The order of the types and the SDK's names for them make no difference.
    leased.crawl_on("a", 2, &["Public", "Work"]).await;
    leased.crawl_on("c", 3, &["Private", "Public"]).await;
    assert_eq!(conflicts().await, ["a Private+Public", "b Public", "c Private+Public"]);
    leased.crawl_on("c", 4, &[]).await;
    assert_eq!(conflicts().await, ["a Private+Public", "b Public", "c "]);
    let recorded = "SELECT host, group_types FROM crawl ORDER BY crawl_id";
    assert_eq!(db.lines(recorded).await, ["b|Public", "a|Private,Public", "c|Private,Public", "c|"]);
    // A host whose types agree again, or that has not crawled for twenty crawls, is not reported.
    leased.crawl_on("b", 5, &["Private", "Public"]).await;
    assert_eq!(conflicts().await, ["a Private+Public", "b Private+Public", "c "]);
    for _ in 0..20 {
        leased.crawl_on("a", 6, &["Private", "Public"]).await;
    }
    assert_eq!(conflicts().await, [""; 0]);
}

/// Returns a store on an empty database of the same engine.
async fn empty_store(db: &TestDatabase) -> (Store, DatabaseLocation, Option<ServerDatabase>) {
    match &db.location {
        Location::Sqlite(folder) => {
            let url = DatabaseLocation::Sqlite(folder.path().join("other.db"));
            (Store::open(&url).await.unwrap(), url, None)
        }
        Location::Postgres(_) => {
            let database =
                PostgresServer::shared().await.empty_database().await.through_same_pooler(&db.location);
            let url = database.store_location();
            (Store::open(&url).await.unwrap(), url, Some(database))
        }
    }
}

async fn a_database_without_tables_is_distinguished_from_a_newer_one(db: &TestDatabase) {
    let (store, url, _keep) = empty_store(db).await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    TestDatabase::execute(&url, "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9001, 'x', TRUE, '', 0)")
        .await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::Newer { version: 9001 })));
    let refused = store.migrate().await;
    assert!(matches!(refused, Err(StoreError::Newer { version: 9001 })), "{refused:?}");
}

async fn tables_of_every_earlier_version_are_migrated_with_their_rows(db: &TestDatabase) {
    const APP: &str = "INSERT INTO app (app_id, sdk_app_id, name) VALUES (1, 1400000000, 'prod')";
    const TYPE: &str = "INSERT INTO type_state (app_id, type_id, configured, live_count, baseline_crawl_id, concluded_crawl_id, concluded_at)
                        VALUES (1, 1, 1, 1, 1, 1, 1772326800000)";
    const CRAWL: &str = "INSERT INTO crawl (crawl_id, app_id, trigger, started_at, finished_at, status, appeared, host, version, group_types)
                         VALUES (1, 1, 'command', 1772326800000, 1772326801000, 'complete', 0, 'host', '0.1.0', 'Public')";
    const GROUP: &str =
        "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
                         VALUES (1, 'a', 1, TRUE, 1772326800000, 1772326800000)";

    let printed = Store::migration_sql(&db.store_location());
    let mut earlier = 0;
    // Each migration begins with a heading. An earlier version has the tables of the text before a
    // later heading.
    while let Some(end) = printed.find(&format!("\n-- {:04} ", earlier + 2)) {
        earlier += 1;
        let old = db.empty_like().await;
        TestDatabase::execute(&old.store_location(), &format!("{}\nCOMMIT;", &printed[..end])).await;
        for row in [APP, TYPE, CRAWL, GROUP] {
            TestDatabase::execute(&old.store_location(), row).await;
        }
        let older = old.store.check_migrated().await.unwrap_err();
        assert!(matches!(older, StoreError::Older { version, newest: 3 } if version == earlier), "{older:?}");
        let sentence = format!("of an older version of this program (version {earlier} of 3)");
        assert!(older.to_string().contains(&sentence), "{older}");
        old.store.check_migratable().await.unwrap();
        old.store.migrate().await.unwrap();
        old.store.check_migrated().await.unwrap();

        if let Location::Postgres(_) = old.location {
            // The row above has an explicit id, so the sequence must be advanced.
            TestDatabase::execute(
                &old.store_location(),
                "ALTER TABLE crawl ALTER COLUMN crawl_id RESTART WITH 2",
            )
            .await;
        }
        let leased = LeasedApp::on(&old).await;
        let crawl = leased.open(at(2, 0)).await;
        leased.list(crawl, leased.public, at(2, 0), &["a", "b"]).await;
        leased.complete(crawl, at(2, 0), at(2, 1), &[leased.public]).await;
        let recorded = "SELECT crawl_id, status, group_types, undeleted FROM crawl ORDER BY crawl_id";
        assert_eq!(old.lines(recorded).await, ["1|complete|Public|0", "2|complete|Private,Public|0"]);
        let groups = "SELECT group_id, group_type, first_seen_at, deleted_at FROM groups ORDER BY group_id";
        let expected = ["a|Public|2026-03-01T01:00:00Z|NULL", "b|Public|2026-03-01T02:00:00Z|NULL"];
        assert_eq!(old.lines(groups).await, expected);
        old.assert_consistent().await;
        old.store.close().await;
    }
    assert_eq!(earlier, 2);
}

async fn the_printed_sql_creates_the_same_tables(db: &TestDatabase) {
    let (store, url, _keep) = empty_store(db).await;
    TestDatabase::execute(&url, &Store::migration_sql(&url)).await;
    store.check_migrated().await.unwrap();
    store.migrate().await.unwrap();
    let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    store.register_app(&identity, &group_types(&["Public"])).await.unwrap();
    assert_eq!(store.app_statuses().await.unwrap().len(), 1);
    store.close().await;
}

async fn two_programs_can_migrate_an_empty_database_at_the_same_time(db: &TestDatabase) {
    let (first, url, _keep) = empty_store(db).await;
    let mut stores = vec![first];
    for _ in 0..5 {
        stores.push(Store::open(&url).await.unwrap());
    }
    let starts = stores.iter().map(|store| async move {
        store.migrate().await?;
        store.check_migrated().await
    });
    for started in futures_util::future::join_all(starts).await {
        started.unwrap();
    }
    for store in stores {
        store.close().await;
    }
}
