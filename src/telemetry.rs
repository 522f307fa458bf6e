//! Where log lines go: standard error, as text or as one JSON object per line, times in UTC.
//!
//! Our own lines hold neither values of events nor secrets, at any level. Those of the libraries beneath are let through only
//! down to `info`, whatever is asked for: below that nobody has promised anything.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::{Log, LogFormat, LogLevel};
use crate::error::{Error, Kind, Result};

/// Overrules the level of the config, e.g. `info,afterimage::sink=debug`.
pub const FILTER_VARIABLE: &str = "AFTERIMAGE_LOG";

/// Starts logging for the whole process; once. Lines of ours are written from `log.level` on, those of the libraries beneath
/// from `warn` on. Errors with [`Kind::Config`] if the filter in the environment can't be read.
pub fn start(log: &Log) -> Result<()> {
    let filter = filter(log, std::env::var(FILTER_VARIABLE).ok().as_deref())?;
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    subscriber(log.format, filter, color, std::io::stderr)
        .try_init()
        .map_err(|error| Error::new(Kind::Bug, "logging was started twice").source(error))
}

fn filter(log: &Log, overrule: Option<&str>) -> Result<EnvFilter> {
    match overrule.filter(|text| !text.trim().is_empty()) {
        Some(text) => EnvFilter::try_new(text).map_err(|error| {
            Error::new(Kind::Config, format!("{FILTER_VARIABLE} is no filter"))
                .remedy("write it like info,afterimage::sink=debug")
                .source(error)
        }),
        None => Ok(EnvFilter::new(format!("warn,afterimage={}", level_name(log.level)))),
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    color: bool,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A log that can't be written (its disk is full, its reader is gone) must not stop the data: the default is to say so on standard
    // error, and to panic where that fails too.
    let lines = tracing_subscriber::fmt::layer().with_ansi(color).with_writer(writer).log_internal_errors(false);
    let filter = filter.and(filter_fn(|line| is_ours(line.target()) || *line.level() <= Level::INFO));
    match format {
        LogFormat::Text => Box::new(Registry::default().with(lines.with_filter(filter))),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            Box::new(Registry::default().with(lines.with_filter(filter)))
        }
    }
}

/// Lines of this crate, and those that it writes down for the Kafka client.
fn is_ours(target: &str) -> bool {
    target == "librdkafka" || target.split("::").next() == Some("afterimage")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: &Log, overrule: Option<&str>) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(log.format, filter(log, overrule).unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "afterimage::sink", partition = 3, "batch applied");
            tracing::debug!(target: "afterimage::sink", "detail");
            tracing::info!(target: "rdkafka", "noise");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_lines_have_fields_and_a_utc_time() {
        let lines = lines(&Log { format: LogFormat::Json, level: LogLevel::Info }, None);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["message"], "batch applied");
        assert_eq!(line["partition"], 3);
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    // Proves: P6
    #[test]
    fn libraries_say_nothing_below_info_whatever_is_asked_for() {
        let captured = Captured::default();
        let writer = captured.clone();
        let log = Log { format: LogFormat::Text, level: LogLevel::Info };
        let filter = filter(&log, Some("trace,datafusion=trace")).unwrap();
        let subscriber = subscriber(log.format, filter, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "afterimage::sink", "ours");
            tracing::debug!(target: "librdkafka", "client");
            tracing::info!(target: "datafusion::physical_plan", "library");
            tracing::debug!(target: "datafusion::physical_plan", "canary");
            tracing::trace!(target: "afterimagery", "canary");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(["ours", "client", "library"].iter().all(|line| text.contains(line)), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn the_level_is_ours_and_the_environment_overrules_it() {
        let log = Log { format: LogFormat::Text, level: LogLevel::Debug };
        assert_eq!(lines(&log, None).len(), 2);
        assert_eq!(lines(&log, Some("error")).len(), 0);
        assert_eq!(lines(&log, Some("info")).len(), 2, "libraries too");
        assert!(filter(&log, Some("afterimage=loud")).is_err());
    }
}
