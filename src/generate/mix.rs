//! How lively a workload is: which share of its events is late, repeated, failing and so on.

/// Shares of all events, each from 0 to 1, together at most 1; the rest are plain creates and updates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    pub delete: f64,
    /// `before.userId` differs from `after.userId`.
    pub key_change: f64,
    /// Older than the user's newest event, after a delete too.
    pub late: f64,
    /// The same time as the user's newest event.
    pub equal_ts: f64,
    /// Exact repeats of an earlier event of the user.
    pub duplicate: f64,
    /// Kafka's tombstones.
    pub null_value: f64,
    /// Carrying a field that no schema knows.
    pub unknown_field: f64,
    /// From a country that the lookup doesn't know.
    pub unknown_country: f64,
    /// A name longer than 255 characters.
    pub too_long: f64,
    /// Two days ahead of their Kafka timestamp.
    pub future: f64,
    /// No event at all, in every way of [`Malformation`].
    pub malformed: f64,
    /// Share of users (not of events) from whom the failing events come.
    pub troubled_users: f64,
}

impl Default for Mix {
    /// A lively stream: everything happens, failures stay below one in a hundred.
    fn default() -> Self {
        Self {
            delete: 0.05,
            key_change: 0.01,
            late: 0.02,
            equal_ts: 0.01,
            duplicate: 0.02,
            null_value: 0.005,
            unknown_field: 0.01,
            unknown_country: 0.001,
            too_long: 0.0005,
            future: 0.0005,
            malformed: 0.001,
            troubled_users: 0.01,
        }
    }
}

impl Mix {
    /// Creates, updates and deletes in order, nothing that fails.
    pub fn orderly() -> Self {
        Self {
            delete: 0.05,
            key_change: 0.0,
            late: 0.0,
            equal_ts: 0.0,
            duplicate: 0.0,
            null_value: 0.0,
            unknown_field: 0.0,
            unknown_country: 0.0,
            too_long: 0.0,
            future: 0.0,
            malformed: 0.0,
            troubled_users: 0.0,
        }
    }

    /// Trouble everywhere: for tests with few users and many batches.
    pub fn harsh() -> Self {
        Self {
            delete: 0.12,
            key_change: 0.08,
            late: 0.1,
            equal_ts: 0.05,
            duplicate: 0.08,
            null_value: 0.03,
            unknown_field: 0.05,
            unknown_country: 0.01,
            too_long: 0.005,
            future: 0.005,
            malformed: 0.03,
            troubled_users: 0.15,
        }
    }
}
