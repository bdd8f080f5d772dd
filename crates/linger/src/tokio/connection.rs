//! What is learnt of a connection while its stream is somewhere else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Policy;

/// A handle to the connection of a [`Lingering`](super::Lingering) stream: how that is to end is told to it while the
/// stream is inside a server or below TLS.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    facts: Arc<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    instead: OnceLock<Policy>,
    expects_more: AtomicBool,
}

impl Connection {
    /// Ends this connection by another policy than the stream's; the first call counts.
    pub fn close_with(&self, policy: Policy) {
        // A second call is no mistake: several requests of one connection may ask for it.
        let _ = self.facts.instead.set(policy);
    }

    /// Says that the peer has announced more than has been read, as in the middle of an upload.
    ///
    /// Its close then waits through a silence of [`Policy::idle`], not only of [`Policy::grace`]: a peer that pauses
    /// in an upload, and reads the response only at its end, must not meet a reset.
    pub fn expects_more(&self) {
        self.facts.expects_more.store(true, Ordering::Relaxed);
    }

    /// The policy of the close, where the stream's is that.
    pub(super) fn policy(&self, of_the_stream: Policy) -> Policy {
        let policy = self.facts.instead.get().copied().unwrap_or(of_the_stream);
        if self.facts.expects_more.load(Ordering::Relaxed) {
            return Policy { grace: policy.grace.max(policy.idle), ..policy };
        }
        policy
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
