//! How a session ends.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use super::core::Core;
use crate::cancel::Cancel;
use crate::error::Error;
use crate::transport::Transport;
use crate::wire::{FrameKind, reason_bytes};

impl Core {
    /// Says goodbye: this side will send nothing more.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub(super) fn goodbye(&mut self, code: u16, reason: &str) -> Result<(), Error> {
        self.frame(FrameKind::Bye, 0, &reason_bytes(code, reason))?;
        self.flush()
    }

    /// Takes the connection, to close it. `None` if somebody has taken it already.
    pub(super) fn take_transport(&mut self) -> Option<Box<dyn Transport>> {
        let taken = std::mem::replace(&mut self.transport, Box::new(ClosedTransport(self.cancel.clone())));
        (!std::mem::replace(&mut self.is_gone, true)).then_some(taken)
    }
}

/// Stands in for a connection that is closed: every call fails.
struct ClosedTransport(Cancel);

impl Transport for ClosedTransport {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::NotConnected.into())
    }

    fn write(&mut self, _: &[u8], _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::NotConnected.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(ErrorKind::NotConnected.into())
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn farewell(&mut self) {}

    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd> {
        Vec::new()
    }
}

/// Closes all connections of a transport. Returns the outcome of the first.
pub(super) fn close(mut transport: Box<dyn Transport>, policy: &linger::Policy) -> Option<linger::Outcome> {
    transport.farewell();
    let mut sockets = transport.into_sockets().into_iter();
    let first = sockets.next();
    // Each socket is in a slot that a thread takes it from. If it were moved into the thread's closure and the
    // thread could not be started, the closure would be dropped, and the socket closed without lingering.
    let others: Vec<_> = sockets.map(|socket| Mutex::new(Some(socket))).collect();
    let close = |slot: &Mutex<Option<OwnedFd>>| {
        let socket = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        socket.map(|socket| linger::close(socket, policy))
    };
    // Close all connections of a bundle at once: one after the other, each would wait for the peer.
    thread::scope(|scope| {
        for slot in &others {
            if let Err(error) = Builder::new().spawn_scoped(scope, || close(slot)) {
                tracing::warn!(%error, "no thread can be had: the connections are closed one after the other");
                break;
            }
        }
        let outcome = first.map(|socket| linger::close(socket, policy));
        // Close here the sockets for which no thread could be started.
        for slot in &others {
            close(slot);
        }
        outcome
    })
}
