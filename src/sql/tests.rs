//! Tests of the station.
