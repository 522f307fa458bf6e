//! HTTP under attack: strangers get nothing, the impatient and the endless are shown out, and the data goes on flowing.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use afterimage::demo::server::free_port;
use afterimage::generate::Workload;

use super::{LONG, finish};
use crate::support::rig::{Rig, Variant};
use crate::support::servers;
use crate::support::web::{self, Answer};

/// Connections of the flood, and how many of them are open at once: several times what the service lets in.
const FLOOD: usize = 2_000;
const KEPT: usize = 300;
/// However busy the machine is, the service answers a decent client within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests that are refused, each with the answers that are right.
fn assert_refused(port: u16) {
    let host = format!("Host: 127.0.0.1:{port}");
    let long = "x".repeat(1 << 20);
    let many = "X-Header: x\r\n".repeat(5_000);
    let refused: [(&str, String, &[u16]); 19] = [
        ("a foreign host", "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), &[403]),
        (
            "a host that only looks like ours",
            "GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n".to_owned(),
            &[403],
        ),
        ("no host", "GET /metrics HTTP/1.0\r\n\r\n".to_owned(), &[400, 403]),
        ("two hosts", format!("GET /metrics HTTP/1.1\r\n{host}\r\nHost: evil.example\r\n\r\n"), &[400, 403]),
        (
            "a page of another host",
            format!("GET /api/v1/status HTTP/1.1\r\n{host}\r\nOrigin: https://evil.example\r\n\r\n"),
            &[403],
        ),
        ("a path upwards", format!("GET /../../etc/passwd HTTP/1.1\r\n{host}\r\n\r\n"), &[400, 404]),
        ("an encoded path upwards", format!("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n{host}\r\n\r\n"), &[400, 404]),
        ("a NUL in the path", format!("GET /metrics%00 HTTP/1.1\r\n{host}\r\n\r\n"), &[400, 404]),
        ("another path", format!("GET /api/v1/quarantine HTTP/1.1\r\n{host}\r\n\r\n"), &[404]),
        ("POST", format!("POST /api/v1/status HTTP/1.1\r\n{host}\r\nContent-Length: 0\r\n\r\n"), &[405]),
        ("DELETE", format!("DELETE /metrics HTTP/1.1\r\n{host}\r\n\r\n"), &[405]),
        ("PUT with a body", format!("PUT /metrics HTTP/1.1\r\n{host}\r\nContent-Length: 2\r\n\r\n{{}}"), &[405, 413]),
        (
            "a body in chunks",
            format!("GET /metrics HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[413],
        ),
        ("CONNECT", format!("CONNECT 127.0.0.1:3306 HTTP/1.1\r\n{host}\r\n\r\n"), &[400, 404, 405]),
        ("another scheme's greeting", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[0, 400, 403, 404, 505]),
        ("no HTTP at all", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n".to_owned(), &[0, 400]),
        ("a long header", format!("GET /metrics HTTP/1.1\r\n{host}\r\nX: {long}\r\n\r\n"), &[0, 431]),
        ("many headers", format!("GET /metrics HTTP/1.1\r\n{host}\r\n{many}\r\n"), &[0, 431]),
        ("a long path", format!("GET /{long} HTTP/1.1\r\n{host}\r\n\r\n"), &[0, 414]),
    ];
    for (what, request, right) in refused {
        let Answer { status, body } = web::send(port, &request);
        assert!(right.contains(&status), "{what}: {status} {body}");
        assert!(!body.contains("afterimage") && !body.contains("root:"), "{what}: {body}");
    }
    let head = web::send(port, &format!("HEAD /metrics HTTP/1.1\r\n{host}\r\n\r\n"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// Sends a body that would never end; says how much of it was taken.
fn endless_body(port: u16) -> usize {
    let mut stream = web::connect(port);
    let head = format!("POST /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1073741824\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 64 << 10];
    let mut taken = 0;
    while taken < 1 << 30 && stream.write_all(&piece).is_ok() {
        taken += piece.len();
    }
    taken
}

fn answered_in_time(port: u16, during: &str) {
    let started = Instant::now();
    let answer = web::get(port, "/livez");
    assert_eq!(answer.status, 200, "{during}: {answer:?}");
    assert!(started.elapsed() < PATIENCE, "{during}: {:?}", started.elapsed());
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

// Proves: R63
#[tokio::test(flavor = "multi_thread")]
async fn an_attack_on_http_costs_little_and_the_data_goes_on() {
    let port = free_port().unwrap();
    let http = format!("listen = \"127.0.0.1:{port}\"");
    let mut rig = Rig::new(servers::mariadb().await, Variant { http, ..Variant::default() }).await;
    let mut records = Workload { events: 12_000, users: 400, partitions: 2, seed: 63, ..Workload::default() }.records();
    let running = rig.start("run");
    web::wait_until_it_listens(port);
    rig.write(records.by_ref().take(2_000)).await;
    rig.wait_until_applied(LONG).await;
    let pid = running.pid();
    let files = open_files(pid);

    assert_refused(port);
    rig.write(records.by_ref().take(2_000)).await;
    let taken = endless_body(port);
    assert!(taken < 64 << 20, "{} MiB of a body were taken", taken >> 20);

    // Clients that never finish their request, most of which are shown out before their time for those who come after them.
    let mut slow: VecDeque<TcpStream> = VecDeque::new();
    let mut connected = 0;
    for number in 0..FLOOD {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ");
        slow.push_back(stream);
        connected += 1;
        // Closing some of our own ends leaves the other tests of this process files to open.
        if slow.len() > KEPT {
            slow.pop_front();
        }
        if number % 500 == 499 {
            answered_in_time(port, "during the flood");
            rig.write(records.by_ref().take(1_000)).await;
        }
    }
    assert!(connected > FLOOD / 2, "{connected} connections");
    for stream in &mut slow {
        // A byte now and then keeps a visitor no longer.
        let _ = stream.write_all(b"x");
    }
    answered_in_time(port, "after the flood");
    let files_then = open_files(pid);
    assert!(running.peak_memory() < 400 << 20, "{} MiB", running.peak_memory() >> 20);
    assert!(files_then < files + 128, "{files} files open, then {files_then}");

    // Everybody is shown out in the end, also those who would rather stay.
    let last = slow.back_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let started = Instant::now();
    assert_eq!(web::read(last).status, 0);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    answered_in_time(port, "after all");

    // The data has gone on meanwhile.
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    finish(running).await;
    rig.assert_as_folded().await;
}
