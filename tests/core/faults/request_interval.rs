//! The interval between requests.

use harness::crawl::{Harness, ON_COMMAND, outcome};
use harness::crawl_tests;
use std::time::{Duration, Instant};
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::simulator::{Call, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    no_request_is_sent_before_the_interval_allows,
    the_next_process_keeps_the_request_interval,
}

/// Compares each arrival with the earliest time at which its request may be sent. The intervals
/// between arrivals prove nothing: on a busy machine a request arrives late, and the next one then
/// follows it sooner.
async fn no_request_is_sent_before_the_interval_allows(mut harness: Harness) {
    const INTERVAL: Duration = Duration::from_millis(20);
    const DELAY: Duration = Duration::from_millis(100);
    harness.request_interval = INTERVAL;
    harness.retry_for = Duration::from_secs(30);
    harness.create("Public", "a b c d e f g");
    harness.create("Private", "h i j k");
    harness.create("ChatRoom", "x");
    // Eight attempts at one page. If retries ignored the interval, they would take hardly longer
    // than one attempt.
    (3..=10).for_each(|n| harness.fault_at_request(n, Fault::ErrorCode(10002)));
    harness.fault_at_request(11, Fault::ErrorCode(70001));
    harness.fault_at_request(13, Fault::Reset);
    harness.fault_at_request(15, Fault::Delay(DELAY));
    harness.fault_at_request(17, Fault::NotJson);
    let start = Instant::now();
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.crawl().await;
    // `get_group_info` requests have their own rate limit.
    let listings = harness.api.requests().into_iter().filter(|request| request.call == Call::List);
    let arrivals: Vec<Instant> = listings.map(|request| request.arrived_at).collect();
    assert!(arrivals.len() > 20, "{}", arrivals.len());
    let assert_paced = |arrivals: &[Instant], first_slot: Instant| {
        for (slots, arrival) in (0..).zip(arrivals) {
            assert!(*arrival >= first_slot + INTERVAL * slots, "{slots} slots after the first");
        }
    };
    assert_paced(&arrivals, start);
    // The delayed answer to request 15 postpones the later requests. They do not catch up.
    assert_paced(&arrivals[15..], arrivals[14] + DELAY);
}

async fn the_next_process_keeps_the_request_interval(mut harness: Harness) {
    const INTERVAL: Duration = Duration::from_millis(100);
    harness.request_interval = INTERVAL;
    let (first, second, stop) = (harness.crawler(), harness.new_crawler(), CancellationToken::new());
    harness.prepare_crawl();
    let start = Instant::now();
    first.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap();
    let slots = u32::try_from(harness.requests_so_far()).unwrap();
    second.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap();
    let requests = harness.api.requests();
    assert!(requests[slots as usize].arrived_at >= start + INTERVAL * slots);
    harness.assert_invariants().await;
}
