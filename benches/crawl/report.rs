//! Runs the phases in their order and prints what they measured as Markdown.

use std::path::Path;
use std::process::Command;

use tim_group_sync::simulator::KEY;

use crate::PACE;
use crate::figures::Figures;
use crate::phases::{Api, TYPES, measured, phase};
use crate::server::Server;

/// Beyond this the script's row-at-a-time takes too long to wait for, and one load says enough.
const MOST_BY_HAND: u64 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Databases of one engine, in a folder or on a server of the run's own.
pub(crate) enum Home {
    Folder(tempfile::TempDir),
    Server(Server),
}

impl Home {
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

    /// A new, empty database.
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

    pub(crate) fn settle(&self, name: &str) {
        if let Self::Server(server) = self {
            server.settle(name);
        }
    }

    /// Runs a phase and adds what the server did for it.
    fn run(&self, run: impl FnOnce() -> Figures) -> Figures {
        let Self::Server(server) = self else { return run() };
        let before = server.account();
        let mut figures = run();
        (figures.server_cpu, figures.wal) = server.since(before);
        figures
    }

    /// Bytes of the groups' table with its indexes, and of the whole file where there is one.
    fn table(&self, name: &str) -> u64 {
        match self {
            Self::Folder(folder) => std::fs::metadata(folder.path().join(name)).unwrap().len(),
            Self::Server(server) => {
                server.number(name, "SELECT pg_total_relation_size('tim_private.group_row')")
            }
        }
    }

    /// Group rows written so far, where the database counts them.
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
            let cpu = compare_one(&Home::of(engine), groups);
            growth.push((engine, groups, cpu / groups as f64));
        }
    }
    for &engine in engines {
        let mut of: Vec<&(Engine, u64, f64)> = growth.iter().filter(|of| of.0 == engine).collect();
        of.sort_by_key(|of| of.1);
        if let [smallest, .., largest] = of[..] {
            println!(
                "\nCPU of an unchanged crawl a group, {} groups against {}, {}: {:.2}",
                largest.1,
                smallest.1,
                if engine == Engine::Sqlite { "SQLite" } else { "PostgreSQL" },
                largest.2 / smallest.2
            );
        }
    }
}

/// Measures one engine with one number of groups and returns the CPU seconds of an unchanged crawl.
fn compare_one(home: &Home, groups: u64) -> f64 {
    let mut api = Api::start(groups, 1);
    let url = api.urls[0].clone();
    let on_server = matches!(home, Home::Server(_));
    eprintln!("{}, {groups} groups", home.title());
    println!("\n### {}, {groups} groups\n", home.title());
    println!("| phase | groups/s | wall s | CPU s | of it server | MB written | peak RSS MB |");
    println!("|---|---|---|---|---|---|---|");

    let small = groups <= MOST_BY_HAND;
    let bulk_order = if on_server { "listed" } else { "sorted" };
    let mut loads = Vec::new();
    for number in 0..if small { 3 } else { 1 } {
        let (own, bulk) = (format!("own_{number}"), format!("bulk_{number}"));
        let database = home.database(&own);
        let first = home.run(|| phase(&["crawl", &url, &database]));
        let into = home.database(&bulk);
        loads.push((first, home.run(|| phase(&["bulk", bulk_order, &url, &into]))));
        home.drop_database(&bulk);
        if number > 0 {
            home.drop_database(&own);
        }
    }
    let own = "own_0";
    let database = match home {
        Home::Folder(folder) => folder.path().join(own).to_str().unwrap().to_owned(),
        Home::Server(server) => server.url(own),
    };
    home.settle(own);
    let rows_before = home.rows_written(own);
    // In turn, so that a machine whose speed drifts is fair to both.
    let pairs: Vec<(Figures, Figures)> = (0..if small { 9 } else { 3 })
        .map(|_| (phase(&["floor", &url]), home.run(|| phase(&["crawl", &url, &database]))))
        .collect();
    let rewritten = home.rows_written(own).zip(rows_before).map(|(after, before)| after - before);
    let unchanged = typical(pairs.iter().map(|pair| pair.1));
    row("floor: fetch and parse, keep nothing", &typical(pairs.iter().map(|pair| pair.0)));
    row("first load", &typical(loads.iter().map(|load| load.0)));
    row("unchanged", &unchanged);
    let size = home.table(own);
    home.settle(own);
    api.churn(groups / 100);
    row("1 % churn", &home.run(|| phase(&["crawl", &url, &database])));
    let bulk = if on_server { "COPY into the standing index" } else { "one sorted bulk insert" };
    row(bulk, &typical(loads.iter().map(|load| load.1)));
    let mut by_hand_cpu = None;
    if small {
        let by_hand = home.database("by_hand");
        row("upsert by hand, first load", &home.run(|| upsert(home, &url, &by_hand)));
        home.settle("by_hand");
        let again = home.run(|| upsert(home, &url, &by_hand));
        row("upsert by hand, unchanged", &again);
        by_hand_cpu = Some(again.whole_cpu());
    }

    println!();
    ratios(
        "unchanged reaches",
        "of the floor's groups/s",
        pairs.iter().map(|(floor, own)| floor.wall / own.wall),
    );
    ratios(
        "unchanged needs",
        "times the floor's CPU seconds",
        pairs.iter().map(|(floor, own)| own.whole_cpu() / floor.whole_cpu()),
    );
    ratios(
        "first load takes",
        &format!("of the time of: {bulk}"),
        loads.iter().map(|(own, bulk)| own.wall / bulk.wall),
    );
    if let Some(by_hand) = by_hand_cpu {
        println!(
            "- unchanged needs {:.3} of the CPU seconds of the upsert by hand",
            unchanged.whole_cpu() / by_hand
        );
    }
    if let Some(rewritten) = rewritten {
        let wal = pairs.iter().map(|pair| pair.1.wal);
        let most = wal.clone().max().unwrap_or(0) as f64 / 1e3;
        let least = wal.min().unwrap_or(0) as f64 / 1e3;
        println!(
            "- {} unchanged crawls wrote {rewritten} group rows, and {least:.1} to {most:.1} kB of log each",
            pairs.len()
        );
    }
    let what = if on_server { "table with its index" } else { "file" };
    println!("- {what}: {:.1} MB, {:.0} bytes a group", size as f64 / 1e6, size as f64 / groups as f64);
    unchanged.whole_cpu()
}

fn upsert(home: &Home, url: &str, database: &str) -> Figures {
    match home {
        Home::Server(_) => phase(&["upsert", url, database]),
        Home::Folder(_) => {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/upsert.py");
            measured(Command::new("python3").arg(program).args([url, KEY, database]).args(TYPES))
        }
    }
}

/// Many apps at once in one process, against one of them alone.
pub(crate) fn many_apps(engines: &[Engine], apps: u64, groups: u64) {
    let api = Api::start(groups, apps);
    let all = api.urls.join(",");
    for &engine in engines {
        let home = Home::of(engine);
        println!("\n### {}, {apps} apps of {groups} groups\n", home.title());
        println!("| phase | groups/s | wall s | CPU s | of it server | MB written | peak RSS MB |");
        println!("|---|---|---|---|---|---|---|");
        let mut ratio = Vec::new();
        let (alone, together) = (home.database("alone"), home.database("together"));
        for what in ["first load", "unchanged"] {
            let mut once = Vec::new();
            for number in 0..5 {
                // A first load happens once to a database.
                let database = if what == "unchanged" || number == 0 {
                    alone.clone()
                } else {
                    home.database(&format!("alone_{number}"))
                };
                once.push(home.run(|| phase(&["crawl", &api.urls[0], &database])));
            }
            let one = typical(once.into_iter());
            row(&format!("one app, {what}"), &one);
            let many = home.run(|| phase(&["crawl", &all, &together]));
            row(&format!("{apps} apps, {what}"), &many);
            ratio.push((what, many.groups_a_second() / one.groups_a_second()));
            home.settle("alone");
            home.settle("together");
        }
        println!();
        for (what, ratio) in ratio {
            println!("- {what}: {apps} apps at once reach {ratio:.2} of one app's groups/s");
        }
    }
}

pub(crate) fn compare_with_pace(groups: u64) {
    let home = Home::of(Engine::Sqlite);
    let database = home.database("paced");
    let api = Api::start(groups, 1);
    println!("\n### {groups} groups at the real pace\n");
    println!("| phase | requests | wall s | 1.02 × (requests − 1) × interval + 2 s |");
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
        figures.groups_a_second(),
        figures.wall,
        figures.whole_cpu(),
        figures.server_cpu,
        (figures.written + figures.wal) as f64 / 1e6,
        figures.rss as f64 / 1e6,
    );
}

/// The run of median time, with the mean of what a server used: its CPU is counted in hundredths of a second.
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
