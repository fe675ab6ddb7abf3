//! The details of groups: which are requested and in which order, which are written, and which
//! readers see.

use std::time::Duration;

use harness::crawl::{Harness, ON_COMMAND, format_time, outcome};
use harness::crawl_tests;
use harness::store::TestDatabase;
use serde_json::{Map, Value, json};
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::policy::{DetailsPolicy, Retention};
use tim_group_sync::simulator::{At, Call, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    the_details_of_every_live_group_are_stored,
    unchanged_details_are_not_written_and_their_time_follows_the_last_request,
    a_changed_detail_is_written,
    details_are_requested_again_when_they_are_older_than_the_limit,
    the_details_of_new_groups_are_requested_before_the_others_are_due,
    a_group_that_returns_has_the_time_of_its_own_request,
    an_interrupted_run_continues_where_it_stopped,
    two_processes_do_not_refresh_the_same_app_at_once,
    the_claim_of_a_process_that_ended_is_taken_over_after_it_expires,
    names_that_a_database_cannot_store_are_repaired,
    a_live_room_has_no_member_count,
    a_group_that_vanishes_after_it_was_listed_gets_no_row,
    a_group_without_a_usable_answer_keeps_its_details_and_their_time,
    one_group_with_malformed_data_does_not_keep_the_others_from_being_stored,
    a_throttled_or_refused_request_fails_and_writes_nothing,
    deleted_groups_keep_their_details_until_retention_removes_the_group,
    a_crawl_removes_all_details_if_they_are_no_longer_kept,
    a_crawl_stores_the_details_of_the_groups_that_it_looked_up,
    readers_see_how_many_groups_have_recent_details,
}

const DAY: Duration = Duration::from_hours(24);
const POLICY: DetailsPolicy = DetailsPolicy { refresh: DAY, requests_per_second: 40 };
const ROWS: &str = "SELECT group_id, name, owner, member_count FROM group_details ORDER BY group_id";
const TIMES: &str = "SELECT group_id, as_of FROM group_details ORDER BY group_id";
const WRITTEN_AT: &str = "SELECT group_id, fetched_at FROM group_detail ORDER BY group_id";

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is not an object"),
    }
}

/// Returns a harness whose API has these public groups, after a crawl.
async fn crawled(mut harness: Harness, ids: &str) -> Harness {
    harness.details = Some(POLICY);
    harness.create("Public", ids);
    for id in ids.split(' ') {
        let details = json!({ "Name": id.to_uppercase(), "Owner_Account": "eve", "MemberNum": 3 });
        harness.api.set_details(id, fields(details));
    }
    harness.crawl().await;
    harness
}

async fn refresh(harness: &Harness) {
    harness.details_refresher().refresh_due().await.unwrap();
}

/// Ends the claims of the refreshers so far, as if their processes had ended a minute ago.
async fn expire_claims(harness: &Harness) {
    TestDatabase::execute(&harness.db.store_location(), "UPDATE detail_state SET held_until = 0").await;
}

/// Returns the ids of each `get_group_info` request after request number `skip`.
fn requested_after(harness: &Harness, skip: u64) -> Vec<Vec<String>> {
    let requests = harness.api.requests();
    let info = requests.into_iter().filter(|request| request.number > skip && request.call == Call::Info);
    info.map(|request| request.groups).collect()
}

async fn the_details_of_every_live_group_are_stored(harness: Harness) {
    let harness = crawled(harness, "a b c").await;
    harness.dissolve("b");
    harness.crawl().await;
    let details = json!({
        "Name": "Chess", "Owner_Account": "carol", "Introduction": "Every Monday", "CreateTime": 1_700_000_000,
        "LastMsgTime": 1_700_003_600, "LastInfoTime": 1_700_007_200, "MemberNum": 12, "MaxMemberNum": 2000,
    });
    harness.api.set_details("c", fields(details));
    refresh(&harness).await;
    assert_eq!(harness.lines(ROWS).await, ["a A eve 3", "c Chess carol 12"]);
    let all = "SELECT app, introduction, created_at, last_message_at, info_changed_at, max_member_count
        FROM group_details WHERE group_id = 'c'";
    assert_eq!(
        harness.lines(all).await,
        ["prod Every Monday 2023-11-14T22:13:20Z 2023-11-14T23:13:20Z 2023-11-15T00:13:20Z 2000"]
    );
}

async fn unchanged_details_are_not_written_and_their_time_follows_the_last_request(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    refresh(&harness).await;
    let (written, times) = (harness.lines(WRITTEN_AT).await, harness.lines(TIMES).await);
    harness.move_clock_by_hours(25);
    expire_claims(&harness).await;
    refresh(&harness).await;
    assert_eq!(harness.lines(WRITTEN_AT).await, written);
    let later = harness.lines(TIMES).await;
    assert!(later[0] > times[0] && later[1] > times[1], "{times:?} {later:?}");
}

async fn a_changed_detail_is_written(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    refresh(&harness).await;
    let before = harness.lines(WRITTEN_AT).await;
    harness.api.set_details("b", fields(json!({ "Owner_Account": "mallory" })));
    harness.move_clock_by_hours(25);
    expire_claims(&harness).await;
    refresh(&harness).await;
    assert_eq!(harness.lines(ROWS).await, ["a A eve 3", "b B mallory 3"]);
    let after = harness.lines(WRITTEN_AT).await;
    assert_eq!((after[0] == before[0], after[1] == before[1]), (true, false));
}

async fn details_are_requested_again_when_they_are_older_than_the_limit(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    let refresher = harness.details_refresher();
    refresher.refresh_due().await.unwrap();
    let requests_before = harness.requests_so_far();
    harness.move_clock_by_hours(23);
    refresher.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before), Vec::<Vec<String>>::new());
    harness.move_clock_by_hours(2);
    refresher.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before), [["a", "b"]]);
}

async fn the_details_of_new_groups_are_requested_before_the_others_are_due(harness: Harness) {
    let harness = crawled(harness, "b d").await;
    let refresher = harness.details_refresher();
    refresher.refresh_due().await.unwrap();
    harness.create("Public", "a c");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    let requests_before = harness.requests_so_far();
    refresher.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before), [vec!["a", "c"], vec!["a", "b", "c", "d"]]);
    assert_eq!(harness.lines(TIMES).await.len(), 4);
}

async fn a_group_that_returns_has_the_time_of_its_own_request(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    let refresher = harness.details_refresher();
    refresher.refresh_due().await.unwrap();
    let as_of = "SELECT as_of FROM group_details WHERE group_id = 'a'";
    let before_deletion = harness.value(as_of).await;
    harness.dissolve("a");
    harness.crawl().await;
    harness.move_clock_by_hours(25);
    refresher.refresh_due().await.unwrap();
    assert_eq!(
        harness.value(as_of).await,
        before_deletion,
        "it was deleted when the details of the others were requested"
    );
    harness.create("Public", "a");
    harness.crawl().await;
    assert_eq!(harness.value(as_of).await, before_deletion);
    refresher.refresh_due().await.unwrap();
    assert!(harness.value(as_of).await > before_deletion);
}

async fn an_interrupted_run_continues_where_it_stopped(harness: Harness) {
    let mut harness = harness;
    harness.page_limit = 500;
    harness.details = Some(DetailsPolicy { requests_per_second: 1, ..POLICY });
    harness.api.create_many("Public", 330);
    harness.crawl().await;
    // At one request a second, the groups of four requests are stored together.
    harness.details = Some(DetailsPolicy { requests_per_second: 1, ..POLICY });
    let sixth = harness.request(6);
    harness.api.script(At::Request(sixth), Fault::ErrorCode(10007));
    harness.details_refresher().refresh_due().await.unwrap_err();
    assert_eq!(harness.value("SELECT count(*) FROM group_details").await, "200");
    let requests_before = harness.requests_so_far();
    expire_claims(&harness).await;
    refresh(&harness).await;
    let sizes: Vec<usize> = requested_after(&harness, requests_before).iter().map(Vec::len).collect();
    assert_eq!(sizes, [50, 50, 30]);
    assert_eq!(harness.value("SELECT count(*) FROM group_details").await, "330");
}

async fn two_processes_do_not_refresh_the_same_app_at_once(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    let (one, other) = (harness.details_refresher(), harness.details_refresher());
    let held = harness.api.hold(At::Info);
    let requests_before = harness.requests_so_far();
    let refreshing = async { one.refresh_due().await.unwrap() };
    let refused = async {
        held.reached().await;
        other.refresh_due().await.unwrap();
        drop(held);
    };
    tokio::join!(refreshing, refused);
    assert_eq!(requested_after(&harness, requests_before), [["a", "b"]]);
    harness.move_clock_by_hours(25);
    one.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before).len(), 2);
}

async fn the_claim_of_a_process_that_ended_is_taken_over_after_it_expires(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    refresh(&harness).await;
    harness.move_clock_by_hours(25);
    let requests_before = harness.requests_so_far();
    let successor = harness.details_refresher();
    successor.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before).len(), 0);
    expire_claims(&harness).await;
    successor.refresh_due().await.unwrap();
    assert_eq!(requested_after(&harness, requests_before).len(), 1);
}

async fn names_that_a_database_cannot_store_are_repaired(harness: Harness) {
    let harness = crawled(harness, "bidi emoji long nul").await;
    let name = |id, name: &str| harness.api.set_details(id, fields(json!({ "Name": name })));
    name("bidi", "\u{202e}abc");
    name("emoji", "\u{1f468}\u{200d}\u{1f469}");
    name("long", &"x".repeat(100_000));
    name("nul", "a\0b");
    refresh(&harness).await;
    let names = harness.lines("SELECT name FROM group_details ORDER BY group_id").await;
    assert_eq!(names[..2], ["\u{202e}abc", "\u{1f468}\u{200d}\u{1f469}"]);
    assert_eq!((names[2].len(), names[3].as_str()), (1000, "a\u{fffd}b"));
}

async fn a_live_room_has_no_member_count(harness: Harness) {
    let mut harness = harness;
    harness.group_types = harness::crawl::group_types(&["AVChatRoom", "Public"]);
    let harness = crawled(harness, "a").await;
    harness.create("AVChatRoom", "room");
    harness.api.set_details("room", fields(json!({ "MemberNum": 0 })));
    harness.crawl().await;
    refresh(&harness).await;
    let counts = "SELECT group_id, member_count FROM group_details ORDER BY group_id";
    assert_eq!(harness.lines(counts).await, ["a 3", "room NULL"]);
}

async fn a_group_that_vanishes_after_it_was_listed_gets_no_row(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    harness.dissolve("b");
    refresh(&harness).await;
    assert_eq!(harness.lines(ROWS).await, ["a A eve 3"]);
}

async fn a_group_without_a_usable_answer_keeps_its_details_and_their_time(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    let refresher = harness.details_refresher();
    refresher.refresh_due().await.unwrap();
    let before = harness.lines(TIMES).await;
    harness.api.script(At::Info, Fault::GroupCode("a".to_owned(), 10007));
    harness.move_clock_by_hours(25);
    refresher.refresh_due().await.unwrap();
    harness.move_clock_by_hours(25);
    refresher.refresh_due().await.unwrap();
    let after = harness.lines(TIMES).await;
    assert_eq!((after[0] == before[0], after[1] == before[1]), (true, false));
    harness.api.clear_faults();
    harness.move_clock_by_hours(25);
    refresher.refresh_due().await.unwrap();
    let after = harness.lines(TIMES).await;
    assert_eq!(after[0].replace('a', ""), after[1].replace('b', ""));
}

async fn one_group_with_malformed_data_does_not_keep_the_others_from_being_stored(harness: Harness) {
    let harness = crawled(harness, "a b c d e").await;
    harness.api.set_details("d", fields(json!({ "Name": { "not": "a text" } })));
    refresh(&harness).await;
    assert_eq!(harness.value("SELECT count(*) FROM group_details").await, "4");
    assert_eq!(harness.value("SELECT count(*) FROM group_details WHERE group_id = 'd'").await, "0");
}

async fn a_throttled_or_refused_request_fails_and_writes_nothing(harness: Harness) {
    let harness = crawled(harness, "a b").await;
    for code in [60011, 10007, 60003] {
        let requests_before = harness.requests_so_far();
        harness.api.script(At::Info, Fault::ErrorCode(code));
        harness.details_refresher().refresh_due().await.unwrap_err();
        assert_eq!(requested_after(&harness, requests_before).len(), 1, "{code}");
        assert_eq!(outcome(&harness.crawl().await), "complete", "crawls continue");
        harness.api.clear_faults();
        expire_claims(&harness).await;
    }
    assert!(harness.lines(ROWS).await.is_empty());
    refresh(&harness).await;
    assert_eq!(harness.lines(ROWS).await.len(), 2);
}

async fn deleted_groups_keep_their_details_until_retention_removes_the_group(harness: Harness) {
    let mut harness = crawled(harness, "a b").await;
    refresh(&harness).await;
    harness.dissolve("a");
    harness.crawl().await;
    assert_eq!(harness.lines(ROWS).await, ["a A eve 3", "b B eve 3"]);
    harness.retention = Retention { deleted_groups: Some(2), ..Retention::default() };
    for _ in 0..4 {
        harness.move_clock_by_hours(24);
        // The checks of `Harness::crawl` expect that the groups of all events are in the table.
        harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
    }
    assert_eq!(harness.lines("SELECT group_id FROM groups").await, ["b"]);
    assert_eq!(harness.lines("SELECT group_id FROM group_detail").await, ["b"]);
}

async fn a_crawl_removes_all_details_if_they_are_no_longer_kept(harness: Harness) {
    let mut harness = crawled(harness, "a b").await;
    refresh(&harness).await;
    harness.details = None;
    harness.crawl().await;
    for table in ["group_detail", "detail_range", "detail_state"] {
        assert_eq!(harness.value(&format!("SELECT count(*) FROM {table}")).await, "0", "{table}");
    }
}

async fn a_crawl_stores_the_details_of_the_groups_that_it_looked_up(harness: Harness) {
    let harness = crawled(harness, "a b c").await;
    harness.api.hide(&["a"]);
    let report = harness.crawl().await;
    assert_eq!(report.lookups.spared, 1);
    // The listed control of the batch exists too.
    let known = harness.lines("SELECT group_id, name FROM group_details ORDER BY group_id").await;
    assert_eq!((known.len(), known[0].as_str()), (2, "a A"));
    // The clock advances with each request. The lookup was the last one.
    let as_of = harness.value("SELECT as_of FROM group_details WHERE group_id = 'a'").await;
    let before_lookup = report.finished_at - Duration::from_secs(1);
    assert_eq!(as_of, format_time(before_lookup));
}

async fn readers_see_how_many_groups_have_recent_details(harness: Harness) {
    let harness = crawled(harness, "a b c").await;
    let overview = async || harness.store.overview().await.unwrap().remove(0).details;
    assert_eq!(overview().await, None);
    let refresher = harness.details_refresher();
    harness.api.script(At::Info, Fault::GroupCode("b".to_owned(), 10007));
    refresher.refresh_due().await.unwrap();
    let details = overview().await.unwrap();
    assert_eq!((details.groups, details.fresh_groups), (2, 2));
    harness.api.clear_faults();
    harness.dissolve("a b");
    harness.crawl().await;
    harness.move_clock_by_hours(25);
    refresher.refresh_due().await.unwrap();
    let details = overview().await.unwrap();
    assert_eq!((details.groups, details.fresh_groups), (1, 1), "deleted groups do not count");
}
