//! afterimage keeps MySQL tables equal to the latest state of change topics in Kafka.
//!
//! ```text
//! Kafka partition --> micro-batch --> decode --> SQL models --> one MySQL transaction
//!  (bytes)            (bytes)         (Arrow)     (Arrow)        rows + quarantine + accounting + offsets
//! ```
//!
//! Four stations, [`source`], [`decode`], [`sql`] and [`sink`], and one loop, [`pipeline`], that reads like that line.
//! No station imports another; what travels between them is described in [`record`], [`schema`], [`hold`],
//! [`target`] and [`work`], which depend on nothing of ours but [`position`] and [`error`].
//!
//! The promises, cited by number in code and tests:
//!
//! - **P1 State.** A drained table equals the fold of all events: per key the row of the greatest version, or none.
//! - **P2 Atomicity.** At every instant the table equals the fold of exactly the offsets recorded as done.
//! - **P3 Once.** No offset range is applied twice, none is skipped.
//! - **P4 Accounting.** `read = ignored + refused + held + accepted`, `changes = upserted + deleted + superseded`.
//! - **P5 Isolation.** A bad record, user or pipeline never stops another; a sick database is never a bad record.
//! - **P6 Nothing silent.** Lost data, re-created topics, values MySQL would change, unknown config keys: each is named.

#![warn(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod say;

pub mod check;
pub mod cli;
pub mod config;
pub mod decode;
pub mod demo;
pub mod diagnostic;
pub mod editor;
pub mod error;
pub mod failpoint;
pub mod file_mark;
pub mod generate;
pub mod generation;
pub mod hold;
pub mod http;
pub mod init;
mod json;
pub mod oracle;
pub mod pipeline;
pub mod position;
pub mod record;
pub mod schema;
pub mod service;
pub mod sink;
pub mod source;
pub mod sql;
pub mod target;
pub mod telemetry;
pub mod work;
pub mod workbench;
