//! Connections that end with a FIN before both sides had said all: short responses, requests without a response.

use super::{Failed, FailureLook};
use crate::advice::{Capture, Host, NextEvidence};
use crate::app::Protocol;
use crate::key::Dir;
use crate::side::{Fin, Side};
use crate::{Cause, Claim, Class, Confidence};

use Cause::{ClientGaveUp, ClosedMidRequest, ClosedUnanswered, CutShort, KeepAliveRace, ProcessGone};

/// What a FIN left unsaid.
enum Unsaid {
    /// Part of a message, record or frame of the server.
    Rest(Claim),
    /// The rest of a request, and every byte of its response.
    Request(Claim),
    /// The response to a whole request.
    Response,
    /// The response to a request that crossed the FIN of an idle connection. `late`: bytes of the request. `first`: nothing
    /// was answered before.
    Crossed { late: u32, first: bool },
}

impl FailureLook<'_> {
    /// The server's FIN came before it had said all it had to say.
    pub(super) fn closed_early(&self) -> Option<Failed> {
        let client = self.connection.client()?;
        let (asking, serving) = (&self.connection.sides[client], &self.connection.sides[1 - client]);
        let fin = serving.fin()?;
        // Sequence numbers that contradict each other: the capture lacks bytes, or a box has changed the numbers.
        let beyond = asking.ack().map_or(0, |ack| ack.wrapping_sub(fin.seq.wrapping_add(1)));
        if serving.next != fin.seq.wrapping_add(1) || beyond != 0 && beyond < 1 << 31 {
            return None;
        }
        let unsaid = unsaid(asking, serving, fin)?;
        let mut failed = Failed::of_fin(Class::ClosedEarly, 1 - client, fin);
        let frame = Some(self.frame(fin.frame));
        let first = asking.fin().filter(|own| own.frame < fin.frame);
        // A client that closes first has taken the head for whole: some clients accept line ends that are not accepted here.
        if matches!(unsaid, Unsaid::Rest(Claim::ClosedInHead)) && first.is_some() {
            return None;
        }
        let left = matches!(unsaid, Unsaid::Crossed { .. });
        if let Some(own) = first.filter(|_| !left) {
            failed.say(Some(self.frame(own.frame)), Claim::ClientClosedFirst);
        }
        // If the connection was seen from its beginning, its sequence numbers leave no other explanation.
        let mut certain = asking.syn() && serving.syn() && first.is_none();
        let cause = match unsaid {
            Unsaid::Rest(claim) => {
                if let Claim::ClosedShort(bytes) | Claim::RecordCut(bytes) | Claim::FrameCut(_, bytes) = claim
                {
                    failed.lost = Some(bytes);
                }
                failed.say(frame, claim);
                CutShort
            }
            Unsaid::Request(claim) => {
                failed.say(frame, claim);
                ClosedMidRequest
            }
            Unsaid::Response => {
                failed.say(frame, Claim::ClosedUnanswered);
                ClosedUnanswered
            }
            Unsaid::Crossed { late, first } => {
                certain &= !first;
                failed.say(frame, Claim::CrossedByRequest(late));
                failed.unread = Some(u64::from(late));
                self.rested(&mut failed, client, fin);
                KeepAliveRace
            }
        };
        if first.is_some() && !left {
            failed.decide(vec![ClientGaveUp, cause], NextEvidence::Host(Host::ClientLog));
        } else if cause == KeepAliveRace {
            failed.decide(vec![cause], NextEvidence::Host(Host::IdleTimeouts));
        } else {
            failed.decide(vec![cause, ProcessGone], NextEvidence::Host(Host::ServerLog));
        }
        if certain && matches!(cause, CutShort | KeepAliveRace) {
            failed.confidence = Confidence::Certain;
            failed.would_decide = None;
        } else if !(asking.syn() && serving.syn()) {
            failed.would_decide = Some(NextEvidence::Capture(Capture::Beginning));
        }
        Some(failed)
    }

    /// Says how long the connection had been idle when the server closed it, if that was a second or more and the capture
    /// lacks no data in between.
    fn rested(&self, failed: &mut Failed, client: Dir, fin: Fin) {
        let earlier = |record: &&crate::record::Record| {
            record.len > 1
                && (record.frame < fin.frame)
                && !(record.dir() == client && self.is_late(record, fin))
        };
        let Some(last) = self.connection.records().rev().find(earlier) else { return };
        if self.connection.lacks_data(last, fin.frame) {
            return;
        }
        if let Some(nanoseconds) = fin.since.nanoseconds().checked_sub(last.since_first())
            && nanoseconds >= 1_000_000_000
        {
            failed.say(Some(self.frame(fin.frame)), Claim::RestedBeforeFin { nanoseconds });
        }
    }

    /// Whether a packet of the client is not acknowledged by the server's FIN.
    fn is_late(&self, record: &crate::record::Record, fin: Fin) -> bool {
        let client = &self.connection.sides[record.dir()];
        let taken = taken_by(client, fin);
        record.seq.wrapping_sub(taken) < 1 << 31
    }
}

/// The sequence number up to which the server's FIN acknowledges the client's bytes.
fn taken_by(client: &Side, fin: Fin) -> u32 {
    client.next.wrapping_sub(u32::from(client.has_fin())).wrapping_sub(fin.late)
}

/// What the server's FIN left unsaid, if anything.
fn unsaid(client: &Side, server: &Side, fin: Fin) -> Option<Unsaid> {
    match server.app.protocol {
        Protocol::Tls { .. } => {
            let bytes = server.app.missing_after(fin.seq).filter(|&bytes| bytes > 0)?;
            Some(Unsaid::Rest(Claim::RecordCut(bytes)))
        }
        Protocol::Http2 { .. } | Protocol::WebSocket { .. } => {
            let bytes = server.app.missing_after(fin.seq).filter(|&bytes| bytes > 0)?;
            Some(Unsaid::Rest(Claim::FrameCut(server.app.framed()?, bytes)))
        }
        Protocol::FastCgi { ended: false, .. } => {
            let followed =
                server.app.is_followed() && matches!(client.app.protocol, Protocol::FastCgi { .. });
            followed.then_some(Unsaid::Rest(Claim::ClosedBeforeEndRequest))
        }
        Protocol::Unseen if matches!(client.app.protocol, Protocol::FastCgi { stdin_ended: true, .. }) => {
            client.app.is_followed().then_some(Unsaid::Response)
        }
        _ => unsaid_in_http(client, server, fin),
    }
}

fn unsaid_in_http(client: &Side, server: &Side, fin: Fin) -> Option<Unsaid> {
    let (asked, answered) = (client.app.messages(), server.app.messages());
    if !client.app.is_http() || !client.app.is_followed() || asked == 0 {
        return None;
    }
    if asked == answered && server.app.is_http() {
        if let Some(bytes) = server.app.missing_after(fin.seq).filter(|&bytes| bytes > 0) {
            return Some(Unsaid::Rest(Claim::ClosedShort(bytes)));
        }
        return server.app.in_chunks().then_some(Unsaid::Rest(Claim::ClosedInChunks));
    }
    if server.app.in_head() && answered < asked {
        return Some(Unsaid::Rest(Claim::ClosedInHead));
    }
    let whole = server.payload == 0 || server.app.is_http() && server.app.missing_after(fin.seq) == Some(0);
    // After a response with `Connection: close` nobody may wait for another one.
    if asked != answered + 1 || !whole || server.has_gap() || server.app.is_last() {
        return None;
    }
    let begins = client.app.message_at()?;
    let taken = taken_by(client, fin);
    if begins.wrapping_sub(taken) < 1 << 31 {
        return Some(Unsaid::Crossed { late: fin.late, first: answered == 0 });
    }
    Some(match client.app.missing_after(taken) {
        Some(0) => Unsaid::Response,
        Some(bytes) => Unsaid::Request(Claim::RequestCut(bytes)),
        None if client.app.in_chunks() => Unsaid::Request(Claim::RequestCutInChunks),
        None => return None,
    })
}
