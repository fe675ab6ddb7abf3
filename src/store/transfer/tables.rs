//! Defines the tables and columns that are copied: those that both engines have.

/// A table to copy.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
    /// The columns by which the rows are sorted when they are read. Both engines store the rows in
    /// this order.
    pub(super) order: &'static str,
}

/// All tables to copy. Each table comes after those that it references.
///
/// Not copied: `lease`, which only PostgreSQL has; `storage`, which identifies the database;
/// `app.chunk_ends`, which the program computes again for SQLite.
pub(super) const TABLES: [Table; 16] = [
    Table {
        name: "app",
        columns: &[
            "app_id",
            "sdk_app_id",
            "name",
            "configured",
            "round",
            "groups_from",
            "last_removed_event",
            "statistics_at",
        ],
        order: "app_id",
    },
    Table { name: "group_type", columns: &["type_id", "name", "sdk_name", "name_zh"], order: "type_id" },
    Table {
        name: "group_row",
        columns: &[
            "app_id",
            "group_id",
            "type_id",
            "deleted_at",
            "missing_since",
            "held_crawl_id",
            "in_baseline",
            "first_seen_at",
            "last_seen_at",
            "held_as",
            "live_since",
        ],
        order: "app_id, group_id",
    },
    Table {
        name: "past_span",
        columns: &["span_id", "app_id", "group_id", "type_id", "live_from", "live_until", "in_baseline"],
        order: "span_id",
    },
    Table {
        name: "group_question",
        columns: &["app_id", "group_id", "stood", "unlearned", "round", "again_in"],
        order: "app_id, group_id",
    },
    Table {
        name: "type_state",
        columns: &[
            "app_id",
            "type_id",
            "configured",
            "live_count",
            "missing_count",
            "deleted_count",
            "total_count",
            "baseline_crawl_id",
            "concluded_crawl_id",
            "concluded_at",
        ],
        order: "app_id, type_id",
    },
    Table {
        name: "crawl",
        columns: &[
            "crawl_id",
            "app_id",
            "trigger",
            "due_at",
            "started_at",
            "finished_at",
            "status",
            "deletions",
            "requests",
            "total_at_start",
            "total_at_end",
            "leftover",
            "listed_count",
            "appeared",
            "vanished",
            "reappeared",
            "retyped",
            "withheld",
            "reason_code",
            "error_code",
            "reason",
            "host",
            "version",
            "group_types",
            "day",
            "timezone",
            "undeleted",
            "spared",
            "purged_groups",
            "purged_events",
            "purged_counts",
            "asked",
            "confirmed",
            "unlearned",
            "unasked",
            "withheld_confirmed",
            "clock_skew",
            "unfiltered_next",
            "live_count",
        ],
        order: "crawl_id",
    },
    Table {
        name: "crawl_pass",
        columns: &[
            "crawl_id",
            "pass_no",
            "type_id",
            "recorded_at",
            "verdict",
            "pages",
            "total_count",
            "total_lowest",
            "total_highest",
            "listed_count",
            "repeats",
            "first_listed",
            "unusable",
        ],
        order: "crawl_id, pass_no",
    },
    Table {
        name: "crawl_change",
        columns: &["crawl_id", "type_id", "appeared", "vanished", "reappeared", "retyped"],
        order: "crawl_id, type_id",
    },
    Table {
        name: "daily_count",
        columns: &[
            "app_id",
            "day",
            "timezone",
            "type_id",
            "live_groups",
            "total_count",
            "appeared",
            "vanished",
            "reappeared",
            "retyped",
        ],
        order: "app_id, day, type_id",
    },
    Table {
        name: "group_detail",
        columns: &[
            "app_id",
            "group_id",
            "name",
            "owner",
            "introduction",
            "created_at",
            "last_message_at",
            "info_changed_at",
            "member_count",
            "max_member_count",
            "fetched_at",
            "is_answered",
        ],
        order: "app_id, group_id",
    },
    Table {
        name: "detail_range",
        columns: &["app_id", "after_id", "refreshed_at"],
        order: "app_id, after_id",
    },
    Table {
        name: "detail_state",
        columns: &[
            "app_id",
            "holder",
            "held_until",
            "last_event_id",
            "known_count",
            "fresh_count",
            "oldest_as_of",
            "counted_at",
        ],
        order: "app_id",
    },
    Table {
        name: "app_statistic",
        columns: &[
            "app_id",
            "day",
            "groups",
            "groups_created",
            "groups_dissolved",
            "groups_active",
            "callbacks_sent",
            "callbacks_answered",
            "fetched_at",
        ],
        order: "app_id, day",
    },
    Table {
        name: "group_event",
        columns: &[
            "event_id",
            "occurred_at",
            "crawl_id",
            "app_id",
            "group_id",
            "kind",
            "old_type",
            "new_type",
        ],
        order: "event_id",
    },
    Table {
        name: "notification",
        columns: &["sdk_app_id", "event", "state", "begun_at", "claimed_at", "claimed_by", "delivered_at"],
        order: "sdk_app_id, event",
    },
];

impl Table {
    /// Returns the query for all rows.
    pub(super) fn select(&self) -> String {
        format!("SELECT {} FROM {} ORDER BY {}", self.columns.join(", "), self.name, self.order)
    }

    /// Returns the query for the number of rows.
    pub(super) fn count(&self) -> String {
        format!("SELECT count(*) FROM {}", self.name)
    }
}
