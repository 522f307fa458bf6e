//! What most commands begin with: the config, or its faults on standard error; and a session at the database.

use std::io::IsTerminal;
use std::path::Path;

use super::Exit;
use crate::config::{Config, Pipeline, process_environment};
use crate::diagnostic::{Diagnostic, render};
use crate::error::Error;
use crate::service;
use crate::sink::session::Session;

/// Reads the config; shows its warnings, or its faults and ends the command.
pub(super) fn config(path: &Path) -> Result<Config, Exit> {
    match Config::load(path, &process_environment) {
        Ok((config, warnings)) => {
            show(&warnings);
            Ok(config)
        }
        Err(faults) => {
            show(&faults);
            Err(Exit::Config)
        }
    }
}

/// Shows faults on standard error.
pub(super) fn show(faults: &[Diagnostic]) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Nothing can be done about a standard error that is gone.
    let _ = render(faults, &mut std::io::stderr().lock(), color);
}

/// Shows an error and says how the command ends.
pub(super) fn fail(error: &Error) -> Exit {
    eprintln!("error: {error}");
    Exit::of(error)
}

/// The pipeline that is meant: the one named, or the only one.
pub(super) fn pipeline<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Pipeline, Exit> {
    let names: Vec<&str> = config.pipelines.keys().map(String::as_str).collect();
    let found = match (name, names.as_slice()) {
        (Some(name), _) => config.pipelines.get(name),
        (None, [_]) => config.pipelines.values().next(),
        (None, _) => None,
    };
    found.ok_or_else(|| {
        let wanted = name.map_or_else(
            || "name a pipeline with --pipeline".to_owned(),
            |name| format!("there is no pipeline {name}"),
        );
        eprintln!("error: {wanted}; the config has {}", names.join(", "));
        Exit::Config
    })
}

/// Connects with the config's account.
pub(super) async fn session(config: &Config) -> Result<Session, Exit> {
    service::connector(config).connect().await.map_err(|error| fail(&error))
}
