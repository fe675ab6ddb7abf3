//! Random faults between two replicas and their server: silent and closed connections, frozen
//! processes and dead hosts. All limits are a tenth of the real ones.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::campaign;
use harness::crawl::{Engine, Harness, ON_COMMAND};
use harness::network::{ConnectionState, Cut, Network};
use harness::postgres::PostgresServer;
use harness::store::{Location, TestDatabase};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::store::{DatabaseLocation, Limits, PostgresDatabase, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cuts::{LIMITS_DIVISOR, MAX_RECOVERY};

/// Pause between two crawls of a replica. It exceeds the polling interval of a process that waits
/// for a lease, so that both replicas crawl.
const BETWEEN_CRAWLS: Duration = Duration::from_millis(400);

/// A replica of the service, with a thread and a runtime in place of a process. It crawls
/// repeatedly, and pauses after a failure as the daemon does.
struct Replica {
    network: Network,
    /// Each message blocks the thread for this time.
    freeze_requests: mpsc::UnboundedSender<Duration>,
    /// Requests an orderly stop.
    stop: CancellationToken,
    /// Drops the running crawl, as if the host had died.
    ended: CancellationToken,
    /// When the last complete crawl ended.
    completed: watch::Receiver<Instant>,
    thread: thread::JoinHandle<()>,
}

impl Replica {
    fn start(harness: &Arc<Harness>, server: &Path) -> Self {
        let network = Network::in_front_of(server);
        let Location::Postgres(database) = &harness.db.location else { panic!("this test needs PostgreSQL") };
        let url = DatabaseLocation::Postgres(
            PostgresDatabase::new(&database.url_through(&network)).unwrap().limits(database.limits),
        );
        let (freeze_requests, mut to_freeze) = mpsc::unbounded_channel();
        let (completing, completed) = watch::channel(Instant::now());
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (harness, stopped, dead) = (Arc::clone(harness), stop.clone(), ended.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(async move {
                    while let Some(time) = to_freeze.recv().await {
                        thread::sleep(time);
                    }
                });
                tokio::select! {
                    biased;
                    () = dead.cancelled() => {}
                    () = crawl_until_stopped(&harness, &url, &stopped, &completing) => {}
                }
            });
        });
        Self { network, freeze_requests, stop, ended, completed, thread }
    }

    /// Blocks the replica's thread for this time.
    fn freeze(&self, time: Duration) {
        self.freeze_requests.send(time).unwrap();
    }

    /// Ends the replica without notice to its server. Returns the network, which keeps the silent
    /// connections open.
    async fn end_without_notice(self) -> Network {
        self.network.cut(Cut::All, ConnectionState::Silent);
        self.ended.cancel();
        let thread = self.thread;
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
        self.network
    }

    /// Waits for the next complete crawl, and returns the time until its end.
    async fn wait_for_complete_crawl(&self) -> Duration {
        let since = Instant::now();
        self.completed.clone().wait_for(|at| *at > since).await.unwrap();
        since.elapsed()
    }

    /// Stops the replica as SIGTERM does.
    async fn stop(self) {
        self.stop.cancel();
        let thread = self.thread;
        let ending = tokio::task::spawn_blocking(move || thread.join().unwrap());
        timeout(Duration::from_secs(5), ending).await.expect("a stop takes longer than 5 s").unwrap();
    }
}

async fn crawl_until_stopped(
    harness: &Harness,
    url: &DatabaseLocation,
    stop: &CancellationToken,
    completing: &watch::Sender<Instant>,
) {
    let mut failures = 0;
    let mut crawler = None;
    while !stop.is_cancelled() {
        if crawler.is_none() {
            crawler = Store::open(url).await.ok().map(|store| harness.crawler_on(&store));
        }
        let crawled = match &crawler {
            Some(crawler) => crawler.crawl(ON_COMMAND, WhenBusy::Wait, stop).await.ok(),
            None => None,
        };
        let pause = if crawled.is_some_and(|report| report.status == CrawlStatus::Complete) {
            completing.send_replace(Instant::now());
            failures = 0;
            BETWEEN_CRAWLS
        } else {
            failures = (failures + 1).min(3);
            Duration::from_secs(5) / LIMITS_DIVISOR * 2u32.pow(failures - 1)
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

/// A fault of one of two replicas, or of both.
#[derive(Clone, Copy, Debug)]
enum ReplicaFault {
    /// Cuts connections of one replica.
    Cut(Cut, ConnectionState),
    /// Cuts all connections of both replicas.
    CutOfBoth(ConnectionState),
    /// Cuts one connection at this statement of a transaction that writes, see [`Network::cut_at`].
    CutAt(&'static str, bool, ConnectionState),
    /// Blocks the thread of one replica, as SIGSTOP does.
    Frozen,
    /// Ends one replica without notice to the server.
    DeadHost,
}

/// Statements at which a connection may be cut.
const STATEMENTS: [&str; 5] =
    ["BEGIN", "INSERT INTO group_row", "UPDATE group_row", "UPDATE lease", "COMMIT\0"];

impl ReplicaFault {
    fn random(rng: &mut StdRng) -> Self {
        let state = if rng.random_bool(0.7) { ConnectionState::Silent } else { ConnectionState::Closed };
        match rng.random_range(0..8) {
            0 => Self::Cut(Cut::Newest, state),
            1 => Self::Cut(Cut::EverySecond, state),
            2 => Self::Cut(Cut::All, state),
            3 => Self::CutOfBoth(state),
            4 | 5 => {
                Self::CutAt(STATEMENTS[rng.random_range(0..STATEMENTS.len())], rng.random_bool(0.5), state)
            }
            6 => Self::Frozen,
            _ => Self::DeadHost,
        }
    }
}

/// Crawls one app with two replicas while its groups change and a fault happens. Returns the
/// longest time that a replica with a working network needed for a complete crawl.
#[expect(clippy::print_stdout, reason = "the seed reproduces a failure")]
async fn assert_survival(seed: u64, server: &Path) -> Duration {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut database = PostgresServer::shared().await.database().await;
    database.limits = Limits::default().divided_by(LIMITS_DIVISOR);
    let mut harness =
        Harness::with_database(TestDatabase::on_postgres(database).await, Engine::Postgres).await;
    harness.request_interval = Duration::from_millis(3);
    harness.api.create_many("Public", 12);
    harness.create("Private", "a b c");
    harness.crawl().await;
    harness.prepare_crawl();
    let harness = Arc::new(harness);
    let (mut one, other) = (Replica::start(&harness, server), Replica::start(&harness, server));
    tokio::join!(one.wait_for_complete_crawl(), other.wait_for_complete_crawl());

    let fault = ReplicaFault::random(&mut rng);
    let duration = Duration::from_millis(rng.random_range(50..5_000));
    println!("seed {seed}: {fault:?} for {duration:?}");
    harness.create("Public", &format!("new{seed}"));
    harness.api.dissolve_some(1);
    sleep(Duration::from_millis(rng.random_range(0..200))).await;
    let (mut longest, mut dead) = (Duration::ZERO, None);
    match fault {
        ReplicaFault::Cut(which, state) => {
            one.network.cut(which, state);
            // The other replica takes over meanwhile.
            longest = other.wait_for_complete_crawl().await;
            sleep(duration.saturating_sub(longest)).await;
            one.network.restore();
        }
        ReplicaFault::CutOfBoth(state) => {
            one.network.cut(Cut::All, state);
            other.network.cut(Cut::All, state);
            sleep(duration).await;
            one.network.restore();
            other.network.restore();
        }
        ReplicaFault::CutAt(statement, arrives, state) => one.network.cut_at(statement, arrives, state),
        ReplicaFault::Frozen => {
            one.freeze(duration);
            longest = other.wait_for_complete_crawl().await;
            sleep(duration.saturating_sub(longest)).await;
        }
        ReplicaFault::DeadHost => {
            dead = Some(one.end_without_notice().await);
            longest = other.wait_for_complete_crawl().await;
            one = Replica::start(&harness, server);
            harness.create("Public", &format!("after{seed}"));
        }
    }
    let (by_one, by_other) = tokio::join!(one.wait_for_complete_crawl(), other.wait_for_complete_crawl());
    let longest = longest.max(by_one).max(by_other);
    assert!(longest <= MAX_RECOVERY, "seed {seed}: {fault:?} for {duration:?}: no progress for {longest:?}");
    tokio::join!(one.stop(), other.stop());
    drop(dead);
    let stop = CancellationToken::new();
    let last = harness.crawler().crawl(ON_COMMAND, WhenBusy::Wait, &stop).await.unwrap();
    assert_eq!(last.status, CrawlStatus::Complete, "seed {seed}");
    harness.assert_invariants().await;
    harness.assert_table_matches_api().await;
    longest
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn replicas_survive_random_faults_and_make_progress_in_time() {
    let Some(server) = PostgresServer::shared().await.socket_folder() else {
        harness::skip("connections to a named server cannot be cut, because its socket is not known");
        return;
    };
    let (cuts, seed) = (campaign::number("CUTS", 200, 6), campaign::number("CUTS_SEED", 1, 1));
    let mut longest = Duration::ZERO;
    // Four faults run at a time, because they wait most of the time.
    for first in (seed..seed + cuts).step_by(4) {
        let batch = (first..(first + 4).min(seed + cuts)).map(|seed| assert_survival(seed, server));
        longest = futures_util::future::join_all(batch).await.into_iter().fold(longest, Duration::max);
    }
    println!("{cuts} cuts, the longest time without progress was {longest:?}");
}
