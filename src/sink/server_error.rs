//! What a server's error code means for the transaction it struck.
//!
//! A closed list: a code that isn't on it is treated as something an operator must look at, never as a bad row (P5). InnoDB
//! rolls back different amounts for different errors, so whatever the class, the whole transaction is rolled back and repeated.

use crate::error::Kind;

/// What an error says about the transaction and the connection it struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Deadlock, lock wait, snapshot conflict: repeat the transaction on the same connection.
    Contention,
    /// The server has no room (disk, memory, connections) or isn't ready: wait, then repeat.
    Exhausted,
    /// The server is not the writer, shutting down, or this session was ended: repeat on a new connection.
    Disconnect,
    /// A row's values are at fault, if the statement carried rows.
    Row,
    /// Privileges, missing tables or columns, limits: an operator mends it, then it goes on by itself.
    Operator,
}

impl Class {
    pub fn kind(self) -> Kind {
        match self {
            Self::Contention => Kind::SinkContention,
            Self::Exhausted | Self::Disconnect => Kind::SinkUnavailable,
            Self::Row => Kind::RowRefused,
            Self::Operator => Kind::SinkConfig,
        }
    }
}

/// Classifies a server error code. Sources: the InnoDB error handling chapter for what is rolled back, both servers' error
/// references for the numbers, and the driver's habit of calling every server error harmless for the connection.
pub fn classify(code: u16) -> Class {
    match code {
        // Deadlock, lock wait timeout, snapshot changed (MariaDB), rolled back at commit by replication, NOWAIT lock, statement
        // must be prepared again, table definition changed under the transaction.
        1213 | 1205 | 1020 | 3101 | 3572 | 1615 | 1412 => Class::Contention,
        // Too many connections or resources, out of memory, disk or table full, cluster node not ready.
        1040 | 1203 | 1226 | 1037 | 1038 | 1041 | 1021 | 1114 | 1026 | 3 | 1047 | 1297 => Class::Exhausted,
        // Read-only in its four spellings, replication hook, shutting down, killed, interrupted, network errors, error at
        // commit, binary log impossible, idle too long.
        1290
        | 1836
        | 1792
        | 1874
        | 3100
        | 1053
        | 1077..=1080
        | 1152
        | 1158..=1161
        | 1927
        | 3169
        | 4031
        | 1317
        | 1180
        | 1598 => Class::Disconnect,
        // Too long, out of range, incorrect value, bad date or number, NULL, no default, truncated, overflow, JSON, CHECK on
        // either server, foreign keys, duplicate in another unique key, SIGNAL in a trigger, row too large, invalid text, no partition
        // of the table for the value.
        1406 | 1264 | 1366 | 1292 | 1048 | 1364 | 1263 | 1265 | 1441 | 1690 | 3140 | 3141 | 3156 | 3819 | 4025
        | 1452 | 1451 | 1062 | 1644 | 1118 | 1300 | 1261 | 1262 | 1411 | 1526 => Class::Row,
        _ => Class::Operator,
    }
}

/// The server's own code for a statement or a row beyond `max_allowed_packet`.
pub const PACKET_TOO_LARGE: u16 = 1153;

/// Whether the code says no more than that an `ALTER TABLE` can't be run with the algorithm or lock that it names.
pub fn refuses_algorithm(code: u16) -> bool {
    matches!(code, 1845 | 1846)
}

/// Whether the code says no more than that this session may not use `LOAD DATA LOCAL`.
pub fn refuses_local_infile(code: u16) -> bool {
    matches!(code, 3948 | 4166 | 1148)
}

/// Whether the code says no more than that a statement can't be prepared here, or not any more: not supported, too many of them or too
/// many parameters, arguments that aren't understood, a statement unknown to who stands behind a proxy.
pub fn refuses_prepared(code: u16) -> bool {
    matches!(code, 1210 | 1243 | 1295 | 1390 | 1461)
}

/// Whether an error's message quotes names of accounts, tables, columns and settings, and never a value of a row.
pub fn is_about_names(code: u16) -> bool {
    matches!(
        code,
        1044 | 1045
            | 1049
            | 1054
            | 1091
            | 1130
            | 1136
            | 1142
            | 1143
            | 1146
            | 1148
            | 1227
            | 1305
            | 1356
            | 1370
            | 1449
            | 1665
            | 1698
            | 3948
            | 4166
            | PACKET_TOO_LARGE
    )
}

/// What the operator can do about an error of class [`Class::Operator`], where there is something definite to say.
pub fn remedy(code: u16) -> &'static str {
    match code {
        1044 | 1045 | 1142 | 1143 | 1227 | 1698 => {
            "grant the account what docs/operations.md lists, or correct its password"
        }
        1049 | 1146 => "run `afterimage migrate`",
        1054 | 1136 => "the table no longer has the columns that the models yield: run `afterimage check --online`",
        PACKET_TOO_LARGE => "raise max_allowed_packet on the server above twice the largest record",
        1665 => "set binlog_format=ROW on the server",
        _ => "see the server's error reference; the service goes on by itself once it is mended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sick_server_is_never_a_bad_row() {
        for code in [1290, 1836, 1792, 1114, 1021, 1040, 1053, 1927, 3169, 1142, 1146, 1054, 1153, 9999] {
            assert_ne!(classify(code), Class::Row, "{code}");
        }
    }

    #[test]
    fn an_unknown_code_waits_for_an_operator() {
        assert_eq!(classify(65_000), Class::Operator);
    }
}
