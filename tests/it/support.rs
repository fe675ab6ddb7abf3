//! A simulated API, a database and a crawler between them.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlReport, CrawlSettings, Crawler, GuardPolicy, Occasion, WhenBusy};
use tim_group_sync::model::{GroupType, Trigger};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::simulator::{Settings, Simulator};
use tim_group_sync::store::{AppIdentity, DatabaseUrl, Store};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

/// When the standing clock of a test starts.
pub fn start_of_test() -> DateTime<Utc> {
    "2026-03-01T08:00:00Z".parse().unwrap()
}

/// One app with its simulated API and its own database.
pub struct World {
    pub api: Simulator,
    pub store: Store,
    pub clock: Clock,
    pub group_types: Vec<GroupType>,
    pub max_shortfall: f64,
    pub page_limit: u32,
    folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let clock = Clock::standing_at(start_of_test());
        let api = Simulator::start(Settings { clock: clock.clone(), ..settings }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::Sqlite(folder.path().join("groups.db"))).await.unwrap();
        store.migrate().await.unwrap();
        let group_types = ["Public", "Private"].map(|name| GroupType::new(name).unwrap()).to_vec();
        Self { api, store, clock, group_types, max_shortfall: 0.0, page_limit: 3, folder }
    }

    pub fn crawler(&self) -> Crawler {
        let settings = Settings::default();
        let client = Client::new(ClientSettings {
            sdk_app_id: settings.sdk_app_id,
            identifier: settings.identifier,
            secret_key: settings.secret_key,
            base_url: Url::parse(&self.api.base_url()).unwrap(),
            place: "china".to_owned(),
            request_timeout: Duration::from_secs(5),
            clock: self.clock.clone(),
        });
        let crawl_settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id: settings.sdk_app_id, name: "prod".to_owned() },
            group_types: self.group_types.clone(),
            page_limit: self.page_limit,
            request_interval: Duration::ZERO,
            retry: RetryPolicy {
                first_pause: Duration::from_millis(1),
                longest_pause: Duration::from_millis(2),
                retry_for: Duration::from_secs(1),
            },
            max_shortfall: self.max_shortfall,
            guard: GuardPolicy { max_fraction: 1.0, ..GuardPolicy::default() },
            timezone: chrono_tz::UTC,
            host: "test".to_owned(),
        };
        Crawler::new(crawl_settings, client.unwrap(), self.store.clone(), self.clock.clone())
    }

    /// One crawl, an hour after the one before.
    pub async fn crawl(&self) -> CrawlReport {
        self.clock.set(self.clock.now() + Duration::from_hours(1));
        let occasion = Occasion { trigger: Trigger::Command, due_at: None };
        self.crawler().crawl(occasion, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("groups.db")
    }
}
