//! The connection, as a conversation on tokio uses it.

use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, ready};

use ::tokio::io::Interest;
use ::tokio::net::{TcpStream, UnixStream};
use linger::Event;

use crate::socket;

/// A connection that is read and written at once, by one task each at a time.
pub trait AsyncWire: Send + Sync + 'static {
    /// Receives; 0 at the end of the stream.
    fn poll_receive(&self, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Sends as much as the send buffer takes.
    fn poll_send(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
    /// Asks the kernel how much was sent and is not acknowledged.
    fn unacknowledged(&self) -> Event;
}

macro_rules! wire {
    ($stream:ty) => {
        impl AsyncWire for $stream {
            fn poll_receive(&self, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
                loop {
                    ready!(self.poll_read_ready(context))?;
                    let mut got = None;
                    let read = self.try_io(Interest::READABLE, || match socket::receive(self, to) {
                        // A short read: nothing more is there. `WouldBlock` makes the runtime wait for the
                        // next event instead of reading again at once.
                        Ok(short @ 1..) if short < to.len() => {
                            got = Some(short);
                            Err(ErrorKind::WouldBlock.into())
                        }
                        result => result,
                    });
                    match (read, got) {
                        (_, Some(got)) => return Poll::Ready(Ok(got)),
                        (Err(error), None) if error.kind() == ErrorKind::WouldBlock => {}
                        (result, None) => return Poll::Ready(result),
                    }
                }
            }

            fn poll_send(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
                loop {
                    ready!(self.poll_write_ready(context))?;
                    match self.try_io(Interest::WRITABLE, || socket::send(self, parts)) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        result => return Poll::Ready(result),
                    }
                }
            }

            fn unacknowledged(&self) -> Event {
                socket::unacknowledged(self)
            }
        }
    };
}

wire!(TcpStream);
wire!(UnixStream);
