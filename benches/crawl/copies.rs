//! Measures how long `copy` takes to move a million groups with a year of events to the other
//! engine, and how long `backup` and `restore` take.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use tim_group_sync::clock::Clock;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::store::Store;

use crate::phases::{runtime, store_location};
use crate::queries::fill;
use crate::report::{Databases, Engine};

pub(crate) fn measure() {
    let (folder, server) = (Databases::of(Engine::Sqlite), Databases::of(Engine::Postgres));
    println!("| from | to | rows | seconds |\n|---|---|---|---|");
    for (engine, from, to) in [(Engine::Sqlite, &folder, &server), (Engine::Postgres, &server, &folder)] {
        let (database, target) = (from.database("year"), to.database("moved"));
        runtime().block_on(async {
            let store = Store::open(&store_location(&database)).await.unwrap();
            store.migrate().await.unwrap();
            fill(engine, &database).await;
            let copied = store.copy_to(&store_location(&target), |_| ()).await.unwrap();
            let rows: u64 = copied.tables.iter().map(|table| table.rows).sum();
            println!("| {} | {} | {rows} | {:.1} |", from.title(), to.title(), copied.took.as_secs_f64());
            store.close().await;
        });
    }
    let (database, backup) = (folder.database("year"), folder.database("backup"));
    runtime().block_on(back_up_and_restore(&database, Path::new(&backup)));
}

async fn back_up_and_restore(database: &str, backup: &Path) {
    let store = Store::open_to_read(&store_location(database)).await.unwrap();
    let began = Instant::now();
    let made = store.backup(backup, false).await.unwrap();
    println!("\nbackup of {} bytes: {:.1} s", made.bytes, began.elapsed().as_secs_f64());
    store.close().await;
    let began = Instant::now();
    let app = SdkAppId::new(1_400_000_001).unwrap();
    let from = (backup, File::open(backup).unwrap());
    Store::restore(from, Path::new(database), &[app], true, Clock::system().now()).await.unwrap();
    println!("restore: {:.1} s", began.elapsed().as_secs_f64());
}
