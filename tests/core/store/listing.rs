//! The rows and events of listed groups: new, reappeared and retyped groups, and ids of any form.

#![deny(dead_code)]

use harness::store::{LeasedApp, Location, TestDatabase, at, group_types};
use harness::store_tests;
use std::collections::BTreeMap;
use tim_group_sync::model::{SdkAppId, TypeId, Verdict};
use tim_group_sync::store::{AppIdentity, CrawlEvents, WrittenCounts};

store_tests![
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
    a_crawl_without_changes_rewrites_no_group,
];

async fn the_first_list_of_a_type_has_no_events(db: &TestDatabase) {
    let leased = LeasedApp::on(db).await;
    let crawl = leased.open(at(1, 0)).await;
    let written = leased.list_baseline(crawl, leased.public, at(1, 1), &["b", "a"]).await;
    assert_eq!(written, WrittenCounts { first_listed: 2, ..WrittenCounts::default() });
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
        states.iter().map(|state| (state.type_id(), state.is_past_baseline())).collect();
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
    assert_eq!(written, WrittenCounts { first_listed: 1, appeared: 1, ..WrittenCounts::default() });
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
    assert_eq!(first, WrittenCounts { first_listed: 1, appeared: 1, reappeared: 0, retyped: 1 });
    let rows = db.lines("SELECT * FROM group_row ORDER BY group_id").await;
    let again = leased.list(crawl, leased.public, at(2, 5), &["a", "b", "p"]).await;
    assert_eq!(again, WrittenCounts::default());
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
    assert_eq!(written, WrittenCounts { reappeared: 1, ..WrittenCounts::default() });
    let written = leased.list(crawl, leased.public, at(3, 1), &["b"]).await;
    assert_eq!(written, WrittenCounts { reappeared: 1, ..WrittenCounts::default() });
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
    assert_eq!(written, WrittenCounts { retyped: 1, ..WrittenCounts::default() });
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
    assert_eq!(learned, WrittenCounts::default());
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
    assert_eq!(written, WrittenCounts { reappeared: 1, ..WrittenCounts::default() });
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
    assert_eq!(leased.list(crawl, leased.public, at(3, 1), &["a"]).await, WrittenCounts::default());
    let retyped = leased.list(crawl, leased.private, at(3, 1), &["b"]).await;
    assert_eq!(retyped, WrittenCounts { retyped: 1, ..WrittenCounts::default() });
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
    assert_eq!(leased.list(crawl, leased.public, at(2, 1), &ids).await, WrittenCounts::default());
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let mut read = Vec::new();
    db.store.gather_live(leased.app, || (), |(), _, id, _| read.push(id.to_owned())).await.unwrap();
    read.sort_unstable();
    assert_eq!(read, sorted);
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
    assert_eq!(again, WrittenCounts { retyped: 20_001, ..WrittenCounts::default() });
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
