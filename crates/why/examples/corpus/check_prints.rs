//! Proofs of sentences about the stack that has sent a reset.

use linger_packet::{Flags, MptcpEnd};
use linger_why::Claim;

use crate::check::{Checker, Proof, equal, holds};
use crate::trace::{Seen, Sent, at_or_after};

impl Checker<'_> {
    pub(crate) fn fingerprint(&self, claim: &Claim) -> Proof {
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        match claim {
            Claim::SeveralOfItsOwn { count, furthest } => {
                let own = |seen: &&Seen| {
                    (seen.from, seen.to) == (reset.from, reset.to)
                        && seen.interface == reset.interface
                        && seen.has(Flags::RST | Flags::ACK)
                        && seen.frame >= reset.frame
                };
                let numbers: Vec<u32> =
                    self.all.iter().filter(own).map(|seen| seen.seq.wrapping_sub(reset.seq)).collect();
                holds(numbers.contains(furthest) && *furthest > 0, "none of that number")?;
                let ahead = numbers.iter().filter(|&&ahead| ahead > 0 && ahead <= *furthest).count();
                holds(ahead + 1 >= usize::from(*count), "fewer")
            }
            Claim::LacksTimestamps { linux } => {
                holds(!reset.timestamps && reset.has(Flags::ACK), "it has timestamps, or no ACK")?;
                let stamped = |side: &Sent<'_>| side.before.iter().any(|seen| seen.timestamps);
                holds(stamped(s) && stamped(r), "one side never sent timestamps")?;
                equal(s.syn().is_some_and(|syn| order(syn).starts_with("mst")), *linux)
            }
            Claim::WindowInAnswer { window } => {
                equal(reset.window, Some(*window))?;
                holds(!reset.has(Flags::ACK) && *window > 0, "it has an ACK, or no window")?;
                let order = s.syn().map(order).ok_or("no SYN")?;
                holds(["mst", "mstnw", "mnns", "mnnsnw"].contains(&&*order), "its SYN is of another stack")
            }
            Claim::AcknowledgesTooSoon { after_us, round_trip_us } => {
                let bytes = r.before.iter().rfind(|seen| seen.len > 0 && seen.data_end() == reset.ack);
                let bytes = bytes.ok_or("it does not acknowledge the last bytes")?;
                self.about(reset.time_ns.saturating_sub(bytes.time_ns), after_us * 1_000)?;
                let quickest = self.quickest_answer().ok_or("no answer")?;
                self.about(quickest, round_trip_us * 1_000)?;
                holds(after_us * 2 < *round_trip_us, "not sooner")
            }
            Claim::MptcpEnded(end) => {
                let said = match *end {
                    MptcpEnd::Subflow { reason, transient } => reset.options.windows(4).any(|option| {
                        option[..2] == [30, 4]
                            && option[2] >> 4 == 8
                            && (option[2] & 1 == 1) == transient
                            && option[3] == reason
                    }),
                    _ => {
                        reset.options.windows(3).any(|option| option[..2] == [30, 12] && option[2] >> 4 == 7)
                    }
                };
                holds(said, "no such option")
            }
            Claim::WrongChecksum => {
                equal(reset.right_checksum, Some(false))?;
                let right = |seen: &&&Seen| seen.has(Flags::SYN) && seen.right_checksum == Some(true);
                holds(s.before.iter().any(|seen| right(&seen)), "its SYN has none that is right")
            }
            Claim::BeatsAnsweredHere { count, pauses_ms } => self.answered_beats(*count, *pauses_ms),
            other => Err(format!("not checked: {other:?}")),
        }
    }

    /// The sender's quickest answer that acknowledges something new.
    fn quickest_answer(&self) -> Option<u64> {
        let mut all: Vec<&Seen> =
            self.c.sender.before.iter().chain(&self.c.receiver.before).copied().collect();
        all.sort_by_key(|seen| seen.frame);
        let (mut known, mut asked, mut quickest) = (None::<u32>, None::<u64>, None::<u64>);
        for seen in all {
            if seen.from != self.finding.from {
                asked = Some(seen.time_ns);
            } else if seen.has(Flags::ACK)
                && known.is_none_or(|ack| ack != seen.ack && at_or_after(seen.ack, ack))
            {
                known = Some(seen.ack);
                let took = asked.map(|asked| seen.time_ns.saturating_sub(asked));
                quickest = [quickest, took].into_iter().flatten().min();
            }
        }
        quickest
    }

    fn answered_beats(&self, count: u16, (least, most): (u64, u64)) -> Proof {
        let (reset, s, r) = (self.c.reset, &self.c.sender, &self.c.receiver);
        holds(reset.has(Flags::ACK), "it is an answer")?;
        let beats: Vec<&Seen> = s.before.iter().rev().take(usize::from(count)).copied().collect();
        equal(beats.len(), usize::from(count))?;
        let end = s.end().ok_or("no packet of the sender")?;
        let probes = beats.iter().all(|beat| beat.len <= 1 && beat.seq == end.wrapping_sub(1));
        holds(probes, "they are no probes")?;
        let times: Vec<u64> =
            std::iter::once(reset.time_ns).chain(beats.iter().map(|beat| beat.time_ns)).collect();
        for two in times.windows(2) {
            let answered =
                r.before.iter().any(|seen| (two[1]..=two[0]).contains(&seen.time_ns) && seen.len == 0);
            holds(answered, "one has no answer")?;
            let pause = two[0].saturating_sub(two[1]) / 1_000_000;
            holds((least..=most).contains(&pause), &format!("a pause of {pause} ms"))?;
        }
        holds(most - least <= least / 10 + 20, "the pauses differ")
    }
}

/// The options of a SYN by their initials: maximum segment size, SACK permitted, timestamps, window scale, no operation.
fn order(syn: &Seen) -> String {
    let mut order = String::new();
    let mut rest = &syn.options[..];
    while let Some(&kind) = rest.first() {
        let length = if kind < 2 { 1 } else { usize::from(rest.get(1).copied().unwrap_or(0)).max(2) };
        order.push(match kind {
            1 => 'n',
            2 => 'm',
            3 => 'w',
            4 => 's',
            8 => 't',
            _ => '?',
        });
        rest = rest.get(length..).unwrap_or(&[]);
    }
    order
}
