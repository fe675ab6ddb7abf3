//! `demo`: the whole main job in a few seconds, with nothing but this program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use super::crawl::{crawl_all, sentence};
use super::exit::{Exit, Failure};
use super::simulate::populate;
use super::text;
use crate::clock::Clock;
use crate::crawl::{CrawlSettings, Crawler, GuardPolicy, WhenBusy};
use crate::lifecycle::Lifecycle;
use crate::model::{GroupType, SdkAppId};
use crate::pace::RetryPolicy;
use crate::simulator::{Settings, Simulator};
use crate::store::{AppIdentity, DatabaseUrl, Store};
use crate::telemetry;
use crate::tencent::{Client, ClientSettings};

/// The API allows a call a second; the simulated one ten, so that nobody has to wait.
const INTERVAL: Duration = Duration::from_millis(100);
const APP: &str = "demo";
/// In place of this machine's name, so that a demo's database can be told from any other.
const HOST: &str = "(demo)";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Groups in the simulated app
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    groups: u32,
    /// Database to crawl into
    #[arg(long, value_name = "URL", default_value = "sqlite:tim-group-sync-demo.db", value_parser = database)]
    database: DatabaseUrl,
}

/// Three questions, each a query that anyone can repeat with the sqlite3 shell.
const QUERIES: [(&str, &str); 3] = [
    (
        "How many groups are there, by type?",
        "SELECT group_type, count(*) AS live_groups, min(first_seen_at) AS since
FROM live_groups GROUP BY group_type ORDER BY live_groups DESC",
    ),
    (
        "What happened last?",
        "SELECT occurred_at, event, group_id, coalesce(new_type, old_type) AS group_type
FROM group_events ORDER BY event_id DESC LIMIT 5",
    ),
    (
        "How did each crawl go, and what did the API count?",
        "SELECT c.crawl_id, c.status, c.deletions, a.total_count, c.groups_listed, c.appeared, c.vanished, c.retyped
FROM crawls c JOIN app_counts a USING (crawl_id) ORDER BY c.crawl_id",
    ),
];

const ONLY_FILES: &str =
    "the demo keeps to a file of its own (sqlite:FILE), so that it can remove what it made";

impl Demo {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        telemetry::init("warn", telemetry::Format::Auto);
        let DatabaseUrl::Sqlite(path) = &self.database else {
            return Err(Failure::new(Exit::Usage, anyhow::anyhow!("{ONLY_FILES}")));
        };
        clear_earlier_demo(path).await?;
        let store = Store::open(&self.database).await?;
        store.migrate().await?;

        let settings = Settings { min_interval: Some(INTERVAL), ..Settings::default() };
        let (sdk_app_id, secret_key, identifier) =
            (settings.sdk_app_id, settings.secret_key.clone(), settings.identifier.clone());
        let api = Simulator::start(settings).await?;
        let groups = self.groups as usize;
        populate(&api, groups);
        println!(
            "A simulated Tencent Cloud IM app with {} groups answers at {}.",
            text::number(self.groups),
            api.base_url()
        );
        println!("Crawling it into {}, a page of up to 10,000 ids at a time.\n", path.display());
        let crawler = Arc::new(crawler(sdk_app_id, identifier, secret_key, &api.base_url(), &store)?);
        let lifecycle = Lifecycle::install()?;

        let few = groups / 100;
        let acts: [(&str, &dyn Fn()); 4] = [
            ("First crawl: every group is listed for the first time.", &|| ()),
            ("1 % of the groups are dissolved and as many created.", &|| {
                api.dissolve_some(few);
                api.create_many("Public", few);
            }),
            ("Nothing happens. This crawl writes no group at all.", &|| ()),
            (
                "One group is dissolved and made again as another type, and one is dissolved for good.",
                &|| {
                    let truth = api.truth();
                    let mut publics = truth.iter().filter(|(_, group_type)| *group_type == "Public");
                    if let (Some((retyped, _)), Some((gone, _))) = (publics.next(), publics.next()) {
                        api.retype(retyped, "Community");
                        api.dissolve(gone);
                    }
                },
            ),
        ];
        let mut exits = Vec::new();
        for (what, act) in acts {
            act();
            println!("{what}");
            let outcomes =
                crawl_all(std::slice::from_ref(&crawler), WhenBusy::GiveUp, lifecycle.stop()).await?;
            for (app, outcome) in &outcomes {
                println!("  {}\n", sentence(app, outcome));
                exits.push(Exit::of_crawl(outcome));
            }
            if lifecycle.stop().soft().is_cancelled() {
                return Ok(Exit::worst(exits));
            }
        }
        for (question, sql) in QUERIES {
            let (header, rows) = store.read(sql).await?;
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            println!("{question}\n\n{sql};\n\n{}\n", text::table(&header, &rows));
        }
        store.close().await;
        println!("The table stays in {}: sqlite3 {0} 'SELECT * FROM groups LIMIT 5'", path.display());
        println!(
            "Next: put your own app's sdk_app_id and key file into a config.toml (see config.example.toml) and run"
        );
        println!("  tim-group-sync --config config.toml check");
        std::io::stdout().flush()?;
        Ok(Exit::worst(exits))
    }
}

fn crawler(
    sdk_app_id: SdkAppId,
    identifier: String,
    secret_key: crate::tencent::usersig::SecretKey,
    base_url: &str,
    store: &Store,
) -> Result<Crawler, Failure> {
    let client = Client::new(ClientSettings {
        sdk_app_id,
        identifier,
        secret_key,
        base_url: Url::parse(base_url).map_err(|error| Failure::new(Exit::Failed, error))?,
        place: "the simulator".to_owned(),
        request_timeout: Duration::from_secs(10),
        clock: Clock::system(),
    });
    let settings = CrawlSettings {
        identity: AppIdentity { sdk_app_id, name: APP.to_owned() },
        group_types: GroupType::documented(),
        page_limit: 10_000,
        // A little more than the API allows: what counts is when requests arrive.
        request_interval: INTERVAL + INTERVAL / 20,
        retry: RetryPolicy::lasting(Duration::from_secs(10)),
        max_shortfall: 0.0,
        guard: GuardPolicy { max_fraction: 0.2, min_groups: 100, ..GuardPolicy::default() },
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

/// Removes the database of an earlier demo, and refuses to touch any other file.
async fn clear_earlier_demo(path: &Path) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    let is_demo = match Store::open_to_read(&DatabaseUrl::Sqlite(path.to_owned())).await {
        Ok(store) => {
            let apps = store.app_statuses().await.unwrap_or_default();
            store.close().await;
            matches!(&apps[..], [app] if app.app == APP && app.last_crawl.as_ref().is_none_or(|crawl| crawl.host == HOST))
        }
        Err(_) => false,
    };
    if !is_demo {
        let error = anyhow::anyhow!(
            "{} exists and is not the database of an earlier demo; name another with --database sqlite:FILE",
            path.display()
        );
        return Err(Failure::new(Exit::Failed, error));
    }
    for side in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(side);
        match std::fs::remove_file(PathBuf::from(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn database(text: &str) -> Result<DatabaseUrl, String> {
    match crate::config::DatabaseUrl::parse(text, Path::new("")) {
        Ok(crate::config::DatabaseUrl::Sqlite(path)) => Ok(DatabaseUrl::Sqlite(path)),
        Ok(crate::config::DatabaseUrl::Postgres(_)) => Err(ONLY_FILES.to_owned()),
        Err(mistake) => Err(format!("{} {}", mistake.rule, mistake.fix)),
    }
}
