//! The session's rules as a state machine: streams, credit, the order of frames. No socket, no clock.
//!
//! The driver hands in every header that arrives and asks before every frame that leaves; the payload of
//! DATA frames never passes through here, so that it can go from the socket to where it belongs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::{Header, Kind, MAX_DATA, Violation};

/// Bounds of a session. Both sides use the defaults unless their program agrees on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes a peer may send on a new stream before more credit is given. Raising it fills the first round
    /// trips of a long path; on a short one it only makes queues longer than the processor's cache. No frame
    /// may be longer than half of it, so less than 128 KiB leaves no room for the longest message.
    pub window: u64,
    /// What the window may grow to, doubling while a whole one is taken in less than two round trips: then
    /// the path holds more than the window does. Raising it lets one stream fill a longer path (bandwidth
    /// times round trip), and makes the most memory a peer can claim larger.
    pub most: u64,
    /// Streams open at once. Each may claim `most` bytes of memory.
    pub streams: usize,
}

impl Default for Limits {
    /// From 2 MiB up to 16 MiB, which fill 1 Gbit/s at 130 ms; 16 streams.
    fn default() -> Self {
        Self { window: 2 << 20, most: 16 << 20, streams: 16 }
    }
}

/// Credit is given back in halves of the window, but not in larger portions than this. Each portion wakes a peer
/// that waits for it: in quarters a receiver within one machine was busy with that for a twentieth of its time.
const CREDIT: u64 = 1 << 20;

/// Which side of the connection this is: the initiator's streams have odd numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // A connection has two ends.
pub enum Role {
    /// Made the connection.
    Initiator,
    /// Accepted it.
    Responder,
}

#[derive(Debug)]
struct Stream {
    /// Bytes we may still send.
    credit: u64,
    /// Bytes the peer may still send.
    granted: u64,
    /// Bytes taken by the program since credit was last given.
    taken: u64,
    /// What the peer may have on its way.
    window: u64,
    /// Bytes taken since `measured`, when a window of them began.
    counted: u64,
    measured: Option<Instant>,
    we_finished: bool,
    peer_finished: bool,
}

/// What to do with the payload of an accepted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Deliver it.
    Deliver,
    /// Read and drop it: it crossed our CANCEL on the wire.
    Drop,
}

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Machine {
    role: Role,
    limits: Limits,
    streams: BTreeMap<u16, Stream>,
    /// Streams that we cancelled, whose late frames are dropped; bounded by `limits.streams`.
    cancelled: Vec<u16>,
    next: u16,
    newest_of_peer: u16,
    peer_bye: bool,
}

impl Machine {
    pub(crate) fn new(role: Role, limits: Limits) -> Self {
        let next = if role == Role::Initiator { 1 } else { 2 };
        Self {
            role,
            limits,
            streams: BTreeMap::new(),
            cancelled: Vec::new(),
            next,
            newest_of_peer: 0,
            peer_bye: false,
        }
    }

    /// Judges a header that arrived; its payload follows.
    pub(crate) fn arrived(&mut self, header: Header) -> Result<Verdict, Violation> {
        if self.peer_bye {
            return Err(Violation::AfterBye);
        }
        let id = header.stream;
        match header.kind {
            Kind::Ping | Kind::Pong | Kind::Bye => {
                if id != 0 {
                    return Err(Violation::BadStream(id));
                }
                self.peer_bye = header.kind == Kind::Bye;
                Ok(Verdict::Deliver)
            }
            Kind::Open => self.opened(id),
            Kind::Message | Kind::Data => {
                let Some(stream) = self.streams.get_mut(&id) else { return self.late(id) };
                if stream.peer_finished {
                    return Err(Violation::BadStream(id));
                }
                stream.granted =
                    stream.granted.checked_sub(u64::from(header.length)).ok_or(Violation::OverCredit(id))?;
                Ok(Verdict::Deliver)
            }
            Kind::Finish => {
                let Some(stream) = self.streams.get_mut(&id) else { return self.late(id) };
                if stream.peer_finished {
                    return Err(Violation::BadStream(id));
                }
                stream.peer_finished = true;
                self.forget_if_done(id);
                Ok(Verdict::Deliver)
            }
            Kind::Cancel => {
                if self.streams.remove(&id).is_none() {
                    return self.late(id);
                }
                Ok(Verdict::Deliver)
            }
            // Credit for a stream that has ended may cross our FINISH.
            Kind::Credit => Ok(if self.streams.contains_key(&id) { Verdict::Deliver } else { Verdict::Drop }),
        }
    }

    fn opened(&mut self, id: u16) -> Result<Verdict, Violation> {
        let peers_parity = if self.role == Role::Initiator { 0 } else { 1 };
        if id == 0 || id % 2 != peers_parity || id <= self.newest_of_peer {
            return Err(Violation::BadStream(id));
        }
        if self.streams.len() >= self.limits.streams {
            return Err(Violation::TooManyStreams);
        }
        self.newest_of_peer = id;
        self.streams.insert(id, self.stream());
        Ok(Verdict::Deliver)
    }

    fn stream(&self) -> Stream {
        let window = self.limits.window;
        Stream {
            credit: window,
            granted: window,
            taken: 0,
            window,
            counted: 0,
            measured: None,
            we_finished: false,
            peer_finished: false,
        }
    }

    fn late(&self, id: u16) -> Result<Verdict, Violation> {
        if self.cancelled.contains(&id) { Ok(Verdict::Drop) } else { Err(Violation::BadStream(id)) }
    }

    fn forget_if_done(&mut self, id: u16) {
        if self.streams.get(&id).is_some_and(|stream| stream.we_finished && stream.peer_finished) {
            self.streams.remove(&id);
        }
    }

    /// The peer lets us send `bytes` more.
    pub(crate) fn credited(&mut self, id: u16, bytes: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let sum = stream.credit.checked_add(bytes).filter(|sum| *sum < 1 << 63);
        stream.credit = sum.ok_or(Violation::TooMuchCredit(id))?;
        Ok(())
    }

    /// Opens a stream of our own; `None` when the numbers or the streams are used up.
    pub(crate) fn open(&mut self) -> Option<u16> {
        if self.streams.len() >= self.limits.streams {
            return None;
        }
        let id = self.next;
        self.next = id.checked_add(2)?;
        self.streams.insert(id, self.stream());
        Some(id)
    }

    /// The longest payload for which credit will come, if the peer has the same limits: it may keep back less than
    /// half of a window.
    pub(crate) fn longest(&self) -> usize {
        usize::try_from(self.limits.window / 2).unwrap_or(MAX_DATA).min(MAX_DATA)
    }

    /// Whether the stream can take frames from us, and how many payload bytes.
    pub(crate) fn sendable(&self, id: u16) -> Option<u64> {
        self.streams.get(&id).filter(|stream| !stream.we_finished).map(|stream| stream.credit)
    }

    /// Payload of ours leaves; [`sendable`](Self::sendable) allowed it.
    pub(crate) fn sent(&mut self, id: u16, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.credit = stream.credit.saturating_sub(bytes);
        }
    }

    /// The program took payload of the peer; returns the credit to give now, if it is time. `round_trip` is
    /// asked once a window.
    pub(crate) fn taken(
        &mut self,
        id: u16,
        bytes: u64,
        now: Instant,
        round_trip: impl FnOnce() -> Option<Duration>,
    ) -> Option<u64> {
        let stream = self.streams.get_mut(&id)?;
        stream.taken += bytes;
        stream.counted += bytes;
        let since = *stream.measured.get_or_insert(now);
        if stream.taken < CREDIT.min(stream.window / 2) || stream.peer_finished {
            return None;
        }
        let mut credit = std::mem::take(&mut stream.taken);
        if stream.counted >= stream.window {
            (stream.counted, stream.measured) = (0, Some(now));
            let growth = stream.window.min(self.limits.most.saturating_sub(stream.window));
            let took = now.saturating_duration_since(since);
            if growth > 0 && round_trip().is_some_and(|round_trip| took < 2 * round_trip) {
                stream.window += growth;
                credit += growth;
            }
        }
        stream.granted += credit;
        Some(credit)
    }

    /// We send FINISH; false if the stream is not ours to finish.
    pub(crate) fn finish(&mut self, id: u16) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.we_finished) else {
            return false;
        };
        stream.we_finished = true;
        self.forget_if_done(id);
        true
    }

    /// We send CANCEL; false if there is no such stream.
    pub(crate) fn cancel(&mut self, id: u16) -> bool {
        if self.streams.remove(&id).is_none() {
            return false;
        }
        if self.cancelled.len() >= self.limits.streams {
            self.cancelled.remove(0);
        }
        self.cancelled.push(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: Kind, stream: u16, length: u32) -> Header {
        Header { kind, stream, length }
    }

    /// A header of any kind, whose own check fits.
    fn sealed(kind: u8, stream: u16, length: u32) -> [u8; crate::wire::HEADER] {
        let mut bytes = frame(Kind::Open, stream, length).encode(&[]);
        bytes[5] ^= bytes[4] ^ kind;
        bytes[4] = kind;
        bytes
    }

    #[test]
    fn a_stream_lives_from_open_to_both_finishes() {
        let mut machine = Machine::new(Role::Responder, Limits::default());
        assert_eq!(machine.arrived(frame(Kind::Data, 1, 5)), Err(Violation::BadStream(1)));
        assert_eq!(machine.arrived(frame(Kind::Open, 1, 0)), Ok(Verdict::Deliver));
        assert_eq!(machine.arrived(frame(Kind::Open, 1, 0)), Err(Violation::BadStream(1)));
        assert_eq!(machine.arrived(frame(Kind::Open, 2, 0)), Err(Violation::BadStream(2)));
        assert_eq!(machine.arrived(frame(Kind::Finish, 1, 0)), Ok(Verdict::Deliver));
        assert_eq!(machine.arrived(frame(Kind::Data, 1, 5)), Err(Violation::BadStream(1)));
        assert!(machine.sendable(1).is_some());
        assert!(machine.finish(1));
        assert_eq!(machine.sendable(1), None);
        assert!(!machine.finish(1));
    }

    #[test]
    fn frames_that_cross_a_cancel_are_dropped() {
        let mut machine = Machine::new(Role::Responder, Limits::default());
        machine.arrived(frame(Kind::Open, 1, 0)).unwrap();
        assert!(machine.cancel(1));
        assert_eq!(machine.arrived(frame(Kind::Data, 1, 9)), Ok(Verdict::Drop));
        assert_eq!(machine.arrived(frame(Kind::Cancel, 1, 2)), Ok(Verdict::Drop));
    }

    /// Takes data in pieces of 64 KiB, each `step` after the one before; returns the credit that was given.
    fn take(machine: &mut Machine, bytes: u64, step: Duration, round_trip: Duration) -> u64 {
        let mut now = Instant::now();
        let mut credit = 0;
        for _ in 0..bytes / (64 << 10) {
            assert_eq!(machine.arrived(frame(Kind::Data, 1, 64 << 10)), Ok(Verdict::Deliver));
            now += step;
            credit += machine.taken(1, 64 << 10, now, || Some(round_trip)).unwrap_or(0);
        }
        credit
    }

    #[test]
    fn the_window_grows_on_a_long_path_alone() {
        let limits = Limits { window: 1 << 20, most: 4 << 20, streams: 1 };
        for (round_trip, grown) in [(1, 0), (100, 3 << 20)] {
            let mut machine = Machine::new(Role::Responder, limits);
            machine.arrived(frame(Kind::Open, 1, 0)).unwrap();
            // A window in 16 ms.
            let round_trip = Duration::from_millis(round_trip);
            let credit = take(&mut machine, 64 << 20, Duration::from_millis(1), round_trip);
            assert_eq!(credit, (64 << 20) + grown, "{round_trip:?}");
        }
    }

    proptest! {
        /// Whatever arrives, a peer never has more than a window of ungranted bytes accepted, nor more streams.
        #[test]
        fn credit_bounds_what_is_accepted(frames in prop::collection::vec((1u8..10, 0u16..6, 0u32..2_000_000), 0..200)) {
            let limits = Limits { window: 1 << 20, most: 1 << 20, streams: 2 };
            let mut machine = Machine::new(Role::Responder, limits);
            let mut accepted = 0u64;
            for (kind, stream, length) in frames {
                let Ok(header) = Header::decode(sealed(kind, stream, length)) else { continue };
                let Ok(verdict) = machine.arrived(header) else { break };
                prop_assert!(machine.streams.len() <= limits.streams);
                if verdict == Verdict::Deliver && matches!(header.kind, Kind::Data | Kind::Message) {
                    accepted += u64::from(length);
                }
            }
            // Nothing was taken, so at most one window a stream; ids 1, 3, 5 can be opened one after another.
            prop_assert!(accepted <= 3 * limits.window);
        }
    }
}
