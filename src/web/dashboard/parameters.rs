//! The parameters of a request, read strictly: what is not understood is an error, because ignoring it would answer
//! another question than was asked.

use std::collections::BTreeMap;

use axum::http::Uri;
use chrono::NaiveDate;

use super::refusal::Refusal;
use crate::model::is_group_id;
use crate::store::Below;

/// Rows, or crawls, a page, unless the request says otherwise; and at most.
const USUAL: i64 = 50;
const MOST: i64 = 500;
/// The same for days.
const USUAL_DAYS: i64 = 90;
const MOST_DAYS: i64 = 400;
/// After every day.
const LAST_DAY: &str = "9999-12-31";

#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// The parameters of a URL, each of which must be one of these and come once.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Refusal> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let takes = if known.is_empty() { "no parameters".to_owned() } else { known.join(", ") };
                return Err(malformed(format!(
                    "there is no parameter {} here; this list takes {takes}",
                    quoted(&name)
                )));
            }
            if parameters.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(malformed(format!("{name} is given twice")));
            }
        }
        Ok(Self(parameters))
    }

    /// Where a list by numbers goes on.
    pub(super) fn below(&self) -> Result<Below, Refusal> {
        Ok(Below { before: self.number("before", i64::MAX, i64::MAX)?, limit: self.limit()? })
    }

    pub(super) fn limit(&self) -> Result<i64, Refusal> {
        self.number("limit", USUAL, MOST)
    }

    /// Where a list by days goes on, and how many.
    pub(super) fn below_day(&self) -> Result<(String, i64), Refusal> {
        let days = self.number("limit", USUAL_DAYS, MOST_DAYS)?;
        let Some(before) = self.0.get("before") else { return Ok((LAST_DAY.to_owned(), days)) };
        match NaiveDate::parse_from_str(before, "%Y-%m-%d") {
            // Written anew: the database compares texts.
            Ok(day) if (0..=9999).contains(&chrono::Datelike::year(&day)) => {
                Ok((day.format("%Y-%m-%d").to_string(), days))
            }
            _ => Err(malformed(format!("before must be a day such as 2026-03-31, not {}", quoted(before)))),
        }
    }

    /// The id of a group, which must be there.
    pub(super) fn group_id(&self) -> Result<&str, Refusal> {
        let id = self.0.get("group_id").ok_or_else(|| malformed("group_id is missing".to_owned()))?;
        as_id("group_id", id)
    }

    /// The beginning or the whole of an id; without it the empty text.
    pub(super) fn text(&self, name: &str) -> Result<&str, Refusal> {
        match self.0.get(name).map(String::as_str) {
            None | Some("") => Ok(""),
            Some(text) => as_id(name, text),
        }
    }

    fn number(&self, name: &str, usual: i64, most: i64) -> Result<i64, Refusal> {
        let Some(text) = self.0.get(name) else { return Ok(usual) };
        let number = text.parse::<i64>().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| {
            malformed(format!("{name} must be a number from 1 to {most}, not {}", quoted(text)))
        })
    }
}

fn as_id<'a>(name: &str, text: &'a str) -> Result<&'a str, Refusal> {
    if is_group_id(text) {
        return Ok(text);
    }
    Err(malformed(format!("{name} is no group id: those have 1 to 255 bytes and no control characters")))
}

/// A text as an answer repeats it: its beginning alone, if it is long.
pub(super) fn quoted(text: &str) -> String {
    const REPEATED: usize = 60;
    match text.char_indices().nth(REPEATED) {
        Some((end, _)) => format!("{:?} …", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn malformed(why: String) -> Refusal {
    Refusal::Malformed(why)
}
