//! Proofs of sentences about the course of a connection.

use std::net::SocketAddr;

use linger_packet::Flags;
use linger_why::{Asked, Claim, Party, Repeated};

use crate::check::{Checker, Proof, equal, holds};
use crate::trace::{Seen, at_or_after};

impl Checker<'_> {
    pub(crate) fn answers(&self, what: Asked, frame: u64, or_earlier: bool) -> Proof {
        let asked = self.packet(Some(frame))?;
        holds(asked.from == self.finding.to && asked.frame < self.c.reset.frame, "not before it")?;
        equal(asked.ack, self.c.reset.seq)?;
        let is = match asked.kind() {
            (flags, _) if flags.has(Flags::SYN) => Asked::SynAck,
            (flags, 0) if flags.has(Flags::FIN) => Asked::Fin,
            (_, 0) => Asked::Acknowledgement,
            (flags, bytes) => Asked::Data { bytes, fin: flags.has(Flags::FIN) },
        };
        equal(is, what)?;
        // New data that came within a millisecond before it was answered first.
        let acknowledged = self.c.sender.ack();
        let open = |seen: &&&Seen| {
            let new = |ack: u32| seen.data_end() != ack && at_or_after(seen.data_end(), ack);
            seen.len > 0 && seen.frame < frame && seen.seq != asked.seq && acknowledged.is_none_or(new)
        };
        let mut earlier = self.c.receiver.before.iter().filter(open);
        if or_earlier {
            return holds(earlier.next().is_some(), "nothing came before it");
        }
        let together =
            earlier.any(|seen| seen.ack == self.c.reset.seq && asked.time_ns - seen.time_ns <= 1_000_000);
        holds(!together, "data that came just before it asks for it as well")
    }

    pub(crate) fn late(&self) -> Result<u64, String> {
        let fin = self.c.sender.fin().ok_or("no FIN")?;
        Ok(self.c.receiver.bytes_from(fin.ack))
    }

    /// Bytes that the sender's FIN does not acknowledge, and whether any of them came from a side that knew of the FIN.
    pub(crate) fn late_bytes(&self, bytes: u64, defied: bool) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let late = self.late()?;
        // Where bytes came out of order, those that filled the gap later are left out.
        holds(if r.in_order() { late == bytes } else { late >= bytes }, &format!("{late} did"))?;
        let fin = s.fin().ok_or("no FIN")?;
        let mut end = fin.ack;
        let mut knew = false;
        for seen in r.before.iter().filter(|seen| seen.len > 0 && !seen.has(Flags::SYN)) {
            let new = seen.data_end() != end && at_or_after(seen.data_end(), end);
            knew |= new && seen.has(Flags::ACK) && at_or_after(seen.ack, fin.end());
            end = if new { seen.data_end() } else { end };
        }
        if r.in_order() { equal(knew, defied) } else { holds(knew || !defied, "all crossed it") }
    }

    /// The other side's FIN stands further on than the sender has acknowledged, and nothing between is there.
    pub(crate) fn unseen_before_fin(&self, bytes: u32) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let fin = r.fin().ok_or("no FIN of the other side")?;
        let ack = s.ack().ok_or("no acknowledgement")?;
        equal(fin.end().wrapping_sub(1).wrapping_sub(ack), bytes)?;
        let between =
            |seen: &&&Seen| seen.len > 0 && seen.data_end() != ack && at_or_after(seen.data_end(), ack);
        holds(bytes > 0 && !r.before.iter().any(|seen| between(&seen)), "some of it is there")
    }

    /// Between two frames no number goes on, or is acknowledged, beyond what is here.
    pub(crate) fn nothing_is_missing(&self, after: u64, until: u64) -> Proof {
        let mut known: Vec<(SocketAddr, u32)> = Vec::new();
        let mut all: Vec<&Seen> = self.before(until).collect();
        all.extend(self.all.iter().find(|seen| seen.frame == until));
        for seen in all {
            let end = |from: SocketAddr| known.iter().find(|(end, _)| *end == from).map(|(_, end)| *end);
            // No window is larger than 1 GiB (RFC 7323 section 2.3).
            let beyond = |number: u32, known: u32| number != known && number.wrapping_sub(known) <= 1 << 30;
            if seen.frame > after {
                let jumps = end(seen.from).is_some_and(|end| beyond(seen.seq, end.wrapping_add(1)));
                let acknowledges =
                    seen.has(Flags::ACK) && end(seen.to).is_some_and(|end| beyond(seen.ack, end));
                holds(!jumps && !acknowledges, &format!("frame {} is beyond what is here", seen.frame))?;
            }
            match known.iter_mut().find(|(end, _)| *end == seen.from) {
                Some((_, end)) => *end = if beyond(seen.end(), *end) { seen.end() } else { *end },
                None => known.push((seen.from, seen.end())),
            }
        }
        Ok(())
    }

    pub(crate) fn since_fin(&self) -> Result<u64, String> {
        let fin = self.c.sender.fin().ok_or("no FIN")?;
        Ok(self.c.reset.time_ns.saturating_sub(fin.time_ns))
    }

    /// The sender's packets since the other side's last one.
    pub(crate) fn unanswered_tail(&self) -> Vec<&Seen> {
        let last = self.c.receiver.before.last().map_or(0, |seen| seen.frame);
        self.c.sender.before.iter().filter(|seen| seen.frame > last).copied().collect()
    }

    pub(crate) fn probes(&self, count: u16, pauses_ms: (u32, u32)) -> Proof {
        let next = self.c.sender.end().ok_or("no packet of the sender")?;
        let tail = self.unanswered_tail();
        let probes: Vec<_> =
            tail.iter().filter(|seen| seen.len <= 1 && seen.seq == next.wrapping_sub(1)).collect();
        holds(probes.len() >= usize::from(count), "fewer")?;
        let pauses = probes.windows(2).map(|two| (two[1].time_ns - two[0].time_ns) / 1_000_000);
        equal(pauses.max().unwrap_or(0), u64::from(pauses_ms.1))
    }

    pub(crate) fn unanswered(&self, what: Repeated, count: u16, nanoseconds: u64) -> Proof {
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
    pub(crate) fn client_sent(&self) -> Vec<&Seen> {
        let side =
            if self.finding.client == Some(self.finding.from) { &self.c.sender } else { &self.c.receiver };
        let last = (!self.c.reset.has(Flags::RST)).then_some(self.c.reset);
        side.before.iter().copied().chain(last).chain(side.after.iter().copied()).collect()
    }

    pub(crate) fn server_sent(&self) -> Vec<&Seen> {
        let side =
            if self.finding.client == Some(self.finding.from) { &self.c.receiver } else { &self.c.sender };
        side.before.iter().chain(&side.after).copied().collect()
    }

    pub(crate) fn repeated(&self, side: &[&Seen], count: u16) -> Proof {
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

    pub(crate) fn spoke_last(&self, party: Party) -> Proof {
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

    /// A packet offered too little, and no later one offered more before the data that the reset answers, or before the reset.
    pub(crate) fn window_closed(&self, frame: Option<u64>) -> Proof {
        let (s, r) = (&self.c.sender, &self.c.receiver);
        let shown = self.packet(frame)?;
        holds(shown.from == self.finding.to && !shown.has(Flags::SYN), "not a window of the other side")?;
        let scale = match (s.syn(), r.syn()) {
            (Some(_), Some(syn)) => syn.scale.unwrap_or(0),
            _ => 0,
        };
        let too_small = |seen: &Seen| {
            let window = u64::from(seen.window.unwrap_or(0)) << scale;
            let used = s.bytes_from(seen.ack);
            holds(
                window < used + 536,
                &format!("frame {}: {window} bytes of window, {used} used", seen.frame),
            )
        };
        too_small(shown)?;
        let answered_data = self.finding.evidence.iter().find_map(|evidence| match evidence.says {
            Claim::Answers { frame, what: Asked::Data { .. }, .. } => Some(frame),
            _ => None,
        });
        let until = answered_data.unwrap_or(self.c.reset.frame);
        r.before
            .iter()
            .filter(|seen| (shown.frame + 1..until).contains(&seen.frame))
            .try_for_each(|seen| too_small(seen))
    }

    /// Between the last payload, SYN or FIN and the reset, or the packet that it answers.
    pub(crate) fn silence(&self, nanoseconds: u64) -> Proof {
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
        let said = |seen: &&Seen| seen.len > 1 || seen.has(Flags::FIN) || seen.has(Flags::SYN);
        // The same packet once more, before or behind a router.
        let copy = |one: &Seen, two: &Seen| {
            (one.from, one.seq, one.len, one.id, one.flags) == (two.from, two.seq, two.len, two.id, two.flags)
                && two.time_ns - one.time_ns < 1_000_000
        };
        let mut all: Vec<&Seen> = self.before(end.frame).filter(said).collect();
        all.dedup_by(|two, one| copy(one, two));
        let last = all.last();
        if let Some(last) = last {
            holds(last.time_ns <= from + 2_000, &format!("frame {} was sent in that time", last.frame))?;
            self.nothing_is_missing(last.frame, end.frame)?;
        }
        Ok(())
    }

    pub(crate) fn ends_near(&self, before: u64, after: u64, count: u32) -> Proof {
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
