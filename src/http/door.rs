//! The door to HTTP: few visitors at a time, each with one short request and little time.
//!
//! In: a listener. Out: connections that end by themselves, with an error to whoever serves them, when their time is up, when
//! they bring more than a request without a body can have, or when newer visitors need the room: it is the oldest that has
//! to go. So clients that never finish can take up a bounded amount of memory and file descriptors, and keep nobody out who
//! asks and leaves. Nothing here looks at what is said.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// Connections at once.
pub(super) const MAX_VISITORS: usize = 64;
/// From the first byte to the last: a scrape takes milliseconds.
pub(super) const STAY: Duration = Duration::from_secs(10);
/// Bytes that a visitor may send: a request line and headers.
pub(super) const MAX_REQUEST: usize = 16 << 10;

/// Lets visitors in; see the module page.
pub(super) struct Door {
    listener: TcpListener,
    /// One per visitor, oldest first: dropping it shows the visitor out.
    inside: VecDeque<oneshot::Sender<()>>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, inside: VecDeque::new() }
    }
}

impl Listener for Door {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.inside.retain(|visitor| !visitor.is_closed());
        while self.inside.len() >= MAX_VISITORS {
            self.inside.pop_front();
        }
        let (stays, shown_out) = oneshot::channel();
        self.inside.push_back(stays);
        let until = Box::pin(tokio::time::sleep(STAY));
        (Visitor { stream, until, shown_out, left: MAX_REQUEST, over: false }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that doesn't outstay its welcome.
pub(super) struct Visitor {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    shown_out: oneshot::Receiver<()>,
    /// Bytes that it may still send.
    left: usize,
    over: bool,
}

impl Visitor {
    /// An error once the visit is over; otherwise the task is woken when it will be.
    fn stays(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // Neither may be asked again after it has answered.
        self.over = self.over
            || self.until.as_mut().poll(context).is_ready()
            || Pin::new(&mut self.shown_out).poll(context).is_ready();
        if self.over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.stays(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match this.left.checked_sub(read) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Ok(()))
            }
            None => {
                this.over = true;
                Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()))
            }
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.stays(context)?;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.stays(context)?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
