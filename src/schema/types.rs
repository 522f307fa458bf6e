//! The names of types in schema files, and the Arrow types that they stand for.
//!
//! A scalar's name says everything (`decimal128(18,2)`); `struct` and `list` take their members from other keys of the field; `json`
//! is text in Arrow, marked in the field's metadata as Arrow's own extension type for JSON.

use arrow::datatypes::{DataType, Field, TimeUnit};

/// Names of the types, as suggestions.
pub(crate) const TYPES: [&str; 18] = [
    "utf8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "boolean",
    "date32",
    "timestamp(ms)",
    "timestamp(us)",
    "decimal128(18,2)",
    "binary",
    "json",
];

/// Arrow's keys for extension types, and the one that we use.
const EXTENSION: &str = "ARROW:extension:name";
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";
const JSON: &str = "arrow.json";

/// Whether the field's text is JSON, kept as it was written.
pub fn is_json(field: &Field) -> bool {
    *field.data_type() == DataType::Utf8 && field.metadata().get(EXTENSION).is_some_and(|name| name == JSON)
}

/// `field`, marked as holding JSON.
#[must_use]
pub fn as_json(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(EXTENSION.to_owned(), JSON.to_owned());
    metadata.insert(EXTENSION_METADATA.to_owned(), String::new());
    field.with_metadata(metadata)
}

/// Whether a key of a field's metadata is Arrow's own mark rather than something that a schema file says.
pub(super) fn is_mark(key: &str) -> bool {
    key == EXTENSION || key == EXTENSION_METADATA
}

/// What a schema file calls the field's type; of structs and lists the word alone.
pub fn type_of(field: &Field) -> String {
    if is_json(field) { "json".to_owned() } else { type_name(field.data_type()) }
}

/// What a schema file calls `data_type`.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(_) => "struct".to_owned(),
        DataType::List(_) => "list".to_owned(),
        DataType::Timestamp(unit, _) => format!("timestamp({})", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision},{scale})"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// The type that a schema file calls `name`; otherwise what to write instead.
pub(crate) fn type_named(name: &str) -> Result<DataType, String> {
    let simple = match name {
        "utf8" | "json" => DataType::Utf8,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "date32" => DataType::Date32,
        "binary" => DataType::Binary,
        _ => return parametrized(name),
    };
    Ok(simple)
}

fn parametrized(name: &str) -> Result<DataType, String> {
    let (base, parameters) = match name.strip_suffix(')').and_then(|name| name.split_once('(')) {
        Some((base, parameters)) => (base.trim(), parameters.split(',').map(str::trim).collect()),
        None => (name, Vec::new()),
    };
    match (base, parameters.as_slice()) {
        ("timestamp", [unit]) => {
            let unit = match *unit {
                "s" => TimeUnit::Second,
                "ms" => TimeUnit::Millisecond,
                "us" => TimeUnit::Microsecond,
                "ns" => TimeUnit::Nanosecond,
                _ => return Err("the unit is one of s, ms, us, ns".to_owned()),
            };
            Ok(DataType::Timestamp(unit, Some("UTC".into())))
        }
        ("timestamp", _) => {
            Err("write the unit too: timestamp(s), timestamp(ms), timestamp(us) or timestamp(ns)".to_owned())
        }
        ("decimal128", [precision, scale]) => match (precision.parse::<u8>(), scale.parse::<i8>()) {
            (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale as u8 <= precision => {
                Ok(DataType::Decimal128(precision, scale))
            }
            _ => Err("the precision is 1 to 38, the scale 0 to the precision".to_owned()),
        },
        ("decimal128", _) => Err("write precision and scale too, e.g. decimal128(18,2)".to_owned()),
        _ => {
            let candidate = suggestion(base);
            Err(match candidate {
                Some(candidate) => format!("did you mean \"{candidate}\"?"),
                None => format!("the types are {}, struct, list", TYPES.join(", ")),
            })
        }
    }
}

/// The type meant by another system's name for it, or by a slip of the pen.
fn suggestion(name: &str) -> Option<&'static str> {
    match name.to_lowercase().as_str() {
        "string" | "varchar" | "char" | "text" | "str" | "largeutf8" => Some("utf8"),
        "int" | "integer" => Some("int32"),
        "bigint" | "long" => Some("int64"),
        "smallint" | "short" => Some("int16"),
        "tinyint" | "byte" => Some("int8"),
        "double" => Some("float64"),
        "float" | "real" => Some("float32"),
        "bool" => Some("boolean"),
        "date" => Some("date32"),
        "datetime" | "time" | "timestamptz" => Some("timestamp(ms)"),
        "decimal" | "numeric" => Some("decimal128(18,2)"),
        "bytes" | "blob" | "varbinary" => Some("binary"),
        "object" | "record" | "row" => Some("struct"),
        "array" => Some("list"),
        "jsonb" | "any" | "variant" | "map" => Some("json"),
        other => crate::diagnostic::did_you_mean(other, TYPES.into_iter().chain(["struct", "list"])),
    }
}
