//! The empty database that receives the rows: an unfinished SQLite file, or one transaction on a
//! PostgreSQL server.

use std::path::Path;

use sqlx::postgres::{PgConnection, PgCopyIn};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::rows::{Cell, Digest, RowCells, append_as_copy_text};
use super::source::{Connection, Sink};
use super::tables::{TABLES, Table};
use crate::store::engine::{
    DatabaseLocation, Engine, Store, StoreError, WithAction as _, query, query_as, query_scalar,
};
use crate::store::schema::SQLITE_MIGRATIONS;
use crate::store::snapshot::{Replacing, UnfinishedFile};
use crate::store::write::MOVE_SEQUENCES;

const ACTION: &str = "write the rows of a table";

/// The permissions of a new file. The umask applies, as for files that SQLite creates.
const MODE: u32 = 0o644;
/// The number of buffered bytes at which rows are sent to a server.
const SEND_BYTES: usize = 256 * 1024;

/// Returns the indexes. Building them after all rows were written is faster than updating them for
/// each row.
const SELECT_INDEXES: &str = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
/// Records that a copy is a new storage, so that its ids continue with a gap. See `write/ids.rs`.
const SET_NEW_SQLITE_STORAGE: &str = "INSERT INTO storage (only_row, identity) VALUES (1, '')";
const SET_NEW_POSTGRES_STORAGE: &str =
    "INSERT INTO storage (only_row, identity, written_by) VALUES (1, '', '')";

/// A database whose rows are invisible to other processes until [`Target::commit`].
pub(super) enum Target {
    Sqlite {
        unfinished: UnfinishedFile,
        connection: Connection,
        /// The statements that create the indexes.
        indexes: Vec<String>,
    },
    Postgres {
        store: Store,
        connection: Connection,
    },
}

impl Target {
    /// Opens the target and creates its tables. Fails if the file exists, or if the tables on the
    /// server have rows.
    pub(super) async fn open(location: &DatabaseLocation) -> Result<Self, StoreError> {
        match location {
            DatabaseLocation::Sqlite(path) => create_file(path).await,
            DatabaseLocation::Postgres(_) => {
                let store = Store::open(location).await?;
                match begin_on_server(&store).await {
                    Ok(connection) => {
                        Ok(Self::Postgres { store, connection: Connection::Postgres(connection) })
                    }
                    Err(error) => {
                        store.close().await;
                        Err(error)
                    }
                }
            }
        }
    }

    /// Copies all rows of a table and returns their digest. `on_rows` receives the number of rows
    /// of each batch.
    pub(super) async fn load(
        &mut self,
        source: &mut Connection,
        table: &Table,
        on_rows: &mut impl FnMut(u64),
    ) -> Result<Digest, StoreError> {
        let (Self::Sqlite { connection, .. } | Self::Postgres { connection, .. }) = self;
        let mut digest = Digest::default();
        match connection {
            Connection::Sqlite(connection) => {
                let mut sink = FileSink { connection, table, digest: &mut digest, on_rows };
                source.read(table, &mut sink).await?;
            }
            Connection::Postgres(connection) => {
                let statement = format!("COPY {} ({}) FROM STDIN", table.name, table.columns.join(", "));
                let copy = connection.copy_in_raw(&statement).await.with_action(ACTION)?;
                let mut sink = ServerSink { copy, buffer: Vec::new(), digest: &mut digest, on_rows };
                source.read(table, &mut sink).await?;
                sink.finish().await?;
            }
        }
        Ok(digest)
    }

    /// Reads all rows of a table back and returns their digest. `on_rows` receives the number of
    /// rows of each batch.
    pub(super) async fn digest(
        &mut self,
        table: &Table,
        on_rows: &mut impl FnMut(u64),
    ) -> Result<Digest, StoreError> {
        let (Self::Sqlite { connection, .. } | Self::Postgres { connection, .. }) = self;
        let mut digest = Digest::default();
        connection.read(table, &mut DigestSink { digest: &mut digest, on_rows }).await?;
        Ok(digest)
    }

    /// Finishes the database after the last row. On SQLite, builds the indexes. On PostgreSQL,
    /// moves the sequences past the ids and analyzes the tables.
    pub(super) async fn complete(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { connection: Connection::Sqlite(connection), indexes, .. } => {
                for sql in indexes.drain(..) {
                    query(AssertSqlSafe(sql))
                        .execute(&mut *connection)
                        .await
                        .with_action("build an index")?;
                }
                query(SET_NEW_SQLITE_STORAGE).execute(connection).await.with_action(ACTION)?;
            }
            Self::Postgres { connection: Connection::Postgres(connection), .. } => {
                query(MOVE_SEQUENCES)
                    .fetch_all(&mut *connection)
                    .await
                    .with_action("move the id sequences past the ids in the tables")?;
                let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
                query(SET_NEW_POSTGRES_STORAGE).execute(&mut *connection).await.with_action(ACTION)?;
                let analyze = AssertSqlSafe(format!("ANALYZE {}", names.join(", ")));
                query(analyze).execute(connection).await.with_action("analyze the tables")?;
            }
            // `open` makes no other combination.
            _ => {}
        }
        Ok(())
    }

    /// Makes all rows visible at once.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        const ACTION: &str = "commit the copy";
        match self {
            Self::Sqlite { mut unfinished, connection: Connection::Sqlite(mut connection), .. } => {
                query("COMMIT").execute(&mut connection).await.with_action(ACTION)?;
                connection.close().await.with_action(ACTION)?;
                unfinished
                    .move_into_place(Replacing::Nothing)
                    .map_err(|source| StoreError::CopyFile { path: unfinished.path().to_owned(), source })?;
            }
            Self::Postgres { store, connection: Connection::Postgres(mut connection) } => {
                let committed = query("COMMIT").execute(&mut connection).await.with_action(ACTION);
                store.close().await;
                committed?;
            }
            // `open` makes no other combination.
            _ => {}
        }
        Ok(())
    }
}

/// Creates an unfinished file with the tables of the database.
async fn create_file(path: &Path) -> Result<Target, StoreError> {
    const ACTION: &str = "create the database's file";
    let not_empty = || StoreError::NotEmpty { at: format!("sqlite:{}", path.display()) };
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(not_empty());
    }
    let file_error = |source| StoreError::CopyFile { path: path.to_owned(), source };
    let unfinished = UnfinishedFile::create(path, MODE).map_err(file_error)?.ok_or_else(not_empty)?;
    let options = SqliteConnectOptions::new()
        .filename(unfinished.path())
        .create_if_missing(false)
        // Nothing needs protection from a crash: an incomplete file is removed, and a complete file
        // is synced before it is moved to its target.
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        // In KiB.
        .pragma("cache_size", "-65536")
        .disable_statement_logging();
    let mut connection: SqliteConnection = options.connect().await.with_action(ACTION)?;
    SQLITE_MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| StoreError::Migrate { source: Box::new(error) })?;
    query("BEGIN").execute(&mut connection).await.with_action(ACTION)?;
    let index_rows: Vec<(String, String)> =
        query_as(SELECT_INDEXES).fetch_all(&mut connection).await.with_action(ACTION)?;
    let mut indexes = Vec::new();
    for (name, sql) in index_rows {
        query(AssertSqlSafe(format!("DROP INDEX {name}")))
            .execute(&mut connection)
            .await
            .with_action(ACTION)?;
        indexes.push(sql);
    }
    // The migrations have inserted the built-in types. The copied rows include them.
    query("DELETE FROM group_type").execute(&mut connection).await.with_action(ACTION)?;
    Ok(Target::Sqlite { unfinished, connection: Connection::Sqlite(connection), indexes })
}

/// Begins the transaction that writes all rows. Its locks prevent other writes meanwhile.
async fn begin_on_server(store: &Store) -> Result<PgConnection, StoreError> {
    const ACTION: &str = "check whether the database is empty";
    let Engine::Postgres(server) = &store.engine else {
        return Err(StoreError::NotEmpty { at: String::new() });
    };
    store.migrate().await?;
    let mut connection = server.begin_on_own_connection("BEGIN").await.with_action(ACTION)?;
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let lock = AssertSqlSafe(format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", ")));
    query(lock).execute(&mut connection).await.with_action(ACTION)?;
    for table in TABLES.iter().filter(|table| table.name != "group_type") {
        if has_rows(&mut connection, table).await.with_action(ACTION)? {
            return Err(StoreError::NotEmpty { at: server.database.to_string() });
        }
    }
    // The migrations have inserted the built-in types. The copied rows include them.
    for table in ["group_type", "storage"] {
        let clear = AssertSqlSafe(format!("DELETE FROM {table}"));
        query(clear).execute(&mut connection).await.with_action(ACTION)?;
    }
    Ok(connection)
}

async fn has_rows(connection: &mut PgConnection, table: &Table) -> Result<bool, sqlx::Error> {
    let exists = AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {})", table.name));
    query_scalar(exists).fetch_one(connection).await
}

/// Inserts rows into the SQLite file.
struct FileSink<'a, F> {
    connection: &'a mut SqliteConnection,
    table: &'a Table,
    digest: &'a mut Digest,
    on_rows: &'a mut F,
}

impl<F: FnMut(u64)> Sink for FileSink<'_, F> {
    async fn receive(&mut self, rows: &[RowCells]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let columns = self.table.columns;
        let row_placeholders = format!("({})", vec!["?"; columns.len()].join(","));
        let all_placeholders = vec![row_placeholders.as_str(); rows.len()].join(",");
        let sql =
            format!("INSERT INTO {} ({}) VALUES {all_placeholders}", self.table.name, columns.join(","));
        let mut arguments = SqliteArguments::default();
        for row in rows {
            self.digest.add(row);
            for cell in row {
                let added = match cell {
                    Cell::Null => arguments.add(None::<i64>),
                    Cell::Integer(number) => arguments.add(*number),
                    Cell::Text(text) => arguments.add(text.clone()),
                };
                added.map_err(sqlx::Error::Encode).with_action(ACTION)?;
            }
        }
        // Batches of the same size have the same statement, which sqlx prepares once.
        let insert = sqlx::query_with(AssertSqlSafe(sql), arguments);
        insert.execute(&mut *self.connection).await.with_action(ACTION)?;
        (self.on_rows)(rows.len() as u64);
        Ok(())
    }
}

/// Sends rows to the PostgreSQL server with COPY.
struct ServerSink<'a, F> {
    copy: PgCopyIn<&'a mut PgConnection>,
    buffer: Vec<u8>,
    digest: &'a mut Digest,
    on_rows: &'a mut F,
}

impl<F> ServerSink<'_, F> {
    async fn send(&mut self) -> Result<(), StoreError> {
        self.copy.send(self.buffer.as_slice()).await.with_action(ACTION)?;
        self.buffer.clear();
        Ok(())
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        self.send().await?;
        self.copy.finish().await.with_action(ACTION)?;
        Ok(())
    }
}

impl<F: FnMut(u64)> Sink for ServerSink<'_, F> {
    async fn receive(&mut self, rows: &[RowCells]) -> Result<(), StoreError> {
        for row in rows {
            self.digest.add(row);
            append_as_copy_text(row, &mut self.buffer);
        }
        (self.on_rows)(rows.len() as u64);
        if self.buffer.len() >= SEND_BYTES { self.send().await } else { Ok(()) }
    }
}

/// Computes the digest of rows that are read back.
struct DigestSink<'a, F> {
    digest: &'a mut Digest,
    on_rows: &'a mut F,
}

impl<F: FnMut(u64)> Sink for DigestSink<'_, F> {
    async fn receive(&mut self, rows: &[RowCells]) -> Result<(), StoreError> {
        rows.iter().for_each(|row| self.digest.add(row));
        (self.on_rows)(rows.len() as u64);
        Ok(())
    }
}
