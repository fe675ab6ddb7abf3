//! The change feed of the JSON API.

use harness::crawl::Harness;
use harness::crawl_tests;
use harness::dashboard::Dashboard;

crawl_tests! {
    events_are_oldest_first_with_the_cursor_of_the_next_answer,
    a_malformed_cursor_is_an_error,
}

const EVENTS: &str = "/api/apps/1400000000/events";

async fn events_are_oldest_first_with_the_cursor_of_the_next_answer(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    harness.create("Public", "c");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let first = dashboard.json(&format!("{EVENTS}?after=0&limit=1")).await;
    assert_eq!(
        (&first["events"][0]["group_id"], &first["events"][0]["event"]),
        (&"a".into(), &"vanished".into())
    );
    assert_eq!(first["next_after"], first["events"][0]["event_id"]);
    let rest = dashboard.json(&format!("{EVENTS}?after={}", first["next_after"])).await;
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["events"][0]["group_id"]), (1, &"c".into()));
    let none = dashboard.json(&format!("{EVENTS}?after={}", rest["next_after"])).await;
    assert_eq!((&none["events"], &none["next_after"]), (&serde_json::json!([]), &rest["next_after"]));
}

async fn a_malformed_cursor_is_an_error(harness: Harness) {
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for (cursor, why) in [
        ("after=-1", "after must be an event_id, or 0 for the start, not \"-1\""),
        ("after=x", "after must be an event_id, or 0 for the start, not \"x\""),
        ("limit=10001", "limit must be a number from 1 to 10000, not \"10001\""),
        ("before=1", "there is no parameter \"before\" here; the allowed parameters are: after, limit"),
    ] {
        let answer = dashboard.get(&format!("{EVENTS}?{cursor}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, why));
    }
}
