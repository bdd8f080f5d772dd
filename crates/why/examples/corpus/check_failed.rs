//! Proofs of sentences about connections that failed without a reset. The finding's own packet is one of its sender.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use linger_packet::Flags;
use linger_why::{Claim, Farewell, Framed};

use crate::check::{Checker, Proof, equal, holds};
use crate::payload::{self, Http};
use crate::trace::{Seen, Sent, at_or_after, latest};

/// The SYNs of one connection, and the SYN-ACK that they got.
#[derive(Default)]
struct Wait<'a> {
    syns: Vec<&'a Seen>,
    syn_ack: Option<&'a Seen>,
}

impl Wait<'_> {
    fn is_late(&self) -> bool {
        let (Some(first), Some(syn_ack)) = (self.syns.first(), self.syn_ack) else { return false };
        // To the microsecond, as the readers of captures have it.
        self.syns.len() >= 3 && syn_ack.time_ns / 1_000 - first.time_ns / 1_000 >= 1_800_000
    }
}

impl Checker<'_> {
    /// Everything that one end has sent.
    fn all_from(&self, end: SocketAddr) -> Sent<'_> {
        let (own, other) = (&self.c.sender, &self.c.receiver);
        let side = if end == self.finding.from { own } else { other };
        let itself = (end == self.finding.from).then_some(self.c.reset);
        let before = side.before.iter().copied().chain(itself).chain(side.after.iter().copied()).collect();
        Sent { before, after: Vec::new() }
    }

    /// The client's side and the server's.
    pub(crate) fn both(&self) -> Result<(Sent<'_>, Sent<'_>), String> {
        let client = self.finding.client.ok_or("the client is not known")?;
        let server = if client == self.finding.from { self.finding.to } else { self.finding.from };
        Ok((self.all_from(client), self.all_from(server)))
    }

    pub(crate) fn failure(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        match claim {
            Claim::Icmp { problem, reporter } => {
                let error = self.packet(frame)?.icmp.ok_or("no ICMP error")?;
                equal((error.problem, error.reporter), (*problem, *reporter))?;
                let ends = [self.finding.from, self.finding.to];
                holds(ends.contains(&error.source) && ends.contains(&error.destination), "another connection")
            }
            Claim::Alert(party, alert) => {
                let end = if party.is_resetter { self.finding.from } else { self.finding.to };
                let all = self.all_from(end);
                let side = if self.finding.class.is_reset() { self.side(*party) } else { &all };
                equal(payload::last_alert(side), Some(*alert))
            }
            Claim::OnlyFarewellLeft(party, farewell) => {
                let end = if party.is_resetter { self.finding.from } else { self.finding.to };
                let other = if party.is_resetter { self.finding.to } else { self.finding.from };
                let (own, peer) = (self.all_from(end), self.all_from(other));
                // A stream with a gap may end with a segment that is one whole record.
                let record = own.last_said().map_or(&[][..], |seen| &seen.payload);
                let alone = match record {
                    &[kind, 3, _, high, low, ..] => {
                        let length = usize::from(u16::from_be_bytes([high, low]));
                        record.len() == 5 + length && (kind == 21 || kind == 23 && length <= 19)
                    }
                    _ => false,
                };
                if !(alone && *farewell == Farewell::TlsAlert) {
                    payload::ends_with_farewell(&own, *farewell)?;
                }
                let taken = peer.final_ack().or(peer.ack()).ok_or("nothing was acknowledged")?;
                let before = Sent {
                    before: own.before.iter().copied().filter(|seen| !at_or_after(seen.seq, taken)).collect(),
                    after: Vec::new(),
                };
                let earlier = before.data_end().is_none_or(|end| at_or_after(taken, end));
                holds(earlier && own.bytes_from(taken) > 0, "more was left")?;
                let heard = own.final_ack().or(own.ack()).ok_or("it acknowledges nothing")?;
                equal(peer.bytes_from(heard), 0)?;
                let said = payload::ends_with_farewell(&peer, *farewell).is_ok();
                holds(said || peer.fin().is_some(), "the peer had not closed")
            }
            Claim::ServerName(name) => {
                let (client, _) = self.both()?;
                let (_, bytes) = client.stream();
                let hello = bytes.starts_with(&[22, 3]);
                let named = bytes.windows(name.len()).any(|part| part == name.as_bytes());
                holds(hello && named, "no ClientHello with that name")
            }
            Claim::Request { method, host, status } => self.request(method, host.as_deref(), *status),
            Claim::RefusedAgain(count) => self.refused_again(*count, 0),
            Claim::AskedInVain(count) => self.refused_again(0, *count),
            Claim::OpenedLate { count, nanoseconds } => self.opened_late(frame, *count, *nanoseconds),
            Claim::PortOpenedLate(count) => {
                let late = self.waits().filter(|wait| wait.is_late()).count();
                holds(late >= *count as usize, "fewer")
            }
            Claim::PortCrowded { again, at_first, unheard } => self.crowded(*again, *at_first, *unheard),
            Claim::ServedOthersMeanwhile => self.served_meanwhile(),
            Claim::PortHolds(count) => holds(self.held().count() >= *count as usize, "fewer"),
            Claim::HostHeardMeanwhile => {
                let first = self.all_from(self.finding.from).before.first().map_or(0, |seen| seen.frame);
                let heard = self.held().any(|packets| {
                    packets.iter().any(|seen| seen.from == self.listener() && seen.frame > first)
                });
                holds(heard, "nothing was acknowledged")
            }
            Claim::WindowStuck { probes, nanoseconds } => self.stuck(*probes, *nanoseconds),
            Claim::SentAgain { bytes, count, nanoseconds } => self.again(*bytes, *count, *nanoseconds),
            Claim::NoneSoLongTaken { bytes } => {
                let (own, other) = (self.all_from(self.finding.from), self.all_from(self.finding.to));
                let acked = other.final_ack().or(other.ack()).ok_or("nothing was acknowledged")?;
                let taken =
                    own.before.iter().find(|seen| seen.len >= *bytes && at_or_after(acked, seen.end()));
                let mut blocks = other.before.iter().flat_map(|seen| &seen.sack);
                let long =
                    blocks.any(|&(from, to)| at_or_after(from, acked) && to.wrapping_sub(from) >= *bytes);
                holds(taken.is_none() && !long, "one was")
            }
            Claim::ShorterTaken { bytes } => {
                let other = self.all_from(self.finding.to);
                let acked = other.final_ack().or(other.ack()).ok_or("nothing was acknowledged")?;
                equal(other.sacked_beyond(acked), u64::from(*bytes))
            }
            Claim::GoAway { .. }
            | Claim::StreamsReset { .. }
            | Claim::Streams { .. }
            | Claim::StreamsWhole(_)
            | Claim::StreamsUnknown(_) => self.streams(claim, frame),
            other => self.closed_early(other, frame),
        }
    }

    /// After the reset the client's SYN was sent again with its number, and so often an RST+ACK followed, and so often nothing.
    fn refused_again(&self, count: u32, in_vain: u32) -> Proof {
        let (finding, syn) = (self.finding, self.c.receiver.syn().ok_or("no SYN")?);
        let later = self.all.iter().filter(|seen| seen.frame > finding.frame && seen.icmp.is_none());
        let (mut asked, mut refused, mut all) = (false, 0, 0);
        for seen in later.filter(|seen| seen.interface == finding.interface) {
            if (seen.from, seen.to, seen.seq) == (syn.from, syn.to, syn.seq) && seen.has(Flags::SYN) {
                (asked, all) = (true, all + 1);
            } else if (seen.from, seen.to) == (syn.to, syn.from) && seen.has(Flags::RST | Flags::ACK) && asked
            {
                (asked, refused) = (false, refused + 1);
            }
        }
        holds(refused >= count && all >= refused + in_vain, "not so often")
    }

    /// The frame is the first SYN-ACK, `nanoseconds` after the first of `count` SYNs.
    fn opened_late(&self, frame: Option<u64>, count: u16, nanoseconds: u64) -> Proof {
        let syn_ack = self.packet(frame)?;
        holds(syn_ack.has(Flags::SYN | Flags::ACK) && syn_ack.frame == self.finding.frame, "no SYN-ACK")?;
        holds(self.c.sender.before.is_empty(), "the server had answered before")?;
        let syns = &self.c.receiver.before;
        holds(syns.iter().all(|seen| seen.has(Flags::SYN) && !seen.has(Flags::ACK)), "not only SYNs")?;
        holds(syns.len() >= usize::from(count), "fewer SYNs")?;
        let first = syns.first().ok_or("no SYN")?;
        self.about(syn_ack.time_ns.saturating_sub(first.time_ns), nanoseconds)
    }

    /// The openings of the finding's port, each SYN with its repetitions.
    fn waits(&self) -> impl Iterator<Item = Wait<'_>> {
        let listener = self.listener();
        let mut waits: BTreeMap<(u32, SocketAddr, u32), Wait<'_>> = BTreeMap::new();
        for seen in self.all.iter().filter(|seen| seen.icmp.is_none() && seen.has(Flags::SYN)) {
            if seen.to == listener && !seen.has(Flags::ACK) {
                let wait = waits.entry((seen.interface, seen.from, seen.seq)).or_default();
                if wait.syn_ack.is_none() {
                    wait.syns.push(seen);
                }
            } else if seen.from == listener && seen.has(Flags::ACK) {
                let key = (seen.interface, seen.to, seen.ack.wrapping_sub(1));
                if let Some(wait) = waits.get_mut(&key) {
                    wait.syn_ack = wait.syn_ack.or(Some(seen));
                }
            }
        }
        waits.into_values()
    }

    /// The packets of each connection of the port with a request that was opened before the finding, and on which the port has said nothing.
    fn held(&self) -> impl Iterator<Item = Vec<&Seen>> {
        let listener = self.listener();
        let mut all: BTreeMap<(u32, SocketAddr), Vec<&Seen>> = BTreeMap::new();
        for seen in self.all.iter().filter(|seen| seen.icmp.is_none()) {
            if seen.from == listener || seen.to == listener {
                let client = if seen.from == listener { seen.to } else { seen.from };
                all.entry((seen.interface, client)).or_default().push(seen);
            }
        }
        let last = self.finding.frame;
        all.into_values().filter(move |packets| {
            let own = || packets.iter().filter(|seen| seen.from == listener);
            let opened = own().any(|seen| seen.has(Flags::SYN | Flags::ACK) && seen.frame < last);
            let asked =
                packets.iter().any(|seen| seen.to == listener && seen.len > 0 && !seen.has(Flags::SYN));
            let spoke = own().any(|seen| {
                seen.len > 0 || seen.has(Flags::FIN) || seen.has(Flags::RST) && seen.frame < last
            });
            opened && asked && !spoke
        })
    }

    fn crowded(&self, at_second: u32, at_first: u32, unheard: u32) -> Proof {
        let opening = |wait: Wait<'_>| {
            let syn_ack = wait.syn_ack?;
            let again = wait.syns.len() > 1;
            Some((syn_ack.time_ns, again, unheard > 0 && !again && self.took_no_note(syn_ack)))
        };
        let mut opened: Vec<_> = self.waits().filter_map(opening).collect();
        opened.sort_by_key(|(time, ..)| *time);
        let crowds = (0..opened.len()).any(|from| {
            let (mut later, mut once, mut ignored) = (0, 0, 0);
            let within = |(time, ..): &&(u64, bool, bool)| time - opened[from].0 <= 10_000_000_000;
            opened[from..].iter().take_while(within).any(|&(_, again, dropped)| {
                (later, once) = (later + u32::from(again), once + u32::from(!again));
                ignored += u32::from(dropped);
                later >= at_second && once <= at_first && ignored >= unheard
            })
        });
        holds(crowds, "no such ten seconds")
    }

    /// Whether a client sent data three times behind a SYN-ACK, or got the SYN-ACK again, before the port sent it anything else.
    fn took_no_note(&self, syn_ack: &Seen) -> bool {
        let (listener, client) = (syn_ack.from, syn_ack.to);
        let same = |seen: &&Seen| seen.interface == syn_ack.interface && seen.icmp.is_none();
        let (mut sent, mut answered) = (Vec::new(), false);
        for seen in self.all.iter().filter(|seen| seen.frame > syn_ack.frame).filter(same) {
            if seen.from == client && seen.to == listener {
                if seen.len > 0 && sent.iter().filter(|seq| **seq == seen.seq).count() >= 2 {
                    return true;
                }
                if seen.len > 0 {
                    sent.push(seen.seq);
                }
                answered = true;
            } else if seen.from == listener && seen.to == client {
                return seen.has(Flags::SYN) && answered;
            }
        }
        false
    }

    /// A SYN, FIN or reset of the port to another client, between two SYNs of a connection that go unanswered.
    fn served_meanwhile(&self) -> Proof {
        let listener = self.listener();
        let marked = |seen: &Seen| seen.has(Flags::SYN) || seen.has(Flags::FIN) || seen.has(Flags::RST);
        let served = self.waits().any(|wait| {
            let [first, .., last, _] = wait.syns.as_slice() else { return false };
            let between = first.frame + 1..last.frame;
            let own = |seen: &&Seen| seen.from == listener && seen.to != first.from && marked(seen);
            self.all.iter().filter(own).any(|seen| between.contains(&seen.frame))
        });
        holds(served, "nobody was answered")
    }

    /// The last request and the last response before the reset, or of all.
    fn request(&self, method: &str, host: Option<&str>, status: Option<u16>) -> Proof {
        let (all_client, all_server) = self.both()?;
        let reset = self.finding.class.is_reset();
        let client = self.side_of_client(true).filter(|_| reset).unwrap_or(&all_client);
        let server = self.side_of_client(false).filter(|_| reset).unwrap_or(&all_server);
        let (asked, answered) = (Http::of(client, true), Http::answers(server, client));
        equal(asked.last.split(' ').next(), Some(&*method.to_lowercase()))?;
        if let Some(status) = status {
            equal(answered.last.split(' ').nth(1), Some(&*status.to_string()))?;
        }
        let text = String::from_utf8_lossy(&client.stream().1).into_owned();
        holds(host.is_none_or(|host| text.contains(host)), "another host")
    }

    /// What the server's FIN left unsaid.
    fn closed_early(&self, claim: &Claim, frame: Option<u64>) -> Proof {
        let (client, server) = self.both()?;
        let fin = server.fin().ok_or("no FIN of the server")?;
        let (asked, answered) = (Http::of(&client, true), Http::answers(&server, &client));
        let own = || equal(Some(fin.frame), frame);
        // The FIN may acknowledge the client's FIN too.
        let sent = latest(client.before.iter().filter(|seen| seen.len > 0).map(|seen| seen.data_end()));
        let taken = sent.filter(|end| at_or_after(fin.ack, *end)).unwrap_or(fin.ack);
        match claim {
            Claim::ClosedShort(bytes) => {
                own()?;
                equal(answered.missing_from(fin.data_end()), Some(*bytes))
            }
            Claim::ClosedInChunks => {
                own()?;
                holds(answered.chunked, "the last chunk was sent")
            }
            Claim::ClosedInHead => {
                own()?;
                holds(answered.in_head && answered.messages < asked.messages, "its head was whole")
            }
            Claim::RecordCut(bytes) => {
                own()?;
                let end = payload::tls_end(&server).ok_or("no TLS")?;
                equal(u64::from(end.wrapping_sub(fin.data_end())), *bytes)
            }
            Claim::FrameCut(protocol, bytes) => {
                own()?;
                let end = payload::frames_end(&server, *protocol).ok_or("no frames")?;
                equal(u64::from(end.wrapping_sub(fin.data_end())), *bytes)
            }
            Claim::ClosedBeforeEndRequest => {
                own()?;
                let mut records =
                    payload::fastcgi(&server.stream().1).map(|(kind, _)| kind).collect::<Vec<_>>();
                holds(!records.is_empty(), "no record")?;
                records.retain(|kind| *kind == 3);
                equal(records.len(), 0)
            }
            Claim::RequestCut(bytes) => {
                own()?;
                equal(asked.missing_from(taken), Some(*bytes))?;
                holds(answered.messages < asked.messages, "it has a response")
            }
            Claim::RequestCutInChunks => {
                own()?;
                holds(asked.chunked && answered.messages < asked.messages, "it was whole, or has a response")
            }
            Claim::ClosedUnanswered if asked.messages == 0 => {
                holds(
                    payload::fastcgi(&client.stream().1).any(|record| record == (5, 0)),
                    "no whole request",
                )?;
                equal(server.bytes(), 0)
            }
            Claim::ClosedUnanswered => {
                own()?;
                equal(asked.missing_from(taken), Some(0))?;
                holds(!answered.last_of_all, "the response before it ends the connection")?;
                equal(asked.messages, answered.messages + 1)
            }
            Claim::ClientClosedFirst => {
                let first = client.fin().ok_or("no FIN of the client")?;
                equal(Some(first.frame), frame)?;
                holds(first.frame < fin.frame, "later")
            }
            Claim::CrossedByRequest(bytes) => {
                own()?;
                equal(client.bytes_from(fin.ack), u64::from(*bytes))?;
                let earlier = asked.starts.iter().filter(|start| !at_or_after(**start, fin.ack)).count();
                equal(earlier as u32, answered.messages)?;
                holds(asked.messages > answered.messages, "every request has a response")
            }
            Claim::RestedBeforeFin { nanoseconds } => {
                let crossing =
                    |seen: &&Seen| Some(seen.from) == self.finding.client && at_or_after(seen.seq, fin.ack);
                let all = client.before.iter().chain(&server.before).copied();
                let said = all.filter(|seen| seen.len > 1 && seen.frame < fin.frame && !crossing(seen));
                let last = said.max_by_key(|seen| seen.frame).ok_or("no data before")?;
                self.about(fin.time_ns.saturating_sub(last.time_ns), *nanoseconds)
            }
            // A sentence that nobody wrote a proof for proves nothing.
            other => Err(format!("not checked: {other:?}")),
        }
    }

    /// The window of the finding's sender in the last part of the connection.
    fn stuck(&self, probes: u16, nanoseconds: u64) -> Proof {
        let (own, other) = (self.all_from(self.finding.from), self.all_from(self.finding.to));
        let end = own.before.iter().chain(&other.before).map(|seen| seen.time_ns).max().unwrap_or(0);
        let since = end.saturating_sub(nanoseconds + 2_000);
        let late = |sent: &Sent<'_>| {
            sent.before.iter().copied().filter(|seen| seen.time_ns >= since).cloned().collect::<Vec<_>>()
        };
        let closed = late(&own);
        holds(!closed.is_empty() && closed.iter().all(|seen| seen.window == Some(0)), "it was open")?;
        self.about(end - closed[0].time_ns, nanoseconds)?;
        let asking = late(&other).iter().filter(|seen| seen.len <= 1 || !seen.has(Flags::SYN)).count();
        holds(asking >= usize::from(probes), &format!("{asking} asked"))
    }

    /// Copies of the first segment that the other side does not acknowledge.
    fn again(&self, bytes: u32, count: u16, nanoseconds: u64) -> Proof {
        let (own, other) = (self.all_from(self.finding.from), self.all_from(self.finding.to));
        let head = other.final_ack().or(other.ack()).ok_or("nothing was acknowledged")?;
        let copies: Vec<_> = own.before.iter().filter(|seen| seen.seq == head && seen.len > 0).collect();
        let last = copies.last().ok_or("no such segment")?;
        let from = last.time_ns.saturating_sub(nanoseconds + 2_000);
        let again: Vec<_> = copies.iter().skip(1).filter(|seen| seen.time_ns >= from).collect();
        equal(again.len(), usize::from(count))?;
        equal(again.iter().map(|seen| seen.len).max(), Some(bytes))?;
        self.about(last.time_ns - again[0].time_ns, nanoseconds)
    }

    /// What the finding counts as lost cannot be more than was sent and not acknowledged, or declared.
    pub(crate) fn amounts_of_failure(&self) -> Proof {
        let Ok((client, server)) = self.both() else { return Ok(()) };
        let open = |from: &Sent<'_>, to: &Sent<'_>| {
            from.bytes_from(
                to.final_ack().or(to.ack()).unwrap_or(from.before.first().map_or(0, |seen| seen.seq)),
            )
        };
        let end = server.fin().map(Seen::data_end).or(server.data_end()).unwrap_or(0);
        let declared = Http::answers(&server, &client).missing_from(end).unwrap_or(0);
        let record = payload::tls_end(&server).map_or(0, |record| u64::from(record.wrapping_sub(end)));
        let frames = [Framed::Http2, Framed::WebSocket].into_iter();
        let frames = frames.filter_map(|protocol| payload::frames_end(&server, protocol));
        let frame = frames.map(|frame| u64::from(frame.wrapping_sub(end))).filter(|bytes| *bytes < 1 << 31);
        let most = open(&server, &client).max(declared).max(record).max(frame.max().unwrap_or(0));
        holds(self.finding.lost_response_bytes.unwrap_or(0) <= most, "more than the client lacks")?;
        holds(self.finding.unread_request_bytes.unwrap_or(0) <= client.bytes(), "more than the client sent")
    }
}
