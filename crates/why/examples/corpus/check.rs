//! Proves or refutes the sentences of a finding from the packets alone. Written apart from the rules, and simpler: it keeps every
//! packet and looks at all of them for each sentence.

use linger_packet::Flags;
use linger_why::{Asked, Claim, Evidence, Finding, Party, Repeated};

use crate::payload::{self, Http};
use crate::trace::{Connection, Seen, Sent, at_or_after};

/// A sentence that the packets refute.
#[derive(Debug)]
pub(crate) struct Refuted {
    pub(crate) says: String,
    pub(crate) because: String,
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
    if let Err(because) = checker.amounts() {
        let says =
            format!("lost {:?}, unread {:?}", finding.lost_response_bytes, finding.unread_request_bytes);
        refuted.push(Refuted { says, because });
    }
    refuted
}

type Proof = Result<(), String>;

fn holds(holds: bool, otherwise: &str) -> Proof {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(is: T, said: T) -> Proof {
    if is == said { Ok(()) } else { Err(format!("it is {is:?}")) }
}

struct Checker<'a> {
    all: &'a [Seen],
    finding: &'a Finding,
    c: &'a Connection<'a>,
}

impl Checker<'_> {
    fn claim(&self, evidence: &Evidence) -> Proof {
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
            Claim::Answers { window, what, frame } => {
                holds(!active, "it has an ACK")?;
                equal(reset.window, *window)?;
                self.answers(*what, *frame)
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
                equal(span.min(r.bytes()), u64::from(*bytes))
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
    fn closing(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        match claim {
            Claim::ClosedBefore { nanoseconds } => {
                let fin = s.fin().ok_or("no FIN")?;
                equal(Some(fin.frame), frame)?;
                self.about(reset.time_ns.saturating_sub(fin.time_ns), *nanoseconds)
            }
            // Where bytes came out of order, those that filled the gap later are left out.
            Claim::LateBytes(bytes) if r.in_order() => equal(self.late()?, u64::from(*bytes)),
            Claim::LateBytes(bytes) => holds(self.late()? >= u64::from(*bytes), "fewer"),
            Claim::LateAcknowledged(bytes) => {
                equal(self.late()?, u64::from(*bytes))?;
                holds(r.data_end().is_some_and(|end| at_or_after(reset.ack, end)), "not acknowledged")
            }
            Claim::LateFarewell(farewell) => {
                let fin = s.fin().ok_or("no FIN")?;
                holds(self.late()? > 0, "nothing came late")?;
                let (start, bytes) = r.last_stream();
                let late = bytes.get(fin.ack.wrapping_sub(start) as usize..).ok_or("not in the capture")?;
                payload::is_farewell(late, *farewell)
            }
            Claim::BothClosed => holds(s.fin().is_some() && r.fin().is_some(), "one FIN is missing"),
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
            Claim::WindowClosed => self.window_closed(),
            Claim::Silence { nanoseconds } => self.silence(*nanoseconds),
            Claim::SynsUnanswered { count, nanoseconds } => {
                let nothing = r.before.is_empty() && r.after.is_empty() && s.after.is_empty();
                holds(nothing, "something else was sent")?;
                let syns: Vec<_> = s.before.iter().chain([&reset]).collect();
                holds(syns.iter().all(|seen| seen.has(Flags::SYN) && !seen.has(Flags::ACK)), "not only SYNs")?;
                holds(syns.len() >= usize::from(*count), "fewer")?;
                let first = syns[syns.len() - usize::from(*count)];
                self.about(reset.time_ns.saturating_sub(first.time_ns), *nanoseconds)
            }
            Claim::SilenceBeforeFin { nanoseconds } => {
                let fin = s.fin().ok_or("no FIN")?;
                let last =
                    self.before(fin.frame).filter(|seen| seen.len > 1).last().ok_or("no data before")?;
                self.about(fin.time_ns.saturating_sub(last.time_ns), *nanoseconds)
            }
            Claim::SaidFarewell(party, farewell) => {
                let (_, bytes) = self.side(*party).last_stream();
                payload::ends_with_farewell(&bytes, *farewell, self.side(*party).last_said())
            }
            other => self.sender_of(other, frame),
        }
    }

    /// Who sent it, and what other connections show.
    fn sender_of(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        match claim {
            Claim::TtlDiffers { reset: own, usual } | Claim::TtlOfSameDistance { reset: own, usual } => {
                equal(reset.ttl, *own)?;
                holds(s.before.iter().any(|seen| seen.ttl == *usual), "no packet has that TTL")
            }
            Claim::ListenerTtl { reset: own, usual } => {
                equal(reset.ttl, *own)?;
                holds(self.syn_acks().any(|seen| seen.ttl == *usual), "no SYN-ACK has that TTL")
            }
            Claim::IdDiffers { reset: own, last } => {
                equal(reset.id, Some(*own))?;
                equal(s.before.last().and_then(|seen| seen.id), Some(*last))
            }
            Claim::GoesOnAcknowledging => {
                let later = self.packet(frame)?;
                let had = if reset.has(Flags::ACK) { Some(reset.ack) } else { r.end() };
                let newer = had.is_some_and(|had| later.ack != had && at_or_after(later.ack, had));
                holds(later.from == self.finding.from && later.frame > reset.frame && newer, "nothing new")
            }
            Claim::GoesOnSending => {
                let later = self.packet(frame)?;
                let newer = later.end() != reset.seq && at_or_after(later.end(), reset.seq);
                holds(later.from == self.finding.from && later.frame > reset.frame && newer, "nothing new")
            }
            Claim::TooSoon { after_us, .. } => {
                let asked = self.asking().ok_or("no packet that it answers")?;
                self.about(reset.time_ns.saturating_sub(asked.time_ns), after_us * 1_000)
            }
            Claim::NetScaler { code, .. } => equal(reset.window, Some(*code)),
            Claim::BigIp(text) | Claim::Text(text) => {
                holds(reset.payload.starts_with(text.as_bytes()), "another payload")
            }
            Claim::Diagnostic { code, .. } | Claim::VendorDiagnostic { code, .. } => {
                equal(reset.payload.get(2..4), Some(&code.to_be_bytes()[..]))
            }
            Claim::PortRefusesLater => {
                let later = self.packet(frame)?;
                let listener = [self.finding.from, self.finding.to].contains(&later.from);
                holds(listener && later.has(Flags::RST | Flags::ACK), "no refusal of that port")
            }
            Claim::PortAcceptsLater => {
                let soon = reset.time_ns..reset.time_ns + 2_000_000_000;
                holds(self.syn_acks().any(|seen| soon.contains(&seen.time_ns)), "it does not")
            }
            Claim::PortAcceptedBefore => {
                holds(self.syn_acks().any(|seen| seen.time_ns < reset.time_ns), "it did not")
            }
            Claim::EndedTogether(count) => self.ends_near(100_000_000, 100_000_000, *count),
            Claim::EndedBefore(count) => self.ends_near(10_000_000_000, 0, *count),
            Claim::OthersTurnedAway(count) => {
                let listener = self.listener();
                let away = self
                    .all
                    .iter()
                    .filter(|seen| seen.from == listener && seen.has(Flags::RST) && !seen.has(Flags::ACK));
                holds(away.count() >= *count as usize, "fewer")
            }
            Claim::OthersSynAcksRepeated => {
                let again = self.syn_acks().any(|one| {
                    self.syn_acks().any(|two| two.frame > one.frame && two.to == one.to && two.seq == one.seq)
                });
                holds(again, "none is")
            }
            Claim::OtherView(_) => Ok(()),
            other => self.application(other),
        }
    }

    /// What the payload shows.
    fn application(&self, claim: &Claim) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let client = self.side_of_client(true);
        let server = self.side_of_client(false);
        match claim {
            Claim::RequestIncomplete(bytes) => {
                let http = Http::of(r, true);
                equal(http.missing_from(r.data_end().unwrap_or(0)), Some(*bytes))
            }
            Claim::RequestsUnanswered(count) => {
                let (asked, answered) = (Http::of(r, true).messages, Http::of(s, false).messages);
                equal(asked.saturating_sub(answered), u32::from(*count))
            }
            Claim::FastCgiUnread { stdin_ended } => {
                holds(payload::fastcgi(&s.stream().1).any(|(kind, _)| kind == 3), "no END_REQUEST")?;
                equal(payload::fastcgi(&r.stream().1).any(|record| record == (5, 0)), *stdin_ended)
            }
            Claim::ExchangeWhole => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let (asked, answered) = (Http::of(client, true), Http::of(server, false));
                holds(answered.messages >= asked.messages, "a request has no response")?;
                let acked = self.acked(client).unwrap_or(0);
                let closed = answered.until_close && server.fin().is_some();
                let end = server.data_end().unwrap_or(0);
                holds(
                    answered.missing_from(acked) == Some(0) || closed && at_or_after(acked, end),
                    "the response is not whole at the client",
                )
            }
            Claim::ResponseOpen => {
                let server = server.ok_or("no server")?;
                let http = Http::of(server, false);
                holds((http.chunked || http.until_close) && server.fin().is_none(), "it was finished")
            }
            Claim::ResponseShort(bytes) => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let first = server.syn().map(Seen::end).or(server.before.first().map(|seen| seen.seq));
                let acked = self.acked(client).or(first).unwrap_or(0);
                equal(Http::of(server, false).missing_from(acked), Some(*bytes))
            }
            Claim::RecordShort(bytes) => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let first = server.syn().map(Seen::end).or(server.before.first().map(|seen| seen.seq));
                let acked = self.acked(client).or(first).unwrap_or(0);
                let end = payload::tls_end(server).ok_or("no TLS")?;
                equal(end.wrapping_sub(acked), *bytes)
            }
            Claim::EndRequest | Claim::NoEndRequest => {
                let (_, bytes) = server.ok_or("no server")?.stream();
                let ended = payload::fastcgi(&bytes).any(|(kind, _)| kind == 3);
                equal(ended, *claim == Claim::EndRequest)
            }
            Claim::SshBanner => holds(server.ok_or("no server")?.stream().1.starts_with(b"SSH-"), "none"),
            Claim::NoResponse => equal(server.ok_or("no server")?.bytes(), 0),
            // A sentence that nobody wrote a proof for proves nothing.
            other => Err(format!("not checked: {other:?}")),
        }
    }

    /// What the finding counts as lost cannot be more than was sent, or declared.
    fn amounts(&self) -> Proof {
        let Some(client) = self.side_of_client(true) else { return Ok(()) };
        let Some(server) = self.side_of_client(false) else { return Ok(()) };
        let http = Http::of(server, false);
        let acked = self.acked(client).or(server.before.first().map(|seen| seen.seq)).unwrap_or(0);
        let span = u64::from(server.data_end().unwrap_or(acked).wrapping_sub(acked));
        let most = span.min(server.bytes()).max(http.missing_from(acked).map_or(0, u64::from));
        holds(self.finding.lost_response_bytes.unwrap_or(0) <= most, "more than the client lacks")?;
        let sent: u64 = self.client_sent().iter().map(|seen| u64::from(seen.len)).sum();
        holds(self.finding.unread_request_bytes.unwrap_or(0) <= sent.max(client.bytes()), "more than the client sent")
    }

    fn side(&self, party: Party) -> &Sent<'_> {
        if party.is_resetter { &self.c.sender } else { &self.c.receiver }
    }

    fn side_of_client(&self, client: bool) -> Option<&Sent<'_>> {
        let opener = self.finding.client?;
        let sender = (opener == self.finding.from) == client;
        Some(if sender { &self.c.sender } else { &self.c.receiver })
    }

    fn listener(&self) -> std::net::SocketAddr {
        if self.finding.client == Some(self.finding.from) { self.finding.to } else { self.finding.from }
    }

    fn syn_acks(&self) -> impl Iterator<Item = &Seen> {
        let ends = [self.finding.from, self.finding.to];
        self.all.iter().filter(move |seen| ends.contains(&seen.from) && seen.has(Flags::SYN | Flags::ACK))
    }

    /// The latest acknowledgement of a side, that of the reset and later ones included.
    fn acked(&self, side: &Sent<'_>) -> Option<u32> {
        let reset =
            (std::ptr::eq(side, &self.c.sender) && self.c.reset.has(Flags::ACK)).then_some(self.c.reset.ack);
        match (side.final_ack(), reset) {
            (Some(one), Some(two)) => Some(if at_or_after(one, two) { one } else { two }),
            (one, two) => one.or(two),
        }
    }

    fn packet(&self, frame: Option<u64>) -> Result<&Seen, String> {
        self.all.iter().find(|seen| Some(seen.frame) == frame).ok_or_else(|| "no such frame".to_owned())
    }

    fn before(&self, frame: u64) -> impl Iterator<Item = &Seen> {
        let mut all: Vec<&Seen> =
            self.c.sender.before.iter().chain(&self.c.receiver.before).copied().collect();
        all.sort_by_key(|seen| seen.frame);
        all.into_iter().filter(move |seen| seen.frame < frame)
    }

    fn about(&self, is: u64, said: u64) -> Proof {
        holds(is.abs_diff(said) <= 2_000, &format!("it is {is} ns"))
    }

    fn nothing_from(&self, side: &Sent<'_>, acknowledged: Option<u32>) -> Proof {
        equal(side.bytes(), 0)?;
        let Some(end) = side.end() else { return Ok(()) };
        holds(
            acknowledged.is_none_or(|ack| at_or_after(end, ack)),
            "bytes were acknowledged that are not here",
        )
    }

    /// The latest packet that a bare reset can answer: after the sender's last packet, with the reset's number as its
    /// acknowledgement.
    fn asking(&self) -> Option<&Seen> {
        let last = self.c.sender.before.last().map_or(0, |seen| seen.frame);
        let mut asking = self
            .c
            .receiver
            .before
            .iter()
            .rev()
            .filter(|seen| seen.has(Flags::ACK) && seen.ack == self.c.reset.seq);
        asking.find(|seen| seen.frame > last).copied()
    }

    fn answers(&self, what: Asked, frame: u64) -> Proof {
        let asked = self.packet(Some(frame))?;
        holds(asked.from == self.finding.to && asked.frame < self.c.reset.frame, "not before it")?;
        equal(asked.ack, self.c.reset.seq)?;
        let is = match asked.kind() {
            (flags, _) if flags.has(Flags::SYN) => Asked::SynAck,
            (flags, 0) if flags.has(Flags::FIN) => Asked::Fin,
            (_, 0) => Asked::Acknowledgement,
            (flags, bytes) => Asked::Data { bytes, fin: flags.has(Flags::FIN) },
        };
        equal(is, what)
    }

    fn late(&self) -> Result<u64, String> {
        let fin = self.c.sender.fin().ok_or("no FIN")?;
        Ok(self.c.receiver.bytes_from(fin.ack))
    }

    fn since_fin(&self) -> Result<u64, String> {
        let fin = self.c.sender.fin().ok_or("no FIN")?;
        Ok(self.c.reset.time_ns.saturating_sub(fin.time_ns))
    }

    /// The sender's packets since the other side's last one.
    fn unanswered_tail(&self) -> Vec<&Seen> {
        let last = self.c.receiver.before.last().map_or(0, |seen| seen.frame);
        self.c.sender.before.iter().filter(|seen| seen.frame > last).copied().collect()
    }

    fn probes(&self, count: u16, pauses_ms: (u32, u32)) -> Proof {
        let next = self.c.sender.end().ok_or("no packet of the sender")?;
        let tail = self.unanswered_tail();
        let probes: Vec<_> =
            tail.iter().filter(|seen| seen.len <= 1 && seen.seq == next.wrapping_sub(1)).collect();
        holds(probes.len() >= usize::from(count), "fewer")?;
        let pauses = probes.windows(2).map(|two| (two[1].time_ns - two[0].time_ns) / 1_000_000);
        equal(pauses.max().unwrap_or(0), u64::from(pauses_ms.1))
    }

    fn unanswered(&self, what: Repeated, count: u16, nanoseconds: u64) -> Proof {
        let tail = self.unanswered_tail();
        holds(tail.len() >= usize::from(count), "fewer")?;
        let span = tail.last().map_or(0, |seen| seen.time_ns) - tail.first().map_or(0, |seen| seen.time_ns);
        holds(span + 2_000 >= nanoseconds, "not so long")?;
        match what {
            Repeated::WindowProbes => {
                equal(self.c.receiver.before.last().and_then(|seen| seen.window), Some(0))
            }
            _ => self.repeated(&self.c.sender.before, count),
        }
    }

    /// What the client sent, the packet in the place of a reset included: where there is no reset it is the client's.
    fn client_sent(&self) -> Vec<&Seen> {
        let side = if self.finding.client == Some(self.finding.from) { &self.c.sender } else { &self.c.receiver };
        let last = (!self.c.reset.has(Flags::RST)).then_some(self.c.reset);
        side.before.iter().copied().chain(last).chain(side.after.iter().copied()).collect()
    }

    fn server_sent(&self) -> Vec<&Seen> {
        let side = if self.finding.client == Some(self.finding.from) { &self.c.receiver } else { &self.c.sender };
        side.before.iter().chain(&side.after).copied().collect()
    }

    fn repeated(&self, side: &[&Seen], count: u16) -> Proof {
        let mut end = None::<u32>;
        let mut again = 0;
        for seen in side {
            let known = end.is_some_and(|end| at_or_after(end, seen.end()));
            again += usize::from(known && (seen.len > 0 || seen.has(Flags::FIN)));
            if !known {
                end = Some(seen.end());
            }
        }
        holds(again >= usize::from(count), &format!("{again} were"))
    }

    fn spoke_last(&self, party: Party) -> Proof {
        let (own, other) = match party.is_resetter {
            true => (&self.c.sender, &self.c.receiver),
            false => (&self.c.receiver, &self.c.sender),
        };
        let last = own.last_said().ok_or("it said nothing")?;
        holds(other.last_said().is_none_or(|seen| seen.frame < last.frame), "the other side spoke later")?;
        let acked = self.acked(other);
        let end = own.data_end().unwrap_or(0);
        holds(acked.is_some_and(|ack| at_or_after(ack, end)), "not acknowledged")
    }

    fn window_closed(&self) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let last = r.before.iter().rev().find(|seen| !seen.has(Flags::SYN)).ok_or("no window")?;
        let scale = match (s.syn(), r.syn()) {
            (Some(_), Some(syn)) => syn.scale.unwrap_or(0),
            _ => 0,
        };
        let window = u64::from(last.window.unwrap_or(0)) << scale;
        let used = s.bytes_from(r.ack().ok_or("no acknowledgement")?);
        holds(window < used + 536, &format!("{window} bytes of window, {used} used"))
    }

    /// Between the last new payload, SYN or FIN and the reset, or the packet that it answers.
    fn silence(&self, nanoseconds: u64) -> Proof {
        let reset = self.c.reset;
        let answered = self.finding.evidence.iter().find_map(|evidence| match evidence.says {
            Claim::Answers { frame, .. } => Some(frame),
            _ => None,
        });
        let end = match answered {
            Some(frame) => self.packet(Some(frame))?,
            None => reset,
        };
        let from = end.time_ns.saturating_sub(nanoseconds);
        let mut known: Vec<(std::net::SocketAddr, u32)> = Vec::new();
        for seen in self.before(end.frame) {
            let said = seen.len > 1 || seen.has(Flags::SYN) || seen.has(Flags::FIN);
            let side = known.iter_mut().find(|(from, _)| *from == seen.from);
            let new = side.as_ref().is_none_or(|(_, end)| !at_or_after(*end, seen.end()));
            match side {
                Some((_, end)) if new => *end = seen.end(),
                Some(_) => {}
                None => known.push((seen.from, seen.end())),
            }
            if said && new && seen.time_ns > from + 2_000 {
                return Err(format!("frame {} was sent in that time", seen.frame));
            }
        }
        Ok(())
    }

    fn ends_near(&self, before: u64, after: u64, count: u32) -> Proof {
        let time = self.c.reset.time_ns;
        let near = time.saturating_sub(before)..=time + after;
        let listener = self.listener();
        let mut peers: Vec<_> = self
            .all
            .iter()
            .filter(|seen| seen.from == listener && near.contains(&seen.time_ns))
            .filter(|seen| seen.has(Flags::FIN) || seen.has(Flags::RST))
            .map(|seen| seen.to)
            .collect();
        peers.sort_unstable();
        peers.dedup();
        holds(peers.len() >= count as usize, &format!("{}", peers.len()))
    }
}
