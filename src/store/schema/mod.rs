//! Manages the tables and views: creates and upgrades them, checks rights, prints the SQL, removes
//! them.

mod migrate;
mod print;
mod remove;
mod rights;
mod sources;

pub(in crate::store) use sources::{SQLITE_MIGRATIONS, check_sqlite_migrations};
