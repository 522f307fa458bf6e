//! The demo and what it stands on: servers of its own that need no installation beyond a program on the PATH.

pub mod process;
pub mod server;
