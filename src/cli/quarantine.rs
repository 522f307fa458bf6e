//! `quarantine list|show|retry|discard`: looks at refused and held events, and marks what the owning instance shall do.

use super::{
    Exit, Format, QuarantineCommand, QuarantineListArgs, QuarantineMarkArgs, QuarantineShowArgs, QuarantineState, load,
};
use crate::diagnostic::printable;
use crate::position::Position;
use crate::sink::status::{self, QuarantineEntry, Selection};

pub async fn run(command: &QuarantineCommand) -> Exit {
    let done = match command {
        QuarantineCommand::List(args) => list(args).await,
        QuarantineCommand::Show(args) => show(args).await,
        QuarantineCommand::Retry(args) => mark(args, "retry", &["refused"]).await,
        QuarantineCommand::Discard(args) => mark(args, "discard", &["refused", "retry"]).await,
    };
    done.map_or_else(|exit| exit, |()| Exit::Done)
}

fn position(partition: Option<i32>, offset: Option<i64>) -> Option<Position> {
    Some(Position { partition: partition?, offset: offset? })
}

async fn list(args: &QuarantineListArgs) -> Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let mut session = load::session(&config).await?;
    let selection = Selection {
        key: args.key.clone(),
        position: position(args.partition, args.offset),
        partition: args.partition,
        states: match args.state {
            Some(state) => vec![name(state).to_owned()],
            // What is settled is history, shown on request.
            None => ["refused", "held", "retry", "discard"].map(str::to_owned).to_vec(),
        },
        stage: None,
    };
    let chosen = config.pipelines.keys().filter(|name| args.pipeline.as_ref().is_none_or(|wanted| wanted == *name));
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    for pipeline in chosen {
        let entries = status::quarantined(&mut session, pipeline, &selection, limit, false)
            .await
            .map_err(|error| load::fail(&error))?;
        print_entries(pipeline, &entries, args.format);
    }
    Ok(())
}

async fn show(args: &QuarantineShowArgs) -> Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?.name.clone();
    let mut session = load::session(&config).await?;
    let selection = Selection { position: position(Some(args.partition), Some(args.offset)), ..Selection::default() };
    let entries =
        status::quarantined(&mut session, &pipeline, &selection, 1, true).await.map_err(|error| load::fail(&error))?;
    let Some(entry) = entries.first() else {
        warn_user!("error: nothing of partition {} offset {} is in quarantine", args.partition, args.offset);
        return Err(Exit::Faulty);
    };
    match args.format {
        Format::Json => print_entries(&pipeline, &entries, Format::Json),
        Format::Text => {
            say!(
                "partition {} offset {}: {} ({} attempts)",
                entry.partition,
                entry.offset,
                entry.state,
                entry.attempts
            );
            say!("stage     {} {} {}", entry.stage, entry.model, printable(&entry.column));
            say!("reason    {}", printable(&entry.reason));
            say!("keys      {}", printable(&entry.keys));
            say!("attempts  first {}, last {}", entry.first_attempt, entry.last_attempt);
            say!("value     {}", printable(entry.value.as_deref().unwrap_or("(null)")));
        }
    }
    Ok(())
}

async fn mark(args: &QuarantineMarkArgs, state: &str, from: &[&str]) -> Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?.name.clone();
    let mut session = load::session(&config).await?;
    let mut from: Vec<String> = from.iter().map(|state| (*state).to_owned()).collect();
    if args.offset.is_some() && state == "discard" {
        // What merely waits is given up only where it is named itself.
        from.push("held".to_owned());
    }
    let selection = Selection {
        key: args.key.clone(),
        position: position(args.partition, args.offset),
        partition: args.partition,
        states: from,
        stage: None,
    };
    let marked = status::mark(&mut session, &pipeline, &selection, state).await.map_err(|error| load::fail(&error))?;
    say!(
        "{marked} records marked {state}; the running instance that owns their partitions does the rest within seconds"
    );
    Ok(())
}

fn name(state: QuarantineState) -> &'static str {
    match state {
        QuarantineState::Refused => "refused",
        QuarantineState::Retry => "retry",
        QuarantineState::Held => "held",
        QuarantineState::Resolved => "resolved",
        QuarantineState::Discarded => "discarded",
    }
}

fn print_entries(pipeline: &str, entries: &[QuarantineEntry], format: Format) {
    for entry in entries {
        match format {
            Format::Json => {
                let mut line = serde_json::to_value(entry).unwrap_or_default();
                if let Some(fields) = line.as_object_mut() {
                    fields.insert("pipeline".to_owned(), pipeline.into());
                }
                say!("{line}");
            }
            // Keys and reasons come from outside: nothing in them may drive the terminal.
            Format::Text => say!(
                "{pipeline} {}/{} {:<9} {:<7} {} {} {}",
                entry.partition,
                entry.offset,
                entry.state,
                entry.stage,
                printable(&entry.keys),
                printable(&entry.reason),
                entry.last_attempt
            ),
        }
    }
}
