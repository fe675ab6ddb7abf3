-- The tables are private and may change. Readers use the views of 0003.
-- Times are unix milliseconds. Order is by crawl_id and never by time.

CREATE TABLE app (
    app_id      INTEGER PRIMARY KEY,
    sdk_app_id  INTEGER NOT NULL UNIQUE,
    name        TEXT    NOT NULL UNIQUE,  -- unique, so that a reader's condition on the name finds at most one app
    configured  INTEGER NOT NULL DEFAULT 1,
    round       INTEGER NOT NULL DEFAULT 0, -- counts the app's crawls that reached their end
    chunk_ends  TEXT,                   -- ids, one per line, that divide the app's groups into chunks for reading
    groups_from INTEGER,                -- retention has removed groups that were deleted before this time
    last_removed_event INTEGER NOT NULL DEFAULT 0, -- the greatest id of the events that retention has removed
    statistics_at INTEGER               -- when the API's statistics of the app were last fetched; NULL: never
) STRICT;

-- Types are an open set. Type 0 means "not known yet", so no query on the big table has to compare NULLs.
CREATE TABLE group_type (
    type_id   INTEGER PRIMARY KEY,
    name      TEXT UNIQUE,
    sdk_name  TEXT,
    name_zh   TEXT
) STRICT;

INSERT INTO group_type (type_id, name, sdk_name, name_zh) VALUES
    (0, NULL, NULL, NULL),
    (1, 'Public', 'Public', '陌生人社交群'),
    (2, 'Private', 'Work', '好友工作群'),
    (3, 'ChatRoom', 'Meeting', '临时会议群'),
    (4, 'AVChatRoom', 'AVChatRoom', '直播群'),
    (5, 'BChatRoom', 'BChatRoom', '在线成员广播大群'),
    (6, 'Community', 'Community', '社群');

-- One row for each group ever listed. Clustered by app and id: the groups of an app are one range, without a second b-tree.
-- A live group that a crawl lists again is not rewritten. Therefore last_seen_at is only a lower bound; the views return the time.
-- The columns that a scan reads come first, because SQLite decodes a row only up to the last column that is needed.
CREATE TABLE group_row (
    app_id         INTEGER NOT NULL,
    group_id       TEXT    NOT NULL,
    type_id        INTEGER NOT NULL,
    deleted_at     INTEGER,
    missing_since  INTEGER,
    held_crawl_id  INTEGER,
    in_baseline    INTEGER NOT NULL,
    first_seen_at  INTEGER NOT NULL,
    last_seen_at   INTEGER NOT NULL,
    held_as        TEXT,                    -- why the group is held: w withheld, c withheld and confirmed gone, u undeleted by a person
    live_since     INTEGER,                 -- when the current or last period under this type began; NULL: first_seen_at
    PRIMARY KEY (app_id, group_id)
) STRICT, WITHOUT ROWID;

-- Finds the held groups, of which there are few or none, without reading all groups.
CREATE INDEX group_row_held ON group_row (app_id, held_crawl_id) WHERE held_crawl_id IS NOT NULL;

-- The earlier periods in which groups were live under one type. The current or last period is in group_row. A row is added when
-- a group reappears or is retyped.
CREATE TABLE past_span (
    span_id      INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id       INTEGER NOT NULL,
    group_id     TEXT    NOT NULL,
    type_id      INTEGER NOT NULL,
    live_from    INTEGER NOT NULL,
    live_until   INTEGER NOT NULL,
    in_baseline  INTEGER NOT NULL
) STRICT;

CREATE INDEX past_span_by_group ON past_span (app_id, group_id);

-- The questions to get_group_info about live groups that no list contained or that were listed under another type. A round is
-- one crawl of the app that reached its end.
CREATE TABLE group_question (
    app_id    INTEGER NOT NULL,
    group_id  TEXT    NOT NULL,
    stood     INTEGER NOT NULL,             -- consecutive answers that the group exists
    unlearned INTEGER NOT NULL,             -- consecutive questions without a usable answer
    round     INTEGER NOT NULL,             -- the last round in which the group was asked about
    again_in  INTEGER NOT NULL,             -- the first round in which the group is asked about again
    PRIMARY KEY (app_id, group_id)
) STRICT, WITHOUT ROWID;

-- Totals of the groups, maintained in the same transactions, so that no reader has to count a million rows.
CREATE TABLE type_state (
    app_id             INTEGER NOT NULL,
    type_id            INTEGER NOT NULL,
    configured         INTEGER NOT NULL DEFAULT 0,
    live_count         INTEGER NOT NULL DEFAULT 0,
    missing_count      INTEGER NOT NULL DEFAULT 0,
    deleted_count      INTEGER NOT NULL DEFAULT 0,
    total_count        INTEGER,             -- the API's last TotalCount of the type
    baseline_crawl_id  INTEGER,             -- the crawl whose pass of this type was the first to reach its end
    concluded_crawl_id INTEGER,             -- the last crawl that accounted for every live group of the type
    concluded_at       INTEGER,             -- when that crawl started: every live group that is not missing was seen since then
    PRIMARY KEY (app_id, type_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE crawl (
    crawl_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id          INTEGER NOT NULL REFERENCES app (app_id),
    trigger         TEXT    NOT NULL,
    due_at          INTEGER,                -- the tick for which the crawl ran
    started_at      INTEGER NOT NULL,
    finished_at     INTEGER,
    status          TEXT    NOT NULL,
    deletions       TEXT,
    requests        INTEGER NOT NULL DEFAULT 0,
    total_at_start  INTEGER,
    total_at_end    INTEGER,
    leftover        INTEGER,                -- groups of the app beyond those of the configured types
    listed_count    INTEGER NOT NULL DEFAULT 0,
    appeared        INTEGER NOT NULL DEFAULT 0,
    vanished        INTEGER NOT NULL DEFAULT 0,
    reappeared      INTEGER NOT NULL DEFAULT 0,
    retyped         INTEGER NOT NULL DEFAULT 0,
    withheld        INTEGER NOT NULL DEFAULT 0,
    reason_code     TEXT,
    error_code      INTEGER,
    reason          TEXT,
    host            TEXT    NOT NULL,
    version         TEXT    NOT NULL,
    group_types     TEXT    NOT NULL,       -- the configured types, sorted, comma-separated; empty: one unfiltered pass
    day             TEXT,                   -- the day of daily_count to which its events were added; NULL: running
    timezone        TEXT,                   -- the time zone in which that day begins at midnight
    undeleted       INTEGER NOT NULL DEFAULT 0,
    spared          INTEGER NOT NULL DEFAULT 0,
    purged_groups   INTEGER NOT NULL DEFAULT 0,
    purged_events   INTEGER NOT NULL DEFAULT 0,
    purged_counts   INTEGER NOT NULL DEFAULT 0,
    asked           INTEGER NOT NULL DEFAULT 0,
    confirmed       INTEGER NOT NULL DEFAULT 0,
    unlearned       INTEGER NOT NULL DEFAULT 0,
    unasked         INTEGER NOT NULL DEFAULT 0,
    withheld_confirmed INTEGER NOT NULL DEFAULT 0,
    clock_skew      INTEGER,                -- seconds by which the host's clock was ahead of the API's; NULL: not known
    unfiltered_next INTEGER NOT NULL DEFAULT 0, -- 1: the next crawl has to make an unfiltered pass
    live_count      INTEGER                 -- the app's live groups at the end of the crawl
) STRICT;

-- Allows at most one crawl for each tick that is running or has reached its end.
CREATE UNIQUE INDEX crawl_by_tick ON crawl (app_id, due_at) WHERE status IN ('running', 'complete', 'incomplete');

CREATE INDEX crawl_by_app ON crawl (app_id, crawl_id);

-- The crawls of a day or of a month, and whether they are complete.
CREATE INDEX crawl_by_day ON crawl (app_id, day, status);

CREATE TABLE crawl_pass (
    crawl_id      INTEGER NOT NULL,
    pass_no       INTEGER NOT NULL,
    type_id       INTEGER NOT NULL,         -- 0: the unfiltered pass
    recorded_at   INTEGER NOT NULL,
    verdict       TEXT,
    pages         INTEGER NOT NULL,
    total_count   INTEGER,
    total_lowest  INTEGER,
    total_highest INTEGER,
    listed_count  INTEGER NOT NULL,
    repeats       INTEGER NOT NULL,
    first_listed  INTEGER NOT NULL,
    unusable      INTEGER NOT NULL,
    PRIMARY KEY (crawl_id, pass_no)
) STRICT, WITHOUT ROWID;

-- The changes of a crawl by type. Each transaction updates them, so they are also correct for a killed crawl.
CREATE TABLE crawl_change (
    crawl_id    INTEGER NOT NULL,
    type_id     INTEGER NOT NULL,
    appeared    INTEGER NOT NULL DEFAULT 0,
    vanished    INTEGER NOT NULL DEFAULT 0,
    reappeared  INTEGER NOT NULL DEFAULT 0,
    retyped     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (crawl_id, type_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE daily_count (
    app_id       INTEGER NOT NULL,
    day          TEXT    NOT NULL,          -- in the time zone of the app's schedule
    timezone     TEXT    NOT NULL,          -- that time zone
    type_id      INTEGER NOT NULL,
    live_groups  INTEGER NOT NULL,
    total_count  INTEGER,
    appeared     INTEGER NOT NULL DEFAULT 0,
    vanished     INTEGER NOT NULL DEFAULT 0,
    reappeared   INTEGER NOT NULL DEFAULT 0,
    retyped      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, day, type_id)
) STRICT, WITHOUT ROWID;

-- The API's own figures of each app and day, see getappinfo. NULL: the API did not report the figure.
CREATE TABLE app_statistic (
    app_id             INTEGER NOT NULL,
    day                TEXT    NOT NULL,    -- in Beijing time
    groups             INTEGER,
    groups_created     INTEGER,
    groups_dissolved   INTEGER,
    groups_active      INTEGER,
    callbacks_sent     INTEGER,
    callbacks_answered INTEGER,
    fetched_at         INTEGER NOT NULL,    -- when these figures were first fetched
    PRIMARY KEY (app_id, day)
) STRICT, WITHOUT ROWID;

-- Rows are only appended. kind: a appeared, v vanished, r reappeared, t retyped, u undeleted.
CREATE TABLE group_event (
    event_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    occurred_at  INTEGER NOT NULL,
    crawl_id     INTEGER NOT NULL,
    app_id       INTEGER NOT NULL,
    group_id     TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    old_type     INTEGER,
    new_type     INTEGER
) STRICT;

-- Begins with the id, so a group is found with or without its app.
CREATE INDEX group_event_by_group ON group_event (group_id, app_id);

-- For the newest events of one app. SQLite appends event_id, the rowid, to every index.
CREATE INDEX group_event_by_app ON group_event (app_id);

-- For undoing the deletions of a crawl, and for checking whether a crawl may be removed.
CREATE INDEX group_event_by_crawl ON group_event (crawl_id);

-- The expression of group_events.occurred_at, so that a condition on that column uses a range of this index.
CREATE INDEX group_event_by_time ON group_event (CAST(strftime('%Y-%m-%dT%H:%M:%SZ', occurred_at / 1000, 'unixepoch') AS TEXT));

-- The last notification about each condition of an app. A process claims a notification here before it sends it, so that no
-- other process sends the same one. The row stays when the condition ends.
CREATE TABLE notification (
    sdk_app_id   INTEGER NOT NULL,          -- not app_id: an app without a usable key may not be registered yet
    event        TEXT    NOT NULL,
    state        TEXT    NOT NULL,          -- of the last notification that was claimed: begins, lasts or ends
    begun_at     INTEGER NOT NULL,
    claimed_at   INTEGER NOT NULL,
    claimed_by   TEXT    NOT NULL,          -- a random token of the process
    delivered_at INTEGER,                   -- NULL: not delivered yet
    PRIMARY KEY (sdk_app_id, event)
) STRICT, WITHOUT ROWID;

-- The details of groups, from get_group_info. A row is rewritten only if a detail has changed or the state of the row changes.
CREATE TABLE group_detail (
    app_id           INTEGER NOT NULL,
    group_id         TEXT    NOT NULL,
    name             TEXT,
    owner            TEXT,
    introduction     TEXT,
    created_at       INTEGER,
    last_message_at  INTEGER,
    info_changed_at  INTEGER,
    member_count     INTEGER,
    max_member_count INTEGER,
    fetched_at       INTEGER NOT NULL,      -- the time of the details, unless the group's range has a later one
    is_answered      INTEGER NOT NULL,      -- 0: the last request had no usable answer about the group; then the time of the range does not apply
    PRIMARY KEY (app_id, group_id)
) STRICT, WITHOUT ROWID;

-- Divides the ids of an app's groups into ranges. A range has the ids after its after_id, up to and including the next after_id.
-- The details of all live groups of a range were requested at refreshed_at or later; 0: never. A new request about a range
-- changes this time, so group_detail is written only for groups whose details have changed.
CREATE TABLE detail_range (
    app_id       INTEGER NOT NULL,
    after_id     TEXT    NOT NULL,
    refreshed_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, after_id)
) STRICT, WITHOUT ROWID;

-- One row for each app whose details are kept.
CREATE TABLE detail_state (
    app_id        INTEGER PRIMARY KEY,
    holder        TEXT    NOT NULL,         -- the process that refreshes the details
    held_until    INTEGER NOT NULL,         -- until then no other process may refresh them
    last_event_id INTEGER NOT NULL,         -- the details of all groups with events up to this one were requested
    known_count   INTEGER,                  -- live groups with details, at counted_at
    fresh_count   INTEGER,                  -- live groups whose details are not older than details.refresh
    oldest_as_of  INTEGER,                  -- the oldest details of a live group
    counted_at    INTEGER
) STRICT;

-- At most one row: the file (its inode and time of creation) in which ids of events and crawls were last assigned. In another
-- file, such as a copy, ids continue with a gap, because readers may have seen greater ids than the copy contains.
CREATE TABLE storage (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    identity  TEXT    NOT NULL
) STRICT;
