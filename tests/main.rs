//! One binary for all integration tests: DataFusion links once. Modules below are the areas.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod cli;
mod faults;
mod fixtures;
mod kafka_faults;
mod offline;
mod operations;
mod road;
mod servers;
mod source;
mod support;
