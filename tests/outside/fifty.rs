//! A daemon with fifty apps, `app-00` to `app-49`, each with its simulated API.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::daemon::{self, AppSpec, Daemon, DaemonHarness, PROD};
use tim_group_sync::alarm::ManualTrigger;
use tim_group_sync::daemon::{Apps, Phase};
use tim_group_sync::lifecycle::Signal;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::simulator::{Settings, Simulator};

/// A running daemon and the simulated APIs of its apps.
pub(crate) struct FiftyApps {
    pub(crate) daemon: Daemon,
    pub(crate) apis: Vec<Simulator>,
    /// The alarms of all apps but `app-00`.
    pub(crate) triggers: BTreeMap<String, ManualTrigger>,
}

impl FiftyApps {
    /// Starts the daemon. `prepare` changes the settings and the API of the app with this number.
    /// Waits until every app with `catch_up` has been crawled.
    pub(crate) async fn start(
        harness: &DaemonHarness,
        prepare: impl Fn(usize, &mut AppSpec, &Simulator),
    ) -> Self {
        let (mut apis, mut plans) = (Vec::new(), Vec::new());
        // `start_all` takes an array. So the daemon starts with one app, whose plan is created
        // twice, and then gets the plans of all apps.
        let (mut first, mut catching_up) = (None, Vec::new());
        for (number, sdk_app_id) in (0..50).zip(1_400_000_100..) {
            let app: &'static str = Box::leak(format!("app-{number:02}").into_boxed_str());
            let settings = Settings {
                sdk_app_id: SdkAppId::new(sdk_app_id).unwrap(),
                clock: harness.clock.clone(),
                ..Settings::default()
            };
            let api = Simulator::start(settings).await.unwrap();
            api.create_many("Public", 3);
            let mut spec = AppSpec { app, sdk_app_id, catch_up: true, ..PROD };
            prepare(number, &mut spec, &api);
            if spec.catch_up {
                catching_up.push(app);
            }
            first.get_or_insert_with(|| harness.plan(&api, &spec));
            plans.push(harness.plan(&api, &spec));
            apis.push(api);
        }
        let [daemon] = harness.start_all([("app-00", plans.remove(0))]);
        plans.insert(0, first.unwrap());
        let triggers = daemon::apply(&daemon.handle, plans);
        let mut fifty = Self { daemon, apis, triggers };
        let crawled = |apps: &Apps, app: &str| {
            apps.get(app).is_some_and(|app| matches!(app.phase, Phase::Waiting) && app.last_report.is_some())
        };
        fifty.wait_for(|apps| catching_up.iter().all(|app| crawled(apps, app))).await;
        fifty
    }

    pub(crate) async fn wait_for(&mut self, condition: impl FnMut(&Apps) -> bool) {
        let waiting = self.daemon.apps.wait_for(condition);
        tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap().unwrap();
    }

    /// Crawls every app once more.
    pub(crate) async fn crawl_all(&mut self) {
        let last_crawl = |apps: &Apps| {
            apps.values().filter_map(|app| Some(app.last_report.as_ref()?.crawl.0)).max().unwrap_or_default()
        };
        let before = last_crawl(&self.daemon.apps.borrow());
        self.daemon.lifecycle.signal(Signal::CrawlNow);
        self.wait_for(|apps| {
            apps.values().all(|app| {
                let report = app.last_report.as_ref();
                matches!(app.phase, Phase::Waiting) && report.is_some_and(|report| report.crawl.0 > before)
            })
        })
        .await;
    }
}
