//! Parses the query parameters of a request. Unknown, repeated and malformed parameters are errors,
//! because an answer that ignored them would be silently wrong.
//!
//! axum's extractor splits and decodes the query string. This module checks the values, because
//! serde's errors do not say which values are allowed.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::error::RequestError;
use crate::model::is_group_id;
use crate::store::KeysetPage;

/// The default number of rows, or of crawls, on a page.
const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 500;
/// The default number of days on a page.
const DEFAULT_DAYS: i64 = 90;
const MAX_DAYS: i64 = 400;
/// Events in one answer of the change feed.
const DEFAULT_EVENTS: i64 = 1000;
const MAX_EVENTS: i64 = 10_000;
/// The last day that the database can compare as text.
const LAST_DAY: &str = "9999-12-31";

/// The decoded name-value pairs of a query string, in their order.
pub(super) type Pairs = Vec<(String, String)>;

/// Query parameters by name.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Checks that each parameter is one of `known` and occurs only once.
    pub(super) fn of(pairs: Pairs, known: &[&str]) -> Result<Self, RequestError> {
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if !known.contains(&name.as_str()) {
                let allowed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(malformed(format!(
                    "there is no parameter {} here; the allowed parameters are: {allowed}",
                    quoted(&name)
                )));
            }
            if parameters.contains_key(&name) {
                return Err(malformed(format!("{name} is given twice")));
            }
            parameters.insert(name, value);
        }
        Ok(Self(parameters))
    }

    /// Returns the page of a list whose key is a number.
    pub(super) fn page(&self) -> Result<KeysetPage, RequestError> {
        Ok(KeysetPage { before: self.number("before", i64::MAX, i64::MAX)?, limit: self.limit()? })
    }

    /// Returns the cursor of the change feed, or 0, the start, if it is absent.
    pub(super) fn after_event(&self) -> Result<i64, RequestError> {
        let Some(text) = self.0.get("after") else { return Ok(0) };
        text.parse::<i64>().ok().filter(|after| *after >= 0).ok_or_else(|| {
            malformed(format!("after must be an event_id, or 0 for the start, not {}", quoted(text)))
        })
    }

    /// Returns the number of events of one answer of the change feed.
    pub(super) fn event_limit(&self) -> Result<i64, RequestError> {
        self.number("limit", DEFAULT_EVENTS, MAX_EVENTS)
    }

    /// Returns the id of a crawl, if the parameter is present.
    pub(super) fn crawl(&self, name: &str) -> Result<Option<i64>, RequestError> {
        self.0.get(name).map(|_| self.number(name, 0, i64::MAX)).transpose()
    }

    pub(super) fn limit(&self) -> Result<i64, RequestError> {
        self.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
    }

    /// Returns the page of a list of days: the day before which the page starts, and the number of
    /// days.
    pub(super) fn day_page(&self) -> Result<(String, i64), RequestError> {
        let days = self.number("limit", DEFAULT_DAYS, MAX_DAYS)?;
        let Some(before) = self.0.get("before") else { return Ok((LAST_DAY.to_owned(), days)) };
        match NaiveDate::parse_from_str(before, "%Y-%m-%d") {
            // The day is normalized, because the database compares days as text.
            Ok(day) if (0..=9999).contains(&chrono::Datelike::year(&day)) => {
                Ok((day.format("%Y-%m-%d").to_string(), days))
            }
            _ => Err(malformed(format!("before must be a day such as 2026-03-31, not {}", quoted(before)))),
        }
    }

    /// Returns the parameter `group_id`, which is required.
    pub(super) fn group_id(&self) -> Result<&str, RequestError> {
        let id = self.0.get("group_id").ok_or_else(|| malformed("group_id is missing".to_owned()))?;
        as_id("group_id", id)
    }

    /// Returns a parameter that is a group id or the start of an id. Returns an empty text if the
    /// parameter is absent.
    pub(super) fn text(&self, name: &str) -> Result<&str, RequestError> {
        match self.0.get(name).map(String::as_str) {
            None | Some("") => Ok(""),
            Some(text) => as_id(name, text),
        }
    }

    fn number(&self, name: &str, default: i64, max: i64) -> Result<i64, RequestError> {
        let Some(text) = self.0.get(name) else { return Ok(default) };
        let number = text.parse::<i64>().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| {
            malformed(format!("{name} must be a number from 1 to {max}, not {}", quoted(text)))
        })
    }
}

fn as_id<'a>(name: &str, text: &'a str) -> Result<&'a str, RequestError> {
    if is_group_id(text) {
        return Ok(text);
    }
    Err(malformed(format!("{name} is not a group id, which has 1 to 255 bytes and no control characters")))
}

/// Quotes a text for an error, shortened to 60 characters.
pub(super) fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{:?} …", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn malformed(why: String) -> RequestError {
    RequestError::Malformed(why)
}
