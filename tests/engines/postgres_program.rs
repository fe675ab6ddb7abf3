//! The program with a database on a server: shared, refused, or unreachable.

use std::time::Duration;

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::postgres::{DedicatedServer, PostgresServer, ServerDatabase};
use harness::program::{ONCE_A_YEAR, ProgramHarness, REQUESTS, Service};
use harness::store::{Location, TestDatabase};
use rustix::process::Signal;
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::At;

crawl_tests! {
    services_that_start_at_the_same_time_on_an_empty_database_crawl_a_tick_once,
    a_database_of_a_newer_version_is_refused,
}

const NO_LISTENERS: &str = "[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n";

async fn services_that_start_at_the_same_time_on_an_empty_database_crawl_a_tick_once(harness: Harness) {
    let mut harness = harness;
    harness.db = harness.db.empty_like().await;
    harness.create("Public", "a b c");
    let program = ProgramHarness::new(harness, "");
    program.configure(NO_LISTENERS);
    // All services have missed the same tick.
    let services: Vec<Service> = (0..3).map(|_| Service::start(&program)).collect();
    let started = services.into_iter().map(|service| service.wait_for_log("started"));
    let started = futures_util::future::join_all(started).await;
    // A service reports its start while it still opens the database.
    let migrated = match program.harness.engine {
        Engine::Sqlite => "SELECT count(*) FROM sqlite_schema WHERE name = 'crawls'",
        Engine::Postgres => "SELECT count(*) FROM pg_class WHERE relname = 'crawls'",
    };
    while program.harness.value(migrated).await == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let crawls = "SELECT trigger, status FROM crawls ORDER BY crawl_id";
    let wait_until_crawls_are = async |expected: &[&str]| {
        while program.harness.lines(crawls).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait_until_crawls_are(&["catch_up complete"]).await;
    // The signals start crawls after the missed tick is caught up.
    started.iter().for_each(|service| service.signal(Signal::USR1));
    let by_signal = "signal complete";
    wait_until_crawls_are(&["catch_up complete", by_signal, by_signal, by_signal]).await;
    for service in started {
        assert_eq!(service.stop().await, Some(0));
    }
    program.harness.assert_invariants().await;
    program.harness.assert_table_matches_api().await;
}

async fn a_database_of_a_newer_version_is_refused(harness: Harness) {
    let program = ProgramHarness::new(harness, "");
    program.configure(NO_LISTENERS);
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9001, 'x', TRUE, '', 0)";
    TestDatabase::execute(&program.harness.db.store_location(), newer).await;
    for command in [&["crawl"][..], &["run"], &["status"], &["migrate"], &["approve", "--crawl", "1"]] {
        let ended = program.run(command).await;
        let sentence = "set up by a newer version of this program (it has migration 9001)";
        assert!(ended.code == Some(78) && ended.output.contains(sentence), "{command:?}: {ended:?}");
    }
    assert_eq!(program.harness.value("SELECT count(*) FROM app").await, "0");
}

/// Creates a harness with an empty database, and a role that may log in.
async fn program_for(role: &str, options_sql: &str) -> (ProgramHarness, String) {
    let mut harness = Harness::on(Engine::Postgres).await;
    harness.db = harness.db.empty_like().await;
    let Location::Postgres(ServerDatabase { name, .. }) = &harness.db.location else {
        unreachable!("it is on PostgreSQL")
    };
    let role = format!("{role}_{name}");
    let server = PostgresServer::shared().await;
    server.administer(&format!("CREATE ROLE {role} LOGIN {options_sql}")).await;
    let url = server.url_as(&role, name);
    (ProgramHarness::new(harness, ""), url)
}

async fn drop_role(program: &ProgramHarness, role: &str) {
    let sql = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    TestDatabase::execute(&program.harness.db.store_location(), &sql).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_password_is_read_from_a_file_the_environment_or_pgpass_and_never_printed() {
    let server = PostgresServer::shared().await;
    if !server.is_started_by_tests() {
        harness::skip("whether a named server requires passwords is not known");
        return;
    }
    let locked = "DO $$ BEGIN CREATE ROLE locked; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    server.administer(locked).await;
    let (program, url) = program_for("secretive", "PASSWORD 'geheim' IN ROLE locked").await;
    let Location::Postgres(ServerDatabase { name, .. }) = &program.harness.db.location else {
        unreachable!()
    };
    let role = format!("secretive_{name}");
    server.administer(&format!("GRANT CREATE ON DATABASE {name} TO {role}")).await;
    let folder = program.folder.path().to_str().unwrap();
    let migrate = async |environment: &[(&str, &str)]| {
        let mut command = program.command(&["migrate"]);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", &url).envs(environment.iter().copied());
        program.run_command(&mut command).await
    };
    let refused = migrate(&[]).await;
    assert!(refused.code == Some(78) && refused.output.contains("password"), "{refused:?}");
    let wrong = migrate(&[("PGPASSWORD", "falsch")]).await;
    assert!(wrong.code == Some(78) && !wrong.output.contains("falsch"), "{wrong:?}");
    let line = format!("localhost:*:{name}:{role}:geheim\n");
    program.write_secret(".pgpass", &line);
    program.write_secret("passwords", &line);
    let elsewhere = format!("{folder}/passwords");
    for given in [("PGPASSWORD", "geheim"), ("HOME", folder), ("PGPASSFILE", &elsewhere)] {
        let ended = migrate(&[given]).await;
        assert!(ended.code == Some(0) && !ended.output.contains("geheim"), "{given:?}: {ended:?}");
    }
    let mut check = program.command(&["check"]);
    check.env("TIM_GROUP_SYNC_DATABASE_URL", &url).env("PGPASSWORD", "geheim");
    let checked = program.run_command(&mut check).await;
    let sentence = "the password comes from PGPASSWORD of this command; the service has its own environment";
    assert!(checked.code == Some(0) && checked.output.contains(sentence), "{checked:?}");
    program.write_secret("db-password", "geheim\n");
    program.configure("[database]\npassword_file = \"db-password\"\n");
    let ended = migrate(&[]).await;
    assert!(ended.code == Some(0) && !ended.output.contains("geheim"), "{ended:?}");
    drop_role(&program, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn an_unusable_database_ends_every_command_with_a_message_and_the_right_exit_code() {
    let (program, url) = program_for("guest", "").await;
    program.configure(NO_LISTENERS);
    let Location::Postgres(ServerDatabase { name, .. }) = &program.harness.db.location else {
        unreachable!()
    };
    let role = format!("guest_{name}");
    let grant = format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{role}\"");
    let absent = PostgresServer::shared().await.url("no_such_database");
    for (url, command, code, sentence) in [
        ("mysql://u@localhost/d", "crawl", 78, "must begin with sqlite: or postgres://"),
        ("postgres://u@127.0.0.1:1/d", "crawl", 75, "cannot open the database postgres://u@127.0.0.1:1/d"),
        ("postgres://u@localhost/d?host=/nowhere", "crawl", 75, "cannot open the database"),
        (&absent, "run", 78, "database \"no_such_database\" does not exist"),
        (&url, "crawl", 78, &grant),
        (&url, "run", 78, &grant),
        (&url, "status", 78, "no tables of this program yet"),
    ] {
        let mut command = program.command(&[command]);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        let ended = program.run_command(&mut command).await;
        // A log line is JSON, which escapes quotation marks.
        let output = ended.output.replace("\\\"", "\"");
        assert!(ended.code == Some(code) && output.contains(sentence), "{url}: {ended:?}");
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'tim%'";
    assert_eq!(program.harness.value(schemas).await, "0");

    // A read-only database is a replica. Its primary may have another address after a failover.
    let server = PostgresServer::shared().await;
    server.administer(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let ended = program.run(&["crawl"]).await;
    assert!(
        ended.code == Some(75) && ended.output.contains("set database.url to the primary server"),
        "{ended:?}"
    );
    server.administer(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    drop_role(&program, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn pending_migrations_are_printed_and_all_if_the_server_is_unreachable() {
    let program = ProgramHarness::new(Harness::on(Engine::Postgres).await, "");
    let ended = program.run(&["migrate", "--print"]).await;
    assert_eq!(
        (ended.code, ended.output.trim()),
        (Some(0), "-- Nothing to apply: the tables are up to date.")
    );
    let mut unreachable = program.command(&["migrate", "--print"]);
    unreachable.env("TIM_GROUP_SYNC_DATABASE_URL", "postgres://u@127.0.0.1:1/d");
    let ended = program.run_command(&mut unreachable).await;
    let contains = |text: &str| ended.output.contains(text);
    assert!(
        ended.code == Some(0) && contains("-- 0001 ") && contains("this one could not be read"),
        "{ended:?}"
    );
}

/// The password file changes while the service runs, as with systemd's LoadCredential= or a mounted
/// secret.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_uses_a_rotated_password_without_a_restart() {
    let server = PostgresServer::shared().await;
    if !server.is_started_by_tests() {
        harness::skip("whether a named server requires passwords is not known");
        return;
    }
    let locked = "DO $$ BEGIN CREATE ROLE locked; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    server.administer(locked).await;
    let (program, url) = program_for("rotated", "PASSWORD 'first' IN ROLE locked").await;
    let Location::Postgres(ServerDatabase { name, .. }) = &program.harness.db.location else {
        unreachable!()
    };
    let role = format!("rotated_{name}");
    server.administer(&format!("GRANT CREATE ON DATABASE {name} TO {role}")).await;
    program.write_secret("db-password", "first\n");
    program.configure(&format!("[database]\npassword_file = \"db-password\"\n{ONCE_A_YEAR}"));
    let mut command = program.command(&["run"]);
    command.env("TIM_GROUP_SYNC_DATABASE_URL", &url);
    let service = Service::from_process(program.spawn(&mut command)).wait_for_log("crawl complete").await;
    program.write_secret("db-password", "second\n");
    server.administer(&format!("ALTER ROLE {role} PASSWORD 'second'")).await;
    server
        .administer(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
        ))
        .await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    service.signal(Signal::HUP);
    let service = service.wait_for_log("configuration reloaded").await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    assert_eq!(service.stop().await, Some(0));
    drop_role(&program, &role).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_waits_for_an_unreachable_server_and_stops_on_sigterm() {
    let harness = Harness::on(Engine::Postgres).await;
    let program = ProgramHarness::new(harness, "");
    // The URL is in the configuration, because a URL in the environment would override it.
    program.configure("[database]\nurl = \"postgres://u@127.0.0.1:1/d\"\n");
    program.configure(NO_LISTENERS);
    let mut command = program.command(&["run"]);
    command.env_remove("TIM_GROUP_SYNC_DATABASE_URL");
    let waiting =
        Service::from_process(program.spawn(&mut command)).wait_for_log("waiting for the database").await;
    assert_eq!(waiting.stop().await, Some(0));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_recovers_if_its_connections_are_cut_at_any_request() {
    let mut program = ProgramHarness::with_groups(Harness::on(Engine::Postgres).await);
    let url = program.harness.db.store_location();
    let cut = async || {
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        TestDatabase::execute(&url, others).await;
    };
    program.assert_service_survives(cut).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_recovers_if_its_server_restarts_at_any_request() {
    let Some(server) = DedicatedServer::start() else { return };
    let harness =
        Harness::with_database(TestDatabase::on_postgres(server.database().await).await, Engine::Postgres)
            .await;
    let restart = async || {
        server.crash().await;
        server.restart().await;
    };
    ProgramHarness::with_groups(harness).assert_service_survives(restart).await;
}

/// The server is unreachable for longer than a transaction is retried.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_crawls_again_once_an_unreachable_server_is_back() {
    let Some(server) = DedicatedServer::start() else { return };
    let harness =
        Harness::with_database(TestDatabase::on_postgres(server.database().await).await, Engine::Postgres)
            .await;
    let mut program = ProgramHarness::with_groups(harness);
    let mut service = program.start_service().await;
    program.churn();
    let held = program.harness.api.hold(At::Request(program.harness.request(REQUESTS)));
    service.signal(Signal::USR1);
    service.wait_for(held.reached()).await;
    server.crash().await;
    held.release();
    let service = service.wait_for_log("cannot write to the database, retrying").await;
    server.restart().await;
    // The holder could not release its lease, so the test expires it.
    server.execute("UPDATE tim_private.lease SET expires_at = 0").await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    assert_eq!(service.stop().await, Some(0));
    let last = "SELECT status, vanished FROM crawls ORDER BY crawl_id DESC LIMIT 2";
    assert_eq!(program.harness.lines(last).await, ["complete 2", "failed 0"]);
    program.harness.clock.set(program.harness.clock.now().max(Clock::system().now()));
    program.harness.assert_invariants().await;
    program.harness.assert_table_matches_api().await;
}
