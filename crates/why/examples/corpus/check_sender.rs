//! Proofs of sentences about who sent a reset, what other connections show, and what the payload says.

use linger_packet::Flags;
use linger_why::Claim;

use crate::check::{Checker, Proof, equal, holds};
use crate::payload::{self, Http};
use crate::trace::{Seen, at_or_after};

impl Checker<'_> {
    /// Who sent it, and what other connections show.
    pub(crate) fn sender_of(&self, claim: &Claim, frame: Option<u64>) -> Proof {
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
            Claim::TtlAlone => self.ttl_alone(),
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
            Claim::OwnResetBehind => {
                let later = self.packet(frame)?;
                holds(
                    later.has(Flags::RST) && later.has(Flags::ACK) && !reset.has(Flags::ACK),
                    "another form",
                )?;
                holds(at_or_after(later.seq, reset.seq), "at an earlier number")?;
                holds(
                    later.from == self.finding.from && later.frame > reset.frame,
                    "another sender, or earlier",
                )
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
                let between = reset.time_ns + 1..later.time_ns;
                let accepted =
                    self.syn_acks().any(|one| one.from == later.from && between.contains(&one.time_ns));
                holds(!accepted, "the port accepted a connection in between")?;
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
            Claim::OtherView(_) | Claim::SentIn(_) => Ok(()),
            Claim::SeveralOfItsOwn { .. }
            | Claim::LacksTimestamps { .. }
            | Claim::WindowInAnswer { .. }
            | Claim::AcknowledgesTooSoon { .. }
            | Claim::MptcpEnded(_)
            | Claim::WrongChecksum
            | Claim::BeatsAnsweredHere { .. } => self.fingerprint(claim),
            other => self.application(other, frame),
        }
    }

    /// No other sentence, and no sign that can be looked for without numbers, shows another sender.
    fn ttl_alone(&self) -> Proof {
        let (reset, s) = (self.c.reset, &self.c.sender);
        let differs = match s.before.last() {
            Some(last) => last.ttl != reset.ttl,
            None => self.syn_acks().any(|seen| seen.ttl != reset.ttl),
        };
        holds(differs, "its TTL is that of its sender")?;
        let other = |claim: &Claim| {
            matches!(
                claim,
                Claim::IdDiffers { .. }
                    | Claim::GoesOnAcknowledging
                    | Claim::GoesOnSending
                    | Claim::TooSoon { .. }
                    | Claim::SeveralOfItsOwn { .. }
                    | Claim::AcknowledgesTooSoon { .. }
            )
        };
        let said = self.finding.evidence.iter().any(|evidence| other(&evidence.says));
        let window = reset.window.map(|window| Claim::WindowInAnswer { window });
        // Before there is payload, it is not known whether they have agreed.
        let stamps =
            (s.bytes() + self.c.receiver.bytes() > 0).then_some(Claim::LacksTimestamps { linux: true });
        let signs = [stamps, window, Some(Claim::WrongChecksum)];
        let shown = signs.iter().flatten().any(|claim| self.fingerprint(claim).is_ok());
        holds(!said && !shown && reset.payload.is_empty(), "there is another sign")
    }

    /// What the payload shows.
    pub(crate) fn application(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let client = self.side_of_client(true);
        let server = self.side_of_client(false);
        match claim {
            Claim::RequestIncomplete(bytes) => {
                let http = Http::of(r, true);
                equal(http.missing_from(r.data_end().unwrap_or(0)), Some(*bytes))
            }
            Claim::RequestsUnanswered(count) => {
                let (asked, answered) = (Http::of(r, true).messages, Http::answers(s, r).messages);
                equal(asked.saturating_sub(answered), u32::from(*count))
            }
            Claim::FastCgiUnread { stdin_ended } => {
                holds(payload::fastcgi(&s.stream().1).any(|(kind, _)| kind == 3), "no END_REQUEST")?;
                equal(payload::fastcgi(&r.stream().1).any(|record| record == (5, 0)), *stdin_ended)
            }
            Claim::ExchangeWhole => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let (asked, answered) = (Http::of(client, true), Http::answers(server, client));
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
                let missing = Http::answers(server, client).missing_from(acked);
                equal(missing.map(|missing| missing - client.sacked_beyond(acked)), Some(*bytes))
            }
            Claim::RecordShort(bytes) | Claim::RecordsShort(bytes) => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let first = server.syn().map(Seen::end).or(server.before.first().map(|seen| seen.seq));
                let acked = self.acked(client).or(first).unwrap_or(0);
                let (begin, end) = payload::tls_last(server).ok_or("no TLS")?;
                equal(u64::from(end.wrapping_sub(acked)) - client.sacked_beyond(acked), *bytes)?;
                let inside = acked != begin && at_or_after(acked, begin);
                equal(inside, matches!(claim, Claim::RecordShort(_)))
            }
            Claim::FrameShort(protocol, bytes) => {
                let (client, server) = (client.ok_or("no client")?, server.ok_or("no server")?);
                let first = server.syn().map(Seen::end).or(server.before.first().map(|seen| seen.seq));
                let acked = self.acked(client).or(first).unwrap_or(0);
                let end = payload::frames_end(server, *protocol).ok_or("no frames")?;
                equal(u64::from(end.wrapping_sub(acked)) - client.sacked_beyond(acked), *bytes)
            }
            Claim::EndRequest | Claim::NoEndRequest => {
                let (_, bytes) = server.ok_or("no server")?.stream();
                let ended = payload::fastcgi(&bytes).any(|(kind, _)| kind == 3);
                equal(ended, *claim == Claim::EndRequest)
            }
            Claim::SshBanner => holds(server.ok_or("no server")?.stream().1.starts_with(b"SSH-"), "none"),
            Claim::NoResponse => equal(server.ok_or("no server")?.bytes(), 0),
            other => self.failure(other, frame),
        }
    }
}
