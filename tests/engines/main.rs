//! PostgreSQL: leases, transactions, rights, roles, servers that fail.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod cuts;
mod failover;
mod postgres;
mod postgres_program;
mod postgres_servers;
mod replicas;
mod restored;
