//! Schema files against real servers: nested values in JSON columns, and the target following the models.

mod evolve;
mod json;
mod offline;

use std::time::Duration;

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(120);
