//! `demo`: crawls a simulated app several times into a new database, and queries the result.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::crawl::{Attempt, crawl_all, exit_of_all, summary};
use super::exit::{Exit, Failure};
use super::output::print_line;
use super::setup::location_from_url;
use super::simulate::{churn, populate};
use super::text;
use crate::alarm::AlarmClock;
use crate::clock::Clock;
use crate::config;
use crate::crawl::{CrawlSettings, Crawler, WhenBusy};
use crate::daemon::{AppPlan, Daemon, Database, WorkersError};
use crate::lifecycle::{Lifecycle, Systemd};
use crate::model::GroupType;
use crate::pace::RetryPolicy;
use crate::policy::DeletionPolicy;
use crate::schedule::Schedule;
use crate::simulator::{Settings, Simulator};
use crate::store::{AppIdentity, DatabaseLocation, Store, StoreError};
use crate::telemetry;
use crate::tencent::{Client, ClientSettings};
use crate::web::{AllowedHosts, Listener, dashboard};

/// Minimum time between two list requests that the simulator enforces. The real API requires a
/// second; the demo is quicker.
const INTERVAL: Duration = Duration::from_millis(100);
const APP: &str = "demo";
/// The host name that a demo records instead of this machine's, so that its database can be
/// recognised.
const HOST: &str = "(demo)";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Groups in the simulated app
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    groups: u32,
    /// Database to crawl into: sqlite:FILE, or postgres://…, where the demo uses only the schema
    /// tim_demo
    // A secret type, because the URL may contain a password, which must not be printed.
    #[arg(long, value_name = "URL", default_value = "sqlite:tim-group-sync-demo.db")]
    database: SecretString,
    /// Keep serving the dashboard, and keep changing the simulated app, until Ctrl-C
    #[arg(long)]
    serve: bool,
    /// Address on which --serve listens
    #[arg(long, value_name = "ADDRESS", requires = "serve", default_value = "127.0.0.1:9879")]
    listen: SocketAddr,
}

/// Questions with their queries, which also run in the sqlite3 shell and in psql. The queries and
/// their results fit 80 columns.
const QUERIES: [(&str, &str); 3] = [
    (
        "How many groups are there, by type?",
        "SELECT group_type, count(*) AS live_groups, min(first_seen_at) AS since
FROM live_groups GROUP BY group_type ORDER BY live_groups DESC",
    ),
    (
        "What happened last?",
        "SELECT event, coalesce(new_type, old_type) AS type, group_id
FROM group_events ORDER BY event_id DESC LIMIT 5",
    ),
    (
        "How did each crawl go, and what did the API count?",
        "SELECT c.crawl_id, c.status, a.total_count, c.groups_listed AS listed,
    c.appeared, c.vanished, c.retyped
FROM crawls c JOIN app_counts a USING (crawl_id) ORDER BY c.crawl_id",
    ),
];

/// Schedule of the app with `--serve`: every 20 seconds.
const CRON: &str = "*/20 * * * * *";
/// With `--serve`, the number of groups created, and of groups dissolved, per second.
const CHURN: f64 = 0.5;

/// The schema on PostgreSQL. Only demos use it and `tim_demo_private`.
const SCHEMA: &str = "tim_demo";
/// The beginning of the names of a demo's sessions on PostgreSQL.
const SESSION: &str = "tim-group-sync demo ";
/// The number of checks for sessions of another demo, and the time between them.
const SESSION_CHECKS: u32 = 10;
const SESSION_CHECK_INTERVAL: Duration = Duration::from_millis(200);

impl Demo {
    pub(super) async fn run(self, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        telemetry::init("warn", telemetry::Format::Auto);
        tokio::select! {
            ended = self.show(lifecycle) => ended,
            () = lifecycle.stop().hard().cancelled() => {
                Err(Failure::new(Exit::Failed, anyhow::anyhow!("interrupted; another demo replaces its database")))
            }
        }
    }

    async fn show(self, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        if !self.listen.ip().is_loopback() {
            let error = anyhow::anyhow!("--listen must be a loopback address, such as 127.0.0.1:9880");
            return Err(Failure::new(Exit::Usage, error));
        }
        let database = database(self.database.expose_secret())?;
        let listener = if self.serve {
            let listener = Listener::bind("--listen", self.listen).await;
            Some(listener.map_err(|error| Failure::new(Exit::Failed, error))?)
        } else {
            None
        };
        let store = fresh_store(&database).await?;

        let settings = Settings { min_interval: Some(INTERVAL), ..Settings::default() };
        let account = settings.clone();
        let api = Simulator::start(settings).await?;
        populate(&api, self.groups as usize);
        print_line(format_args!(
            "A simulated Tencent Cloud IM app with {} is served at {}.",
            text::count(self.groups, "group"),
            api.base_url()
        ))?;
        print_line(format_args!(
            "Crawling it into {}, in pages of up to 10,000 ids.\n",
            describe(&database)
        ))?;
        let crawler = Arc::new(crawler(&account, &api.base_url(), &store)?);

        let mut exits = Vec::new();
        for (what, change) in changes(&api, self.groups as usize / 100) {
            change();
            print_line(format_args!("{what}"))?;
            let attempt = Attempt::from(Arc::clone(&crawler));
            let results = crawl_all(vec![attempt], WhenBusy::GiveUp, lifecycle.stop()).await;
            for (app, result) in &results {
                print_line(format_args!("  {}\n", summary(app, result)))?;
            }
            exits.push(exit_of_all(&results, Exit::of_crawl));
            if lifecycle.stop().soft().is_cancelled() {
                return Ok(Exit::worst(exits));
            }
        }
        show_results(&store, &database).await?;
        if let Some(listener) = listener {
            serve(listener, &api, account, &store, lifecycle).await?;
        }
        store.close().await;
        Ok(Exit::worst(exits))
    }
}

/// A description of a change, and the function that makes it.
type Change<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// Returns the change to make before each crawl.
fn changes(api: &Simulator, one_percent: usize) -> [Change<'_>; 4] {
    [
        ("First crawl: every group is listed for the first time.", Box::new(|| ())),
        (
            "1 % of the groups are dissolved and as many are created.",
            Box::new(move || {
                api.dissolve_some(one_percent);
                api.create_many("Public", one_percent);
            }),
        ),
        ("Nothing changes. This crawl writes no group.", Box::new(|| ())),
        (
            "One group is dissolved and created again with another type, and one is dissolved for \
             good.",
            Box::new(|| {
                let truth = api.truth();
                let mut publics = truth.iter().filter(|(_, group_type)| *group_type == "Public");
                if let (Some((retyped, _)), Some((dissolved, _))) = (publics.next(), publics.next()) {
                    api.retype(retyped, "Community");
                    api.dissolve(dissolved);
                }
            }),
        ),
    ]
}

/// Runs the queries and prints their results, and then the location of the data.
async fn show_results(store: &Store, database: &DatabaseLocation) -> Result<(), Failure> {
    if let DatabaseLocation::Postgres(_) = database {
        print_line(format_args!("To repeat these queries, begin with\n\nSET search_path TO {SCHEMA};\n"))?;
    }
    for (question, sql) in QUERIES {
        let (header, rows) = store.query_as_text(sql).await?;
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        print_line(format_args!("{question}\n\n{sql};\n\n{}\n", text::table(&header, &rows)))?;
    }
    let location = describe(database);
    match database {
        DatabaseLocation::Sqlite(_) => {
            print_line(format_args!(
                "The data is in {location}: sqlite3 {location} 'SELECT * FROM groups LIMIT 5'"
            ))?;
        }
        DatabaseLocation::Postgres(_) => {
            print_line(format_args!("The data is in {location}: SELECT * FROM {SCHEMA}.groups LIMIT 5;"))?;
            print_line(format_args!("To remove it: DROP SCHEMA {SCHEMA}, {SCHEMA}_private CASCADE;"))?;
        }
    }
    print_line(format_args!(
        "Next, with the SDKAppID and the secret key of your own app: tim-group-sync init"
    ))
}

/// Opens the database with empty tables. Removes the tables of an earlier demo.
async fn fresh_store(database: &DatabaseLocation) -> Result<Store, Failure> {
    let store = match database {
        DatabaseLocation::Sqlite(path) => {
            remove_earlier_file(path).await?;
            Store::open(database).await?
        }
        DatabaseLocation::Postgres(_) => {
            let store = Store::open(database).await?;
            remove_earlier_schemas(&store, database).await?;
            store
        }
    };
    store.migrate().await?;
    Ok(store)
}

/// Serves the dashboard, changes the groups of the simulated app and crawls it, until Ctrl-C.
async fn serve(
    listener: Listener,
    api: &Simulator,
    account: Settings,
    store: &Store,
    lifecycle: &Lifecycle,
) -> Result<(), Failure> {
    let (clock, systemd) = (Clock::system(), Systemd::from_environment());
    let database = watch::Sender::new(Database::Open(store.clone()));
    let mut daemon = Daemon::new(&clock, lifecycle, systemd, database.subscribe());
    let (address, health) = (listener.address().clone(), daemon.health());
    let pages = dashboard::routes(health.database(), health.apps(), clock.clone());
    lifecycle.supervise(
        "the dashboard",
        listener.serve(pages, AllowedHosts::of(&address, &[]), lifecycle.stop().soft().clone()),
    );
    let alarm_clock = AlarmClock::start().await.map_err(|error| Failure::new(Exit::Failed, error))?;
    let (sdk_app_id, base_url) = (account.sdk_app_id, api.base_url());
    let plan = AppPlan {
        group_quota: None,
        name: APP.to_owned(),
        sdk_app_id,
        schedule: Schedule::parse(CRON, chrono_tz::UTC).map_err(|error| Failure::new(Exit::Failed, error))?,
        catch_up: false,
        workers: Box::new(move |store| {
            let crawler = crawler(&account, &base_url, store);
            let crawler = crawler.map_err(|failure| WorkersError::Client(format!("{:#}", failure.error)))?;
            Ok(crawler.into())
        }),
    };
    daemon.apply(vec![plan], |_| alarm_clock.alarm());
    print_line(format_args!(
        "\nThe dashboard is at http://{address}/. Groups of the simulated app are\n\
         created and dissolved, and the app is crawled every 20 seconds.\n\
         Press Ctrl-C to stop."
    ))?;
    tokio::select! {
        _ending = lifecycle.ended(systemd) => {}
        () = churn(api, CHURN) => {}
    }
    alarm_clock.stop().await;
    Ok(())
}

fn crawler(account: &Settings, base_url: &str, store: &Store) -> Result<Crawler, Failure> {
    let sdk_app_id = account.sdk_app_id;
    let client = Client::new(ClientSettings {
        sdk_app_id,
        identifier: account.identifier.clone(),
        secret_key: account.secret_key.clone(),
        base_url: Url::parse(base_url).map_err(|error| Failure::new(Exit::Failed, error))?,
        region_hint: "the simulator".to_owned(),
        request_timeout: Duration::from_secs(10),
        clock: Clock::system(),
    });
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id, name: APP.to_owned() },
        group_types: GroupType::documented(),
        page_limit: 10_000,
        // Longer than the simulator requires. The simulator measures arrival times, and a busy
        // machine may delay one of two requests.
        request_interval: INTERVAL + INTERVAL / 2,
        retry: RetryPolicy::lasting(Duration::from_secs(10)),
        deletion: DeletionPolicy { max_fraction: 0.2, min_groups: 100, ..DeletionPolicy::default() },
        details: None,
        timezone: chrono_tz::UTC,
        host: HOST.to_owned(),
    };
    Ok(Crawler::new(
        settings,
        client.map_err(|error| Failure::new(Exit::Failed, error))?,
        store.clone(),
        Clock::system(),
    ))
}

/// Removes the database of an earlier demo. Fails if the file is anything else, or if a running
/// demo uses it.
async fn remove_earlier_file(path: &Path) -> Result<(), Failure> {
    match Store::remove_file_of(path, APP, HOST).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let error = anyhow::anyhow!(
                "{} exists and is not the database of an earlier demo; choose another file with \
                 --database sqlite:FILE",
                path.display()
            );
            Err(Failure::new(Exit::Failed, error))
        }
        Err(StoreError::InUse { path }) => {
            let error = anyhow::anyhow!(
                "another demo is using {}; stop it first, or choose another file with --database \
                 sqlite:FILE",
                path.display()
            );
            Err(Failure::new(Exit::Busy, error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes the schemas of an earlier demo. Fails if they contain anything else, or if a running
/// demo uses them.
async fn remove_earlier_schemas(store: &Store, database: &DatabaseLocation) -> Result<(), Failure> {
    let mut checks = 1;
    while store.is_used_by_another_demo(SESSION).await? {
        // For a moment, the server still lists the sessions of a demo that has just ended.
        if checks == SESSION_CHECKS {
            let error =
                anyhow::anyhow!("another demo is using the schema {SCHEMA} of {database}; stop it first");
            return Err(Failure::new(Exit::Busy, error));
        }
        checks += 1;
        tokio::time::sleep(SESSION_CHECK_INTERVAL).await;
    }
    if store.remove_schemas_of(APP, HOST).await? {
        return Ok(());
    }
    let error = anyhow::anyhow!(
        "the schemas {SCHEMA} and {SCHEMA}_private of {database} contain data that is not of an \
         earlier demo; choose another database with --database postgres://…, or rename the schemas"
    );
    Err(Failure::new(Exit::Failed, error))
}

/// Describes the location of the demo's tables.
fn describe(database: &DatabaseLocation) -> String {
    match database {
        DatabaseLocation::Sqlite(path) => path.display().to_string(),
        DatabaseLocation::Postgres(_) => format!("{database}, schema {SCHEMA}"),
    }
}

/// Parses `--database`.
fn database(url: &str) -> Result<DatabaseLocation, Failure> {
    let url = config::DatabaseUrl::parse(url, Path::new("")).map_err(|mistake| {
        let error = anyhow::anyhow!("the URL of --database {}. {}", mistake.rule, mistake.fix);
        Failure::new(Exit::Usage, error)
    })?;
    if matches!(&url, config::DatabaseUrl::Postgres(url) if url.has_password()) {
        let error = anyhow::anyhow!(
            "the URL of --database contains a password, which every process on this machine can \
             see; put it into ~/.pgpass or PGPASSWORD, and remove it from the URL"
        );
        return Err(Failure::new(Exit::Usage, error));
    }
    let location = location_from_url(&url, SCHEMA)?;
    Ok(match location {
        DatabaseLocation::Postgres(database) => {
            DatabaseLocation::Postgres(database.session_name(&format!("{SESSION}{}", std::process::id())))
        }
        file @ DatabaseLocation::Sqlite(_) => file,
    })
}
