//! The JSON of the dashboard: its figures equal those of the views, lists have pages, and invalid
//! requests are refused.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use harness::crawl::{Harness, ON_COMMAND};
use harness::crawl_tests;
use harness::dashboard::Dashboard;
use serde_json::Value;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::daemon::Database;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{At, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests![
    every_list_has_the_names_and_figures_of_its_view,
    the_state_of_an_app_equals_its_views,
    every_key_of_an_answer_is_documented,
    each_page_of_a_list_continues_where_the_previous_one_ended,
    events_of_a_running_crawl_are_not_visible,
    groups_are_found_by_a_prefix_of_their_id,
    a_group_is_found_with_its_history_even_if_its_id_is_unusual,
    withheld_deletions_are_listed_until_they_are_settled,
    a_crawl_of_another_process_is_shown_while_it_runs,
    invalid_requests_are_refused_with_a_message,
    without_a_database_the_answer_gives_the_reason,
];

const APP: &str = "/api/apps/1400000000";

/// Makes a first crawl, one with changes, a failed one, and one with withheld deletions.
async fn make_varied_crawls(harness: &mut Harness) {
    harness.create("Public", "a b c d e f");
    harness.create("Private", "p q");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.create("Public", "g h");
    harness.crawl().await;
    harness.create("Private", "a");
    harness.api.retype("c", "Private");
    harness.crawl().await;
    harness.fault_from_request(1, Fault::ErrorCode(70009));
    harness.crawl().await;
    harness.api.clear_faults();
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.dissolve("d e f");
    harness.crawl().await;
}

/// Returns a JSON value as text, in the form in which the test connection returns values of views.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(claim) => u8::from(*claim).to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.to_string().trim_end_matches(".0").to_owned(),
        other => other.to_string(),
    }
}

async fn every_list_has_the_names_and_figures_of_its_view(mut harness: Harness) {
    make_varied_crawls(&mut harness).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for (list, view, order) in [
        ("crawls?limit=100", "crawls", "crawl_id DESC"),
        ("app_counts", "app_counts", "crawl_id DESC"),
        ("type_counts", "type_counts", "crawl_id DESC, group_type DESC"),
        ("daily_counts", "daily_counts", "day DESC, group_type DESC"),
        ("group_events", "group_events", "event_id DESC"),
        ("groups", "groups", "group_id"),
    ] {
        let answer = dashboard.json(&format!("{APP}/{list}")).await;
        assert_eq!(
            (text(&answer["sdk_app_id"]), text(&answer["app"])),
            ("1400000000".to_owned(), "prod".to_owned())
        );
        assert_figures_of(&harness, &answer[view], view, order).await;
    }
    let answer = dashboard.json(APP).await;
    assert_figures_of(&harness, &answer["type_status"], "type_status", "group_type DESC").await;
}

async fn assert_figures_of(harness: &Harness, list: &Value, view: &str, order: &str) {
    let list = list.as_array().unwrap();
    assert!(list.len() > 1, "{view}: {list:?}");
    let mut columns = harness.db.columns(view).await;
    // The answer has these two columns once for the entire list.
    columns.retain(|column| column != "sdk_app_id" && column != "app");
    let rows = harness.rows(&format!("SELECT {} FROM {view} ORDER BY {order}", columns.join(", "))).await;
    let answered: Vec<Vec<String>> =
        list.iter().map(|row| columns.iter().map(|column| text(&row[column])).collect()).collect();
    // The two engines format whole seconds differently.
    let figure = |(column, cell): (&String, String)| match column.as_str() {
        "duration_seconds" => cell.trim_end_matches(".0").to_owned(),
        _ => cell,
    };
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| columns.iter().zip(row).map(figure).collect()).collect();
    assert_eq!(answered, rows, "{view}: {columns:?}");
    let names: BTreeSet<&String> = list[0].as_object().unwrap().keys().collect();
    assert_eq!(names, columns.iter().collect(), "{view}");
}

async fn the_state_of_an_app_equals_its_views(mut harness: Harness) {
    make_varied_crawls(&mut harness).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let answer = dashboard.json("/api/apps").await;
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
    let apps = answer["apps"].as_array().unwrap();
    assert_eq!(apps.len(), 1);
    let columns = harness.db.columns("app_status").await;
    let row = harness.rows(&format!("SELECT {} FROM app_status", columns.join(", "))).await.remove(0);
    for (column, value) in columns.iter().zip(row) {
        assert_eq!(text(&apps[0][column]), value, "{column}");
    }
    assert_eq!(apps[0]["last_crawl"], dashboard.json(&format!("{APP}/crawls?limit=1")).await["crawls"][0]);
    assert_eq!(dashboard.json(APP).await["app_status"], apps[0]);
}

async fn every_key_of_an_answer_is_documented(mut harness: Harness) {
    fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            Value::Object(entries) => entries.iter().for_each(|(key, value)| {
                found.insert(key.clone());
                keys(value, found);
            }),
            _ => {}
        }
    }
    make_varied_crawls(&mut harness).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let gate = harness.api.hold(At::Request(harness.request(3)));
    let crawler = harness.new_crawler();
    harness.prepare_crawl();
    let stop = CancellationToken::new();
    let crawl = tokio::spawn(async move { crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await });
    gate.reached().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let documents = ["api.md", "schema.md"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    for path in [
        "/api/apps",
        APP,
        &format!("{APP}/crawls"),
        &format!("{APP}/app_counts"),
        &format!("{APP}/type_counts"),
        &format!("{APP}/daily_counts"),
        &format!("{APP}/group_events"),
        &format!("{APP}/groups"),
        &format!("{APP}/group?group_id=a"),
    ] {
        let mut found = BTreeSet::new();
        keys(&dashboard.json(path).await, &mut found);
        let is_documented =
            |key: &&String| documents.iter().any(|document| document.contains(&format!("`{key}`")));
        let undocumented: Vec<&String> = found.iter().filter(|key| !is_documented(key)).collect();
        assert!(undocumented.is_empty(), "{path}: {undocumented:?} are in no document");
        let address = path.replace("1400000000", "{sdk_app_id}").replace("?group_id=a", "?group_id=…");
        assert!(documents[0].contains(&format!("| `{address}` |")), "{address} is in no document");
    }
    gate.release();
    crawl.await.unwrap().unwrap();
}

async fn each_page_of_a_list_continues_where_the_previous_one_ended(mut harness: Harness) {
    make_varied_crawls(&mut harness).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for (list, parameter, limit) in [
        ("crawls", "before", 2),
        ("app_counts", "before", 2),
        ("type_counts", "before", 2),
        ("group_events", "before", 3),
        ("groups", "after", 4),
    ] {
        let entire = dashboard.json(&format!("{APP}/{list}")).await;
        assert_eq!(entire[format!("next_{parameter}")], Value::Null, "{list}");
        let (mut pages, mut rows, mut next) = (0, Vec::new(), String::new());
        loop {
            let page = dashboard.json(&format!("{APP}/{list}?limit={limit}{next}")).await;
            rows.extend(page[list].as_array().unwrap().clone());
            pages += 1;
            let key = &page[format!("next_{parameter}")];
            if key.is_null() {
                break;
            }
            next = format!("&{parameter}={}", text(key));
        }
        assert!(pages > 2, "{list} has {pages} pages");
        assert_eq!(Value::Array(rows), entire[list], "{list}");
    }
    harness.move_clock_by_hours(24);
    harness.crawl().await;
    let newest = dashboard.json(&format!("{APP}/daily_counts?limit=1")).await;
    let day = text(&newest["next_before"]);
    assert_eq!(day, "2026-03-02");
    let older = dashboard.json(&format!("{APP}/daily_counts?limit=1&before={day}")).await;
    assert_eq!(
        (text(&older["daily_counts"][0]["day"]), older["daily_counts"].as_array().unwrap().len()),
        ("2026-03-01".to_owned(), 2)
    );
}

async fn events_of_a_running_crawl_are_not_visible(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.create("Public", "e f g h");
    let dashboard = Dashboard::for_store(&harness.store).await;
    let gate = harness.api.hold(At::Request(harness.request(4)));
    let crawler = harness.crawler();
    harness.prepare_crawl();
    let crawl =
        tokio::spawn(
            async move { crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await },
        );
    gate.reached().await;
    for list in ["group_events", "app_counts", "type_counts"] {
        let shown = dashboard.json(&format!("{APP}/{list}")).await[list].as_array().unwrap().clone();
        assert!(shown.iter().all(|row| row["crawl_id"] == 1), "{list}: {shown:?}");
    }
    gate.release();
    crawl.await.unwrap().unwrap();
    assert_eq!(
        dashboard.json(&format!("{APP}/group_events")).await["group_events"].as_array().unwrap().len(),
        4
    );
}

async fn groups_are_found_by_a_prefix_of_their_id(harness: Harness) {
    harness.create("Public", "@TGS#1 @TGS#10 @TGS#2 other 群聊 群组");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let found = async |parameters: &str| -> Vec<String> {
        let answer = dashboard.json(&format!("{APP}/groups?{parameters}")).await;
        answer["groups"].as_array().unwrap().iter().map(|group| text(&group["group_id"])).collect()
    };
    assert_eq!(found("prefix=%40TGS%231").await, ["@TGS#1", "@TGS#10"]);
    assert_eq!(found("prefix=%E7%BE%A4").await, ["群组", "群聊"]);
    assert_eq!(found("prefix=%40TGS%23&after=%40TGS%231").await, ["@TGS#10", "@TGS#2"]);
    assert_eq!(found("prefix=nothing").await, [""; 0]);
    assert_eq!(found("prefix=%25").await, [""; 0], "a percent sign is not a wildcard");
    assert_eq!(found("").await.len(), 6);
}

async fn a_group_is_found_with_its_history_even_if_its_id_is_unusual(harness: Harness) {
    let odd = "<script>alert('&\"1%2F..')</script>\u{2028}é";
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.api.create("Public", odd);
    harness.crawl().await;
    harness.dissolve(odd);
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut encoded = String::new();
    odd.bytes().for_each(|byte| write!(encoded, "%{byte:02X}").unwrap());
    let answer = dashboard.json(&format!("{APP}/group?group_id={encoded}")).await;
    assert_eq!(answer["group"]["group_id"], odd);
    assert_eq!(answer["group"]["deleted_at"], answer["group_events"][0]["occurred_at"]);
    let events: Vec<String> =
        answer["group_events"].as_array().unwrap().iter().map(|event| text(&event["event"])).collect();
    assert_eq!(events, ["vanished", "appeared"]);
    let first = dashboard.json(&format!("{APP}/group?group_id={encoded}&limit=1")).await;
    assert_eq!(first["next_before"], first["group_events"][0]["event_id"]);
    let unknown = dashboard.get(&format!("{APP}/group?group_id=never")).await;
    assert_eq!((unknown.status, unknown.error()), (404, "prod never had a group \"never\"".to_owned()));
}

async fn withheld_deletions_are_listed_until_they_are_settled(mut harness: Harness) {
    make_varied_crawls(&mut harness).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.json(APP).await["app_status"].clone();
    let [held] = &app["withheld"].as_array().unwrap()[..] else { panic!("{app}") };
    assert_eq!(
        (&held["crawl_id"], &held["held_count"], &held["withheld"]),
        (&5.into(), &3.into(), &3.into())
    );
    assert_eq!((&app["held_count"], &held["reason_code"]), (&3.into(), &"guard".into()));
    harness.create("Public", "d");
    harness.crawl().await;
    assert_eq!(
        dashboard.json(APP).await["app_status"]["withheld"][0]["held_count"],
        2,
        "one is listed again"
    );
    let crawl = tim_group_sync::model::CrawlId(5);
    harness.approve(crawl).await;
    let settled = dashboard.json(APP).await["app_status"].clone();
    assert_eq!((&settled["withheld"], &settled["held_count"]), (&Value::Array(Vec::new()), &0.into()));
    harness.undelete(crawl).await;
    let undone = dashboard.json(APP).await["app_status"]["withheld"][0].clone();
    assert_eq!((&undone["held_count"], &undone["undeleted"]), (&2.into(), &2.into()));
}

async fn a_crawl_of_another_process_is_shown_while_it_runs(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let running = async || dashboard.first_app().await["running_crawl"].clone();
    assert_eq!(running().await, Value::Null);
    let gate = harness.api.hold(At::Request(harness.request(2)));
    let (crawler, stop) = (Arc::new(harness.new_crawler()), CancellationToken::new());
    harness.prepare_crawl();
    let crawl = tokio::spawn(async move { crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await });
    gate.reached().await;
    let seen = running().await;
    assert_eq!((&seen["crawl_id"], &seen["here"], &seen["host"]), (&2.into(), &false.into(), &"test".into()));
    // The process is killed. Its crawl has the status running, but its lease has ended.
    crawl.abort();
    crawl.await.unwrap_err();
    gate.release();
    harness.db.expire_leases().await;
    assert_eq!(running().await, Value::Null);
    let newest = dashboard.json(&format!("{APP}/crawls?limit=1")).await;
    assert_eq!(newest["crawls"][0]["status"], "running");
}

async fn invalid_requests_are_refused_with_a_message(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for (path, status, why) in [
        ("crawls?limit=0", 400, "limit must be a number from 1 to 500, not \"0\""),
        ("crawls?limit=501", 400, "limit must be a number from 1 to 500, not \"501\""),
        (
            "crawls?limit=9999999999999999999",
            400,
            "limit must be a number from 1 to 500, not \"9999999999999999999\"",
        ),
        ("crawls?limit=1&limit=2", 400, "limit is given twice"),
        ("crawls?before=-1", 400, "before must be a number from 1 to 9223372036854775807, not \"-1\""),
        (
            "crawls?befor=1",
            400,
            "there is no parameter \"befor\" here; the allowed parameters are: before, limit",
        ),
        ("?x", 400, "there is no parameter \"x\" here; the allowed parameters are: none"),
        (
            "daily_counts?before=2026-02-30",
            400,
            "before must be a day such as 2026-03-31, not \"2026-02-30\"",
        ),
        ("daily_counts?before=0", 400, "before must be a day such as 2026-03-31, not \"0\""),
        ("daily_counts?limit=401", 400, "limit must be a number from 1 to 400, not \"401\""),
        ("group", 400, "group_id is missing"),
        (
            "group?group_id=",
            400,
            "group_id is not a group id, which has 1 to 255 bytes and no control characters",
        ),
        (
            "group?group_id=a%00b",
            400,
            "group_id is not a group id, which has 1 to 255 bytes and no control characters",
        ),
        (
            "groups?prefix=%0A",
            400,
            "prefix is not a group id, which has 1 to 255 bytes and no control characters",
        ),
        ("group?group_id=%FF%FE", 404, "prod never had a group \"\u{fffd}\u{fffd}\""),
        ("group?group_id=a'%20OR%201=1--", 404, "prod never had a group \"a' OR 1=1--\""),
        ("nothing", 404, "there is no such list; see docs/api.md"),
        ("crawls/", 404, "there is no such list; see docs/api.md"),
        ("../../../etc/passwd", 404, "there is no such list; see docs/api.md"),
        ("..%2f..%2f..%2fetc%2fpasswd", 404, "there is no such list; see docs/api.md"),
    ] {
        let separator = if path.starts_with('?') { "" } else { "/" };
        let answer = dashboard.get(&format!("{APP}{separator}{path}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, why), "{path}");
    }
    let long = "x".repeat(20_000);
    let answer = dashboard.get(&format!("/api/apps?{long}")).await;
    assert!(
        answer.status == 400 && answer.body.len() < 200,
        "the answer does not repeat the entire request: {}",
        answer.body
    );
    let long = "x".repeat(256);
    assert_eq!(dashboard.get(&format!("{APP}/group?group_id={long}")).await.status, 400);
    for app in ["1400000001", "0", "-1", "prod", "1e9", "99999999999999999999", "%2e%2e"] {
        let answer = dashboard.get(&format!("/api/apps/{app}/crawls")).await;
        assert_eq!(answer.status, 404, "{app}: {}", answer.body);
    }
}

async fn without_a_database_the_answer_gives_the_reason(harness: Harness) {
    let dashboard = Dashboard::for_store(&harness.store).await;
    harness.store.close().await;
    let answer = dashboard.get("/api/apps").await;
    assert_eq!(
        (answer.status, answer.error()),
        (503, "the database does not answer; see the log".to_owned())
    );
    assert!(
        answer.has_header("retry-after: 5") && answer.has_header("cache-control: no-store"),
        "{}",
        answer.head
    );
    dashboard.database.send_replace(Database::Opening);
    let answer = dashboard.get(&format!("{APP}/crawls")).await;
    assert_eq!(
        (answer.status, answer.error()),
        (503, "the database is not open yet; see the log".to_owned())
    );
    assert_eq!(dashboard.get("/").await.status, 200, "the page itself is served");
}

#[tokio::test]
async fn only_reading_methods_and_loopback_hosts_are_accepted() {
    let harness = Harness::on(harness::crawl::Engine::Sqlite).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in ["/", "/api/apps", "/assets/dashboard.js", "/nothing"] {
            assert_eq!(
                dashboard.ask(method, path, "Content-Length: 0\r\n").await.status,
                405,
                "{method} {path}"
            );
        }
    }
    let hostile = b"GET /api/apps HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(dashboard.send_raw(hostile).await.status, 403);
    for path in [
        "/assets/../mod.rs",
        "/assets/..%2f..%2fmod.rs",
        "/assets/",
        "/assets/nothing",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/favicon.ico",
    ] {
        assert_eq!(dashboard.get(path).await.status, 404, "{path}");
    }
    let long = dashboard.get(&format!("/api/apps?{}", "x".repeat(100_000))).await;
    assert_eq!(long.status, 431, "{}", long.head);
    let body = format!("Content-Length: {}\r\n\r\n{}", 5000, "x".repeat(5000));
    assert_eq!(dashboard.ask("GET", "/api/apps", &body).await.status, 413);
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let harness = Harness::on(harness::crawl::Engine::Sqlite).await;
    harness.create("Public", "a");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for path in
        ["/", "/assets/dashboard.css", "/assets/uPlot.iife.min.js", "/api/apps", &format!("{APP}/crawls")]
    {
        let first = dashboard.get(path).await;
        let tag = first.header("etag").unwrap().to_owned();
        assert!(first.has_header("cache-control: no-cache"), "{}", first.head);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let again = dashboard.ask("GET", path, &format!("If-None-Match: {known}\r\n")).await;
            assert_eq!((again.status, again.body.as_str()), (304, ""), "{path} {known}");
            assert_eq!(again.header("etag"), Some(tag.as_str()));
        }
        let head = dashboard.ask("HEAD", path, "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("etag"), Some(tag.as_str()), "{path}");
        assert_eq!(head.header("content-length"), first.header("content-length"), "{path}");
    }
    let tag = dashboard.get("/api/apps").await.header("etag").unwrap().to_owned();
    harness.create("Public", "b");
    harness.crawl().await;
    assert_eq!(dashboard.ask("GET", "/api/apps", &format!("If-None-Match: {tag}\r\n")).await.status, 200);
}

#[tokio::test]
async fn the_page_is_in_the_language_of_the_browser() {
    let harness = Harness::on(harness::crawl::Engine::Sqlite).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    for (path, accept, lang) in [
        ("/", "zh-CN,zh;q=0.9", "zh-CN"),
        ("/", "en-GB", "en"),
        ("/?lang=en", "zh-CN", "en"),
        ("/?lang=zh", "en", "zh-CN"),
    ] {
        let answer = dashboard.ask("GET", path, &format!("Accept-Language: {accept}\r\n")).await;
        assert!(answer.body.contains(&format!("<html lang=\"{lang}\">")), "{path} {accept}");
        assert!(answer.has_header("vary: accept-language"), "{}", answer.head);
        assert!(!answer.body.contains('{'), "an unreplaced placeholder: {}", answer.body);
    }
    assert_eq!(dashboard.get("/?lang=fr").await.status, 400);
    assert_eq!(dashboard.get("/?x=1").await.status, 400);
}

/// The chart library is an unmodified copy of the published package. Update these checksums with
/// its version.
#[test]
fn the_vendored_chart_library_is_the_package_unchanged() {
    use sha2::{Digest as _, Sha256};
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/dashboard/page/uplot");
    for (file, sha256) in [
        ("LICENSE", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
        ("package.json", "6bfea8e275a2f8194e2395d2dc15f64151e69f141db19741e5a5afe75ba4180b"),
        ("uPlot.iife.min.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    ] {
        let content = std::fs::read(folder.join(file)).unwrap();
        let mut sum = String::new();
        Sha256::digest(&content).iter().for_each(|byte| write!(sum, "{byte:02x}").unwrap());
        assert_eq!(sum, sha256, "{file}");
    }
    let package: Value =
        serde_json::from_slice(&std::fs::read(folder.join("package.json")).unwrap()).unwrap();
    assert_eq!((&package["name"], &package["version"]), (&"uplot".into(), &"1.6.32".into()));
}
