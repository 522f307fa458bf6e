//! The workbench (placeholder until bench's arrives).
pub mod events;
