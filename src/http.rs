//! HTTP on loopback: `/livez`, `/readyz`, `/metrics` (Prometheus text) and `/api/v1/status` (JSON). Reads only.
//!
//! Requests must name a loopback host (or the address that was configured), so that a web page elsewhere can't reach through a
//! browser. The pipelines don't depend on any of this.

use std::fmt::Write;
use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::pipeline::health::{Health, Snapshot, State as PipelineState};

/// Serves until the process ends.
pub async fn serve(listener: tokio::net::TcpListener, health: Vec<Health>) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    axum::serve(listener, router(address, health)).await
}

fn router(address: SocketAddr, health: Vec<Health>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .layer(middleware::from_fn(move |headers: HeaderMap, request: Request, next: Next| async move {
            if known_host(&headers, address) { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() }
        }))
        .with_state(health)
}

fn known_host(headers: &HeaderMap, address: SocketAddr) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]") || name == address.ip().to_string()
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

const FIGURES: [Figure; 14] = [
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

    #[test]
    fn a_request_for_another_host_is_refused() {
        let address: SocketAddr = "127.0.0.1:9190".parse().unwrap();
        let host = |name: &str| HeaderMap::from_iter([(header::HOST, name.parse().unwrap())]);
        assert!(known_host(&host("127.0.0.1:9190"), address));
        assert!(known_host(&host("localhost"), address));
        assert!(!known_host(&host("evil.example"), address));
        assert!(!known_host(&HeaderMap::new(), address));
    }

    #[test]
    fn every_figure_is_there_for_every_pipeline() {
        let text = exposition(&[Health::new("users").snapshot()]);
        assert!(text.contains("afterimage_up{pipeline=\"users\"} 0"));
        // Lag and freshness are unknown at first: no number is better than a wrong one.
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), FIGURES.len() - 2);
    }
}
