//! The session's rules as a state machine: streams, credit, the order of frames. No socket, no clock.
//!
//! The driver tells the machine every header that arrives, and asks it before every frame that is sent. The payload of
//! DATA frames never passes through the machine, so that it can go from the socket directly to its destination.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::{FrameKind, Header, MAX_DATA, Violation};

/// Bounds of a session. Both sides use the defaults unless their program agrees on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimits {
    /// Bytes that a peer may send on a new stream before it gets more credit. A larger window fills the first round trips
    /// of a long path; on a short path it only makes queues longer than the processor's cache. No frame may be longer
    /// than half a window, so a window below 128 KiB leaves no room for the longest message.
    pub window: u64,
    /// The size to which the window may grow. It doubles while a whole window is taken in less than two round trips,
    /// because the path then holds more bytes than the window does. With a larger bound one stream fills a longer path
    /// (bandwidth times round trip), and a peer can claim more memory.
    pub most: u64,
    /// Streams open at once. Each may claim `most` bytes of memory.
    pub streams: usize,
}

impl Default for SessionLimits {
    /// A window of 2 MiB that may grow to 16 MiB, which fill 1 Gbit/s at a round trip of 130 ms; 16 streams.
    fn default() -> Self {
        Self { window: 2 << 20, most: 16 << 20, streams: 16 }
    }
}

/// Credit is given back by half a window, or by this many bytes if that is less. Each CREDIT frame wakes a waiting
/// peer: with quarters of a window, a receiver on loopback spent a twentieth of its time on that.
const CREDIT: u64 = 1 << 20;

/// Which side of the connection this is: the initiator's streams have odd numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // A connection has two ends.
pub enum Role {
    /// This side made the connection.
    Initiator,
    /// This side accepted the connection.
    Responder,
}

/// One stream, until both sides have sent FINISH or one of them CANCEL.
#[derive(Debug)]
struct Stream {
    /// Bytes that this side may still send. Credit is counted after this side's FINISH as well, because 2^63 bytes of credit or
    /// more are a violation at any time.
    credit: u64,
    ends: Ends,
}

/// Which side may still send on a stream. The names are those of RFC 9113, section 5.1.
#[derive(Debug)]
enum Ends {
    /// Both sides.
    Open(Window),
    /// The peer alone: this side has sent FINISH.
    HalfClosedLocal(Window),
    /// This side alone: the peer has sent FINISH, and needs no more credit.
    HalfClosedRemote,
}

/// The receive window of one stream.
///
/// Its size is the sum of three: credit granted, bytes that the program has still to take, and bytes that it took
/// since credit was last granted.
#[derive(Debug)]
struct Window {
    /// The most bytes that the peer may have sent without having got credit for them again.
    size: u64,
    /// Bytes that the peer may still send.
    granted: u64,
    /// Bytes taken by the program since credit was last given.
    taken: u64,
    /// Measures how fast a whole window is taken, from the first byte on.
    pace: Option<WindowPace>,
}

#[derive(Clone, Copy, Debug)]
struct WindowPace {
    since: Instant,
    bytes: u64,
}

impl Stream {
    fn new(window: u64) -> Self {
        Self {
            credit: window,
            ends: Ends::Open(Window { size: window, granted: window, taken: 0, pace: None }),
        }
    }

    /// The window of a peer that may still send.
    fn window(&mut self) -> Option<&mut Window> {
        match &mut self.ends {
            Ends::Open(window) | Ends::HalfClosedLocal(window) => Some(window),
            Ends::HalfClosedRemote => None,
        }
    }

    fn may_send(&self) -> bool {
        matches!(self.ends, Ends::Open(_) | Ends::HalfClosedRemote)
    }
}

impl Window {
    /// Counts credit that the peer uses. Returns false if the peer has too little.
    fn spend(&mut self, bytes: u64) -> bool {
        let Some(left) = self.granted.checked_sub(bytes) else { return false };
        self.granted = left;
        true
    }

    /// Notes that the program took bytes. Returns the credit to give the peer now, if it is time. The window grows, up to
    /// `most`, if all of it was taken in less than two round trips.
    fn take(
        &mut self,
        bytes: u64,
        most: u64,
        now: Instant,
        round_trip: impl FnOnce() -> Option<Duration>,
    ) -> Option<u64> {
        self.taken += bytes;
        debug_assert!(self.granted + self.taken <= self.size, "no more is taken than came");
        let pace = self.pace.get_or_insert(WindowPace { since: now, bytes: 0 });
        pace.bytes += bytes;
        if self.taken < CREDIT.min(self.size / 2) {
            return None;
        }
        let mut credit = std::mem::take(&mut self.taken);
        if pace.bytes >= self.size {
            let took = now.saturating_duration_since(pace.since);
            *pace = WindowPace { since: now, bytes: 0 };
            let growth = self.size.min(most.saturating_sub(self.size));
            if growth > 0 && round_trip().is_some_and(|round_trip| took < 2 * round_trip) {
                self.size += growth;
                credit += growth;
            }
        }
        self.granted += credit;
        debug_assert!(self.granted <= self.size);
        Some(credit)
    }
}

/// What to do with the payload of an accepted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposal {
    /// Deliver it.
    Deliver,
    /// Read and drop it: the peer sent it before it had this side's CANCEL.
    Drop,
}

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Machine {
    role: Role,
    limits: SessionLimits,
    streams: BTreeMap<u16, Stream>,
    /// Streams that this side cancelled, whose late frames are dropped; at most `limits.streams` of them.
    cancelled: Vec<u16>,
    next: u16,
    newest_of_peer: u16,
    peer_bye: bool,
}

impl Machine {
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn new(role: Role, limits: SessionLimits) -> Self {
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

    /// Judges a received header, before its payload is read. Returns what to do with the payload.
    pub(crate) fn arrived(&mut self, header: Header) -> Result<Disposal, Violation> {
        if self.peer_bye {
            return Err(Violation::AfterBye);
        }
        let id = header.stream;
        match header.kind {
            FrameKind::Ping | FrameKind::Pong | FrameKind::Work | FrameKind::Bye => {
                if id != 0 {
                    return Err(Violation::BadStream(id));
                }
                self.peer_bye = header.kind == FrameKind::Bye;
                Ok(Disposal::Deliver)
            }
            FrameKind::Open => self.opened(id),
            FrameKind::Message | FrameKind::Data => {
                let Some(stream) = self.streams.get_mut(&id) else { return self.late(id) };
                let window = stream.window().ok_or(Violation::BadStream(id))?;
                if !window.spend(header.length.into()) {
                    return Err(Violation::OverCredit(id));
                }
                Ok(Disposal::Deliver)
            }
            FrameKind::Finish => {
                let Some(stream) = self.streams.get_mut(&id) else { return self.late(id) };
                match stream.ends {
                    Ends::Open(_) => stream.ends = Ends::HalfClosedRemote,
                    Ends::HalfClosedLocal(_) => drop(self.streams.remove(&id)),
                    Ends::HalfClosedRemote => return Err(Violation::BadStream(id)),
                }
                Ok(Disposal::Deliver)
            }
            FrameKind::Cancel => {
                if self.streams.remove(&id).is_none() {
                    return self.late(id);
                }
                Ok(Disposal::Deliver)
            }
            // Credit for a stream that has ended may cross our FINISH.
            FrameKind::Credit => {
                Ok(if self.streams.contains_key(&id) { Disposal::Deliver } else { Disposal::Drop })
            }
        }
    }

    fn opened(&mut self, id: u16) -> Result<Disposal, Violation> {
        let peers_parity = if self.role == Role::Initiator { 0 } else { 1 };
        if id == 0 || id % 2 != peers_parity || id <= self.newest_of_peer {
            return Err(Violation::BadStream(id));
        }
        if self.streams.len() >= self.limits.streams {
            return Err(Violation::TooManyStreams);
        }
        self.newest_of_peer = id;
        self.insert(id);
        Ok(Disposal::Deliver)
    }

    fn insert(&mut self, id: u16) {
        debug_assert!(!self.cancelled.contains(&id), "no number is used twice");
        let before = self.streams.insert(id, Stream::new(self.limits.window));
        debug_assert!(before.is_none(), "no number is used twice");
        debug_assert!(self.streams.len() <= self.limits.streams);
    }

    fn late(&self, id: u16) -> Result<Disposal, Violation> {
        if self.cancelled.contains(&id) { Ok(Disposal::Drop) } else { Err(Violation::BadStream(id)) }
    }

    /// The peer lets us send `bytes` more.
    pub(crate) fn credited(&mut self, id: u16, bytes: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let sum = stream.credit.checked_add(bytes).filter(|sum| *sum < 1 << 63);
        stream.credit = sum.ok_or(Violation::TooMuchCredit(id))?;
        Ok(())
    }

    /// Opens a stream of this side's. Returns `None` if all stream numbers are used up, or too many streams are open.
    pub(crate) fn open(&mut self) -> Option<u16> {
        if self.streams.len() >= self.limits.streams {
            return None;
        }
        let id = self.next;
        self.next = id.checked_add(2)?;
        self.insert(id);
        Some(id)
    }

    /// The longest payload that can be sent, if the peer has the same limits. The peer may hold back less than half a
    /// window of credit, so a frame of half a window always gets through.
    pub(crate) fn longest(&self) -> usize {
        usize::try_from(self.limits.window / 2).unwrap_or(MAX_DATA).min(MAX_DATA)
    }

    /// How many payload bytes this side may send on the stream now; `None` if it may send no frames on it.
    pub(crate) fn sendable(&self, id: u16) -> Option<u64> {
        self.streams.get(&id).filter(|stream| stream.may_send()).map(|stream| stream.credit)
    }

    /// Counts payload that this side sends, which [`sendable`](Self::sendable) has allowed.
    pub(crate) fn sent(&mut self, id: u16, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            debug_assert!(stream.may_send() && bytes <= stream.credit, "sendable() was asked");
            stream.credit = stream.credit.saturating_sub(bytes);
        }
    }

    /// Notes that the program took payload of the peer. Returns the credit to give now, if it is time. `round_trip` is
    /// called once for each window.
    pub(crate) fn taken(
        &mut self,
        id: u16,
        bytes: u64,
        now: Instant,
        round_trip: impl FnOnce() -> Option<Duration>,
    ) -> Option<u64> {
        let window = self.streams.get_mut(&id)?.window()?;
        window.take(bytes, self.limits.most, now, round_trip)
    }

    /// Notes that this side sends FINISH. Returns false if this side cannot finish the stream.
    pub(crate) fn finish(&mut self, id: u16) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        match std::mem::replace(&mut stream.ends, Ends::HalfClosedRemote) {
            Ends::Open(window) => stream.ends = Ends::HalfClosedLocal(window),
            Ends::HalfClosedRemote => drop(self.streams.remove(&id)),
            finished @ Ends::HalfClosedLocal(_) => {
                stream.ends = finished;
                return false;
            }
        }
        true
    }

    /// Notes that this side sends CANCEL. Returns false if there is no such stream.
    pub(crate) fn cancel(&mut self, id: u16) -> bool {
        if self.streams.remove(&id).is_none() {
            return false;
        }
        if self.cancelled.len() >= self.limits.streams {
            self.cancelled.remove(0);
        }
        self.cancelled.push(id);
        debug_assert!(self.cancelled.len() <= self.limits.streams);
        true
    }
}

#[cfg(test)]
mod tests;
