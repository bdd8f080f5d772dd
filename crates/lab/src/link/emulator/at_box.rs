//! The middlebox on the link: which packets meet it where, and what it sends itself.

use linger_packet::Segment;

use super::Emulator;
use crate::clock::Nanos;
use crate::link::Direction;
use crate::link::decision::Decision;
use crate::link::identity::{Identity, Names, flow_of};
use crate::link::middlebox::track::{BoxDecision, OwnPacket};
use crate::link::middlebox::{Middlebox, MiddleboxCounts};

impl Middlebox {
    /// Whether packets of this direction meet the box before they enter the link; the others when they leave it.
    fn is_before(&self, direction: Direction) -> bool {
        self.is_met_first(direction == Direction::ToClient)
    }
}

impl<P: AsRef<[u8]> + AsMut<[u8]> + for<'a> From<&'a [u8]>> Emulator<P> {
    /// What the middlebox has done so far; `None` without one.
    pub fn middlebox_counts(&self) -> Option<MiddleboxCounts> {
        self.middlebox.as_ref().map(|tracker| tracker.counts())
    }

    /// What the middlebox does with a packet before it enters the link, or when it leaves it, if it stands there.
    pub(super) fn at_box(
        &mut self,
        direction: Direction,
        now: Nanos,
        packet: &mut P,
        is_before: bool,
    ) -> Decision {
        let Some(tracker) = &mut self.middlebox else { return Decision::Pass };
        if tracker.rules().is_before(direction) != is_before {
            return Decision::Pass;
        }
        // Before a NAT gives it another port.
        let identity = self.log.as_ref().map(|_| identity(&mut self.box_names, direction, packet.as_ref()));
        let (decision, answer) = tracker.pass(direction, now, packet.as_mut());
        let decision = match decision {
            BoxDecision::Pass => Decision::Pass,
            BoxDecision::PickUp => Decision::PickedUp,
            BoxDecision::NoState(why) => Decision::NoState(why),
            BoxDecision::Invalid => Decision::Invalid,
        };
        if decision != Decision::Pass {
            self.note(identity, decision);
        }
        self.send_own(now, answer);
        decision
    }

    /// Keeps a decision of the middlebox.
    fn note(&mut self, identity: Option<Identity>, decision: Decision) {
        if let Some((log, identity)) = self.log.as_mut().zip(identity) {
            log.push((identity, decision));
        }
    }

    /// Sends the resets of connections that the middlebox has forgotten by this time.
    pub(super) fn say_last_words(&mut self, now: Nanos) {
        if let Some(tracker) = &mut self.middlebox {
            let words = tracker.last_words(now);
            self.send_own(now, words);
        }
    }

    /// Sends packets of the box's own: over the link, or out at the end where the box stands.
    fn send_own(&mut self, now: Nanos, packets: impl IntoIterator<Item = OwnPacket>) {
        for (direction, frame) in packets {
            let own = self.log.as_ref().map(|_| identity(&mut self.box_names, direction, &frame));
            self.note(own, Decision::BoxReset);
            let is_before =
                self.middlebox.as_ref().is_some_and(|tracker| tracker.rules().is_before(direction));
            let due = if is_before {
                let flow = Segment::from_ethernet(&frame).map_or(0, |segment| flow_of(direction, &segment));
                self.due(direction, now, flow, frame.len(), 0.0)
            } else {
                Some(now)
            };
            if let Some(due) = due {
                self.push(direction, due, Decision::BoxReset, P::from(&frame));
            }
        }
    }
}

/// The identity of a packet at the middlebox.
fn identity(names: &mut Names, direction: Direction, frame: &[u8]) -> Identity {
    match Segment::from_ethernet(frame) {
        Ok(segment) => names.tcp(direction, &segment),
        Err(_) => names.other(direction),
    }
}
