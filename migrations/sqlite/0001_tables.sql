-- The tables are private and may change; people read the views of 0002.
-- Times are unix milliseconds, order is by crawl_id and never by time.

CREATE TABLE app (
    app_id      INTEGER PRIMARY KEY,
    sdk_app_id  INTEGER NOT NULL UNIQUE,
    name        TEXT    NOT NULL,
    configured  INTEGER NOT NULL DEFAULT 1,
    chunk_ends  TEXT                    -- ids, a line each, that cut the app's groups into parts to be read by
) STRICT;

-- Types are an open set. 0 stands for "not known yet", so that no query on the big table has to compare NULLs.
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

-- One row a group ever listed. Clustered by app and id: an app's groups are one range, and there is no second b-tree.
-- A live group that the last crawls listed is never rewritten: its last_seen_at is a floor, the view says more.
-- The columns that a scan asks for come first: a row is decoded only as far as it is needed.
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
    PRIMARY KEY (app_id, group_id)
) STRICT, WITHOUT ROWID;

-- Kept beside the groups and changed in the same transactions, so that nobody has to count a million rows.
CREATE TABLE type_state (
    app_id             INTEGER NOT NULL,
    type_id            INTEGER NOT NULL,
    configured         INTEGER NOT NULL DEFAULT 0,
    live_count         INTEGER NOT NULL DEFAULT 0,
    missing_count      INTEGER NOT NULL DEFAULT 0,
    deleted_count      INTEGER NOT NULL DEFAULT 0,
    baseline_crawl_id  INTEGER,             -- whose pass of this type was the first to reach its end
    concluded_crawl_id INTEGER,             -- the last crawl that accounted for every live group of the type …
    concluded_at       INTEGER,             -- … and when it started: all of them were seen since
    PRIMARY KEY (app_id, type_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE crawl (
    crawl_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id          INTEGER NOT NULL REFERENCES app (app_id),
    trigger         TEXT    NOT NULL,
    due_at          INTEGER,                -- the tick it serves
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
    version         TEXT    NOT NULL
) STRICT;

-- A tick is served once, by a crawl that reaches its end.
CREATE UNIQUE INDEX crawl_by_tick ON crawl (app_id, due_at) WHERE status IN ('running', 'complete', 'incomplete');

CREATE INDEX crawl_by_app ON crawl (app_id, crawl_id);

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

-- What a crawl changed, by type: added to with each transaction, so that it is right for a crawl that was killed too.
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
    type_id      INTEGER NOT NULL,
    live_groups  INTEGER NOT NULL,
    total_count  INTEGER,
    appeared     INTEGER NOT NULL DEFAULT 0,
    vanished     INTEGER NOT NULL DEFAULT 0,
    reappeared   INTEGER NOT NULL DEFAULT 0,
    retyped      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, day, type_id)
) STRICT, WITHOUT ROWID;

-- Append only. kind: a appeared, v vanished, r reappeared, t retyped, u undeleted.
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

CREATE INDEX group_event_by_group ON group_event (app_id, group_id);
