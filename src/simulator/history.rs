//! The history of the groups of the simulated app: how many were created and dissolved on each day.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::model::LocalDay;

/// The number of days in [`History::last_days`]. The API reports the last 30 days.
const DAYS: u64 = 30;

/// The numbers of created and dissolved groups by day, in Beijing time.
#[derive(Default)]
pub(super) struct History(BTreeMap<NaiveDate, Changes>);

#[derive(Clone, Copy, Default)]
struct Changes {
    created: u64,
    dissolved: u64,
}

/// The figures of one day.
pub(super) struct HistoryDay {
    pub(super) day: NaiveDate,
    /// The number of groups at the end of the day.
    pub(super) groups: u64,
    pub(super) created: u64,
    pub(super) dissolved: u64,
}

impl History {
    /// Adds created and dissolved groups to the day of this time.
    pub(super) fn add(&mut self, at: DateTime<Utc>, created: usize, dissolved: usize) {
        if created + dissolved > 0 {
            let changes = self.0.entry(beijing_day(at)).or_default();
            changes.created += created as u64;
            changes.dissolved += dissolved as u64;
        }
    }

    /// Returns the days before the day of `now`, in ascending order.
    pub(super) fn last_days(&self, now: DateTime<Utc>) -> Vec<HistoryDay> {
        let today = beijing_day(now);
        let days = (1..=DAYS).rev().filter_map(|ago| today.checked_sub_days(Days::new(ago)));
        days.map(|day| {
            let Changes { created, dissolved } = self.0.get(&day).copied().unwrap_or_default();
            let groups = self.0.range(..=day).fold(0, |groups: u64, (_, changes)| {
                (groups + changes.created).saturating_sub(changes.dissolved)
            });
            HistoryDay { day, groups, created, dissolved }
        })
        .collect()
    }
}

fn beijing_day(at: DateTime<Utc>) -> NaiveDate {
    LocalDay::new(at, Tz::Asia__Shanghai).date
}
