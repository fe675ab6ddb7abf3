//! Groups that the app counts beyond those of the typed lists.

/// How many groups the app has beyond those of the configured types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// The API did not state the app's totals.
    Unknown,
    /// The typed passes account for every group.
    None,
    /// The app has at least this many more.
    Groups(u64),
}

impl Leftover {
    /// Compares the app's smaller total with the largest TotalCounts of the typed passes.
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

    /// Whether an unfiltered pass is worth its requests. A difference that a single crawl saw may be a passing one, except in
    /// the first crawl.
    #[must_use]
    pub fn calls_for_unfiltered_pass(self, first_crawl: bool, also_last_time: bool) -> bool {
        matches!(self, Self::Groups(_)) && (first_crawl || also_last_time)
    }
}
