//! Tests over HTTP, with a client that implements the API's documentation and shares no code with
//! the crate's own client.

mod faults;
mod info;
mod statistics;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};

use super::app::lock;
use super::traffic::Traffic;
use super::*;
use crate::clock::Clock;
use crate::model::SdkAppId;
use crate::tencent::info::GROUP_INFO_PATH;
use crate::tencent::statistics::STATISTICS_PATH;
use crate::tencent::usersig::{self, Claims, SecretKey};
use crate::tencent::wire::LIST_GROUPS_PATH;

const NOW: i64 = 1_700_000_000;

fn settings() -> Settings {
    Settings { clock: Clock::fixed_at(DateTime::from_timestamp(NOW, 0).unwrap()), ..Settings::default() }
}

async fn start(settings: Settings) -> (Simulator, Caller) {
    let caller = Caller::of(&settings);
    let simulator = Simulator::start(settings).await.unwrap();
    (simulator, caller)
}

/// Makes requests with valid signatures and parameters, which tests can make invalid.
struct Caller {
    http: reqwest::Client,
    claims: Claims,
    key: SecretKey,
    parameters: BTreeMap<&'static str, String>,
}

impl Caller {
    #[expect(clippy::disallowed_methods, reason = "independent of the client under test")]
    fn of(settings: &Settings) -> Self {
        // This fails if another test has installed the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let no_redirects = reqwest::redirect::Policy::none();
        let claims = Claims {
            sdk_app_id: settings.sdk_app_id,
            identifier: settings.identifier.clone(),
            issued_at: NOW,
            lifetime: Duration::from_mins(10),
        };
        Self {
            http: reqwest::Client::builder().no_proxy().redirect(no_redirects).build().unwrap(),
            parameters: BTreeMap::from([
                ("sdkappid", settings.sdk_app_id.to_string()),
                ("identifier", settings.identifier.clone()),
                ("usersig", usersig::sign(&claims, &settings.secret_key).expose().to_owned()),
                ("random", u32::MAX.to_string()),
                ("contenttype", "json".to_owned()),
            ]),
            claims,
            key: settings.secret_key.clone(),
        }
    }

    fn sign(&mut self) {
        self.parameters.insert("usersig", usersig::sign(&self.claims, &self.key).expose().to_owned());
    }

    async fn post(&self, simulator: &Simulator, body: String) -> reqwest::Result<reqwest::Response> {
        self.post_to(simulator, LIST_GROUPS_PATH, body).await
    }

    async fn post_to(
        &self,
        simulator: &Simulator,
        path: &str,
        body: String,
    ) -> reqwest::Result<reqwest::Response> {
        let url = simulator.base_url() + path;
        self.http.post(url).query(&self.parameters).body(body).send().await
    }

    async fn call(&self, simulator: &Simulator, body: Value) -> Value {
        let response = self.post(simulator, body.to_string()).await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn code(&self, simulator: &Simulator, body: Value) -> i64 {
        self.call(simulator, body).await["ErrorCode"].as_i64().unwrap()
    }

    /// Requests the types of single groups.
    async fn ask(&self, simulator: &Simulator, ids: &[&str]) -> Value {
        let types = json!({ "GroupBaseInfoFilter": ["Type"] });
        self.ask_with(simulator, json!({ "GroupIdList": ids, "ResponseFilter": types })).await
    }

    async fn ask_with(&self, simulator: &Simulator, body: Value) -> Value {
        let response = self.post_to(simulator, GROUP_INFO_PATH, body.to_string()).await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn statistics(&self, simulator: &Simulator, body: Value) -> Value {
        let response = self.post_to(simulator, STATISTICS_PATH, body.to_string()).await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    /// Reads a list to its end. Returns the ids of each page.
    async fn crawl(&self, simulator: &Simulator, filter: Option<&str>, limit: usize) -> Vec<Vec<String>> {
        let mut request = json!({ "Limit": limit, "Next": 0 });
        if let Some(group_type) = filter {
            request["GroupType"] = group_type.into();
        }
        let mut pages = Vec::new();
        loop {
            let answer = self.call(simulator, request.clone()).await;
            assert_eq!(answer["ErrorCode"], 0, "{answer}");
            pages.push(ids(&answer));
            request["Next"] = answer["Next"].clone();
            if request["Next"] == 0 {
                return pages;
            }
        }
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let entries = answer["GroupIdList"].as_array().unwrap();
    entries.iter().map(|entry| entry["GroupId"].as_str().unwrap().to_owned()).collect()
}

fn every_listing() -> impl Iterator<Item = Listing> {
    let orders = [Order::OldestFirst, Order::NewestFirst, Order::Shuffled];
    orders
        .into_iter()
        .flat_map(|order| [Cursor::Key, Cursor::Position].map(|cursor| Listing { order, cursor }))
}

#[tokio::test]
async fn an_unchanged_list_is_listed_exactly_once_in_every_order_with_every_cursor() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 30);
        simulator.create_many("Live", 25);
        simulator.create_many("Public", 10);
        simulator.create("Community", "@TGS#_mine");
        let truth = simulator.truth();
        for filter in [None, Some("Public"), Some("Live"), Some("Community")] {
            let expected: BTreeSet<&String> =
                truth.iter().filter(|(_, t)| filter.is_none_or(|f| f == *t)).map(|(id, _)| id).collect();
            for limit in [1, 7, expected.len(), 10_000] {
                let pages = caller.crawl(&simulator, filter, limit).await;
                assert_eq!(pages.len(), expected.len().div_ceil(limit), "{listing:?} {filter:?} {limit}");
                let listed = pages.concat();
                assert_eq!(listed.len(), expected.len());
                assert_eq!(listed.iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}

#[tokio::test]
async fn groups_are_listed_oldest_first_or_newest_first_or_regardless_of_age() {
    let names: Vec<String> = (0..50).map(|n| format!("group {n:02}")).collect();
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled] {
        let listing = Listing { order, ..Listing::default() };
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        for name in &names {
            simulator.create("Public", name);
        }
        let listed = caller.crawl(&simulator, None, 20).await.concat();
        match order {
            Order::OldestFirst => assert!(listed.is_sorted()),
            Order::NewestFirst => assert!(listed.is_sorted_by(|a, b| a > b)),
            Order::Shuffled => assert!(!listed.is_sorted() && !listed.is_sorted_by(|a, b| a > b)),
        }
    }
}

/// Lists 60 groups in pages of ten. Before every page, dissolves three groups and creates three
/// others. Returns how many of the groups that existed throughout were skipped, and how many ids
/// were listed twice.
async fn crawl_under_churn(listing: Listing, seed: u64) -> (usize, usize) {
    let (simulator, caller) = start(Settings { listing, seed, ..settings() }).await;
    simulator.create_many("Public", 60);
    let mut remaining = simulator.truth();
    simulator.on_request(|app, _| {
        app.dissolve_some(3);
        app.create_many("Public", 3);
    });
    let listed = caller.crawl(&simulator, Some("Public"), 10).await.concat();
    let truth = simulator.truth();
    remaining.retain(|id, _| truth.contains_key(id));
    let distinct: BTreeSet<&String> = listed.iter().collect();
    (remaining.keys().filter(|id| !distinct.contains(id)).count(), listed.len() - distinct.len())
}

#[tokio::test]
async fn a_key_cursor_never_skips_an_existing_group_and_never_repeats_one() {
    for listing in every_listing().filter(|listing| listing.cursor == Cursor::Key) {
        for seed in 0..5 {
            assert_eq!(crawl_under_churn(listing, seed).await, (0, 0), "{listing:?} {seed}");
        }
    }
}

#[tokio::test]
async fn positions_shift_under_churn_and_skip_or_repeat_existing_groups() {
    let crawl = async |order| crawl_under_churn(Listing { order, cursor: Cursor::Position }, 1).await;
    let (skipped, repeated) = crawl(Order::OldestFirst).await;
    assert!(
        skipped > 0 && repeated == 0,
        "dissolved groups shift positions to the front, created ones are appended"
    );
    let (skipped, repeated) = crawl(Order::NewestFirst).await;
    assert!(
        skipped == 0 && repeated > 0,
        "created groups shift all positions to the back, dissolved ones only those behind them"
    );
    let (skipped, repeated) = crawl(Order::Shuffled).await;
    assert!(skipped > 0 && repeated > 0, "positions shift in both directions");
}

#[tokio::test]
async fn a_cursor_needs_64_bits_and_is_valid_for_its_own_filter_only() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 3);
        simulator.create_many("Live", 3);
        let first = caller.call(&simulator, json!({ "Limit": 1, "GroupType": "Public" })).await;
        let next = first["Next"].as_u64().unwrap();
        assert!(next > 1 << 63);
        let code = async |next: u64, group_type| {
            caller.code(&simulator, json!({ "Next": next, "GroupType": group_type })).await
        };
        assert_eq!(code(next, "Public").await, 0);
        assert_eq!(code(next, "Live").await, 10004);
        for unknown in [1, next - 1, next + 1, next ^ 1 << 63, u64::MAX] {
            assert_eq!(code(unknown, "Public").await, 10004, "{unknown}");
        }
    }
}

#[tokio::test]
async fn a_documented_type_may_be_empty_and_any_other_type_is_unknown_before_its_first_group() {
    let (simulator, caller) = start(settings()).await;
    simulator.create("Work", "a");
    simulator.create("Meeting", "b");
    let call = async |group_type: &str| caller.call(&simulator, json!({ "GroupType": group_type })).await;
    let empty = call("Community").await;
    assert_eq!((&empty["TotalCount"], &empty["Next"], ids(&empty).len()), (&json!(0), &json!(0), 0));
    assert_eq!(ids(&call("Private").await), ["a"]);
    assert_eq!(ids(&call("ChatRoom").await), ["b"]);
    for unknown in ["Work", "Meeting", "Live", "public", ""] {
        assert_eq!(call(unknown).await["ErrorCode"], 10004, "{unknown}");
    }
    simulator.create("Live", "c");
    assert!(simulator.dissolve("c") && !simulator.dissolve("c"));
    assert_eq!(call("Live").await["TotalCount"], 0);
    simulator.retype("a", "ChatRoom");
    assert_eq!(ids(&call("ChatRoom").await), ["b", "a"], "a retyped group is a new one");
    assert_eq!(call("Private").await["TotalCount"], 0);
    assert_eq!(caller.call(&simulator, json!({})).await["TotalCount"], 2);
}

#[tokio::test]
async fn generated_ids_follow_from_the_seed_and_dissolving_some_groups_keeps_the_others() {
    let truth_of = async |seed| {
        let (simulator, _) = start(Settings { seed, ..settings() }).await;
        simulator.create_many("Public", 1000);
        simulator.create_many("Community", 100);
        let before = simulator.truth();
        let dissolved = simulator.dissolve_some(300);
        let mut after = simulator.truth();
        assert_eq!((before.len(), dissolved.len(), after.len()), (1100, 300, 800));
        assert_eq!(simulator.counts().values().sum::<usize>(), 800);
        after.extend(dissolved.into_iter().map(|id| (id.clone(), before[&id].clone())));
        assert_eq!(after, before);
        assert_eq!(simulator.dissolve_some(usize::MAX).len(), 800);
        before
    };
    let truth = truth_of(1).await;
    assert_eq!(truth, truth_of(1).await);
    assert_ne!(truth, truth_of(2).await);
    assert!(truth.iter().all(|(id, t)| id.starts_with("@TGS#_") == (t == "Community")));
    let custom = truth.keys().filter(|id| id.contains("room_")).collect::<Vec<_>>();
    assert!((150..300).contains(&custom.len()), "{}", custom.len());
    assert!(custom.iter().all(|id| (24..=44).contains(&id.len())));
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_the_documented_code() {
    let (simulator, good) = start(settings()).await;
    let code_with = async |change: &dyn Fn(&mut Caller)| {
        let mut caller = Caller { http: good.http.clone(), ..Caller::of(&settings()) };
        change(&mut caller);
        caller.code(&simulator, json!({})).await
    };
    let other = SdkAppId::new(1_400_000_001).unwrap();
    assert_eq!(code_with(&|_| {}).await, 0);
    assert_eq!(code_with(&|c| drop(c.parameters.remove("sdkappid"))).await, 60012);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("sdkappid", "x".into()))).await, 60006);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("sdkappid", other.to_string()))).await, 70020);
    assert_eq!(code_with(&|c| drop(c.parameters.remove("identifier"))).await, 60004);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("identifier", "mallory".into()))).await, 70013);
    assert_eq!(code_with(&|c| drop(c.parameters.remove("usersig"))).await, 70002);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("usersig", "eJyrVg__".into()))).await, 70003);
    assert_eq!(code_with(&|c| drop(c.parameters.remove("random"))).await, 60002);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("random", "4294967296".into()))).await, 60002);
    assert_eq!(code_with(&|c| drop(c.parameters.insert("contenttype", "JSON".into()))).await, 60002);
    let code_signed_with = async |change: &dyn Fn(&mut Caller)| {
        code_with(&|caller| {
            change(caller);
            caller.sign();
        })
        .await
    };
    assert_eq!(code_signed_with(&|c| c.claims.sdk_app_id = other).await, 70014);
    assert_eq!(code_signed_with(&|c| c.claims.identifier = "mallory".into()).await, 70013);
    assert_eq!(code_signed_with(&|c| c.key = SecretKey::new("another")).await, 70009);
    assert_eq!(code_signed_with(&|c| c.claims.issued_at = NOW - 601).await, 70001);
    let ordinary_user = |c: &mut Caller| {
        c.claims.identifier = "user".into();
        c.parameters.insert("identifier", "user".into());
    };
    assert_eq!(code_signed_with(&ordinary_user).await, 10007);
    for (body, code) in [
        (json!({ "Limit": 10_001 }), 10004),
        (json!({ "Limit": 0 }), 10004),
        (json!({ "Next": "0" }), 10004),
        (json!({ "GroupType": 7 }), 10004),
    ] {
        assert_eq!(good.code(&simulator, body.clone()).await, code, "{body}");
    }
    for body in ["", "{\"Limit\":"] {
        let answer = good.post(&simulator, body.to_owned()).await.unwrap().text().await.unwrap();
        assert!(answer.contains("60003"), "{answer}");
    }
    let log = simulator.requests();
    assert_eq!((log[0].answered, log[1].answered, log[0].limit), (Some(0), Some(60012), 10_000));
}

#[tokio::test]
async fn the_api_accepts_only_post_requests_on_its_paths() {
    let (simulator, caller) = start(settings()).await;
    let wrong_method = caller.http.get(simulator.base_url() + LIST_GROUPS_PATH).send().await.unwrap();
    assert!(wrong_method.text().await.unwrap().contains("60002"));
    let wrong_path = caller.http.post(simulator.base_url() + "/v4/elsewhere").send().await.unwrap();
    assert!(wrong_path.text().await.unwrap().contains("60009"));
    assert_eq!(simulator.requests().len(), 0);
}

#[tokio::test]
async fn requests_that_arrive_too_early_are_refused_and_do_not_delay_the_next() {
    let hour = Duration::from_hours(1);
    let (simulator, mut caller) = start(Settings { min_interval: Some(hour), ..settings() }).await;
    caller.claims.issued_at = 0;
    let good = caller.parameters.clone();
    caller.sign();
    assert_eq!(
        caller.code(&simulator, json!({})).await,
        70001,
        "requests that fail authentication do not count"
    );
    caller.parameters = good;
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    assert_eq!(caller.code(&simulator, json!({})).await, 10006);

    let start = Instant::now();
    let mut traffic = Traffic::default();
    let admitted = [0, 900, 1000, 1999, 2000]
        .map(|t| traffic.admit_list(start + Duration::from_millis(t), Duration::from_secs(1)));
    assert_eq!(admitted, [true, false, true, false, true]);
}

#[tokio::test]
async fn an_answer_over_the_size_limit_is_refused_and_a_smaller_page_is_not() {
    let (simulator, caller) = start(Settings { max_answer_bytes: 1000, ..settings() }).await;
    simulator.create_many("Public", 50);
    assert_eq!(caller.code(&simulator, json!({})).await, 10018);
    assert_eq!(caller.crawl(&simulator, None, 10).await.len(), 5);
}

#[tokio::test]
async fn a_held_request_is_answered_after_its_release_with_the_groups_of_that_time() {
    let (simulator, caller) = start(settings()).await;
    let held = simulator.hold(At::Request(2));
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    let meanwhile = async {
        held.reached().await;
        assert_eq!(simulator.requests()[1].answered, None);
        simulator.create("Public", "created while the request was held");
        held.release();
    };
    let (answer, ()) = tokio::join!(caller.call(&simulator, json!({})), meanwhile);
    assert_eq!(ids(&answer), ["created while the request was held"]);
}

#[tokio::test]
async fn a_dropped_simulator_closes_held_requests_and_accepts_no_others() {
    let (simulator, caller) = start(settings()).await;
    let url = simulator.base_url();
    let held = simulator.hold(At::Every);
    let request = tokio::spawn(caller.http.post(url.clone() + LIST_GROUPS_PATH).send());
    held.reached().await;
    drop(simulator);
    assert!(request.await.unwrap().is_err());
    while caller.http.post(&url).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_date_of_every_answer_is_the_clock_plus_the_offset() {
    let (simulator, caller) = start(settings()).await;
    let date = |response: reqwest::Response| response.headers()["date"].to_str().unwrap().to_owned();
    let good = async || date(caller.post(&simulator, "{}".to_owned()).await.unwrap());
    assert_eq!(good().await, "Tue, 14 Nov 2023 22:13:20 GMT");
    simulator.set_date_offset(TimeDelta::days(-5));
    assert_eq!(good().await, "Thu, 09 Nov 2023 22:13:20 GMT", "the day has two digits");
    simulator.set_date_offset(TimeDelta::hours(2));
    let late = "Wed, 15 Nov 2023 00:13:20 GMT";
    let wrong_path = caller.http.post(simulator.base_url() + "/v4/elsewhere").send().await.unwrap();
    assert_eq!(date(wrong_path), late);
    let info = caller.post_to(&simulator, GROUP_INFO_PATH, String::new()).await.unwrap();
    assert_eq!(date(info), late);
    simulator.script(At::Request(5), Fault::Status(500));
    assert_eq!(good().await, late);
    simulator.settings.clock.set(DateTime::from_timestamp(NOW + 1, 0).unwrap());
    assert_eq!(good().await, "Wed, 15 Nov 2023 00:13:21 GMT");
}

#[tokio::test]
async fn single_groups_are_found_after_every_kind_of_change() {
    for listing in every_listing() {
        let (simulator, _) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 100);
        simulator.create_many("Live", 50);
        ["a", "b", "c", "d"].iter().for_each(|id| simulator.create("Work", id));
        simulator.hide(&["a", "b"]);
        simulator.retype("b", "Public");
        simulator.retype("c", "Community");
        assert!(simulator.dissolve("a") && !simulator.dissolve("a"));
        simulator.create("Public", "d");
        let mut dissolved = simulator.dissolve_some(60);
        dissolved.push("a".to_owned());
        simulator.show_all();
        let truth = simulator.truth();
        let groups = lock(&simulator.groups);
        let type_of = |id: &str| groups.catalog().type_of(id).map(str::to_owned);
        assert_eq!(truth.len(), 93);
        assert!(truth.iter().all(|(id, group_type)| type_of(id).as_ref() == Some(group_type)));
        assert!(dissolved.iter().all(|id| type_of(id).is_none()));
        assert_eq!(groups.catalog().listed(), truth.len());
    }
}
