//! Apps: their registration and renaming, the group types of their hosts, and the removal of an
//! app.

#![deny(dead_code)]

use harness::store::{LeasedApp, TestDatabase, at, day, group_types, sdk_app_id};
use harness::store_tests;
use std::collections::BTreeMap;
use tim_group_sync::confirmation::LookupRecord;
use tim_group_sync::model::{AppStatistics, SdkAppId, Verdict};
use tim_group_sync::store::{AppIdentity, Closing, HistoryChanges, RowCounts};

use crate::crawl_end::pass;

store_tests![
    an_app_keeps_its_number_when_it_is_renamed,
    a_name_belongs_to_the_app_that_was_registered_with_it_last,
    registering_an_app_again_uses_no_new_ids,
    a_type_that_is_no_longer_configured_is_kept,
    an_app_that_is_not_in_the_configuration_is_shown_as_not_configured_until_it_returns,
    forgetting_an_app_removes_all_its_rows_and_no_others,
    forgetting_can_be_finished_after_it_was_aborted,
    an_app_that_is_partially_forgotten_can_be_crawled_again,
    hosts_that_crawl_different_group_types_are_reported,
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

/// Creates two apps with rows in every table.
pub(crate) async fn two_apps(db: &TestDatabase) -> [LeasedApp<'_>; 2] {
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
        let new_records =
            BTreeMap::from([(LookupRecord::after_existing(None, 1), ["new"].into_iter().collect())]);
        let history = HistoryChanges { round: 1, new_records, ..Default::default() };
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
    // Forgetting an app again changes nothing.
    db.store.forget(&leased.lease, leased.app, |_| ()).await.unwrap();
    assert_eq!(rows_by_app(db).await, expected);
}

async fn forgetting_can_be_finished_after_it_was_aborted(db: &TestDatabase) {
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
    assert!(states.iter().all(|state| !state.is_past_baseline()), "{states:?}");
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
