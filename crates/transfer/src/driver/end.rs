//! How a session ends.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use super::Session;
use crate::error::Error;
use crate::wire::{FrameKind, reason_bytes};

impl Session {
    /// Ends the session in order: says goodbye, then a lingering close. The socket is closed on return.
    ///
    /// `code` 0 means that this side has everything it wanted.
    ///
    /// # Errors
    /// Returns an error if not even the goodbye could be written. The socket is closed in that case, too.
    pub fn end(mut self, code: u16, reason: &str) -> Result<Option<linger::Outcome>, Error> {
        let said = self.goodbye(code, reason);
        let outcome = self.close(&linger::Policy::default());
        said.map(|()| outcome)
    }

    /// Says goodbye: this side will send nothing more.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn goodbye(&mut self, code: u16, reason: &str) -> Result<(), Error> {
        self.frame(FrameKind::Bye, 0, &reason_bytes(code, reason))?;
        self.flush()
    }

    /// Closes the connection with a lingering close bounded by `policy`, without a goodbye. Returns the outcome; of a
    /// bundle, that of its first connection.
    pub fn close(mut self, policy: &linger::Policy) -> Option<linger::Outcome> {
        self.transport.farewell();
        let mut sockets = self.transport.into_sockets().into_iter();
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

    /// Closes with a bare `close()`, which can lose what the peer has not received yet. For tests that show this loss.
    pub fn close_carelessly(self) {
        drop(self.transport.into_sockets());
    }
}
