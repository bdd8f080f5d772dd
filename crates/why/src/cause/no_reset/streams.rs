//! Connections of HTTP/2 in clear on which requests got no response, or a part, though no frame is cut.

use super::{Failed, FailureLook};
use crate::advice::{Capture, Host, NextEvidence};
use crate::claim::StreamFate;
use crate::facts::Facts;
use crate::key::Dir;
use crate::{Cause, Claim, Class, Confidence};

use Cause::{ClientGaveUp, ClosedMidRequest, ClosedUnanswered, CutShort, KeepAliveRace, ProcessGone};

impl FailureLook<'_> {
    /// The server's FIN came while responses were due.
    pub(super) fn streams_at_fin(&self, facts: &Facts<'_>) -> Option<Failed> {
        let client = self.speaking_client()?;
        let look = facts.streams_look()?;
        let (asking, fin) = (&self.connection.sides[client], self.connection.sides[1 - client].fin()?);
        let due = look.unanswered.count + look.unfinished.count;
        let mut failed = Failed::of_fin(Class::ClosedEarly, 1 - client, fin);
        let first = asking.fin().filter(|own| own.frame < fin.frame);
        let cause = if !look.cut.is_empty() {
            CutShort
        } else if due > look.crossed.count {
            if look.unanswered.is_empty() { ClosedMidRequest } else { ClosedUnanswered }
        } else if due > 0 {
            let says = Claim::Streams { fate: StreamFate::Crossed, streams: look.crossed.clone() };
            failed.say(Some(self.frame(fin.frame)), says);
            KeepAliveRace
        } else if !look.above.is_empty() && first.is_none() && !facts.streams_open() {
            // The server has said that it did not process them, and the client has heard it: it may send them again.
            failed.harmless = true;
            KeepAliveRace
        } else {
            return None;
        };
        // How long a response would have been is not known.
        failed.lost = if failed.harmless { Some(0) } else { None };
        let Some(own) = first else {
            self.conclude_streams(&mut failed, cause);
            return Some(failed);
        };
        failed.say(Some(self.frame(own.frame)), Claim::ClientClosedFirst);
        failed.decide(vec![ClientGaveUp, cause], NextEvidence::Host(Host::ClientLog));
        Some(failed)
    }

    /// The client, where handshake and frames agree on it.
    fn speaking_client(&self) -> Option<Dir> {
        let speaks = self.streams?.client();
        self.connection.client().filter(|client| *client == speaks)
    }

    /// The server has ended streams by RST_STREAM before their responses were whole, and the connection goes on.
    pub(super) fn broken_streams(&self, _: &Facts<'_>) -> Option<Failed> {
        self.speaking_client()?;
        let broken = self.streams?.broken()?;
        let seen = broken.seen;
        let mut failed = Failed::new(Class::ClosedEarly, broken.by, seen.frame, seen.since.nanoseconds());
        failed.lost = None;
        self.conclude_streams(&mut failed, if broken.begun > 0 { CutShort } else { ClosedUnanswered });
        // The server's log has the reason. A process that ends sends no RST_STREAM.
        failed.candidates.retain(|cause| *cause != ProcessGone);
        Some(failed)
    }

    fn conclude_streams(&self, failed: &mut Failed, cause: Cause) {
        let [low, high] = &self.connection.sides;
        let whole = low.syn() && high.syn();
        // A server that ends a connection for an error has not closed one at rest.
        let error = self
            .streams
            .and_then(|streams| streams.goaway(failed.by))
            .is_some_and(|goaway| goaway.error != 0);
        if cause == KeepAliveRace {
            failed.decide(vec![cause], NextEvidence::Host(Host::IdleTimeouts));
        } else {
            failed.decide(vec![cause, ProcessGone], NextEvidence::Host(Host::ServerLog));
        }
        if whole && (cause == CutShort || cause == KeepAliveRace && !error) {
            failed.confidence = Confidence::Certain;
            failed.would_decide = None;
        } else if !whole {
            failed.would_decide = Some(NextEvidence::Capture(Capture::Beginning));
        }
    }
}
