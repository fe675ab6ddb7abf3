//! The lease of an app, which one process holds.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at, sdk_app_id};
use harness::store_tests;
use std::time::Duration;
use tim_group_sync::clock::Clock;
use tim_group_sync::model::SdkAppId;

store_tests![only_one_of_two_processes_holds_the_lease, the_holder_of_the_lease_is_known,];

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
