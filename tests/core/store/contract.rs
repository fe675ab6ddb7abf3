//! One contract, two engines: every behaviour of the store is written once and runs on both.

#![deny(dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use harness::on_both_engines;
use harness::postgres::{PostgresServer, TestDatabase};
use harness::store::{Bench, Place, Scene, at, day, group_types, sdk_app_id};
use tim_group_sync::clock::Clock;
use tim_group_sync::confirmation::{Asked, History};
use tim_group_sync::model::{Counts, CrawlId, CrawlStatus, GroupIds, ReasonCode, SdkAppId, TypeId, Verdict};
use tim_group_sync::reconcile::{Confirmation, Settlement};
use tim_group_sync::roll::Mark;
use tim_group_sync::store::{
    AgeLimits, AppIdentity, Approval, Closing, CrawlEvents, DatabaseUrl, HeldCrawl, HistoryChanges, Holdings,
    PassRecord, Past, Purged, Reason, Store, StoreError, Written,
};

on_both_engines![
    an_app_keeps_its_number_when_it_is_renamed,
    registering_again_what_stands_uses_up_no_numbers,
    a_type_that_is_no_longer_configured_stays_known,
    an_app_that_is_not_in_the_configuration_shows_as_not_configured_until_it_returns,
    the_first_list_of_a_type_is_no_news,
    a_group_that_is_listed_later_has_appeared,
    listing_the_same_groups_again_changes_nothing,
    a_deleted_group_that_is_listed_again_has_reappeared_under_the_listed_type,
    a_live_group_listed_under_another_type_is_retyped,
    a_type_learned_for_a_group_without_one_is_no_event,
    an_unfiltered_list_leaves_known_types_alone_and_revives_under_the_old_type,
    a_listed_group_is_missing_no_more,
    ids_are_kept_byte_for_byte,
    more_ids_than_fit_a_statement_are_written_in_one_transaction,
    a_group_in_two_batches_is_written_once,
    apps_do_not_see_each_others_groups,
    a_complete_crawl_that_misses_nothing_deletes_nothing,
    an_exact_absence_deletes_at_once_and_is_seen_last_when_its_type_was_concluded_last,
    a_moving_absence_is_missing_first_and_vanished_the_second_time,
    a_missing_group_keeps_the_time_it_was_seen_last,
    a_failed_crawl_concludes_nothing_but_keeps_its_counts_and_reason,
    a_crawl_is_closed_once_and_a_second_end_writes_nothing,
    crawls_of_dead_processes_are_closed_by_the_next,
    a_tick_is_served_once,
    the_day_adds_up_its_crawls_and_keeps_the_last_totals,
    a_day_that_a_wrong_clock_left_in_the_future_becomes_the_newest_crawls_and_right_days_stay,
    withheld_deletions_leave_groups_live_missing_and_held_until_approved,
    confirmed_deletions_are_approved_alone_and_the_others_go_on_waiting,
    a_held_group_that_is_listed_again_is_free,
    what_was_learned_about_groups_in_doubt_is_kept_replaced_and_removed,
    held_groups_are_asked_about_when_they_are_due_but_for_confirmed_and_undone_ones,
    what_a_crawl_deleted_is_undone_for_the_groups_that_nothing_touched_since,
    an_approved_deletion_is_undone_and_approved_again,
    what_an_undone_group_is_listed_as_later_is_no_reappearance,
    undoing_deletions_that_a_listing_has_undone_changes_nothing,
    a_forgotten_app_leaves_no_row_and_leaves_others_alone,
    what_was_forgotten_half_way_is_finished_later,
    an_app_that_was_forgotten_half_way_can_be_crawled_again,
    long_deleted_groups_are_removed_in_batches_and_totals_stay_right,
    old_events_go_and_younger_ones_and_other_apps_stay,
    old_crawls_go_but_those_that_something_still_names,
    passes_show_in_the_counts_once_the_crawl_has_ended,
    what_earlier_crawls_tell_is_read_from_those_that_reached_their_end,
    events_of_a_running_crawl_do_not_show,
    every_live_group_is_named_once_with_its_type_and_marks,
    one_of_two_holds_the_lease_and_the_other_waits,
    the_holder_of_the_lease_can_be_told,
    views_have_the_columns_of_the_contract_in_their_order,
    a_crawl_without_changes_rewrites_no_group,
    readers_see_all_deletions_of_a_crawl_at_once,
    a_status_tells_counts_and_crawls,
    hosts_that_crawl_different_group_types_are_told,
    a_database_without_tables_is_told_apart_from_a_newer_one,
    tables_of_every_earlier_version_are_brought_up_to_date_with_what_is_in_them,
    the_printed_sql_makes_the_same_tables,
    two_programs_that_start_at_once_on_an_empty_database_both_find_it_migrated,
];

async fn an_app_keeps_its_number_when_it_is_renamed(bench: &Bench) {
    let named = |name: &str| AppIdentity { sdk_app_id: sdk_app_id(), name: name.to_owned() };
    let (first, _) = bench.store.register_app(&named("prod"), &[]).await.unwrap();
    let (second, _) = bench.store.register_app(&named("live"), &[]).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(bench.lines("SELECT app, configured FROM app_status").await, ["live|1"]);
}

async fn registering_again_what_stands_uses_up_no_numbers(bench: &Bench) {
    let own = group_types(&["Public", "Own1"]);
    let identity = |number: i64| AppIdentity {
        sdk_app_id: SdkAppId::new(number).unwrap(),
        name: format!("app{number}"),
    };
    for _ in 0..5 {
        bench.store.register_app(&identity(1), &own).await.unwrap();
    }
    let (_, types) = bench.store.register_app(&identity(2), &group_types(&["Own1", "Own2"])).await.unwrap();
    assert_eq!(types.values().map(|type_id| type_id.0).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(bench.lines("SELECT app_id FROM app ORDER BY 1").await, ["1", "2"]);
}

async fn a_type_that_is_no_longer_configured_stays_known(bench: &Bench) {
    let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    bench.store.register_app(&identity, &group_types(&["Public", "Community"])).await.unwrap();
    bench.store.register_app(&identity, &group_types(&["Public", "Work"])).await.unwrap();
    assert_eq!(
        bench.lines("SELECT group_type, sdk_name, name_zh, configured FROM type_status ORDER BY 1").await,
        ["Community|Community|社群|0", "Private|Work|好友工作群|1", "Public|Public|陌生人社交群|1"]
    );
}

async fn an_app_that_is_not_in_the_configuration_shows_as_not_configured_until_it_returns(bench: &Bench) {
    let identity = |number: i64| AppIdentity {
        sdk_app_id: SdkAppId::new(number).unwrap(),
        name: format!("app{number}"),
    };
    for number in [1, 2, 3] {
        bench.store.register_app(&identity(number), &[]).await.unwrap();
    }
    bench.store.set_configured(&[SdkAppId::new(2).unwrap(), SdkAppId::new(9).unwrap()]).await.unwrap();
    let configured = "SELECT app, configured FROM app_status ORDER BY app";
    assert_eq!(bench.lines(configured).await, ["app1|0", "app2|1", "app3|0"]);
    bench.store.register_app(&identity(3), &[]).await.unwrap();
    assert_eq!(bench.lines(configured).await, ["app1|0", "app2|1", "app3|1"]);
}

async fn the_first_list_of_a_type_is_no_news(bench: &Bench) {
    let scene = Scene::on(bench).await;
    let crawl = scene.open(at(1, 0)).await;
    let written = scene.list_baseline(crawl, scene.public, at(1, 1), &["b", "a"]).await;
    assert_eq!(written, Written { first_listed: 2, ..Written::default() });
    bench.store.end_baseline(&scene.lease, scene.app, scene.public, crawl).await.unwrap();
    let events = scene.complete(crawl, at(1, 0), at(1, 2), &[scene.public]).await;
    assert_eq!(events, CrawlEvents::default());
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|01:01|NULL|NULL|0|1", "b|Public|01:01|01:01|NULL|NULL|0|1"]
    );
    assert!(scene.events().await.is_empty());
    let states = bench.store.type_states(scene.app).await.unwrap();
    let past: BTreeMap<TypeId, bool> =
        states.iter().map(|state| (state.type_id(), state.past_baseline())).collect();
    assert_eq!(past, BTreeMap::from([(scene.public, true), (scene.private, false)]));
    // Later ends do not move it.
    let second = scene.open(at(2, 0)).await;
    bench.store.end_baseline(&scene.lease, scene.app, scene.public, second).await.unwrap();
    let first = format!("SELECT baseline_crawl_id FROM type_state WHERE type_id = {}", scene.public.0);
    assert_eq!(bench.value(&first).await, crawl.to_string());
}

async fn a_group_that_is_listed_later_has_appeared(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let written = scene.list(crawl, scene.public, at(2, 1), &["a", "b"]).await;
    assert_eq!(written, Written { first_listed: 1, appeared: 1, ..Written::default() });
    let events = scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public]).await;
    assert_eq!(events, CrawlEvents { appeared: 1, ..CrawlEvents::default() });
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|02:00|NULL|NULL|0|1", "b|Public|02:01|02:01|NULL|NULL|0|0"]
    );
    assert_eq!(scene.events().await, [format!("appeared|b|NULL|Public|{crawl}")]);
}

async fn listing_the_same_groups_again_changes_nothing(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a"], &["p"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let first = scene.list(crawl, scene.public, at(2, 1), &["a", "b", "p"]).await;
    assert_eq!(first, Written { first_listed: 1, appeared: 1, reappeared: 0, retyped: 1 });
    let rows = bench.lines("SELECT * FROM group_row ORDER BY group_id").await;
    let again = scene.list(crawl, scene.public, at(2, 5), &["a", "b", "p"]).await;
    assert_eq!(again, Written::default());
    assert_eq!(bench.lines("SELECT * FROM group_row ORDER BY group_id").await, rows);
    assert_eq!(bench.value("SELECT count(*) FROM group_event").await, "2");
}

async fn a_deleted_group_that_is_listed_again_has_reappeared_under_the_listed_type(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["a", "b"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    bench.assert_consistent().await;
    let crawl = scene.open(at(3, 0)).await;
    let written = scene.list(crawl, scene.private, at(3, 1), &["a"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    let written = scene.list(crawl, scene.public, at(3, 1), &["b"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    let events = scene.complete(crawl, at(3, 0), at(3, 2), &[scene.public, scene.private]).await;
    assert_eq!(events, CrawlEvents { reappeared: 2, ..CrawlEvents::default() });
    assert_eq!(
        scene.groups().await,
        ["a|Private|01:01|03:01|NULL|NULL|0|1", "b|Public|01:01|03:01|NULL|NULL|0|1"]
    );
    assert_eq!(
        scene.events().await[2..],
        [format!("reappeared|a|Public|Private|{crawl}"), format!("reappeared|b|Public|Public|{crawl}")]
    );
}

async fn a_live_group_listed_under_another_type_is_retyped(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let written = scene.list(crawl, scene.private, at(2, 1), &["a"]).await;
    assert_eq!(written, Written { retyped: 1, ..Written::default() });
    let events = scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public, scene.private]).await;
    assert_eq!(events, CrawlEvents { retyped: 1, ..CrawlEvents::default() });
    assert_eq!(scene.events().await, [format!("retyped|a|Public|Private|{crawl}")]);
    let counts = "SELECT group_type, live_count FROM type_status ORDER BY group_type";
    assert_eq!(bench.lines(counts).await, ["Private|1", "Public|1"]);
}

async fn a_type_learned_for_a_group_without_one_is_no_event(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &[], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.list(crawl, TypeId::UNKNOWN, at(2, 1), &["x", "y"]).await;
    let learned = scene.list(crawl, scene.private, at(2, 2), &["x"]).await;
    assert_eq!(learned, Written::default());
    scene.complete(crawl, at(2, 0), at(2, 3), &[scene.private]).await;
    let shown = bench.lines("SELECT group_id, group_type FROM groups ORDER BY group_id").await;
    assert_eq!(shown, ["x|Private", "y|NULL"]);
    assert_eq!(
        scene.events().await,
        [format!("appeared|x|NULL|NULL|{crawl}"), format!("appeared|y|NULL|NULL|{crawl}")]
    );
}

async fn an_unfiltered_list_leaves_known_types_alone_and_revives_under_the_old_type(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["b"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let crawl = scene.open(at(3, 0)).await;
    let written = scene.list(crawl, TypeId::UNKNOWN, at(3, 1), &["a", "b"]).await;
    assert_eq!(written, Written { reappeared: 1, ..Written::default() });
    scene.complete(crawl, at(3, 0), at(3, 2), &[scene.public]).await;
    let shown = bench.lines("SELECT group_id, group_type, deleted_at FROM groups ORDER BY group_id").await;
    assert_eq!(shown, ["a|Public|NULL", "b|Public|NULL"]);
    assert_eq!(scene.events().await[1..], [format!("reappeared|b|Public|Public|{crawl}")]);
}

async fn a_listed_group_is_missing_no_more(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let missing = scene.settle(&[(scene.public, Verdict::Moving)], &["a", "b"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    bench.assert_consistent().await;
    assert_eq!(bench.value("SELECT missing_count FROM app_status").await, "2");
    let crawl = scene.open(at(3, 0)).await;
    // Once by its own type, once by another: neither is more than a sighting and a new type.
    assert_eq!(scene.list(crawl, scene.public, at(3, 1), &["a"]).await, Written::default());
    let retyped = scene.list(crawl, scene.private, at(3, 1), &["b"]).await;
    assert_eq!(retyped, Written { retyped: 1, ..Written::default() });
    scene.complete(crawl, at(3, 0), at(3, 2), &[scene.public, scene.private]).await;
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|03:01|NULL|NULL|0|1", "b|Private|01:01|03:01|NULL|NULL|0|1"]
    );
    assert_eq!(bench.value("SELECT missing_count FROM app_status").await, "0");
}

async fn ids_are_kept_byte_for_byte(bench: &Bench) {
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
    let scene = Scene::after_baseline(bench, &[], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let written = scene.list(crawl, scene.public, at(2, 1), &ids).await;
    assert_eq!(written.first_listed, ids.len() as u64);
    assert_eq!(scene.list(crawl, scene.public, at(2, 1), &ids).await, Written::default());
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let mut named = Vec::new();
    bench.store.gather_live(scene.app, || (), |(), _, id, _| named.push(id.to_owned())).await.unwrap();
    named.sort_unstable();
    assert_eq!(named, sorted);
    assert_eq!(bench.lines("SELECT group_id FROM groups ORDER BY group_id").await, sorted);
    // All but one vanish, by name.
    let gone: Vec<&str> = ids.into_iter().filter(|id| *id != "a ").collect();
    let settlement = scene.settle(&[(scene.public, Verdict::Exact)], &gone).await;
    let events = scene.close(crawl, at(2, 0), at(2, 2), &settlement).await.unwrap();
    assert_eq!(events.vanished.cast_unsigned(), gone.len() as u64);
    assert_eq!(bench.lines("SELECT group_id FROM live_groups").await, ["a "]);
}

async fn more_ids_than_fit_a_statement_are_written_in_one_transaction(bench: &Bench) {
    let ids: Vec<String> = (0..50_003).map(|n| format!("@TGS#{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::on(bench).await;
    let crawl = scene.open(at(1, 0)).await;
    assert_eq!(scene.list_baseline(crawl, scene.public, at(1, 1), &ids).await.first_listed, 50_003);
    let again = scene.list_baseline(crawl, scene.private, at(1, 2), &ids[..20_001]).await;
    assert_eq!(again, Written { retyped: 20_001, ..Written::default() });
    let mut counted = 0;
    bench.store.gather_live(scene.app, || (), |(), _, _, _| counted += 1).await.unwrap();
    assert_eq!(counted, 50_003);
    let passes = [(scene.public, Verdict::Exact), (scene.private, Verdict::Moving)];
    let settlement = scene.settle_all(&passes).await;
    let events = scene.close(crawl, at(1, 0), at(1, 3), &settlement).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 30_002, retyped: 20_001, ..CrawlEvents::default() });
    assert_eq!(bench.value("SELECT missing_count FROM app_status").await, "20001");
}

async fn a_group_in_two_batches_is_written_once(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &[], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let first = scene.list(crawl, scene.public, at(2, 1), &["a", "b"]).await;
    let second = scene.list(crawl, scene.public, at(2, 2), &["b", "c"]).await;
    assert_eq!((first.appeared, second.appeared), (2, 1));
    assert_eq!(second.first_listed, 1);
}

async fn apps_do_not_see_each_others_groups(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let other = AppIdentity { sdk_app_id: SdkAppId::new(7).unwrap(), name: "test".to_owned() };
    let (app, _) = bench.store.register_app(&other, &group_types(&["Public"])).await.unwrap();
    let lease = bench.store.try_lease(other.sdk_app_id).await.unwrap().unwrap();
    let other = Scene { bench, app, public: scene.public, private: scene.private, lease };
    let crawl = other.open(at(2, 0)).await;
    assert_eq!(other.list(crawl, scene.public, at(2, 1), &["a", "z"]).await.first_listed, 2);
    let settlement = other.settle(&[(scene.public, Verdict::Exact)], &["a"]).await;
    other.close(crawl, at(2, 0), at(2, 2), &settlement).await.unwrap();
    let shown = bench.lines("SELECT app, group_id FROM live_groups ORDER BY app, group_id").await;
    assert_eq!(shown, ["prod|a", "prod|b", "test|z"]);
}

async fn a_complete_crawl_that_misses_nothing_deletes_nothing(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a"], &["p"]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public]).await;
    let crawls = "SELECT status, deletions, requests, groups_listed, started_at, finished_at, reason FROM crawls WHERE crawl_id = ";
    assert_eq!(
        bench.lines(&format!("{crawls}{crawl}")).await,
        ["complete|none|4|6|2026-03-01T02:00:00Z|2026-03-01T02:02:00Z|NULL"]
    );
    // Only the concluded type's groups were seen again.
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|02:00|NULL|NULL|0|1", "p|Private|01:01|01:01|NULL|NULL|0|1"]
    );
    let as_of = bench.lines("SELECT group_type, as_of FROM type_status ORDER BY group_type").await;
    assert_eq!(as_of, ["Private|2026-03-01T01:00:00Z", "Public|2026-03-01T02:00:00Z"]);
}

async fn an_exact_absence_deletes_at_once_and_is_seen_last_when_its_type_was_concluded_last(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &["p"]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public, scene.private]).await;
    let crawl = scene.open(at(3, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact), (scene.private, Verdict::Exact)], &["a"]).await;
    let events = scene.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(
        scene.groups().await,
        [
            "a|Public|01:01|02:00|03:02|NULL|0|1",
            "b|Public|01:01|03:00|NULL|NULL|0|1",
            "p|Private|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(scene.events().await, [format!("vanished|a|Public|NULL|{crawl}")]);
    let crawls = format!("SELECT status, deletions, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(bench.lines(&crawls).await, ["complete|applied|1"]);
    let counts = "SELECT group_type, live_count, deleted_count FROM type_status ORDER BY group_type";
    assert_eq!(bench.lines(counts).await, ["Private|1|0", "Public|1|1"]);
}

async fn a_moving_absence_is_missing_first_and_vanished_the_second_time(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let moving = [(scene.public, Verdict::Moving)];
    let crawl = scene.open(at(2, 0)).await;
    let missing = scene.settle(&moving, &["a"]).await;
    let events = scene.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    bench.assert_consistent().await;
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|01:01|NULL|02:00|0|1", "b|Public|01:01|02:00|NULL|NULL|0|1"]
    );
    let deletions = format!("SELECT status, deletions FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(bench.lines(&deletions).await, ["complete|none"]);
    let crawl = scene.open(at(3, 0)).await;
    let gone = scene.settle(&moving, &["a"]).await;
    let events = scene.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { vanished: 1, ..CrawlEvents::default() });
    assert_eq!(scene.groups().await[0], "a|Public|01:01|01:01|03:02|NULL|0|1");
}

async fn a_missing_group_keeps_the_time_it_was_seen_last(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public]).await;
    let crawl = scene.open(at(3, 0)).await;
    let missing = scene.settle(&[(scene.public, Verdict::Moving)], &["a"]).await;
    scene.close(crawl, at(3, 0), at(3, 2), &missing).await.unwrap();
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|02:00|NULL|03:00|0|1", "b|Public|01:01|03:00|NULL|NULL|0|1"]
    );
}

async fn a_failed_crawl_concludes_nothing_but_keeps_its_counts_and_reason(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.list(crawl, scene.public, at(2, 1), &["b"]).await;
    scene.fail(crawl, at(2, 0), at(2, 2)).await;
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, error_code, reason FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(bench.lines(&shown).await, ["failed|NULL|1|timeout|NULL|no answer within 10s"]);
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|01:01|NULL|NULL|0|1", "b|Public|02:01|02:01|NULL|NULL|0|0"]
    );
    let counts = "SELECT total_count, total_count_at_start, listed_count, recorded_at FROM app_counts ORDER BY crawl_id DESC LIMIT 1";
    assert_eq!(bench.lines(counts).await, ["8|7|6|2026-03-01T02:02:00Z"]);
    assert_eq!(
        bench
            .lines("SELECT last_complete_crawl_at, last_crawl_status, last_crawl_reason FROM app_status")
            .await,
        ["2026-03-01T01:02:00Z|failed|no answer within 10s"]
    );
}

async fn a_crawl_is_closed_once_and_a_second_end_writes_nothing(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public]).await;
    let everything = || async {
        let mut all = scene.groups().await;
        all.extend(bench.lines("SELECT * FROM crawls ORDER BY crawl_id").await);
        all.extend(bench.lines("SELECT * FROM type_status ORDER BY group_type").await);
        all.extend(bench.lines("SELECT * FROM daily_counts ORDER BY group_type").await);
        all
    };
    let before = everything().await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["a"]).await;
    for finished_at in [at(2, 2), at(2, 9)] {
        let again = scene.close(crawl, at(2, 0), finished_at, &gone).await;
        assert!(matches!(again, Err(StoreError::Superseded { crawl: which }) if which == crawl), "{again:?}");
    }
    assert_eq!(everything().await, before);
}

async fn crawls_of_dead_processes_are_closed_by_the_next(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a"], &[]).await;
    let dead = scene.open(at(2, 0)).await;
    scene.list(dead, scene.public, at(2, 1), &["b"]).await;
    let next = scene.open(at(3, 0)).await;
    assert!(next > dead);
    let shown = format!(
        "SELECT status, deletions, appeared, reason_code, reason, finished_at FROM crawls WHERE crawl_id = {dead}"
    );
    assert_eq!(
        bench.lines(&shown).await,
        ["failed|NULL|1|process_ended|the process ended before the crawl did|2026-03-01T03:00:00Z"]
    );
    assert_eq!(scene.events().await, [format!("appeared|b|NULL|Public|{dead}")]);
}

async fn a_tick_is_served_once(bench: &Bench) {
    let scene = Scene::on(bench).await;
    // Not by a crawl that does not reach its end.
    let crawl = scene.try_open(at(2, 0), Some(at(2, 0))).await.unwrap();
    scene.fail(crawl, at(2, 0), at(2, 1)).await;
    let crawl = scene.try_open(at(2, 2), Some(at(2, 0))).await.unwrap();
    scene.complete(crawl, at(2, 2), at(2, 3), &[]).await;
    assert_eq!(scene.try_open(at(2, 4), Some(at(2, 0))).await, None);
    // Crawls without a tick are none of its business.
    for minute in [10, 20] {
        let crawl = scene.open(at(3, minute)).await;
        scene.complete(crawl, at(3, minute), at(3, minute + 1), &[]).await;
    }
    let crawl = scene.open(at(3, 30)).await;
    scene.fail(crawl, at(3, 30), at(3, 31)).await;
    assert_eq!(bench.store.last_start(scene.app).await.unwrap(), Some(at(3, 20)));
    let dues = bench.lines("SELECT trigger, due_at FROM crawls ORDER BY crawl_id").await;
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

async fn a_day_that_a_wrong_clock_left_in_the_future_becomes_the_newest_crawls_and_right_days_stay(
    bench: &Bench,
) {
    let scene = Scene::after_baseline(bench, &["a"], &[]).await;
    let nothing = Settlement::nothing();
    let close = async |hour, days: i64| {
        let crawl = scene.open(at(hour, 0)).await;
        let closing = scene.closing(crawl, at(hour, 0), at(hour, 1), &nothing);
        let closing = Closing { day: day() + TimeDelta::days(days), ..closing };
        bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    };
    let days = "SELECT DISTINCT day FROM daily_counts ORDER BY day";
    close(2, 400).await;
    close(3, 1).await;
    assert_eq!(bench.lines(days).await, ["2026-03-01", "2026-03-02"]);
    close(4, 2).await;
    close(5, 3).await;
    close(6, -400).await;
    let kept = bench.lines(days).await;
    assert_eq!(kept[1..], ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]);
}

async fn the_day_adds_up_its_crawls_and_keeps_the_last_totals(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.list(crawl, scene.public, at(2, 1), &["c", "d"]).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["a"]).await;
    let passes = [pass(scene.public, Some(Verdict::Exact), &[9], 9)];
    let closing = Closing { passes: &passes, ..scene.closing(crawl, at(2, 0), at(2, 2), &gone) };
    bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    let crawl = scene.open(at(3, 0)).await;
    scene.list(crawl, scene.private, at(3, 1), &["d"]).await;
    // The pass got no count: the earlier one stays.
    let passes = [pass(scene.public, None, &[], 0)];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        status: CrawlStatus::Cancelled,
        ..scene.closing(crawl, at(3, 0), at(3, 2), &nothing)
    };
    bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    let shown = "SELECT day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped
                 FROM daily_counts ORDER BY group_type";
    assert_eq!(
        bench.lines(shown).await,
        ["2026-03-01|Private|1|NULL|0|0|0|1", "2026-03-01|Public|2|9|2|1|0|0"]
    );
}

async fn withheld_deletions_leave_groups_live_missing_and_held_until_approved(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let missing = scene.settle(&[(scene.public, Verdict::Moving)], &["b"]).await;
    scene.close(crawl, at(2, 0), at(2, 1), &missing).await.unwrap();
    let crawl = scene.open(at(3, 0)).await;
    let mut withheld = scene.settle(&[(scene.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[scene.public], Confirmation::Off, true);
    let events = scene.close(crawl, at(3, 0), at(3, 2), &withheld).await.unwrap();
    assert_eq!(events, CrawlEvents::default());
    bench.assert_consistent().await;
    assert_eq!(
        scene.groups().await,
        [
            "a|Public|01:01|02:00|NULL|03:00|1|1",
            "b|Public|01:01|01:01|NULL|02:00|1|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    let shown = format!("SELECT status, deletions, withheld, vanished FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(bench.lines(&shown).await, ["complete|withheld|2|0"]);
    let mut marks = Vec::new();
    bench
        .store
        .gather_live(scene.app, || (), |(), _, id, mark| marks.push((id.to_owned(), mark)))
        .await
        .unwrap();
    marks.sort_by(|a, b| a.0.cmp(&b.0));
    let held = Mark { missing: true, held: true };
    assert_eq!(marks, [("a".to_owned(), held), ("b".to_owned(), held), ("c".to_owned(), Mark::default())]);

    let waiting = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    assert_eq!((waiting.withheld, waiting.sdk_app_id()), (2, Some(sdk_app_id())));
    assert_eq!(held_ids(bench, &waiting, crawl, Approval::All).await, ["a", "b"]);
    let approve = || bench.store.approve(&scene.lease, &waiting, (crawl, Approval::All), at(4, 0), day());
    assert_eq!(approve().await.unwrap(), 2);
    bench.assert_consistent().await;
    assert_eq!(
        scene.groups().await,
        [
            "a|Public|01:01|02:00|04:00|NULL|0|1",
            "b|Public|01:01|01:01|04:00|NULL|0|1",
            "c|Public|01:01|03:00|NULL|NULL|0|1"
        ]
    );
    assert_eq!(bench.lines(&shown).await, ["complete|approved|2|2"]);
    assert_eq!(
        scene.events().await,
        [format!("vanished|a|Public|NULL|{crawl}"), format!("vanished|b|Public|NULL|{crawl}")]
    );
    assert_eq!(approve().await.unwrap(), 0);
    assert_eq!(bench.lines(&shown).await, ["complete|approved|2|2"]);
}

async fn held_ids(bench: &Bench, of: &HeldCrawl, crawl: CrawlId, which: Approval) -> Vec<String> {
    let groups = bench.store.held_groups(of, crawl, which).await.unwrap();
    groups.into_iter().map(|(id, _)| id).collect()
}

async fn confirmed_deletions_are_approved_alone_and_the_others_go_on_waiting(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c"], &["p", "q", "r"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let passes = [(scene.public, Verdict::Exact), (scene.private, Verdict::Exact)];
    let mut withheld = scene.settle(&passes, &["a", "b", "p", "q"]).await;
    withheld.withhold(&[scene.public], Confirmation::On, true);
    withheld.withhold(&[scene.private], Confirmation::Off, true);
    scene.close(crawl, at(2, 0), at(2, 2), &withheld).await.unwrap();
    let shown = format!(
        "SELECT deletions, vanished, withheld, withheld_confirmed, held_count FROM crawls WHERE crawl_id = {crawl}"
    );
    assert_eq!(bench.lines(&shown).await, ["withheld|0|4|2|4"]);
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(bench.lines(held).await, ["a|1", "b|1", "p|0", "q|0"]);
    let waiting = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    let all = bench.store.held_groups(&waiting, crawl, Approval::All).await.unwrap();
    let expected = [("a", true), ("b", true), ("p", false), ("q", false)];
    assert_eq!(all, expected.map(|(id, confirmed)| (id.to_owned(), confirmed)));
    assert_eq!(held_ids(bench, &waiting, crawl, Approval::Confirmed).await, ["a", "b"]);

    let approve = async |which| {
        let approved = bench.store.approve(&scene.lease, &waiting, (crawl, which), at(3, 0), day()).await;
        bench.assert_consistent().await;
        approved.unwrap()
    };
    assert_eq!(approve(Approval::Confirmed).await, 2);
    assert_eq!(bench.lines(&shown).await, ["withheld|2|4|2|2"]);
    assert_eq!(bench.lines(held).await, ["p|0", "q|0"]);
    assert_eq!(bench.lines("SELECT group_id FROM live_groups ORDER BY 1").await, ["c", "p", "q", "r"]);
    assert_eq!(approve(Approval::Confirmed).await, 0);
    assert_eq!(bench.lines(&shown).await, ["withheld|2|4|2|2"]);

    // A later crawl learns that another one is gone.
    let history =
        HistoryChanges { round: 2, confirmed_held: ["p", "c"].into_iter().collect(), ..Default::default() };
    close_with_history(&scene, 4, &history).await;
    assert_eq!(bench.lines(held).await, ["p|1", "q|0"]);
    assert_eq!(bench.lines(&shown).await, ["withheld|2|4|3|2"]);
    assert_eq!(approve(Approval::Confirmed).await, 1);
    assert_eq!(bench.lines(&shown).await, ["withheld|3|4|3|1"]);
    assert_eq!(approve(Approval::All).await, 1);
    assert_eq!(bench.lines(&shown).await, ["approved|4|4|3|0"]);
}

/// A complete crawl at this hour that lists every live group that is not held and changes the history of questions.
async fn close_with_history(scene: &Scene<'_>, hour: u32, history: &HistoryChanges) {
    let crawl = scene.open(at(hour, 0)).await;
    let settlement = scene.settle(&[(scene.public, Verdict::Exact)], &[]).await;
    let closing =
        Closing { history: Some(history), ..scene.closing(crawl, at(hour, 0), at(hour, 2), &settlement) };
    scene.bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    scene.bench.assert_consistent().await;
}

async fn what_was_learned_about_groups_in_doubt_is_kept_replaced_and_removed(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c", "d"], &[]).await;
    let history = async || {
        let History { round, asked } = bench.store.history(scene.app).await.unwrap();
        (round, asked.into_iter().collect::<BTreeMap<String, Asked>>())
    };
    let of = |groups: &[(&str, Asked)]| groups.iter().map(|(id, asked)| ((*id).to_owned(), *asked)).collect();
    let set = |groups: &[(&str, Asked)]| {
        let mut set: BTreeMap<Asked, GroupIds> = BTreeMap::new();
        groups.iter().for_each(|(id, asked)| set.entry(*asked).or_default().push(id));
        set
    };
    assert_eq!(history().await, (1, BTreeMap::new()));
    let (stood, unlearned) = (Asked::then_stood(None, 1), Asked::then_unlearned(None, 1));
    let kept = [("a", stood), ("b", stood), ("c", unlearned)];
    close_with_history(&scene, 2, &HistoryChanges { round: 1, set: set(&kept), ..Default::default() }).await;
    assert_eq!(history().await, (2, of(&kept)));
    // A crawl that does not reach its end changes nothing about it.
    let failed = scene.open(at(3, 0)).await;
    scene.fail(failed, at(3, 0), at(3, 1)).await;
    assert_eq!(history().await, (2, of(&kept)));

    let stood_again = Asked::then_stood(Some(&stood), 2);
    let changes = HistoryChanges {
        round: 2,
        set: set(&[("a", stood_again)]),
        remove: ["b", "never asked about"].into_iter().collect(),
        ..Default::default()
    };
    close_with_history(&scene, 4, &changes).await;
    assert_eq!(history().await, (3, of(&[("a", stood_again), ("c", unlearned)])));

    // A group that is deleted leaves the history with the next crawl.
    let crawl = scene.open(at(5, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["c"]).await;
    let prune = HistoryChanges { round: 3, prune: true, ..Default::default() };
    let closing = Closing { history: Some(&prune), ..scene.closing(crawl, at(5, 0), at(5, 2), &gone) };
    bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(history().await, (4, of(&[("a", stood_again)])));
}

async fn held_groups_are_asked_about_when_they_are_due_but_for_confirmed_and_undone_ones(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c", "d", "e"], &["p", "q"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let passes = [(scene.public, Verdict::Exact), (scene.private, Verdict::Exact)];
    let undone = scene.settle(&passes, &["d"]).await;
    scene.close(crawl, at(2, 0), at(2, 1), &undone).await.unwrap();
    let deleted = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    bench.store.undelete(&scene.lease, &deleted, crawl, at(2, 5), day()).await.unwrap();
    let crawl = scene.open(at(3, 0)).await;
    let mut withheld = scene.settle(&passes, &["a", "b", "c", "p"]).await;
    withheld.withhold(&[scene.public], Confirmation::Off, true);
    withheld.withhold(&[scene.private], Confirmation::On, true);
    scene.close(crawl, at(3, 0), at(3, 1), &withheld).await.unwrap();
    let held = "SELECT group_id, confirmed FROM live_groups WHERE held ORDER BY group_id";
    assert_eq!(bench.lines(held).await, ["a|0", "b|0", "c|0", "d|0", "p|1"]);

    let to_ask = async |round, most| {
        let groups = bench.store.held_to_ask(scene.app, round, most).await.unwrap();
        assert!(groups.iter().all(|(_, type_id)| *type_id == scene.public), "{groups:?}");
        groups.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(to_ask(1, 10).await, "a b c");
    let set = BTreeMap::from([
        (Asked::then_unlearned(None, 1), ["a"].into_iter().collect()),
        (Asked { unlearned: 3, round: 1, again_in: 4, ..Asked::default() }, ["b"].into_iter().collect()),
    ]);
    close_with_history(&scene, 4, &HistoryChanges { round: 1, set, ..Default::default() }).await;
    assert_eq!(to_ask(1, 10).await, "c");
    assert_eq!(to_ask(2, 10).await, "c a", "those never asked about come first");
    assert_eq!(to_ask(4, 10).await, "c a b");
    assert_eq!(to_ask(4, 2).await, "c a");
}

async fn a_held_group_that_is_listed_again_is_free(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let mut withheld = scene.settle(&[(scene.public, Verdict::Exact)], &["a", "b"]).await;
    withheld.withhold(&[scene.public], Confirmation::Off, true);
    scene.close(crawl, at(2, 0), at(2, 1), &withheld).await.unwrap();
    let next = scene.open(at(3, 0)).await;
    assert_eq!(scene.list(next, scene.public, at(3, 1), &["a"]).await, Written::default());
    scene.complete(next, at(3, 0), at(3, 2), &[scene.public]).await;
    let shown = "SELECT group_id, held, missing_since FROM groups ORDER BY group_id";
    assert_eq!(bench.lines(shown).await, ["a|0|NULL", "b|1|2026-03-01T02:00:00Z"]);
    let waiting = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    assert_eq!(held_ids(bench, &waiting, crawl, Approval::All).await, ["b"]);
}

async fn what_a_crawl_deleted_is_undone_for_the_groups_that_nothing_touched_since(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c", "d"], &["p"]).await;
    let first = scene.open(at(2, 0)).await;
    let passes = [(scene.public, Verdict::Exact), (scene.private, Verdict::Exact)];
    let gone = scene.settle(&passes, &["a", "b", "p"]).await;
    scene.close(first, at(2, 0), at(2, 2), &gone).await.unwrap();
    // One of them returns, and is deleted again by another crawl: that is not the first one's to undo.
    let second = scene.open(at(3, 0)).await;
    scene.list(second, scene.public, at(3, 1), &["b"]).await;
    scene.complete(second, at(3, 0), at(3, 2), &[scene.public]).await;
    let third = scene.open(at(4, 0)).await;
    let gone = scene.settle(&passes, &["b", "c"]).await;
    scene.close(third, at(4, 0), at(4, 2), &gone).await.unwrap();

    let crawl = bench.store.held_crawl(first).await.unwrap().unwrap();
    assert_eq!((crawl.vanished, crawl.undeleted), (3, 0));
    assert_eq!(bench.store.deleted_groups(&crawl, first).await.unwrap(), ["a", "p"]);
    let undelete = || bench.store.undelete(&scene.lease, &crawl, first, at(5, 0), day());
    assert_eq!(undelete().await.unwrap(), 2);
    bench.assert_consistent().await;
    assert_eq!(
        scene.groups().await,
        [
            "a|Public|01:01|01:01|NULL|02:00|1|1",
            "b|Public|01:01|03:01|04:02|NULL|0|1",
            "c|Public|01:01|03:00|04:02|NULL|0|1",
            "d|Public|01:01|04:00|NULL|NULL|0|1",
            "p|Private|01:01|01:01|NULL|02:00|1|1"
        ]
    );
    let told = scene.events().await;
    assert_eq!(
        told[told.len() - 2..],
        [format!("undeleted|a|Public|Public|{first}"), format!("undeleted|p|Private|Private|{first}")]
    );
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {first}");
    assert_eq!(bench.lines(&shown).await, ["withheld|3|2|2"]);
    let days = "SELECT group_type, live_groups, vanished FROM daily_counts ORDER BY group_type";
    assert_eq!(bench.lines(days).await, ["Private|1|1", "Public|2|4"]);
    assert_eq!(undelete().await.unwrap(), 0);
    assert_eq!(bench.lines(&shown).await, ["withheld|3|2|2"]);
    // What the next crawl misses of them stays as it is, and someone's word deletes it again.
    let next = scene.open(at(6, 0)).await;
    let absent = scene.settle(&passes, &["a", "p"]).await;
    assert_eq!(scene.close(next, at(6, 0), at(6, 2), &absent).await.unwrap(), CrawlEvents::default());
    let crawl = bench.store.held_crawl(first).await.unwrap().unwrap();
    assert_eq!(
        bench.store.approve(&scene.lease, &crawl, (first, Approval::All), at(7, 0), day()).await.unwrap(),
        2
    );
    assert_eq!(bench.lines(&shown).await, ["approved|5|2|2"]);
    assert_eq!(bench.lines("SELECT group_id FROM live_groups").await, ["d"]);
}

async fn an_approved_deletion_is_undone_and_approved_again(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &["p"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let passes = [(scene.public, Verdict::Exact), (scene.private, Verdict::Exact)];
    let mut gone = scene.settle(&passes, &["a", "b", "p"]).await;
    gone.withhold(&[scene.public], Confirmation::Off, true);
    scene.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = async || bench.store.held_crawl(crawl).await.unwrap().unwrap();
    let shown =
        format!("SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = {crawl}");
    // What was deleted at once becomes one more that waits.
    let undone = bench.store.undelete(&scene.lease, &held().await, crawl, at(3, 0), day()).await.unwrap();
    assert_eq!((undone, bench.lines(&shown).await.remove(0)), (1, "withheld|1|3|1".to_owned()));
    bench.assert_consistent().await;
    for (minute, vanished, undeleted) in [(0, 4, 4), (10, 7, 7)] {
        let approved = bench
            .store
            .approve(&scene.lease, &held().await, (crawl, Approval::All), at(4, minute), day())
            .await;
        assert_eq!(approved.unwrap(), 3);
        bench.assert_consistent().await;
        let undone = bench.store.undelete(&scene.lease, &held().await, crawl, at(4, minute + 5), day()).await;
        assert_eq!(undone.unwrap(), 3);
        bench.assert_consistent().await;
        assert_eq!(bench.lines(&shown).await, [format!("withheld|{vanished}|3|{undeleted}")]);
    }
    assert_eq!(bench.value("SELECT count(*) FROM live_groups WHERE held").await, "3");
}

async fn what_an_undone_group_is_listed_as_later_is_no_reappearance(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["a"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let held = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    bench.store.undelete(&scene.lease, &held, crawl, at(3, 0), day()).await.unwrap();
    let next = scene.open(at(4, 0)).await;
    assert_eq!(scene.list(next, scene.public, at(4, 1), &["a"]).await, Written::default());
    scene.complete(next, at(4, 0), at(4, 2), &[scene.public]).await;
    assert_eq!(
        scene.groups().await,
        ["a|Public|01:01|04:01|NULL|NULL|0|1", "b|Public|01:01|04:00|NULL|NULL|0|1"]
    );
}

async fn undoing_deletions_that_a_listing_has_undone_changes_nothing(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    let gone = scene.settle(&[(scene.public, Verdict::Exact)], &["a"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    let next = scene.open(at(3, 0)).await;
    scene.list(next, scene.public, at(3, 1), &["a"]).await;
    scene.complete(next, at(3, 0), at(3, 2), &[scene.public]).await;
    let everything = async || {
        let mut all = scene.groups().await;
        for table in ["crawl", "group_event", "daily_count", "type_state"] {
            all.extend(bench.lines(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
        }
        all
    };
    let before = everything().await;
    let held = bench.store.held_crawl(crawl).await.unwrap().unwrap();
    assert_eq!(bench.store.undelete(&scene.lease, &held, crawl, at(4, 0), day()).await.unwrap(), 0);
    assert_eq!(everything().await, before);
}

/// Two apps with everything that an app can have.
async fn two_apps(bench: &Bench) -> [Scene<'_>; 2] {
    let ids: Vec<String> = (0..20_100).map(|n| format!("{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::after_baseline(bench, &ids, &["p"]).await;
    let other = AppIdentity { sdk_app_id: SdkAppId::new(7).unwrap(), name: "other".to_owned() };
    let (app, _) = bench.store.register_app(&other, &group_types(&["Public", "Private"])).await.unwrap();
    let lease = bench.store.try_lease(other.sdk_app_id).await.unwrap().unwrap();
    let other = Scene { bench, app, public: scene.public, private: scene.private, lease };
    let crawl = other.open(at(1, 0)).await;
    other.list(crawl, other.public, at(1, 1), &["a", "b", "000001"]).await;
    other.complete(crawl, at(1, 0), at(1, 2), &[other.public]).await;
    for (scene, gone) in [(&scene, &ids[..12_000]), (&other, &["a"][..])] {
        let crawl = scene.open(at(2, 0)).await;
        scene.list(crawl, scene.public, at(2, 1), &["new"]).await;
        let settlement = scene.settle(&[(scene.public, Verdict::Exact)], gone).await;
        let passes = [pass(scene.public, Some(Verdict::Exact), &[9], 9)];
        let set = BTreeMap::from([(Asked::then_stood(None, 1), ["new"].into_iter().collect())]);
        let history = HistoryChanges { round: 1, set, ..Default::default() };
        let closing = Closing {
            passes: &passes,
            history: Some(&history),
            ..scene.closing(crawl, at(2, 0), at(2, 2), &settlement)
        };
        bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    }
    [scene, other]
}

/// Every table with rows of apps, and how many rows it has of each.
async fn rows_by_app(bench: &Bench) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, of) in [
        ("group_row", "app_id"),
        ("group_event", "app_id"),
        ("group_question", "app_id"),
        ("daily_count", "app_id"),
        ("type_state", "app_id"),
        ("crawl", "app_id"),
        ("app", "app_id"),
        ("crawl_pass", "(SELECT app_id FROM crawl c WHERE c.crawl_id = r.crawl_id)"),
        ("crawl_change", "(SELECT app_id FROM crawl c WHERE c.crawl_id = r.crawl_id)"),
    ] {
        let counted = format!("SELECT {of}, count(*) FROM {table} r GROUP BY 1 ORDER BY 1");
        rows.extend(bench.lines(&counted).await.iter().map(|line| format!("{table} {line}")));
    }
    rows
}

async fn a_forgotten_app_leaves_no_row_and_leaves_others_alone(bench: &Bench) {
    let [scene, other] = two_apps(bench).await;
    let known = bench.store.apps_called("prod").await.unwrap();
    assert_eq!(
        known.iter().map(|app| (app.id(), app.name.as_str())).collect::<Vec<_>>(),
        [(scene.app, "prod")]
    );
    assert_eq!(bench.store.apps_called("7").await.unwrap()[0].id(), other.app);
    assert!(bench.store.apps_called("nobody").await.unwrap().is_empty());
    let holdings = bench.store.holdings(scene.app).await.unwrap();
    assert_eq!(holdings, Holdings { groups: 20_102, events: 12_001, crawls: 2, days: 1 });
    let of_other = format!(" {}|", other.app.0);
    let expected: Vec<String> =
        rows_by_app(bench).await.into_iter().filter(|line| line.contains(&of_other)).collect();
    let mut batches = Vec::new();
    bench.store.forget(&scene.lease, scene.app, |rows| batches.push(rows)).await.unwrap();
    assert_eq!(rows_by_app(bench).await, expected);
    assert!(batches.len() > 4 && batches.iter().all(|rows| *rows <= 10_000), "{batches:?}");
    // Once more is once too often, and harmless.
    bench.store.forget(&scene.lease, scene.app, |_| ()).await.unwrap();
    assert_eq!(rows_by_app(bench).await, expected);
}

async fn what_was_forgotten_half_way_is_finished_later(bench: &Bench) {
    let [scene, other] = two_apps(bench).await;
    forget_some_of(&scene).await;
    assert_eq!(bench.store.apps_called("prod").await.unwrap().len(), 1);
    let totals = "SELECT sum(live_count + deleted_count) FROM type_state WHERE app_id = ";
    let counted = "SELECT count(*) FROM group_row WHERE app_id = ";
    let left = bench.value(&format!("{counted}{}", scene.app.0)).await;
    assert_eq!(bench.value(&format!("{totals}{}", scene.app.0)).await, left);
    bench.store.forget(&scene.lease, scene.app, |_| ()).await.unwrap();
    assert_eq!(bench.lines("SELECT app FROM app_status").await, ["other"]);
    assert_eq!(bench.lines("SELECT DISTINCT app_id FROM group_row").await, [other.app.0.to_string()]);
}

async fn an_app_that_was_forgotten_half_way_can_be_crawled_again(bench: &Bench) {
    let [scene, _other] = two_apps(bench).await;
    forget_some_of(&scene).await;
    let states = bench.store.type_states(scene.app).await.unwrap();
    assert!(states.iter().all(|state| !state.past_baseline()), "{states:?}");
    let crawl = scene.open(at(5, 0)).await;
    scene.list_baseline(crawl, scene.public, at(5, 1), &["000000", "new"]).await;
    scene.complete(crawl, at(5, 0), at(5, 2), &[scene.public]).await;
    bench.store.forget(&scene.lease, scene.app, |_| ()).await.unwrap();
}

/// Breaks off when the first groups are gone.
async fn forget_some_of(scene: &Scene<'_>) {
    let (bench, app) = (scene.bench, scene.app);
    let stop = tokio_util::sync::CancellationToken::new();
    let groups = bench.store.holdings(app).await.unwrap().groups.unsigned_abs();
    let mut removed = 0;
    let forgetting = bench.store.forget(&scene.lease, app, |rows| {
        removed += rows;
        // All but the groups are fewer rows than this.
        if removed > groups {
            stop.cancel();
        }
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        done = forgetting => panic!("nothing was broken off: {done:?}"),
    }
}

async fn long_deleted_groups_are_removed_in_batches_and_totals_stay_right(bench: &Bench) {
    let [scene, other] = two_apps(bench).await;
    let crawl = scene.open(at(3, 0)).await;
    let gone = scene.settle(&[(scene.private, Verdict::Exact)], &["p"]).await;
    scene.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    for (minute, groups, batches) in [(2, 0, 0), (3, 12_000, 2)] {
        let limits = AgeLimits { deleted_groups: Some(at(2, minute)), ..AgeLimits::default() };
        let mut each = 0;
        let purged =
            bench.store.purge(&scene.lease, (scene.app, crawl), &limits, || each += 1).await.unwrap();
        assert_eq!((purged, each), (Purged { groups, ..Purged::default() }, batches));
    }
    let left = format!(
        "SELECT group_id, deleted_at FROM group_row WHERE app_id = {} AND deleted_at IS NOT NULL",
        scene.app.0
    );
    assert_eq!(bench.lines(&left).await.len(), 1);
    let noted =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(bench.lines(&noted).await, ["12000|0|0"]);
    assert_eq!(bench.value("SELECT sum(deleted_count) FROM type_status WHERE app = 'other'").await, "1");
    drop(other);
}

async fn old_events_go_and_younger_ones_and_other_apps_stay(bench: &Bench) {
    let [scene, _other] = two_apps(bench).await;
    let crawl = scene.open(at(3, 0)).await;
    scene.list(crawl, scene.public, at(3, 1), &["newer"]).await;
    scene.complete(crawl, at(3, 0), at(3, 2), &[scene.public]).await;
    let limits = AgeLimits { events: Some(at(3, 1)), ..AgeLimits::default() };
    let purged = bench.store.purge(&scene.lease, (scene.app, crawl), &limits, || ()).await.unwrap();
    assert_eq!(purged, Purged { events: 12_001, ..Purged::default() });
    let left = "SELECT app, group_id FROM group_events ORDER BY app, group_id";
    assert_eq!(
        bench.lines(left).await,
        ["other|000001", "other|a", "other|a", "other|b", "other|new", "prod|newer"]
    );
    assert_eq!(
        bench.store.purge(&scene.lease, (scene.app, crawl), &limits, || ()).await.unwrap(),
        Purged::default()
    );
    let noted =
        format!("SELECT purged_groups, purged_events, purged_counts FROM crawls WHERE crawl_id = {crawl}");
    assert_eq!(bench.lines(&noted).await, ["0|12001|0"]);
}

async fn old_crawls_go_but_those_that_something_still_names(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c"], &[]).await;
    let passes = [pass(scene.public, Some(Verdict::Exact), &[9], 9)];
    let close = async |hour, status, leftover, settlement: &Settlement| {
        let crawl = scene.open(at(hour, 0)).await;
        let closing = scene.closing(crawl, at(hour, 0), at(hour, 1), settlement);
        let closing = Closing { passes: &passes, status, leftover, ..closing };
        bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
        crawl
    };
    let nothing = Settlement::nothing();
    let exact = [(scene.public, Verdict::Exact)];
    close(2, CrawlStatus::Complete, Some(0), &nothing).await;
    let with_event = close(3, CrawlStatus::Complete, None, &scene.settle(&exact, &["a"]).await).await;
    let mut held = scene.settle(&exact, &["b"]).await;
    held.withhold(&[scene.public], Confirmation::Off, true);
    let holding = close(4, CrawlStatus::Complete, None, &held).await;
    close(5, CrawlStatus::Failed, None, &nothing).await;
    let leftover = close(6, CrawlStatus::Incomplete, Some(3), &nothing).await;
    let incomplete = close(7, CrawlStatus::Incomplete, None, &nothing).await;
    close(8, CrawlStatus::Failed, None, &nothing).await;
    let failed = close(9, CrawlStatus::Failed, None, &nothing).await;
    let complete = close(10, CrawlStatus::Complete, None, &nothing).await;
    let running = scene.open(at(11, 0)).await;
    let before =
        (bench.store.past(scene.app).await.unwrap(), bench.store.last_start(scene.app).await.unwrap());
    let days = day().succ_opt().unwrap();
    let limits = AgeLimits { counts: Some((at(12, 0), days)), ..AgeLimits::default() };
    let purged = bench.store.purge(&scene.lease, (scene.app, running), &limits, || ()).await.unwrap();
    // Three crawls, their passes and those of one that stays for its event alone, and two types of one day.
    assert_eq!(purged, Purged { counts: 3 + 3 + 1 + 2, ..Purged::default() });
    let first = bench.value("SELECT min(crawl_id) FROM crawl").await.parse().unwrap();
    let expected =
        [first, with_event.0, holding.0, leftover.0, incomplete.0, failed.0, complete.0, running.0];
    assert_eq!(bench.lines("SELECT crawl_id FROM crawl ORDER BY 1").await, expected.map(|id| id.to_string()));
    let after =
        (bench.store.past(scene.app).await.unwrap(), bench.store.last_start(scene.app).await.unwrap());
    assert_eq!(after, before);
    assert!(bench.lines("SELECT * FROM daily_counts").await.is_empty());
    scene.fail(running, at(11, 0), at(11, 1)).await;
}

async fn passes_show_in_the_counts_once_the_crawl_has_ended(bench: &Bench) {
    let scene = Scene::on(bench).await;
    let crawl = scene.open(at(2, 0)).await;
    let shown =
        "SELECT group_type, total_count, total_count_min, total_count_max, listed_count, verdict, recorded_at
                 FROM type_counts ORDER BY group_type";
    assert!(bench.lines(shown).await.is_empty());
    assert!(bench.lines("SELECT * FROM app_counts").await.is_empty());
    let passes = [
        pass(scene.public, Some(Verdict::Moving), &[7, 9, 8], 9),
        pass(scene.private, Some(Verdict::Rejected), &[], 0),
        pass(TypeId::UNKNOWN, Some(Verdict::Exact), &[20], 20),
    ];
    let nothing = Settlement::nothing();
    let closing = Closing {
        passes: &passes,
        total_at_end: None,
        total_at_start: Some(u64::MAX),
        ..scene.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    assert_eq!(
        bench.lines(shown).await,
        [
            "Private|NULL|NULL|NULL|0|rejected|2026-03-01T02:01:00Z",
            "Public|8|7|9|9|moving|2026-03-01T02:01:00Z"
        ]
    );
    // A TotalCount beyond what databases count to is kept as the largest number.
    assert_eq!(bench.value("SELECT total_count FROM app_counts").await, i64::MAX.to_string());
}

async fn what_earlier_crawls_tell_is_read_from_those_that_reached_their_end(bench: &Bench) {
    let scene = Scene::on(bench).await;
    assert_eq!(bench.store.past(scene.app).await.unwrap(), Past::default());
    assert_eq!(bench.store.last_start(scene.app).await.unwrap(), None);
    let close = async |hour, status, leftover| {
        let crawl = scene.open(at(hour, 0)).await;
        let nothing = Settlement::nothing();
        let closing =
            Closing { status, leftover, ..scene.closing(crawl, at(hour, 0), at(hour, 1), &nothing) };
        bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
        bench.store.past(scene.app).await.unwrap()
    };
    let past = |crawled_before, leftover_last_time| Past {
        crawled_before,
        leftover_last_time,
        unfiltered_wanted: false,
    };
    assert_eq!(close(2, CrawlStatus::Failed, None).await, past(false, false));
    assert_eq!(close(3, CrawlStatus::Incomplete, Some(3)).await, past(true, true));
    assert_eq!(close(4, CrawlStatus::Failed, None).await, past(true, true));
    assert_eq!(close(5, CrawlStatus::Complete, Some(0)).await, past(true, false));
}

async fn events_of_a_running_crawl_do_not_show(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &[], &[]).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.list(crawl, scene.public, at(2, 1), &["a"]).await;
    assert!(scene.events().await.is_empty());
    assert_eq!(bench.lines("SELECT group_id FROM live_groups").await, ["a"]);
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public]).await;
    assert_eq!(scene.events().await.len(), 1);
}

async fn every_live_group_is_named_once_with_its_type_and_marks(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b", "c"], &["p", "q"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let passes = [(scene.public, Verdict::Moving), (scene.private, Verdict::Moving)];
    let missing = scene.settle(&passes, &["b", "q"]).await;
    scene.close(crawl, at(2, 0), at(2, 2), &missing).await.unwrap();
    let crawl = scene.open(at(3, 0)).await;
    scene.list(crawl, scene.private, at(3, 1), &["q"]).await;
    let gone = scene.settle(&[(scene.private, Verdict::Exact)], &["p"]).await;
    scene.close(crawl, at(3, 0), at(3, 2), &gone).await.unwrap();
    let mut named = Vec::new();
    let naming = bench.store.gather_live(
        scene.app,
        || (),
        |(), type_id, id, mark| named.push((id.to_owned(), type_id, mark)),
    );
    naming.await.unwrap();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let plain = Mark::default();
    assert_eq!(
        named,
        [
            ("a".to_owned(), scene.public, plain),
            ("b".to_owned(), scene.public, Mark { missing: true, held: false }),
            ("c".to_owned(), scene.public, plain),
            ("q".to_owned(), scene.private, plain),
        ]
    );
}

async fn one_of_two_holds_the_lease_and_the_other_waits(bench: &Bench) {
    let other = bench.another_store().await;
    let lease = bench.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    assert!(other.try_lease(sdk_app_id()).await.unwrap().is_none());
    assert!(bench.store.try_lease(sdk_app_id()).await.unwrap().is_none());
    // Another app is another lease.
    assert!(other.try_lease(SdkAppId::new(7).unwrap()).await.unwrap().is_some());
    let mut said = 0;
    let waiting = other.lease(sdk_app_id(), |waits| {
        assert_eq!(waits, said);
        said += 1;
    });
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lease.release(Clock::system().now(), Duration::from_millis(400)).await;
        std::time::Instant::now()
    };
    let (taken, released) = tokio::join!(waiting, releasing);
    let taken = taken.unwrap();
    assert!(said >= 1);
    // The pause is waited out either by whoever takes the lease, or before.
    let left = taken.not_before().map(|at| (at - Clock::system().now()).to_std().unwrap_or_default());
    let first_request = released.elapsed() + left.unwrap_or_default();
    assert!(first_request >= Duration::from_millis(380), "{first_request:?}");
}

async fn the_holder_of_the_lease_can_be_told(bench: &Bench) {
    let other = bench.another_store().await;
    assert_eq!(other.lease_holder(sdk_app_id()).await.unwrap(), None);
    let scene = Scene::on(bench).await;
    let crawl = scene.open(Clock::system().now()).await;
    let holder = other.lease_holder(sdk_app_id()).await.unwrap().expect("the lease is held");
    assert!(!holder.host.is_empty());
    let since = Clock::system().now() - holder.since.expect("it is known of a crawl");
    assert!(since.abs() < chrono::Duration::seconds(60), "{since}");
    scene.fail(crawl, at(2, 0), at(2, 1)).await;
    scene.lease.release(Clock::system().now(), Duration::ZERO).await;
    assert_eq!(other.lease_holder(sdk_app_id()).await.unwrap(), None);
}

async fn views_have_the_columns_of_the_contract_in_their_order(bench: &Bench) {
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
            "day group_type live_groups total_count appeared vanished reappeared retyped live_before net_growth",
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
             last_crawl_reason last_crawl_at running_since total_count held_count",
        ),
        (
            "type_status",
            "group_type sdk_name name_zh live_count deleted_count as_of configured missing_count total_count",
        ),
        ("group_lifetimes", "group_id group_type first_seen_at deleted_at lifetime_seconds"),
        (
            "daily_crawls",
            "day crawls complete incomplete failed cancelled success_rate requests total_seconds longest_seconds",
        ),
    ] {
        let expected: Vec<&str> = ["sdk_app_id", "app"].into_iter().chain(columns.split(' ')).collect();
        assert_eq!(bench.columns(view).await, expected, "{view}");
    }
}

async fn a_crawl_without_changes_rewrites_no_group(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &["p"]).await;
    let written = match &bench.place {
        Place::Postgres(_) => {
            "SELECT string_agg(group_id || ctid::text || xmin::text, ' ' ORDER BY group_id) FROM group_row"
        }
        // SQLite has no such marks: the rows themselves must be the same.
        Place::Sqlite(_) => "SELECT group_concat(group_id || last_seen_at, ' ') FROM group_row",
    };
    let before = bench.value(written).await;
    let crawl = scene.open(at(2, 0)).await;
    scene.complete(crawl, at(2, 0), at(2, 2), &[scene.public, scene.private]).await;
    assert_eq!(bench.value(written).await, before);
    // And still they were seen since.
    assert!(
        scene.groups().await.iter().all(|group| group.contains("|02:00|NULL")),
        "{:?}",
        scene.groups().await
    );
}

async fn readers_see_all_deletions_of_a_crawl_at_once(bench: &Bench) {
    let ids: Vec<String> = (0..25_000).map(|n| format!("{n:05}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::on(bench).await;
    let crawl = scene.open(at(1, 0)).await;
    scene.list_baseline(crawl, scene.public, at(1, 1), &ids).await;
    let gone = scene.settle_all(&[(scene.public, Verdict::Exact)]).await;
    let closing = scene.close(crawl, at(1, 0), at(1, 2), &gone);
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
            lines = bench.lines(shown) => seen.push(lines.join("")),
        }
    }
    seen.push(bench.lines(shown).await.join(""));
    seen.dedup();
    assert_eq!(seen.last().unwrap(), "0|25000|complete|25000|0");
    assert!(seen.len() <= 2 && (seen.len() == 1 || seen[0] == "25000|0|running|0|25000"), "{seen:?}");
}

async fn a_status_tells_counts_and_crawls(bench: &Bench) {
    let scene = Scene::after_baseline(bench, &["a", "b"], &["p"]).await;
    let crawl = scene.open(at(2, 0)).await;
    let nothing = Settlement::nothing();
    let reason = Reason {
        code: ReasonCode::ShortListing,
        error_code: Some(10006),
        text: "Public listed 1 of 2".to_owned(),
    };
    let closing = Closing {
        status: CrawlStatus::Incomplete,
        reason: Some(reason),
        ..scene.closing(crawl, at(2, 0), at(2, 2), &nothing)
    };
    bench.store.close_crawl(&scene.lease, &closing, |_| ()).await.unwrap();
    let running = scene.open(at(3, 0)).await;
    let statuses = bench.store.app_statuses().await.unwrap();
    let [status] = &statuses[..] else { panic!("{statuses:?}") };
    assert_eq!((status.app.as_str(), status.configured), ("prod", true));
    let types: Vec<_> =
        status.types.iter().map(|row| (row.group_type.as_deref(), row.live, row.configured)).collect();
    assert_eq!(types, [(Some("Public"), 2, 1), (Some("Private"), 1, 1)]);
    assert_eq!(status.last_complete_crawl.as_ref().unwrap().finished(), Some(at(1, 2)));
    let last = status.last_crawl.as_ref().unwrap();
    assert_eq!((last.crawl_id, last.status.as_str(), last.error_code), (crawl.0, "incomplete", Some(10006)));
    assert_eq!(status.running_crawl.as_ref().unwrap().crawl_id, running.0);
}

async fn hosts_that_crawl_different_group_types_are_told(bench: &Bench) {
    let scene = Scene::on(bench).await;
    let told = async || {
        let statuses = bench.store.app_statuses().await.unwrap();
        let lines = statuses[0].differing_group_types.iter();
        lines.map(|on| format!("{} {}", on.host, on.group_types.join("+"))).collect::<Vec<_>>()
    };
    assert_eq!(told().await, [""; 0]);
    scene.crawl_on("b", 1, &["Public"]).await;
    assert_eq!(told().await, [""; 0]);
    // The order makes no difference, nor does the name that the SDK has for a type.
    scene.crawl_on("a", 2, &["Public", "Work"]).await;
    scene.crawl_on("c", 3, &["Private", "Public"]).await;
    assert_eq!(told().await, ["a Private+Public", "b Public", "c Private+Public"]);
    scene.crawl_on("c", 4, &[]).await;
    assert_eq!(told().await, ["a Private+Public", "b Public", "c "]);
    let recorded = "SELECT host, group_types FROM crawl ORDER BY crawl_id";
    assert_eq!(bench.lines(recorded).await, ["b|Public", "a|Private,Public", "c|Private,Public", "c|"]);
    // Mended, or not heard of for twenty crawls.
    scene.crawl_on("b", 5, &["Private", "Public"]).await;
    assert_eq!(told().await, ["a Private+Public", "b Private+Public", "c "]);
    for _ in 0..20 {
        scene.crawl_on("a", 6, &["Private", "Public"]).await;
    }
    assert_eq!(told().await, [""; 0]);
}

/// An empty database beside the bench's.
async fn beside(bench: &Bench) -> (Store, DatabaseUrl, Option<TestDatabase>) {
    match &bench.place {
        Place::Sqlite(folder) => {
            let url = DatabaseUrl::Sqlite(folder.path().join("other.db"));
            (Store::open(&url).await.unwrap(), url, None)
        }
        Place::Postgres(_) => {
            let database = PostgresServer::shared().await.empty_database().await.reached_like(&bench.place);
            let url = database.database_url();
            (Store::open(&url).await.unwrap(), url, Some(database))
        }
    }
}

async fn a_database_without_tables_is_told_apart_from_a_newer_one(bench: &Bench) {
    let (store, url, _keep) = beside(bench).await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    Bench::execute(&url, "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9001, 'x', TRUE, '', 0)")
        .await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::Newer { version: 9001 })));
    let refused = store.migrate().await;
    assert!(matches!(refused, Err(StoreError::Newer { version: 9001 })), "{refused:?}");
}

async fn tables_of_every_earlier_version_are_brought_up_to_date_with_what_is_in_them(bench: &Bench) {
    const APP: &str = "INSERT INTO app (app_id, sdk_app_id, name) VALUES (1, 1400000000, 'prod')";
    const TYPE: &str = "INSERT INTO type_state (app_id, type_id, configured, live_count, baseline_crawl_id, concluded_crawl_id, concluded_at)
                        VALUES (1, 1, 1, 1, 1, 1, 1772326800000)";
    const CRAWL: &str = "INSERT INTO crawl (crawl_id, app_id, trigger, started_at, finished_at, status, appeared, host, version, group_types)
                         VALUES (1, 1, 'command', 1772326800000, 1772326801000, 'complete', 0, 'host', '0.1.0', 'Public')";
    const GROUP: &str =
        "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
                         VALUES (1, 'a', 1, TRUE, 1772326800000, 1772326800000)";

    let printed = Store::migration_sql(&bench.url());
    let mut earlier = 0;
    // Each migration begins with a heading, and the first is what a first version consists of.
    while let Some(end) = printed.find(&format!("\n-- {:04} ", earlier + 2)) {
        earlier += 1;
        let old = bench.empty_one_like().await;
        Bench::execute(&old.url(), &format!("{}\nCOMMIT;", &printed[..end])).await;
        for row in [APP, TYPE, CRAWL, GROUP] {
            Bench::execute(&old.url(), row).await;
        }
        assert!(matches!(old.store.check_migrated().await, Err(StoreError::NotMigrated)), "{earlier}");
        old.store.check_migratable().await.unwrap();
        old.store.migrate().await.unwrap();
        old.store.check_migrated().await.unwrap();

        if let Place::Postgres(_) = old.place {
            // The row above took a number that the sequence does not know of.
            Bench::execute(&old.url(), "ALTER TABLE crawl ALTER COLUMN crawl_id RESTART WITH 2").await;
        }
        let scene = Scene::on(&old).await;
        let crawl = scene.open(at(2, 0)).await;
        scene.list(crawl, scene.public, at(2, 0), &["a", "b"]).await;
        scene.complete(crawl, at(2, 0), at(2, 1), &[scene.public]).await;
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

async fn the_printed_sql_makes_the_same_tables(bench: &Bench) {
    let (store, url, _keep) = beside(bench).await;
    Bench::execute(&url, &Store::migration_sql(&url)).await;
    store.check_migrated().await.unwrap();
    store.migrate().await.unwrap();
    let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    store.register_app(&identity, &group_types(&["Public"])).await.unwrap();
    assert_eq!(store.app_statuses().await.unwrap().len(), 1);
    store.close().await;
}

async fn two_programs_that_start_at_once_on_an_empty_database_both_find_it_migrated(bench: &Bench) {
    let (first, url, _keep) = beside(bench).await;
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
