//! Whether a bare reset, which has no ACK flag, answers a packet, and which.

use linger_packet::Flags;

use super::Facts;
use crate::record::Record;
use crate::recorded_reset::RecordedReset;
use crate::side::{Marks, Side};

/// A bare reset that comes later than this, in nanoseconds, after a packet does not answer it: no path takes so long.
const ANSWERED_WITHIN: u64 = 3_000_000_000;

/// Packets that come so close to each other, in nanoseconds, were sent together, however soon the reset came after the last of them.
const TOGETHER: u64 = 1_000_000;

/// The packet that a bare reset answers, if it is among those kept: its acknowledgement is the reset's number, and the sender
/// of the reset has not answered it otherwise.
pub(super) fn trigger(reset: &RecordedReset, sender: &Side) -> Option<Record> {
    let unanswered = |record: &&Record| {
        let acknowledged = sender.ack().map_or(1 << 31, |ack| ack.wrapping_sub(record.seq));
        let span =
            record.len + u32::from(record.flags.has(Flags::FIN)) + u32::from(record.flags.has(Flags::SYN));
        // Bytes beyond the sender's acknowledgement, or a packet after the sender's last one.
        acknowledged >= 1 << 31 || acknowledged < span || record.frame > sender.last_frame
    };
    let answers = |record: &&Record| {
        record.dir() != reset.by && record.flags.has(Flags::ACK) && record.ack == reset.seq
    };
    let mut asking = reset.connection.records().rev().filter(answers).filter(unanswered);
    let latest = asking.next()?;
    // Packets keep their order, and a closed socket answers each. So the first of several that were sent together is answered first.
    let age =
        |record: &Record| reset.at.time_ns.saturating_sub(reset.connection.first_time + record.since_first());
    if age(latest) > ANSWERED_WITHIN {
        return None;
    }
    let together = (2 * age(latest)).max(age(latest) + TOGETHER);
    let with_it =
        |record: &&Record| (record.len > 0 || record.flags.has(Flags::FIN)) && age(record) <= together;
    // What is sent again was not answered before.
    let first = if latest.repeated() { None } else { asking.rfind(with_it) };
    first.or(Some(latest)).copied()
}

/// Why a bare reset answers no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// Its sender had acknowledged all that it got.
    AllAcknowledged,
    /// It has its sender's own window, and a number that the other side has not acknowledged.
    NumberUnacknowledged,
    /// It has its sender's own window, and nothing but an acknowledgement came before it.
    OwnWindow,
}

impl Facts<'_> {
    /// A bare reset that no packet asks for: it stands at the sender's next number. macOS, BSD and Windows abort in this form too.
    pub(crate) fn bare_unasked(&self) -> Option<Unasked> {
        let (s, r) = (self.sender, self.receiver);
        if self.reset.flags.has(Flags::ACK) || !self.at_next() || !r.seen() {
            return None;
        }
        let own_window = self.has_own_window();
        if let Some(trigger) = self.trigger {
            // Linux sends no bare reset with a window: that one has another sender.
            let nothing_new = trigger.len == 0 && !trigger.flags.any(Flags::SYN | Flags::FIN);
            let has_spoken = s.payload > 0 && s.ack() == Some(r.next) && !s.marks.has(Marks::LINUX);
            return (own_window && nothing_new && has_spoken).then_some(Unasked::OwnWindow);
        }
        if s.ack() == Some(r.next) {
            return Some(Unasked::AllAcknowledged);
        }
        (self.is_number_unacknowledged() && own_window).then_some(Unasked::NumberUnacknowledged)
    }

    /// The reset has its sender's last window, and room in it. An answer has none.
    pub(crate) fn has_own_window(&self) -> bool {
        self.reset.window.is_some_and(|window| window != 0) && self.reset.window == self.sender.window()
    }

    /// Whether the reset may as well answer a packet before the trigger: that one is the oldest of the other side that is kept, and the
    /// sender has not acknowledged what came before it.
    pub(crate) fn may_answer_earlier(&self) -> bool {
        let connection = self.connection();
        let oldest = connection.records().find(|record| record.dir() != self.reset.by);
        self.trigger.zip(oldest).is_some_and(|(trigger, oldest)| {
            connection.has_forgotten()
                && trigger.frame == oldest.frame
                && trigger.len > 0
                && self.sender.ack() != Some(trigger.seq)
        })
    }
}
