//! A property of the change feed: a reader that keeps one cursor for each app reads every event
//! exactly once. Two apps share a database, two replicas crawl them, crawls are killed, deletions
//! are approved and undone, and the database is replaced by an earlier copy of it.

use std::collections::BTreeSet;

use harness::crawl::{Engine, Harness, ON_COMMAND};
use harness::store::TestDatabase;
use harness::{campaign, crawl_tests};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::crawl::{Crawler, WhenBusy};
use tim_group_sync::model::{CrawlId, LocalDay, SdkAppId};
use tim_group_sync::simulator::{At, Settings, Simulator};
use tim_group_sync::store::{AppIdentity, Approval, DatabaseLocation, EventsAfter, Store};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    a_reader_with_one_cursor_for_each_app_reads_every_event_exactly_once,
}

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const STEPS: usize = 40;

/// A reader of the events of one app.
#[derive(Default)]
struct Reader {
    last: i64,
    read: BTreeSet<i64>,
}

struct App {
    identity: AppIdentity,
    api: Simulator,
    reader: Reader,
}

struct History {
    harness: Harness,
    apps: [App; 2],
    replica: Store,
    /// An earlier copy of the database.
    copy: Option<TestDatabase>,
    rng: StdRng,
}

impl App {
    async fn new(harness: &Harness, sdk_app_id: i64, name: &str) -> Self {
        let sdk_app_id = SdkAppId::new(sdk_app_id).unwrap();
        let settings = Settings { sdk_app_id, clock: harness.clock.clone(), ..Settings::default() };
        Self {
            identity: AppIdentity { sdk_app_id, name: name.to_owned() },
            api: Simulator::start(settings).await.unwrap(),
            reader: Reader::default(),
        }
    }

    /// Reads all new events, a few at a time. Asserts that none is read twice and none is missed.
    async fn read(&mut self, harness: &Harness, rng: &mut StdRng) {
        let Some(app) = harness.store.find_app(self.identity.sdk_app_id).await.unwrap() else { return };
        loop {
            let limit = rng.random_range(1..4);
            let EventsAfter::Events(events) =
                harness.store.events_after(app, self.reader.last, limit).await.unwrap()
            else {
                panic!("no events were removed")
            };
            for event in &events {
                assert!(event.event_id > self.reader.last);
                self.reader.last = event.event_id;
                self.reader.read.insert(event.event_id);
            }
            if events.is_empty() {
                break;
            }
        }
        let sdk_app_id = self.identity.sdk_app_id;
        let all =
            format!("SELECT event_id FROM group_events WHERE sdk_app_id = {sdk_app_id} ORDER BY event_id");
        for id in harness.lines(&all).await {
            assert!(self.reader.read.contains(&id.parse().unwrap()), "the reader missed the event {id}");
        }
    }
}

impl History {
    async fn new(engine: Engine, seed: u64) -> Self {
        let harness = Harness::on(engine).await;
        let apps =
            [App::new(&harness, 1_400_000_001, "one").await, App::new(&harness, 1_400_000_002, "two").await];
        let replica = harness.db.open_another_store().await;
        Self { harness, apps, replica, copy: None, rng: StdRng::seed_from_u64(seed) }
    }

    /// Returns a crawler of an app, on a replica chosen at random.
    fn crawler(&mut self, app: usize) -> Crawler {
        self.harness.deletion.review = self.rng.random_bool(0.3);
        let App { identity, api, .. } = &self.apps[app];
        let store = if self.rng.random_bool(0.5) { &self.harness.store } else { &self.replica };
        self.harness.crawler_of(identity.clone(), api, store)
    }

    async fn step(&mut self) {
        let app = self.rng.random_range(0..2);
        match self.rng.random_range(0..12) {
            0..4 => self.change(app),
            4 | 5 => crawl(&self.crawler(app)).await,
            6 => Box::pin(self.crawl_both(app)).await,
            7 => self.kill(app).await,
            8 => self.approve(app).await,
            9 => self.undelete(app).await,
            10 => self.copy().await,
            _ => self.restore().await,
        }
        for app in &mut self.apps {
            app.read(&self.harness, &mut self.rng).await;
        }
    }

    /// Creates and dissolves groups of an app at random.
    fn change(&mut self, app: usize) {
        let api = &self.apps[app].api;
        for id in IDS {
            match self.rng.random_range(0..4) {
                0 => api.create(["Public", "Private"].choose(&mut self.rng).unwrap(), id),
                1 => {
                    api.dissolve(id);
                }
                _ => {}
            }
        }
    }

    /// Crawls one app while the crawl of the other one has written rows and is still running. So
    /// the events of the slower crawl have smaller ids and become visible later.
    async fn crawl_both(&mut self, slow: usize) {
        let (slow_crawler, fast_crawler) = (self.crawler(slow), self.crawler(1 - slow));
        let requests = self.apps[slow].api.requests().len() as u64;
        let held = self.apps[slow].api.hold(At::Request(requests + self.rng.random_range(3..6)));
        let fast = async {
            held.reached().await;
            crawl(&fast_crawler).await;
            for app in &mut self.apps {
                app.read(&self.harness, &mut self.rng).await;
            }
            drop(held);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = crawl(&slow_crawler) => {}
            () = fast => {}
        }
    }

    /// Crawls one app, and drops the crawl at a request, as if its process were killed.
    async fn kill(&mut self, app: usize) {
        let crawler = self.crawler(app);
        let requests = self.apps[app].api.requests().len() as u64;
        let held = self.apps[app].api.hold(At::Request(requests + self.rng.random_range(2..6)));
        tokio::select! {
            () = crawl(&crawler) => {}
            () = held.reached() => {}
        }
        drop(crawler);
        self.harness.db.expire_leases().await;
    }

    /// Returns the newest crawl of an app that meets a condition in SQL.
    async fn newest(&self, app: usize, condition: &str) -> Option<CrawlId> {
        let sdk_app_id = self.apps[app].identity.sdk_app_id;
        let sql = format!(
            "SELECT crawl_id FROM crawls WHERE sdk_app_id = {sdk_app_id} AND {condition} ORDER BY crawl_id DESC LIMIT 1"
        );
        self.harness.lines(&sql).await.first().map(|id| CrawlId(id.parse().unwrap()))
    }

    async fn approve(&mut self, app: usize) {
        let Some(crawl) = self.newest(app, "withheld > 0").await else { return };
        let (store, now) = (&self.harness.store, self.harness.clock.now());
        let held = store.crawl_deletions(crawl).await.unwrap().unwrap();
        let lease = store.try_lease(self.apps[app].identity.sdk_app_id).await.unwrap().unwrap();
        let today = LocalDay::new(now, self.harness.timezone);
        store.approve(&lease, &held, (crawl, Approval::All), now, today).await.unwrap();
        lease.release_unused().await;
    }

    async fn undelete(&mut self, app: usize) {
        let Some(crawl) = self.newest(app, "vanished > undeleted").await else { return };
        let (store, now) = (&self.replica, self.harness.clock.now());
        let held = store.crawl_deletions(crawl).await.unwrap().unwrap();
        let lease = store.try_lease(self.apps[app].identity.sdk_app_id).await.unwrap().unwrap();
        store.undelete(&lease, &held, crawl, now, LocalDay::new(now, self.harness.timezone)).await.unwrap();
        lease.release_unused().await;
    }

    /// Copies the database.
    async fn copy(&mut self) {
        let copy = self.harness.db.empty_like().await;
        if let DatabaseLocation::Sqlite(file) = copy.store_location() {
            // A file is copied only to a path that does not exist.
            copy.store.close().await;
            for name in std::fs::read_dir(file.parent().unwrap()).unwrap() {
                std::fs::remove_file(name.unwrap().path()).unwrap();
            }
        }
        self.harness.store.copy_to(&copy.store_location(), |_| ()).await.unwrap();
        self.copy = Some(copy);
    }

    /// Replaces the database by its earlier copy. The rows written since then are lost.
    async fn restore(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        self.harness.store = copy.open_another_store().await;
        self.harness.store.move_ids_past_rows().await.unwrap();
        self.replica = copy.open_another_store().await;
        self.harness.db = copy;
    }
}

async fn crawl(crawler: &Crawler) {
    crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
}

async fn a_reader_with_one_cursor_for_each_app_reads_every_event_exactly_once(harness: Harness) {
    let histories = campaign::number("FEED_HISTORIES", 6, 2);
    let mut events = 0;
    for seed in 0..histories {
        let mut history = History::new(harness.engine, seed).await;
        for _ in 0..STEPS {
            history.harness.move_clock_by_hours(1);
            Box::pin(history.step()).await;
        }
        events += history.apps.iter().map(|app| app.reader.read.len() as u64).sum::<u64>();
    }
    assert!(events > 6 * histories, "only {events} events were read");
}
