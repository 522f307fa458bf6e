//! What the tests stand on: real servers, a broker, a proxy that cuts connections, and the program itself as a process.
//!
//! Servers start when the first test asks for one and are shared by all tests of the run; each test makes databases and
//! topics of its own. Tests that stop or kill a server start a private one. Everything ends with the test process, even
//! when that is killed. A server that can't be started fails the test, with the end of the server's log.

#![allow(dead_code, reason = "a toolbox: not every tool is in use at every time")]
#![allow(unreachable_pub, reason = "the tests are one crate, whose modules use each other's public items")]

pub mod certificates;
pub mod fixture;
pub mod kafka;
pub mod mysql;
pub mod outcome;
pub mod process;
pub mod proxy;
pub mod rig;
pub mod servers;
pub mod tap;
pub mod targets;
pub mod web;
pub mod world;
