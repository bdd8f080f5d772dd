//! Connections that failed without a reset: SYNs that nobody answered, and handshakes that the server never took note of.

use linger_packet::Flags;

use crate::advice::{Capture, Host, NextEvidence};
use crate::connection::ObservedConnection;
use crate::facts::Facts;
use crate::finding::{Evidence, Finding, Numbers};
use crate::flow::Flow;
use crate::key::Dir;
use crate::reset::RecordedReset;
use crate::surroundings::ListenerHistory;
use crate::{Cause, Claim, Class, Confidence};

/// So many SYNs were sent for one connection before it counts: a scanner sends one or two.
const SYNS: usize = 3;
/// RFC 6298 has the first one repeated after a second, the next after two more. Nanoseconds, a little less.
const SPAN: u64 = 2_500_000_000;
/// So many connections of one listener were refused right after the handshake: its accept queue is full.
const TURNED_AWAY: u32 = 3;

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client's SYNs, and nothing else.
    Silence,
    /// SYN-ACKs again after the client's answer, and none of its data was acknowledged.
    NotAccepted,
}

/// How the flow failed without a reset, if it did, and which side opened it.
pub(crate) fn failure(flow: &Flow) -> Option<(Failure, Dir)> {
    let connection = &flow.connection;
    let opener = connection.opener().filter(|_| flow.reset.is_none())?;
    let [client, server] = [&connection.sides[opener], &connection.sides[1 - opener]];
    if connection.last_time - connection.first_time < SPAN {
        return None;
    }
    if !server.seen() {
        let syns = connection.records().filter(|record| record.flags.has(Flags::SYN)).count();
        let alone = client.ack.is_none() && client.payload == 0 && syns == connection.records().count();
        return (alone && syns >= SYNS).then_some((Failure::Silence, opener));
    }
    let first = client.isn().wrapping_add(1);
    let unheard = server.payload == 0 && !server.has_fin() && server.ack == Some(first);
    let repeated = connection.opening.repeats() > 0 && client.payload > 0 && client.repeats > 0;
    (unheard && repeated).then_some((Failure::NotAccepted, opener))
}

/// The finding of such a flow. In the place of a reset stands the client's last packet.
pub(crate) fn finding(
    connection: &ObservedConnection,
    (failure, opener): (Failure, Dir),
    listener: &ListenerHistory,
) -> Option<Finding> {
    let own = || connection.records().filter(move |record| record.dir() == opener);
    let (first, last) = (own().next()?, own().next_back()?);
    let at = |frame: u32| Some(connection.first_frame + u64::from(frame));
    let time = connection.first_time + last.since_first();
    let mut evidence = Vec::new();
    let mut say = |frame, says| evidence.push(Evidence { frame, says });
    let full = match failure {
        Failure::Silence => {
            let nanoseconds = last.since_first() - first.since_first();
            say(at(last.frame), Claim::SynsUnanswered { count: own().count() as u16, nanoseconds });
            // Linux drops a SYN while the accept queue of its listener is full.
            if listener.accepted.is_some_and(|accepted| accepted < time) {
                say(None, Claim::PortAcceptedBefore);
            }
            if listener.repeats > 0 {
                say(None, Claim::OthersSynAcksRepeated);
            }
            if listener.turned_away >= TURNED_AWAY {
                say(None, Claim::OthersTurnedAway(listener.turned_away));
            }
            listener.repeats > 0 || listener.turned_away >= TURNED_AWAY
        }
        Failure::NotAccepted => {
            let syn_ack = connection.opening.syn_ack().and_then(|syn_ack| at(syn_ack.frame));
            say(syn_ack, Claim::SynAckRepeated(connection.opening.repeats()));
            say(None, Claim::ClientRepeated(connection.sides[opener].repeats));
            true
        }
    };
    let accepted = listener.accepted.is_some_and(|accepted| accepted < time);
    let (cause, candidates) = causes(failure, full, accepted);
    let accepts = candidates.contains(&Cause::AcceptQueueOverflow);
    let [from, to] = [connection.key.end(opener), connection.key.end(1 - opener)];
    let client = &connection.sides[opener];
    Some(Finding {
        file: String::new(),
        interface: connection.key.interface(),
        frame: connection.first_frame + u64::from(last.frame),
        time_ns: time,
        from,
        to,
        client: Some(from),
        class: Class::Unanswered,
        cause,
        confidence: Confidence::Likely,
        candidates,
        harmless: false,
        lost_response_bytes: Some(0),
        unread_request_bytes: Some(client.payload),
        evidence,
        would_decide: Some(if accepts {
            NextEvidence::Host(Host::AcceptQueue)
        } else {
            NextEvidence::Capture(Capture::Server)
        }),
        remedy: cause.remedy(),
        further_resets: 0,
        silence_ns: None,
        age_ns: Some(last.since_first()),
        ladder: Facts::new(&RecordedReset::none(connection.clone(), opener)).course(),
        ttl: client.ttl[0],
        tags: String::new(),
        numbers: Numbers {
            seq: last.seq,
            isns: connection.sides.map(|side| side.syn().then_some(side.isn())),
            network: linger_packet::Path::default(),
        },
    })
}

/// The cause and what else fits: `full` if the listener's queue shows elsewhere, `accepted` if it took a connection before.
fn causes(failure: Failure, full: bool, accepted: bool) -> (Cause, Vec<Cause>) {
    use Cause::{AcceptQueueOverflow, NoAnswer};
    match (failure, full) {
        (Failure::NotAccepted, _) => (AcceptQueueOverflow, vec![AcceptQueueOverflow]),
        (Failure::Silence, true) => (AcceptQueueOverflow, vec![AcceptQueueOverflow, NoAnswer]),
        (Failure::Silence, false) if accepted => (NoAnswer, vec![NoAnswer, AcceptQueueOverflow]),
        (Failure::Silence, false) => (NoAnswer, vec![NoAnswer]),
    }
}
