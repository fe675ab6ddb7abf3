//! A receiver of notifications on this machine, and processes that send to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tim_group_sync::alarm::Alarm;
use tim_group_sync::crawl::Crawler;
use tim_group_sync::daemon::{self, AppPlan, Apps, Database, Phase, WorkersError};
use tim_group_sync::lifecycle::{Ending, Lifecycle, Signal, Systemd};
use tim_group_sync::metrics::Metrics;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::notify::{self, MakeReceiver, Notifications, Timing};
use tim_group_sync::pace::RetryPolicy;
use tim_group_sync::policy::NotificationFormat;
use tim_group_sync::schedule::Schedule;
use tim_group_sync::store::Store;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::crawl::Harness;

/// The secret part of the URLs of a receiver.
pub const TOKEN: &str = "3f6b8a0c-very-secret-token";
/// The secret with which requests are signed.
pub const SECRET: &str = "SEC-a-secret-for-signatures";

/// How the receiver answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An HTTP status with a body.
    Status(u16, String),
    /// Closes the connection without an answer.
    Close,
    /// Answers only once the reply is changed.
    Hold,
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        Self::Status(200, body.to_owned())
    }
}

/// A request that the receiver has received.
#[derive(Clone, Debug)]
pub struct Post {
    /// The path and the query.
    pub target: String,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Whether the answer had a successful HTTP status.
    pub accepted: bool,
}

impl Post {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns event and state of a notification of the format `json`.
    pub fn state(&self) -> String {
        let body = self.json();
        format!("{} {}", body["event"].as_str().unwrap(), body["state"].as_str().unwrap())
    }
}

/// A server that records requests.
pub struct TestReceiver {
    address: std::net::SocketAddr,
    reply: watch::Sender<Reply>,
    posts: watch::Sender<Vec<Post>>,
}

impl TestReceiver {
    /// Starts a receiver that accepts everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reply, posts) = (watch::Sender::new(Reply::ok("ok")), watch::Sender::new(Vec::new()));
        let (replies, recorded) = (reply.clone(), posts.clone());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (reply, posts) = (replies.subscribe(), recorded.clone());
                tokio::spawn(async move { answer(connection, reply, &posts).await });
            }
        });
        Self { address, reply, posts }
    }

    /// Returns a URL of this receiver, which contains [`TOKEN`].
    pub fn url(&self) -> String {
        format!("http://{}/hook/send?access_token={TOKEN}", self.address)
    }

    /// Changes how requests are answered, also those that wait for an answer.
    pub fn reply(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.borrow().clone()
    }

    /// Returns the states of the accepted notifications, in the format `json`.
    pub fn accepted_states(&self) -> Vec<String> {
        self.posts().iter().filter(|post| post.accepted).map(Post::state).collect()
    }

    /// Waits until the receiver has received this number of requests.
    pub async fn wait_for_posts(&self, number: usize) -> Vec<Post> {
        self.wait_until(&format!("{number} requests"), |posts| posts.len() >= number).await
    }

    /// Waits until the receiver has accepted this number of requests. Returns the last one.
    pub async fn wait_for_accepted(&self, number: usize) -> Post {
        let accepted = |posts: &[Post]| posts.iter().filter(|post| post.accepted).count();
        let posts = self.wait_until(&format!("{number} accepted"), |posts| accepted(posts) >= number).await;
        posts.into_iter().rfind(|post| post.accepted).unwrap()
    }

    async fn wait_until(&self, what: &str, condition: impl Fn(&[Post]) -> bool) -> Vec<Post> {
        let mut posts = self.posts.subscribe();
        let waiting = posts.wait_for(|posts| condition(posts));
        let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok();
        assert!(in_time, "timed out waiting for {what}; got {:#?}", self.posts());
        self.posts()
    }

    /// Returns a function that creates the client of this receiver, as the configuration does.
    pub fn client(&self, format: NotificationFormat) -> MakeReceiver {
        let url = self.url();
        Arc::new(move || {
            let secret = format.has_secret().then(|| SECRET.into());
            notify::Receiver::new(&url.as_str().into(), "notify-url", format, secret)
        })
    }
}

async fn answer(connection: TcpStream, mut reply: watch::Receiver<Reply>, posts: &watch::Sender<Vec<Post>>) {
    let mut connection = BufReader::new(connection);
    while let Some(mut post) = read_request(&mut connection).await {
        let is_held = matches!(*reply.borrow(), Reply::Hold);
        if is_held {
            posts.send_modify(|posts| posts.push(post.clone()));
            let _ = reply.wait_for(|reply| !matches!(reply, Reply::Hold)).await;
            posts.send_modify(|posts| {
                posts.pop();
            });
        }
        let reply = reply.borrow().clone();
        let Reply::Status(status, body) = reply else {
            posts.send_modify(|posts| posts.push(post));
            return;
        };
        let answer = format!(
            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nX-Token: {TOKEN}\r\n\r\n{body}",
            body.len()
        );
        post.accepted = (200..300).contains(&status);
        let written = connection.write_all(answer.as_bytes()).await;
        posts.send_modify(|posts| posts.push(post));
        if written.is_err() {
            return;
        }
    }
}

async fn read_request(connection: &mut BufReader<TcpStream>) -> Option<Post> {
    let mut first = String::new();
    connection.read_line(&mut first).await.ok().filter(|length| *length > 0)?;
    let target = first.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    connection.read_exact(&mut body).await.ok()?;
    Some(Post { target, headers, body: String::from_utf8(body).unwrap(), accepted: false })
}

/// The times of the notifications in tests.
pub const QUICK: Timing = Timing {
    interval: Duration::from_millis(10),
    between_attempts: Duration::ZERO,
    retry: RetryPolicy {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(10),
        retry_for: Duration::from_secs(60),
    },
};

/// An app of a replica, which never crawls by itself.
pub struct NotifiedApp {
    pub name: String,
    pub sdk_app_id: i64,
    pub cron: &'static str,
    pub group_quota: Option<u64>,
    /// Why the key cannot be read.
    pub key_problem: Option<&'static str>,
}

impl Default for NotifiedApp {
    fn default() -> Self {
        Self {
            name: "prod".to_owned(),
            sdk_app_id: 1_400_000_000,
            cron: "0 0 1 1 *",
            group_quota: None,
            key_problem: None,
        }
    }
}

/// A process that sends notifications, with its own daemon on the database of a harness.
pub struct Replica {
    pub metrics: Arc<Metrics>,
    pub database: watch::Sender<Database>,
    pub notifications: Notifications,
    pub lifecycle: Lifecycle,
    daemon: daemon::Daemon,
}

impl Replica {
    pub fn start(harness: &Harness, receiver: Option<MakeReceiver>, apps: Vec<NotifiedApp>) -> Self {
        let lifecycle = Lifecycle::without_signals();
        let database = watch::Sender::new(Database::Open(harness.store.clone()));
        let systemd = Systemd::from_environment();
        let mut daemon = daemon::Daemon::new(&harness.clock, &lifecycle, systemd, database.subscribe());
        apply(&mut daemon, harness, apps);
        let metrics = Arc::new(Metrics::new(&harness.clock));
        let observer = Arc::clone(&metrics) as Arc<dyn notify::Observer>;
        let health = daemon.health();
        let notifications =
            Notifications::start(receiver, QUICK, observer, &harness.clock, &health, &lifecycle);
        Self { metrics, database, notifications, lifecycle, daemon }
    }

    /// Starts a process that sends notifications about one app, in the format `json`.
    pub fn of_prod(harness: &Harness, receiver: &TestReceiver) -> Self {
        let client = receiver.client(NotificationFormat::Json);
        Self::start(harness, Some(client), vec![NotifiedApp::default()])
    }

    pub fn replace_apps(&mut self, harness: &Harness, apps: Vec<NotifiedApp>) {
        apply(&mut self.daemon, harness, apps);
    }

    /// Waits until the loops of all apps wait.
    pub async fn wait_until_idle(&self) {
        let mut apps = self.daemon.health().apps();
        let is_idle = |apps: &Apps| apps.values().all(|state| matches!(state.phase, Phase::Waiting));
        apps.wait_for(is_idle).await.unwrap();
    }

    /// Waits until this number of notifications was delivered.
    pub async fn wait_until_delivered(&self, event: &str, number: u64) {
        let waiting = async {
            while self.counted(event, "delivered").await < number {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(in_time.is_ok(), "{number} notifications of {event} were not delivered");
    }

    /// Returns the number of notifications with this outcome.
    pub async fn counted(&self, event: &str, outcome: &str) -> u64 {
        let page = self.metrics.page(&self.daemon.health()).await;
        let series =
            format!("tim_group_sync_notifications_total{{event=\"{event}\",outcome=\"{outcome}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&series)).expect("the series exists");
        value.parse().unwrap()
    }

    /// Stops the process as SIGTERM does.
    pub async fn stop(self) {
        self.lifecycle.signal(Signal::Stop);
        assert_eq!(self.lifecycle.ended(Systemd::from_environment()).await, Ending::Requested);
    }
}

fn apply(daemon: &mut daemon::Daemon, harness: &Harness, apps: Vec<NotifiedApp>) {
    let plan = |app: NotifiedApp| {
        // The app's loop creates a crawler at its start and after each change of the database.
        let crawlers_needed = if app.key_problem.is_none() { 10 } else { 0 };
        let crawlers: Mutex<Vec<Crawler>> =
            Mutex::new(std::iter::repeat_with(|| harness.new_crawler()).take(crawlers_needed).collect());
        AppPlan {
            name: app.name,
            sdk_app_id: SdkAppId::new(app.sdk_app_id).unwrap(),
            schedule: Schedule::parse(app.cron, chrono_tz::UTC).unwrap(),
            catch_up: false,
            group_quota: app.group_quota,
            workers: Box::new(move |_: &Store| match app.key_problem {
                Some(why) => Err(WorkersError::Key(why.to_owned())),
                None => Ok(crawlers.lock().unwrap().pop().unwrap().into()),
            }),
        }
    };
    daemon.apply(apps.into_iter().map(plan).collect(), |_| Alarm::manual().0);
}
