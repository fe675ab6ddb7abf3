//! Parsers of single values. Each returns the typed value, or the mistake in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;
use reqwest::Url;
use toml::de::{DeFloat, DeInteger, DeValue};
use tracing_subscriber::EnvFilter;

use super::document::{ParseResult, kind};
use super::environment::Environment;
use super::problems::{Mistake, may_contain_key, nearest};
use super::secrets::SecretFile;
use crate::http::is_loopback;
use crate::model::{ListenAddress, is_schema_name};
use crate::schedule::Schedule;

fn wrong_type(wanted: &str, value: &DeValue<'_>, fix: &str) -> Mistake {
    Mistake::new(format!("must be {wanted}, not {}", kind(value)), fix)
}

pub(super) fn text<'v>(value: &'v DeValue<'_>) -> ParseResult<&'v str> {
    value.as_str().ok_or_else(|| wrong_type("a string", value, "Put it in quotes"))
}

pub(super) fn boolean(value: &DeValue<'_>) -> ParseResult<bool> {
    value.as_bool().ok_or_else(|| wrong_type("true or false", value, "Write true or false without quotes"))
}

pub(super) fn integer(value: &DeValue<'_>) -> ParseResult<i64> {
    let number = value
        .as_integer()
        .ok_or_else(|| wrong_type("an integer", value, "Write digits without quotes"))
        .map_err(|mistake| if value.is_float() { Mistake::new("must be an integer", "") } else { mistake })?;
    i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| Mistake::new("is too large", ""))
}

/// Parses a number from 0 to 1.
pub(super) fn fraction(value: &DeValue<'_>) -> ParseResult<f64> {
    let number = value.as_float().map(DeFloat::as_str).or(value.as_integer().map(DeInteger::as_str));
    let number = number.ok_or_else(|| wrong_type("a number", value, "Write it without quotes"))?;
    match number.parse::<f64>() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        Ok(percent) if (1.0..=100.0).contains(&percent) => {
            Err(Mistake::new("must be from 0 to 1", format!("Write {} for {percent} %", percent / 100.0)))
        }
        _ => Err(Mistake::new("must be from 0 to 1", "Write for example 0.2 for 20 %")),
    }
}

/// Parses a number of days, from 1 to 36500.
pub(super) fn days(value: &DeValue<'_>) -> ParseResult<u32> {
    let fix = "Write for example 365, or remove the key to keep all rows";
    let days = u32::try_from(integer(value)?).ok().filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| Mistake::new("must be a number of days from 1 to 36500", fix))
}

pub(super) fn duration(value: &DeValue<'_>) -> ParseResult<Duration> {
    let fix = "Write for example \"1050ms\", \"10s\" or \"5m\"";
    let text = value.as_str().ok_or_else(|| wrong_type("a string with a unit", value, fix))?;
    humantime::parse_duration(text).map_err(|error| Mistake::new(format!("is not a duration: {error}"), fix))
}

/// Parses one of several names, and returns its value.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> ParseResult<T> {
    let text = text(value)?;
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        Mistake::new(format!("must be one of {}", names.join(", ")), did_you_mean(text, names))
    })
}

/// Returns a question that suggests the candidate nearest to a misspelt name, or an empty text if
/// no candidate is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |near| format!("Did you mean \"{near}\"?"))
}

/// Parses the address of a listener: an IP address and a port, or a Unix socket. An empty string is
/// `None`.
pub(super) fn listen(value: &DeValue<'_>, folder: &Path) -> ParseResult<Option<ListenAddress>> {
    let text = text(value)?;
    if let Some(socket) = text.strip_prefix("unix:") {
        return Ok(Some(ListenAddress::Unix(path(socket, folder)?)));
    }
    let fix = "Write for example \"127.0.0.1:9878\", \"unix:/run/tim-group-sync/metrics.sock\", or \"\" \
               to disable it";
    let parsed = (!text.is_empty()).then(|| text.parse().map(ListenAddress::Tcp)).transpose();
    parsed.map_err(|_| Mistake::new("must be an IP address and a port, or unix: and a path", fix))
}

/// Parses a list of host names. Returns them in lower case.
pub(super) fn host_names(value: &DeValue<'_>) -> ParseResult<Vec<String>> {
    let fix = "Write for example [\"metrics.example.com\"], without scheme, port and path";
    let values = value.as_array().ok_or_else(|| wrong_type("a list of host names", value, fix))?;
    let name = |value: &DeValue<'_>| {
        let name = value.as_str().unwrap_or_default().to_ascii_lowercase();
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        let is_valid = is_plain && (1..=253).contains(&name.len());
        if is_valid { Ok(name) } else { Err(Mistake::new("must contain only host names", fix)) }
    };
    values.iter().map(|value| name(value.get_ref())).collect()
}

/// Parses a level, or a filter in the syntax of `tracing_subscriber`. Rejects a single word that is
/// not a level: `tracing_subscriber` would accept it as the name of a target, and disable all other
/// targets.
pub(super) fn log_level(text: &str) -> ParseResult<String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let bare: Vec<_> =
        text.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ']', '}'])).collect();
    let stray = bare.iter().find(|part| !levels.contains(&part.to_lowercase().as_str()));
    if let Some(stray) = stray.filter(|_| !text.contains('[')) {
        let fix = nearest(stray, levels)
            .map_or("Write for example \"info,tim_group_sync=debug\"".to_owned(), |near| {
                format!("Did you mean \"{near}\"?")
            });
        return Err(Mistake::new(format!("must be one of {}, or a filter", levels.join(", ")), fix));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Mistake::new(
            format!("is not a log filter: {error}"),
            "Write for example \"info,tim_group_sync=debug\"",
        )),
    }
}

/// Parses a cron expression. The result has the time zone UTC; the actual one is the value of
/// another key.
pub(super) fn cron(value: &DeValue<'_>) -> ParseResult<Schedule> {
    Schedule::parse(text(value)?, Tz::UTC).map_err(|invalid| {
        let fix = "For every hour write \"0 * * * *\"";
        Mistake::new(format!("is not a cron expression: {invalid}"), fix)
    })
}

pub(super) fn timezone(value: &DeValue<'_>) -> ParseResult<Tz> {
    let text = text(value)?;
    let mistake = |fix: String| Mistake::new("must be an IANA time zone", fix);
    let meant = zones_of_abbreviation(text);
    if !meant.is_empty() {
        return Err(mistake(format!("Did you mean \"{}\"?", meant.join("\" or \""))));
    }
    text.parse().map_err(|_| {
        let names = || chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let city = |name: &&str| {
            name.rsplit_once('/').is_some_and(|(_, city)| city.eq_ignore_ascii_case(&text.replace(' ', "_")))
        };
        let near = match names().find(city) {
            Some(name) => format!("Did you mean \"{name}\"?"),
            None => did_you_mean(text, names()),
        };
        mistake(if near.is_empty() {
            "Write for example \"UTC\" or \"Asia/Shanghai\"".to_owned()
        } else {
            near
        })
    })
}

/// Returns the time zones that an abbreviation may mean, the most likely one first. EST and
/// MST are IANA names too, of zones without daylight saving time, but are usually written for zones
/// with it.
fn zones_of_abbreviation(text: &str) -> &'static [&'static str] {
    match text.to_ascii_uppercase().as_str() {
        "CST" => &["Asia/Shanghai", "America/Chicago"],
        "BEIJING" | "PEKING" | "UTC+8" | "GMT+8" | "UTC+08" | "UTC+08:00" | "+08:00" => &["Asia/Shanghai"],
        "EST" => &["America/New_York", "America/Panama"],
        "EDT" => &["America/New_York"],
        "CDT" => &["America/Chicago"],
        "MST" => &["America/Denver", "America/Phoenix"],
        "MDT" => &["America/Denver"],
        "PST" => &["America/Los_Angeles", "Asia/Manila"],
        "PDT" => &["America/Los_Angeles"],
        "IST" => &["Asia/Kolkata", "Europe/Dublin", "Asia/Jerusalem"],
        "BST" => &["Europe/London", "Asia/Dhaka"],
        "CEST" => &["Europe/Berlin"],
        "MSK" => &["Europe/Moscow"],
        "JST" => &["Asia/Tokyo"],
        "KST" => &["Asia/Seoul"],
        "HKT" => &["Asia/Hong_Kong"],
        "SGT" | "SST" => &["Asia/Singapore"],
        "WIB" => &["Asia/Jakarta"],
        _ => &[],
    }
}

/// Parses the base URL of an API, which consists of scheme, host and port.
pub(super) fn base_url(value: &DeValue<'_>, allow_http: bool) -> ParseResult<Url> {
    let text = text(value)?;
    let fix = "Write for example \"https://console.tim.qq.com\"";
    let url = Url::parse(text).map_err(|error| Mistake::new(format!("is not a URL: {error}"), fix))?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") {
        Err(Mistake::new("must begin with https://", fix))
    } else if !bare || !url.username().is_empty() || url.password().is_some() {
        Err(Mistake::new("must have only scheme, host and port: no user, path, query or fragment", fix))
    } else if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        Err(Mistake::new(
            "must be https: without TLS an eavesdropper gets a UserSig with full administrator \
             rights",
            "Write https://, or add allow_http = true",
        ))
    } else {
        Ok(url)
    }
}

/// Parses the name of a PostgreSQL schema, see [`is_schema_name`].
pub(super) fn schema(value: &DeValue<'_>) -> ParseResult<String> {
    let name = text(value)?;
    if is_schema_name(name) {
        return Ok(name.to_owned());
    }
    Err(Mistake::new(
        "must be 1 to 55 lower-case letters, digits and _, not beginning with a digit or pg_",
        "Write for example \"tim\"",
    ))
}

pub(super) fn role(value: &DeValue<'_>) -> ParseResult<String> {
    let name = text(value)?;
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.');
    if is_plain && (1..=63).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    Err(Mistake::new("must be 1 to 63 letters, digits, _, - and .", "Write for example \"tim_reader\""))
}

/// Parses a path and resolves it against `folder`. Does not expand `~` and variables.
pub(super) fn path(text: &str, folder: &Path) -> ParseResult<PathBuf> {
    match text.as_bytes().first() {
        None => Err(Mistake::new("must be a path, not empty", "Write a path, or remove the key")),
        Some(b'~') => Err(Mistake::new("~ is not expanded", "Write the full path")),
        Some(b'$') => Err(Mistake::new(
            "variables are not expanded, except $CREDENTIALS_DIRECTORY/ at the start of the path \
             of a secret",
            "Write the full path",
        )),
        Some(_) if text.contains('\0') => Err(Mistake::new("must not contain a NUL", "")),
        Some(_) => Ok(folder.join(text)),
    }
}

pub(super) fn secret_file(value: &DeValue<'_>, folder: &Path, env: &Environment) -> ParseResult<SecretFile> {
    let text = text(value)?;
    if let Some(name) = text.strip_prefix("$CREDENTIALS_DIRECTORY/") {
        // If the variable is not set, reading the file reports the problem. So commands that need
        // no secret still work.
        let folder = env.directory("CREDENTIALS_DIRECTORY");
        let folder = folder.unwrap_or_else(|| PathBuf::from("$CREDENTIALS_DIRECTORY"));
        return Ok(SecretFile { path: path(name, &folder)?, is_credential: true });
    }
    if text.contains("://") {
        return Err(Mistake::new(
            "must be the path of a file, but is a URL; the value is not shown",
            "Put only the URL into a file of mode 0600 and write the path of that file",
        ));
    }
    if !text.contains(['/', '.']) && may_contain_key(text) {
        return Err(Mistake::new(
            "must be the path of a file, but looks like the key itself; the value is not shown",
            "Put only the key into a file of mode 0600 and write the path of that file; if anyone \
             else has read the configuration, create a new key in the console",
        ));
    }
    let path = path(text, folder)?;
    let is_credential = env.directory("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder));
    Ok(SecretFile { path, is_credential })
}
