//! Computes the ticks of a schedule, which are the times at which a cron expression is due in a
//! time zone. Pure: the current time is a parameter.
//!
//! The expression applies to the local time of the zone. At a transition to or from daylight saving
//! time:
//! - A time of day that is skipped is due at the end of the gap.
//! - A time of day that occurs twice is due at its first occurrence.
//! - An interval such as `*/30` continues through the transition.
//!
//! In UTC, ticks strictly increase.

use std::{fmt, iter};

use chrono::{DateTime, SubsecRound as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

/// The maximum number of missed ticks that are counted. `* * * * * *` reaches it in three hours.
pub const MAX_MISSED_TICKS: usize = 10_000;

const NICKNAMES: [&str; 6] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The fields of an expression with seconds. An expression of five fields begins with the minute.
const FIELDS: [Field; 6] = [
    Field { name: "second", valid: "0-59", names: &[] },
    Field { name: "minute", valid: "0-59", names: &[] },
    Field { name: "hour", valid: "0-23", names: &[] },
    Field { name: "day of month", valid: "1-31, L, 15W", names: &[] },
    Field { name: "month", valid: "1-12, JAN-DEC", names: &MONTHS },
    Field { name: "day of week", valid: "0-7, SUN-SAT, 5L, 1#2", names: &WEEKDAYS },
];

#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    /// The valid values, for error messages.
    valid: &'static str,
    /// Names that may be written instead of numbers.
    names: &'static [&'static str],
}

/// Why a cron expression is invalid, and what to change. Columns are counted in characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("{name:?} is not the name of a schedule: the names are {}", NICKNAMES.join(", "))]
    UnknownName { name: String },
    #[error(
        "{found} {}: an expression has 5 (minute, hour, day of month, month, day of week) or 6 \
         (second first)",
        if *found == 1 { "field" } else { "fields" }
    )]
    FieldCount { found: usize },
    #[error("column {column}: {text:?} is not a valid {field} ({reason}): write {valid}; {hint}")]
    Field {
        column: usize,
        text: String,
        field: &'static str,
        reason: String,
        valid: &'static str,
        /// How an expression with this number of fields is read, because 5 and 6 fields are easily
        /// confused.
        hint: &'static str,
    },
    #[error("never due: no date has day of month {day:?}, month {month:?} and day of week {weekday:?}")]
    NeverDue { day: String, month: String, weekday: String },
}

/// The schedule of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pattern: String,
    timezone: Tz,
    cron: Cron,
}

impl Schedule {
    /// Parses 5 fields, 6 fields with the second first, or a name such as `@hourly`.
    #[expect(
        clippy::missing_panics_doc,
        reason = "check() rejects every expression that croner would reject"
    )]
    pub fn parse(pattern: &str, timezone: Tz) -> Result<Self, InvalidPattern> {
        check(pattern)?;
        let cron = cron(pattern).expect("an expression is valid if each of its fields is");
        let schedule = Self { pattern: pattern.trim().to_owned(), timezone, cron };
        // Croner searches until the year 5000. An expression without a tick until then is never
        // due.
        match schedule.next_after(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(never_due(pattern)),
        }
    }

    /// Returns the same expression in another time zone.
    #[must_use]
    pub fn in_timezone(self, timezone: Tz) -> Self {
        Self { timezone, ..self }
    }

    #[must_use]
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// Returns the first tick after `time`.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&self.local_second(time), false).ok().map(|tick| tick.to_utc())
    }

    /// Returns the latest tick in the interval (`after`, `now`]. The cost does not depend on
    /// `after`.
    #[must_use]
    pub fn latest_due(&self, after: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let tick = self.cron.find_previous_occurrence(&self.local_second(now), true).ok()?.to_utc();
        after.is_none_or(|after| tick > after).then_some(tick)
    }

    /// Returns the first `count` ticks after `from`.
    #[must_use]
    pub fn upcoming(&self, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        self.ticks_after(from).take(count).collect()
    }

    /// Returns the number of ticks in the interval (`after`, `until`], at most
    /// [`MAX_MISSED_TICKS`].
    #[must_use]
    pub fn missed(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        self.passed(after, until, MAX_MISSED_TICKS)
    }

    /// Returns the number of ticks in the interval (`after`, `until`], at most `at_most`.
    #[must_use]
    pub fn passed(&self, after: DateTime<Utc>, until: DateTime<Utc>, at_most: usize) -> u64 {
        self.ticks_after(after).take(at_most).take_while(|tick| *tick <= until).count() as u64
    }

    fn ticks_after(&self, time: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        iter::successors(self.next_after(time), |tick| self.next_after(*tick))
    }

    /// Returns the time in the schedule's zone, truncated to a second. Without the truncation,
    /// croner 4.0.3 returns the next tick as the previous one in the last millisecond before a
    /// repeated hour.
    fn local_second(&self, time: DateTime<Utc>) -> DateTime<Tz> {
        time.trunc_subsecs(0).with_timezone(&self.timezone)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.pattern, self.timezone)
    }
}

fn cron(pattern: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(pattern)
}

/// Reports the first invalid item of an expression with its column, which croner does not report.
fn check(pattern: &str) -> Result<(), InvalidPattern> {
    let name = pattern.trim();
    if name.starts_with('@') {
        let known = NICKNAMES.iter().any(|nickname| nickname.eq_ignore_ascii_case(name));
        return if known { Ok(()) } else { Err(InvalidPattern::UnknownName { name: name.to_owned() }) };
    }
    let found = pattern.split_whitespace().count();
    let hint = match found {
        5 => "the first of 5 fields is the minute; seconds would be a sixth field before it",
        6 => "the first of 6 fields is the second; without seconds there are 5 fields",
        _ => return Err(InvalidPattern::FieldCount { found }),
    };
    for (index, (column, text)) in (FIELDS.len() - found..).zip(fields_of(pattern)) {
        let items = split_at_columns(column, text, |c| c == ',');
        // The entire field is checked last, because an item can be valid alone and invalid in a
        // list, as in `*,5`.
        let mut candidates = items.chain([(column, text)]);
        if let Some((column, text, reason)) =
            candidates.find_map(|(column, text)| Some((column, text, problem(index, text)?)))
        {
            let (text, Field { name: field, valid, .. }) = (text.to_owned(), FIELDS[index]);
            return Err(InvalidPattern::Field { column, text, field, reason, valid, hint });
        }
    }
    Ok(())
}

/// Returns why an item of the field `FIELDS[index]` is invalid, or `None` if it is valid. Checks
/// two mistakes that croner accepts: `MON` as a month, which it reads as January, and an empty item
/// between two commas.
fn problem(index: usize, text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("nothing between commas".to_owned());
    }
    let upper = text.to_uppercase();
    let is_name = |part: &&str| part.chars().any(|c| c.is_alphabetic() && !matches!(c, 'L' | 'W'));
    // JUL is a name; FRIL is a name followed by L, for "last".
    let is_known = |name: &str| {
        let names = FIELDS[index].names;
        names.contains(&name) || names.contains(&name.trim_end_matches('L'))
    };
    if let Some(name) = upper.split(['-', '/', '#', '+', ',']).filter(is_name).find(|name| !is_known(name)) {
        return Some(format!("unknown name {name}"));
    }
    let mut fields = ["*"; FIELDS.len()];
    fields[index] = text;
    match cron(&fields.join(" ")).err()? {
        CronError::ComponentError(reason) => Some(reason.trim_end_matches('.').to_lowercase()),
        _ => Some("unknown character".to_owned()),
    }
}

fn never_due(pattern: &str) -> InvalidPattern {
    let mut last = pattern.split_whitespace().rev().map(str::to_owned);
    let (weekday, month, day) = (last.next(), last.next(), last.next());
    InvalidPattern::NeverDue {
        day: day.unwrap_or_default(),
        month: month.unwrap_or_default(),
        weekday: weekday.unwrap_or_default(),
    }
}

fn fields_of(pattern: &str) -> impl Iterator<Item = (usize, &str)> {
    split_at_columns(1, pattern, char::is_whitespace).filter(|(_, text)| !text.is_empty())
}

/// Splits a text that begins at `column`. Returns each piece with its column.
fn split_at_columns(
    column: usize,
    text: &str,
    separator: fn(char) -> bool,
) -> impl Iterator<Item = (usize, &str)> {
    text.split(separator).scan(column, |next, piece| {
        let column = *next;
        *next += piece.chars().count() + 1;
        Some((column, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Tz::{Africa__Casablanca, America__St_Johns, Asia__Shanghai, Australia__Lord_Howe};
    use chrono_tz::Tz::{Europe__London, UTC};
    use proptest::prelude::*;

    const PATTERNS: [&str; 9] = [
        "30 1 * * *",
        "*/30 * * * *",
        "@hourly",
        "* * * * * *",
        "0 0 L * *",
        "15,45 0-3 * * SUN",
        "*/7 30 1-2 * * *",
        "0 2 29 2 *",
        "0 9 * * 1#1",
    ];
    const ZONES: [Tz; 6] =
        [UTC, Europe__London, Asia__Shanghai, America__St_Johns, Australia__Lord_Howe, Africa__Casablanca];

    fn schedule(pattern: &str, timezone: Tz) -> Schedule {
        Schedule::parse(pattern, timezone).unwrap()
    }

    fn utc(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    fn ticks(pattern: &str, timezone: Tz, from: &str, count: usize) -> Vec<String> {
        let ticks = schedule(pattern, timezone).upcoming(utc(from), count);
        ticks.iter().map(|tick| tick.format("%m-%dT%H:%M").to_string()).collect()
    }

    fn error_of(pattern: &str) -> String {
        Schedule::parse(pattern, UTC).unwrap_err().to_string()
    }

    #[test]
    fn a_skipped_time_of_day_is_due_at_the_end_of_the_gap() {
        let days = ticks("30 1 * * *", Europe__London, "2026-03-28T00:00:00Z", 3);
        assert_eq!(days, ["03-28T01:30", "03-29T01:00", "03-30T00:30"]);
    }

    #[test]
    fn a_repeated_time_of_day_is_due_once() {
        let days = ticks("30 1 * * *", Europe__London, "2026-10-24T00:00:00Z", 3);
        assert_eq!(days, ["10-24T00:30", "10-25T00:30", "10-26T01:30"]);
    }

    #[test]
    fn an_interval_continues_through_both_transitions() {
        for night in ["2026-03-28T23:45:00Z", "2026-10-24T23:45:00Z"] {
            let half_hours = schedule("*/30 * * * *", Europe__London).upcoming(utc(night), 8);
            assert!(
                half_hours.windows(2).all(|pair| (pair[1] - pair[0]).num_minutes() == 30),
                "{half_hours:?}"
            );
        }
    }

    #[test]
    fn a_zone_without_daylight_saving_time_keeps_its_offset() {
        let mornings = ticks("0 8 * * MON-FRI", Asia__Shanghai, "2026-11-20T00:00:00Z", 2);
        assert_eq!(mornings, ["11-23T00:00", "11-24T00:00"]);
    }

    #[test]
    fn the_tick_at_the_start_of_a_repeated_half_hour_is_not_due_a_millisecond_early() {
        let half_hours = schedule("*/30 * * * *", Australia__Lord_Howe);
        let latest = half_hours.latest_due(None, utc("2026-04-04T14:59:59.999Z"));
        assert_eq!(latest, Some(utc("2026-04-04T14:30:00Z")));
    }

    #[test]
    fn five_fields_six_fields_and_names_are_valid() {
        let from = "2026-11-23T10:00:00Z";
        assert_eq!(ticks("0 * * * *", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks("0 0 * * * *", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks(" @Hourly ", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks("0 12 L feb,dec FRIL", UTC, from, 2), ["12-25T12:00", "12-31T12:00"]);
    }

    #[test]
    fn the_latest_due_tick_is_found_regardless_of_the_age_of_the_last_one() {
        let (long_ago, now) = (utc("1990-01-01T00:00:00Z"), utc("2026-11-23T10:00:00.7Z"));
        let seconds = schedule("* * * * * *", UTC);
        assert_eq!(seconds.latest_due(Some(long_ago), now), Some(utc("2026-11-23T10:00:00Z")));
        assert_eq!(seconds.latest_due(None, now), Some(utc("2026-11-23T10:00:00Z")));
        assert_eq!(seconds.missed(long_ago, now), MAX_MISSED_TICKS as u64);
    }

    #[test]
    fn a_crawled_tick_is_not_due_again_even_if_the_clock_is_set_back() {
        let hourly = schedule("@hourly", UTC);
        let ten = utc("2026-11-23T10:00:00Z");
        assert_eq!(hourly.latest_due(Some(ten), utc("2026-11-23T10:59:59Z")), None);
        assert_eq!(hourly.latest_due(Some(ten), utc("2026-11-22T10:30:00Z")), None);
        assert_eq!(
            hourly.latest_due(Some(ten), utc("2026-11-23T11:00:00Z")),
            Some(utc("2026-11-23T11:00:00Z"))
        );
        assert_eq!(hourly.missed(ten, utc("2026-11-23T13:30:00Z")), 3);
    }

    #[test]
    fn an_error_has_the_column_and_the_reason() {
        assert_eq!(
            error_of("0 4 1,15,32 * *"),
            "column 10: \"32\" is not a valid day of month (number out of bounds): write 1-31, L, \
             15W; the first of 5 fields is the minute; seconds would be a sixth field before it"
        );
        for (pattern, expected) in [
            ("  0  61 * * * *", "column 6: \"61\" is not a valid minute (number out of bounds)"),
            ("30-10 * * * *", "column 1: \"30-10\" is not a valid minute (range out of bounds)"),
            ("*/0 * * * *", "column 1: \"*/0\" is not a valid minute (step cannot be zero)"),
            ("1,,2 * * * *", "column 3: \"\" is not a valid minute (nothing between commas)"),
            ("*,5 * * * *", "column 1: \"*,5\" is not a valid minute (invalid number)"),
            ("0 9 * MON *", "column 7: \"MON\" is not a valid month (unknown name MON)"),
            ("0 9 * * Monday", "column 9: \"Monday\" is not a valid day of week (unknown name MONDAY)"),
            ("0 é * * *", "column 3: \"é\" is not a valid hour (unknown name É)"),
            ("0 $ * * *", "column 3: \"$\" is not a valid hour (unknown character)"),
        ] {
            let error = error_of(pattern);
            assert!(error.starts_with(expected), "{pattern}: {error}");
        }
    }

    #[test]
    fn an_error_has_a_hint_for_a_wrong_number_of_fields() {
        let seconds_without_weekday = error_of("0 30 4 * *");
        assert!(seconds_without_weekday.contains("\"30\" is not a valid hour"), "{seconds_without_weekday}");
        assert!(seconds_without_weekday.ends_with("seconds would be a sixth field before it"));
        let year_at_the_end = error_of("30 4 * * 1 2027");
        assert!(year_at_the_end.contains("\"2027\" is not a valid day of week"), "{year_at_the_end}");
        assert!(year_at_the_end.ends_with("without seconds there are 5 fields"));
        assert_eq!(
            error_of("* * *"),
            "3 fields: an expression has 5 (minute, hour, day of month, month, day of week) or 6 \
             (second first)"
        );
        assert!(error_of("0 0 0 * * * 2027").starts_with("7 fields"));
        assert!(error_of("").starts_with("0 fields"));
        assert!(error_of("@midday").contains("@hourly, @daily"));
    }

    #[test]
    fn a_date_that_never_occurs_is_an_error() {
        assert_eq!(
            error_of("0 0 31 2 *"),
            "never due: no date has day of month \"31\", month \"2\" and day of week \"*\""
        );
        assert!(Schedule::parse("0 0 29 2 +MON", UTC).is_ok(), "it occurs once in 28 years");
    }

    fn moments() -> impl Strategy<Value = DateTime<Utc>> {
        // Times around the transitions of 2026, and any time in 30 years.
        let change = prop::sample::select(vec![
            "2026-03-29T01:00:00Z",
            "2026-10-25T01:00:00Z",
            "2026-04-04T15:00:00Z",
        ]);
        let near = (change, -8_000_000..8_000_000_i64)
            .prop_map(|(change, off)| utc(change).timestamp_millis() + off);
        let far = 1_700_000_000_000..2_700_000_000_000_i64;
        prop_oneof![near, far].prop_map(|millis| DateTime::from_timestamp_millis(millis).unwrap())
    }

    proptest! {
        #[test]
        fn ticks_increase_and_the_latest_due_tick_is_the_inverse_of_the_next(
            pattern in prop::sample::select(&PATTERNS[..]),
            timezone in prop::sample::select(&ZONES[..]),
            time in moments(),
            other in moments(),
        ) {
            let schedule = schedule(pattern, timezone);
            let next = schedule.next_after(time).unwrap();
            prop_assert!(next > time);
            prop_assert!(time > other || schedule.next_after(other).unwrap() >= next, "not monotone");
            prop_assert_eq!(schedule.latest_due(None, next), Some(next));
            prop_assert_eq!(schedule.latest_due(Some(time), next - chrono::TimeDelta::milliseconds(1)), None);
            let latest = schedule.latest_due(None, time).unwrap();
            prop_assert!(latest <= time);
            prop_assert_eq!(schedule.next_after(latest), Some(next));
        }

        #[test]
        fn parsing_never_panics(
            text in "([-0-9*,/LW?]{1,4} ){4,5}[-0-9*,/L#+]{1,4}|[-0-9*/,#?@+ A-Za-z]{0,24}|\\PC{0,12}"
        ) {
            let _ = Schedule::parse(&text, UTC);
        }
    }
}
