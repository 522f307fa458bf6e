//! Named places at which a debug build can be told to fail, for tests of crashes (P2, P3).
//!
//! In: the environment variable `FAILPOINTS`, such as `after_swap=3*off->1*return(kill)`: pass three times, then die. What a place may
//! do: `return(kill)` is SIGKILL, `return(stop)` is SIGSTOP (somebody has to send SIGCONT), and all that the crate `fail` knows:
//! `sleep(ms)`, `panic`, `off`, with counts and percentages. Promises: a release build contains none of it, and a name that is reached
//! without being configured costs a debug build one lookup.

/// Marks a place; nothing in a release build.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::reach($name)
    };
}

pub(crate) use failpoint;

/// Does what `FAILPOINTS` says about `name`, if anything.
#[cfg(debug_assertions)]
pub(crate) fn reach(name: &str) {
    // The answer of a place is an act, never a value.
    let _: Option<()> = fail::eval(name, |act| match act.as_deref() {
        Some("kill") => signal_self(libc::SIGKILL),
        Some("stop") => signal_self(libc::SIGSTOP),
        other => warn_user!("failpoint {name}: there is no act {other:?}, only kill and stop"),
    });
}

#[cfg(debug_assertions)]
#[allow(unsafe_code, reason = "the standard library can't signal its own process")]
fn signal_self(signal: libc::c_int) {
    // SAFETY: both calls take and give integers and touch no memory of ours.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// Reads `FAILPOINTS`; what it returns has to live as long as the process. Panics on a text that is none.
#[cfg(debug_assertions)]
pub fn arm() -> impl Drop {
    struct Armed(Option<fail::FailScenario<'static>>);
    impl Drop for Armed {
        fn drop(&mut self) {
            if let Some(scenario) = self.0.take() {
                scenario.teardown();
            }
        }
    }
    let wanted = std::env::var_os("FAILPOINTS").is_some();
    Armed(wanted.then(fail::FailScenario::setup))
}
