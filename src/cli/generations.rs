//! `generations`: which versions of a pipeline's definition have been in use, and going back to one on purpose.

use super::{Exit, Format, GenerationsArgs, GenerationsCommand, load};
use crate::config::{self, Config};
use crate::service;
use crate::sink::generations::{self, Grounds, Registered};

pub async fn run(args: &GenerationsArgs) -> Exit {
    let done = match &args.command {
        None => list(args).await,
        Some(GenerationsCommand::Adopt(args)) => match load::config(&args.config.config) {
            Ok(config) => adopt(&config, args.pipeline.as_deref()).await,
            Err(exit) => Err(exit),
        },
    };
    done.map_or_else(|exit| exit, |()| Exit::Done)
}

async fn list(args: &GenerationsArgs) -> Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let chosen: Vec<&config::Pipeline> = match &args.pipeline {
        Some(name) => vec![load::pipeline(&config, Some(name))?],
        None => config.pipelines.values().collect(),
    };
    let mut session = load::session(&config).await?;
    for pipeline in chosen {
        let name = &pipeline.name;
        let entries = generations::list(&mut session, name).await.map_err(|error| load::fail(&error))?;
        let here = service::fingerprint(pipeline).to_string();
        if args.format == Format::Json {
            for entry in entries {
                let here = entry.fingerprint == here;
                say!("{}", serde_json::json!({ "pipeline": name, "entry": entry, "here": here }));
            }
            continue;
        }
        say!("pipeline {name}; the files here are {}", here.get(..12).unwrap_or_default());
        say!("  {:>10}  {:<12}  {:<26}  {:>10}  by", "generation", "fingerprint", "first seen (UTC)", "wrote last");
        for entry in entries {
            say!(
                "  {:>10}  {:<12}  {:<26}  {:>10}  {}{}",
                entry.generation,
                entry.fingerprint.get(..12).unwrap_or_default(),
                entry.first_seen,
                format!("{} part.", entry.wrote_last),
                entry.instance,
                if entry.fingerprint == here { "  (these files)" } else { "" },
            );
        }
    }
    Ok(())
}

/// Makes what the files here say the newest generation: instances that have them go on, all others stop writing.
async fn adopt(config: &Config, name: Option<&str>) -> Result<(), Exit> {
    let pipeline = load::pipeline(config, name)?;
    let definition = service::define(config, pipeline).await.map_err(|faults| {
        load::show(&faults);
        Exit::Config
    })?;
    let mut session = load::session(config).await?;
    let owner = service::owner(pipeline);
    let done = owner.register(&mut session, &definition.marks, Grounds::Adoption).await;
    let name = &pipeline.name;
    match done.map_err(|error| load::fail(&error))? {
        Registered::Known(generation) => {
            say!("pipeline {name}: these files are generation {} already, the newest", generation.number);
        }
        Registered::New(generation) => {
            say!(
                "pipeline {name}: these files are generation {} now; instances with other files write nothing any more",
                generation.number
            );
        }
        // An adoption is never refused.
        Registered::Outdated { .. } => return Err(Exit::Bug),
    }
    Ok(())
}
