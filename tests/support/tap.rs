//! A TCP relay that changes nothing and keeps what clients send, to see what crosses the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A running relay; it ends with the process, its connections with their peers.
pub struct Tap {
    port: u16,
    /// By connection, in order: every byte of the client.
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`, another port there.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let tap = Self { port: listener.local_addr().unwrap().port(), sent: Arc::default() };
        let sent = Arc::clone(&tap.sent);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = {
                    let mut sent = sent.lock().unwrap();
                    sent.push(Vec::new());
                    sent.len() - 1
                };
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
                let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let sent = Arc::clone(&sent);
                std::thread::spawn(move || relay(client, server, |bytes| sent.lock().unwrap()[number].extend(bytes)));
                std::thread::spawn(move || relay(from_server, to_client, |_| ()));
            }
        });
        tap
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What each client has sent since the last call of this.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut sent = self.sent.lock().unwrap();
        sent.iter_mut().map(std::mem::take).filter(|bytes| !bytes.is_empty()).collect()
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        seen(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
