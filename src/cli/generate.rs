//! `generate`: made-up changes of users, into a file or a topic. The same arguments make the same events.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::{Exit, GenerateArgs, load};
use crate::diagnostic::did_you_mean;
use crate::error::{Error, Kind, Result};
use crate::generate::{self, Mix, Workload};

pub async fn run(args: &GenerateArgs) -> Exit {
    let mix = match mix(&args.shares) {
        Ok(mix) => mix,
        Err(error) => return load::fail(&error),
    };
    let workload = Workload {
        events: args.events,
        users: args.users,
        partitions: args.partitions,
        seed: args.seed,
        mix,
        ..Workload::default()
    };
    let done = match (&args.out, &args.topic) {
        (Some(out), _) => write(out, &workload),
        (None, Some(topic)) => return send(args, topic, workload).await,
        (None, None) => Ok(0),
    };
    finish(done)
}

fn finish(done: Result<u64>) -> Exit {
    match done {
        Ok(count) => {
            warn_user!("{count} events");
            Exit::Done
        }
        Err(error) => load::fail(&error),
    }
}

fn write(out: &Path, workload: &Workload) -> Result<u64> {
    let failed = |error| Error::new(Kind::Config, format!("cannot write {}", out.display())).source(error);
    if out == Path::new("-") {
        return generate::write_ndjson(std::io::stdout().lock(), workload.records()).map_err(failed);
    }
    let mut file = BufWriter::new(std::fs::File::create(out).map_err(failed)?);
    let count = generate::write_ndjson(&mut file, workload.records()).map_err(failed)?;
    file.flush().map_err(failed)?;
    Ok(count)
}

async fn send(args: &GenerateArgs, topic: &str, workload: Workload) -> Exit {
    let (brokers, properties) = match &args.brokers {
        Some(brokers) => (brokers.clone(), BTreeMap::new()),
        None => match load::config(&args.config) {
            Ok(config) => (config.kafka.brokers.clone(), config.kafka.properties.expose().clone()),
            Err(exit) => return exit,
        },
    };
    let (topic, rate) = (topic.to_owned(), args.rate);
    let sending = tokio::task::spawn_blocking(move || {
        generate::produce(&brokers, &topic, &properties, workload.records(), rate, |_| ())
    });
    match sending.await {
        Ok(done) => finish(done),
        Err(error) => load::fail(&Error::new(Kind::Bug, "the producer's thread died").source(error)),
    }
}

/// The usual mix with the named shares replaced.
fn mix(shares: &[(String, f64)]) -> Result<Mix> {
    const KINDS: [&str; 12] = [
        "delete",
        "key_change",
        "late",
        "equal_ts",
        "duplicate",
        "null_value",
        "unknown_field",
        "unknown_country",
        "too_long",
        "future",
        "malformed",
        "troubled_users",
    ];
    let mut mix = Mix::default();
    for (name, share) in shares {
        let field = match name.as_str() {
            "delete" => &mut mix.delete,
            "key_change" => &mut mix.key_change,
            "late" => &mut mix.late,
            "equal_ts" => &mut mix.equal_ts,
            "duplicate" => &mut mix.duplicate,
            "null_value" => &mut mix.null_value,
            "unknown_field" => &mut mix.unknown_field,
            "unknown_country" => &mut mix.unknown_country,
            "too_long" => &mut mix.too_long,
            "future" => &mut mix.future,
            "malformed" => &mut mix.malformed,
            "troubled_users" => &mut mix.troubled_users,
            other => {
                let help = match did_you_mean(other, KINDS) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("kinds are {}", KINDS.join(", ")),
                };
                return Err(Error::new(Kind::Config, format!("there is no kind of events {other:?}")).remedy(help));
            }
        };
        *field = *share;
    }
    Ok(mix)
}
