//! Flags of the larger families of commands. Those of the others stand in `cli.rs`.

mod quarantine;
mod schema;
mod workbench;

pub use quarantine::{QuarantineCommand, QuarantineListArgs, QuarantineMarkArgs, QuarantineShowArgs, QuarantineState};
pub use schema::{
    SchemaApplyArgs, SchemaCheckArgs, SchemaCommand, SchemaDiffArgs, SchemaInferArgs, SchemaPlanArgs, WishArgs,
};
pub use workbench::{DiffArgs, EventsArgs, ExplainArgs, ExplainFormat, PreviewArgs, PreviewFormat, TestArgs};
