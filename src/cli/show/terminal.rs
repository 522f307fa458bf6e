//! The terminal: how wide it is, and what must not reach it.

use std::io::IsTerminal;

use unicode_width::UnicodeWidthChar;

/// Columns of the terminal on standard output; `None` where it is a file or a pipe, which takes lines of any length.
pub fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    Some(told.or_else(asked).filter(|width| *width > 0).unwrap_or(80))
}

/// `text` on one line and without anything that a terminal obeys or that hides or reorders what stands there: such characters are
/// shown as escapes.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Characters without width that change how others are shown.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Columns that `text`, which is [`harmless`], takes up.
pub fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// The beginning of `text` in at most `limit` columns, with `…` where something is left out.
pub fn shortened(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut taken = 0;
    for c in text.chars() {
        taken += columns_of(c);
        if taken > limit.saturating_sub(1) {
            break;
        }
        shown.push(c);
    }
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(harmless("a\u{1b}[31mb\nc\td"), "a\\u{1b}[31mb\\nc\\td");
        assert_eq!(harmless("abc\u{202e}fed\u{200b}"), "abc\\u{202e}fed\\u{200b}");
        assert_eq!(harmless("Zoë 李 ok"), "Zoë 李 ok");
    }

    #[test]
    fn wide_characters_count_twice_and_marks_not_at_all() {
        assert_eq!(columns("ab"), 2);
        assert_eq!(columns("李a"), 3);
        assert_eq!(columns("e\u{301}"), 1);
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("李李李", 4), "李…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_it_may_be(text in "\\PC*", limit in 1_usize..30) {
            prop_assert!(columns(&shortened(&harmless(&text), limit)) <= limit);
        }

        #[test]
        fn no_control_character_is_left(text in any::<String>()) {
            prop_assert!(!harmless(&text).chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}
