//! Formats numbers, times and tables for people.

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::escape::one_line;
use crate::model::plural;

/// Formats 1203441 as `1,203,441`.
pub(super) fn number(number: impl TryInto<u64>) -> String {
    indicatif::HumanCount(number.try_into().unwrap_or_default()).to_string()
}

/// Formats a number with its noun: `1 group`, `1,203 groups`.
pub(super) fn count(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or_default();
    format!("{} {}", number(count), plural(count, noun))
}

/// Formats an age with its two largest units. humantime would print all units.
pub(super) fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds();
    let Ok(seconds) = u64::try_from(seconds) else { return "in the future".to_owned() };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s ago"),
        (0, 0, _) => format!("{minutes}m {}s ago", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m ago"),
        _ => format!("{days}d {hours}h ago"),
    }
}

pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a table. Columns that contain only numbers, and `?` for unknown ones, are right-aligned.
/// Each cell is one line.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| one_line(cell).into_owned())));
    let is_number = |text: &String| {
        text == "?" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b','))
    };
    for (index, column) in table.column_iter_mut().enumerate() {
        if !rows.is_empty() && rows.iter().all(|row| row.get(index).is_some_and(is_number)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_its_two_largest_units() {
        let now: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        for (seconds, text) in [
            (5, "5s ago"),
            (125, "2m 5s ago"),
            (3 * 3600 + 61, "3h 1m ago"),
            (49 * 3600, "2d 1h ago"),
            (-5, "in the future"),
        ] {
            assert_eq!(ago(now - chrono::TimeDelta::seconds(seconds), now), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands_and_agree_with_their_noun() {
        assert_eq!([0, 1, 2000].map(|n| count(n, "group")), ["0 groups", "1 group", "2,000 groups"]);
        assert_eq!(number(1_203_441i64), "1,203,441");
        assert_eq!(number(0u64), "0");
    }
}
