//! One interface to both database engines: opening, transactions, retries, fencing.

mod connect;
mod connections;
mod database;
mod error;
mod fence;
mod in_use;
mod limits;
pub(super) mod lock_file;
mod newest_crawl;
mod open_file;
mod postgres;
mod read;
mod retry;
mod sqlite;
mod statement;
mod storage;
mod tx;
mod write;

pub(super) use connect::Schema;
pub use connect::{PasswordSource, PostgresDatabase};
pub(super) use connections::PgTransaction;
pub(super) use database::Engine;
pub use database::{DatabaseLocation, Store};
pub use error::StoreError;
pub(super) use error::WithAction;
pub(super) use fence::Fence;
pub(super) use in_use::InUseLock;
pub use limits::Limits;
pub(super) use newest_crawl::{NEWEST_CRAWL, NewestCrawl};
pub(super) use postgres::{Intent, Server};
pub(super) use retry::TransactionRetry;
pub(super) use sqlite::{SqliteFile, beside};
pub(super) use statement::{Statement, Value, query, query_as, query_scalar, values};
pub(super) use storage::PostgresStorage;
pub(super) use tx::{Row, Tx};
pub(super) use write::FencingToken;
