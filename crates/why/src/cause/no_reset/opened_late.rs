//! Connections that opened late: the listener left SYNs unanswered for a time. Linux drops SYNs while the accept queue is full,
//! without a word if `tcp_abort_on_overflow` is 0, its default.

use super::{Failed, FailureLook};
use crate::advice::{Host, NextEvidence};
use crate::connection::A_PAUSE;
use crate::surroundings::{CROWD_SPAN, Openings};
use crate::{Cause, Claim, Class, Confidence};

impl FailureLook<'_> {
    /// The SYN-ACK came late, as for other connections of the listener: for three by two pauses, or for most of a crowd by a second.
    /// One connection alone may have lost its SYNs on the path.
    pub(super) fn opened_late(&self) -> Option<Failed> {
        let (count, nanoseconds) = self.connection.opened_again()?;
        let listener = self.listener;
        let syn_ack = self.connection.opening.syn_ack()?;
        let time = self.time(nanoseconds);
        let in_crowd = |crowd: &Openings| {
            nanoseconds >= A_PAUSE
                && time.abs_diff(crowd.start.saturating_add(CROWD_SPAN / 2)) <= CROWD_SPAN / 2
        };
        let crowd = listener.crowd.filter(in_crowd);
        let late = listener.leaves_waiting() && self.connection.opened_late().is_some();
        if crowd.is_none() && !late {
            return None;
        }
        let by = 1 - self.connection.opener()?;
        let mut failed = Failed::new(Class::OpenedLate, by, syn_ack.frame, nanoseconds);
        failed.unread = Some(0);
        failed.say(self.frame(syn_ack.frame), Claim::OpenedLate { count: u16::from(count), nanoseconds });
        if late {
            failed.say(None, Claim::PortOpenedLate(listener.opened_late));
        }
        if let Some(Openings { again, at_first, unheard, .. }) = crowd {
            failed.say(None, Claim::PortCrowded { again, at_first, unheard });
        }
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
