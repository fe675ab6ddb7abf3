-- What becomes of a crawl later: undone deletions, groups found standing, and rows removed for their age.

ALTER TABLE tim_private.crawl ADD COLUMN undeleted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN spared BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN purged_groups BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN purged_events BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN purged_counts BIGINT NOT NULL DEFAULT 0;

-- For undoing what a crawl deleted, and for telling whether a crawl may be forgotten. Events come in the order of their
-- crawls, so it grows at its end.
CREATE INDEX group_event_by_crawl ON tim_private.group_event (crawl_id);

CREATE OR REPLACE VIEW tim.crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.crawl_id,
       c.trigger,
       to_timestamp(c.due_at / 1000::double precision) AS due_at,
       to_timestamp(c.started_at / 1000::double precision) AS started_at,
       to_timestamp(c.finished_at / 1000::double precision) AS finished_at,
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
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id;

COMMENT ON COLUMN tim.crawls.undeleted IS
    'Groups that this crawl had marked deleted and someone made live again.';
COMMENT ON COLUMN tim.crawls.spared IS
    'Groups that no list of this crawl had, but get_group_info found standing (deletion.confirm): they were kept.';
COMMENT ON COLUMN tim.crawls.purged_groups IS
    'Deleted groups that were removed for their age after this crawl (retention.deleted_groups).';
COMMENT ON COLUMN tim.crawls.purged_events IS
    'Events that were removed for their age after this crawl (retention.events).';
COMMENT ON COLUMN tim.crawls.purged_counts IS
    'Rows of counts and crawls that were removed for their age after this crawl (retention.counts).';
