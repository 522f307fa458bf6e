//! The bytes of one event: the envelope as a change-data-capture tool writes it, and every way to get it wrong.

use serde::Serialize;

use super::people::Profile;

/// A change event; fields in the order in which they are written.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a> {
    pub(super) op: &'a str,
    pub(super) before: Option<Image<'a>>,
    pub(super) after: Option<Image<'a>>,
    /// Milliseconds since 1970 UTC.
    pub(super) timestamp: i64,
}

/// A row image of the source table.
#[derive(Debug, Serialize)]
pub(super) struct Image<'a> {
    #[serde(rename = "userId")]
    pub(super) user_id: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) email: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    /// A field that the schema doesn't know.
    #[serde(rename = "loyaltyPoints", skip_serializing_if = "Option::is_none")]
    pub(super) loyalty_points: Option<u32>,
}

impl Envelope<'_> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope of texts and numbers can always be written")
    }
}

impl<'a> Image<'a> {
    pub(super) fn of(user_id: &'a str, profile: &'a Profile) -> Self {
        Self {
            user_id,
            name: profile.name.as_deref(),
            email: profile.email.as_deref(),
            country: profile.country.as_deref(),
            loyalty_points: None,
        }
    }
}

/// A way in which bytes fail to be an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformation {
    Empty,
    NotUtf8,
    NotJson,
    Truncated,
    TrailingBytes,
    NotAnObject,
    NullRoot,
    DepthBomb,
    LoneSurrogate,
    MissingImage,
    MissingKey,
    KeyNotText,
    UnknownOp,
    MissingOp,
    TimestampMissing,
    TimestampText,
    TimestampFraction,
    TimestampOutOfRange,
    WrongType,
    DuplicateField,
}

impl Malformation {
    pub const ALL: [Self; 20] = [
        Self::Empty,
        Self::NotUtf8,
        Self::NotJson,
        Self::Truncated,
        Self::TrailingBytes,
        Self::NotAnObject,
        Self::NullRoot,
        Self::DepthBomb,
        Self::LoneSurrogate,
        Self::MissingImage,
        Self::MissingKey,
        Self::KeyNotText,
        Self::UnknownOp,
        Self::MissingOp,
        Self::TimestampMissing,
        Self::TimestampText,
        Self::TimestampFraction,
        Self::TimestampOutOfRange,
        Self::WrongType,
        Self::DuplicateField,
    ];

    /// Whether the user can still be read, and so is put on hold. The others carry no readable user at all, so that
    /// nobody can argue about how much of a broken text counts.
    pub fn names_user(self) -> bool {
        matches!(
            self,
            Self::UnknownOp
                | Self::MissingOp
                | Self::TimestampMissing
                | Self::TimestampText
                | Self::TimestampFraction
                | Self::TimestampOutOfRange
                | Self::WrongType
                | Self::DuplicateField
        )
    }

    /// An event of the user with exactly this fault.
    pub(super) fn value(self, user_id: &str, profile: &Profile, timestamp: i64) -> Vec<u8> {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let user = text(user_id);
        let image =
            serde_json::to_string(&Image::of(user_id, profile)).expect("an image of texts can always be written");
        let event = |op: &str, after: &str, timestamp: &str| {
            format!(r#"{{"op":{op},"before":null,"after":{after},"timestamp":{timestamp}}}"#).into_bytes()
        };
        let at = timestamp.to_string();
        match self {
            Self::Empty => Vec::new(),
            Self::NotUtf8 => {
                event(r#""c""#, "\u{1}", &at).into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect()
            }
            Self::NotJson => b"user;name;email\n".to_vec(),
            Self::Truncated => br#"{"op":"u","before":null,"after":{"user"#.to_vec(),
            Self::TrailingBytes => [event(r#""u""#, "null", &at), b" {}".to_vec()].concat(),
            Self::NotAnObject => format!("[{at}]").into_bytes(),
            Self::NullRoot => b"null".to_vec(),
            Self::DepthBomb => vec![b'['; 100_000],
            Self::LoneSurrogate => event(r#""c""#, r#"{"userId":"\ud83d","name":"Lone"}"#, &at),
            Self::MissingImage => event(r#""c""#, "null", &at),
            Self::MissingKey => event(r#""c""#, r#"{"name":"Nobody"}"#, &at),
            Self::KeyNotText => event(r#""c""#, r#"{"userId":42,"name":"Number"}"#, &at),
            Self::UnknownOp => event(r#""x""#, &image, &at),
            Self::MissingOp => format!(r#"{{"before":null,"after":{image},"timestamp":{at}}}"#).into_bytes(),
            Self::TimestampMissing => format!(r#"{{"op":"u","before":null,"after":{image}}}"#).into_bytes(),
            Self::TimestampText => event(r#""u""#, &image, &text(&at)),
            Self::TimestampFraction => event(r#""u""#, &image, "1.5"),
            Self::TimestampOutOfRange => event(r#""u""#, &image, "9223372036854775807"),
            Self::WrongType => event(r#""u""#, &format!(r#"{{"userId":{user},"name":42}}"#), &at),
            Self::DuplicateField => event(r#""u","op":"u""#, &image, &at),
        }
    }
}
