//! The leftover: groups that the app's total counts and the typed lists do not.

/// The number of groups by which the app's total exceeds the groups of the configured types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A total is unknown.
    Unknown,
    /// The total does not exceed the groups of the typed passes.
    None,
    /// The total exceeds them by this number.
    Groups(u64),
}

impl Leftover {
    /// Compares the smaller of the app's totals with the sum of `typed`, the largest `TotalCount`
    /// of each typed pass.
    #[must_use]
    pub fn of(
        total_at_start: Option<u64>,
        total_at_end: Option<u64>,
        typed: impl Iterator<Item = u64>,
    ) -> Self {
        let (Some(start), Some(end)) = (total_at_start, total_at_end) else { return Self::Unknown };
        match start.min(end).saturating_sub(typed.sum()) {
            0 => Self::None,
            more => Self::Groups(more),
        }
    }

    /// Returns whether to make an unfiltered pass. A leftover in a single crawl may be due to
    /// changes during the crawl, so a second one is required, except in the first crawl.
    #[must_use]
    pub fn calls_for_unfiltered_pass(self, first_crawl: bool, also_last_time: bool) -> bool {
        matches!(self, Self::Groups(_)) && (first_crawl || also_last_time)
    }
}
