//! What a reset shows of the stack that has sent it, beside the other packets of its sender: facts for the reader and the
//! checker. None of them alone names a cause.

use linger_packet::Flags;

use super::Facts;
use crate::claim::Claim;
use crate::finding::Evidence;
use crate::record::Record;
use crate::side::Marks;

/// How many keepalive probes in a row must have been answered. The eight packets kept hold four with their answers.
const BEATS: usize = 3;
/// How many of a sender's latest packets must count up.
const COUNTED: usize = 4;
/// A further reset with a number this far ahead of the first belongs to another connection.
const PLAUSIBLE: u32 = 1 << 20;
/// A round trip shorter than this says nothing: the capture is beside the sender. Nanoseconds.
const FAR: u64 = 2_000_000;

impl Facts<'_> {
    /// The fingerprints of the reset's sender, each with its frame.
    pub(crate) fn fingerprints(&self) -> Vec<Evidence> {
        let claims = [
            self.several_of_its_own(),
            self.lacks_timestamps(),
            self.window_in_answer(),
            self.acknowledges_too_soon(),
            self.reset.mptcp_end.map(Claim::MptcpEnded),
            self.wrong_checksum(),
            self.answered_beats(),
        ];
        let frame = Some(self.reset.at.frame);
        claims.into_iter().flatten().map(|says| Evidence { frame, says }).collect()
    }

    /// Whether anything but its TTL shows another stack than its sender's.
    pub(crate) fn shows_another_stack(&self) -> bool {
        let lacks = |claim| matches!(claim, Claim::LacksTimestamps { linux: true });
        // No system of today writes text into its resets.
        !self.reset.payload.is_empty()
            || self.foreign_id().is_some()
            || self.several_of_its_own().is_some()
            || self.lacks_timestamps().is_some_and(lacks)
            || self.window_in_answer().is_some()
            || self.acknowledges_too_soon().is_some()
            || self.wrong_checksum().is_some()
    }

    /// Further RST+ACKs of the same sender with numbers ahead of the first one's. A kernel sends one reset of its own accord;
    /// an injector that does not see the window guesses where it will be.
    fn several_of_its_own(&self) -> Option<Claim> {
        let reset = self.reset;
        let ahead = |record: &Record| {
            let own = record.dir() == reset.by && record.flags.has(Flags::RST | Flags::ACK);
            Some(record.seq.wrapping_sub(reset.seq)).filter(|&ahead| own && ahead != 0 && ahead < PLAUSIBLE)
        };
        let further: Vec<u32> = reset.after.records.iter().filter_map(ahead).collect();
        let furthest = further.iter().copied().max()?;
        (self.active() && self.reset.seq != 0)
            .then_some(Claim::SeveralOfItsOwn { count: further.len() as u16 + 1, furthest })
    }

    /// Both sides have agreed on timestamps, and a reset of its own accord has none.
    fn lacks_timestamps(&self) -> Option<Claim> {
        let (s, r) = (self.sender, self.receiver);
        let agreed =
            s.marks.has(Marks::TIMESTAMPS) && r.marks.has(Marks::TIMESTAMPS) && s.payload + r.payload > 0;
        // A snap length may have cut the options off.
        let captured = self.reset.window.is_some() && !self.reset.options_cut;
        (self.active() && agreed && captured && !self.reset.timestamps)
            .then_some(Claim::LacksTimestamps { linux: s.marks.has(Marks::LINUX) })
    }

    /// Linux answers with a window of 0 (`tcp_v4_send_reset` clears the whole header).
    fn window_in_answer(&self) -> Option<Claim> {
        let window = self.reset.window.filter(|&window| window != 0)?;
        (self.sender.marks.has(Marks::LINUX) && !self.reset.flags.has(Flags::ACK))
            .then_some(Claim::WindowInAnswer { window })
    }

    /// The reset acknowledges the other side's last bytes in less than half the time of its sender's quickest answer.
    fn acknowledges_too_soon(&self) -> Option<Claim> {
        let (s, reset) = (self.sender, self.reset);
        let bytes = |record: &&Record| {
            record.dir() != reset.by
                && record.len > 1
                && !record.repeated()
                && record.seq.wrapping_add(record.len) == reset.ack
        };
        let last = self.connection().records().rev().find(bytes)?;
        let after = reset.at.time_ns.saturating_sub(self.connection().first_time + last.since_first());
        let round_trip = u64::from(s.quickest_us) * 1_000;
        (self.active() && round_trip >= FAR && after < round_trip / 2).then_some(Claim::AcknowledgesTooSoon {
            after_us: after / 1_000,
            round_trip_us: round_trip / 1_000,
        })
    }

    /// The checksum is wrong, while that of the sender's SYN is right: checksum offload does not explain it.
    fn wrong_checksum(&self) -> Option<Claim> {
        let wrong = self.reset.right_checksum == Some(false);
        (wrong && self.sender.marks.has(Marks::RIGHT_CHECKSUM)).then_some(Claim::WrongChecksum)
    }

    /// The sender's last keepalive probes were answered in the capture, at an even pace, and the reset came as long after the
    /// last of them: the answers did not reach it.
    pub(crate) fn answered_beats(&self) -> Option<Claim> {
        let records: Vec<&Record> = self.connection().records().collect();
        let beat = |record: &Record| record.dir() == self.reset.by && record.repeated() && record.len <= 1;
        let mut beats = Vec::new();
        let mut rest = &records[..];
        while let [before @ .., probe, answer] = rest
            && beat(probe)
            && answer.dir() != self.reset.by
            && answer.len == 0
        {
            beats.push(self.connection().first_time + probe.since_first());
            rest = before;
        }
        if beats.len() < BEATS || !self.active() {
            return None;
        }
        let times = std::iter::once(self.reset.at.time_ns).chain(beats.iter().copied());
        let times: Vec<u64> = times.collect();
        let pauses = times.windows(2).map(|two| two[0].saturating_sub(two[1]) / 1_000_000);
        let (least, most) = (pauses.clone().min()?, pauses.max()?);
        let even = most - least <= least / 10 + 20;
        (even && least >= 100)
            .then_some(Claim::BeatsAnsweredHere { count: beats.len() as u16, pauses_ms: (least, most) })
    }

    /// What [`Self::foreign_id`] returns, for a bare reset whose alleged sender goes on: its latest packets and one after the reset
    /// count up, and that one acknowledges more than any before did. Who answers with a reset has no connection that could.
    pub(crate) fn foreign_id_of_answer(&self) -> Option<(u16, u16)> {
        let own = self.connection().records().filter(|record| record.dir() == self.reset.by);
        let ids: Vec<u16> = own.map(|record| record.id).collect();
        let counts =
            ids.len() >= COUNTED && ids.windows(2).all(|two| (1..=64).contains(&two[1].wrapping_sub(two[0])));
        let last = ids.last().copied().filter(|_| counts)?;
        let id = self.reset.id.filter(|&id| id != 0)?;
        let counted = |id: u16| (1..=1024).contains(&id.wrapping_sub(last));
        let known = self.sender.ack()?;
        let goes_on = |record: &Record| {
            record.dir() == self.reset.by
                && record.flags.has(Flags::ACK)
                && !record.flags.has(Flags::RST)
                && counted(record.id)
                && record.ack.wrapping_sub(known).wrapping_sub(1) < 1 << 26
        };
        let foreign = !self.reset.flags.has(Flags::ACK) && !counted(id);
        (foreign && self.reset.after.records.iter().any(goes_on)).then_some((last, id))
    }
}
