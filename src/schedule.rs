//! When crawls are due: a cron pattern read in a time zone. Pure: the time comes in, nothing waits here.
//!
//! A tick is one due time. A pattern follows the wall clock of its zone: a time of day that a change of clocks
//! leaves out ticks right after the gap, one that happens twice ticks at the first, and an interval (`*/30`)
//! ticks through both. On the time line, ticks only ever rise.

use std::{fmt, iter};

use chrono::{DateTime, SubsecRound as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

/// Counting missed ticks stops here. A pattern of every second reaches it in three hours.
pub const MISSED_AT_MOST: usize = 10_000;

const NICKNAMES: [&str; 6] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The fields of a pattern of six; a pattern of five has no first.
const FIELDS: [Field; 6] = [
    Field { name: "second", lawful: "0-59", words: &[] },
    Field { name: "minute", lawful: "0-59", words: &[] },
    Field { name: "hour", lawful: "0-23", words: &[] },
    Field { name: "day of month", lawful: "1-31, L, 15W", words: &[] },
    Field { name: "month", lawful: "1-12, JAN-DEC", words: &MONTHS },
    Field { name: "day of week", lawful: "0-7, SUN-SAT, 5L, 1#2", words: &WEEKDAYS },
];

#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    lawful: &'static str,
    /// Names that stand for numbers.
    words: &'static [&'static str],
}

/// Why a text is no schedule, as a sentence that says what to change. Columns count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("{name:?} names no schedule: the names are {}", NICKNAMES.join(", "))]
    UnknownName { name: String },
    #[error(
        "{found} fields: a pattern has 5 (minute, hour, day of month, month, day of week) or 6 (second first)"
    )]
    FieldCount { found: usize },
    #[error("column {column}: {text:?} is no {field} ({reason}): lawful are {lawful}; {reading}")]
    Field {
        column: usize,
        text: String,
        field: &'static str,
        reason: String,
        lawful: &'static str,
        /// How a pattern of so many fields is read: mistaking 5 for 6 shows as an odd hour or month.
        reading: &'static str,
    },
    #[error("never due: no date has day of month {day:?}, month {month:?} and day of week {weekday:?}")]
    NeverDue { day: String, month: String, weekday: String },
}

/// The ticks of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pattern: String,
    timezone: Tz,
    cron: Cron,
}

impl Schedule {
    /// Reads 5 fields, 6 with the second in front, or a name such as `@hourly`.
    #[expect(clippy::missing_panics_doc, reason = "check() has refused what croner would refuse")]
    pub fn parse(pattern: &str, timezone: Tz) -> Result<Self, InvalidPattern> {
        check(pattern)?;
        let cron = cron(pattern).expect("a pattern is lawful if each of its fields is");
        let schedule = Self { pattern: pattern.trim().to_owned(), timezone, cron };
        // The search ends in the year 5000: a pattern that finds no tick before then has none.
        match schedule.next_after(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(never_due(pattern)),
        }
    }

    /// The same pattern in another zone.
    #[must_use]
    pub fn in_timezone(self, timezone: Tz) -> Self {
        Self { timezone, ..self }
    }

    #[must_use]
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The first tick after `time`.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&self.second_of(time), false).ok().map(|tick| tick.to_utc())
    }

    /// The newest tick that is due at `now` and later than `after`; one search, however far back `after` lies.
    #[must_use]
    pub fn latest_due(&self, after: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let tick = self.cron.find_previous_occurrence(&self.second_of(now), true).ok()?.to_utc();
        after.is_none_or(|after| tick > after).then_some(tick)
    }

    /// The next `count` ticks after `from`.
    #[must_use]
    pub fn upcoming(&self, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        self.ticks_after(from).take(count).collect()
    }

    /// How many ticks are later than `after` and not later than `until`, counted to [`MISSED_AT_MOST`].
    #[must_use]
    pub fn missed(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        self.passed(after, until, MISSED_AT_MOST)
    }

    /// The same, counted to another number.
    #[must_use]
    pub fn passed(&self, after: DateTime<Utc>, until: DateTime<Utc>, at_most: usize) -> u64 {
        self.ticks_after(after).take(at_most).take_while(|tick| *tick <= until).count() as u64
    }

    fn ticks_after(&self, time: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        iter::successors(self.next_after(time), |tick| self.next_after(*tick))
    }

    /// Croner counts in whole seconds: looking back from the last millisecond before a repeated hour, it finds the
    /// tick to come (croner 4.0.3).
    fn second_of(&self, time: DateTime<Utc>) -> DateTime<Tz> {
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

/// Finds the first wrong item of a pattern.
fn check(pattern: &str) -> Result<(), InvalidPattern> {
    let name = pattern.trim();
    if name.starts_with('@') {
        let known = NICKNAMES.iter().any(|nickname| nickname.eq_ignore_ascii_case(name));
        return if known { Ok(()) } else { Err(InvalidPattern::UnknownName { name: name.to_owned() }) };
    }
    let found = pattern.split_whitespace().count();
    let reading = match found {
        5 => "of 5 fields the first is the minute; seconds would be a 6th, in front of it",
        6 => "of 6 fields the first is the second; without seconds there are 5",
        _ => return Err(InvalidPattern::FieldCount { found }),
    };
    for (place, (column, text)) in (FIELDS.len() - found..).zip(fields_of(pattern)) {
        let items = split_at_columns(column, text, |c| c == ',');
        // An item can be right by itself and wrong among others, as in `*,5`.
        let mut suspects = items.chain([(column, text)]);
        if let Some((column, text, reason)) =
            suspects.find_map(|(column, text)| Some((column, text, fault(place, text)?)))
        {
            let (text, Field { name: field, lawful, .. }) = (text.to_owned(), FIELDS[place]);
            return Err(InvalidPattern::Field { column, text, field, reason, lawful, reading });
        }
    }
    Ok(())
}

/// What is wrong with the text as part of the field at `place`. Croner says what but not where, and reads some
/// slips as something else: `MON` in the month's field as January, nothing between two commas as nothing.
fn fault(place: usize, text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("nothing between commas".to_owned());
    }
    let upper = text.to_uppercase();
    let is_word = |part: &&str| part.chars().any(|c| c.is_alphabetic() && !matches!(c, 'L' | 'W'));
    // JUL is a word; FRIL is a word and an L.
    let lawful = |word: &str| {
        let words = FIELDS[place].words;
        words.contains(&word) || words.contains(&word.trim_end_matches('L'))
    };
    if let Some(word) = upper.split(['-', '/', '#', '+', ',']).filter(is_word).find(|word| !lawful(word)) {
        return Some(format!("unknown word {word}"));
    }
    let mut fields = ["*"; FIELDS.len()];
    fields[place] = text;
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

/// The pieces of a text that begins at `column`, each with its own column.
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

    fn complaint(pattern: &str) -> String {
        Schedule::parse(pattern, UTC).unwrap_err().to_string()
    }

    #[test]
    fn a_time_of_day_that_spring_leaves_out_ticks_right_after_the_gap() {
        let days = ticks("30 1 * * *", Europe__London, "2026-03-28T00:00:00Z", 3);
        assert_eq!(days, ["03-28T01:30", "03-29T01:00", "03-30T00:30"]);
    }

    #[test]
    fn a_time_of_day_that_autumn_repeats_ticks_once() {
        let days = ticks("30 1 * * *", Europe__London, "2026-10-24T00:00:00Z", 3);
        assert_eq!(days, ["10-24T00:30", "10-25T00:30", "10-26T01:30"]);
    }

    #[test]
    fn an_interval_ticks_through_both_changes_of_clocks() {
        for night in ["2026-03-28T23:45:00Z", "2026-10-24T23:45:00Z"] {
            let half_hours = schedule("*/30 * * * *", Europe__London).upcoming(utc(night), 8);
            assert!(
                half_hours.windows(2).all(|pair| (pair[1] - pair[0]).num_minutes() == 30),
                "{half_hours:?}"
            );
        }
    }

    #[test]
    fn a_zone_without_changes_keeps_its_offset() {
        let mornings = ticks("0 8 * * MON-FRI", Asia__Shanghai, "2026-11-20T00:00:00Z", 2);
        assert_eq!(mornings, ["11-23T00:00", "11-24T00:00"]);
    }

    #[test]
    fn the_tick_that_opens_a_repeated_half_hour_is_not_due_a_millisecond_early() {
        let half_hours = schedule("*/30 * * * *", Australia__Lord_Howe);
        let latest = half_hours.latest_due(None, utc("2026-04-04T14:59:59.999Z"));
        assert_eq!(latest, Some(utc("2026-04-04T14:30:00Z")));
    }

    #[test]
    fn five_fields_six_fields_and_names_are_read() {
        let from = "2026-11-23T10:00:00Z";
        assert_eq!(ticks("0 * * * *", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks("0 0 * * * *", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks(" @Hourly ", UTC, from, 1), ["11-23T11:00"]);
        assert_eq!(ticks("0 12 L feb,dec FRIL", UTC, from, 2), ["12-25T12:00", "12-31T12:00"]);
    }

    #[test]
    fn the_latest_due_tick_is_found_however_long_ago_the_last_one_was() {
        let (long_ago, now) = (utc("1990-01-01T00:00:00Z"), utc("2026-11-23T10:00:00.7Z"));
        let seconds = schedule("* * * * * *", UTC);
        assert_eq!(seconds.latest_due(Some(long_ago), now), Some(utc("2026-11-23T10:00:00Z")));
        assert_eq!(seconds.latest_due(None, now), Some(utc("2026-11-23T10:00:00Z")));
        assert_eq!(seconds.missed(long_ago, now), MISSED_AT_MOST as u64);
    }

    #[test]
    fn a_tick_that_was_served_is_not_due_again_even_if_the_clock_goes_back() {
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
    fn an_error_says_what_is_wrong_and_where() {
        assert_eq!(
            complaint("0 4 1,15,32 * *"),
            "column 10: \"32\" is no day of month (number out of bounds): lawful are 1-31, L, 15W; \
             of 5 fields the first is the minute; seconds would be a 6th, in front of it"
        );
        for (pattern, place) in [
            ("  0  61 * * * *", "column 6: \"61\" is no minute (number out of bounds)"),
            ("30-10 * * * *", "column 1: \"30-10\" is no minute (range out of bounds)"),
            ("*/0 * * * *", "column 1: \"*/0\" is no minute (step cannot be zero)"),
            ("1,,2 * * * *", "column 3: \"\" is no minute (nothing between commas)"),
            ("*,5 * * * *", "column 1: \"*,5\" is no minute (invalid number)"),
            ("0 9 * MON *", "column 7: \"MON\" is no month (unknown word MON)"),
            ("0 9 * * Monday", "column 9: \"Monday\" is no day of week (unknown word MONDAY)"),
            ("0 é * * *", "column 3: \"é\" is no hour (unknown word É)"),
            ("0 $ * * *", "column 3: \"$\" is no hour (unknown character)"),
        ] {
            let complaint = complaint(pattern);
            assert!(complaint.starts_with(place), "{pattern}: {complaint}");
        }
    }

    #[test]
    fn five_fields_meant_as_six_and_six_meant_as_five_are_recognised() {
        let seconds_without_weekday = complaint("0 30 4 * *");
        assert!(seconds_without_weekday.contains("\"30\" is no hour"), "{seconds_without_weekday}");
        assert!(seconds_without_weekday.ends_with("seconds would be a 6th, in front of it"));
        let year_at_the_end = complaint("30 4 * * 1 2027");
        assert!(year_at_the_end.contains("\"2027\" is no day of week"), "{year_at_the_end}");
        assert!(
            year_at_the_end.ends_with("of 6 fields the first is the second; without seconds there are 5")
        );
        assert_eq!(
            complaint("* * *"),
            "3 fields: a pattern has 5 (minute, hour, day of month, month, day of week) or 6 (second first)"
        );
        assert!(complaint("0 0 0 * * * 2027").starts_with("7 fields"));
        assert!(complaint("").starts_with("0 fields"));
        assert!(complaint("@midday").contains("@hourly, @daily"));
    }

    #[test]
    fn a_date_that_never_comes_is_an_error() {
        assert_eq!(
            complaint("0 0 31 2 *"),
            "never due: no date has day of month \"31\", month \"2\" and day of week \"*\""
        );
        assert!(Schedule::parse("0 0 29 2 +MON", UTC).is_ok(), "once in 28 years is not never");
    }

    fn moments() -> impl Strategy<Value = DateTime<Utc>> {
        // Seconds around the changes of clocks of 2026, else anywhere in 30 years.
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
        fn ticks_rise_and_looking_back_finds_what_looking_ahead_promised(
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
        fn no_text_makes_parsing_panic(
            text in "([-0-9*,/LW?]{1,4} ){4,5}[-0-9*,/L#+]{1,4}|[-0-9*/,#?@+ A-Za-z]{0,24}|\\PC{0,12}"
        ) {
            let _ = Schedule::parse(&text, UTC);
        }
    }
}
