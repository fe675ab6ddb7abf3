//! The dashboard's page in Chromium: content, languages, screen sizes, accessibility, and hostile
//! ids.

use harness::browser::{Browser, DESKTOP, PHONE, UserProfile};
use harness::crawl::{Engine, Harness};
use harness::daemon::{AppSpec, DaemonHarness, PROD};
use harness::dashboard::Dashboard;
use serde_json::json;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{At, Fault};

use crate::fifty::FiftyApps;

const CHINESE: UserProfile = UserProfile { language: "zh-CN", ..DESKTOP };

/// Makes several crawls, the last of which withholds deletions, and serves the dashboard.
async fn serve_withheld_deletions() -> (Harness, Dashboard) {
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

/// True once the charts, the events and the crawls of an app are shown.
const LOADED: &str = "document.querySelector('canvas') && document.querySelector('.events tbody tr') && document.querySelector('.crawls tbody tr')";

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn without_apps_the_page_explains_the_next_steps() {
    let harness = Harness::on(Engine::Sqlite).await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    for (user, sentence) in [(DESKTOP, "No app has been crawled yet."), (CHINESE, "尚未抓取任何应用。")]
    {
        browser.open(&dashboard.url(), user).await;
        browser.wait_until(&format!("document.body.innerText.includes('{sentence}')")).await;
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_page_of_an_app_is_complete_in_both_languages_both_colour_schemes_and_all_widths() {
    let (_harness, dashboard) = serve_withheld_deletions().await;
    let mut browser = Browser::start().await;
    for user in [
        DESKTOP,
        UserProfile { dark: true, ..DESKTOP },
        PHONE,
        UserProfile { dark: true, ..PHONE },
        CHINESE,
        UserProfile { language: "zh-CN", ..PHONE },
    ] {
        browser.open(&dashboard.url(), user).await;
        browser.wait_until(LOADED).await;
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
        let text = browser.text().await;
        let expected = match user.language {
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
            assert!(text.contains(sentence), "{user:?}: no {sentence:?} in\n{text}");
        }
        assert!(text.contains("tim-group-sync approve --crawl 4"), "the command that approves the deletions");
        assert_eq!(browser.eval("document.querySelectorAll('canvas').length").await, 2);
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn fifty_apps_are_a_list_and_each_has_its_page() {
    let harness = DaemonHarness::new().await;
    let fifty = FiftyApps::start(&harness, |number, spec, _| spec.wrong_key = number == 49).await;
    let dashboard = Dashboard::for_daemon(&harness.store, fifty.daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    for user in [DESKTOP, PHONE] {
        browser.open(&dashboard.url(), user).await;
        browser.wait_until("document.querySelectorAll('.apps tbody tr').length === 50").await;
        let text = browser.text().await;
        assert!(text.contains("1 of 50 apps needs attention"), "{text}");
        assert!(text.contains("Total of 50 apps") && text.contains("Needs attention (1)"), "{text}");
        assert!(text.contains("app-49: the API refuses its credentials"), "{text}");
        let first = browser.eval("document.querySelector('.apps tbody tr a').textContent").await;
        assert_eq!(first, "app-49", "the app that needs attention comes first");
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
        filter_and_sort(&mut browser).await;
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

/// `cargo bench --bench scrape -- --browser` measures how long this takes.
#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_list_of_fifty_apps_shows_the_last_24_crawls_of_each() {
    let harness = DaemonHarness::new().await;
    let mut fifty = FiftyApps::start(&harness, |_, _, _| ()).await;
    for _ in 1..24 {
        fifty.crawl_all().await;
    }
    let dashboard = Dashboard::for_daemon(&harness.store, fifty.daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelectorAll('.apps tbody .cell.complete').length === 1200").await;
    browser.assert_clean(&dashboard).await;
}

/// Filters the list of fifty apps by name and by attention, and sorts it.
async fn filter_and_sort(browser: &mut Browser) {
    const NAMES: &str = "[...document.querySelectorAll('.apps tbody tr a')].map((one) => one.textContent)";
    let choose = "window.choose = (selector, value, event) => {
        const field = document.querySelector(selector);
        field.value = value;
        field.dispatchEvent(new Event(event));
    }";
    browser.eval(&format!("{choose}; document.querySelector('#filter').focus()")).await;
    browser.write("APP-1").await;
    browser.wait_until(&format!("{NAMES}.length === 10")).await;
    assert!(browser.text().await.contains("Total of 10 apps"));
    assert_eq!(
        browser.eval("document.querySelector('#announcement').textContent").await,
        "10 of 50 apps shown"
    );
    browser.click(".controls button").await;
    browser.wait_until("document.body.innerText.includes('No app matches the filter.')").await;
    browser.eval("choose('#filter', '', 'input')").await;
    browser.wait_until(&format!("{NAMES}.join() === 'app-49'")).await;
    browser.click(".controls button").await;
    browser.eval("choose('#order', 'name', 'change')").await;
    browser.wait_until(&format!("{NAMES}.length === 50 && {NAMES}[0] === 'app-00'")).await;
    browser.eval("choose('#order', 'condition', 'change')").await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_withheld_box_shows_the_share_the_types_and_the_ids() {
    let (_harness, dashboard) = serve_withheld_deletions().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until(LOADED).await;
    let text = browser.text().await;
    for fact in
        ["Still withheld\n3 of 3", "Confirmed to be gone\n3 of 3", "3 of 6 live groups of type Public"]
    {
        assert!(text.contains(fact), "no {fact:?} in\n{text}");
    }
    browser.click(".alert .ids summary").await;
    browser.wait_until("document.querySelectorAll('.alert .ids li').length === 3").await;
    let ids =
        browser.eval("[...document.querySelectorAll('.alert .ids a')].map((one) => one.textContent)").await;
    assert_eq!(ids, json!(["d", "e", "f"]));
    browser.assert_accessible().await;
    browser.click(".alert .ids a").await;
    browser.wait_until("document.querySelector('.group h3 .id')?.textContent === 'd'").await;
    browser.open(&dashboard.url(), CHINESE).await;
    browser.wait_until(LOADED).await;
    let text = browser.text().await;
    for sentence in ["超出了 [deletion] 设定的上限", "陌生人社交群(Public)：6 个存续群组中的 3 个"]
    {
        assert!(text.contains(sentence), "no {sentence:?} in\n{text}");
    }
    browser.assert_clean(&dashboard).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn only_groups_whose_existence_is_not_confirmed_are_missing() {
    let harness = Harness::on(Engine::Sqlite).await;
    harness.create("Public", "a b c d");
    harness.crawl().await;
    // `get_group_info` fails for one group that the lists lack, and confirms the other.
    harness.dissolve("a");
    harness.api.hide(&["b"]);
    harness.api.script(At::Info, Fault::GroupCode("a".to_owned(), 10002));
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    for (user, tile) in [
        (DESKTOP, "Missing\n1\nof 4 live groups\nnot in complete lists, existence not confirmed"),
        (CHINESE, "缺失\n1\n属于 4 个存续群组\n完整列表未列出，且接口未确认其存在"),
    ] {
        browser.open(&dashboard.url(), user).await;
        browser.wait_until("document.querySelector('.tiles dd') && document.querySelector('canvas')").await;
        let text = browser.text().await;
        assert!(text.contains(tile), "no {tile:?} in\n{text}");
        browser.assert_clean(&dashboard).await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn many_withheld_groups_have_pages() {
    let mut harness = Harness::on(Engine::Sqlite).await;
    harness.api.create_many("Public", 100);
    harness.crawl().await;
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.api.dissolve_some(45);
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelector('.alert .ids summary')").await;
    browser.click(".alert .ids summary").await;
    for (shown, left) in [(20, "Show more (25 left)"), (40, "Show more (5 left)")] {
        browser.wait_until(&format!("document.querySelectorAll('.alert .ids li').length === {shown}")).await;
        assert_eq!(browser.eval("document.querySelector('.alert .ids button').textContent").await, left);
        browser.click(".alert .ids button").await;
    }
    browser.wait_until("document.querySelectorAll('.alert .ids li').length === 45").await;
    assert_eq!(browser.eval("document.querySelector('.alert .ids button')").await, json!(null));
    browser.assert_clean(&dashboard).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn figures_have_their_changes_and_the_crawls_are_a_bar_with_a_text() {
    let harness = Harness::on(Engine::Sqlite).await;
    harness.create("Public", "a b c d");
    harness.create("Private", "p");
    harness.crawl().await;
    harness.move_clock_by_hours(6 * 24);
    harness.fault_from_request(1, Fault::ErrorCode(70009));
    harness.crawl().await;
    harness.api.clear_faults();
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.dissolve("a");
    harness.create("Private", "q r s");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until(LOADED).await;
    let text = browser.text().await;
    for figure in [
        "Live groups\n7\n+2 since yesterday · +2 since last week",
        "TotalCount\n7\nthe last crawl listed all of them\n+2 since yesterday",
        "Deleted\n1\nvanished: 1 since yesterday",
        "Peak of the month\n7\nthe greatest TotalCount",
    ] {
        assert!(text.contains(figure), "no {figure:?} in\n{text}");
    }
    let row = "[...document.querySelectorAll('.types tbody tr')].find((row) => row.textContent.startsWith('Private'))";
    let cells = browser.eval(&format!("[...{row}.cells].slice(1, 6).map((cell) => cell.textContent)")).await;
    assert_eq!(
        cells,
        json!(["4", "+3", "+3", "0", "4"]),
        "live, since yesterday, since last week, missing, TotalCount"
    );
    let bar = "document.querySelector('.past .cells[role=img]')";
    assert_eq!(
        browser.eval(&format!("{bar}.ariaLabel")).await,
        "The last 4 crawls: 3 complete, 1 failed. The newest: complete."
    );
    let heights = browser
        .eval(&format!(
            "[...{bar}.querySelectorAll('[title]')].map((cell) => cell.getBoundingClientRect().height)"
        ))
        .await;
    assert_eq!(heights, json!([12, 24, 12, 12]), "the failed crawl is the tallest cell");
    // The lines of the total and of TotalCount are in the key of the chart, with their values.
    let key = browser
        .eval("[...document.querySelectorAll('.chart .key')][0].innerText.replace(/\\s+/g, ' ')")
        .await;
    assert!(key.as_str().unwrap().contains("All types 7 TotalCount 7"), "{key}");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_charts_of_the_first_day_show_that_day() {
    let harness = Harness::on(Engine::Sqlite).await;
    harness.create("Public", "a b");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    // The labels are drawn, so the test reads the texts that the page draws.
    let spy = "(() => {
        window.drawn = [];
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) { window.drawn.push(text); draw.call(this, text, ...rest); };
    })()";
    let label = |text: &str| text.chars().any(|one| one == ':') || text.ends_with("Mar");
    for _ in 0..2 {
        browser.open(&dashboard.url(), DESKTOP).await;
        browser.wait_until("document.querySelector('canvas')").await;
        browser.eval(spy).await;
        for (range, expected) in [("30", "1 Mar"), ("crawls", ":00")] {
            browser.eval("window.drawn = []; true").await;
            browser.click(&format!(".ranges [data-range='{range}']")).await;
            browser.wait_until("window.drawn.length > 0 && document.querySelector('canvas')").await;
            let drawn = browser.eval("window.drawn").await;
            let labels: Vec<&str> = drawn
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|one| one.as_str())
                .filter(|one| label(one))
                .collect();
            assert!(labels.iter().any(|one| one.ends_with(expected)), "{range}: {drawn}");
            assert!(!drawn.to_string().contains("202"), "{range}: no label is a year: {drawn}");
        }
        harness.create("Public", "c");
        harness.crawl().await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_search_shows_how_many_groups_follow_and_loads_them() {
    let harness = Harness::on(Engine::Sqlite).await;
    for number in 0..50 {
        harness.api.create("Public", &format!("x{number:02}"));
    }
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelector('canvas')").await;
    browser.eval("document.querySelector('#search').focus()").await;
    browser.write("x").await;
    browser.press("Enter").await;
    browser.wait_until("document.querySelectorAll('.found li').length === 20").await;
    let text = browser.text().await;
    assert!(text.contains("50 groups with an id that starts with x"), "{text}");
    assert!(text.contains("x00 Public live"), "each match has its type and its state: {text}");
    assert_eq!(
        browser.eval("document.querySelector('#more-matches').textContent").await,
        "Show more (30 left)"
    );
    browser.click("#more-matches").await;
    browser.wait_until("document.querySelectorAll('.found li').length === 40").await;
    browser.click("#more-matches").await;
    browser.wait_until("document.querySelectorAll('.found li').length === 50").await;
    assert_eq!(browser.eval("document.querySelector('#more-matches')").await, json!(null));
    browser.assert_clean(&dashboard).await;
    browser.assert_accessible().await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn before_the_first_crawl_the_page_explains_what_will_appear_and_when() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser
        .wait_until(
            "['crawls', 'group_events', 'charts'].every((list) => document.querySelector(`.${list} .empty`))",
        )
        .await;
    let text = browser.text().await;
    for sentence in [
        "0 of 1 app up to date",
        "not crawled yet",
        "No counts yet. The first crawl that reaches its end adds them. Next crawl:",
        "No crawl yet. Each crawl adds a row when it starts. Next crawl:",
        "No events yet. The groups of a type's first list are not events; later changes are. Next crawl:",
    ] {
        assert!(text.contains(sentence), "no {sentence:?} in\n{text}");
    }
    browser.assert_clean(&dashboard).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_retrying_app_and_a_late_app_need_attention() {
    let harness = DaemonHarness::new().await;
    let daemon = harness.start_crawled().await;
    let earlier_requests = harness.api.requests().len() as u64;
    harness.api.script(At::Every, Fault::Status(503));
    let fourth = harness.api.hold(At::Request(earlier_requests + 4));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    fourth.reached().await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelector('.head .pill.warn')?.textContent === 'retrying'").await;
    let text = browser.text().await;
    assert!(text.contains("1 of 1 app needs attention"), "{text}");
    assert!(
        text.contains(
            "prod: a request has failed 3 times and is retried\n\nthe API at 127.0.0.1 answered with HTTP status 503"
        ),
        "{text}"
    );
    harness.set_clock("12:30:00");
    browser.wait_until("document.querySelector('.head .pill.alarm')?.textContent === 'late'").await;
    let text = browser.text().await;
    assert!(
        text.contains(
            "prod: the counts are out of date\n\nNo crawl was complete for 4 ticks of the schedule."
        ),
        "{text}"
    );
    browser.assert_clean(&dashboard).await;
    browser.assert_accessible().await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_quota_that_is_near_needs_attention() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&AppSpec { catch_up: true, group_quota: Some(6), ..PROD });
    daemon.wait_for_crawls(1).await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(), DESKTOP).await;
    browser.wait_until("document.querySelector('.tiles meter')").await;
    let text = browser.text().await;
    for sentence in [
        "prod: 83% of the group quota is used",
        "The month's peak is 5 groups, the quota 6.",
        "Peak of the month\n5\n83% of the quota of 6",
    ] {
        assert!(text.contains(sentence), "no {sentence:?} in\n{text}");
    }
    browser.assert_accessible().await;
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
    let earlier_requests = harness.api.requests().len() as u64;
    let third = harness.api.hold(At::Request(earlier_requests + 3));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    third.reached().await;
    browser
        .wait_until("document.querySelector('.running .doing')?.textContent.startsWith('listing Public')")
        .await;
    let before = browser.eval("document.querySelector('progress').value").await.as_f64().unwrap();
    let sixth = harness.api.hold(At::Request(earlier_requests + 6));
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
            "the history of {id}"
        );
        browser.click(".group .close").await;
        browser.wait_until("!document.querySelector('.group')").await;
    }
    // The page of a group can be opened by its URL, as from a bookmark.
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
    let (_harness, dashboard) = serve_withheld_deletions().await;
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
        assert_ne!(focus[2], "none", "{focus} has no visible focus");
        reached.push(focus[1].as_str().unwrap().to_owned());
    }
    for name_of_control in ["Close", "Last crawls", "30 days", "Show as a table"] {
        assert!(
            reached.iter().any(|name| name == name_of_control),
            "{name_of_control} cannot be reached by keyboard: {reached:?}"
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
    let (harness, dashboard) = serve_withheld_deletions().await;
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
