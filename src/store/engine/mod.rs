//! Both database engines behind one interface: opening, transactions as values, retries, fencing.

mod database;
mod error;
mod fence;
mod in_use;
mod postgres;
mod read;
mod retry;
mod sqlite;
mod statement;
mod storage;
mod tx;
mod write;

pub(super) use database::Engine;
pub use database::{DatabaseUrl, Store};
pub(super) use error::Attempted;
pub use error::StoreError;
pub(super) use fence::{Fence, TIME_TO_LIVE};
pub(super) use in_use::InUse;
pub use postgres::PostgresDatabase;
pub(super) use postgres::{Intent, Schema, Server};
pub(super) use retry::TransactionRetry;
pub(super) use sqlite::{SqliteFile, beside};
pub(super) use statement::{Statement, Value, query, query_as, query_scalar, values};
pub(super) use storage::PostgresStorage;
pub(super) use tx::Tx;
