//! Runs the phases and prints their measurements as Markdown.

use std::path::Path;
use std::process::Command;

use tim_group_sync::simulator::KEY;

use crate::PACE;
use crate::figures::Figures;
use crate::phases::{Api, TYPES, measured, phase};
use crate::server::Server;

/// The largest number of groups for which the upsert by hand is measured, and the other phases are
/// repeated. Above it, the upsert takes too long.
const MAX_BY_HAND: u64 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// The databases of one engine, in a temporary folder or on a temporary server.
pub(crate) enum Databases {
    Folder(tempfile::TempDir),
    Server(Server),
}

impl Databases {
    pub(crate) fn of(engine: Engine) -> Self {
        match engine {
            Engine::Sqlite => {
                let place = env!("CARGO_TARGET_TMPDIR");
                Self::Folder(tempfile::Builder::new().prefix("bench-").tempdir_in(place).unwrap())
            }
            Engine::Postgres => Self::Server(Server::start()),
        }
    }

    pub(crate) fn title(&self) -> String {
        match self {
            Self::Folder(_) => "SQLite".to_owned(),
            Self::Server(server) => {
                let version =
                    server.number("postgres", "SELECT CAST(current_setting('server_version_num') AS BIGINT)");
                format!("PostgreSQL {}.{}", version / 10_000, version % 10_000)
            }
        }
    }

    /// Creates an empty database. Returns its path or URL.
    pub(crate) fn database(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.path().join(name).to_str().unwrap().to_owned(),
            Self::Server(server) => {
                server.create(name);
                server.url(name)
            }
        }
    }

    fn drop_database(&self, name: &str) {
        match self {
            Self::Folder(folder) => {
                for side in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(folder.path().join(format!("{name}{side}")));
                }
            }
            Self::Server(server) => server.execute("postgres", &format!("DROP DATABASE {name}")),
        }
    }

    pub(crate) fn vacuum_and_checkpoint(&self, name: &str) {
        if let Self::Server(server) = self {
            server.vacuum_and_checkpoint(name);
        }
    }

    /// Runs a phase, and adds the measurements of the server.
    fn run(&self, run: impl FnOnce() -> Figures) -> Figures {
        let Self::Server(server) = self else { return run() };
        let before = server.usage();
        let mut figures = run();
        (figures.server_cpu, figures.wal) = server.since(before);
        figures
    }

    /// Returns the size in bytes of the SQLite file, or of PostgreSQL's table of groups with its
    /// indexes.
    fn table(&self, name: &str) -> u64 {
        match self {
            Self::Folder(folder) => std::fs::metadata(folder.path().join(name)).unwrap().len(),
            Self::Server(server) => {
                server.number(name, "SELECT pg_total_relation_size('tim_private.group_row')")
            }
        }
    }

    /// Returns the number of group rows written so far, on PostgreSQL.
    fn rows_written(&self, name: &str) -> Option<u64> {
        let Self::Server(server) = self else { return None };
        let sql = "SELECT CAST(n_tup_ins + n_tup_upd + n_tup_del AS BIGINT) FROM pg_stat_all_tables WHERE relname = 'group_row'";
        Some(server.number(name, sql))
    }
}

pub(crate) fn compare(engines: &[Engine], sizes: &[u64]) {
    let mut growth: Vec<(Engine, u64, f64)> = Vec::new();
    for &groups in sizes {
        for &engine in engines {
            let cpu = compare_one(&Databases::of(engine), groups);
            growth.push((engine, groups, cpu / groups as f64));
        }
    }
    for &engine in engines {
        let mut sizes: Vec<&(Engine, u64, f64)> = growth.iter().filter(|size| size.0 == engine).collect();
        sizes.sort_by_key(|size| size.1);
        if let [smallest, .., largest] = sizes[..] {
            println!(
                "\nPer group, an unchanged crawl of {} groups on {} needs {:.2} of the CPU of {} groups.",
                largest.1,
                if engine == Engine::Sqlite { "SQLite" } else { "PostgreSQL" },
                largest.2 / smallest.2,
                smallest.1
            );
        }
    }
}

/// Measures one engine with one number of groups and returns the CPU seconds of an unchanged crawl.
fn compare_one(databases: &Databases, groups: u64) -> f64 {
    let mut api = Api::start(groups, 1);
    let url = api.urls[0].clone();
    let on_server = matches!(databases, Databases::Server(_));
    eprintln!("{}, {groups} groups", databases.title());
    println!("\n### {}, {groups} groups\n", databases.title());
    println!("| phase | groups/s | wall s | CPU s | server CPU s | MB written | peak RSS MB |");
    println!("|---|---|---|---|---|---|---|");

    let small = groups <= MAX_BY_HAND;
    let bulk_order = if on_server { "listed" } else { "sorted" };
    let mut loads = Vec::new();
    for number in 0..if small { 3 } else { 1 } {
        let (own, bulk) = (format!("own_{number}"), format!("bulk_{number}"));
        let database = databases.database(&own);
        let first = databases.run(|| phase(&["crawl", &url, &database]));
        let into = databases.database(&bulk);
        loads.push((first, databases.run(|| phase(&["bulk", bulk_order, &url, &into]))));
        databases.drop_database(&bulk);
        if number > 0 {
            databases.drop_database(&own);
        }
    }
    let own = "own_0";
    let database = match databases {
        Databases::Folder(folder) => folder.path().join(own).to_str().unwrap().to_owned(),
        Databases::Server(server) => server.url(own),
    };
    databases.vacuum_and_checkpoint(own);
    let rows_before = databases.rows_written(own);
    // Alternates the two phases, so that a drift of the machine's speed affects both.
    let pairs: Vec<(Figures, Figures)> = (0..if small { 9 } else { 3 })
        .map(|_| (phase(&["floor", &url]), databases.run(|| phase(&["crawl", &url, &database]))))
        .collect();
    let rewritten = databases.rows_written(own).zip(rows_before).map(|(after, before)| after - before);
    let unchanged = typical(pairs.iter().map(|pair| pair.1));
    row("floor: fetch and parse, keep nothing", &typical(pairs.iter().map(|pair| pair.0)));
    row("first load", &typical(loads.iter().map(|load| load.0)));
    row("unchanged", &unchanged);
    let size = databases.table(own);
    databases.vacuum_and_checkpoint(own);
    api.churn(groups / 100);
    row("1 % churn", &databases.run(|| phase(&["crawl", &url, &database])));
    let bulk = if on_server { "COPY into the existing index" } else { "one sorted bulk insert" };
    row(bulk, &typical(loads.iter().map(|load| load.1)));
    let mut by_hand_cpu = None;
    if small {
        let by_hand = databases.database("by_hand");
        row("upsert by hand, first load", &databases.run(|| upsert(databases, &url, &by_hand)));
        databases.vacuum_and_checkpoint("by_hand");
        let again = databases.run(|| upsert(databases, &url, &by_hand));
        row("upsert by hand, unchanged", &again);
        by_hand_cpu = Some(again.total_cpu());
    }

    print_ratios(&pairs, &loads, bulk);
    if let Some(by_hand) = by_hand_cpu {
        println!(
            "- unchanged needs {:.3} of the CPU seconds of the upsert by hand",
            unchanged.total_cpu() / by_hand
        );
    }
    if let Some(rewritten) = rewritten {
        let wal = pairs.iter().map(|pair| pair.1.wal);
        let most = wal.clone().max().unwrap_or(0) as f64 / 1e3;
        let least = wal.min().unwrap_or(0) as f64 / 1e3;
        println!(
            "- {} unchanged crawls wrote {rewritten} group rows, and {least:.1} to {most:.1} kB of WAL each",
            pairs.len()
        );
    }
    let what = if on_server { "table with its index" } else { "file" };
    println!("- {what}: {:.1} MB, {:.0} bytes a group", size as f64 / 1e6, size as f64 / groups as f64);
    unchanged.total_cpu()
}

/// Prints how unchanged crawls compare with the floor, and first loads with bulk loads.
fn print_ratios(pairs: &[(Figures, Figures)], loads: &[(Figures, Figures)], bulk: &str) {
    println!();
    ratios(
        "unchanged reaches",
        "of the floor's groups/s",
        pairs.iter().map(|(floor, own)| floor.wall / own.wall),
    );
    ratios(
        "unchanged needs",
        "times the floor's CPU seconds",
        pairs.iter().map(|(floor, own)| own.total_cpu() / floor.total_cpu()),
    );
    ratios(
        "first load takes",
        &format!("times the time of {bulk}"),
        loads.iter().map(|(own, bulk)| own.wall / bulk.wall),
    );
}

fn upsert(databases: &Databases, url: &str, database: &str) -> Figures {
    match databases {
        Databases::Server(_) => phase(&["upsert", url, database]),
        Databases::Folder(_) => {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/upsert.py");
            measured(Command::new("python3").arg(program).args([url, KEY, database]).args(TYPES))
        }
    }
}

/// Compares many apps that are crawled at the same time in one process with one app alone.
pub(crate) fn many_apps(engines: &[Engine], apps: u64, groups: u64) {
    let api = Api::start(groups, apps);
    let all = api.urls.join(",");
    for &engine in engines {
        let databases = Databases::of(engine);
        println!("\n### {}, {apps} apps of {groups} groups\n", databases.title());
        println!("| phase | groups/s | wall s | CPU s | server CPU s | MB written | peak RSS MB |");
        println!("|---|---|---|---|---|---|---|");
        let mut ratio = Vec::new();
        let (alone, together) = (databases.database("alone"), databases.database("together"));
        for what in ["first load", "unchanged"] {
            let mut once = Vec::new();
            for number in 0..5 {
                // A database can be loaded for the first time only once.
                let database = if what == "unchanged" || number == 0 {
                    alone.clone()
                } else {
                    databases.database(&format!("alone_{number}"))
                };
                once.push(databases.run(|| phase(&["crawl", &api.urls[0], &database])));
            }
            let one = typical(once.into_iter());
            row(&format!("one app, {what}"), &one);
            let many = databases.run(|| phase(&["crawl", &all, &together]));
            row(&format!("{apps} apps, {what}"), &many);
            ratio.push((what, many.groups_per_second() / one.groups_per_second()));
            databases.vacuum_and_checkpoint("alone");
            databases.vacuum_and_checkpoint("together");
        }
        println!();
        for (what, ratio) in ratio {
            println!("- {what}: {apps} apps at once reach {ratio:.2} of one app's groups/s");
        }
    }
}

pub(crate) fn compare_with_pace(groups: u64) {
    let databases = Databases::of(Engine::Sqlite);
    let database = databases.database("paced");
    let api = Api::start(groups, 1);
    println!("\n### {groups} groups at the API's rate\n");
    println!("| phase | requests | wall s | limit s: 1.02 × 1.05 × (requests − 1) + 2 |");
    println!("|---|---|---|---|");
    for what in ["first load", "unchanged"] {
        let figures = phase(&["paced", &api.urls[0], &database]);
        let allowed = 1.02 * (figures.requests - 1) as f64 * PACE.as_secs_f64() + 2.0;
        println!("| {what} | {} | {:.2} | {allowed:.2} |", figures.requests, figures.wall);
    }
}

fn row(what: &str, figures: &Figures) {
    println!(
        "| {what} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} |",
        figures.groups_per_second(),
        figures.wall,
        figures.total_cpu(),
        figures.server_cpu,
        (figures.written + figures.wal) as f64 / 1e6,
        figures.rss as f64 / 1e6,
    );
}

/// Returns the run with the median time. Its `server_cpu` is the mean of all runs, because that is
/// counted in hundredths of a second.
fn typical(runs: impl Iterator<Item = Figures>) -> Figures {
    let mut runs: Vec<Figures> = runs.collect();
    runs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    let server_cpu = runs.iter().map(|run| run.server_cpu).sum::<f64>() / runs.len() as f64;
    Figures { server_cpu, ..runs[runs.len() / 2] }
}

fn ratios(before: &str, after: &str, ratios: impl Iterator<Item = f64>) {
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    let median = ratios[ratios.len() / 2];
    println!("- {before} {median:.2} {after} (median of {}, {least:.2} to {most:.2})", ratios.len());
}
