//! What commands tell people: lines on standard output and standard error.
//!
//! A reader may be gone (`afterimage status | head -1`): it wants no more lines, and that is no reason to panic, as the standard
//! library's own macros would.

/// A line on standard output.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // A reader that went away wants no more of it.
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}

/// A line on standard error.
macro_rules! warn_user {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // Where standard error is gone nobody can be told.
        let _ = writeln!(std::io::stderr().lock(), $($text)*);
    }};
}
