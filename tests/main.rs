//! One binary for all integration tests: DataFusion links once. Modules below are the areas.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod chaos;
mod cli;
mod corpus;
mod correctness;
mod database_faults;
mod faults;
mod fixtures;
mod guide;
mod kafka_faults;
mod lookups;
mod offline;
mod operations;
mod properties;
mod protocol;
mod reload;
mod road;
mod schema;
mod security;
mod servers;
mod sink;
mod source;
mod support;
mod workbench;
