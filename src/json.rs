//! JSON taken apart piece by piece: each piece stays a slice of the text it came from, so its place is known and its numbers
//! keep all their digits.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most levels of arrays and objects inside each other that are read; the same bound as the parser's own.
pub(crate) const MAX_DEPTH: usize = 127;

/// Members of the object that `text` holds, in the order written, repeats included. Values are slices of `text`.
pub(crate) fn members(text: &str) -> serde_json::Result<Vec<(String, &str)>> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                members.push((name, value.get()));
            }
            Ok(members)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Members)?;
    deserializer.end()?;
    Ok(members)
}

/// Elements of the array that `text` holds, as slices of `text`.
pub(crate) fn elements(text: &str) -> serde_json::Result<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// Content of the string literal `raw`; `None` where `raw` is no string or holds an escape that is no character.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// What kind of value the JSON text `raw` is, as the rest of a sentence: `is a string`.
pub(crate) fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "is a string",
        Some(b'{') => "is an object",
        Some(b'[') => "is an array",
        Some(b't' | b'f') => "is a boolean",
        Some(b'n') => "is null",
        _ => "is a number",
    }
}

/// Whether arrays and objects in `text`, which must be valid JSON, stand inside each other more than `levels` deep.
pub(crate) fn deeper_than(text: &str, levels: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => {
                bytes.next();
            }
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What stands in a JSON text that a store of JSON could stumble over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Levels of arrays and objects inside each other.
    pub(crate) depth: usize,
    /// A string holds an escape that is no character.
    pub(crate) broken_text: bool,
    /// An object has a member twice.
    pub(crate) repeats: bool,
}

/// Looks through `text`, which must be valid JSON, without recursion; `number` is shown every number as it is written.
pub(crate) fn survey<'t>(text: &'t str, mut number: impl FnMut(&'t str)) -> Survey {
    let mut survey = Survey::default();
    // Names seen in each open object; an array has none.
    let mut open: Vec<std::collections::HashSet<Cow<'t, str>>> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => {
                let end = |c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
                rest.find(end).unwrap_or(rest.len())
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        match first {
            b'{' | b'[' => {
                open.push(std::collections::HashSet::new());
                survey.depth = survey.depth.max(open.len());
            }
            b'}' | b']' => drop(open.pop()),
            b'"' => match string(piece) {
                None => survey.broken_text = true,
                // A string before a colon is a member's name.
                Some(name) if after.trim_start().starts_with(':') => {
                    survey.repeats |= open.last_mut().is_some_and(|names| !names.insert(name));
                }
                Some(_) => {}
            },
            b'-' | b'0'..=b'9' => number(piece),
            _ => {}
        }
        rest = after;
    }
    survey
}

/// Length of the string literal that `text` begins with.
fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut index = 1;
    while let Some(byte) = bytes.get(index) {
        match byte {
            b'\\' => index += 2,
            b'"' => return index + 1,
            _ => index += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_repeats_and_digits() {
        let members = members(r#" {"b": 1.10, "a":"x", "b" : [1, {}]} "#).unwrap();
        let expected = [("b", "1.10"), ("a", "\"x\""), ("b", "[1, {}]")];
        assert_eq!(members, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn only_one_whole_object_has_members() {
        for text in ["", "null", "[]", "{", r#"{"a":1} {}"#, r#"{"a":1,}"#] {
            assert!(members(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_are_unescaped_and_lone_surrogates_are_no_strings() {
        assert_eq!(string(r#""plain""#).as_deref(), Some("plain"));
        assert_eq!(string(r#""a\"b\u00e9""#).as_deref(), Some("a\"b\u{e9}"));
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("\u{1f600}"));
        assert_eq!(string(r#""\ud83d""#), None);
        assert_eq!(string("12"), None);
    }

    #[test]
    fn depth_counts_what_stands_inside_each_other_and_nothing_in_strings() {
        assert!(!deeper_than("1", 0));
        assert!(deeper_than("[]", 0));
        assert!(!deeper_than(r#"[[],{},"[[[[\"[[["]"#, 2));
        assert!(deeper_than(r#"[[],{"a":[]}]"#, 2));
        assert!(deeper_than(&"[".repeat(100_000), MAX_DEPTH));
    }

    // Proves: R36
    #[test]
    fn the_depth_bound_is_the_parsers_own() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for levels in [MAX_DEPTH, MAX_DEPTH + 1] {
            let parsed = serde_json::from_str::<serde_json::Value>(&nested(levels)).is_ok();
            assert_eq!(parsed, !deeper_than(&nested(levels), MAX_DEPTH), "{levels}");
        }
    }

    #[test]
    fn a_survey_finds_depth_repeats_broken_texts_and_every_number() {
        let look = |text| {
            let mut numbers = Vec::new();
            let survey = survey(text, |number| numbers.push(number));
            (survey.depth, survey.repeats, survey.broken_text, numbers)
        };
        assert_eq!(look("-1.50e+3"), (0, false, false, vec!["-1.50e+3"]));
        assert_eq!(look(r#"{"a":[1,2.0],"b":{"a":"3"}}"#), (2, false, false, vec!["1", "2.0"]));
        assert_eq!(look(r#"{"a":"[[","\u0061" : "\\"}"#), (1, true, false, vec![]));
        assert_eq!(look(r#"["\ud83d","\"]"]"#), (1, false, true, vec![]));
        assert_eq!(look(r#"[{"a":1},{"a":2}]"#), (2, false, false, vec!["1", "2"]));
    }
}
