//! What was seen and done, at one moment.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use linger::Snapshot;
use linger_preload::protocol::{COUNTS, Count};

/// What a supervised program closed, and what became of it.
///
/// `closes` is the sum of `lingered`, `finished`, `drained`, `shared`, `aborted`, `gone` and `refused`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Closes of accepted connections (of outgoing ones, too, where asked for).
    pub closes: u64,
    /// Given to the supervisor: half-closed, and drained within the policy's bounds.
    pub lingered: u64,
    /// The peer had closed and nothing was unread: a plain close loses nothing.
    pub finished: u64,
    /// The peer had closed; what it had sent was read away first.
    pub drained: u64,
    /// Closed plainly, since another process of the program still has the connection.
    pub shared: u64,
    /// Reset, as the program asked (`SO_LINGER 0`).
    pub aborted: u64,
    /// Over already: reset by the peer, or timed out.
    pub gone: u64,
    /// Closed plainly, since the supervisor did not take them.
    pub refused: u64,
    /// Had unread bytes when closed: without the supervisor, a reset and the loss of what was unsent.
    pub would_have_reset: u64,
    /// Bytes not acknowledged when the supervisor took the connections, and acknowledged when they ended.
    pub bytes_saved: u64,
    /// Bytes never acknowledged.
    pub bytes_unacknowledged: u64,
    /// Bytes of the peers that were read and thrown away.
    pub bytes_discarded: u64,
    /// Connections that linger now.
    pub lingering: u64,
    /// Ended by the peer's close, everything acknowledged.
    pub peer_closed: u64,
    /// Ended with everything acknowledged and a silent peer.
    pub acknowledged: u64,
    /// Ended by the peer's reset.
    pub peer_reset: u64,
    /// Peers that neither closed nor stayed silent until a bound ended it: out of time, or past `max_discard`.
    pub misbehaved: u64,
    /// Given up for the sake of others.
    pub evicted: u64,
    /// Ended otherwise: the system refused.
    pub failed: u64,
    /// Times that all descriptors of the program were looked at, to learn who else has a connection (with seccomp). Each
    /// makes the program's call wait in proportion to them.
    pub looks: u64,
}

/// What the supervisor counts beside its closer.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_saved: AtomicU64,
    /// Closed by the peer between the program's half-close and the supervisor's first look.
    pub(crate) closed_before: AtomicU64,
    /// Taken from the preloaded library, which does not count them: its process may be killed before it could.
    pub(crate) taken: AtomicU64,
    /// Said to be held here, and not: closed plainly by the process.
    pub(crate) not_held: AtomicU64,
}

impl Tally {
    /// Adds to what the preloaded libraries have counted what they leave to the supervisor.
    pub(crate) fn complete(&self, mut seen: [u64; COUNTS]) -> [u64; COUNTS] {
        for (count, number) in [(Count::Handed, &self.taken), (Count::Refused, &self.not_held)] {
            let number = number.load(Relaxed);
            seen[Count::Seen as usize] += number;
            seen[count as usize] += number;
        }
        seen
    }
}

impl Report {
    pub(crate) fn new(seen: [u64; COUNTS], looks: u64, ended: &Snapshot, tally: &Tally) -> Self {
        let of = |count: Count| seen[count as usize];
        let by = &ended.ended;
        let closed_before = tally.closed_before.load(Relaxed);
        Self {
            closes: of(Count::Seen),
            lingered: of(Count::Handed),
            finished: of(Count::Finished),
            drained: of(Count::Drained),
            shared: of(Count::Shared),
            aborted: of(Count::Aborted),
            gone: of(Count::Gone),
            refused: of(Count::Refused),
            would_have_reset: of(Count::Unread),
            bytes_saved: tally.bytes_saved.load(Relaxed),
            bytes_unacknowledged: ended.unacknowledged,
            bytes_discarded: ended.discarded,
            lingering: ended.lingering,
            peer_closed: by.peer_closed + closed_before,
            acknowledged: by.acknowledged + by.unwaited,
            peer_reset: by.peer_reset + by.gone.saturating_sub(closed_before),
            misbehaved: by.timed_out_idle + by.timed_out_total + by.timed_out_kernel + by.limit,
            evicted: by.evicted,
            failed: by.failed + by.aborted,
            looks,
        }
    }

    /// Each number with its name and what it means, in the order above.
    pub(crate) fn named(&self) -> [(&'static str, &'static str, u64); 20] {
        [
            ("closes", "Closes of connections", self.closes),
            ("lingered", "Connections given to the supervisor", self.lingered),
            ("finished", "Closed plainly, the peer had closed", self.finished),
            ("drained", "Closed after unread bytes were read away, the peer had closed", self.drained),
            ("shared", "Closed plainly, another process has the connection", self.shared),
            ("aborted", "Reset as the program asked", self.aborted),
            ("gone", "Over before the close", self.gone),
            ("refused", "Closed plainly, the supervisor did not take them", self.refused),
            ("would_have_reset", "Had unread bytes at the close", self.would_have_reset),
            ("bytes_saved", "Bytes unacknowledged at the close and acknowledged later", self.bytes_saved),
            ("bytes_unacknowledged", "Bytes never acknowledged", self.bytes_unacknowledged),
            ("bytes_discarded", "Bytes of the peers read and thrown away", self.bytes_discarded),
            ("lingering", "Connections that linger now", self.lingering),
            ("peer_closed", "Ended by the peer's close", self.peer_closed),
            ("acknowledged", "Ended acknowledged, the peer silent", self.acknowledged),
            ("peer_reset", "Ended by the peer's reset", self.peer_reset),
            ("misbehaved", "Ended by a bound", self.misbehaved),
            ("evicted", "Given up for others", self.evicted),
            ("failed", "Ended by an error of the system", self.failed),
            ("looks", "Times all descriptors of the program were looked at", self.looks),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} closes: {} lingered, {} were finished, {} drained, {} shared, {} aborted, {} gone, {} refused",
            self.closes,
            self.lingered,
            self.finished,
            self.drained,
            self.shared,
            self.aborted,
            self.gone,
            self.refused
        )?;
        writeln!(
            f,
            "{} would have been reset; {} bytes saved, {} never acknowledged, {} discarded",
            self.would_have_reset, self.bytes_saved, self.bytes_unacknowledged, self.bytes_discarded
        )?;
        write!(
            f,
            "{} closed by the peer, {} acknowledged, {} reset by the peer, {} ended by a bound, {} evicted, {} failed, \
             {} lingering",
            self.peer_closed,
            self.acknowledged,
            self.peer_reset,
            self.misbehaved,
            self.evicted,
            self.failed,
            self.lingering
        )
    }
}
