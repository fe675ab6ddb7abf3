//! A PostgreSQL server for the tests. The first test that needs it starts it, as an ordinary user.
//!
//! A shell script owns the server. The script reads from a pipe that the test process holds open.
//! When the process ends for any reason, even by SIGKILL, the script stops the server and removes
//! its folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::store::{DatabaseLocation, Limits, PostgresDatabase, Store};
use tokio::sync::OnceCell;

use crate::network::Network;
use crate::store::Location;

const MISSING: &str = "these tests need a PostgreSQL server and found none: run `tests/run`, which installs one, or name \
                       its programs' folder in PG_BIN, or a server in TIM_GROUP_SYNC_TEST_DATABASE_URL";

/// Starts the server in a new folder and prints the folder's path. When its standard input is
/// closed, stops the server and ends.
const SERVER_SCRIPT: &str = r#"
set -eu
bin=$1
dir=$(mktemp -d /tmp/tim-group-sync-pg.XXXXXX)
cd "$dir"
trap 'cd /; rm -rf "$dir"' EXIT
"$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync >log 2>&1 || { cat log >&2; exit 1; }
cat >>data/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
full_page_writes = off
max_connections = 300
shared_buffers = 64MB
CONF
printf 'local all +locked scram-sha-256\nlocal all all trust\n' >data/pg_hba.conf
"$bin/postgres" -D data >>log 2>&1 &
server=$!
trap 'kill -INT $server 2>/dev/null; wait $server; cd /; rm -rf "$dir"' EXIT
tries=0
until [ -S "$dir/.s.PGSQL.5432" ] && grep -q 'ready to accept' log; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] && kill -0 $server || { cat log >&2; exit 1; }
    sleep 0.1
done
echo "$dir"
cat >/dev/null
"#;

/// A running server, shared by all tests of the process.
pub struct PostgresServer {
    /// The server's address, without a database.
    options: PgConnectOptions,
    url: ServerUrl,
    template: String,
    script: Option<ServerProcess>,
}

enum ServerUrl {
    Socket(PathBuf),
    Named(String),
}

struct ServerProcess {
    _shell: Child,
    /// Closing this stops the server.
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The database of one test. Dropping it drops the database.
pub struct ServerDatabase {
    pub name: String,
    pub url: String,
    /// The folder of the socket, with port 6432, of a pooler or proxy that stores connect through.
    pub pooler: Option<PathBuf>,
    /// The limits of its stores.
    pub limits: Limits,
    /// Whether the database is kept when this value is dropped: another value drops it, or it ends
    /// with its server.
    is_kept: bool,
}

/// A pgbouncer for the shared server that gives every transaction another server connection.
pub struct Pooler {
    folder: PathBuf,
    _script: ServerProcess,
}

const POOLER_SCRIPT: &str = r#"
set -eu
program=$1
server=$2
dir=$(mktemp -d /tmp/tim-group-sync-pooler.XXXXXX)
cd "$dir"
trap 'cd /; rm -rf "$dir"' EXIT
cat >pooler.ini <<CONF
[databases]
* = host=$server
[pgbouncer]
pool_mode = transaction
listen_port = 6432
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
default_pool_size = 4
server_round_robin = 1
CONF
echo '"postgres" ""' >users
"$program" pooler.ini >log 2>&1 &
pooler=$!
trap 'kill -INT $pooler 2>/dev/null; wait $pooler; cd /; rm -rf "$dir"' EXIT
tries=0
until [ -S "$dir/.s.PGSQL.6432" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] && kill -0 $pooler || { cat log >&2; exit 1; }
    sleep 0.1
done
echo "$dir"
cat >/dev/null
"#;

impl Pooler {
    /// Returns `None` if the server is named by its URL, because the pooler needs the server's
    /// socket.
    pub async fn start() -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new);
        let program = program.into_iter().find(|program| program.exists());
        let ServerUrl::Socket(server) = &PostgresServer::shared().await.url else {
            crate::skip("pgbouncer is not tested with a named server");
            return None;
        };
        let program = program.expect("no pgbouncer: `tests/run` installs it");
        let (folder, script) = ServerProcess::of(POOLER_SCRIPT, &[program, server]);
        Some(Self { folder, _script: script })
    }

    /// Creates a database whose stores connect through the pooler.
    pub async fn database(&self) -> ServerDatabase {
        let mut database = PostgresServer::shared().await.database().await;
        database.pooler = Some(self.folder.clone());
        database
    }
}

impl PostgresServer {
    /// Returns the shared server. The first call starts it.
    pub async fn shared() -> &'static Self {
        SERVER.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let named = std::env::var("TIM_GROUP_SYNC_TEST_DATABASE_URL").ok().filter(|url| !url.is_empty());
        let (url, script) = if let Some(url) = named {
            (ServerUrl::Named(url), None)
        } else {
            let (folder, script) = ServerProcess::of(SERVER_SCRIPT, &[&programs().expect(MISSING)]);
            (ServerUrl::Socket(folder), Some(script))
        };
        let text = match &url {
            ServerUrl::Named(url) => url.clone(),
            ServerUrl::Socket(folder) => socket_url("postgres", folder, "postgres"),
        };
        let options: PgConnectOptions = text.parse().unwrap();
        let template = format!("tgs_template_{}", std::process::id());
        let server = Self { options, url, template, script };
        if server.script.is_some() {
            server.administer(&format!("CREATE DATABASE {}", server.template)).await;
            migrate(&server.store_location(&server.template)).await;
        }
        server
    }

    /// Runs a statement as a superuser.
    pub async fn administer(&self, sql: &str) {
        let mut connection: PgConnection = self.options.connect().await.unwrap();
        connection
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.unwrap();
    }

    /// Runs SQL in a database of this server.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection: PgConnection = self.url(database).parse::<PgConnectOptions>()?.connect().await?;
        connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        connection.close().await
    }

    /// Creates a database with all tables.
    pub async fn database(&self) -> ServerDatabase {
        if self.script.is_some() {
            return self.new_database(&format!("TEMPLATE {}", self.template)).await;
        }
        // A server that is not stopped after the tests would keep the template.
        let database = self.empty_database().await;
        migrate(&database.store_location()).await;
        database
    }

    /// Creates a database without tables.
    pub async fn empty_database(&self) -> ServerDatabase {
        self.new_database("").await
    }

    async fn new_database(&self, options_sql: &str) -> ServerDatabase {
        let name = format!("tgs_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        self.administer(&format!("CREATE DATABASE {name} {options_sql}")).await;
        ServerDatabase { url: self.url(&name), name, pooler: None, limits: Limits::default(), is_kept: false }
    }

    /// Returns another handle of a database, which does not drop it.
    pub fn existing(&self, name: &str) -> ServerDatabase {
        ServerDatabase {
            url: self.url(name),
            name: name.to_owned(),
            pooler: None,
            limits: Limits::default(),
            is_kept: true,
        }
    }

    /// Returns the URL of a database of this server.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// Returns the URL of a database for another role. The role exists only on a server that the
    /// tests started.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        match &self.url {
            ServerUrl::Socket(folder) => socket_url(role, folder, database),
            ServerUrl::Named(url) => {
                let mut url = reqwest::Url::parse(url).unwrap();
                url.set_path(database);
                if role != "postgres" {
                    url.set_username(role).unwrap();
                }
                url.into()
            }
        }
    }

    fn store_location(&self, database: &str) -> DatabaseLocation {
        DatabaseLocation::Postgres(PostgresDatabase::new(&self.url(database)).unwrap())
    }

    /// Returns the folder of the server's socket, or `None` for a named server.
    pub fn socket_folder(&self) -> Option<&Path> {
        match &self.url {
            ServerUrl::Socket(folder) => Some(folder),
            ServerUrl::Named(_) => None,
        }
    }

    /// Returns true if the tests started the server, so that they may create roles and passwords.
    pub fn is_started_by_tests(&self) -> bool {
        self.script.is_some()
    }
}

/// A server for one test, which can be stopped, restarted and copied.
pub struct DedicatedServer {
    pub folder: PathBuf,
    script: Arc<Mutex<ServerProcess>>,
}

/// Starts a server like `SERVER_SCRIPT`, then executes one command per line of its standard input.
/// With a certificate and its key, the server listens on the first free port of the given ones, and
/// only accepts TLS.
const DEDICATED_SERVER_SCRIPT: &str = r#"
set -eu
bin=$1
certificate=$2
key=$3
shift 3
dir=$(mktemp -d /tmp/tim-group-sync-own-pg.XXXXXX)
cd "$dir"
umask 077
end() {
    for data in copy data; do
        if [ -e $data/postmaster.pid ]; then "$bin/pg_ctl" -D $data -m immediate stop >>log 2>&1 || true; fi
    done
    cd /
    rm -rf "$dir"
}
trap end EXIT
# A signal to the process group of the tests stops the server too.
trap 'exit 1' HUP INT TERM
start() {
    "$bin/pg_ctl" -D "$1" -l "$1.log" -w -t 30 start >>log 2>&1 </dev/null
}
give_up() {
    cat log ./*.log >&2
    exit 1
}
"$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync >log 2>&1 || give_up
cat >>data/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
max_connections = 50
shared_buffers = 16MB
CONF
if [ -n "$certificate" ]; then
    echo "$certificate" >server.crt
    echo "$key" >server.key
    echo 'hostssl all all 127.0.0.1/32 trust' >data/pg_hba.conf
    cat >>data/postgresql.conf <<CONF
listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
CONF
    started=no
    for port in "$@"; do
        echo "port = $port" >>data/postgresql.conf
        echo "$port" >port
        if start data; then started=yes; break; fi
    done
    [ $started = yes ] || give_up
else
    start data || give_up
fi
echo "$dir"
while read -r order; do
    case $order in
        stop) "$bin/pg_ctl" -D data -m immediate stop >>log 2>&1 || give_up ;;
        start) start data || give_up ;;
        promote) "$bin/pg_ctl" -D copy -w -t 60 promote >>log 2>&1 || give_up ;;
        copy)
            mkdir standby
            "$bin/pg_basebackup" -h "$dir" -U postgres -D copy -R -c fast --no-sync >>log 2>&1 || give_up
            echo "unix_socket_directories = '$dir/standby'" >>copy/postgresql.conf
            start copy || give_up
            ;;
    esac
    echo "$order"
done
"#;

impl DedicatedServer {
    /// Returns `None` if the tests use a named server and PostgreSQL's programs are not installed.
    pub fn start() -> Option<Self> {
        Self::run(&["", ""])
    }

    /// Starts a server that listens on a port of 127.0.0.1 and only accepts TLS. Returns `None` if
    /// PostgreSQL was built without TLS.
    pub fn with_certificate(certificate: &str, key: &str) -> Option<Self> {
        if let Some(programs) = programs() {
            // A build without TLS contains this error message.
            let message = ["-aqF", "SSL is not supported by this build"];
            let without = Command::new("grep").args(message).arg(programs.join("postgres")).status().unwrap();
            if without.success() {
                crate::skip(&format!("{} was built without TLS", programs.join("postgres").display()));
                return None;
            }
        }
        // Another process may take a port before the server listens, so three ports are passed.
        let free_port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let [one, two, three] = [free_port(), free_port(), free_port()].map(|port| port.to_string());
        Self::run(&[certificate, key, &one, &two, &three])
    }

    fn run(arguments: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("TIM_GROUP_SYNC_TEST_DATABASE_URL").is_some(), "{MISSING}");
            crate::skip("a named server cannot be stopped and copied; name PostgreSQL's programs in PG_BIN");
            return None;
        };
        let arguments: Vec<&Path> =
            std::iter::once(&*programs).chain(arguments.iter().map(Path::new)).collect();
        let (folder, script) = ServerProcess::of(DEDICATED_SERVER_SCRIPT, &arguments);
        Some(Self { folder, script: Arc::new(Mutex::new(script)) })
    }

    /// Returns the TCP port of a server with a certificate.
    pub fn port(&self) -> u16 {
        std::fs::read_to_string(self.folder.join("port")).unwrap().trim().parse().unwrap()
    }

    /// Creates the tables in the server's only database, and returns it.
    pub async fn database(&self) -> ServerDatabase {
        let url = socket_url("postgres", &self.folder, "postgres");
        let database = ServerDatabase {
            url,
            name: "postgres".to_owned(),
            pooler: None,
            limits: Limits::default(),
            is_kept: true,
        };
        migrate(&database.store_location()).await;
        database
    }

    /// Runs SQL in the server's only database.
    pub async fn execute(&self, sql: &str) {
        execute_at(&socket_url("postgres", &self.folder, "postgres"), sql).await;
    }

    /// Stops the server without a shutdown checkpoint, as a crash would.
    pub async fn crash(&self) {
        self.send("stop").await;
    }

    pub async fn restart(&self) {
        self.send("start").await;
    }

    /// Makes the replica a primary.
    pub async fn promote_replica(&self) {
        self.send("promote").await;
    }

    /// Returns the folder of the replica's socket.
    pub fn replica_folder(&self) -> PathBuf {
        self.folder.join("standby")
    }

    /// Creates the tables in the server's only database, and returns it. Stores connect to it only
    /// through this network.
    pub async fn database_behind(&self, network: &Network, limits: Limits) -> ServerDatabase {
        let url = socket_url("postgres", network.folder(), "postgres") + "&port=6432";
        let database =
            ServerDatabase { url, name: "postgres".to_owned(), pooler: None, limits, is_kept: true };
        migrate(&database.store_location()).await;
        database
    }

    /// Runs SQL in the replica.
    pub async fn execute_on_replica(&self, sql: &str) {
        execute_at(&socket_url("postgres", &self.replica_folder(), "postgres"), sql).await;
    }

    /// Starts a replica that follows this server, and returns its location. Returns `None` if
    /// `pg_basebackup` is not installed beside the server's programs.
    pub async fn replica(&self) -> Option<DatabaseLocation> {
        let programs = programs().expect("the server was started from these programs");
        if !programs.join("pg_basebackup").exists() {
            crate::skip(&format!("there is no pg_basebackup in {}", programs.display()));
            return None;
        }
        self.send("copy").await;
        let url = socket_url("postgres", &self.folder.join("standby"), "postgres");
        Some(DatabaseLocation::Postgres(PostgresDatabase::new(&url).unwrap()))
    }

    async fn send(&self, command: &'static str) {
        let script = Arc::clone(&self.script);
        tokio::task::spawn_blocking(move || script.lock().unwrap().send(command)).await.unwrap();
    }
}

async fn execute_at(url: &str, sql: &str) {
    let mut connection = url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    connection.close().await.unwrap();
}

async fn migrate(database: &DatabaseLocation) {
    let store = Store::open(database).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
}

impl ServerDatabase {
    pub fn settings(&self) -> PostgresDatabase {
        let url = match &self.pooler {
            Some(folder) => socket_url("postgres", folder, &self.name) + "&port=6432",
            None => self.url.clone(),
        };
        PostgresDatabase::new(&url).unwrap().limits(self.limits)
    }

    /// Returns the same database, whose stores connect without a network or pooler.
    pub fn direct(&self) -> Self {
        let Self { name, url, limits, .. } = self;
        Self { name: name.clone(), url: url.clone(), pooler: None, limits: *limits, is_kept: true }
    }

    /// Returns the URL of the same database through this network.
    pub fn url_through(&self, network: &Network) -> String {
        socket_url("postgres", network.folder(), &self.name) + "&port=6432"
    }

    /// Makes stores connect through the same pooler as those of the other database, if it has one.
    pub fn through_same_pooler(mut self, other: &Location) -> Self {
        if let Location::Postgres(other) = other {
            self.pooler.clone_from(&other.pooler);
        }
        self
    }

    pub fn store_location(&self) -> DatabaseLocation {
        DatabaseLocation::Postgres(self.settings())
    }
}

impl Drop for ServerDatabase {
    fn drop(&mut self) {
        let Some(server) = SERVER.get().filter(|_| !self.is_kept) else { return };
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let options = server.options.clone();
        // The test's runtime may be shutting down, and must not be blocked.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection: PgConnection = options.connect().await?;
                connection.execute(AssertSqlSafe(drop)).await?;
                connection.close().await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        let _ = dropper.join();
    }
}

impl ServerProcess {
    /// Runs a script that prints the path of its folder as its first line, and ends when its input
    /// ends.
    fn of(script: &str, arguments: &[&Path]) -> (PathBuf, Self) {
        let mut shell = as_ordinary_user();
        shell.args(["sh", "-c", script, "test-server"]).args(arguments);
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/")
            .spawn()
            .expect("a shell starts");
        let commands = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut script = Self { _shell: child, commands, answers };
        (PathBuf::from(script.answer()), script)
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the test server did not start; its output is above");
        line.trim().to_owned()
    }

    fn send(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
        assert_eq!(self.answer(), command);
    }
}

/// Returns a command prefix that drops root privileges, because PostgreSQL refuses to run as root.
fn as_ordinary_user() -> Command {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
        command
    } else {
        Command::new("env")
    }
}

/// Finds the folder of `initdb` and `postgres`.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PG_BIN").map(PathBuf::from).into_iter().collect();
    let program = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut program: Vec<PathBuf> = program.map(|version| version.path().join("bin")).collect();
    program.sort();
    folders.extend(program.into_iter().rev());
    folders.push(crate::root().join("target/postgresql/bin"));
    folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// Returns the path of one of PostgreSQL's programs, or `None` if it is not installed.
pub fn server_program(name: &str) -> Option<PathBuf> {
    Some(programs()?.join(name)).filter(|program| program.exists())
}

fn socket_url(role: &str, folder: &Path, database: &str) -> String {
    format!("postgres://{role}@localhost/{database}?host={}", folder.display())
}
