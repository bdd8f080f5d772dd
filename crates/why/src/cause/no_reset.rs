//! Connections that failed without a reset, and why. One file a class: unanswered, opened late, closed early, stalled.

mod closed_early;
mod opened_late;
mod stalled;
mod streams;
mod unanswered;

use linger_packet::{IcmpError, IcmpProblem};

use crate::advice::NextEvidence;
use crate::claim::Farewell;
use crate::connection::ObservedConnection;
use crate::facts::Facts;
use crate::finding::{Evidence, Finding, Numbers};
use crate::key::Dir;
use crate::names::AskedName;
use crate::record::{Record, Since};
use crate::recorded_reset::RecordedReset;
use crate::side::Fin;
use crate::streams::Http2Streams;
use crate::surroundings::ListenerHistory;
use crate::{Cause, Claim, Class, Confidence, Remedy};

/// The shortest time between the first of three transmissions and the last, in nanoseconds. By RFC 6298 a segment is
/// repeated after 1 s, and once more 2 s later; this is a little less.
const SPAN: u64 = 2_500_000_000;

/// An ICMP error about a connection's segments: the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportedError {
    pub(crate) frame: u64,
    pub(crate) error: IcmpError,
}

impl ReportedError {
    fn claim(&self) -> Claim {
        Claim::Icmp { problem: self.error.problem, reporter: self.error.reporter }
    }

    /// Whether a firewall's rule caused the error, rather than a missing route or neighbour.
    fn is_of_a_rule(&self) -> bool {
        matches!(self.error.problem, IcmpProblem::Prohibited | IcmpProblem::PortUnreachable)
    }
}

/// A connection without a reset, and what else is known of it.
pub(crate) struct FailureLook<'a> {
    pub(crate) connection: &'a ObservedConnection,
    pub(crate) listener: &'a ListenerHistory,
    pub(crate) icmp: Option<&'a ReportedError>,
    pub(crate) streams: Option<&'a Http2Streams>,
}

/// How a connection failed, and what shows it.
#[derive(Debug)]
pub(crate) struct Failed {
    class: Class,
    confidence: Confidence,
    candidates: Vec<Cause>,
    /// The side whose packet shows the failure. In the finding this packet stands in the place of the reset.
    pub(crate) by: Dir,
    /// The frame of that packet, counted from the connection's first one.
    frame: u32,
    /// Nanoseconds from the connection's first packet to that one.
    since: u64,
    lost: Option<u64>,
    unread: Option<u64>,
    evidence: Vec<Evidence>,
    would_decide: Option<NextEvidence>,
    /// Nothing but a farewell was left to say.
    farewell: Option<Farewell>,
    /// What was not answered may be sent again, and the client was told so.
    harmless: bool,
}

impl Failed {
    fn at(class: Class, by: Dir, record: &Record) -> Self {
        Self::new(class, by, record.frame, record.since_first())
    }

    fn of_fin(class: Class, by: Dir, fin: Fin) -> Self {
        let since: Since = fin.since;
        Self::new(class, by, fin.frame, since.nanoseconds())
    }

    fn new(class: Class, by: Dir, frame: u32, since: u64) -> Self {
        Self {
            class,
            confidence: Confidence::Likely,
            candidates: Vec::new(),
            by,
            frame,
            since,
            lost: Some(0),
            unread: None,
            evidence: Vec::new(),
            would_decide: None,
            farewell: None,
            harmless: false,
        }
    }

    fn say(&mut self, frame: impl Into<Option<u64>>, says: Claim) {
        self.evidence.push(Evidence { frame: frame.into(), says });
    }

    /// The causes that fit, the likeliest first, and what would decide between them.
    fn decide(&mut self, candidates: Vec<Cause>, ask: NextEvidence) {
        (self.candidates, self.would_decide) = (candidates, Some(ask));
    }
}

impl FailureLook<'_> {
    fn frame(&self, relative: u32) -> u64 {
        self.connection.first_frame + u64::from(relative)
    }

    fn time(&self, since: u64) -> u64 {
        self.connection.time_of(since)
    }

    /// How the connection failed, if it did.
    pub(crate) fn failed(&self) -> Option<Failed> {
        if self.connection.last_time - self.connection.first_time >= SPAN
            && let Some(failed) = self.not_accepted()
        {
            return Some(failed);
        }
        self.silence()
            .or_else(|| self.closed_early())
            .or_else(|| self.with_facts(Self::streams_at_fin))
            .or_else(|| self.window_stuck())
            .or_else(|| self.unacknowledged())
            .or_else(|| self.opened_late())
            .or_else(|| self.with_facts(Self::broken_streams))
    }

    /// What a question of the connection's facts comes to, where there are streams.
    fn with_facts(&self, ask: impl FnOnce(&Self, &Facts<'_>) -> Option<Failed>) -> Option<Failed> {
        let streams = self.streams?;
        let stand_in = RecordedReset::none(self.connection.clone(), 1 - streams.client());
        ask(self, &Facts::new(&stand_in).with_streams(Some(streams)))
    }

    /// The finding about a failure. `late`: the packets up to a SYN-ACK that came late.
    pub(crate) fn finding(
        &self,
        mut failed: Failed,
        name: Option<AskedName<&str>>,
        late: &[Record],
    ) -> Finding {
        let connection = self.connection;
        let [from, to] = [connection.key.end(failed.by), connection.key.end(1 - failed.by)];
        let frame = self.frame(failed.frame);
        let cause = failed.candidates.first().copied().unwrap_or(Cause::Unknown);
        let stand_in = RecordedReset::none(connection.clone(), failed.by);
        let facts = Facts::new(&stand_in).with_streams(self.streams);
        failed.evidence.extend(facts.asked_for(name).map(|says| Evidence { frame: None, says }));
        failed.evidence.extend(facts.alerts().map(|says| Evidence { frame: None, says }));
        failed.evidence.extend(facts.stream_claims());
        let farewell =
            failed.farewell.map(|farewell| Claim::OnlyFarewellLeft(facts.party(failed.by), farewell));
        failed.evidence.extend(farewell.map(|says| Evidence { frame: None, says }));
        let harmless = failed.farewell.is_some() || failed.harmless;
        Finding {
            file: String::new(),
            interface: connection.key.interface(),
            frame,
            time_ns: self.time(failed.since),
            from,
            to,
            client: connection.client().map(|dir| connection.key.end(dir)),
            asked_name: name.map(AskedName::service),
            class: failed.class,
            cause,
            confidence: failed.confidence,
            candidates: failed.candidates,
            harmless,
            lost_response_bytes: if harmless { Some(0) } else { failed.lost },
            unread_request_bytes: if harmless { Some(0) } else { failed.unread },
            evidence: failed.evidence,
            would_decide: failed.would_decide,
            remedy: if harmless { Remedy::Nothing } else { cause.remedy() },
            further_resets: 0,
            silence_ns: None,
            age_ns: Some(failed.since),
            ladder: facts.late_course(late),
            ttl: connection.sides[failed.by].ttl[0],
            tags: String::new(),
            numbers: Numbers {
                seq: connection.sides[failed.by].isn(),
                isns: connection.sides.map(|side| side.syn().then_some(side.isn())),
                network: linger_packet::Path::default(),
            },
        }
    }
}
