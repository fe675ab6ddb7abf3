//! Crawls that are cancelled or killed, wait for another crawl, or cannot write.

use harness::crawl::{Harness, ON_COMMAND, outcome, reason_text};
use harness::crawl_tests;
use std::pin::pin;
use std::task::Poll;
use tim_group_sync::crawl::{CrawlError, Step, WhenBusy};
use tim_group_sync::simulator::At;
use tokio_util::sync::CancellationToken;

use crate::campaigns::{CLOSING_COUNT, FaultCampaign, LAST_INFO_REQUEST};

crawl_tests! {
    a_clock_that_is_set_during_a_crawl_does_not_affect_the_groups,
    a_cancelled_crawl_keeps_what_it_listed_and_deletes_nothing,
    a_crawl_cancelled_before_it_begins_lists_nothing,
    a_second_crawler_of_the_same_app_gives_up_or_waits,
    waiting_for_another_crawler_can_be_cancelled,
    a_database_that_refuses_a_write_fails_the_crawl,
    a_crawl_killed_at_any_request_is_closed_and_corrected_by_the_next,
    a_crawl_killed_at_any_await_point_is_closed_and_corrected_by_the_next,
    a_crawl_after_a_kill_starts_from_the_first_page,
}

async fn a_clock_that_is_set_during_a_crawl_does_not_affect_the_groups(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for hours in [-30, 30, 2000, -2000] {
        for request in 1..=CLOSING_COUNT {
            campaign.harness.move_clock_during_request(request, hours);
            let report = campaign.crawl().await;
            assert_eq!(outcome(&report), "complete", "{hours} h at {request}: {}", reason_text(&report));
            campaign.harness.assert_table_matches_api().await;
        }
    }
}

async fn a_cancelled_crawl_keeps_what_it_listed_and_deletes_nothing(harness: Harness) {
    harness.create("Public", "a b c d e f");
    harness.create("Private", "g");
    harness.crawl().await;
    harness.dissolve("a f g");
    harness.create("Public", "x");
    harness.create("Public", "y z");
    let held = harness.api.hold(At::Request(harness.request(4)));
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let (report, ()) = tokio::join!(harness.crawl_until_cancelled(&stop), async {
        held.reached().await;
        // The crawl compares the pages only after it has read the known groups.
        crawler.progress().wait_for(|progress| progress.listed == 6).await.unwrap();
        stop.cancel();
    });
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!((report.requests, report.listed), (4, 6));
    // The crawl listed two pages: b c d, and e x y.
    let listed = ["a Public", "b Public", "c Public", "d Public", "e Public", "f Public", "g Private"];
    assert_eq!(harness.table().await, [&listed[..], &["x Public", "y Public"]].concat());
    assert_eq!(harness.events().await, ["2 x appeared NULL>Public", "2 y appeared NULL>Public"]);
    held.release();
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.assert_table_matches_api().await;
}

async fn a_crawl_cancelled_before_it_begins_lists_nothing(harness: Harness) {
    harness.create("Public", "a");
    let stop = CancellationToken::new();
    stop.cancel();
    let report = harness.crawl_until_cancelled(&stop).await;
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!(harness.requests_so_far(), 0);
    assert_eq!(harness.table().await, [""; 0]);
}

async fn a_second_crawler_of_the_same_app_gives_up_or_waits(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.prepare_crawl();
    let held = harness.api.hold(At::Request(2));
    let (first, second, stop) = (harness.crawler(), harness.new_crawler(), CancellationToken::new());
    let crawl = first.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop);
    let meanwhile = async {
        held.reached().await;
        let busy = second.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await;
        assert!(matches!(busy, Err(CrawlError::Busy { app }) if app == "prod"));
        let mut progress = second.progress();
        let waiting = async {
            progress.wait_for(|progress| progress.step == Step::WaitingForLease).await.unwrap();
            assert_eq!(harness.requests_so_far(), 2);
            held.release();
        };
        tokio::join!(second.crawl(ON_COMMAND, WhenBusy::Wait, &stop), waiting).0
    };
    let (first, second) = tokio::join!(crawl, meanwhile);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((outcome(&first).as_str(), outcome(&second).as_str()), ("complete", "complete"));
    assert!(first.crawl < second.crawl && first.finished_at <= second.started_at);
    harness.assert_invariants().await;
    harness.assert_table_matches_api().await;
}

async fn waiting_for_another_crawler_can_be_cancelled(harness: Harness) {
    harness.prepare_crawl();
    let held = harness.api.hold(At::Request(1));
    let (first, second) = (harness.crawler(), harness.new_crawler());
    let (never_stop, stop) = (CancellationToken::new(), CancellationToken::new());
    let meanwhile = async {
        held.reached().await;
        let mut progress = second.progress();
        let waiting = async {
            progress.wait_for(|progress| progress.step == Step::WaitingForLease).await.unwrap();
            stop.cancel();
        };
        let (stopped, ()) = tokio::join!(second.crawl(ON_COMMAND, WhenBusy::Wait, &stop), waiting);
        assert!(matches!(stopped, Err(CrawlError::Stopped)));
        held.release();
    };
    let (report, ()) = tokio::join!(first.crawl(ON_COMMAND, WhenBusy::GiveUp, &never_stop), meanwhile);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(harness.value("SELECT count(*) FROM crawls").await, "1");
}

async fn a_database_that_refuses_a_write_fails_the_crawl(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("a");
    harness.create("Public", "c");
    harness.forbid_changes_to_groups().await;
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed database");
    assert_eq!(harness.table().await, ["a Public", "b Public"]);
    harness.allow_changes_to_groups().await;
    harness.crawl().await;
    harness.assert_table_matches_api().await;
    assert_eq!(harness.events().await, ["3 a vanished Public>NULL", "3 c appeared NULL>Public"]);
}

async fn a_crawl_killed_at_any_request_is_closed_and_corrected_by_the_next(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for request in 1..=LAST_INFO_REQUEST {
        let harness = &campaign.harness;
        harness.dissolve(&format!("public-{} private-{}", campaign.round, campaign.round));
        harness.create("Public", &format!("public-{}", campaign.round + 7));
        harness.create("Private", &format!("private-{}", campaign.round + 4));
        campaign.round += 1;
        let held = harness.api.hold(At::Request(harness.request(request)));
        assert!(harness.crawl_killed_by(held.reached()).await.is_none());
        drop(held);
        let last = "SELECT status, reason_code FROM crawls ORDER BY crawl_id DESC LIMIT 1";
        assert_eq!(harness.lines(last).await, ["running NULL"]);
        let killed = harness.value("SELECT max(crawl_id) FROM crawls").await;
        let report = campaign.crawl().await;
        let harness = &campaign.harness;
        assert_eq!(outcome(&report), "complete");
        harness.assert_table_matches_api().await;
        let closed =
            format!("SELECT status, reason_code, deletions, vanished FROM crawls WHERE crawl_id = {killed}");
        assert_eq!(harness.lines(&closed).await, ["failed process_ended NULL 0"]);
        // Every group that the killed crawl wrote has an event, of this crawl or of the next one.
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(harness.value(new).await, (2 * campaign.round).to_string());
    }
}

/// Polls a future at most `times` times, then drops it.
async fn poll_at_most<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), times);
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn a_crawl_killed_at_any_await_point_is_closed_and_corrected_by_the_next(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    let mut polls = 1;
    loop {
        campaign.harness.dissolve(&format!("public-{} private-{}", campaign.round, campaign.round));
        campaign.harness.create("Public", &format!("public-{}", campaign.round + 7));
        campaign.harness.create("Private", &format!("private-{}", campaign.round + 4));
        campaign.round += 1;
        campaign.harness.prepare_crawl();
        let (crawler, stop) = (campaign.harness.crawler(), CancellationToken::new());
        let crawl = poll_at_most(Box::pin(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop)), polls).await;
        if let Some(report) = crawl {
            assert_eq!(outcome(&report.unwrap()), "complete");
            break;
        }
        campaign.harness.db.expire_leases().await;
        assert_eq!(outcome(&campaign.crawl().await), "complete", "after {polls} polls");
        campaign.harness.assert_table_matches_api().await;
        polls += 3;
    }
    assert!(polls > 20, "{polls}");
}

async fn a_crawl_after_a_kill_starts_from_the_first_page(harness: Harness) {
    harness.create("Public", "a b c d e f g");
    let held = harness.api.hold(At::Request(4));
    assert!(harness.crawl_killed_by(held.reached()).await.is_none());
    drop(held);
    let before = harness.requests_so_far();
    harness.crawl().await;
    assert_eq!(
        harness.requests_after(before),
        ["count", "Public 1", "Public 2", "Public 3", "Private 1", "count"]
    );
    // The first list that reaches its end is the baseline, so there are no events.
    assert_eq!(harness.events().await, [""; 0]);
    harness.assert_table_matches_api().await;
}
