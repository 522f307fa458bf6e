//! A row's key as bytes: which types can be one, and its hash.

use std::hash::{BuildHasher, Hasher};

use arrow::datatypes::DataType;
use foldhash::quality::RandomState;

/// Whether two values of this type are equal exactly if their bytes are.
pub(in crate::sql) fn is_exact(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(
            kind,
            DataType::Utf8
                | DataType::Binary
                | DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

/// The hash of a key from the bytes of its parts; `None` if a part is NULL.
#[inline]
pub(super) fn hash<'a>(parts: impl Iterator<Item = Option<&'a [u8]>>, seed: &RandomState) -> Option<u64> {
    let mut hasher = seed.build_hasher();
    for part in parts {
        let part = part?;
        match part.try_into() {
            Ok(eight) => hasher.write_u64(u64::from_ne_bytes(eight)),
            Err(_) => hasher.write(part),
        }
    }
    Some(hasher.finish())
}
