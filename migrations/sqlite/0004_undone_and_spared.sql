-- What becomes of a crawl later: undone deletions, groups found standing, and rows removed for their age.

ALTER TABLE crawl ADD COLUMN undeleted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN spared INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN purged_groups INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN purged_events INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN purged_counts INTEGER NOT NULL DEFAULT 0;

-- For undoing what a crawl deleted, and for telling whether a crawl may be forgotten. Events come in the order of their
-- crawls, so it grows at its end.
CREATE INDEX group_event_by_crawl ON group_event (crawl_id);

DROP VIEW crawls;
CREATE VIEW crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.crawl_id,
       c.trigger,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.due_at / 1000, 'unixepoch') AS due_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.started_at / 1000, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS finished_at,
       c.status,
       c.deletions,
       c.requests,
       c.listed_count AS groups_listed,
       c.appeared,
       c.vanished,
       c.reappeared,
       c.retyped,
       c.withheld,
       c.reason_code,
       c.error_code,
       c.reason,
       c.host,
       c.version,
       c.undeleted,
       c.spared,
       c.purged_groups,
       c.purged_events,
       c.purged_counts
FROM crawl c
JOIN app a ON a.app_id = c.app_id;
