//! Crawlers, crawls and dry runs, the approval and the undoing of deletions, and the clock.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use tim_group_sync::crawl::{CrawlReport, CrawlSettings, Crawler, DryRun, WhenBusy};
use tim_group_sync::details::{DetailsRefresher, DetailsSettings};
use tim_group_sync::model::{CrawlId, LocalDay, SdkAppId};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::Simulator;
use tim_group_sync::store::{AppIdentity, Approval, CrawlDeletions, Lease, Store};
use tim_group_sync::tencent::usersig::{Claims, UserSig, sign};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio_util::sync::CancellationToken;

use super::{ExistingGroup, Harness, ON_COMMAND, lock};

impl Harness {
    /// Returns the crawler. As in the daemon, it is replaced only when its settings change.
    pub fn crawler(&self) -> Arc<Crawler> {
        let settings = format!("{:?} {:?}", self.crawl_settings(), self.signature(0).expose());
        let settings = format!(
            "{settings} {:?} {:?} {} {}",
            self.retention,
            self.request_timeout,
            self.statistics,
            self.api.base_url()
        );
        let mut crawler = lock(&self.crawler);
        match &*crawler {
            Some((made_from, crawler)) if *made_from == settings => Arc::clone(crawler),
            _ => Arc::clone(&crawler.insert((settings, Arc::new(self.new_crawler()))).1),
        }
    }

    /// Returns a new crawler, as in another process.
    pub fn new_crawler(&self) -> Crawler {
        self.crawler_on(&self.store)
    }

    /// Makes one crawl into another database.
    pub async fn crawl_into(&self, store: &Store) -> CrawlReport {
        self.prepare_crawl();
        let crawler = self.crawler_on(store);
        store.migrate().await.unwrap();
        crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap()
    }

    /// Returns a new crawler that writes through this store.
    pub fn crawler_on(&self, store: &Store) -> Crawler {
        Crawler::new(self.crawl_settings(), self.client(), store.clone(), self.clock.clone())
            .with_retention(self.retention)
            .with_statistics(self.statistics)
    }

    /// Returns a new crawler of another app, which has its own API. The other settings are the
    /// same.
    pub fn crawler_of(&self, identity: AppIdentity, api: &Simulator, store: &Store) -> Crawler {
        let client = self.client_of(identity.sdk_app_id, api);
        let settings = CrawlSettings { identity, ..self.crawl_settings() };
        Crawler::new(settings, client, store.clone(), self.clock.clone())
    }

    /// Returns a new API client.
    pub fn client(&self) -> Client {
        self.client_of(self.credentials.sdk_app_id, &self.api)
    }

    fn client_of(&self, sdk_app_id: SdkAppId, api: &Simulator) -> Client {
        let client = Client::new(ClientSettings {
            sdk_app_id,
            identifier: self.credentials.identifier.clone(),
            secret_key: self.credentials.secret_key.clone(),
            base_url: Url::parse(&api.base_url()).unwrap(),
            region_hint: "china; the others are singapore and seoul".to_owned(),
            request_timeout: self.request_timeout,
            clock: self.clock.clone(),
        });
        client.unwrap()
    }

    /// Returns a new refresher of the details, as in another process. Requires `details`.
    pub fn details_refresher(&self) -> DetailsRefresher {
        let settings = DetailsSettings {
            sdk_app_id: self.credentials.sdk_app_id,
            app: "prod".to_owned(),
            host: "test".to_owned(),
            policy: self.details.unwrap(),
            retry: self.retry_policy(),
        };
        DetailsRefresher::new(settings, self.client(), self.store.clone(), self.clock.clone())
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(2),
            retry_for: self.retry_for,
        }
    }

    fn crawl_settings(&self) -> CrawlSettings {
        CrawlSettings {
            identity: AppIdentity { sdk_app_id: self.credentials.sdk_app_id, name: "prod".to_owned() },
            group_types: self.group_types.clone(),
            page_limit: self.page_limit,
            request_interval: self.request_interval,
            retry: self.retry_policy(),
            deletion: DeletionPolicy { max_shortfall: self.max_shortfall, ..self.deletion.clone() },
            details: self.details,
            timezone: self.timezone,
            host: "test".to_owned(),
        }
    }

    /// Returns the UserSig that the crawler signs at this Unix time.
    pub fn signature(&self, issued_at: i64) -> UserSig {
        let claims = Claims {
            sdk_app_id: self.credentials.sdk_app_id,
            identifier: self.credentials.identifier.clone(),
            issued_at,
            lifetime: Duration::from_hours(24),
        };
        sign(&claims, &self.credentials.secret_key)
    }

    /// Makes one crawl, an hour after the previous one.
    pub async fn crawl(&self) -> CrawlReport {
        self.crawl_until_cancelled(&CancellationToken::new()).await
    }

    /// Makes one crawl, which `stop` cancels.
    pub async fn crawl_until_cancelled(&self, stop: &CancellationToken) -> CrawlReport {
        self.prepare_crawl();
        let report = self.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, stop).await.unwrap();
        self.assert_invariants().await;
        report
    }

    /// Makes a dry run and checks that it writes nothing. Also returns one line for each group, in
    /// the form of [`Harness::events`] without the crawl.
    pub async fn dry_run(&self) -> (DryRun, Vec<String>) {
        let before = self.every_row().await;
        let dry_run = self.crawler().dry_run(WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
        assert_eq!(self.every_row().await, before, "the dry run wrote to the database");
        let mut lines = Vec::new();
        for change in &dry_run.changes {
            let [old, new] =
                [&change.old_type, &change.new_type].map(|name| name.as_deref().unwrap_or("NULL"));
            let line = |id| format!("{id} {} {old}>{new}", change.kind.as_str());
            lines.extend(change.groups.iter().map(line));
        }
        lines.sort_unstable();
        (dry_run, lines)
    }

    /// Makes a dry run and then a crawl. Checks that the crawl makes exactly the changes that the
    /// dry run predicted.
    pub async fn crawl_after_dry_run(&self) -> CrawlReport {
        let (dry_run, predicted) = self.dry_run().await;
        let missing_before = self.missing().await;
        let report = self.crawl().await;
        let events = format!(
            "SELECT group_id, event, old_type, new_type FROM group_events WHERE crawl_id = {}",
            report.crawl
        );
        let mut made: Vec<String> = self
            .rows(&events)
            .await
            .iter()
            .map(|row| format!("{} {} {}>{}", row[0], row[1], row[2], row[3]))
            .collect();
        made.extend(self.missing().await.into_iter().filter(|line| !missing_before.contains(line)));
        made.sort_unstable();
        let events: Vec<&String> = predicted.iter().filter(|line| !line.contains(" baseline ")).collect();
        assert_eq!(events, made.iter().collect::<Vec<_>>());
        assert_eq!(
            (predicted.len() - events.len()) as u64 + report.events.appeared.unsigned_abs(),
            report.first_listed
        );
        assert_eq!(
            (dry_run.status, dry_run.deletions, dry_run.listed),
            (report.status, report.deletions, report.listed)
        );
        assert_eq!(
            dry_run.reason.map(|reason| reason.code),
            report.reason.as_ref().map(|reason| reason.code)
        );
        report
    }

    /// Returns the missing groups in the form of a dry run's changes.
    async fn missing(&self) -> Vec<String> {
        let sql =
            "SELECT group_id, CASE WHEN held THEN 'withheld' ELSE 'missing' END, group_type FROM live_groups
                   WHERE missing_since IS NOT NULL";
        self.rows(sql).await.iter().map(|row| format!("{} {} {}>NULL", row[0], row[1], row[2])).collect()
    }

    /// Returns every row of every table, except `lease` and `storage`.
    async fn every_row(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for table in [
            "app",
            "group_type",
            "group_row",
            "type_state",
            "crawl",
            "crawl_pass",
            "crawl_change",
            "daily_count",
            "group_event",
            "group_question",
            "app_statistic",
            "past_span",
            "group_detail",
            "detail_range",
            "detail_state",
        ] {
            rows.extend(self.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).await);
        }
        rows
    }

    /// Makes one crawl, which is dropped as if killed when the other future completes first.
    pub async fn crawl_killed_by(&self, kill: impl Future<Output = ()>) -> Option<CrawlReport> {
        self.prepare_crawl();
        let (crawler, stop) = (self.crawler(), CancellationToken::new());
        let report = tokio::select! {
            biased;
            () = kill => None,
            report = crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop) => Some(report.unwrap()),
        };
        if report.is_some() {
            self.assert_invariants().await;
        } else {
            self.db.expire_leases().await;
            self.assert_rows_are_consistent().await;
            self.assert_no_existing_group_was_deleted().await;
        }
        report
    }

    /// Makes two crawls, which two replicas begin at the same time.
    pub async fn crawl_by_two_replicas(&self) {
        self.prepare_crawl();
        let (one, other, stop) = (self.crawler(), self.new_crawler(), CancellationToken::new());
        let crawls = tokio::join!(
            one.crawl(ON_COMMAND, WhenBusy::Wait, &stop),
            other.crawl(ON_COMMAND, WhenBusy::Wait, &stop)
        );
        let ids = (crawls.0.unwrap().crawl, crawls.1.unwrap().crawl);
        assert_ne!(ids.0, ids.1);
        self.assert_invariants().await;
    }

    /// Approves the withheld deletions of a crawl. Returns the number of groups.
    pub async fn approve(&self, crawl: CrawlId) -> u64 {
        let (held, lease, now) = self.prepare_settlement(crawl).await;
        let settled =
            self.store.approve(&lease, &held, (crawl, Approval::All), now, self.today()).await.unwrap();
        lease.release_unused().await;
        self.assert_rows_are_consistent().await;
        settled
    }

    /// Undoes the deletions of a crawl. Returns the number of groups.
    pub async fn undelete(&self, crawl: CrawlId) -> u64 {
        let (held, lease, now) = self.prepare_settlement(crawl).await;
        let settled = self.store.undelete(&lease, &held, crawl, now, self.today()).await.unwrap();
        lease.release_unused().await;
        self.assert_rows_are_consistent().await;
        settled
    }

    async fn prepare_settlement(&self, crawl: CrawlId) -> (CrawlDeletions, Lease, DateTime<Utc>) {
        let held = self.store.crawl_deletions(crawl).await.unwrap().unwrap();
        let lease = self.store.try_lease(self.credentials.sdk_app_id).await.unwrap().unwrap();
        (held, lease, self.clock.now())
    }

    pub(super) fn today(&self) -> LocalDay {
        LocalDay::new(self.clock.now(), self.timezone)
    }

    /// Moves the clock by this many hours, back if the number is negative.
    pub fn move_clock_by_hours(&self, hours: i32) {
        self.latest_time.record(self.clock.now());
        self.clock.set(self.clock.now() + TimeDelta::hours(hours.into()));
        self.latest_time.record(self.clock.now());
    }

    /// Moves the clock during the n-th request from now on.
    pub fn move_clock_during_request(&self, n: u64, hours: i32) {
        let (clock, latest_time) = (self.clock.clone(), self.latest_time.clone());
        self.during_request(n, move |_| {
            latest_time.record(clock.now());
            clock.set(clock.now() + TimeDelta::hours(hours.into()));
            latest_time.record(clock.now());
        });
    }

    /// Advances the clock by an hour and records which groups exist. A test that calls the crawler
    /// itself calls this first.
    pub fn prepare_crawl(&self) {
        self.clock.set(self.clock.now() + Duration::from_hours(1));
        let existing = |group_type| ExistingGroup { group_type, retyped: false };
        let truth = self.api.truth().into_iter();
        let mut api_state = lock(&self.api_state);
        api_state.existing = truth.map(|(id, group_type)| (id, existing(group_type))).collect();
        api_state.compared_revision = None;
    }

    /// Approves all withheld deletions. Fails if one is of an existing group. Returns the number of
    /// groups.
    pub async fn approve_all_withheld(&self) -> u64 {
        let held = self.lines("SELECT group_id FROM live_groups WHERE held ORDER BY group_id").await;
        let truth = self.api.truth();
        assert!(held.iter().all(|id| !truth.contains_key(id)), "an existing group is still held: {held:?}");
        let mut approved = 0;
        for crawl in self.lines("SELECT crawl_id FROM crawls WHERE withheld > 0 ORDER BY crawl_id").await {
            approved += self.approve(CrawlId(crawl.parse().unwrap())).await;
        }
        approved
    }
}
