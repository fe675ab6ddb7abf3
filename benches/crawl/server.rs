//! A temporary PostgreSQL server with default settings, in a temporary folder.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use crate::figures::cpu_with_children;
use crate::phases::runtime;

/// Starts a server. Prints its folder and process id. When stdin is closed, stops the server and
/// removes the folder.
const SCRIPT: &str = r#"
set -eu
bin=$1
dir=$(mktemp -d /tmp/tim-group-sync-bench.XXXXXX)
cd "$dir"
trap 'cd /; rm -rf "$dir"' EXIT
"$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C >log 2>&1 || { cat log >&2; exit 1; }
"$bin/postgres" -D data -c listen_addresses='' -c unix_socket_directories="$dir" >>log 2>&1 &
server=$!
trap 'kill -INT $server 2>/dev/null; wait $server; cd /; rm -rf "$dir"' EXIT
tries=0
until [ -S "$dir/.s.PGSQL.5432" ] && grep -q 'ready to accept' log; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] && kill -0 $server || { cat log >&2; exit 1; }
    sleep 0.1
done
echo "$dir"
echo "$server"
cat >/dev/null
"#;

/// A running server. Dropping it stops the server.
pub(crate) struct Server {
    folder: String,
    pid: u32,
    shell: Child,
    /// Closing this stops the server.
    stdin: Option<ChildStdin>,
}

/// The CPU time and the log position of a server at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    cpu: f64,
    wal: u64,
}

impl Server {
    pub(crate) fn start() -> Self {
        let programs = programs().expect(
            "PostgreSQL is not installed: run tests/run, or set PG_BIN to the folder of its programs",
        );
        let mut shell = as_ordinary_user();
        shell.args(["sh", "-c", SCRIPT, "bench"]).arg(programs).current_dir("/");
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = shell.stdin.take();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("a line from the server's script").unwrap();
        Self { folder: line(), pid: line().parse().unwrap(), shell, stdin }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder)
    }

    pub(crate) fn create(&self, database: &str) {
        self.execute("postgres", &format!("CREATE DATABASE {database}"));
    }

    /// Vacuums and checkpoints, so that no background work of the server disturbs the next
    /// measurement.
    pub(crate) fn vacuum_and_checkpoint(&self, database: &str) {
        self.execute(database, "VACUUM ANALYZE");
        self.execute(database, "CHECKPOINT");
    }

    pub(crate) fn execute(&self, database: &str, sql: &str) {
        runtime().block_on(async {
            self.connect(database).await.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
        });
    }

    pub(crate) fn number(&self, database: &str, sql: &str) -> u64 {
        let number: i64 = runtime().block_on(async {
            let mut connection = self.connect(database).await;
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
        });
        number.cast_unsigned()
    }

    async fn connect(&self, database: &str) -> PgConnection {
        self.url(database).parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
    }

    pub(crate) fn usage(&self) -> Usage {
        let wal = self.number("postgres", "SELECT CAST(pg_current_wal_lsn() - '0/0' AS BIGINT)");
        Usage { cpu: cpu_with_children(self.pid), wal }
    }

    /// Returns the CPU seconds and the bytes of write-ahead log since an earlier moment.
    pub(crate) fn since(&self, earlier: Usage) -> (f64, u64) {
        let now = self.usage();
        (now.cpu - earlier.cpu, now.wal - earlier.wal)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.shell.wait();
    }
}

fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PG_BIN").map(PathBuf::from).into_iter().collect();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(installed.map(|version| version.path().join("bin")));
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/postgresql/bin"));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

/// Returns a command prefix that drops root privileges, because PostgreSQL refuses to run as root.
fn as_ordinary_user() -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new("env");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    command
}
