//! Durations, sizes and shares as people write them: a number, perhaps with a fraction, and a unit.
//!
//! A number without a unit is refused, and so is a unit that would have to be guessed.

use std::time::Duration;

use crate::diagnostic::did_you_mean;

/// Why a text is no quantity, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFault {
    pub what: String,
    pub help: String,
}

/// Unit, other names people try for it, nanoseconds.
const DURATIONS: &[(&str, &[&str], u128)] = &[
    ("ns", &["nanos", "nanosecond", "nanoseconds"], 1),
    ("us", &["µs", "micros", "microsecond", "microseconds"], 1_000),
    ("ms", &["millis", "msec", "millisecond", "milliseconds"], 1_000_000),
    ("s", &["sec", "secs", "second", "seconds"], 1_000_000_000),
    ("m", &["min", "mins", "minute", "minutes"], 60_000_000_000),
    ("h", &["hr", "hrs", "hour", "hours"], 3_600_000_000_000),
    ("d", &["day", "days"], 86_400_000_000_000),
];

/// Unit, other names people try for it, bytes.
const SIZES: &[(&str, &[&str], u128)] = &[
    ("B", &["b", "byte", "bytes"], 1),
    ("kB", &["k", "K", "kb", "KB"], 1_000),
    ("MB", &["m", "M", "mb", "Mb"], 1_000_000),
    ("GB", &["g", "G", "gb", "Gb"], 1_000_000_000),
    ("KiB", &["Ki", "kib", "kiB"], 1 << 10),
    ("MiB", &["Mi", "mib", "miB"], 1 << 20),
    ("GiB", &["Gi", "gib", "giB"], 1 << 30),
];

const DURATION_HELP: &str = "durations are written like \"5ms\"; units: ns, us, ms, s, m, h, d";
const SIZE_HELP: &str = "sizes are written like \"32MiB\"; units: B, kB, MB, GB, KiB, MiB, GiB";

/// `"5ms"`, `"1.5h"`, `"7d"`.
pub fn duration(text: &str) -> Result<Duration, UnitFault> {
    let nanoseconds = quantity(text, "duration", DURATIONS, DURATION_HELP)?;
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| UnitFault { what: format!("\"{text}\" is longer than 500 years"), help: DURATION_HELP.to_owned() })
}

/// `"32MiB"`, `"64kB"`, in bytes.
pub fn size(text: &str) -> Result<usize, UnitFault> {
    let bytes = quantity(text, "size", SIZES, SIZE_HELP)?;
    usize::try_from(bytes)
        .map_err(|_| UnitFault { what: format!("\"{text}\" is too large"), help: SIZE_HELP.to_owned() })
}

/// `"50%"` as 0.5; from 0 to 100 %.
pub fn share(text: &str) -> Result<f64, UnitFault> {
    let fault = |what: String| UnitFault { what, help: "shares are written like \"50%\" or \"0.5%\"".to_owned() };
    let Some(number) = text.trim().strip_suffix('%') else {
        return Err(fault(format!("\"{text}\" has no percent sign")));
    };
    match decimal(number.trim()) {
        Some((digits, scale)) => {
            let percent = digits as f64 / 10f64.powi(i32::try_from(scale).unwrap_or(i32::MAX));
            if percent > 100.0 { Err(fault(format!("\"{text}\" is more than the whole"))) } else { Ok(percent / 100.0) }
        }
        None => Err(fault(format!("\"{text}\" is no share"))),
    }
}

fn quantity(text: &str, noun: &str, units: &[(&str, &[&str], u128)], help: &str) -> Result<u128, UnitFault> {
    let fault = |what: String| UnitFault { what, help: help.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    let Some((number, scale)) = decimal(number) else {
        return Err(fault(format!("\"{text}\" is no {noun}")));
    };
    if unit.is_empty() {
        return Err(fault(format!("\"{text}\" has no unit")));
    }
    let Some((_, _, factor)) = units.iter().find(|(name, _, _)| *name == unit) else {
        let mut unknown = fault(format!("unknown unit \"{unit}\" in \"{text}\""));
        if let Some(meant) = meant_unit(unit, units) {
            unknown.help = format!("did you mean \"{meant}\"? {help}");
        }
        return Err(unknown);
    };
    let divisor = 10u128.checked_pow(scale);
    match (number.checked_mul(*factor), divisor) {
        (Some(value), Some(divisor)) if value % divisor == 0 => Ok(value / divisor),
        (Some(_), Some(_)) => Err(fault(format!("\"{text}\" is finer than the smallest unit"))),
        _ => Err(fault(format!("\"{text}\" is too large"))),
    }
}

/// The unit whose names are most like `given`.
fn meant_unit<'a>(given: &str, units: &[(&'a str, &[&'a str], u128)]) -> Option<&'a str> {
    let named = |wanted: &str| units.iter().find(|(_, others, _)| others.contains(&wanted)).map(|(name, _, _)| *name);
    named(given).or_else(|| {
        let all = units.iter().flat_map(|(_, others, _)| others.iter().copied()).filter(|name| name.len() > 1);
        did_you_mean(given, all).and_then(named)
    })
}

/// Digits without the point, and how many of them stood behind it.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let point = text.contains('.');
    if whole.is_empty() || (point && fraction.is_empty()) {
        return None;
    }
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, u32::try_from(fraction.len()).ok()?))
}

/// A duration in the largest unit that leaves a whole number: `90s`, `7d`.
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let unit = DURATIONS.iter().rev().find(|(_, _, factor)| nanoseconds.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{nanoseconds}ns"), |(name, _, factor)| format!("{}{name}", nanoseconds / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        let read = |text| duration(text).unwrap();
        assert_eq!(read("250ns"), Duration::from_nanos(250));
        assert_eq!(read("7us"), Duration::from_micros(7));
        assert_eq!(read("5ms"), Duration::from_millis(5));
        assert_eq!(read("60s"), Duration::from_secs(60));
        assert_eq!(read("2 m"), Duration::from_secs(120));
        assert_eq!(read("1.5h"), Duration::from_secs(5400));
        assert_eq!(read("7d"), Duration::from_secs(604_800));
        assert_eq!(read("0s"), Duration::ZERO);
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        let read = |text| size(text).unwrap();
        assert_eq!(read("12B"), 12);
        assert_eq!(read("64kB"), 64_000);
        assert_eq!(read("1.5MB"), 1_500_000);
        assert_eq!(read("2GB"), 2_000_000_000);
        assert_eq!(read("4KiB"), 4096);
        assert_eq!(read("32MiB"), 32 << 20);
        assert_eq!(read("1GiB"), 1 << 30);
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share("50%").unwrap(), 0.5);
        assert_eq!(share("0.5 %").unwrap(), 0.005);
        assert_eq!(share("100%").unwrap(), 1.0);
        for bad in ["", "%", "50", "0.5", "101%", "-1%", "x%", "1.%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_unit_is_named_and_the_right_one_suggested() {
        let fault = duration("5 minuts").unwrap_err();
        assert_eq!(fault.what, "unknown unit \"minuts\" in \"5 minuts\"");
        assert!(fault.help.starts_with("did you mean \"m\"? "), "{}", fault.help);
        assert!(size("32mb").unwrap_err().help.starts_with("did you mean \"MB\"? "));
        assert!(duration("5 parsecs").is_err());
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "5", "ms", "-5ms", "1e3s", "1,5h", "1.s", ".5s", "1..5s", "5ms5", "0.5ns", "99999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "0.3B", "-1B", "99999999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_as_itself(nanoseconds in 0u64..=u64::MAX) {
            let given = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(duration(&show_duration(given)).unwrap(), given);
        }

        #[test]
        fn no_text_panics(text in "[0-9.smhd%KMGiB \u{b5}-]{0,12}") {
            let _ = (duration(&text), size(&text), share(&text));
        }
    }
}
