//! `run`: the service, until it is told to stop or every pipeline has ended.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, RunArgs, load};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pipeline::Ended;
use crate::service::Service;
use crate::{http, telemetry};

pub async fn run(args: &RunArgs) -> Exit {
    let config = match load::config(&args.config.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if let Err(error) = telemetry::start(&config.log) {
        return load::fail(&error);
    }
    // Heard from now on: a stop that is asked for while the models are planned is an orderly one, too.
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return load::fail(&error),
    };
    let mut service = match Service::start(&config, args.until_caught_up).await {
        Ok(service) => service,
        Err(faults) => {
            load::show(&faults);
            return Exit::Config;
        }
    };
    serve_http(&config, &service).await;
    attend(&mut service, &mut signals).await
}

/// Requests to stop, and to look at the files.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::new(Kind::Bug, "cannot listen for signals").source(error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// Waits for the pipelines to end, and for signals.
async fn attend(service: &mut Service, signals: &mut Signals) -> Exit {
    let mut worst = Exit::Done;
    let mut asked = false;
    loop {
        let signalled = tokio::select! {
            ended = service.next_ended() => {
                let Some((pipeline, outcome)) = ended else { return worst };
                worst = worse(worst, &pipeline, outcome);
                continue;
            }
            _ = signals.hangup.recv() => {
                tracing::info!("SIGHUP: looking at the files of all pipelines");
                service.look();
                continue;
            }
            _ = signals.terminate.recv() => "SIGTERM",
            _ = signals.interrupt.recv() => "SIGINT",
        };
        if asked {
            tracing::warn!(signal = signalled, "second request to stop: ending at once");
            return Exit::Forced;
        }
        asked = true;
        let grace = service.stop();
        tracing::info!(
            signal = signalled,
            ?grace,
            "stopping: open transactions may finish; a second signal ends at once"
        );
    }
}

fn worse(worst: Exit, pipeline: &str, outcome: Result<Ended>) -> Exit {
    let exit = match outcome {
        Ok(Ended::Stopped | Ended::CaughtUp) => Exit::Done,
        Err(error) => {
            tracing::error!(pipeline, reason = %error, "pipeline stopped");
            Exit::of(&error)
        }
    };
    if exit as u8 > worst as u8 { exit } else { worst }
}

/// A port that is taken costs the endpoint, not the service.
async fn serve_http(config: &Config, service: &Service) {
    if !config.http.enabled {
        return;
    }
    match tokio::net::TcpListener::bind(config.http.listen).await {
        Ok(listener) => {
            tracing::info!(listen = %config.http.listen, "serving /metrics, /livez, /readyz, /api/v1/status");
            let health = service.health.clone();
            tokio::spawn(async move {
                if let Err(error) = http::serve(listener, health).await {
                    tracing::error!(reason = %error, "HTTP ended; the pipelines go on");
                }
            });
        }
        Err(error) => {
            tracing::warn!(listen = %config.http.listen, reason = %error, "no HTTP: cannot listen; set [http] listen to another address");
        }
    }
}
