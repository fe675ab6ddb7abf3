-- The group types that a crawl was configured with: their names, sorted, with a comma between two (a name has none).
-- Empty: one pass over everything. NULL: a crawl of a version that did not record them.
ALTER TABLE crawl ADD COLUMN group_types TEXT;
