//! What the tests stand on.

#![allow(dead_code, reason = "a toolbox: not every tool is in use at every time")]
#![allow(unreachable_pub, reason = "the tests are one crate, whose modules use each other's public items")]

pub mod fixture;
