//! Record headers as JSON: `[["name","value"],["name",null]]`, the form that quarantine keeps.
//!
//! A value that is not UTF-8, or whose text begins like our own mark, is written as `base64:` and its bytes in base64, so that
//! every value can be told apart and restored.

use rdkafka::message::{BorrowedHeaders, Headers};

const MARK: &str = "base64:";

/// Appends `headers` to `out`.
pub(super) fn write(headers: &BorrowedHeaders, out: &mut Vec<u8>) {
    write_pairs(headers.iter().map(|header| (header.key, header.value)), out);
}

fn write_pairs<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'[');
        write_string(name, out);
        out.push(b',');
        match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => out.extend_from_slice(b"null"),
            Some((_, Ok(text))) if !text.starts_with(MARK) => write_string(text, out),
            Some((bytes, _)) => write_string(&format!("{MARK}{}", base64(bytes)), out),
        }
        out.push(b']');
    }
    out.push(b']');
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing a str into a Vec can't fail.
    let _ = serde_json::to_writer(out, text);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place <= group.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use ::base64::Engine;
    use ::base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_header_can_be_restored(
            headers in proptest::collection::vec(
                (any::<String>(), proptest::option::of(prop_oneof![
                    any::<Vec<u8>>(),
                    any::<String>().prop_map(|text| format!("{MARK}{text}").into_bytes()),
                ])),
                0..5,
            )
        ) {
            let pairs: Vec<(&str, Option<&[u8]>)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            let read: Vec<(String, Option<String>)> = serde_json::from_str(&json(&pairs)).unwrap();
            let restore = |text: String| match text.strip_prefix(MARK) {
                Some(encoded) => BASE64_STANDARD.decode(encoded).unwrap(),
                None => text.into_bytes(),
            };
            let restored: Vec<_> = read.into_iter().map(|(name, value)| (name, value.map(restore))).collect();
            prop_assert_eq!(restored, headers);
        }
    }

    fn json(pairs: &[(&str, Option<&[u8]>)]) -> String {
        let mut out = Vec::new();
        write_pairs(pairs.iter().copied(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn headers_become_an_array_of_pairs() {
        assert_eq!(json(&[]), "[]");
        assert_eq!(
            json(&[("trace", Some(b"a\"b")), ("none", None), ("trace", Some(b""))]),
            r#"[["trace","a\"b"],["none",null],["trace",""]]"#
        );
    }

    #[test]
    fn values_that_are_no_text_or_look_like_the_mark_are_written_in_base64() {
        assert_eq!(json(&[("raw", Some(&[0xff, 0x00]))]), r#"[["raw","base64:/wA="]]"#);
        assert_eq!(json(&[("odd", Some(b"base64:x"))]), r#"[["odd","base64:YmFzZTY0Ong="]]"#);
    }

    #[test]
    fn base64_agrees_with_the_standards_examples() {
        let examples =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in examples {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
