//! The stored totals of an app, which determine how its live groups are read.

/// The totals of one type.
#[derive(sqlx_macros::FromRow)]
pub(super) struct TypeTotals {
    pub(super) type_id: i64,
    pub(super) live_count: i64,
    missing_count: i64,
    deleted_count: i64,
}

/// The totals of an app over all types.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppTotals {
    /// The number of live groups, including missing ones.
    pub(super) live: i64,
    pub(super) missing: i64,
    pub(super) deleted: i64,
}

impl AppTotals {
    pub(super) fn add_up(types: &[TypeTotals]) -> Self {
        Self {
            live: types.iter().map(|totals| totals.live_count).sum(),
            missing: types.iter().map(|totals| totals.missing_count).sum(),
            deleted: types.iter().map(|totals| totals.deleted_count).sum(),
        }
    }

    /// Returns the number of the app's groups, including deleted ones.
    pub(super) fn groups(self) -> i64 {
        self.live + self.deleted
    }

    /// Returns the conditions that select the live groups that are not missing, to append to other
    /// conditions. Omits a condition that all groups of the app fulfil.
    pub(super) fn conditions(self) -> String {
        let mut conditions = String::new();
        if self.deleted > 0 {
            conditions.push_str(" AND deleted_at IS NULL");
        }
        if self.missing > 0 {
            conditions.push_str(" AND missing_since IS NULL");
        }
        conditions
    }
}
