//! Fuzzing guided by coverage: `make fuzz` builds this with the crate instrumented (`scripts/fuzz-rustc`) and runs it once per target.
//! `AFTERIMAGE_FUZZ` names the target; arguments are libFuzzer's.

#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls by C's conventions")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what breaks a promise panics")]
#![allow(unreachable_pub, dead_code, reason = "modules that the tests share")]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "support/targets.rs"]
mod targets;
#[path = "support/world.rs"]
mod world;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("AFTERIMAGE_FUZZ").unwrap_or_default();
    targets::named(&name).unwrap_or_else(|| {
        let names: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
        panic!("AFTERIMAGE_FUZZ must name a target: {}", names.join(", "))
    })
});

fuzz_target!(|data: &[u8]| TARGET(data));
