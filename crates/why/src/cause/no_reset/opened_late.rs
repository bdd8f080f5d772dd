//! Connections that opened late: the listener left SYNs unanswered for a time. Linux drops SYNs while the accept queue is full,
//! without a word if `tcp_abort_on_overflow` is 0, its default.

use super::{Failed, FailureLook};
use crate::advice::{Host, NextEvidence};
use crate::{Cause, Claim, Class, Confidence};

impl FailureLook<'_> {
    /// The SYN-ACK came late, as for other connections of the listener. One connection alone may have lost its SYNs on the path.
    pub(super) fn opened_late(&self) -> Option<Failed> {
        let (count, nanoseconds) = self.connection.opened_late()?;
        let listener = self.listener;
        let syn_ack = self.connection.opening.syn_ack()?;
        if !listener.leaves_waiting() {
            return None;
        }
        let by = 1 - self.connection.opener()?;
        let mut failed = Failed::new(Class::OpenedLate, by, syn_ack.frame, nanoseconds);
        failed.unread = Some(0);
        failed.say(self.frame(syn_ack.frame), Claim::OpenedLate { count: u16::from(count), nanoseconds });
        failed.say(None, Claim::PortOpenedLate(listener.opened_late));
        if listener.served_others > 0 {
            failed.say(None, Claim::ServedOthersMeanwhile);
        } else {
            // The whole path, or the host, may have been away for that time.
            failed.confidence = Confidence::Possible;
        }
        failed
            .decide(vec![Cause::AcceptQueueOverflow, Cause::NoAnswer], NextEvidence::Host(Host::AcceptQueue));
        Some(failed)
    }
}
