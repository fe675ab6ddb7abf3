//! Notifications to a receiver on this machine: their content, time, number and format.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::log::capture_log;
use harness::receiver::{NotifiedApp, Post, Replica, Reply, SECRET, TOKEN, TestReceiver};
use harness::store::TestDatabase;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;
use tim_group_sync::daemon::Database;
use tim_group_sync::model::{CrawlId, SdkAppId};
use tim_group_sync::notify::{CLAIM_EXPIRES_AFTER, ConditionState, Event, Notification, OUTBOX_CAPACITY};
use tim_group_sync::policy::{DeletionPolicy, NotificationFormat};
use tim_group_sync::store::StoreError;
use tim_group_sync::tencent::usersig::SecretKey;

crawl_tests! {
    withheld_deletions_are_reported_when_they_begin_after_a_day_and_when_they_end,
    undone_deletions_cause_no_notification,
    a_restart_repeats_no_notification_and_sends_that_of_the_end,
    two_replicas_send_each_notification_once,
    an_undelivered_notification_of_a_killed_process_is_sent_by_another_one,
    refused_credentials_are_reported_until_a_crawl_lists_groups_again,
    a_key_that_one_of_two_replicas_cannot_read_is_reported_once,
    an_app_without_a_complete_crawl_for_three_ticks_is_late,
    a_peak_of_80_percent_of_the_quota_is_reported,
    forgetting_an_app_removes_its_records_of_notifications,
}

/// Withholds the deletion of one group. Returns the crawl.
async fn withhold(harness: &mut Harness, id: &str) -> CrawlId {
    harness.deletion = DeletionPolicy::default();
    harness.create("Public", &format!("stays {id}"));
    harness.crawl().await;
    harness.dissolve(id);
    let report = harness.crawl().await;
    assert_eq!(report.withheld, 1, "{report:?}");
    report.crawl
}

/// Advances the clock by this number of minutes.
fn advance_minutes(harness: &Harness, minutes: i64) {
    harness.clock.set(harness.clock.now() + TimeDelta::minutes(minutes));
}

async fn withheld_deletions_are_reported_when_they_begin_after_a_day_and_when_they_end(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    let crawl = withhold(&mut harness, "gone").await;
    let replica = Replica::of_prod(&harness, &receiver);
    let began = receiver.wait_for_accepted(1).await;
    let at = harness.clock.now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let reason = harness.value("SELECT reason FROM crawls WHERE withheld = 1").await;
    let text = format!(
        "App prod: the deletion of 1 group waits for a decision (1 confirmed by the API), withheld by crawl 2. \
         Crawl 2: {reason}."
    );
    let body = json!({
        "event": "withheld", "state": "begins", "app": "prod", "sdk_app_id": 1_400_000_000, "at": at, "text": text,
        "command": "tim-group-sync approve --crawl 2", "crawl_id": 2,
    });
    assert_eq!(began.json(), body);
    replica.wait_until_delivered("withheld", 1).await;
    advance_minutes(&harness, 24 * 60);
    let lasts = receiver.wait_for_accepted(2).await;
    assert_eq!(lasts.json()["text"], format!("{text} This has lasted since {at}."));
    harness.approve(crawl).await;
    let ended = receiver.wait_for_accepted(3).await;
    let text = format!("App prod: no deletion is withheld any more. The problem was first noticed at {at}.");
    assert_eq!(ended.json()["text"], text);
    assert!(ended.json()["command"].is_null() && ended.json()["crawl_id"].is_null());
    assert_eq!(receiver.accepted_states(), ["withheld begins", "withheld lasts", "withheld ends"]);
    replica.wait_until_delivered("withheld", 3).await;
    assert_eq!(replica.counted("withheld", "retried").await, 0);
    wait_for_value(&harness, UNENDED, "0").await;
    replica.stop().await;
}

async fn undone_deletions_cause_no_notification(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    let crawl = withhold(&mut harness, "gone").await;
    harness.approve(crawl).await;
    harness.undelete(crawl).await;
    assert_eq!(harness.value("SELECT count(*) FROM live_groups WHERE held").await, "1");
    let replica = Replica::of_prod(&harness, &receiver);
    // The first notification is about the deletion that is withheld next.
    withhold(&mut harness, "another").await;
    let began = receiver.wait_for_accepted(1).await.json();
    assert!(began["text"].as_str().unwrap().contains("the deletion of 1 group waits"), "{began}");
    assert_eq!(began["crawl_id"], 4);
    replica.stop().await;
}

async fn a_restart_repeats_no_notification_and_sends_that_of_the_end(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    let crawl = withhold(&mut harness, "gone").await;
    let replica = Replica::of_prod(&harness, &receiver);
    receiver.wait_for_accepted(1).await;
    wait_until_recorded(&harness).await;
    replica.stop().await;
    let restarted = Replica::of_prod(&harness, &receiver);
    harness.approve(crawl).await;
    receiver.wait_for_accepted(2).await;
    restarted.stop().await;
    assert_eq!(receiver.accepted_states(), ["withheld begins", "withheld ends"]);
}

/// Counts the conditions whose end was not delivered.
const UNENDED: &str = "SELECT count(*) FROM notification WHERE state <> 'ends' OR delivered_at IS NULL";

/// Waits until all notifications that were claimed are recorded as delivered.
async fn wait_until_recorded(harness: &Harness) {
    wait_for_value(harness, "SELECT count(*) FROM notification WHERE delivered_at IS NULL", "0").await;
}

async fn wait_for_value(harness: &Harness, sql: &str, expected: &str) {
    let waiting = async {
        while harness.value(sql).await != expected {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "{sql} does not become {expected}");
}

async fn two_replicas_send_each_notification_once(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    let replicas = [Replica::of_prod(&harness, &receiver), Replica::of_prod(&harness, &receiver)];
    let mut expected = Vec::new();
    for round in 1..=5 {
        let crawl = withhold(&mut harness, &format!("gone-{round}")).await;
        receiver.wait_for_accepted(round * 2 - 1).await;
        harness.approve(crawl).await;
        receiver.wait_for_accepted(round * 2).await;
        wait_for_value(&harness, UNENDED, "0").await;
        expected.extend(["withheld begins", "withheld ends"]);
    }
    let mut delivered = 0;
    for replica in replicas {
        delivered += replica.counted("withheld", "delivered").await;
        replica.stop().await;
    }
    assert_eq!(receiver.accepted_states(), expected);
    assert_eq!(delivered, 10);
}

async fn an_undelivered_notification_of_a_killed_process_is_sent_by_another_one(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    receiver.reply(Reply::Close);
    withhold(&mut harness, "gone").await;
    let killed = Replica::of_prod(&harness, &receiver);
    receiver.wait_for_posts(2).await;
    killed.stop().await;
    receiver.reply(Reply::ok("ok"));
    let other = Replica::of_prod(&harness, &receiver);
    harness.clock.set(harness.clock.now() + CLAIM_EXPIRES_AFTER);
    receiver.wait_for_accepted(1).await;
    wait_until_recorded(&harness).await;
    other.stop().await;
    assert_eq!(receiver.accepted_states(), ["withheld begins"]);
}

async fn refused_credentials_are_reported_until_a_crawl_lists_groups_again(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    harness.create("Public", "one");
    let replica = Replica::of_prod(&harness, &receiver);
    let correct = harness.credentials.secret_key.clone();
    harness.credentials.secret_key = SecretKey::new(&"f".repeat(64));
    harness.crawl().await;
    let began = receiver.wait_for_accepted(1).await.json();
    let text = began["text"].as_str().unwrap();
    assert!(text.starts_with("App prod: the API refuses the credentials: "), "{text}");
    assert_eq!((&began["command"], &began["crawl_id"]), (&json!("tim-group-sync check"), &json!(1)));
    // A crawl that fails for another reason does not prove that the credentials are accepted.
    harness.credentials.secret_key = correct;
    harness.fault_from_request(1, tim_group_sync::simulator::Fault::Status(503));
    harness.crawl().await;
    harness.clear_faults_and_actions();
    harness.crawl().await;
    let ended = receiver.wait_for_accepted(2).await.json();
    assert!(ended["text"].as_str().unwrap().starts_with("App prod: the API accepts the credentials again."));
    assert_eq!(ended["at"].as_str().unwrap(), format_time(harness.clock.now()));
    assert_eq!(receiver.accepted_states(), ["refused begins", "refused ends"]);
    replica.stop().await;
}

fn format_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn a_key_that_one_of_two_replicas_cannot_read_is_reported_once(harness: Harness) {
    let receiver = TestReceiver::start().await;
    harness.create("Public", "one");
    let client = receiver.client(NotificationFormat::Json);
    let without_key = || NotifiedApp { key_problem: Some("cannot read prod.key"), ..NotifiedApp::default() };
    let lacking = Replica::start(&harness, Some(Arc::clone(&client)), vec![without_key()]);
    let began = receiver.wait_for_accepted(1).await.json();
    assert_eq!(
        began["text"],
        "App prod: the key cannot be used: cannot read prod.key. The app is not crawled until this is corrected."
    );
    let other = Replica::of_prod(&harness, &receiver);
    let also_lacking = Replica::start(&harness, Some(client), vec![without_key()]);
    wait_until_recorded(&harness).await;
    // The crawl of the other process proves that the app is crawled.
    harness.crawl().await;
    receiver.wait_for_accepted(2).await;
    wait_for_value(&harness, UNENDED, "0").await;
    for replica in [lacking, other, also_lacking] {
        replica.stop().await;
    }
    assert_eq!(receiver.accepted_states(), ["refused begins", "refused ends"]);
}

async fn an_app_without_a_complete_crawl_for_three_ticks_is_late(harness: Harness) {
    let receiver = TestReceiver::start().await;
    harness.create("Public", "one");
    harness.crawl().await;
    let hourly = NotifiedApp { cron: "0 * * * *", ..NotifiedApp::default() };
    // The last crawl was at 09:00. At 12:00 three ticks have passed.
    let replica = Replica::start(&harness, Some(receiver.client(NotificationFormat::Json)), vec![hourly]);
    replica.wait_until_idle().await;
    harness.clock.set("2026-03-01T12:00:00Z".parse().unwrap());
    // The condition is detected at 12:00 or later, and must last for ten minutes.
    let began = advance_until_notified(&harness, &receiver).await;
    let text = began["text"].as_str().unwrap();
    assert!(
        text.starts_with(
            "App prod: no complete crawl for 3 ticks, so its groups and counts are out of date."
        ),
        "{text}"
    );
    assert!(text.contains("The last complete crawl ended at 2026-03-01T09:00:"), "{text}");
    let notified_at: DateTime<Utc> = began["at"].as_str().unwrap().parse().unwrap();
    assert!(notified_at >= "2026-03-01T12:10:00Z".parse::<DateTime<Utc>>().unwrap(), "{notified_at}");
    harness.crawl().await;
    receiver.wait_for_accepted(2).await;
    assert_eq!(receiver.accepted_states(), ["late begins", "late ends"]);
    replica.stop().await;
}

/// Advances the clock minute by minute, up to an hour, until a notification arrives. Returns it.
async fn advance_until_notified(harness: &Harness, receiver: &TestReceiver) -> serde_json::Value {
    for _ in 0..59 {
        advance_minutes(harness, 1);
        let waiting = receiver.wait_for_accepted(1);
        if let Ok(post) = tokio::time::timeout(Duration::from_millis(100), waiting).await {
            return post.json();
        }
    }
    panic!("no notification within an hour");
}

async fn a_peak_of_80_percent_of_the_quota_is_reported(harness: Harness) {
    let receiver = TestReceiver::start().await;
    harness.api.create_many("Public", 8);
    harness.crawl().await;
    let with_quota =
        |group_quota| vec![NotifiedApp { group_quota: Some(group_quota), ..NotifiedApp::default() }];
    let client = receiver.client(NotificationFormat::Json);
    let mut replica = Replica::start(&harness, Some(client), with_quota(11));
    replica.replace_apps(&harness, with_quota(10));
    let began = receiver.wait_for_accepted(1).await.json();
    assert_eq!(began["text"], "App prod: 8 groups at the peak of this month, 80 % of group_quota (10).");
    assert!(began["command"].is_null());
    replica.replace_apps(&harness, with_quota(100));
    let ended = receiver.wait_for_accepted(2).await.json();
    assert!(ended["text"].as_str().unwrap().contains("is below 80 % of group_quota again"), "{ended}");
    assert_eq!(receiver.accepted_states(), ["quota begins", "quota ends"]);
    replica.stop().await;
}

async fn forgetting_an_app_removes_its_records_of_notifications(mut harness: Harness) {
    let receiver = TestReceiver::start().await;
    withhold(&mut harness, "gone").await;
    let replica = Replica::of_prod(&harness, &receiver);
    receiver.wait_for_accepted(1).await;
    wait_until_recorded(&harness).await;
    replica.stop().await;
    assert_eq!(harness.value(UNENDED).await, "1");
    let known = harness.store.find_apps("prod").await.unwrap();
    let lease = harness.store.try_lease(SdkAppId::new(1_400_000_000).unwrap()).await.unwrap().unwrap();
    harness.store.forget(&lease, known[0].id(), |_| ()).await.unwrap();
    lease.release_unused().await;
    assert_eq!(harness.value(UNENDED).await, "0");
}

#[tokio::test]
async fn an_unavailable_database_is_reported_after_ten_minutes_and_when_it_is_available_again() {
    let harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    let replica = Replica::of_prod(&harness, &receiver);
    let error = StoreError::Absent { at: "sqlite:groups.db".to_owned() };
    let problem = error.to_string();
    replica.database.send_replace(Database::Unavailable { error: Arc::new(error) });
    let began = advance_until_notified(&harness, &receiver).await;
    let text = began["text"].as_str().unwrap();
    assert!(
        text.starts_with("The service on ") && text.ends_with(&format!("so it crawls no app: {problem}.")),
        "{text}"
    );
    assert!(began["app"].is_null() && began["sdk_app_id"].is_null());
    let notified_at: DateTime<Utc> = began["at"].as_str().unwrap().parse().unwrap();
    assert!(notified_at >= "2026-03-01T08:10:00Z".parse::<DateTime<Utc>>().unwrap(), "{notified_at}");
    replica.wait_until_delivered("database", 1).await;
    advance_minutes(&harness, 24 * 60);
    receiver.wait_for_accepted(2).await;
    replica.database.send_replace(Database::Open(harness.store.clone()));
    receiver.wait_for_accepted(3).await;
    assert_eq!(receiver.accepted_states(), ["database begins", "database lasts", "database ends"]);
    replica.stop().await;
}

#[tokio::test]
async fn a_database_that_can_be_read_but_not_written_counts_as_unavailable() {
    let mut harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    withhold(&mut harness, "gone").await;
    let refuse =
        "CREATE TRIGGER full BEFORE INSERT ON notification BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    TestDatabase::execute(&harness.db.store_location(), refuse).await;
    let replica = Replica::of_prod(&harness, &receiver);
    let began = advance_until_notified(&harness, &receiver).await;
    assert_eq!(began["event"], "database");
    assert!(began["text"].as_str().unwrap().contains("disk full"), "{began}");
    TestDatabase::execute(&harness.db.store_location(), "DROP TRIGGER full").await;
    receiver.wait_for_accepted(3).await;
    replica.stop().await;
    let mut states = receiver.accepted_states();
    states[1..].sort_unstable();
    assert_eq!(states, ["database begins", "database ends", "withheld begins"]);
}

#[tokio::test]
async fn no_notification_is_lost_while_the_receiver_is_unreachable_and_problems_are_logged_once() {
    let (log, _guard) = capture_log();
    let mut harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    receiver.reply(Reply::Status(503, String::new()));
    let crawl = withhold(&mut harness, "gone").await;
    let replica = Replica::of_prod(&harness, &receiver);
    receiver.wait_for_posts(3).await;
    harness.approve(crawl).await;
    wait_for_value(&harness, "SELECT state FROM notification", "ends").await;
    receiver.reply(Reply::Close);
    receiver.wait_for_posts(receiver.posts().len() + 3).await;
    assert!(receiver.accepted_states().is_empty());
    receiver.reply(Reply::ok("ok"));
    receiver.wait_for_accepted(2).await;
    wait_for_value(&harness, UNENDED, "0").await;
    assert_eq!(receiver.accepted_states(), ["withheld begins", "withheld ends"]);
    let failed = receiver.posts().len() - 2;
    assert_eq!(replica.counted("withheld", "retried").await, failed as u64);
    replica.stop().await;
    let log = log.text();
    let warned =
        |text: &str| log.lines().filter(|line| line.contains(" WARN ") && line.contains(text)).count();
    assert_eq!((warned("HTTP 503"), warned("the receiver cannot be reached")), (1, 1), "{log}");
    assert_eq!(log.matches("notifications are delivered again").count(), 1);
    assert!(!log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn a_refused_notification_is_not_retried_and_the_refusal_is_logged_once() {
    let (log, _guard) = capture_log();
    let mut harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    // The receiver repeats secrets in its text.
    receiver.reply(Reply::ok(&format!(
        r#"{{"errcode":300001,"errmsg":"token {TOKEN} of {SECRET} is not exist"}}"#
    )));
    withhold(&mut harness, "gone").await;
    let client = receiver.client(NotificationFormat::DingTalk);
    let replica = Replica::start(&harness, Some(client), vec![NotifiedApp::default()]);
    receiver.wait_for_posts(1).await;
    wait_until_recorded(&harness).await;
    advance_minutes(&harness, 24 * 60);
    receiver.wait_for_posts(2).await;
    wait_until_recorded(&harness).await;
    assert_eq!(receiver.posts().len(), 2);
    assert_eq!(replica.counted("withheld", "refused").await, 2);
    replica.stop().await;
    let log = log.text();
    let warned: Vec<&str> =
        log.lines().filter(|line| line.contains("a notification was not delivered")).collect();
    let expected = "the receiver answered code 300001: the URL in url_file is not the URL of an active robot (token (hidden) of \
                    (hidden) is not exist)";
    assert!(warned.len() == 1 && warned[0].contains(expected), "{warned:?}");
    assert!(!log.contains(TOKEN) && !log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn the_outbox_keeps_100_notifications_and_drops_the_oldest() {
    let (log, _guard) = capture_log();
    let harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    receiver.reply(Reply::Hold);
    let app = |n: usize| NotifiedApp {
        name: format!("app{n:03}"),
        sdk_app_id: 1_400_000_000 + i64::try_from(n).unwrap(),
        key_problem: Some("cannot read the key"),
        ..NotifiedApp::default()
    };
    let client = receiver.client(NotificationFormat::Json);
    let mut replica = Replica::start(&harness, Some(client), vec![app(0)]);
    receiver.wait_for_posts(1).await;
    replica.replace_apps(&harness, (0..=OUTBOX_CAPACITY + 5).map(app).collect());
    wait_for_value(&harness, "SELECT count(*) FROM notification", &(OUTBOX_CAPACITY + 6).to_string()).await;
    receiver.reply(Reply::ok(""));
    replica.wait_until_delivered("refused", OUTBOX_CAPACITY as u64 + 1).await;
    wait_until_recorded(&harness).await;
    assert_eq!(replica.counted("refused", "dropped").await, 5);
    replica.stop().await;
    assert_eq!(log.text().matches("dropped the oldest of 100 notifications").count(), 5);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_delays_neither_a_crawl_nor_the_stop() {
    let mut harness = Harness::on(Engine::Sqlite).await;
    let receiver = TestReceiver::start().await;
    receiver.reply(Reply::Hold);
    let crawl = withhold(&mut harness, "gone").await;
    let replica = Replica::of_prod(&harness, &receiver);
    receiver.wait_for_posts(1).await;
    harness.approve(crawl).await;
    harness.crawl().await;
    harness.assert_table_matches_api().await;
    let stopping = tokio::time::timeout(Duration::from_secs(2), replica.stop()).await;
    assert!(stopping.is_ok(), "the stop waits for the receiver");
    assert!(receiver.accepted_states().is_empty());
}

#[tokio::test]
async fn a_new_receiver_gets_the_notifications_that_the_old_one_did_not_accept_and_without_a_receiver_none_is_sent()
 {
    let mut harness = Harness::on(Engine::Sqlite).await;
    let (old, new) = (TestReceiver::start().await, TestReceiver::start().await);
    old.reply(Reply::Close);
    withhold(&mut harness, "gone").await;
    let replica = Replica::start(&harness, None, vec![NotifiedApp::default()]);
    assert_eq!(harness.value(UNENDED).await, "0");
    replica.notifications.replace_receiver(Some(old.client(NotificationFormat::Json)));
    old.wait_for_posts(2).await;
    replica.notifications.replace_receiver(Some(new.client(NotificationFormat::Slack)));
    let post = new.wait_for_accepted(1).await;
    assert!(post.json()["text"].as_str().unwrap().contains("Command: tim-group-sync approve --crawl 2"));
    replica.stop().await;
}

/// Returns a notification whose text is markup in one of the chat programs.
fn hostile() -> Notification {
    Notification {
        event: Event::Withheld,
        state: ConditionState::Begins,
        app: Some("prod".to_owned()),
        sdk_app_id: SdkAppId::new(1_400_000_000),
        at: "2026-03-10T09:00:00Z".parse().unwrap(),
        text: "<!channel> <@all> <at user_id=\"all\">all</at> @here [x](https://example.com) a & b"
            .to_owned(),
        command: Some("tim-group-sync approve --crawl 2".to_owned()),
        crawl_id: Some(2),
    }
}

/// The text that the robots of WeCom, DingTalk and Feishu receive.
const PLAIN: &str = "tim-group-sync: ＜!channel＞ ＜＠all＞ ＜at user_id=\"all\"＞all＜/at＞ ＠here ［x］(https://example.com) a & b\n\
                     Command: tim-group-sync approve --crawl 2";

fn attempt_time() -> DateTime<Utc> {
    "2026-03-10T09:00:01.234Z".parse().unwrap()
}

/// Sends the hostile notification. Returns the request.
async fn sent(format: NotificationFormat, answer: &str) -> Post {
    let receiver = TestReceiver::start().await;
    receiver.reply(Reply::ok(answer));
    let client = receiver.client(format)().unwrap();
    client.send(&hostile(), attempt_time()).await.unwrap();
    let post = receiver.posts().remove(0);
    assert_eq!(post.headers["content-type"], "application/json");
    assert!(post.headers["user-agent"].starts_with("tim-group-sync/"));
    post
}

fn hmac(key: &str, message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[tokio::test]
async fn the_json_format_has_the_documented_fields_and_a_signature_of_the_body() {
    let post = sent(NotificationFormat::Json, "").await;
    assert_eq!(post.target, format!("/hook/send?access_token={TOKEN}"));
    let expected = json!({
        "event": "withheld", "state": "begins", "app": "prod", "sdk_app_id": 1_400_000_000,
        "at": "2026-03-10T09:00:00Z", "text": hostile().text,
        "command": "tim-group-sync approve --crawl 2", "crawl_id": 2,
    });
    assert_eq!(post.json(), expected);
    let hex = hmac(SECRET, &post.body).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    assert_eq!(post.headers["x-signature-256"], format!("sha256={hex}"));
}

#[tokio::test]
async fn the_slack_format_escapes_control_characters_and_mentions() {
    let post = sent(NotificationFormat::Slack, "ok").await;
    let text = "tim-group-sync: &lt;!channel&gt; &lt;＠all&gt; &lt;at user_id=\"all\"&gt;all&lt;/at&gt; ＠here \
                ［x］(https://example.com) a &amp; b\nCommand: tim-group-sync approve --crawl 2";
    assert_eq!(post.json(), json!({ "text": text, "mrkdwn": false }));
    assert!(!post.headers.contains_key("x-signature-256"));
}

#[tokio::test]
async fn the_wecom_format_is_a_text_without_mentions() {
    let post = sent(NotificationFormat::WeCom, r#"{"errcode":0,"errmsg":"ok"}"#).await;
    assert_eq!(post.target, format!("/hook/send?access_token={TOKEN}"));
    assert_eq!(post.json(), json!({ "msgtype": "text", "text": { "content": PLAIN } }));
}

#[tokio::test]
async fn the_dingtalk_format_is_a_text_and_signs_the_url() {
    let post = sent(NotificationFormat::DingTalk, r#"{"errcode":0,"errmsg":"ok"}"#).await;
    let text = json!({ "content": PLAIN });
    assert_eq!(post.json(), json!({ "msgtype": "text", "text": text, "at": { "isAtAll": false } }));
    let timestamp = attempt_time().timestamp_millis();
    let sign = STANDARD.encode(hmac(SECRET, &format!("{timestamp}\n{SECRET}")));
    let sign = sign.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(post.target, format!("/hook/send?access_token={TOKEN}&timestamp={timestamp}&sign={sign}"));
}

#[tokio::test]
async fn the_feishu_format_is_a_text_and_signs_in_the_body() {
    let post = sent(NotificationFormat::Feishu, r#"{"code":0,"msg":"success"}"#).await;
    let timestamp = attempt_time().timestamp();
    let sign = STANDARD.encode(hmac(&format!("{timestamp}\n{SECRET}"), ""));
    let expected = json!({
        "msg_type": "text", "content": { "text": PLAIN }, "timestamp": timestamp.to_string(), "sign": sign,
    });
    assert_eq!(post.json(), expected);
}
