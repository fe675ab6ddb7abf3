//! The sections of the file: their keys, the defaults in TOML, and the rules that concern several
//! keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::database_url::DatabaseUrl;
use super::document::{Document, Entry, Origin, ParseResult, Section, quoted};
use super::environment::Environment;
use super::model::{App, Config, Database, Endpoint, Listener, Log, LogFormat, Notify, Schedule};
use super::problems::{ConfigProblems, Mistake};
use super::secrets::SecretFile;
use super::values::{
    base_url, boolean, choice, cron, days, duration, fraction, host_names, integer, listen, log_level, path,
    role, schema, secret_file, text, timezone,
};
use crate::http::is_loopback;
use crate::model::{GroupType, ListenAddress, SdkAppId};
use crate::policy::{DeletionPolicy, DetailsPolicy, NotificationFormat, Retention};
use crate::tencent::region::Region;

/// The maximum number of group types. A crawl has at most 62 passes (`roll::MAX_PASSES`): one for
/// each type, and the unfiltered pass.
const MAX_GROUP_TYPES: usize = 60;

/// The maximum of `database.publish_interval`.
const MAX_PUBLISH_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The minimum and the maximum of `details.refresh`.
const MIN_DETAILS_REFRESH: Duration = Duration::from_secs(3600);
const MAX_DETAILS_REFRESH: Duration = Duration::from_secs(365 * 24 * 3600);

/// The folder of the file, against which paths are resolved, and the environment.
struct Context<'p> {
    folder: &'p Path,
    env: &'p Environment,
}

pub(super) fn read(text: &str, file: &Path, env: &Environment) -> Result<Config, ConfigProblems> {
    let document = Document::new(file, text);
    let table = document.table()?;
    let context = Context { folder: file.parent().unwrap_or(Path::new("")), env };
    let config = config(&Section::root(&document, &table), &context);
    let (problems, settings) = document.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(Config { settings, ..config }),
        _ => Err(ConfigProblems::new(problems)),
    }
}

fn config(root: &Section<'_>, context: &Context<'_>) -> Option<Config> {
    let database = database(&root.section("database", None), context);
    // The general sections are read here to report their mistakes. Their values are read again for
    // each app.
    let schedules = root.section("schedule", None);
    schedule(&schedules);
    let deletions = root.section("deletion", None);
    let (_, fractions) = deletion(&deletions, &BTreeMap::new());
    let (metrics, dashboard) = listeners(root, context);
    let log = log(&root.section("log", None), context);
    let retention = retention(&root.section("retention", None));
    let details = root.find("details").map(|_| details(&root.section("details", None)));
    let notify = notify(root, context);
    let general = General { schedule: &schedules, deletion: &deletions, fractions: &fractions };
    let section = root.section("apps", None);
    let mut ids = BTreeMap::new();
    let apps: Vec<_> =
        section.entries().iter().map(|entry| app(&section, entry, &mut ids, &general, context)).collect();
    if apps.is_empty() {
        let fix = "Write a section [apps.prod] with sdk_app_id and secret_key_file";
        root.report_key("apps", Mistake::new("at least one app is required", fix));
    }
    root.finish();
    let apps = apps.into_iter().collect::<Option<_>>()?;
    Some(Config {
        database: database?,
        metrics,
        dashboard,
        log,
        retention,
        details,
        notify,
        apps,
        settings: Vec::new(),
    })
}

fn database(section: &Section<'_>, context: &Context<'_>) -> Option<Database> {
    let in_file = section.optional("url", |value| {
        let url = DatabaseUrl::parse(text(value)?, context.folder)?;
        if matches!(&url, DatabaseUrl::Postgres(url) if url.has_password()) {
            return Err(Mistake::new(
                "must not contain a password in this file; the value is not shown",
                "Remove it and write password_file = \"/path/of/a/file/with/the/password\"",
            ));
        }
        Ok(url)
    });
    let variable = "TIM_GROUP_SYNC_DATABASE_URL";
    let url = if let Some(text) = context.env.get(variable) {
        section.overridden("url", variable, DatabaseUrl::parse(text, Path::new("")))
    } else if section.find("url").is_some() {
        in_file
    } else if let Some(path) = context.env.default_database() {
        section.set_value("url", String::new(), Origin::Default);
        Some(DatabaseUrl::Sqlite(path))
    } else {
        let rule = "has no default, because neither STATE_DIRECTORY nor XDG_DATA_HOME nor HOME is set";
        section.report_key("url", Mistake::new(rule, "Write for example url = \"sqlite:groups.db\""));
        None
    };
    if let Some(url) = &url {
        section.set_displayed_value("url", &quoted(&url.to_string()));
    }
    let password_file =
        section.optional("password_file", |value| secret_file(value, context.folder, context.env));
    set_displayed_path(section, "password_file", password_file.as_ref());
    let schema = section.or_default("schema", "\"tim\"", schema);
    let reader_role = section.optional("reader_role", role);
    let auto_migrate = section.or_default("auto_migrate", "true", boolean);
    let publish = section.optional("publish", |value| path(text(value)?, context.folder));
    if let Some(copy) = &publish {
        section.set_displayed_value("publish", &quoted(&copy.display().to_string()));
        check_published_copy(section, copy, url.as_ref());
    }
    let publish_interval = section.or_default("publish_interval", "\"1h\"", |value| match duration(value)? {
        time if time <= MAX_PUBLISH_INTERVAL => Ok(time),
        _ => Err(Mistake::new("must be at most 7days", "Write \"1h\"")),
    });
    section.finish();
    Some(Database { url: url?, password_file, schema, reader_role, auto_migrate, publish, publish_interval })
}

/// Reports a mistake unless the database is an SQLite file at another path than the copy.
fn check_published_copy(section: &Section<'_>, copy: &Path, url: Option<&DatabaseUrl>) {
    match url {
        Some(DatabaseUrl::Postgres(_)) => {
            let rule = "is for SQLite only: it publishes a copy of the database file, and this \
                        database is PostgreSQL";
            let fix = "Remove it; use reader_role to give readers access";
            section.report_key("publish", Mistake::new(rule, fix));
        }
        Some(DatabaseUrl::Sqlite(database)) if database == copy => {
            let rule = "is the database itself, which the copy would replace";
            section
                .report_key("publish", Mistake::new(rule, "Name another file, such as \"public/groups.db\""));
        }
        _ => {}
    }
}

/// Sets the displayed value of a key to the resolved path of its file.
fn set_displayed_path(section: &Section<'_>, name: &str, file: Option<&SecretFile>) {
    if let Some(file) = file {
        section.set_displayed_value(name, &quoted(&file.path.display().to_string()));
    }
}

fn listeners(root: &Section<'_>, context: &Context<'_>) -> (Option<Listener>, Option<Listener>) {
    let section = root.section("metrics", None);
    let metrics = listener(&section, "\"127.0.0.1:9878\"", context);
    section.finish();
    let section = root.section("dashboard", None);
    let dashboard = listener(&section, "\"127.0.0.1:9879\"", context);
    let allow_remote = section.or_default("allow_remote", "false", boolean);
    section.finish();
    let Some(Listener { address, .. }) = &dashboard else { return (metrics, None) };
    if !address.is_local() && !allow_remote {
        let rule = "must be a loopback address or a Unix socket: the dashboard has no authentication";
        let fix = "Write \"127.0.0.1:9879\", or set allow_remote = true too if a reverse proxy requires \
             a login";
        section.report_key("listen", Mistake::new(rule, fix));
    }
    if let Some(metrics) = metrics.as_ref().filter(|metrics| metrics.address.overlaps(address)) {
        report_overlap(root, &section, &metrics.address);
    }
    (metrics, dashboard)
}

/// Reports that both listeners need the same address, at the key that the file sets.
fn report_overlap(root: &Section<'_>, dashboard: &Section<'_>, metrics_address: &ListenAddress) {
    let what = if matches!(metrics_address, ListenAddress::Tcp(_)) { "port" } else { "socket" };
    let fix = format!("Use another {what} for one of them");
    if dashboard.find("listen").is_some() {
        let rule = format!("needs the same {what} as metrics.listen, which is {metrics_address}");
        dashboard.report_key("listen", Mistake::new(rule, fix));
    } else {
        let rule = format!("needs the same {what} as dashboard.listen, which is 127.0.0.1:9879 by default");
        root.section("metrics", None).report_key("listen", Mistake::new(rule, fix));
    }
}

fn listener(section: &Section<'_>, default: &str, context: &Context<'_>) -> Option<Listener> {
    let address = section.or_default("listen", default, |value| listen(value, context.folder));
    if let Some(address) = &address {
        section.set_displayed_value("listen", &quoted(&address.to_string()));
    }
    let allowed_hosts = section.or_default("allowed_hosts", "[]", host_names);
    address.map(|address| Listener { address, allowed_hosts })
}

fn log(section: &Section<'_>, context: &Context<'_>) -> Log {
    let mut level = section.or_default("level", "\"info\"", |value| log_level(text(value)?));
    let variable = "TIM_GROUP_SYNC_LOG";
    if let Some(text) = context.env.get(variable) {
        let overriding = section.overridden("level", variable, log_level(text));
        level = overriding.unwrap_or(level);
        section.set_displayed_value("level", &quoted(&level));
    }
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.or_default("format", "\"auto\"", |value| choice(value, &formats));
    section.finish();
    Log { level, format }
}

fn retention(section: &Section<'_>) -> Retention {
    let days = |name| section.optional(name, days);
    let retention =
        Retention { deleted_groups: days("deleted_groups"), events: days("events"), counts: days("counts") };
    section.finish();
    retention
}

/// Reads the settings of the details. They are kept only if the section exists.
fn details(section: &Section<'_>) -> DetailsPolicy {
    let refresh = section.or_default("refresh", "\"7d\"", |value| match duration(value)? {
        time if (MIN_DETAILS_REFRESH..=MAX_DETAILS_REFRESH).contains(&time) => Ok(time),
        _ => Err(Mistake::new("must be at least 1h and at most 365days", "Write \"7d\"")),
    });
    let most = DetailsPolicy::MAX_REQUESTS_PER_SECOND;
    let requests_per_second = section.or_default("requests_per_second", "10", |value| {
        let rate = u32::try_from(integer(value)?).ok().filter(|rate| (1..=most).contains(rate));
        rate.ok_or_else(|| Mistake::new(format!("must be from 1 to {most}"), "Write 10"))
    });
    section.finish();
    DetailsPolicy { refresh, requests_per_second }
}

/// Reads `[notify]`. Returns `None` if the section is absent.
fn notify(root: &Section<'_>, context: &Context<'_>) -> Option<Notify> {
    let section = root.section("notify", None);
    root.find("notify")?;
    let file = |value: &DeValue<'_>| secret_file(value, context.folder, context.env);
    let example = "\"notify-url\", a file of mode 0600 that contains only the receiver's URL";
    let url_file = section.required("url_file", example, file);
    set_displayed_path(&section, "url_file", url_file.as_ref());
    let format = section.or_default("format", "\"json\"", |value| choice(value, &NotificationFormat::ALL));
    let secret_file = section.optional("secret_file", file);
    set_displayed_path(&section, "secret_file", secret_file.as_ref());
    if secret_file.is_some() && !format.has_secret() {
        let rule = format!("is not used by the format {format}: its receivers verify no secret");
        section.report_key("secret_file", Mistake::new(rule, "Remove it; keep the URL itself secret"));
    }
    section.finish();
    Some(Notify { url_file: url_file?, format, secret_file })
}

fn schedule(section: &Section<'_>) -> Schedule {
    let ticks = section.or_default("cron", "\"0 * * * *\"", cron);
    let timezone = section.or_default("timezone", "\"UTC\"", timezone);
    let catch_up = section.or_default("catch_up", "true", boolean);
    section.finish();
    Schedule { ticks: ticks.in_timezone(timezone), catch_up }
}

/// `max_fraction_by_type`: for each type the value, its text in TOML, and its origin.
type FractionsByType = BTreeMap<GroupType, (f64, String, Origin)>;

fn deletion(section: &Section<'_>, general_fractions: &FractionsByType) -> (DeletionPolicy, FractionsByType) {
    let modes = [("apply", false), ("review", true)];
    let review = section.or_default("mode", "\"apply\"", |value| choice(value, &modes));
    let max_fraction = section.or_default("max_fraction", "0.2", fraction);
    let min_groups = section.or_default("min_groups", "100", |value| {
        u64::try_from(integer(value)?).map_err(|_| Mistake::new("must be 0 or more", ""))
    });
    let max_shortfall = section.or_default("max_shortfall", "0.0", fraction);
    let confirm = section.or_default("confirm", "true", boolean);
    let fractions = fractions_by_type(&section.section("max_fraction_by_type", None), general_fractions);
    section.finish();
    let max_fraction_by_type =
        fractions.iter().map(|(group_type, (fraction, ..))| (group_type.clone(), *fraction)).collect();
    let policy =
        DeletionPolicy { review, max_fraction, min_groups, max_fraction_by_type, max_shortfall, confirm };
    (policy, fractions)
}

/// Merges the values by type. The values of the section override the general ones, which override
/// the default.
fn fractions_by_type(section: &Section<'_>, general: &FractionsByType) -> FractionsByType {
    let av_chat_room = GroupType::new("AVChatRoom").expect("a documented type has a valid name");
    let default = (1.0, "1.0".to_owned(), Origin::Default);
    let mut fractions = FractionsByType::from([(av_chat_room, default)]);
    fractions.extend(general.clone());
    let mut names: BTreeMap<GroupType, &str> = BTreeMap::new();
    for entry in section.entries() {
        let parsed = parse_group_type(entry.name).and_then(|name| Ok((name, fraction(entry.value)?)));
        match parsed {
            Ok((group_type, _)) if names.contains_key(&group_type) => {
                section.report_entry(&entry, repeated_type(names[&group_type], entry.name, &group_type));
            }
            Ok((group_type, fraction)) => {
                names.insert(group_type.clone(), entry.name);
                fractions.insert(group_type, (fraction, entry.as_toml(), section.origin(&entry)));
            }
            Err(mistake) => section.report_entry(&entry, mistake),
        }
    }
    for (group_type, (_, toml, origin)) in &fractions {
        section.set_value(group_type.as_str(), toml.clone(), origin.clone());
    }
    fractions
}

fn parse_group_type(name: &str) -> ParseResult<GroupType> {
    if let Some(known) = GroupType::KNOWN_NAMES.iter().find(|known| known.eq_ignore_ascii_case(name))
        && *known != name
    {
        let rule = format!("{} is not a group type: names are case-sensitive", quoted(name));
        return Err(Mistake::new(rule, format!("Write {}", quoted(known))));
    }
    GroupType::new(name).ok_or_else(|| {
        let rule = format!(
            "{} is not a group type: a name has 1 to 64 ASCII letters, digits, _ and -",
            quoted(name)
        );
        Mistake::new(rule, "Write for example \"Public\"")
    })
}

/// Returns the mistake that two names in the file are the same type.
fn repeated_type(first: &str, second: &str, group_type: &GroupType) -> Mistake {
    let rule = if first == second {
        format!("has {} twice", quoted(first))
    } else {
        format!("has {} and {}, which are the same type: {group_type}", quoted(first), quoted(second))
    };
    Mistake::new(rule, "Keep one of them")
}

/// The general sections, which the sections of apps override.
struct General<'g> {
    schedule: &'g Section<'g>,
    deletion: &'g Section<'g>,
    fractions: &'g FractionsByType,
}

fn app<'d>(
    apps: &Section<'d>,
    entry: &Entry<'d>,
    ids: &mut BTreeMap<SdkAppId, &'d str>,
    general: &General<'d>,
    context: &Context<'_>,
) -> Option<App> {
    let name = app_name(apps, entry);
    let section = apps.section_at(entry);
    let sdk_app_id =
        section.required("sdk_app_id", "1400000000, the app's SDKAppID in the console", |value| {
            SdkAppId::new(integer(value)?)
                .ok_or_else(|| Mistake::new("must be positive", "Write the app's SDKAppID from the console"))
        });
    if let Some(other) = sdk_app_id.and_then(|id| ids.insert(id, entry.name)) {
        let rule = format!("apps.{other} and apps.{} have the same SDKAppID", entry.name);
        section.report_key("sdk_app_id", Mistake::new(rule, "Remove one of them"));
    }
    let identifier = section.or_default("identifier", "\"administrator\"", |value| match text(value)? {
        text if (1..=32).contains(&text.len()) && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(Mistake::new(
            "must be 1 to 32 bytes without control characters",
            "Write an app administrator's UserID, such as \"administrator\"",
        )),
    });
    let example = "\"/etc/tim-group-sync/prod.key\", a file of mode 0600 that contains only the app's key";
    let secret_key_file =
        section.required("secret_key_file", example, |value| secret_file(value, context.folder, context.env));
    set_displayed_path(&section, "secret_key_file", secret_key_file.as_ref());
    let (api, is_local) = endpoint(&section);
    let group_types = section.or_default(
        "group_types",
        r#"["Public", "Private", "ChatRoom", "AVChatRoom", "BChatRoom", "Community"]"#,
        group_types,
    );
    let names: Vec<_> = group_types.iter().map(|group_type| quoted(group_type.as_str())).collect();
    section.set_displayed_value("group_types", &format!("[{}]", names.join(", ")));
    let page_limit = section.or_default("page_limit", "10000", |value| {
        let limit = u32::try_from(integer(value)?).ok().filter(|limit| (1..=10_000).contains(limit));
        limit.ok_or_else(|| Mistake::new("must be from 1 to 10000, the API's maximum for one page", ""))
    });
    let request_interval =
        section.or_default("request_interval", "\"1050ms\"", |value| request_interval(value, is_local));
    let request_timeout =
        section.or_default("request_timeout", "\"10s\"", |value| request_timeout(value, is_local));
    let retry_for = section.or_default("retry_for", "\"5m\"", |value| match duration(value)? {
        time if time <= Duration::from_secs(3600) => Ok(time),
        _ => Err(Mistake::new("must be at most 1h; the next crawl is another attempt", "Write \"5m\"")),
    });
    let group_quota = section.optional("group_quota", |value| {
        let quota = u64::try_from(integer(value)?).ok().filter(|quota| *quota > 0);
        quota
            .ok_or_else(|| Mistake::new("must be a number of groups, at least 1", "Write for example 100000"))
    });
    let statistics = section.or_default("statistics", "false", boolean);
    let schedule = schedule(&section.section("schedule", Some(general.schedule)));
    let (deletion, _) = deletion(&section.section("deletion", Some(general.deletion)), general.fractions);
    section.finish();
    Some(App {
        name: name?,
        sdk_app_id: sdk_app_id?,
        identifier,
        secret_key_file: secret_key_file?,
        api: api?,
        group_types,
        page_limit,
        request_interval,
        request_timeout,
        retry_for,
        group_quota,
        statistics,
        schedule,
        deletion,
    })
}

fn app_name(apps: &Section<'_>, entry: &Entry<'_>) -> Option<String> {
    if !is_app_name(entry.name) {
        apps.report_entry(entry, Mistake::new(APP_NAME_RULE, "Write for example [apps.prod]"));
        return None;
    }
    Some(entry.name.to_owned())
}

/// The rule for the names of apps, for messages.
pub const APP_NAME_RULE: &str =
    "the name of an app has 1 to 64 lower-case letters, digits, _ and -, and begins with a letter";

/// Returns whether a name conforms to [`APP_NAME_RULE`].
#[must_use]
pub fn is_app_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    plain && name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Returns the endpoint, and whether it is exempt from the limits of `request_interval` and
/// `request_timeout`. A loopback address is exempt. An invalid `base_url` is also exempt, so that
/// it does not cause further mistakes.
fn endpoint(section: &Section<'_>) -> (Option<Endpoint>, bool) {
    let allow_http = section.or_default("allow_http", "false", boolean);
    let Some(entry) = section.find("base_url") else {
        let region = section.or_default("region", "\"china\"", |value| choice(value, &Region::ALL));
        return (Some(Endpoint { base_url: region.base_url(), region: Some(region) }), false);
    };
    if section.find("region").is_some() {
        let rule = "region and base_url exclude each other: both set the address of the API";
        section.report_entry(&entry, Mistake::new(rule, "Keep one of them"));
    }
    let url = section.optional("base_url", |value| base_url(value, allow_http));
    let is_local = url.as_ref().is_none_or(is_loopback);
    (url.map(|base_url| Endpoint { base_url, region: None }), is_local)
}

fn group_types(value: &DeValue<'_>) -> ParseResult<Vec<GroupType>> {
    let fix = "Write for example [\"Public\", \"Private\"], or [] for one unfiltered pass";
    let values = value.as_array().ok_or_else(|| Mistake::new("must be a list of group types", fix))?;
    if values.len() > MAX_GROUP_TYPES {
        return Err(Mistake::new(format!("must name at most {MAX_GROUP_TYPES} types"), ""));
    }
    let mut types: Vec<GroupType> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for value in values {
        let name = text(value.get_ref()).map_err(|_| Mistake::new("must contain only strings", fix))?;
        let group_type = parse_group_type(name)?;
        if let Some(n) = types.iter().position(|known| *known == group_type) {
            return Err(repeated_type(names[n], name, &group_type));
        }
        types.push(group_type);
        names.push(name);
    }
    Ok(types)
}

fn request_interval(value: &DeValue<'_>, is_local: bool) -> ParseResult<Duration> {
    match duration(value)? {
        time if time > Duration::from_secs(3600) => {
            Err(Mistake::new("must be at most 1h", "Write \"1050ms\""))
        }
        time if is_local || time >= Duration::from_secs(1) => Ok(time),
        _ => {
            let rule = "must be at least 1s, unless base_url is loopback; the API allows one request a \
                 second";
            Err(Mistake::new(rule, "Write \"1050ms\""))
        }
    }
}

fn request_timeout(value: &DeValue<'_>, is_local: bool) -> ParseResult<Duration> {
    let least = Duration::from_secs(if is_local { 0 } else { 3 });
    match duration(value)? {
        time if time > least && time <= Duration::from_secs(60) => Ok(time),
        _ if is_local => Err(Mistake::new("must be more than 0s and at most 60s", "Write \"10s\"")),
        _ => {
            let rule = "must be more than 3s, which is the API's own timeout, and at most 60s";
            Err(Mistake::new(rule, "Write \"10s\""))
        }
    }
}
