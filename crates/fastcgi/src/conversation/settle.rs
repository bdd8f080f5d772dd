//! How long END_REQUEST waits for the rest of a request.
//!
//! Some gateways insist on sending all of a request: HAProxy's fcgi-app never ends a response whose END_REQUEST it got before that.
//! Others, as nginx, stop in the middle once a response begins. So END_REQUEST waits as long as input moves, and for nothing
//! else. What comes is dropped.

use std::time::{Duration, Instant};

use linger::Mode;

use super::{Conversation, Key, Life};

/// A request whose handler is done, and whose END_REQUEST waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    /// When the present silence becomes too long.
    silent: Instant,
    /// When the whole wait does.
    over: Instant,
    discarded: u64,
}

impl Settling {
    /// Notes that bytes of the request came.
    pub(super) fn moved(&mut self, bytes: usize, idle: Duration, now: Instant) {
        self.discarded += bytes as u64;
        self.silent = now + idle;
    }
}

impl Conversation {
    /// Called when a handler is done, before [`finish`](Self::finish): drops what the handler has not read of its request, and
    /// returns until when the driver has to receive, and ask again. `None`: nothing more is to be awaited.
    ///
    /// The driver sends what was gathered of the response before it waits, for a client that waits for its answer.
    pub fn settle(&mut self, key: Key, now: Instant) -> Option<Instant> {
        let (policy, idle) = (self.bounds.policy, self.bounds.input_idle);
        let is_deaf = matches!(self.life, Life::Deaf(_));
        let at = self.open.iter().position(|open| open.key == key)?;
        let open = &mut self.open[at];
        if is_deaf || open.is_aborted || idle.is_zero() || policy.mode != Mode::Linger {
            return None;
        }
        if !self.incoming.awaits(open.id) {
            return None;
        }
        if !open.settles() {
            open.unwanted();
        }
        let begun = || Settling { silent: now + idle, over: now + policy.total, discarded: 0 };
        let settling = *open.settling.get_or_insert_with(begun);
        let until = settling.silent.min(settling.over);
        let is_spent = policy.max_discard.is_some_and(|most| settling.discarded >= most);
        (now < until && !is_spent).then_some(until)
    }
}
