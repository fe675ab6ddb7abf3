//! Copies all rows into an empty database of either engine. The copy is verified, and complete or
//! absent.

mod rows;
mod source;
mod tables;
mod target;

use std::time::{Duration, Instant};

use serde::Serialize;

use self::source::Connection;
use self::tables::TABLES;
use self::target::Target;
use super::engine::{DatabaseLocation, Store, StoreError};
use super::lease::Lease;
use crate::model::SdkAppId;

const SELECT_APPS: &str = "SELECT sdk_app_id FROM app ORDER BY sdk_app_id";

/// The progress of [`Store::copy_to`].
#[derive(Clone, Copy, Debug)]
pub struct CopyProgress {
    pub table: &'static str,
    /// False while rows are written, true while they are read back.
    pub verifying: bool,
    /// The number of rows of all tables so far. Each row counts twice: when it is written and when
    /// it is read back.
    pub done: u64,
    pub total: u64,
}

/// A copied table and the number of its rows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TableCopied {
    pub table: &'static str,
    pub rows: u64,
}

/// A completed copy.
#[derive(Clone, Debug)]
pub struct Copied {
    pub tables: Vec<TableCopied>,
    pub took: Duration,
}

impl Store {
    /// Returns the tables and columns that [`Store::copy_to`] copies.
    #[must_use]
    pub fn copied_columns() -> Vec<(&'static str, &'static [&'static str])> {
        TABLES.iter().map(|table| (table.name, table.columns)).collect()
    }

    /// Takes the leases of all apps, so that no crawl runs during a copy. `on_wait` receives each
    /// app whose lease another process holds.
    pub async fn lease_all(&self, mut on_wait: impl FnMut(SdkAppId)) -> Result<Vec<Lease>, StoreError> {
        let apps: Vec<(i64,)> = self.fetch_all("list the apps", SELECT_APPS, &[]).await?;
        let mut leases = Vec::new();
        for app in apps.into_iter().filter_map(|(app,)| SdkAppId::new(app)) {
            let take_lease = self.lease(app, |waits| {
                if waits == 0 {
                    on_wait(app);
                }
            });
            // The leases that were taken already are renewed during the wait.
            leases.push(Lease::run_while_all_held(&leases, take_lease).await??);
        }
        Ok(leases)
    }

    /// Copies all rows into an empty database. Reads one snapshot, so that concurrent changes do
    /// not matter. Then reads the rows of the copy back, and compares their number and checksum for
    /// each table. The copy becomes visible only if they are equal.
    pub async fn copy_to(
        &self,
        target: &DatabaseLocation,
        mut on_progress: impl FnMut(CopyProgress),
    ) -> Result<Copied, StoreError> {
        let started = Instant::now();
        let mut target = Target::open(target).await?;
        let mut source = Connection::snapshot(self).await?;
        let mut row_count = 0;
        for table in &TABLES {
            row_count += source.count(table).await?;
        }
        let mut progress = CopyProgress { table: "", verifying: false, done: 0, total: 2 * row_count };
        let mut written_digests = Vec::new();
        for table in &TABLES {
            progress.table = table.name;
            let mut on_rows = |rows| {
                progress.done += rows;
                on_progress(progress);
            };
            written_digests.push(target.load(&mut source, table, &mut on_rows).await?);
        }
        target.complete().await?;
        progress.verifying = true;
        for (table, written) in TABLES.iter().zip(&written_digests) {
            progress.table = table.name;
            let mut on_rows = |rows| {
                progress.done += rows;
                on_progress(progress);
            };
            if target.digest(table, &mut on_rows).await? != *written {
                return Err(StoreError::CopyDiffers { table: table.name });
            }
        }
        target.commit().await?;
        let copied = |(table, digest): (&tables::Table, &rows::Digest)| TableCopied {
            table: table.name,
            rows: digest.rows,
        };
        Ok(Copied {
            tables: TABLES.iter().zip(&written_digests).map(copied).collect(),
            took: started.elapsed(),
        })
    }
}
