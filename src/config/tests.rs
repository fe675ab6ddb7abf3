use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::*;
use crate::model::{GroupType, ListenAddress};
use crate::policy::{DeletionPolicy, Retention};
use crate::tencent::region::Region;

const KEY: &str = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e";
const EXAMPLE: &str = include_str!("../../config.example.toml");
const APP: &str =
    "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"/etc/tim-group-sync/prod.key\"\n";

fn home() -> Environment {
    Environment::new([("HOME", "/home/ann")])
}

fn parse_in(text: &str, env: &Environment) -> Result<Config, ConfigProblems> {
    Config::parse(text, Path::new("/etc/tim/config.toml"), env)
}

fn parse(text: &str) -> Result<Config, ConfigProblems> {
    parse_in(text, &home())
}

/// Returns the app of a valid configuration, with these lines added to its section.
fn app_with(lines: &str) -> App {
    parse(&format!("{APP}{lines}")).unwrap().apps.remove(0)
}

/// Returns the problems of a text, without the folder in the path of the file.
fn problems(text: &str) -> String {
    parse(text).unwrap_err().to_string().replace("/etc/tim/config.toml", "config.toml")
}

fn listener(address: &str) -> Listener {
    Listener { address: ListenAddress::Tcp(address.parse().unwrap()), allowed_hosts: Vec::new() }
}

#[test]
fn the_shortest_file_has_the_documented_defaults() {
    let config = parse(APP).unwrap();
    let app = &config.apps[0];
    let data = Path::new("/home/ann/.local/share/tim-group-sync/groups.db");
    assert_eq!(config.database.url, DatabaseUrl::Sqlite(data.to_owned()));
    assert_eq!((config.database.schema.as_str(), config.database.auto_migrate), ("tim", true));
    assert_eq!((config.database.publish, config.database.publish_interval), (None, Duration::from_hours(1)));
    assert_eq!(config.metrics, Some(listener("127.0.0.1:9878")));
    assert_eq!(config.dashboard, Some(listener("127.0.0.1:9879")));
    assert_eq!(config.log, Log { level: "info".to_owned(), format: LogFormat::Auto });
    assert_eq!((app.name.as_str(), app.sdk_app_id.get()), ("prod", 1_400_000_000));
    assert_eq!(app.identifier, "administrator");
    assert_eq!(app.api.region, Some(Region::China));
    assert_eq!(app.api.base_url.as_str(), "https://console.tim.qq.com/");
    assert_eq!(app.group_types, GroupType::documented());
    assert_eq!((app.page_limit, app.request_interval), (10_000, Duration::from_millis(1050)));
    assert_eq!((app.request_timeout, app.retry_for), (Duration::from_secs(10), Duration::from_secs(300)));
    assert_eq!(app.schedule.ticks.to_string(), "0 * * * * in UTC");
    assert!(app.schedule.catch_up);
    assert!(!app.statistics);
    let live = BTreeMap::from([(GroupType::new("AVChatRoom").unwrap(), 1.0)]);
    let expected = DeletionPolicy {
        review: false,
        max_fraction: 0.2,
        min_groups: 100,
        max_fraction_by_type: live,
        max_shortfall: 0.0,
        confirm: true,
    };
    assert_eq!(app.deletion, expected);
}

#[test]
fn a_listener_can_be_a_unix_socket_and_have_host_names() {
    let text = format!(
        "[metrics]\nlisten = \"unix:metrics.sock\"\n[dashboard]\nlisten = \"unix:/run/tim.sock\"\n\
         allowed_hosts = [\"IM.example.com\"]\n{APP}"
    );
    let config = parse(&text).unwrap();
    let metrics = ListenAddress::Unix("/etc/tim/metrics.sock".into());
    assert_eq!(config.metrics.unwrap().address, metrics);
    let dashboard = config.dashboard.unwrap();
    assert_eq!(dashboard.address, ListenAddress::Unix("/run/tim.sock".into()));
    assert_eq!(dashboard.allowed_hosts, ["im.example.com"]);
}

#[test]
fn rows_are_kept_for_the_configured_days_or_forever() {
    assert_eq!(parse(APP).unwrap().retention, Retention::default());
    let text = format!("[retention]\nevents = 30\ncounts = 3650\n{APP}");
    let expected = Retention { deleted_groups: None, events: Some(30), counts: Some(3650) };
    assert_eq!(parse(&text).unwrap().retention, expected);
}

#[test]
fn the_shortest_file_that_an_error_shows_is_valid() {
    parse(locations::SHORTEST).unwrap();
}

#[test]
fn the_example_has_all_keys_with_their_defaults() {
    let example = parse(EXAMPLE).unwrap();
    let shortest = parse(APP).unwrap();
    let keys = |config: &Config| config.settings.iter().map(|s| s.key.clone()).collect::<Vec<_>>();
    let left_out = example.settings.iter().filter(|s| s.origin == Origin::Default).map(|s| s.key.as_str());
    assert_eq!(left_out.collect::<Vec<_>>(), ["database.url"]);
    assert_eq!(keys(&example).len(), keys(&shortest).len());
    assert_eq!(Config { settings: Vec::new(), ..example }, Config { settings: Vec::new(), ..shortest });
}

#[test]
fn the_keys_in_comments_of_the_example_exist() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(section) if section.starts_with('[') && section.ends_with(']') => format!("{section}\n"),
            Some(key) if key.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let env = Environment::new([("CREDENTIALS_DIRECTORY", "/run/credentials/x")]);
    let problems = parse_in(&uncommented, &env).unwrap_err();
    let keys: Vec<_> = problems.problems().iter().map(|problem| problem.key.as_str()).collect();
    // These conflict with the SQLite database and with `region`.
    assert_eq!(keys, ["database.publish", "apps.prod.base_url"]);
}

#[test]
fn details_are_kept_only_with_their_section() {
    let env = Environment::new([("HOME", "/home/u")]);
    assert_eq!(parse_in(APP, &env).unwrap().details, None);
    let details = parse_in(&format!("{APP}[details]\n"), &env).unwrap().details.unwrap();
    assert_eq!((details.refresh, details.requests_per_second), (Duration::from_hours(7 * 24), 10));
}

/// Mistakes in the section of an app, on line 4, with their problems.
const APP_MISTAKES: &[(&str, &str)] = &[
    (
        "request_interval = \"100ms\"",
        "apps.prod.request_interval = \"100ms\": must be at least 1s, unless base_url is loopback; \
         the API allows one request a second. Write \"1050ms\"",
    ),
    (
        "request_interval = 1050",
        "apps.prod.request_interval = 1050: must be a string with a unit, not a number. Write for \
         example \"1050ms\", \"10s\" or \"5m\"",
    ),
    (
        "request_timeout = \"3s\"",
        "apps.prod.request_timeout = \"3s\": must be more than 3s, which is the API's own timeout, \
         and at most 60s. Write \"10s\"",
    ),
    (
        "group_quota = 0",
        "apps.prod.group_quota = 0: must be a number of groups, at least 1. Write for example 100000",
    ),
    (
        "retry_for = \"2h\"",
        "apps.prod.retry_for = \"2h\": must be at most 1h; the next crawl is another attempt. Write \"5m\"",
    ),
    (
        "retry_for = \"5\"",
        "apps.prod.retry_for = \"5\": is not a duration: time unit needed, for example 5sec or \
         5ms. Write for example \"1050ms\", \"10s\" or \"5m\"",
    ),
    (
        "page_limit = 10001",
        "apps.prod.page_limit = 10001: must be from 1 to 10000, the API's maximum for one page",
    ),
    (
        "page_limit = \"10000\"",
        "apps.prod.page_limit = \"10000\": must be an integer, not a string. Write digits without quotes",
    ),
    ("page_limit = 0.5", "apps.prod.page_limit = 0.5: must be an integer"),
    (
        "identifier = \"\"",
        "apps.prod.identifier = \"\": must be 1 to 32 bytes without control characters. Write an \
         app administrator's UserID, such as \"administrator\"",
    ),
    (
        "region = \"singapur\"",
        "apps.prod.region = \"singapur\": must be one of china, singapore, seoul, frankfurt, \
         silicon-valley, jakarta, tokyo, mumbai, saudi-arabia. Did you mean \"singapore\"?",
    ),
    (
        "base_url = \"http://im.example.com\"",
        "apps.prod.base_url = \"http://im.example.com\": must be https: without TLS an eavesdropper gets a \
         UserSig with full administrator rights. Write https://, or add allow_http = true",
    ),
    (
        "base_url = \"https://im.example.com/v4\"",
        "apps.prod.base_url = \"https://im.example.com/v4\": must have only scheme, host and port: \
         no user, path, query or fragment. Write for example \"https://console.tim.qq.com\"",
    ),
    (
        "base_url = \"https://im.example.com\"\nregion = \"china\"",
        "apps.prod.base_url = \"https://im.example.com\": region and base_url exclude each other: \
         both set the address of the API. Keep one of them",
    ),
    (
        "group_types = [\"Work\", \"Public\", \"Private\"]",
        "apps.prod.group_types = [\"Work\", \"Public\", \"Private\"]: has \"Work\" and \
         \"Private\", which are the same type: Private. Keep one of them",
    ),
    (
        "group_types = [\"public\"]",
        "apps.prod.group_types = [\"public\"]: \"public\" is not a group type: names are \
         case-sensitive. Write \"Public\"",
    ),
    (
        "group_types = [\"WORK\"]",
        "apps.prod.group_types = [\"WORK\"]: \"WORK\" is not a group type: names are \
         case-sensitive. Write \"Work\"",
    ),
    (
        "deletion.max_fraction_by_type.avchatroom = 0.5",
        "apps.prod.deletion.max_fraction_by_type.avchatroom = 0.5: \"avchatroom\" is not a group \
         type: names are case-sensitive. Write \"AVChatRoom\"",
    ),
    (
        "group_types = [\"Pub lic\"]",
        "apps.prod.group_types = [\"Pub lic\"]: \"Pub lic\" is not a group type: a name has 1 to \
         64 ASCII letters, digits, _ and -. Write for example \"Public\"",
    ),
    (
        "colour = \"red\"",
        "apps.prod.colour: unknown key. Known here: sdk_app_id, identifier, secret_key_file, \
         allow_http, base_url, region, group_types, page_limit, request_interval, request_timeout, \
         retry_for, group_quota, statistics, schedule, deletion",
    ),
    ("page_limits = 5", "apps.prod.page_limits: unknown key. Did you mean page_limit?"),
    (
        "schedule.cron = \"0 25 * * *\"",
        "apps.prod.schedule.cron = \"0 25 * * *\": is not a cron expression: column 3: \"25\" is \
         not a valid hour (number out of bounds): write 0-23; the first of 5 fields is the minute; \
         seconds would be a sixth field before it. For every hour write \"0 * * * *\"",
    ),
    (
        "schedule.cron = \"hourly\"",
        "apps.prod.schedule.cron = \"hourly\": is not a cron expression: 1 field: an expression \
         has 5 (minute, hour, day of month, month, day of week) or 6 (second first). For every \
         hour write \"0 * * * *\"",
    ),
    (
        "schedule.cron = \"0 0 30 2 *\"",
        "apps.prod.schedule.cron = \"0 0 30 2 *\": is not a cron expression: never due: no date \
         has day of month \"30\", month \"2\" and day of week \"*\". For every hour write \"0 * * \
         * *\"",
    ),
    (
        "schedule.timezone = \"Asia/Shangai\"",
        "apps.prod.schedule.timezone = \"Asia/Shangai\": must be an IANA time zone. Did you mean \
         \"Asia/Shanghai\"?",
    ),
    (
        "schedule.timezone = \"CST\"",
        "apps.prod.schedule.timezone = \"CST\": must be an IANA time zone. Did you mean \
         \"Asia/Shanghai\" or \"America/Chicago\"?",
    ),
    (
        "schedule.timezone = \"EST\"",
        "apps.prod.schedule.timezone = \"EST\": must be an IANA time zone. Did you mean \
         \"America/New_York\" or \"America/Panama\"?",
    ),
    (
        "schedule.timezone = \"new york\"",
        "apps.prod.schedule.timezone = \"new york\": must be an IANA time zone. Did you mean \
         \"America/New_York\"?",
    ),
    (
        "deletion.max_fraction = 20",
        "apps.prod.deletion.max_fraction = 20: must be from 0 to 1. Write 0.2 for 20 %",
    ),
    (
        "deletion.mode = \"reviewed\"",
        "apps.prod.deletion.mode = \"reviewed\": must be one of apply, review. Did you mean \"review\"?",
    ),
    (
        "deletion.confirm = 1",
        "apps.prod.deletion.confirm = 1: must be true or false, not a number. Write true or false \
         without quotes",
    ),
    (
        "deletion.max_fraction_by_type = { Meeting = 0.5, ChatRoom = 0.5 }",
        "apps.prod.deletion.max_fraction_by_type.ChatRoom = 0.5: has \"Meeting\" and \"ChatRoom\", \
         which are the same type: ChatRoom. Keep one of them",
    ),
    (
        "deletion = true",
        "apps.prod.deletion: must be a table, not true or false. Write it as a section: [apps.prod.deletion]",
    ),
];

/// Mistakes in a section that begins at line 4, with their problems.
const SECTION_MISTAKES: &[(&str, &str)] = &[
    (
        "[retention]\nevents = 0",
        "5: retention.events = 0: must be a number of days from 1 to 36500. Write for example 365, \
         or remove the key to keep all rows",
    ),
    (
        "[deletion]\nconfirm = \"yes\"",
        "5: deletion.confirm = \"yes\": must be true or false, not a string. Write true or false \
         without quotes",
    ),
    ("[databse]\nschema = \"x\"", "4: databse: unknown key. Did you mean database?"),
    (
        "[mysql]",
        "4: mysql: unknown key. Known here: database, schedule, deletion, metrics, dashboard, log, \
         retention, details, notify, apps",
    ),
    (
        "[details]\nrefresh = \"30m\"",
        "5: details.refresh = \"30m\": must be at least 1h and at most 365days. Write \"7d\"",
    ),
    (
        "[details]\nrequests_per_second = 50",
        "5: details.requests_per_second = 50: must be from 1 to 40. Write 10",
    ),
    (
        "[database]\nschema = \"Tim\"",
        "5: database.schema = \"Tim\": must be 1 to 55 lower-case letters, digits and _, not \
         beginning with a digit or pg_. Write for example \"tim\"",
    ),
    (
        "[database]\nurl = \"mysql://host/db\"",
        "5: database.url: must begin with sqlite: or postgres://. Write for example \"sqlite:groups.db\" or \
         \"postgres://user@host:5432/db\"",
    ),
    (
        "[database]\nurl = \"sqlite::memory:\"",
        "5: database.url: must name a file: a database in memory would be lost. Write for example \
         \"sqlite:groups.db\" or \"sqlite:/var/lib/tim-group-sync/groups.db\"",
    ),
    ("[database]\nurl = \"sqlite:~/groups.db\"", "5: database.url: ~ is not expanded. Write the full path"),
    (
        "[database]\nurl = \"postgres://host/db?sslmod=require\"",
        "5: database.url: has an unknown parameter. Did you mean \"sslmode\"?",
    ),
    (
        "[database]\nurl = \"postgres://host/db\"\npublish = \"copy.db\"",
        "6: database.publish = \"copy.db\": is for SQLite only: it publishes a copy of the \
         database file, and this database is PostgreSQL. Remove it; use reader_role to give \
         readers access",
    ),
    (
        "[database]\nurl = \"sqlite:groups.db\"\npublish = \"groups.db\"",
        "6: database.publish = \"groups.db\": is the database itself, which the copy would \
         replace. Name another file, such as \"public/groups.db\"",
    ),
    (
        "[database]\npublish_interval = \"8days\"",
        "5: database.publish_interval = \"8days\": must be at most 7days. Write \"1h\"",
    ),
    (
        "[metrics]\nlisten = \"localhost:9878\"",
        "5: metrics.listen = \"localhost:9878\": must be an IP address and a port, or unix: and a \
         path. Write for example \"127.0.0.1:9878\", \"unix:/run/tim-group-sync/metrics.sock\", or \
         \"\" to disable it",
    ),
    (
        "[metrics]\nallowed_hosts = [\"https://metrics.example.com\"]",
        "5: metrics.allowed_hosts = [\"https://metrics.example.com\"]: must contain only host names. \
         Write for example [\"metrics.example.com\"], without scheme, port and path",
    ),
    (
        "[dashboard]\nlisten = \"0.0.0.0:9879\"",
        "5: dashboard.listen = \"0.0.0.0:9879\": must be a loopback address or a Unix socket: the \
         dashboard has no authentication. Write \"127.0.0.1:9879\", or set allow_remote = true too if \
         a reverse proxy requires a login",
    ),
    (
        "[dashboard]\nlisten = \"127.0.0.1:9878\"",
        "5: dashboard.listen = \"127.0.0.1:9878\": needs the same port as metrics.listen, which is \
         127.0.0.1:9878. Use another port for one of them",
    ),
    (
        "[metrics]\nlisten = \"0.0.0.0:9879\"",
        "5: metrics.listen = \"0.0.0.0:9879\": needs the same port as dashboard.listen, which is \
         127.0.0.1:9879 by default. Use another port for one of them",
    ),
    (
        "[log]\nlevel = \"info\"\n[log]",
        "6: is not TOML: duplicate key. Keep one of the lines or sections of that name",
    ),
    (
        "[log]\nlevel = \"inof\"",
        "5: log.level = \"inof\": must be one of off, error, warn, info, debug, trace, or a \
         filter. Did you mean \"info\"?",
    ),
    (
        "[apps.Test]\nsdk_app_id = 2\nsecret_key_file = \"x\"",
        "4: apps.Test: the name of an app has 1 to 64 lower-case letters, digits, _ and -, and \
         begins with a letter. Write for example [apps.prod]",
    ),
    (
        "[apps.test]\nsdk_app_id = 1400000000\nsecret_key_file = \"x\"",
        "5: apps.test.sdk_app_id = 1400000000: apps.prod and apps.test have the same SDKAppID. \
         Remove one of them",
    ),
    (
        "[apps.test]\nsdk_app_id = 0\nsecret_key_file = \"$HOME/im.key\"",
        "5: apps.test.sdk_app_id = 0: must be positive. Write the app's SDKAppID from the console\n\
         config.toml:6: apps.test.secret_key_file = \"$HOME/im.key\": variables are not expanded, except \
         $CREDENTIALS_DIRECTORY/ at the start of the path of a secret. Write the full path",
    ),
    (
        "[apps.test]",
        "4: apps.test.sdk_app_id: is missing. Write sdk_app_id = 1400000000, the app's SDKAppID in the console\n\
         config.toml:4: apps.test.secret_key_file: is missing. Write secret_key_file = \
         \"/etc/tim-group-sync/prod.key\", a file of mode 0600 that contains only the app's key",
    ),
    (
        "apps",
        "4: is not TOML: key with no value, expected `=`. Put strings in quotes; the line is not \
         shown, because it may contain a secret",
    ),
];

#[test]
fn each_mistake_is_reported_with_line_rule_and_remedy() {
    for (lines, expected) in APP_MISTAKES {
        assert_eq!(problems(&format!("{APP}{lines}")), format!("config.toml:4: {expected}"));
    }
    for (lines, expected) in SECTION_MISTAKES {
        assert_eq!(problems(&format!("{APP}{lines}")), format!("config.toml:{expected}"));
    }
    let none = "config.toml: apps: at least one app is required. Write a section [apps.prod] with \
                sdk_app_id and secret_key_file";
    assert_eq!(problems(""), none);
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = r#"
        colour = "red"
        [database]
        schema = "pg_tim"
        [schedule]
        cron = "* * *"
        timezone = "Peking"
        [log]
        format = "xml"
        [apps.prod]
        secret_key_file = ""
        page_limit = 0
        request_timeout = "61s"
        [apps.prod.schedule]
        catch_up = "yes"
        [apps."Ünïcode"]
        sdk_app_id = -1
        secret_key_file = "a.key"
    "#;
    let problems = parse(text).unwrap_err();
    let places: Vec<_> = problems.problems().iter().map(|p| (p.line.unwrap(), p.key.as_str())).collect();
    let expected = [
        (2, "colour"),
        (4, "database.schema"),
        (6, "schedule.cron"),
        (7, "schedule.timezone"),
        (9, "log.format"),
        (10, "apps.prod.sdk_app_id"),
        (11, "apps.prod.secret_key_file"),
        (12, "apps.prod.page_limit"),
        (13, "apps.prod.request_timeout"),
        (15, "apps.prod.schedule.catch_up"),
        (16, "apps.\"Ünïcode\""),
        (17, "apps.\"Ünïcode\".sdk_app_id"),
    ];
    assert_eq!(places, expected);
    assert_eq!(problems.to_string().lines().count(), expected.len());
}

#[test]
fn no_problem_contains_a_secret() {
    let pasted = [
        format!("secret_key = \"{KEY}\""),
        format!("secret_key = {KEY}"),
        format!("secret_key = '''{KEY}"),
        format!("secret-key = [\"{KEY}\"]"),
        format!("key = \"{KEY}\""),
        KEY.to_owned(),
        format!("secret_key_file = {{ key = \"{KEY}\" }}"),
        format!("identifier = \"{KEY}\""),
        format!("region = \"{KEY}\""),
        format!("group_types = [\"{KEY} \"]"),
        format!("schedule.cron = \"{KEY} * * * *\""),
        format!("schedule.timezone = \"{KEY}\""),
        format!("request_interval = \"{KEY}\""),
        format!("base_url = \"https://ann:{KEY}@host\""),
        format!("{KEY} = 1"),
        format!("deletion.max_fraction_by_type = {{ \"{KEY}!\" = 1 }}"),
        format!("[database]\npassword = \"{KEY}\""),
        format!("[database]\nurl = \"postgres://ann:{KEY}@host/db\""),
        format!("[database]\nurl = \"postgres://host/db?password={KEY}\""),
        format!("[database]\nurl = \"postgres://host/db?pasword={KEY}\""),
        format!("[database]\nurl = \"postgres://ann:{KEY}\""),
        format!("[database]\nurl = \"ann:{KEY}@host\""),
        format!("[log]\nlevel = \"{KEY}\""),
        format!("[log]\nlevel = \"x={KEY}\""),
        format!("[metrics]\nlisten = \"{KEY}\""),
    ];
    for lines in pasted {
        let problems = parse(&format!("{APP}{lines}")).unwrap_err();
        for text in [problems.to_string(), format!("{problems:?}"), serde_json::to_string(&problems).unwrap()]
        {
            assert!(!text.contains(&KEY[..8]), "{lines}: {text}");
        }
    }
    let short = format!("{APP}[database]\nurl = \"postgres://ann:tiger@host/db\"\npassword = \"tiger\"");
    assert!(!problems(&short).contains("tiger"), "{}", problems(&short));
}

#[test]
fn a_key_in_the_configuration_is_reported_with_its_proper_place() {
    let text = APP.replace("secret_key_file", "secret_key");
    assert!(problems(&text).contains(
        "config.toml:3: apps.prod.secret_key: secrets belong in files, not in the configuration; \
         the value is not shown. Put only the secret into a file of mode 0600 and write \
         secret_key_file = \"/path/of/that/file\""
    ));
    let text = APP.replace("/etc/tim-group-sync/prod.key", KEY);
    assert_eq!(
        problems(&text),
        "config.toml:3: apps.prod.secret_key_file: must be the path of a file, but looks like the \
         key itself; the value is not shown. Put only the key into a file of mode 0600 and write \
         the path of that file; if anyone else has read the configuration, create a new key in the \
         console"
    );
}

#[test]
fn a_password_in_the_environment_is_used_and_not_shown() {
    let variable = "TIM_GROUP_SYNC_DATABASE_URL";
    for url in
        ["postgres://ann:tiger@host/db?sslmode=require", "postgres://ann@host/db?user=ann&password=tiger"]
    {
        let config = parse_in(
            &format!("{APP}[database]\nurl = \"sqlite:x.db\""),
            &Environment::new([(variable, url)]),
        );
        let config = config.unwrap();
        let DatabaseUrl::Postgres(postgres) = &config.database.url else { panic!("{:?}", config.database) };
        assert_eq!(postgres.expose(), url);
        let shown = format!("{config:?} {} {}", config.database.url, config.settings[0]);
        assert!(!shown.contains("tiger") && shown.contains("***"), "{shown}");
    }
    let problems =
        parse_in(APP, &Environment::new([(variable, "postgres://ann:tiger@host:no/db")])).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "environment: TIM_GROUP_SYNC_DATABASE_URL: is not a URL: invalid port number. Write for example \
         \"postgres://user@host:5432/db\""
    );
}

#[test]
fn an_app_overrides_schedule_and_deletion_key_by_key() {
    let text = format!(
        "{APP}[apps.prod.schedule]\ncron = \"@daily\"\n\
         [apps.prod.deletion]\nmin_groups = 5\nmax_fraction_by_type = {{ Work = 0.5 }}\n\
         [schedule]\ntimezone = \"Asia/Shanghai\"\ncron = \"*/30 * * * * *\"\n\
         [deletion]\nmode = \"review\"\nmax_fraction_by_type = {{ Private = 0.1, Public = 0.3 }}\n"
    );
    let app = parse(&text).unwrap().apps.remove(0);
    assert_eq!(app.schedule.ticks.to_string(), "@daily in Asia/Shanghai");
    assert_eq!((app.deletion.review, app.deletion.min_groups), (true, 5));
    let shares: Vec<_> =
        app.deletion.max_fraction_by_type.iter().map(|(t, share)| (t.as_str(), *share)).collect();
    assert_eq!(shares, [("AVChatRoom", 1.0), ("Private", 0.5), ("Public", 0.3)]);
}

#[test]
fn a_loopback_api_is_exempt_from_the_limits_on_intervals() {
    for url in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"] {
        let app =
            app_with(&format!("base_url = \"{url}\"\nrequest_interval = \"0s\"\nrequest_timeout = \"50ms\""));
        assert!(app.api.is_loopback() && app.request_interval.is_zero());
    }
    let app = app_with("base_url = \"http://im.example.com:8080\"\nallow_http = true");
    assert_eq!((app.api.is_loopback(), app.api.region), (false, None));
    for tricky in ["http://127.0.0.1.example.com", "http://localhost.example.com"] {
        parse(&format!("{APP}base_url = \"{tricky}\"")).unwrap_err();
    }
}

#[test]
fn group_types_are_normalised_and_may_be_empty() {
    let names = |app: App| app.group_types.iter().map(|kind| kind.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(app_with("group_types = [\"Work\", \"Meeting\", \"Live\"]")),
        ["Private", "ChatRoom", "Live"]
    );
    assert_eq!(names(app_with("group_types = []")), [""; 0]);
    let types = |count| (0..count).map(|n| format!("\"T{n}\"")).collect::<Vec<_>>().join(", ");
    assert_eq!(names(app_with(&format!("group_types = [{}]", types(60)))).len(), 60);
    assert!(problems(&format!("{APP}group_types = [{}]", types(61))).ends_with("must name at most 60 types"));
}

#[test]
fn settings_are_lines_of_toml_with_their_origin() {
    let env =
        Environment::new([("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("TIM_GROUP_SYNC_LOG", "debug")]);
    let config =
        parse_in(&format!("{APP}group_types = [\"Work\"]\n[schedule]\ncron = \"@daily\"\n"), &env).unwrap();
    let lines: Vec<_> = config.settings.iter().map(ToString::to_string).collect();
    for line in [
        "database.url = \"sqlite:/var/lib/a/groups.db\"  # default",
        "log.level = \"debug\"  # environment TIM_GROUP_SYNC_LOG",
        "apps.prod.sdk_app_id = 1400000000  # /etc/tim/config.toml:2",
        "apps.prod.group_types = [\"Private\"]  # /etc/tim/config.toml:4",
        "apps.prod.page_limit = 10000  # default",
        "apps.prod.schedule.cron = \"@daily\"  # /etc/tim/config.toml:6",
        "apps.prod.deletion.max_fraction_by_type.AVChatRoom = 1.0  # default",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line} is not among {lines:#?}");
    }
    let again = parse_in(&lines.join("\n"), &Environment::unknown()).unwrap();
    assert_eq!(Config { settings: Vec::new(), ..again }, Config { settings: Vec::new(), ..config });
}

#[test]
fn paths_are_relative_to_the_file_and_credentials_to_their_folder() {
    let text = "[database]\nurl = \"sqlite:groups.db\"\n[apps.a]\nsdk_app_id = 1\nsecret_key_file = \"a.key\"\n\
                [apps.b]\nsdk_app_id = 2\nsecret_key_file = \"$CREDENTIALS_DIRECTORY/b.key\"";
    let config = parse_in(text, &Environment::new([("CREDENTIALS_DIRECTORY", "/run/cred")])).unwrap();
    assert_eq!(config.database.url, DatabaseUrl::Sqlite("/etc/tim/groups.db".into()));
    let file = |path: &str, is_credential| SecretFile { path: path.into(), is_credential };
    assert_eq!(config.apps[0].secret_key_file, file("/etc/tim/a.key", false));
    assert_eq!(config.apps[1].secret_key_file, file("/run/cred/b.key", true));
    let alone = parse_in(text, &Environment::unknown()).unwrap();
    assert_eq!(alone.apps[1].secret_key_file, file("$CREDENTIALS_DIRECTORY/b.key", true));
}

#[test]
fn a_missing_credential_fails_only_when_it_is_read_and_the_error_names_its_setting() {
    let text = "[apps.a]\nsdk_app_id = 1\nsecret_key_file = \"$CREDENTIALS_DIRECTORY/secret\"\n\
                [database]\nurl = \"postgres://h/d\"\npassword_file = \"$CREDENTIALS_DIRECTORY/secret\"\n\
                [notify]\nurl_file = \"$CREDENTIALS_DIRECTORY/secret\"";
    let config = parse(text).unwrap();
    let errors = [
        ("apps.a.secret_key_file", config.apps[0].read_secret_key().unwrap_err()),
        ("database.password_file", config.database.read_password().unwrap_err()),
        ("notify.url_file", config.notify.unwrap().read().unwrap_err()),
    ];
    for (setting, error) in errors {
        let (error, remedy) = (error.to_string(), format!("or set {setting} to the path of a file"));
        let problem = "$CREDENTIALS_DIRECTORY/secret is a credential, but CREDENTIALS_DIRECTORY is not set";
        assert!(error.starts_with(problem) && error.contains(&remedy), "{error}");
    }
}

#[test]
fn a_new_configuration_is_created_where_it_is_found() {
    let env = Environment::new([("HOME", "/home/u")]);
    let home = |explicit: Option<&str>, env: &Environment| {
        let home = Config::new_location(explicit.map(Path::new), env).unwrap();
        (home.config.display().to_string(), home.database_url, home.is_system)
    };
    let of = |config: &str, database: &str, is_system| (config.to_owned(), database.to_owned(), is_system);
    let own = of(
        "/home/u/.config/tim-group-sync/config.toml",
        "sqlite:/home/u/.local/share/tim-group-sync/groups.db",
        false,
    );
    let system = of("/etc/tim-group-sync/config.toml", "sqlite:/var/lib/tim-group-sync/groups.db", true);
    assert_eq!(home(None, &env), own);
    assert_eq!(home(None, &env.clone().as_root()), system);
    assert_eq!(home(Some("/etc/tim-group-sync/config.toml"), &env), system);
    assert_eq!(home(Some("my.toml"), &env), of("my.toml", "sqlite:groups.db", false));
    let named = Environment::new([("TIM_GROUP_SYNC_CONFIG", "/srv/c.toml")]);
    assert_eq!(home(None, &named), of("/srv/c.toml", "sqlite:groups.db", false));
    assert!(Config::new_location(None, &Environment::new([("X", "y")])).is_err());
}

#[test]
fn the_file_is_looked_for_in_the_default_locations() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let env = Environment::new([("HOME", home)]);
    let own = folder.path().join(".config/tim-group-sync/config.toml");
    let error = Config::locate(None, &env).unwrap_err();
    assert_eq!(error.looked_at, [own.clone(), "/etc/tim-group-sync/config.toml".into()]);
    assert!(error.to_string().contains("[apps.prod]"), "{error}");
    assert_eq!(Config::locate(None, &env.clone().as_root()).unwrap_err().looked_at.len(), 1);
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, APP).unwrap();
    assert_eq!(Config::locate(None, &env), Ok(own.clone()));
    let env = Environment::new([("HOME", home), ("TIM_GROUP_SYNC_CONFIG", "other.toml")]);
    assert_eq!(Config::locate(None, &env), Ok("other.toml".into()));
    assert_eq!(Config::locate(Some(Path::new("x.toml")), &env), Ok("x.toml".into()));
    assert_eq!(Config::load(&own, &env).unwrap().apps.len(), 1);
    let error = Config::load(Path::new("/nowhere/x.toml"), &env).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/x.toml: cannot be read: No such file"), "{error}");
    assert!(
        error.ends_with("Write it with `tim-group-sync init`, or name another file with --config"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (bytes, expected) in [
        (&b"\xff\xfe[\0a\0]\0"[..], "is UTF-16 text, not UTF-8. Save it as UTF-8 in your editor"),
        (b"caf\xe9", "is not UTF-8 text. Save it as UTF-8 in your editor"),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = Config::load(&file, &env).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {expected}", file.display()));
    }
}

/// Returns an app whose key file contains these bytes.
fn app_with_key(folder: &Path, bytes: &[u8], mode: u32) -> App {
    let path = folder.join("prod.key");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    App { secret_key_file: SecretFile { path, is_credential: false }, ..app_with("") }
}

#[test]
fn a_key_is_read_without_its_line_end_and_the_mode_of_its_file_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    for end in ["", "\n", "\r\n"] {
        let read =
            app_with_key(folder.path(), format!("{KEY}{end}").as_bytes(), 0o600).read_secret_key().unwrap();
        assert!(read.key.has_usual_form());
        assert_eq!(read.warnings, [""; 0]);
    }
    let mut app = app_with_key(folder.path(), b"AKID1234", 0o644);
    let warnings = app.read_secret_key().unwrap().warnings;
    assert!(warnings[0].contains("mode 0644): chmod 600 /"), "{warnings:?}");
    assert!(warnings[1].contains("CAM") && !warnings[1].contains("AKID"), "{warnings:?}");
    app.secret_key_file.is_credential = true;
    assert_eq!(app.read_secret_key().unwrap().warnings.len(), 1);
}

#[test]
fn an_error_about_a_key_file_contains_only_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let two = format!("{KEY}\n{KEY}\n");
    let long = "tiger".repeat(1000);
    for (bytes, expected) in [
        (&b""[..], " is empty; it must contain only the secret"),
        (b"\r\n", " is empty; it must contain only the secret"),
        (b"tiger\xff", " is not UTF-8 text; save it as UTF-8, and put only the secret into it"),
        (
            b"\xef\xbb\xbftiger",
            " contains an invisible byte order mark (BOM) at its beginning; it must contain only the secret, \
             on one line",
        ),
        (b"\"tiger\"", " contains quotes; it must contain only the secret, on one line"),
        (
            "tiger\u{200b}".as_bytes(),
            " contains invisible characters; it must contain only the secret, on one line",
        ),
        (b"tiger tiger", " contains white space; it must contain only the secret, on one line"),
        (two.as_bytes(), " contains white space; it must contain only the secret, on one line"),
        (
            long.as_bytes(),
            " is longer than 4 KiB, so it is not a key, password or URL; name a file that contains only \
             the secret",
        ),
    ] {
        let app = app_with_key(folder.path(), bytes, 0o600);
        let error = app.read_secret_key().unwrap_err();
        assert_eq!(error.to_string(), format!("{}{expected}", app.secret_key_file.path.display()));
        assert!(!format!("{error:?}").contains("tiger"), "{error:?}");
    }
    let error = app_with("").read_secret_key().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /etc/tim-group-sync/prod.key; put only the secret into this file, and chmod 600 it"
    );
}

#[test]
fn a_password_is_read_for_postgres_only_and_may_contain_spaces() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "tiger, burning bright\n").unwrap();
    let read = |url: &str, env: &Environment| {
        let text = format!("{APP}[database]\nurl = \"{url}\"\npassword_file = \"password\"");
        Config::parse(&text, &folder.path().join("config.toml"), env)
            .unwrap()
            .database
            .read_password()
            .unwrap()
    };
    let password = read("postgres://ann@host/db", &home()).unwrap().password;
    assert_eq!(password.expose_secret(), "tiger, burning bright");
    assert!(read("sqlite:x.db", &home()).is_none());
    let env = Environment::new([("TIM_GROUP_SYNC_DATABASE_URL", "postgres://ann:other@host/db")]);
    assert!(read("postgres://ann@host/db", &env).is_none());
}
