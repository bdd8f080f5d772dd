//! How a session ends.

use super::Session;
use crate::error::Error;
use crate::wire::{Kind, reason_bytes};

impl Session {
    /// Ends the session in order: says goodbye, then a lingering close. The socket is closed on return.
    ///
    /// `code` 0 means that this side has everything it wanted.
    ///
    /// # Errors
    /// When not even the goodbye could be written; the socket is closed then, too.
    pub fn end(mut self, code: u16, reason: &str) -> Result<Option<linger::Outcome>, Error> {
        let said = self.goodbye(code, reason);
        let outcome = self.close(&linger::Policy::default());
        said.map(|()| outcome)
    }

    /// Says goodbye: this side will send nothing more.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn goodbye(&mut self, code: u16, reason: &str) -> Result<(), Error> {
        self.frame(Kind::Bye, 0, &reason_bytes(code, reason))?;
        self.flush()
    }

    /// Closes the connection with a lingering close bounded by `policy`, without a goodbye. Returns the outcome; of a
    /// bundle, that of its first connection.
    pub fn close(mut self, policy: &linger::Policy) -> Option<linger::Outcome> {
        self.transport.farewell();
        let sockets = self.transport.into_sockets();
        // Close all connections of a bundle at once: one after the other, each would wait for the peer.
        std::thread::scope(|scope| {
            let mut sockets = sockets.into_iter();
            let first = sockets.next();
            for socket in sockets {
                scope.spawn(move || linger::close(socket, policy));
            }
            first.map(|socket| linger::close(socket, policy))
        })
    }

    /// Closes with a bare `close()`, which can lose what the peer has not received yet. For tests that show this loss.
    pub fn close_carelessly(self) {
        drop(self.transport.into_sockets());
    }
}
