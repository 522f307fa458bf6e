//! HTTP on loopback: `/livez`, `/readyz`, `/metrics` (Prometheus text) and `/api/v1/status` (JSON). Reads only.
//!
//! Requests must name a loopback host (or the address that was configured) and must not come from a page of another one, so that
//! a web page elsewhere can't reach through a browser. They have no body, and each has a connection of its own that ends soon
//! ([`door`]). The pipelines have threads of their own and depend on none of this.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use self::door::Door;
use crate::pipeline::health::{FileState, Health, Snapshot, State as PipelineState};

mod door;

/// Serves until the process ends.
pub async fn serve(listener: tokio::net::TcpListener, health: Vec<Health>) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    axum::serve(Door::new(listener), router(address, health)).await
}

fn router(address: SocketAddr, health: Vec<Health>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .layer(middleware::from_fn(move |request: Request, next: Next| async move {
            let mut response = match refusal(request.headers(), address) {
                Some(status) => status.into_response(),
                None => next.run(request).await,
            };
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }))
        .with_state(health)
}

/// Why a request isn't looked at, if it isn't.
fn refusal(headers: &HeaderMap, address: SocketAddr) -> Option<StatusCode> {
    let texts = |name| headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or_default());
    let known = |host: &str| known_host(host, address);
    let from_a_known_page = |origin: &str| origin.split_once("://").is_some_and(|(_, host)| known(host));
    if texts(header::HOST).count() != 1 || !texts(header::HOST).all(known) {
        return Some(StatusCode::FORBIDDEN);
    }
    if !texts(header::ORIGIN).all(from_a_known_page) {
        return Some(StatusCode::FORBIDDEN);
    }
    let has_body =
        headers.contains_key(header::TRANSFER_ENCODING) || texts(header::CONTENT_LENGTH).any(|length| length != "0");
    has_body.then_some(StatusCode::PAYLOAD_TOO_LARGE)
}

/// Whether `host`, with or without a port, is this machine or the address that is listened on.
fn known_host(host: &str, address: SocketAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let known = |ip: IpAddr| ip.is_loopback() || ip == address.ip();
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(known))
}

/// 200 while every pipeline is running; else 503 with the reasons.
async fn ready(State(health): State<Vec<Health>>) -> Response {
    let waiting: Vec<String> = snapshots(&health)
        .into_iter()
        .filter(|snapshot| snapshot.state != PipelineState::Running || !snapshot.halted.is_empty())
        .map(|snapshot| {
            format!("{}: {:?} since {} {}", snapshot.pipeline, snapshot.state, snapshot.since, snapshot.reason)
        })
        .collect();
    if waiting.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response()
    }
}

async fn status(State(health): State<Vec<Health>>) -> Json<Vec<Snapshot>> {
    Json(snapshots(&health))
}

fn snapshots(health: &[Health]) -> Vec<Snapshot> {
    health.iter().map(Health::snapshot).collect()
}

/// Name, type, meaning, value: everything `/metrics` shows.
type Figure = (&'static str, &'static str, &'static str, fn(&Snapshot) -> Option<f64>);

const FIGURES: [Figure; 16] = [
    ("afterimage_up", "gauge", "1 while the pipeline is running", |s| {
        Some(f64::from(s.state == PipelineState::Running))
    }),
    ("afterimage_partitions_owned", "gauge", "partitions owned by this instance", |s| Some(s.owned.len() as f64)),
    ("afterimage_partitions_halted", "gauge", "partitions halted until an operator acts", |s| {
        Some(s.halted.len() as f64)
    }),
    ("afterimage_records_read_total", "counter", "records read", |s| Some(s.totals.read as f64)),
    ("afterimage_records_ignored_total", "counter", "records without a change", |s| Some(s.totals.ignored as f64)),
    ("afterimage_records_refused", "gauge", "records refused since the start, less those resolved", |s| {
        Some(s.totals.refused as f64)
    }),
    ("afterimage_records_held", "gauge", "records held since the start, less those that went on", |s| {
        Some(s.totals.held as f64)
    }),
    ("afterimage_records_accepted_total", "counter", "records accepted", |s| Some(s.totals.accepted as f64)),
    ("afterimage_rows_upserted_total", "counter", "rows upserted", |s| Some(s.totals.upserted as f64)),
    ("afterimage_rows_deleted_total", "counter", "rows deleted", |s| Some(s.totals.deleted as f64)),
    ("afterimage_changes_superseded_total", "counter", "changes a newer version made void", |s| {
        Some(s.totals.superseded as f64)
    }),
    ("afterimage_transaction_retries_total", "counter", "transactions repeated", |s| Some(s.retries as f64)),
    ("afterimage_lag_records", "gauge", "records between positions and ends", |s| s.lag_records.map(|lag| lag as f64)),
    ("afterimage_freshness_seconds", "gauge", "age of the newest applied event", |s| {
        s.freshness_ms.map(|ms| ms as f64 / 1e3)
    }),
    ("afterimage_generation", "gauge", "generation of the definition that runs", |s| Some(s.generation as f64)),
    ("afterimage_reload_refused", "gauge", "1 while the files on disk are not what runs", |s| {
        Some(f64::from(s.reload.state != FileState::Current))
    }),
];

async fn metrics(State(health): State<Vec<Health>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], exposition(&snapshots(&health))).into_response()
}

fn exposition(snapshots: &[Snapshot]) -> String {
    let mut text = String::new();
    for (name, kind, meaning, value) in FIGURES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} {kind}");
        for snapshot in snapshots {
            if let Some(value) = value(snapshot) {
                let _ = writeln!(text, "{name}{{pipeline=\"{}\"}} {value}", snapshot.pipeline);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(headers: &[(header::HeaderName, &str)], address: &str) -> Option<StatusCode> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        refusal(&map, address.parse().unwrap())
    }

    // Proves: R63
    #[test]
    fn a_request_for_another_host_is_refused() {
        let status = |host: &str, listen: &str| status_of(&[(header::HOST, host)], listen);
        for host in ["127.0.0.1:9190", "127.0.0.1", "localhost", "LocalHost:80", "[::1]:9190", "[::1]"] {
            assert_eq!(status(host, "127.0.0.1:9190"), None, "{host}");
        }
        assert_eq!(status("[fd00::7]:9190", "[fd00::7]:9190"), None);
        assert_eq!(status("10.1.2.3:9190", "10.1.2.3:9190"), None);
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "10.1.2.3",
            "localhost:80@evil.example",
            "",
            ":",
            "[::1",
            "[::1]evil",
            "localhost.",
            "127.0.0.1:9190:evil",
        ] {
            assert_eq!(status(host, "127.0.0.1:9190"), Some(StatusCode::FORBIDDEN), "{host}");
        }
        let twice = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(status_of(&twice, "127.0.0.1:9190"), Some(StatusCode::FORBIDDEN));
        assert_eq!(status_of(&[], "127.0.0.1:9190"), Some(StatusCode::FORBIDDEN));
    }

    // Proves: R63
    #[test]
    fn a_page_of_another_host_and_a_body_are_refused() {
        let status = |name: header::HeaderName, value: &str| {
            status_of(&[(header::HOST, "localhost"), (name, value)], "127.0.0.1:9190")
        };
        assert_eq!(status(header::ORIGIN, "http://localhost:9190"), None);
        assert_eq!(status(header::ORIGIN, "https://evil.example"), Some(StatusCode::FORBIDDEN));
        assert_eq!(status(header::ORIGIN, "null"), Some(StatusCode::FORBIDDEN));
        assert_eq!(status(header::CONTENT_LENGTH, "0"), None);
        assert_eq!(status(header::CONTENT_LENGTH, "1073741824"), Some(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(status(header::TRANSFER_ENCODING, "chunked"), Some(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn every_figure_is_there_for_every_pipeline() {
        let text = exposition(&[Health::new("users").snapshot()]);
        assert!(text.contains("afterimage_up{pipeline=\"users\"} 0"));
        // Lag and freshness are unknown at first: no number is better than a wrong one.
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), FIGURES.len() - 2);
    }
}
