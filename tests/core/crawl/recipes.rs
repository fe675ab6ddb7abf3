//! The queries of docs/schema.md, run on tables whose answers are known.

use std::time::Duration;

use chrono_tz::Tz;
use harness::crawl::{Harness, format_time};
use harness::crawl_tests;
use harness::store::Location;
use serde_json::json;
use tim_group_sync::clock::Clock;
use tim_group_sync::policy::DetailsPolicy;

crawl_tests! {
    the_churn_of_an_app_is_not_the_sum_of_its_types,
    a_week_is_named_by_its_monday,
    the_median_lifetime_includes_groups_that_are_still_live,
    groups_that_were_live_at_a_time_are_found_by_their_spans,
    the_apis_statistics_are_compared_with_the_table,
    a_table_of_the_reader_is_compared_in_both_directions,
    a_cohort_counts_the_groups_that_reached_an_age,
    details_show_idle_large_and_abandoned_groups_and_when_they_were_created,
}

const DOCUMENT: &str = include_str!("../../../docs/schema.md");

/// Returns the first query after a sentence of the document, for the engine of the harness.
fn recipe(harness: &Harness, sentence: &str) -> String {
    let (_, after) = DOCUMENT.split_once(sentence).unwrap_or_else(|| panic!("no recipe {sentence:?}"));
    let engine = match harness.db.location {
        Location::Sqlite(_) => "```sql sqlite\n",
        Location::Postgres(_) => "```sql postgres\n",
    };
    let find = |fence: &str| after.find(fence).map(|at| (at, fence.len()));
    let (at, fence) = [find("```sql\n"), find(engine)].into_iter().flatten().min().unwrap();
    let code = &after[at + fence..];
    code[..code.find("```").unwrap()].to_owned()
}

async fn lines(harness: &Harness, sentence: &str) -> Vec<String> {
    harness.lines(&recipe(harness, sentence)).await
}

async fn the_churn_of_an_app_is_not_the_sum_of_its_types(harness: Harness) {
    harness.create("Public", "a b c d e f g h");
    harness.create("Private", "p q");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.dissolve("a b p");
    harness.crawl().await;
    // 3 groups vanished. The two days have 10 and 7 live groups, 8.5 on average.
    assert_eq!(lines(&harness, "How much churn did the app have in a window?").await, ["3 35.3"]);
}

async fn the_apis_statistics_are_compared_with_the_table(mut harness: Harness) {
    harness.statistics = true;
    harness.timezone = Tz::Asia__Shanghai;
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.create("AVChatRoom", "short-1 short-2"); // this type is not configured
    harness.create("Public", "e f");
    harness.create("Public", "g");
    harness.dissolve("g a"); // no crawl sees g
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.crawl().await;
    let question = "What does the API itself report, and how does it differ from the table?";
    let days = lines(&harness, question).await;
    assert_eq!(days[..2], ["2026-03-02 7 5 2 5 2 0", "2026-03-01 4 4 0 4 0 0"]);
    let question = "How many of the groups that were created on a day did no crawl see?";
    assert_eq!(lines(&harness, question).await, ["2026-03-01 4 0 4", "2026-03-02 5 2 3"]);
}

async fn a_week_is_named_by_its_monday(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await; // Sunday, 1 March 2026
    harness.move_clock_by_hours(24);
    harness.dissolve("a");
    harness.crawl().await; // Monday
    harness.move_clock_by_hours(6 * 24);
    harness.dissolve("b");
    harness.crawl().await; // Sunday
    let weeks = lines(&harness, "What happened in each week?").await;
    assert_eq!(weeks, ["2026-02-23 0 NULL", "2026-03-02 2 -2"]);
}

async fn the_median_lifetime_includes_groups_that_are_still_live(harness: Harness) {
    harness.clock.set(Clock::system().now() - chrono::TimeDelta::days(100));
    harness.crawl().await;
    harness.create("Public", "a b c d e");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.move_clock_by_hours(9);
    harness.crawl().await;
    harness.dissolve("c");
    harness.move_clock_by_hours(19);
    harness.crawl().await;
    let median = lines(&harness, "How long do groups live?").await.remove(0);
    let fields: Vec<&str> = median.split(' ').collect();
    let hours: f64 = fields[1].parse().unwrap();
    // a and b existed for half a day, c for more than a day. d and e are still live. The median of
    // the deleted groups alone would be half a day.
    assert!((28.0..34.0).contains(&hours) && fields[0] == "Public" && fields[2] == "0", "{median}");
    harness.api.create("Public", "late");
    harness.crawl().await;
    assert_eq!(lines(&harness, "How long do groups live?").await.len(), 1);
}

async fn groups_that_were_live_at_a_time_are_found_by_their_spans(harness: Harness) {
    harness.clock.set("2026-03-30T09:00:00Z".parse().unwrap());
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.dissolve("a");
    harness.crawl().await;
    harness.move_clock_by_hours(72); // 2 April
    harness.create("Public", "a d");
    harness.dissolve("c");
    let last = harness.crawl().await;
    assert!(format_time(last.started_at).as_str() > "2026-04-02", "{}", format_time(last.started_at));
    assert_eq!(
        lines(&harness, "Which groups were live at the end of March, in UTC?").await,
        ["b Public", "c Public"]
    );
}

async fn a_table_of_the_reader_is_compared_in_both_directions(harness: Harness) {
    harness.api.create("Public", "@TGS#2J4SZEAEL");
    harness.api.create("Public", "@TGS#new");
    harness.crawl().await;
    let findings = lines(&harness, "Which groups are missing in your own table").await;
    assert_eq!(findings, ["missing here @TGS#2OWN", "missing there @TGS#new"]);
}

async fn a_cohort_counts_the_groups_that_reached_an_age(harness: Harness) {
    harness.clock.set("2026-03-03T09:00:00Z".parse().unwrap());
    harness.crawl().await;
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.move_clock_by_hours(30);
    harness.dissolve("a");
    harness.crawl().await;
    harness.move_clock_by_hours(10 * 24);
    harness.dissolve("b");
    harness.crawl().await;
    let cohorts = lines(&harness, "How many groups of each week are still live").await;
    assert_eq!(
        cohorts,
        ["2026-03-02 3 3 2 1"],
        "c is still live, and by the clock of the database it is months old"
    );
}

async fn details_show_idle_large_and_abandoned_groups_and_when_they_were_created(mut harness: Harness) {
    let now = Clock::system().now();
    harness.clock.set(now - chrono::TimeDelta::days(2));
    harness.details = Some(DetailsPolicy { refresh: Duration::from_hours(24), requests_per_second: 40 });
    harness.create("Public", "busy deleted idle small");
    let days_ago = |days| (now - chrono::TimeDelta::days(days)).timestamp();
    for (id, owner, members, last_message) in
        [("busy", "ann", 151, 1), ("deleted", "bob", 1, 200), ("idle", "bob", 1, 100), ("small", "bob", 1, 2)]
    {
        let fields = json!({
            "Name": id, "Owner_Account": owner, "MemberNum": members, "MaxMemberNum": 200,
            "LastMsgTime": days_ago(last_message), "CreateTime": 1_767_225_600,
        });
        harness.api.set_details(id, fields.as_object().unwrap().clone());
    }
    harness.crawl().await;
    harness.details_refresher().refresh_due().await.unwrap();
    harness.dissolve("deleted");
    harness.crawl().await;
    let idle = lines(&harness, "Which groups are idle?").await;
    assert_eq!(idle.len(), 1);
    assert!(idle[0].starts_with("idle idle bob "), "{}", idle[0]);
    assert_eq!(lines(&harness, "Which owners have groups without other members").await, ["bob 2 2"]);
    let biggest = lines(&harness, "Which groups are the biggest").await;
    assert_eq!(biggest, ["busy busy 151 75.5", "idle idle 1 0.5", "small small 1 0.5"]);
    assert_eq!(lines(&harness, "How old are the groups that existed").await, ["2026-01 3"]);
}
