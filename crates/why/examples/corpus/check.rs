//! Proves or refutes the sentences of a finding from the packets alone. Written apart from the rules, and simpler: it keeps every
//! packet and looks at all of them for each sentence.

use linger_packet::Flags;
use linger_why::{Claim, Evidence, Finding, Party};

use crate::payload::{self, Http};
use crate::trace::{Connection, Seen, Sent, at_or_after, latest};

/// A sentence that the packets refute.
#[derive(Debug)]
pub(crate) struct Refuted {
    pub(crate) says: String,
    pub(crate) because: String,
}

impl std::fmt::Display for Refuted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\": {}", self.says, self.because)
    }
}

/// Every sentence of `finding` that `all`, the segments of its capture, refute.
pub(crate) fn refuted(all: &[Seen], finding: &Finding) -> Vec<Refuted> {
    let Some(connection) = Connection::of(all, finding) else {
        return vec![Refuted { says: format!("frame {}", finding.frame), because: "no such frame".into() }];
    };
    let checker = Checker { all, finding, c: &connection };
    let mut refuted: Vec<Refuted> = finding
        .evidence
        .iter()
        .filter_map(|evidence| {
            let because = checker.claim(evidence).err()?;
            Some(Refuted { says: evidence.says.to_string(), because })
        })
        .collect();
    let amounts = if finding.class.is_reset() { checker.amounts() } else { checker.amounts_of_failure() };
    if let Err(because) = amounts {
        let says =
            format!("lost {:?}, unread {:?}", finding.lost_response_bytes, finding.unread_request_bytes);
        refuted.push(Refuted { says, because });
    }
    refuted
}

pub(crate) type Proof = Result<(), String>;

pub(crate) fn holds(holds: bool, otherwise: &str) -> Proof {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(is: T, said: T) -> Proof {
    if is == said { Ok(()) } else { Err(format!("it is {is:?}")) }
}

pub(crate) struct Checker<'a> {
    pub(crate) all: &'a [Seen],
    pub(crate) finding: &'a Finding,
    pub(crate) c: &'a Connection<'a>,
}

impl Checker<'_> {
    pub(crate) fn claim(&self, evidence: &Evidence) -> Proof {
        let frame = evidence.frame;
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        let active = reset.has(Flags::ACK);
        match &evidence.says {
            Claim::AnswersSyn => {
                holds(active && s.before.is_empty(), "the sender has sent something else")?;
                let answers = r.before.iter().any(|seen| {
                    seen.has(Flags::SYN) && [seen.end(), seen.seq.wrapping_add(1)].contains(&reset.ack)
                });
                holds(answers, "it acknowledges no SYN")
            }
            Claim::AnswersUnseenSyn => {
                holds(active && reset.seq == 0 && s.before.is_empty() && r.before.is_empty(), "another form")
            }
            Claim::Unasked { window, timestamps, at_next } => {
                holds(active, "no ACK")?;
                equal((reset.window, reset.timestamps), (*window, *timestamps))?;
                holds(!at_next || s.end() == Some(reset.seq), "not at the next number")
            }
            Claim::AcknowledgesLate => {
                holds(active && reset.window == Some(0) && !reset.timestamps, "another form")?;
                let fin = s.fin().ok_or("no FIN")?;
                holds(s.before.iter().all(|seen| seen.frame <= fin.frame), "a packet after the FIN")?;
                holds(self.late()? > 0, "nothing came late")?;
                holds(r.data_end().is_some_and(|end| at_or_after(reset.ack, end)), "not acknowledged")
            }
            Claim::Answers { window, what, frame, or_earlier } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                self.answers(*what, *frame, *or_earlier)
            }
            Claim::AnswersUnseen { window } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                holds(self.asking().is_none(), "there is a packet that it answers")
            }
            Claim::BareUnasked { window } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                equal(s.end(), Some(reset.seq))?;
                equal(s.ack(), r.end())?;
                holds(self.asking().is_none(), "there is a packet that it answers")
            }
            Claim::BareOfItsOwn { window } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                equal(s.end(), Some(reset.seq))?;
                let last =
                    s.before.iter().rev().find(|seen| !seen.has(Flags::SYN)).ok_or("no window before it")?;
                equal(last.window, *window)?;
                holds(window.is_some_and(|window| window > 0), "the window of an answer")?;
                let asked =
                    r.before.iter().find(|seen| seen.has(Flags::ACK) && at_or_after(seen.ack, reset.seq));
                holds(asked.is_none(), "the other side had acknowledged its number")
            }
            Claim::BareWithWindow { window } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                equal(s.end(), Some(reset.seq))?;
                let last =
                    s.before.iter().rev().find(|seen| !seen.has(Flags::SYN)).ok_or("no window before it")?;
                equal(last.window, *window)?;
                holds(window.is_some_and(|window| window > 0), "the window of an answer")?;
                let asked = self.asking().ok_or("no acknowledgement before it")?;
                holds(asked.len == 0 && !asked.has(Flags::FIN), "it may answer what it had not got")?;
                equal(s.ack(), r.end())
            }
            Claim::WindowGrows { before, now } => {
                let last = s.before.iter().rev().find(|seen| !seen.has(Flags::SYN));
                equal(last.and_then(|seen| seen.window), Some(*before))?;
                equal(reset.window, Some(*now))?;
                equal(s.ack(), Some(reset.ack))?;
                holds(s.fin().is_some(), "no FIN")?;
                holds(now > before && r.bytes() > 0, "not larger")
            }
            Claim::OneDirection => holds(r.before.is_empty(), "there are packets of the other side"),
            Claim::OtherSentNothing => self.nothing_from(r, active.then_some(reset.ack)),
            Claim::NobodySentAnything => {
                self.nothing_from(r, active.then_some(reset.ack))?;
                self.nothing_from(s, r.ack())
            }
            Claim::WindowReopens { before, now } => {
                let last = s.before.iter().rev().find(|seen| !seen.has(Flags::SYN));
                equal(last.and_then(|seen| seen.window), Some(*before))?;
                equal(reset.window, Some(*now))?;
                equal(s.ack(), Some(reset.ack))?;
                holds(*now >= 2 * before && r.bytes() > 0, "not twice as large")
            }
            Claim::KeepaliveProbes { count, pauses_ms } => self.probes(*count, *pauses_ms),
            Claim::Unanswered { what, count, nanoseconds } => self.unanswered(*what, *count, *nanoseconds),
            Claim::Undelivered(bytes) => {
                holds(active, "it acknowledges nothing")?;
                let span = u64::from(r.data_end().unwrap_or(0).wrapping_sub(reset.ack));
                let lacking = span.saturating_sub(s.sacked_beyond(reset.ack));
                equal(lacking.min(r.bytes()), u64::from(*bytes))
            }
            Claim::ArrivedAfter => {
                let later = self.packet(frame)?;
                let new = r
                    .data_end()
                    .is_some_and(|end| later.data_end() != end && at_or_after(later.data_end(), end));
                let refused = later.from == self.finding.to && later.frame > reset.frame && later.len > 0;
                holds(refused && new, "no new data after it")
            }
            Claim::ServerSentNothing => {
                let server = self.side_of_client(false).ok_or("the client is not known")?;
                self.nothing_from(server, None)
            }
            Claim::SpokeLast(party) => self.spoke_last(*party),
            Claim::OtherEnded => {
                holds(r.fin().is_some(), "no FIN")?;
                let acked = self.acked(s);
                holds(
                    acked.zip(r.data_end()).is_some_and(|(ack, end)| at_or_after(ack, end)),
                    "not all was acknowledged",
                )
            }
            Claim::StaleAnswer => {
                let answer = self.packet(frame)?;
                let own = s.syn().ok_or("no SYN")?;
                holds(
                    answer.from == self.finding.to && !answer.has(Flags::SYN) && answer.ack != own.end(),
                    "it acknowledges the SYN",
                )
            }
            Claim::HandshakeIncomplete => {
                let none = s.before.iter().all(|seen| seen.has(Flags::SYN) && !seen.has(Flags::ACK));
                holds(none, "the sender has acknowledged")
            }
            Claim::SynAckRepeated(count) => {
                let (client, server) = (self.client_sent(), self.server_sent());
                let answered = client.iter().find(|seen| seen.has(Flags::ACK)).ok_or("no third ACK")?;
                let again = server.iter().filter(|seen| seen.has(Flags::SYN) && seen.frame > answered.frame);
                holds(again.count() >= usize::from(*count), "fewer")
            }
            Claim::SynAcksUnanswered(count) => {
                let answered = r.before.iter().any(|seen| seen.has(Flags::ACK));
                let syn_acks = s.before.iter().filter(|seen| seen.has(Flags::SYN | Flags::ACK)).count();
                holds(!answered && syn_acks >= usize::from(*count), "fewer, or answered")
            }
            Claim::ClientRepeated(count) => self.repeated(&self.client_sent(), *count),
            Claim::NeverAcknowledged(count) => {
                self.repeated(&r.before, *count)?;
                let first = r.syn().map(Seen::end).ok_or("no SYN")?;
                holds(s.ack().is_none_or(|ack| at_or_after(first, ack)), "acknowledged")
            }
            Claim::NothingButSynAck => {
                holds(s.before.iter().all(|seen| seen.has(Flags::SYN) || seen.len == 0), "it has sent data")?;
                equal(s.syn().map(Seen::end), Some(reset.seq))
            }
            other => self.closing(other, frame),
        }
    }

    /// FINs, silence, payload.
    pub(crate) fn closing(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        match claim {
            Claim::ClosedBefore { nanoseconds } => {
                let fin = s.fin().ok_or("no FIN")?;
                equal(Some(fin.frame), frame)?;
                self.about(reset.time_ns.saturating_sub(fin.time_ns), *nanoseconds)
            }
            // Where bytes came out of order, those that filled the gap later are left out.
            Claim::LateBytes { bytes, defied } => self.late_bytes(u64::from(*bytes), *defied),
            Claim::LateAcknowledged(bytes) => {
                equal(self.late()?, u64::from(*bytes))?;
                holds(r.data_end().is_some_and(|end| at_or_after(reset.ack, end)), "not acknowledged")
            }
            Claim::UnseenBeforeFin(bytes) => self.unseen_before_fin(*bytes),
            Claim::LateFarewell(farewell) => {
                let fin = s.fin().ok_or("no FIN")?;
                holds(self.late()? > 0, "nothing came late")?;
                let (start, bytes) = r.last_stream();
                let late = bytes.get(fin.ack.wrapping_sub(start) as usize..).ok_or("not in the capture")?;
                payload::is_farewell(late, *farewell)
            }
            Claim::BothClosed => {
                let (one, two) = (s.fin().ok_or("no FIN")?, r.fin().ok_or("one FIN is missing")?);
                equal(Some(one.frame.max(two.frame)), frame)
            }
            Claim::FinTimeoutPassed => holds(self.since_fin()? >= 59_000_000_000, "sooner"),
            Claim::SoonerThanFinTimeout => holds(self.since_fin()? < 60_000_000_000, "later"),
            Claim::LacksPart => {
                let whole = s.syn().is_some() && r.syn().is_some();
                let first = s.before.first().map_or(0, |seen| seen.data_end().wrapping_sub(seen.len));
                let gap = u64::from(s.data_end().unwrap_or(first).wrapping_sub(first)) != s.bytes();
                let disorder = s.before.windows(2).any(|two| two[1].seq != two[0].end());
                holds(!whole || gap || disorder, "the handshake and every byte are there")
            }
            Claim::BeyondCapture(bytes) => {
                let end = s.end().ok_or("no packet of the sender")?;
                equal(reset.seq.wrapping_sub(end), *bytes)
            }
            Claim::NeverClosed { nanoseconds } => {
                holds(s.fin().is_none(), "there is a FIN")?;
                let last = s.before.last().ok_or("no packet of the sender")?;
                self.about(reset.time_ns.saturating_sub(last.time_ns), *nanoseconds)
            }
            Claim::DataInFlight(bytes) => {
                holds(s.fin().is_none(), "there is a FIN")?;
                equal(s.bytes_from(reset.seq), u64::from(*bytes))
            }
            Claim::WindowClosed => self.window_closed(frame),
            Claim::Silence { nanoseconds } => self.silence(*nanoseconds),
            Claim::SynsUnanswered { count, nanoseconds } => {
                holds(s.after.is_empty(), "something else was sent")?;
                // The other side may still repeat the end of an older connection.
                let asked = reset.end();
                let answers = |seen: &&&Seen| {
                    seen.has(Flags::SYN) || seen.has(Flags::RST) || seen.has(Flags::ACK) && seen.ack == asked
                };
                let answer = r.before.iter().chain(&r.after).find(answers);
                holds(answer.is_none(), "an answer came")?;
                let syns: Vec<_> = s.before.iter().chain([&reset]).collect();
                holds(
                    syns.iter().all(|seen| seen.has(Flags::SYN) && !seen.has(Flags::ACK)),
                    "not only SYNs",
                )?;
                holds(syns.len() >= usize::from(*count), "fewer")?;
                let first = syns[syns.len() - usize::from(*count)];
                self.about(reset.time_ns.saturating_sub(first.time_ns), *nanoseconds)
            }
            Claim::SilenceBeforeFin { nanoseconds } => {
                let fin = s.fin().ok_or("no FIN")?;
                let last =
                    self.before(fin.frame).filter(|seen| seen.len > 1).last().ok_or("no data before")?;
                self.nothing_is_missing(last.frame, fin.frame)?;
                self.about(fin.time_ns.saturating_sub(last.time_ns), *nanoseconds)
            }
            Claim::SaidFarewell(party, farewell) => payload::ends_with_farewell(self.side(*party), *farewell),
            other => self.sender_of(other, frame),
        }
    }

    /// What the finding counts as lost cannot be more than was sent, or declared.
    pub(crate) fn amounts(&self) -> Proof {
        let Some(client) = self.side_of_client(true) else { return Ok(()) };
        let Some(server) = self.side_of_client(false) else { return Ok(()) };
        let http = Http::answers(server, client);
        let acked = self.acked(client).or(server.before.first().map(|seen| seen.seq)).unwrap_or(0);
        let later = || server.after.iter().filter(|seen| seen.len > 0);
        let end = latest(server.before.iter().copied().chain(later().copied()).map(|seen| seen.data_end()));
        let span = u64::from(end.unwrap_or(acked).wrapping_sub(acked));
        let after: u64 = later().map(|seen| u64::from(seen.len)).sum();
        let declared = http.missing_from(acked).unwrap_or(0);
        let most = span.min(server.bytes() + after).max(declared);
        let most = most.saturating_sub(client.sacked_beyond(acked)) + after;
        // What came after the client's FIN, and its reset acknowledges, was not read.
        let by_client = self.finding.client == Some(self.finding.from) && self.c.reset.has(Flags::ACK);
        let most = most.max(self.late().ok().filter(|_| by_client).unwrap_or(0));
        holds(self.finding.lost_response_bytes.unwrap_or(0) <= most, "more than the client lacks")?;
        let sent: u64 = self.client_sent().iter().map(|seen| u64::from(seen.len)).sum();
        holds(
            self.finding.unread_request_bytes.unwrap_or(0) <= sent.max(client.bytes()),
            "more than the client sent",
        )
    }

    pub(crate) fn side(&self, party: Party) -> &Sent<'_> {
        if party.is_resetter { &self.c.sender } else { &self.c.receiver }
    }

    pub(crate) fn side_of_client(&self, client: bool) -> Option<&Sent<'_>> {
        let opener = self.finding.client?;
        let sender = (opener == self.finding.from) == client;
        Some(if sender { &self.c.sender } else { &self.c.receiver })
    }

    pub(crate) fn listener(&self) -> std::net::SocketAddr {
        if self.finding.client == Some(self.finding.from) { self.finding.to } else { self.finding.from }
    }

    pub(crate) fn syn_acks(&self) -> impl Iterator<Item = &Seen> {
        let ends = [self.finding.from, self.finding.to];
        self.all.iter().filter(move |seen| ends.contains(&seen.from) && seen.has(Flags::SYN | Flags::ACK))
    }

    /// The latest acknowledgement of a side, that of the reset and later ones included.
    pub(crate) fn acked(&self, side: &Sent<'_>) -> Option<u32> {
        let reset =
            (std::ptr::eq(side, &self.c.sender) && self.c.reset.has(Flags::ACK)).then_some(self.c.reset.ack);
        match (side.final_ack(), reset) {
            (Some(one), Some(two)) => Some(if at_or_after(one, two) { one } else { two }),
            (one, two) => one.or(two),
        }
    }

    pub(crate) fn packet(&self, frame: Option<u64>) -> Result<&Seen, String> {
        self.all.iter().find(|seen| Some(seen.frame) == frame).ok_or_else(|| "no such frame".to_owned())
    }

    pub(crate) fn before(&self, frame: u64) -> impl Iterator<Item = &Seen> {
        let mut all: Vec<&Seen> =
            self.c.sender.before.iter().chain(&self.c.receiver.before).copied().collect();
        all.sort_by_key(|seen| seen.frame);
        all.into_iter().filter(move |seen| seen.frame < frame)
    }

    pub(crate) fn about(&self, is: u64, said: u64) -> Proof {
        holds(is.abs_diff(said) <= 2_000, &format!("it is {is} ns"))
    }

    pub(crate) fn nothing_from(&self, side: &Sent<'_>, acknowledged: Option<u32>) -> Proof {
        equal(side.bytes(), 0)?;
        let Some(end) = side.end() else { return Ok(()) };
        holds(
            acknowledged.is_none_or(|ack| at_or_after(end, ack)),
            "bytes were acknowledged that are not here",
        )
    }

    /// The latest packet that a bare reset can answer: after the sender's last packet, with the reset's number as its
    /// acknowledgement, and 3 s before it at most.
    pub(crate) fn asking(&self) -> Option<&Seen> {
        let last = self.c.sender.before.last().map_or(0, |seen| seen.frame);
        let mut asking = self
            .c
            .receiver
            .before
            .iter()
            .rev()
            .filter(|seen| seen.has(Flags::ACK) && seen.ack == self.c.reset.seq);
        let recent = |seen: &Seen| self.c.reset.time_ns.saturating_sub(seen.time_ns) <= 3_000_000_000;
        asking.find(|seen| seen.frame > last && recent(seen)).copied()
    }
}
