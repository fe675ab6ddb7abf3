//! Evaluates answers: one pure function for each question. No text contains a group id.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::super::text::{count, number};
use crate::model::GroupType;
use crate::tencent::ApiError;
use crate::tencent::probe::{Call, Entry, Listed, RawAnswer, UnknownId};

pub(super) const ORDER: &str = "does a first page have the same order twice?";
pub(super) const NEXT: &str = "is a Next accepted again later?";
pub(super) const TOP_LEVEL_LISTED: &str = "top level of get_group_info, listed groups";

/// A result, or the reason why there is none. The reason contains no confidential data.
pub(super) type ProbeResult<T> = Result<T, String>;

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    question: String,
    answer: String,
    /// The documented behaviour, and the data that the answer is based on.
    detail: String,
}

impl Row {
    pub(super) fn new(
        question: impl Into<String>,
        answer: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self { question: question.into(), answer: answer.into(), detail: detail.into() }
    }

    pub(super) fn not_asked(question: impl Into<String>, why: &str) -> Self {
        Self::new(question, "not asked", why)
    }

    fn not_answered(question: impl Into<String>, why: &str) -> Self {
        Self::new(question, "not answered", why)
    }

    pub(super) fn cells(&self) -> Vec<String> {
        vec![self.question.clone(), self.answer.clone(), self.detail.clone()]
    }
}

/// Describes why a request failed, without text from the server or the network, which may contain
/// hosts or groups.
pub(super) fn reason(error: &ApiError) -> String {
    match error {
        ApiError::Answered { code, .. } => refused(*code),
        ApiError::Status { status, .. } => format!("HTTP status {status}"),
        error => format!("no usable answer ({})", error.reason_code()),
    }
}

fn refused(code: i64) -> String {
    format!("refused with code {code}")
}

/// Returns the page of an answer.
pub(super) fn page(answer: &RawAnswer) -> ProbeResult<Listed> {
    match answer.code() {
        Some(0) => Ok(answer.listed()),
        Some(code) => Err(refused(code)),
        None => Err("the answer has no ErrorCode".to_owned()),
    }
}

/// Returns the entries of an answer.
pub(super) fn entries(answer: &ProbeResult<RawAnswer>) -> ProbeResult<Vec<Entry>> {
    let answer = answer.as_ref().map_err(Clone::clone)?;
    answer.group_entries().ok_or_else(|| match answer.code() {
        Some(code) => format!("no GroupInfo; top-level code {code}"),
        None => "no GroupInfo and no ErrorCode".to_owned(),
    })
}

/// Evaluates which code `get_group_info` returns for an id that no group has.
pub(super) fn unknown_id(form: UnknownId, id: &str, answer: &ProbeResult<RawAnswer>) -> Row {
    let (what, documented) = match form {
        UnknownId::Default => ("unknown id, default form", UNKNOWN),
        UnknownId::Community => ("unknown id, Community form", UNKNOWN),
        UnknownId::Custom => ("unknown id, custom form", UNKNOWN),
        UnknownId::TooLong => ("malformed id, 64 bytes", MALFORMED),
        UnknownId::ControlCharacter => ("malformed id, with a control character", MALFORMED),
    };
    let question = format!("get_group_info: {what}");
    let entries = match entries(answer) {
        Ok(entries) => entries,
        Err(why) if answer.is_ok() => return Row::new(question, why, documented),
        Err(why) => return Row::not_answered(question, &why),
    };
    let same = entries.iter().find(|entry| entry.group_id.as_deref() == Some(id));
    let text = match (same, entries.as_slice()) {
        (Some(entry), _) => code_of(entry),
        (None, [entry]) => format!("{}, in an entry with another or no GroupId", code_of(entry)),
        (None, []) => "GroupInfo is empty".to_owned(),
        (None, _) => "GroupInfo has no entry for the id".to_owned(),
    };
    Row::new(question, text, documented)
}

const UNKNOWN: &str = "documented: 10010, the group does not exist";
const MALFORMED: &str = "documented: 10015, the id is illegal";

fn code_of(entry: &Entry) -> String {
    match entry.code {
        Some(0) => "code 0, as if the group existed".to_owned(),
        Some(code) => format!("code {code}"),
        None => "an entry without ErrorCode".to_owned(),
    }
}

/// Evaluates whether `get_group_info` reports the first listed group of a type as existing, with
/// this type.
pub(super) fn listed_group(
    of: &GroupType,
    page: &ProbeResult<Listed>,
    entries: &ProbeResult<Vec<Entry>>,
) -> Row {
    let question = format!("get_group_info: a listed group of type {of}");
    let page = match page {
        Ok(page) => page,
        Err(why) => return Row::not_asked(question, &format!("the list of this type: {why}")),
    };
    let Some(id) = page.ids.first() else {
        return Row::not_asked(question, "the list of this type is empty");
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err(why) => return Row::not_answered(question, why),
    };
    let answer = match entries.iter().find(|entry| entry.group_id.as_ref() == Some(id)) {
        None => "GroupInfo has no entry for it".to_owned(),
        Some(Entry { code: Some(0), group_type, .. }) => match group_type.as_deref() {
            Some(name) if name == of.as_str() => format!("code 0, Type {of}"),
            Some(name) if GroupType::new(name).as_ref() == Some(of) => format!("code 0, Type {name}"),
            Some(name) if GroupType::documented().iter().any(|known| known.as_str() == name) => {
                format!("code 0, but Type {name}")
            }
            Some(_) => "code 0, but another Type".to_owned(),
            None => "code 0, without Type".to_owned(),
        },
        Some(Entry { code: Some(code), .. }) => format!("code {code}, though it is listed"),
        Some(Entry { code: None, .. }) => "an entry without ErrorCode".to_owned(),
    };
    Row::new(question, answer, "documented: code 0 and the group's Type")
}

/// Evaluates whether the top-level code and `ActionStatus` agree with the codes of the entries.
pub(super) fn top_level(what: &str, answer: &ProbeResult<RawAnswer>) -> Row {
    let question = format!("top level of get_group_info, {what}");
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return Row::not_answered(question, why),
    };
    let (code, status) = (answer.code(), answer.action_status());
    let shown = code.map_or_else(|| "no ErrorCode".to_owned(), |code| format!("ErrorCode {code}"));
    let status_shown = match status {
        Some(status @ ("OK" | "FAIL")) => format!("ActionStatus {status}"),
        Some(_) => "another ActionStatus".to_owned(),
        None => "no ActionStatus".to_owned(),
    };
    let Some(entries) = answer.group_entries() else {
        return Row::new(question, format!("{shown}, {status_shown}, no GroupInfo"), TOP_LEVEL);
    };
    let codes: BTreeSet<Option<i64>> = entries.iter().map(|entry| entry.code).collect();
    let all_exist = codes.iter().all(|code| *code == Some(0));
    let agree = (code == Some(0)) == all_exist && (status == Some("OK")) == all_exist;
    let codes: Vec<String> =
        codes.iter().map(|code| code.map_or_else(|| "none".to_owned(), |code| code.to_string())).collect();
    let verdict = if agree { "agrees with its entries" } else { "does not agree with its entries" };
    let detail = format!("{shown}, {status_shown}; codes of entries: {}; {TOP_LEVEL}", codes.join(", "));
    Row::new(question, verdict, detail)
}

const TOP_LEVEL: &str = "documented: it has no meaning here";

/// Evaluates whether `GroupType` filters the list.
pub(super) fn filter(unfiltered: &ProbeResult<Listed>, by_type: &[(GroupType, ProbeResult<Listed>)]) -> Row {
    let question = "is the GroupType filter honoured?";
    let listed: Vec<(&GroupType, &Listed)> = by_type
        .iter()
        .filter_map(|(of, page)| Some((of, page.as_ref().ok()?)))
        .filter(|(_, page)| !page.ids.is_empty())
        .collect();
    let total = unfiltered.as_ref().ok().and_then(|page| page.total_count);
    let detail = counts(total, by_type);
    for (n, (one, page)) in listed.iter().enumerate() {
        for (other, other_page) in &listed[n + 1..] {
            let common = in_common(page, other_page);
            if common > 0 {
                let answer = format!("no: {one} and {other} have {} in common", groups(common));
                return Row::new(question, answer, detail);
            }
        }
    }
    let another_total = total.is_some()
        && listed.iter().any(|(_, page)| page.total_count.is_some() && page.total_count != total);
    match listed.as_slice() {
        [_, _, ..] => {
            let answer = format!("yes: the first pages of {} types have no group in common", listed.len());
            Row::new(question, answer, detail)
        }
        [_] if another_total => Row::new(question, "yes: TotalCount differs from the app's", detail),
        [_] => Row::new(question, "unknown: only one type has groups", detail),
        [] => Row::new(question, "unknown: no type has a group", detail),
    }
}

/// Formats the TotalCounts of the app and of each type.
fn counts(total: Option<u64>, by_type: &[(GroupType, ProbeResult<Listed>)]) -> String {
    let shown = |total: Option<u64>| total.map_or_else(|| "none".to_owned(), number);
    let mut text = format!("TotalCount: app {}", shown(total));
    for (of, page) in by_type {
        // Writing to a `String` does not fail.
        let _ = match page {
            Ok(page) => write!(text, ", {of} {}", shown(page.total_count)),
            Err(why) => write!(text, ", {of} {why}"),
        };
    }
    text
}

const REST_NAMES: &str = "documented: REST names only";

/// Evaluates whether the SDK name of a type is accepted as a filter, with the same result as the
/// REST name.
pub(super) fn alias(
    (alias, aliased): (&str, &ProbeResult<Listed>),
    (name, named): (&str, Option<&Listed>),
    unfiltered: &ProbeResult<Listed>,
) -> Row {
    let question = format!("is {alias} accepted as a filter for {name}?");
    let aliased = match aliased {
        Ok(aliased) => aliased,
        Err(why) => return Row::new(question, format!("no: {why}"), REST_NAMES),
    };
    let Some(named) = named else {
        return Row::new(question, format!("accepted; {name} was not listed to compare"), REST_NAMES);
    };
    let shown = |page: &Listed| page.total_count.map_or_else(|| "none".to_owned(), number);
    let detail = format!("TotalCount: {alias} {}, {name} {}; {REST_NAMES}", shown(aliased), shown(named));
    let answer = if aliased.ids.is_empty() && named.ids.is_empty() {
        format!("accepted; {name} is empty, so they cannot be compared")
    } else if same_page(aliased, named) {
        format!("yes: it lists the same groups as {name}")
    } else if aliased.ids.is_empty() {
        "accepted, but it lists nothing".to_owned()
    } else if unfiltered.as_ref().is_ok_and(|unfiltered| same_page(aliased, unfiltered)) {
        "accepted, but ignored: it lists the same groups as no filter".to_owned()
    } else {
        let common = groups(in_common(aliased, named));
        format!("accepted, but it lists other groups than {name}: {common} in common")
    };
    Row::new(question, answer, detail)
}

fn same_page(one: &Listed, other: &Listed) -> bool {
    one.ids == other.ids && one.total_count == other.total_count
}

/// Evaluates whether a first page has the same ids in the same order when it is requested again.
pub(super) fn order(first: &Listed, second: &ProbeResult<Listed>) -> Row {
    match second {
        Ok(second) => Row::new(ORDER, compared(first, second), ORDER_DETAIL),
        Err(why) => Row::not_answered(ORDER, why),
    }
}

const ORDER_DETAIL: &str = "not documented; groups may have been created or dissolved in between";

/// Evaluates whether a `Next` can be used again some time later.
pub(super) fn next_again(first: &ProbeResult<Listed>, second: &ProbeResult<Listed>, waited: &str) -> Row {
    match (first, second) {
        (Err(why), _) => Row::new(NEXT, "not accepted even at once", why.as_str()),
        (Ok(_), Err(why)) => Row::new(NEXT, format!("no, {waited} later: {why}"), "not documented"),
        (Ok(first), Ok(second)) => {
            let answer = format!("yes, {waited} later: {}", compared(first, second));
            Row::new(NEXT, answer, ORDER_DETAIL)
        }
    }
}

fn compared(first: &Listed, second: &Listed) -> String {
    let common = in_common(first, second);
    if first.ids == second.ids {
        format!("the same {} in the same order", groups(common))
    } else if first.ids.len() == second.ids.len() && common == first.ids.len() {
        format!("the same {} in another order", groups(common))
    } else {
        format!("{} and {}, {common} in common", groups(first.ids.len()), groups(second.ids.len()))
    }
}

fn in_common(one: &Listed, other: &Listed) -> usize {
    let ids: HashSet<&String> = one.ids.iter().collect();
    other.ids.iter().filter(|id| ids.contains(id)).count()
}

fn groups(number: usize) -> String {
    count(number as u64, "group")
}

/// Lists the top-level fields that are not documented.
pub(super) fn unknown_fields(call: Call, seen: &BTreeSet<String>) -> Row {
    let question = format!("undocumented top-level fields of {}", call.name());
    if seen.is_empty() {
        return Row::not_answered(question, "no answer had fields");
    }
    let documented = call.documented_fields();
    let missing: Vec<&str> = documented.iter().copied().filter(|field| !seen.contains(*field)).collect();
    let detail =
        if missing.is_empty() { String::new() } else { format!("never sent: {}", missing.join(", ")) };
    Row::new(question, named(seen, |field| !documented.contains(&field)), detail)
}

/// Lists the fields of entries that are not documented.
pub(super) fn unknown_entry_fields(call: Call, seen: &BTreeSet<String>) -> Row {
    let question = format!("undocumented fields of entries of {}", call.name());
    if seen.is_empty() {
        return Row::not_answered(question, "no answer had entries");
    }
    let (requested, filtered) = (call.requested_entry_fields(), call.filtered_entry_fields());
    let unknown = named(seen, |field| !requested.contains(&field) && !filtered.contains(&field));
    let detail = match call {
        Call::List => String::new(),
        Call::Info => format!("sent though filtered out: {}", named(seen, |field| filtered.contains(&field))),
    };
    Row::new(question, unknown, detail)
}

/// Lists the chosen field names. A name that is not an identifier could be confidential, so it is
/// not shown.
fn named(seen: &BTreeSet<String>, chosen: impl Fn(&str) -> bool) -> String {
    let is_identifier = |name: &str| {
        (1..=40).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let shown =
        |name: &str| if is_identifier(name) { name.to_owned() } else { "(not an identifier)".to_owned() };
    let names: BTreeSet<String> = seen.iter().filter(|name| chosen(name)).map(|name| shown(name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

/// Lists the HTTP statuses of the answers.
pub(super) fn statuses(answers: &BTreeMap<u16, u32>) -> Row {
    let question = "HTTP status of the answers";
    let shown: Vec<String> = answers.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    if shown.is_empty() {
        return Row::not_answered(question, "there was no answer");
    }
    Row::new(question, shown.join(", "), "status: answers; documented: 200, for error codes too")
}

/// Evaluates whether answers have a `Date`, and how far it is from this machine's clock.
pub(super) fn date(answer: Option<(Option<&str>, DateTime<Utc>)>) -> Row {
    let question = "Date header of an answer";
    let Some((header, received_at)) = answer else {
        return Row::not_answered(question, "there was no answer");
    };
    let Some(header) = header else { return Row::new(question, "none", "") };
    let Ok(date) = DateTime::parse_from_rfc2822(header) else {
        return Row::new(question, "present, but not a date", "");
    };
    let ahead = (date.to_utc() - received_at).num_seconds();
    let answer = match ahead {
        0 => "present, within a second of this machine's clock".to_owned(),
        1.. => format!("present, {ahead} s ahead of this machine's clock"),
        _ => format!("present, {} s behind this machine's clock", -ahead),
    };
    Row::new(question, answer, "it has whole seconds; not documented")
}
