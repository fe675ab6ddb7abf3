//! The pause before a retry.

use std::time::{Duration, Instant};

use harness::daemon::{AppSpec, DaemonHarness, PROD};
use tim_group_sync::daemon::Phase;
use tim_group_sync::lifecycle::Ending;
use tim_group_sync::simulator::{At, Fault};

use crate::MACHINE;

#[tokio::test]
async fn a_stop_ends_the_pause_before_a_retry() {
    let _alone = MACHINE.lock().await;
    let harness = DaemonHarness::new().await;
    let spec = AppSpec { catch_up: true, retry_for: Duration::from_secs(60), ..PROD };
    harness.api.script(At::Every, Fault::ErrorCode(10002));
    let mut daemon = harness.start(&spec);
    daemon
        .wait_until("a pause", |state| match &state.phase {
            Phase::Crawling { progress, .. } => progress.waiting.is_some(),
            _ => false,
        })
        .await;
    let stopped = Instant::now();
    assert_eq!(daemon.stop().await, Ending::Requested);
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
}
