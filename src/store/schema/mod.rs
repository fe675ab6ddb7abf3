//! The tables and views: creating, upgrading, checking rights, printing the SQL, removing.

mod migrate;
mod print;
mod remove;
mod rights;
mod sources;

pub(in crate::store) use sources::{SQLITE_MIGRATIONS, check_sqlite_migrations};
