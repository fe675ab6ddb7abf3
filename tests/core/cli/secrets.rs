//! No output contains the key, a UserSig or the database's password, and no signature is sent to a
//! server without a trusted certificate.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use harness::cli::get;
use harness::cli::{CliHarness, CommandOutput};
use harness::postgres::PostgresServer;
use harness::program::Service;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::clock::Clock;
use tim_group_sync::config::{Config, Environment};
use tim_group_sync::model::SdkAppId;
use tim_group_sync::simulator::{At, Fault, KEY};
use tim_group_sync::store::PostgresDatabase;
use tim_group_sync::tencent::usersig::{Claims, SecretKey, sign};
use tim_group_sync::tencent::{Client, ClientSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A valid key that the API does not accept.
const WRONG_KEY: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const PASSWORD: &str = "correct-horse-battery";

/// Returns the first secret in a text. A UserSig begins with `eJ`, the base64 form of the zlib
/// header.
fn secret_in(text: &str) -> Option<&str> {
    let known = [KEY, WRONG_KEY, PASSWORD, "usersig="].into_iter().find(|secret| text.contains(secret));
    known.or_else(|| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "*-_+/=%".contains(c);
        text.split(|c| !is_part(c)).find(|word| word.find("eJ").is_some_and(|at| word.len() - at > 100))
    })
}

fn assert_no_secret(what: &str, text: &str) {
    if let Some(secret) = secret_in(text) {
        panic!("{what} shows {secret:?}: {text}");
    }
}

fn assert_output_has_no_secret(what: &str, ended: &CommandOutput) {
    assert_no_secret(&format!("stdout of {what}"), &ended.stdout);
    assert_no_secret(&format!("stderr of {what}"), &ended.stderr);
}

/// Runs a command with log level trace.
async fn run(cli: &CliHarness, arguments: &[&str], variables: &[(&str, &str)]) -> CommandOutput {
    let mut command = cli.command(arguments);
    command.env("TIM_GROUP_SYNC_LOG", "trace").envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    CommandOutput { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command. Checks that it shows no secret and exits with this code.
async fn run_without_secrets(cli: &CliHarness, arguments: &[&str], code: i32) -> CommandOutput {
    let ended = run(cli, arguments, &[]).await;
    assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
    assert_output_has_no_secret(&arguments.join(" "), &ended);
    ended
}

#[test]
fn secrets_are_recognised_in_a_text() {
    let claims = Claims {
        sdk_app_id: SdkAppId::new(1_400_000_000).unwrap(),
        identifier: "administrator".to_owned(),
        issued_at: 1_772_000_000,
        lifetime: Duration::from_hours(1),
    };
    let usersig = sign(&claims, &SecretKey::new(KEY));
    let url = format!("https://h/x?a=b&sig={}&random=1", usersig.expose());
    assert!(secret_in(&url).is_some());
    assert!(secret_in(&format!("key {KEY}.")).is_some() && secret_in(PASSWORD).is_some());
    assert_eq!(secret_in("GET /v4/group_open_http_svc/get_appid_group_list took 3 ms"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_successful_command_shows_a_secret() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    for (arguments, code) in [
        (&["check"][..], 0),
        (&["migrate"], 0),
        (&["crawl"], 0),
        (&["crawl", "--json"], 0),
        (&["status"], 0),
        (&["check", "--show-config"], 0),
        (&["check", "--json"], 0),
        (&["check", "--probe", "--probe-wait", "0s"], 0),
    ] {
        let ended = run_without_secrets(&cli, arguments, code).await;
        // Without the variable, a command logs only warnings.
        assert!(arguments != ["crawl"] || ended.stderr.contains("INFO"), "{ended:?}");
    }
    cli.api.dissolve_some(300);
    for (arguments, code) in [
        (&["crawl", "--dry-run"][..], 3),
        (&["crawl"], 3),
        (&["approve", "--crawl", "3"], 0),
        (&["undelete", "--crawl", "3", "--json"], 0),
        (&["status", "--json"], 0),
        (&["status", "--max-age", "0s"], 1),
    ] {
        run_without_secrets(&cli, arguments, code).await;
    }
    // `usersig` is the only command that prints a secret: once, on stdout.
    let signed = run(&cli, &["usersig", "--app", "prod"], &[]).await;
    assert_eq!(signed.code, Some(0), "{signed:?}");
    assert!(secret_in(&signed.stdout).is_some() && !signed.stdout.contains(KEY), "{signed:?}");
    assert_no_secret("stderr of usersig", &signed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_whatever_the_api_answers() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    cli.configure("page_limit = 10\ngroup_types = [\"Public\"]\n");
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let impatient = lines.replace("\"2s\"", "\"200ms\"").replace("retry_for = \"1s\"", "retry_for = \"0s\"");
    std::fs::write(cli.path("config.toml"), impatient).unwrap();
    let answered = [1, 10004, 10007, 60002, 60011, 60021, 70001, 70003, 70009, 70013, 70016, 70403];
    let mut faults: Vec<Fault> = answered.into_iter().map(Fault::ErrorCode).collect();
    faults.extend([
        Fault::Status(404),
        Fault::Status(429),
        Fault::Status(503),
        Fault::Timeout,
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::HtmlWith200,
        Fault::OversizedBody,
        Fault::Redirect,
        Fault::EarlyEnd,
        Fault::RepeatCursor,
        Fault::NoNext,
        Fault::NextIs("eleven".to_owned()),
        Fault::NoTotalCount,
    ]);
    for fault in faults {
        cli.api.script(At::Every, fault.clone());
        let ended = run(&cli, &["crawl"], &[]).await;
        assert_output_has_no_secret(&format!("a crawl with {fault:?}"), &ended);
        assert!(
            ended.code.is_some_and(|code| code != 0) || matches!(fault, Fault::NoTotalCount),
            "{fault:?}: {ended:?}"
        );
        cli.api.clear_faults();
    }
    cli.write_key(WRONG_KEY);
    run_without_secrets(&cli, &["check"], 78).await;
    run_without_secrets(&cli, &["crawl"], 78).await;
    // No server listens at this address.
    cli.write_key(KEY);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let elsewhere = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let elsewhere = elsewhere.replace(&cli.api.base_url(), &format!("http://{closed}"));
    std::fs::write(cli.path("config.toml"), elsewhere).unwrap();
    run_without_secrets(&cli, &["crawl"], 1).await;
    run_without_secrets(&cli, &["status", "--json"], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_in_the_wrong_place_is_shown() {
    let cli = CliHarness::new().await;
    cli.configure("");
    let valid = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    for (from, to) in [
        ("secret_key_file = \"app.key\"", format!("secret_key_file = \"{KEY}\"")),
        ("secret_key_file = \"app.key\"", format!("secret_key = \"{KEY}\"")),
        ("secret_key_file = \"app.key\"", format!("secret_key_file = {KEY}")),
        ("secret_key_file = \"app.key\"", format!("secret_key_file = [\"{KEY}\"]")),
        ("\"sqlite:groups.db\"", format!("\"postgres://tim:{PASSWORD}@localhost/tim\"")),
        ("\"sqlite:groups.db\"", format!("\"postgres://tim:{PASSWORD}@localhost:port/tim\"")),
        ("\"sqlite:groups.db\"", format!("\"mysql://tim:{PASSWORD}@localhost/tim\"")),
        ("url = \"sqlite:groups.db\"", format!("password = \"{PASSWORD}\"")),
        ("http://127", format!("http://tim:{PASSWORD}@127")),
    ] {
        let lines = valid.replace(from, &to);
        assert_ne!(lines, valid);
        std::fs::write(cli.path("config.toml"), lines).unwrap();
        for arguments in [&["check"][..], &["check", "--show-config"], &["crawl", "--json"], &["run"]] {
            run_without_secrets(&cli, arguments, 78).await;
        }
    }
    std::fs::write(cli.path("config.toml"), &valid).unwrap();
    for content in [format!("{KEY}\n{KEY}"), format!("secret {KEY}"), format!("{KEY}{}", "x".repeat(5000))] {
        std::fs::write(cli.path("app.key"), content).unwrap();
        for command in ["check", "crawl"] {
            run_without_secrets(&cli, &[command], 78).await;
        }
    }
    // A URL in an environment variable may contain a password.
    for url in [
        format!("postgres://tim:{PASSWORD}@localhost:1/tim"),
        format!("postgres://tim:{PASSWORD}@localhost:port/tim"),
        format!("postgres://tim@localhost:1/tim?password={PASSWORD}"),
    ] {
        for arguments in [&["check", "--json"][..], &["status"], &["check", "--show-config"]] {
            let ended = run(&cli, arguments, &[("TIM_GROUP_SYNC_DATABASE_URL", &url)]).await;
            assert_output_has_no_secret(&format!("{arguments:?} with a URL of the environment"), &ended);
        }
    }
    let init =
        ["init", "--sdk-app-id", "1", "--region", "china", "--secret-key-file", "app.key", "--database"];
    std::fs::remove_file(cli.path("config.toml")).unwrap();
    let url = format!("postgres://tim:{PASSWORD}@localhost/tim");
    cli.write_key(KEY);
    run_without_secrets(&cli, &[&init[..], &[&url]].concat(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_databases_password_is_never_shown() {
    let server = PostgresServer::shared().await;
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 5);
    let database = server.database().await;
    let name = database.settings().to_string();
    assert_no_secret("the database's name", &name);
    std::fs::write(cli.path("password"), PASSWORD).unwrap();
    std::fs::set_permissions(cli.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let at = |url: &str| {
        let database = format!("url = \"{url}\"\npassword_file = \"password\"");
        std::fs::write(cli.path("config.toml"), lines.replace("url = \"sqlite:groups.db\"", &database))
            .unwrap();
    };
    at(&database.url);
    for command in ["migrate", "check", "crawl", "status"] {
        run_without_secrets(&cli, &[command], 0).await;
    }
    run_without_secrets(&cli, &["check", "--show-config"], 0).await;
    if server.is_started_by_tests() {
        let role = format!("keyless_{}", std::process::id());
        server
            .administer(&format!(
                "DO $$ BEGIN CREATE ROLE locked; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                 CREATE ROLE {role} LOGIN PASSWORD 'another' IN ROLE locked"
            ))
            .await;
        at(&server.url_as(&role, &database.name));
        for command in ["check", "crawl", "status"] {
            run_without_secrets(&cli, &[command], 78).await;
        }
        server.administer(&format!("DROP ROLE {role}")).await;
    }
    at("postgres://tim@localhost:1/tim");
    for command in ["check", "crawl", "status"] {
        run_without_secrets(&cli, &[command], 75).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_visible_in_the_arguments_or_the_environment_of_the_process() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    // The daemon catches up its first crawl at once.
    for command in ["run", "crawl"] {
        let held = cli.api.hold(At::Every);
        let mut spawned = cli.command(&[command]);
        spawned.env("TIM_GROUP_SYNC_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = spawned.spawn().unwrap();
        let id = child.id();
        let ending = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        // At this point the command has read its key and signed a request.
        held.reached().await;
        for file in ["cmdline", "environ", "comm", "status"] {
            let shown = std::fs::read(format!("/proc/{id}/{file}")).unwrap();
            assert!(!shown.is_empty());
            assert_no_secret(&format!("{file} of {command}"), &text(&shown));
        }
        held.release();
        if command == "run" {
            let pid = Pid::from_raw(id.cast_signed()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }
        let output = ending.await.unwrap();
        let ended = CommandOutput {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_output_has_no_secret(command, &ended);
    }
}

/// Returns the address in a log line.
fn address_in(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["address"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_daemons_log_or_its_http_answers() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    cli.configure("");
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let listening = lines.replace("listen = \"\"", "listen = \"127.0.0.1:0\"");
    assert_ne!(listening, lines);
    std::fs::write(cli.path("config.toml"), &listening).unwrap();
    let mut command = cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_LOG", "trace");
    let (daemon, metrics) = Service::spawn(command).wait_for_log_line("serving /metrics").await;
    let (daemon, dashboard) = daemon.wait_for_log_line("serving the dashboard").await;
    let daemon = daemon.wait_for_log("crawl complete").await;
    let (metrics, dashboard) = (address_in(&metrics), address_in(&dashboard));
    let request_all_pages = async |state: &str| {
        let pages = ["/metrics", "/healthz", "/readyz", "/readyz?usersig=x", "/nothing"];
        let mut requests: Vec<(&str, String)> =
            pages.into_iter().map(|page| (metrics.as_str(), page.to_owned())).collect();
        for page in ["/", "/api/apps"] {
            requests.push((&dashboard, page.to_owned()));
        }
        let of_app =
            ["", "/crawls", "/app_counts", "/type_counts", "/daily_counts", "/group_events", "/groups"];
        for page in of_app {
            requests.push((&dashboard, format!("/api/apps/1400000000{page}")));
        }
        for (address, page) in requests {
            let (status, head, body) = get(address, &page).await;
            assert!(page == "/nothing" || !status.starts_with("404"), "{page}: {status}");
            assert_no_secret(&format!("{page} while {state}"), &format!("{status} {head} {body}"));
        }
    };
    request_all_pages("all is well").await;
    cli.write_key(WRONG_KEY);
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await;
    daemon.signal(Signal::USR1);
    let daemon = daemon.wait_for_log("crawl failed").await;
    request_all_pages("the key is refused").await;
    std::fs::write(cli.path("config.toml"), listening.replace("\"app.key\"", &format!("\"{KEY}\""))).unwrap();
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("was not reloaded").await;
    request_all_pages("the configuration holds a key").await;
    daemon.signal(Signal::TERM);
    let daemon = daemon.wait_for_log("stopped").await;
    assert_no_secret("the log", daemon.log());
    assert_eq!(daemon.wait_for_exit().await, Some(0));
}

#[tokio::test]
async fn no_debug_output_shows_a_secret() {
    let cli = CliHarness::new().await;
    std::fs::write(cli.path("password"), PASSWORD).unwrap();
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let server = "url = \"postgres://tim@localhost/tim\"\npassword_file = \"password\"";
    std::fs::write(cli.path("config.toml"), lines.replace("url = \"sqlite:groups.db\"", server)).unwrap();
    let with_password = format!("postgres://tim:{PASSWORD}@localhost/tim");
    let environments = [
        Environment::new([("HOME", "/home/u")]),
        Environment::new([("TIM_GROUP_SYNC_DATABASE_URL", with_password.clone())]),
    ];
    for environment in environments {
        let config = Config::load(&cli.path("config.toml"), &environment).unwrap();
        let app = &config.apps[0];
        let key = app.read_secret_key().unwrap();
        let client = Client::new(ClientSettings {
            sdk_app_id: app.sdk_app_id,
            identifier: app.identifier.clone(),
            secret_key: key.key.clone(),
            base_url: app.api.base_url.clone(),
            region_hint: String::new(),
            request_timeout: app.request_timeout,
            clock: Clock::system(),
        })
        .unwrap();
        let claims = Claims {
            sdk_app_id: app.sdk_app_id,
            identifier: app.identifier.clone(),
            issued_at: 1_772_000_000,
            lifetime: Duration::from_hours(1),
        };
        let usersig = sign(&claims, &key.key);
        let password = config.database.read_password().unwrap();
        let database = PostgresDatabase::new(&with_password).unwrap();
        let shown = format!(
            "{environment:?} {config:#?} {key:?} {client:#?} {usersig:?} {password:?} {database:?} {database}"
        );
        assert_no_secret("Debug", &shown);
    }
}

/// A certificate authority that issues certificates for TLS proxies in front of a plain server.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut of_authority = CertificateParams::default();
        of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(of_authority, KeyPair::generate().unwrap()).unwrap())
    }

    /// Starts a TLS proxy with a certificate for this name that is valid until this year. Returns
    /// its address.
    async fn server(&self, name: &str, valid_until: i32, upstream: SocketAddr) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let mut of_server = CertificateParams::new(vec![name.to_owned()]).unwrap();
        of_server.not_after = rcgen::date_time_ymd(valid_until, 1, 1);
        let certificate = of_server.signed_by(&key, &self.0).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(upstream).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        address
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signature_is_sent_to_an_api_without_a_trusted_certificate() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let plain = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let (trusted, untrusted) = (Authority::new(), Authority::new());
    std::fs::write(cli.path("ca.pem"), trusted.0.pem()).unwrap();
    std::fs::write(cli.path("none.pem"), "").unwrap();
    let bundle = cli.path("ca.pem").display().to_string();
    let none = cli.path("none.pem").display().to_string();
    let api = cli.api.addr();
    let check = async |server: SocketAddr, bundle: &str| {
        let lines = plain.replace(&cli.api.base_url(), &format!("https://localhost:{}", server.port()));
        std::fs::write(cli.path("config.toml"), lines).unwrap();
        let ended = run(&cli, &["check"], &[("SSL_CERT_FILE", bundle)]).await;
        assert_output_has_no_secret("check over TLS", &ended);
        ended
    };
    for server in [
        untrusted.server("localhost", 2100, api).await,
        trusted.server("example.com", 2100, api).await,
        trusted.server("localhost", 2020, api).await,
    ] {
        let ended = check(server, &bundle).await;
        let is_untrusted = ended.stdout.contains("is not trusted");
        assert!(ended.code == Some(1) && is_untrusted && ended.stdout.contains("SSL_CERT_FILE"), "{ended:?}");
    }
    let ended = check(trusted.server("localhost", 2100, api).await, &none).await;
    let has_reason = ended.stdout.contains("No CA certificates") && ended.stdout.contains("SSL_CERT_FILE");
    assert!(ended.code == Some(1) && has_reason, "{ended:?}");
    assert!(cli.api.requests().is_empty(), "a signature reached a server without a trusted certificate");
    let ended = check(trusted.server("localhost", 2100, api).await, &bundle).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("3 groups"), "{ended:?}");
    // A URL with http needs no certificates, so none need to be installed.
    std::fs::write(cli.path("config.toml"), &plain).unwrap();
    let ended = run(&cli, &["check"], &[("SSL_CERT_FILE", &none)]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// docs/operations.md says when changed certificates are read.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_reads_changed_ca_certificates_when_it_reloads() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let (current, previous) = (Authority::new(), Authority::new());
    let server = current.server("localhost", 2100, cli.api.addr()).await;
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let lines = lines.replace(&cli.api.base_url(), &format!("https://localhost:{}", server.port()));
    std::fs::write(cli.path("config.toml"), lines).unwrap();
    std::fs::write(cli.path("ca.pem"), previous.0.pem()).unwrap();
    let mut command = cli.command(&["run"]);
    command.env("SSL_CERT_FILE", cli.path("ca.pem"));
    let daemon = Service::spawn(command).wait_for_log("crawl failed").await;
    std::fs::write(cli.path("ca.pem"), current.0.pem()).unwrap();
    daemon.signal(Signal::USR1);
    let daemon = daemon.wait_for_log("crawl failed").await;
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await;
    daemon.signal(Signal::USR1);
    let daemon = daemon.wait_for_log("crawl complete").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_for_exit().await, Some(0));
}
