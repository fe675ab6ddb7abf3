//! The dashboard's page in Chromium: content, languages, screen sizes, accessibility, and hostile
//! ids.

use harness::browser::{Browser, DESKTOP, PHONE, UserProfile};
use harness::crawl::{Engine, Harness};
use harness::daemon::{self, AppSpec, DaemonHarness, PROD};
use harness::dashboard::Dashboard;
use serde_json::json;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{At, Fault, Settings, Simulator};

const CHINESE: UserProfile = UserProfile { language: "zh-CN", ..DESKTOP };

/// Makes several crawls, the last of which withholds deletions, and serves the dashboard.
async fn eventful() -> (Harness, Dashboard) {
    let mut harness = Harness::on(Engine::Sqlite).await;
    harness.create("Public", "a b c d e f");
    harness.create("Private", "p q");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.create("Public", "g h");
    harness.crawl().await;
    harness.fault_from_request(1, Fault::ErrorCode(70009));
    harness.crawl().await;
    harness.api.clear_faults();
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.dissolve("d e f");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    (harness, dashboard)
}

const LOADED: &str = "document.querySelector('canvas') && document.querySelector('.events tbody tr') && document.querySelector('.crawls tbody tr')";

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn without_apps_the_page_explains_the_next_steps() {
    let harness = Harness::on(Engine::Sqlite).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    for (reader, sentence) in [(DESKTOP, "No app has been crawled yet."), (CHINESE, "尚未抓取任何应用。")]
    {
        browser.open(&dashboard.url(), reader).await;
        browser.wait_until(&format!("document.body.innerText.includes('{sentence}')")).await;
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_page_of_an_app_is_complete_in_both_languages_both_colour_schemes_and_all_widths() {
    let (_world, dashboard) = eventful().await;
    let mut browser = Browser::start().await;
    for reader in [
        DESKTOP,
        UserProfile { dark: true, ..DESKTOP },
        PHONE,
        UserProfile { dark: true, ..PHONE },
        CHINESE,
        UserProfile { language: "zh-CN", ..PHONE },
    ] {
        browser.open(&dashboard.url(), reader).await;
        browser.wait_until(LOADED).await;
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
        let text = browser.text().await;
        let expected = match reader.language {
            "zh-CN" => [
                "prod：3 个群组的删除被暂缓",
                "存续群组",
                "各群组类型的存续群组数",
                "每日新增与消失",
                "最近的抓取",
                "最新事件",
                "陌生人社交群(Public)",
            ],
            _ => [
                "prod: 3 deletions are withheld",
                "Live groups",
                "Live groups by type",
                "Appeared and vanished per day",
                "Last crawls",
                "Newest events",
                "the UserSig could not be verified",
            ],
        };
        for sentence in expected {
            assert!(text.contains(sentence), "{reader:?}: no {sentence:?} in\n{text}");
        }
        assert!(text.contains("tim-group-sync approve --crawl 4"), "the command that approves the deletions");
        assert_eq!(browser.eval("document.querySelectorAll('canvas').length").await, 2);
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn fifty_apps_are_a_list_and_each_has_its_page() {
    let harness = DaemonHarness::new().await;
    let mut apis = Vec::new();
    let mut plans = Vec::new();
    for number in 0..50 {
        let app: &'static str = Box::leak(format!("app-{number:02}").into_boxed_str());
        let sdk_app_id = 1_400_000_100 + number;
        let settings = Settings {
            sdk_app_id: tim_group_sync::model::SdkAppId::new(sdk_app_id).unwrap(),
            clock: harness.clock.clone(),
            ..Settings::default()
        };
        let api = Simulator::start(settings).await.unwrap();
        api.create_many("Public", 3);
        let spec = AppSpec { app, sdk_app_id, catch_up: true, wrong_key: number == 49, ..PROD };
        plans.push(harness.plan(&api, &spec));
        apis.push(api);
    }
    let [mut daemon] = harness.start_all([("app-00", plans.remove(0))]);
    plans.insert(
        0,
        harness.plan(&apis[0], &AppSpec { app: "app-00", sdk_app_id: 1_400_000_100, catch_up: true, ..PROD }),
    );
    let _triggers = daemon::apply(&daemon.handle, plans);
    daemon
        .apps
        .wait_for(|apps| apps.len() == 50 && apps.values().all(|app| app.last_report.is_some()))
        .await
        .unwrap();
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    for reader in [DESKTOP, PHONE] {
        browser.open(&dashboard.url(), reader).await;
        browser.wait_until("document.querySelectorAll('.apps tbody tr').length === 50").await;
        let text = browser.text().await;
        assert!(text.contains("1 of 50 apps needs attention"), "{text}");
        assert!(text.contains("app-49: the API refuses its credentials"), "{text}");
        let first = browser.eval("document.querySelector('.apps tbody tr a').textContent").await;
        assert_eq!(first, "app-49", "the app that needs attention comes first");
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
        browser.eval("[...document.querySelectorAll('.apps a')].find((one) => one.textContent === 'app-17').click()").await;
        browser
            .wait_until("document.querySelector('canvas') && document.title === 'app-17 · tim-group-sync'")
            .await;
        assert!(!browser.text().await.contains("credentials"), "the page has a problem of another app");
        browser.click("#all-apps").await;
        browser.wait_until("document.querySelectorAll('.apps tbody tr').length === 50").await;
        browser.assert_clean(&dashboard).await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_progress_of_a_running_crawl_is_updated() {
    let harness = DaemonHarness::new().await;
    harness.api.create_many("Public", 20);
    let daemon = harness.start_crawled().await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelector('canvas')").await;
    assert_eq!(browser.eval("document.querySelector('.running').hidden").await, true);
    harness.api.create_many("Public", 2);
    let asked = harness.api.requests().len() as u64;
    let third = harness.api.hold(At::Request(asked + 3));
    harness.set_clock("09:00:00");
    daemon.trigger.ring();
    third.reached().await;
    browser
        .wait_until("document.querySelector('.running .doing')?.textContent.startsWith('listing Public')")
        .await;
    let before = browser.eval("document.querySelector('progress').value").await.as_f64().unwrap();
    let sixth = harness.api.hold(At::Request(asked + 6));
    third.release();
    sixth.reached().await;
    browser.wait_until(&format!("document.querySelector('progress').value > {before}")).await;
    assert_eq!(browser.eval("document.querySelector('progress').max").await, 27);
    browser.assert_accessible().await;
    sixth.release();
    browser.wait_until("document.querySelector('.running').hidden").await;
    browser.wait_until("document.querySelector('#announcement').textContent.includes('2 appeared')").await;
    browser.wait_until("document.querySelectorAll('.events tbody tr').length === 2").await;
    browser.wait_until("document.querySelector('.tiles dd').textContent === '27'").await;
    browser.assert_clean(&dashboard).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn ids_that_look_like_html_are_shown_as_text() {
    let ids = [
        "<img src=x onerror=\"window.harmed=1\">",
        "<script>window.harmed=1</script>",
        "\"><b>bold</b>",
        "javascript:window.harmed=1",
        "#/../%2e%2e/?a=b&c",
    ];
    let harness = Harness::on(Engine::Sqlite).await;
    harness.create("Public", "a b");
    harness.crawl().await;
    for id in ids {
        harness.api.create("Public", id);
    }
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelectorAll('.events tbody tr').length === 5").await;
    for id in ids {
        let text = json!(id);
        browser.eval(&format!("[...document.querySelectorAll('.events a')].find((one) => one.textContent === {text}).click()")).await;
        browser.wait_until(&format!("document.querySelector('.group h3 .id')?.textContent === {text}")).await;
        assert_eq!(
            browser.eval("document.querySelectorAll('.group tbody tr').length").await,
            1,
            "its history"
        );
        browser.click(".group .close").await;
        browser.wait_until("!document.querySelector('.group')").await;
    }
    // The same group by its own address, as from a bookmark.
    let address = browser.eval("document.querySelector('.events a').href").await;
    browser.open(address.as_str().unwrap(), DESKTOP).await;
    browser.wait_until("document.querySelector('.group h3 .id')").await;
    browser.assert_clean(&dashboard).await;
    assert_eq!(
        browser
            .eval("window.harmed === undefined && !document.querySelector('main img, main script, main b')")
            .await,
        true
    );
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn everything_works_with_the_keyboard_and_with_a_screen_reader() {
    let (_world, dashboard) = eventful().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until(LOADED).await;
    browser.press("Tab").await;
    assert_eq!(browser.eval("document.activeElement.textContent").await, "Skip to the content");
    browser.press("Enter").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "main");
    browser.press("Tab").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "search");
    browser.write("d").await;
    browser.press("Enter").await;
    browser.wait_until("document.querySelector('.group h3 .id')?.textContent === 'd'").await;
    browser.wait_until("document.querySelector('#announcement').textContent === 'd: withheld'").await;
    // Every focusable element shows its focus and has a name.
    let mut reached = Vec::new();
    for _ in 0..60 {
        browser.press("Tab").await;
        let focus = browser
            .eval(
                "(() => { const at = document.activeElement; const style = getComputedStyle(at);
                   return [at.tagName, at.textContent.trim().slice(0, 40) || at.ariaLabel || '', style.outlineStyle]; })()",
            )
            .await;
        if focus[0] == "BODY" {
            break;
        }
        assert_ne!(focus[2], "none", "{focus} does not show that it has the focus");
        reached.push(focus[1].as_str().unwrap().to_owned());
    }
    for place in ["Close", "Last crawls", "30 days", "Show as a table"] {
        assert!(
            reached.iter().any(|name| name == place),
            "{place} cannot be reached by keyboard: {reached:?}"
        );
    }
    let accessibility_tree = browser.accessibility_tree().await;
    for (role, name) in [
        ("heading", "prod: 3 deletions are withheld"),
        ("table", "Last crawls"),
        ("table", "Newest events"),
        ("figure", "Live groups by type"),
        ("searchbox", "Group id, or its beginning"),
        ("columnheader", "Outcome"),
    ] {
        assert!(
            accessibility_tree.contains(&(role.to_owned(), name.to_owned())),
            "no {role} {name:?} in {accessibility_tree:?}"
        );
    }
    // The numbers of the charts are also in a table.
    browser.eval("document.querySelector('.chart summary').focus()").await;
    browser.press("Enter").await;
    browser.wait_until("document.querySelector('.chart details tbody tr')").await;
    browser.assert_clean(&dashboard).await;
    browser.assert_accessible().await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_page_reports_an_unreachable_service_and_its_return() {
    let (harness, dashboard) = eventful().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until(LOADED).await;
    let address = dashboard.address;
    drop(dashboard);
    browser.wait_until("document.body.innerText.includes('The service does not answer. Retrying.')").await;
    assert!(browser.text().await.contains("Newest events"), "the page keeps the last figures");
    let _again = Dashboard::at_address(address, &harness.store).await;
    browser.wait_until("!document.body.innerText.includes('The service does not answer')").await;
    browser.wait_until("document.body.innerText.includes('3 deletions are withheld')").await;
}
