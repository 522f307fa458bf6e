//! The new pipeline's part of `afterimage.toml`.

use std::fmt::Write;
use std::path::Path;

use super::{Column, Wish};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// What a config begins with where there is none yet.
pub(super) const HEAD: &str = "\
# Every key, with its default, is described in docs/config.md. `afterimage check` finds what is wrong, all at once.

[kafka]
brokers = \"127.0.0.1:9092\"

[mysql]
url = \"mysql://app:${MYSQL_PASSWORD:-}@127.0.0.1:3306/app\"
";

/// The text of the config that is there. Refused: one that can't be read, and one that has the pipeline already.
pub(super) fn existing(path: &Path, name: &str) -> Result<Option<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let what = format!("can't read {}", path.display());
            return Err(Error::new(Kind::Config, what).remedy("name a config with --config").source(error));
        }
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Error::new(Kind::Config, format!("{} is not TOML: {}", path.display(), error.message()))
            .remedy("mend it first: `afterimage check` shows the place")
    })?;
    if table.get("pipelines").and_then(|pipelines| pipelines.get(name)).is_some() {
        return Err(Error::new(Kind::Config, format!("{} has a pipeline {name} already", path.display()))
            .remedy("choose another name"));
    }
    Ok(Some(text))
}

/// `[pipelines.<name>]` with all that has no default.
pub(super) fn section(wish: &Wish, columns: &[Column], timestamp_unit: &str) -> String {
    let topic = wish.topic.clone().unwrap_or_else(|| format!("{}_cdc", wish.name));
    let table = wish.table.clone().unwrap_or_else(|| wish.name.replace('-', "_"));
    let key: Vec<String> = columns.iter().filter(|column| column.is_key).map(|column| quoted(&column.name)).collect();
    let mut section = format!(
        "\n# One pipeline keeps one topic as one table.\n[pipelines.{}]\ntopic = {}\ntable = {}\nkey = [{}]\n",
        wish.name,
        quoted(&topic),
        quoted(&table),
        key.join(", ")
    );
    if timestamp_unit != "ms" {
        // Writing to a String can't fail.
        let _ = writeln!(section, "timestamp_unit = \"{timestamp_unit}\"");
    }
    section
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// What to append to `text`, so that it stays a config with one more pipeline in it.
pub(super) fn appended(path: &Path, text: &str, section: &str) -> Result<String> {
    let more = if text.is_empty() || text.ends_with('\n') { section.to_owned() } else { format!("\n{section}") };
    // Faults that the config has already are no reason; one that is no TOML any more is.
    let whole = format!("{text}{more}");
    if whole.parse::<toml::Table>().is_err() {
        return Err(Error::new(Kind::Config, format!("a section can't be appended to {}", path.display()))
            .remedy(format!("its pipelines are written inline; add this by hand, then run init again:\n{section}")));
    }
    if let Err(faults) = Config::parse(&whole, path, &|_| Some(String::new())) {
        let before = Config::parse(text, path, &|_| Some(String::new())).err().unwrap_or_default();
        if let Some(fault) = faults.iter().find(|fault| !before.iter().any(|old| old.message == fault.message)) {
            let remedy = fault.help.clone().unwrap_or_else(|| "choose other names".to_owned());
            return Err(Error::new(Kind::Config, format!("with the new pipeline, {}", fault.message)).remedy(remedy));
        }
    }
    Ok(more)
}
