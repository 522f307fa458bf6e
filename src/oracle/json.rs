//! A reader of JSON for the fold alone: the grammar of RFC 8259 by the letter, so that the parser that the stations use is held
//! against another one.
//!
//! Numbers stay as written; a text that holds half of a surrogate pair is grammatical and no text; repeated members stay repeated.

use std::iter::Peekable;
use std::str::CharIndices;

/// Most levels of arrays and objects inside each other.
const MAX_DEPTH: usize = 127;

#[derive(Debug)]
pub(super) enum Json<'a> {
    Null,
    Bool,
    Number(&'a str),
    /// `None` where an escape stands for no character.
    Text(Option<String>),
    Array,
    Object(Vec<(Option<String>, Json<'a>)>),
}

impl Json<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    /// A whole number of 64 bits, written without fraction and exponent.
    pub(super) fn whole(&self) -> Option<i64> {
        match self {
            Self::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }
}

/// The one value that `text` holds.
pub(super) fn parse(text: &str) -> Option<Json<'_>> {
    let mut parser = Parser { text, rest: text.char_indices().peekable() };
    let value = parser.value(0)?;
    parser.space();
    parser.rest.next().is_none().then_some(value)
}

/// Every method takes something off the front, or yields `None` where it isn't there: the text is no JSON then.
struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Parser<'a> {
    /// A value that stands inside `depth` arrays and objects.
    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        self.space();
        let (start, first) = *self.rest.peek()?;
        match first {
            '{' if depth < MAX_DEPTH => self.object(depth + 1),
            '[' if depth < MAX_DEPTH => self.array(depth + 1),
            '"' => self.string().map(Json::Text),
            '-' | '0'..='9' => self.number(start),
            'n' => self.word("null").then_some(Json::Null),
            't' => self.word("true").then_some(Json::Bool),
            'f' => self.word("false").then_some(Json::Bool),
            _ => None,
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut members = Vec::new();
        self.take('{')?;
        self.space();
        if self.take('}').is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.take(':')?;
            members.push((name, self.value(depth)?));
            self.space();
            if self.take('}').is_some() {
                return Some(Json::Object(members));
            }
            self.take(',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<Json<'a>> {
        self.take('[')?;
        self.space();
        if self.take(']').is_some() {
            return Some(Json::Array);
        }
        loop {
            self.value(depth)?;
            self.space();
            if self.take(']').is_some() {
                return Some(Json::Array);
            }
            self.take(',')?;
        }
    }

    fn number(&mut self, start: usize) -> Option<Json<'a>> {
        self.take('-');
        if self.take('0').is_none() {
            self.digits()?;
        }
        if self.take('.').is_some() {
            self.digits()?;
        }
        if self.take('e').or_else(|| self.take('E')).is_some() {
            let _sign = self.take('+').or_else(|| self.take('-'));
            self.digits()?;
        }
        let end = self.rest.peek().map_or(self.text.len(), |(end, _)| *end);
        self.text.get(start..end).map(Json::Number)
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        self.rest.next_if(|(_, letter)| letter.is_ascii_digit())?;
        while self.rest.next_if(|(_, letter)| letter.is_ascii_digit()).is_some() {}
        Some(())
    }

    /// The outer `None`: no string stands here. The inner: one that is no text.
    fn string(&mut self) -> Option<Option<String>> {
        self.take('"')?;
        // UTF-16, because that is what escapes are written in.
        let mut units: Vec<u16> = Vec::new();
        loop {
            match self.rest.next()?.1 {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escape()?),
                control if control < ' ' => return None,
                letter => units.extend_from_slice(letter.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        Some(match self.rest.next()?.1 {
            'u' => {
                let mut unit = 0;
                for _ in 0..4 {
                    unit = unit * 16 + self.rest.next()?.1.to_digit(16)?;
                }
                u16::try_from(unit).ok()?
            }
            'b' => 8,
            't' => 9,
            'n' => 10,
            'f' => 12,
            'r' => 13,
            same @ ('"' | '\\' | '/') => u16::try_from(u32::from(same)).ok()?,
            _ => return None,
        })
    }

    fn word(&mut self, word: &str) -> bool {
        word.chars().all(|letter| self.take(letter).is_some())
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        self.rest.next_if(|(_, letter)| *letter == wanted).map(|_| ())
    }

    fn space(&mut self) {
        while self.rest.next_if(|(_, letter)| matches!(letter, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_json_and_nothing_else() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for good in ["0", " -0.5e+3 ", "1e999", "[]", "[1, [ ]]", r#"{"a":{},"a":[null,true,false]}"#, r#""\ud800""#] {
            assert!(parse(good).is_some(), "{good}");
        }
        assert!(parse(&deep(MAX_DEPTH)).is_some());
        assert!(parse(&deep(MAX_DEPTH + 1)).is_none());
        for bad in [
            "",
            " ",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "NaN",
            "nul",
            "[1,]",
            "[1 2]",
            "{",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            "{a:1}",
            r#"{"a":1 "b":2}"#,
            "\"\t\"",
            r#""\x""#,
            r#""\u12g4""#,
            "\"",
            "1 2",
            "\u{feff}1",
            "\u{a0}1",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn texts_are_unescaped_and_halves_of_pairs_are_no_texts() {
        let text = |json: &str| parse(json).and_then(|json| json.text().map(str::to_owned));
        assert_eq!(
            text(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é""#).as_deref(),
            Some("a\"\\/\u{8}\u{c}\n\r\té\u{1f600}é")
        );
        for half in [r#""\ud83d""#, r#""\ude00\ud83d""#, r#""\ud83dx""#] {
            assert!(matches!(parse(half), Some(Json::Text(None))), "{half}");
        }
    }

    #[test]
    fn whole_numbers_are_exact_or_none() {
        let whole = |json: &str| parse(json).and_then(|json| json.whole());
        assert_eq!(whole("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(whole("-0"), Some(0));
        for none in ["9223372036854775808", "1.0", "1e3", "\"1\"", "null"] {
            assert_eq!(whole(none), None, "{none}");
        }
    }
}
