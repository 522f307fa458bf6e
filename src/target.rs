//! The target table as its server describes it: which columns it has and which values they hold exactly.
//!
//! The sink reads it from the server; where there is none (`check`, `preview`) or none yet (`migrate`) it follows from the
//! columns that the model `latest` yields. Values are judged by [`Column::refuses`] before they are sent, so that one user's
//! bad value is found without asking the server and independent of where batches were cut.

/// Most columns an index of MySQL can have.
pub const MAX_KEY_COLUMNS: usize = 16;

/// Names of the version columns in every target and tombstone table, most significant first.
pub const VERSION_COLUMNS: [&str; 3] = ["cdc_ts", "cdc_partition", "cdc_offset"];

/// A target table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub table: String,
    /// Key columns first, in the order of the config, then the others; without the version columns.
    pub columns: Vec<Column>,
    pub key_len: usize,
}

/// One column and what it can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// The column's type as DDL text, e.g. `varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`.
    pub ddl_type: String,
    pub holds: Holds,
    pub nullable: bool,
}

/// What a column holds exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Text of at most so many characters and so many bytes.
    Text {
        max_chars: u64,
        max_bytes: u64,
    },
    /// Bytes, at most so many.
    Bytes {
        max_bytes: u64,
    },
    /// Whole numbers from `min` to `max`.
    Int {
        min: i128,
        max: i128,
    },
    /// `DECIMAL(precision, scale)`.
    Decimal {
        precision: u8,
        scale: u8,
    },
    Float,
    Double,
    Bool,
    Date,
    /// `DATETIME`/`TIMESTAMP` with so many digits after the second.
    DateTime {
        digits: u8,
    },
    Time {
        digits: u8,
    },
    /// JSON in MySQL's own form: numbers are 64 bits wide or doubles, members are sorted, and each is there once.
    Json,
    /// Text that must be JSON, kept as it is: MariaDB's JSON.
    JsonText,
    /// Anything else: only the server can tell.
    Other,
}

impl Target {
    pub fn keys(&self) -> &[Column] {
        self.columns.get(..self.key_len).unwrap_or_default()
    }

    pub fn data(&self) -> &[Column] {
        self.columns.get(self.key_len..).unwrap_or_default()
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}
