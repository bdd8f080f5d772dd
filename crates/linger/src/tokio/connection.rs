//! How the program sets the end of a connection while its stream is inside a server or below TLS.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[cfg(feature = "http")]
use super::sending::{ResponseWrites, Sending};
use super::{StopNotice, WayToEnd};
use crate::Policy;

/// A handle to the connection of a [`Lingering`](super::Lingering) stream. Through it the program says how the connection
/// is to end while the stream itself is out of reach, inside a server or below TLS.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    facts: Arc<ConnectionFacts>,
}

#[derive(Debug, Default)]
struct ConnectionFacts {
    instead: OnceLock<Policy>,
    expects_more: AtomicBool,
    stop: Option<StopNotice>,
    #[cfg(feature = "http")]
    sending: Sending,
}

impl Connection {
    /// The connection of a stream that is to be closed in this way.
    pub(super) fn of(way: &WayToEnd) -> Self {
        let facts = ConnectionFacts { stop: way.stop.clone(), ..ConnectionFacts::default() };
        Self { facts: Arc::new(facts) }
    }

    /// Tells of the stop of the server that has this connection. `None` if its listener knows of no stop.
    pub fn stop_notice(&self) -> Option<StopNotice> {
        self.facts.stop.clone()
    }

    /// Ends this connection by `policy` instead of the stream's policy. Only the first call has an effect.
    pub fn close_with(&self, policy: Policy) {
        // A second call is no mistake: several requests of one connection may each ask for another policy.
        let _ = self.facts.instead.set(policy);
    }

    /// Says that the peer has announced more than has been read, as in the middle of an upload.
    ///
    /// The connection's close then waits through a silence of [`Policy::idle`], not only of [`Policy::grace`]: a peer that
    /// pauses in an upload, and reads the response only when the upload is done, must not meet a reset.
    pub fn expects_more(&self) {
        self.facts.expects_more.store(true, Ordering::Relaxed);
    }

    #[cfg(feature = "http")]
    pub(super) fn sending(&self) -> &Sending {
        &self.facts.sending
    }

    /// Watches the writes of a response that is about to begin.
    #[cfg(feature = "http")]
    pub(crate) fn watch_response(&self) -> ResponseWrites {
        self.facts.sending.begin()
    }

    /// Holds back everything that is written to this connection, until the hold is dropped or [`hold_no_more`] is called. Reads go on.
    ///
    /// [`hold_no_more`]: Self::hold_no_more
    #[cfg(feature = "http")]
    pub(crate) fn hold_writes(&self) -> WriteHold {
        self.facts.sending.hold();
        WriteHold(self.clone())
    }

    /// Ends all holds of this connection, those that exist and those to come.
    #[cfg(feature = "http")]
    pub(crate) fn hold_no_more(&self) {
        self.facts.sending.hold_no_more();
    }

    /// The policy by which the connection is closed, if the stream's own policy is `of_the_stream`.
    pub(super) fn policy(&self, of_the_stream: Policy) -> Policy {
        let policy = self.facts.instead.get().copied().unwrap_or(of_the_stream);
        if self.facts.expects_more.load(Ordering::Relaxed) {
            return Policy { grace: policy.grace.max(policy.idle), ..policy };
        }
        policy
    }
}

/// While this lives, nothing is written to its connection.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) struct WriteHold(Connection);

#[cfg(feature = "http")]
impl Drop for WriteHold {
    fn drop(&mut self) {
        self.0.facts.sending.release();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_waited_for_and_the_first_word_on_the_policy_counts() {
        let connection = Connection::default();
        assert_eq!(connection.policy(Policy::default()), Policy::default());
        connection.expects_more();
        let waits = connection.policy(Policy::default());
        assert_eq!(waits, Policy { grace: Policy::default().idle, ..Policy::default() });
        connection.close_with(Policy::abort());
        connection.close_with(Policy::short());
        assert_eq!(connection.policy(Policy::default()).mode, crate::Mode::Abort);
    }
}
