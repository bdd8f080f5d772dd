//! Counts of what the supervisor has seen and done.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use linger::Snapshot;
use linger_preload::protocol::{COUNTS, Count};

use crate::tally::Tally;

/// Counts of a supervised program's closes and of what became of the connections.
///
/// `closes` is the sum of `lingered`, `finished`, `drained`, `shared`, `aborted`, `gone` and `refused`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RunReport {
    /// Closes of accepted connections; also of outgoing ones with [`Options::outgoing`](crate::Options::outgoing).
    pub closes: u64,
    /// Handed over to the supervisor: half-closed, and drained within the policy's bounds. Those of which the peer had not
    /// acknowledged everything at the end are `lost` or `unknown`.
    pub lingered: u64,
    /// Closed plainly: the peer had closed and nothing was unread, so nothing could be lost.
    pub finished: u64,
    /// Closed plainly after discarding unread bytes of a peer that had closed.
    pub drained: u64,
    /// Closed plainly: another process of the program still holds the connection.
    pub shared: u64,
    /// Reset at the program's wish (`SO_LINGER` with timeout 0).
    pub aborted: u64,
    /// Already over: reset by the peer, or timed out.
    pub gone: u64,
    /// Closed plainly: the supervisor could not take them, or could not prove that nobody else has them.
    pub refused: u64,
    /// Had unread bytes when closed. A plain close would have reset them and lost what was unsent.
    pub would_have_reset: u64,
    /// Bytes that were unacknowledged when the supervisor took their connection, and acknowledged when it ended. Many of them would
    /// have arrived after a plain close as well.
    pub bytes_acknowledged: u64,
    /// Bytes that were unacknowledged at the end. Those of `unknown` connections the kernel may still deliver.
    pub bytes_unacknowledged: u64,
    /// Of those that lingered: over before everything was acknowledged, because the peer reset the connection or the
    /// kernel gave up.
    pub lost: u64,
    /// Of those that lingered: closed plainly with unacknowledged bytes, at a bound or to make room for others. The
    /// kernel goes on sending these bytes, unless something was unread: whether they arrive is not known.
    pub unknown: u64,
    /// Bytes of peers that were discarded.
    pub bytes_discarded: u64,
    /// Connections that are lingering now.
    pub lingering: u64,
    /// Ended by the peer's close, everything acknowledged.
    pub peer_closed: u64,
    /// Ended with everything acknowledged and a silent peer.
    pub acknowledged: u64,
    /// Ended by the peer's reset.
    pub peer_reset: u64,
    /// Ended by a bound: of the policy (`idle`, `total` or `max_discard`), or because the kernel gave up
    /// retransmitting.
    pub misbehaved: u64,
    /// Ended early because the budget of the closer was exceeded.
    pub evicted: u64,
    /// Ended by an error of a system call.
    pub failed: u64,
    /// Number of searches through the fds of processes for other holders of a connection. Each takes time in proportion
    /// to the number of fds. With seccomp the program's system call waits meanwhile.
    pub looks: u64,
    /// Sockets on which the program listens, or has listened last.
    pub listeners: u64,
    /// Those of them that are covered in each process that has them.
    pub listeners_covered: u64,
}

impl RunReport {
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
            bytes_acknowledged: tally.bytes_acknowledged.load(Relaxed),
            bytes_unacknowledged: ended.unacknowledged,
            lost: tally.lost.load(Relaxed),
            unknown: tally.unknown.load(Relaxed),
            bytes_discarded: ended.discarded,
            lingering: ended.lingering + tally.parted.load(Relaxed),
            peer_closed: by.peer_closed + closed_before + tally.over.load(Relaxed),
            acknowledged: by.acknowledged + by.unwaited,
            peer_reset: by.peer_reset + by.gone.saturating_sub(closed_before),
            misbehaved: by.timed_out_idle + by.timed_out_total + by.timed_out_kernel + by.limit,
            evicted: by.evicted,
            failed: by.failed + by.aborted,
            looks,
            listeners: 0,
            listeners_covered: 0,
        }
    }

    /// With the numbers of listeners and of covered ones.
    pub(crate) fn with_coverage(self, (listeners, listeners_covered): (u64, u64)) -> Self {
        Self { listeners, listeners_covered, ..self }
    }

    /// Name, description and value of each count, in the order of the fields.
    pub(crate) fn named(&self) -> [(&'static str, &'static str, u64); 24] {
        [
            ("closes", "Closes of connections", self.closes),
            ("lingered", "Connections given to the supervisor", self.lingered),
            ("finished", "Closed plainly, the peer had closed", self.finished),
            ("drained", "Closed after unread bytes were read away, the peer had closed", self.drained),
            ("shared", "Closed plainly, another process has the connection", self.shared),
            ("aborted", "Reset as the program asked", self.aborted),
            ("gone", "Over before the close", self.gone),
            ("refused", "Closed plainly, not taken or not proved to be nobody's", self.refused),
            ("would_have_reset", "Had unread bytes at the close", self.would_have_reset),
            (
                "bytes_acknowledged",
                "Bytes unacknowledged at the close and acknowledged later",
                self.bytes_acknowledged,
            ),
            ("bytes_unacknowledged", "Bytes unacknowledged at the end", self.bytes_unacknowledged),
            ("lost", "Connections that were over before everything was acknowledged", self.lost),
            ("unknown", "Closed plainly at a bound with bytes that the kernel may yet deliver", self.unknown),
            ("bytes_discarded", "Bytes of the peers read and thrown away", self.bytes_discarded),
            ("lingering", "Connections that linger now", self.lingering),
            ("peer_closed", "Ended by the peer's close", self.peer_closed),
            ("acknowledged", "Ended acknowledged, the peer silent", self.acknowledged),
            ("peer_reset", "Ended by the peer's reset", self.peer_reset),
            ("misbehaved", "Ended by a bound", self.misbehaved),
            ("evicted", "Given up for others", self.evicted),
            ("failed", "Ended by an error of the system", self.failed),
            ("looks", "Times the descriptors of processes were searched", self.looks),
            ("listeners", "Listening sockets of the program", self.listeners),
            ("listeners_covered", "Listening sockets that are covered", self.listeners_covered),
        ]
    }
}

impl fmt::Display for RunReport {
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
            "{} would have been reset, {} lost, {} unknown; {} bytes acknowledged after the close, {} not, {} discarded",
            self.would_have_reset,
            self.lost,
            self.unknown,
            self.bytes_acknowledged,
            self.bytes_unacknowledged,
            self.bytes_discarded
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A report in which every count is another power of two.
    fn distinct() -> RunReport {
        let closes = std::array::from_fn(|place| 1 << place);
        let mut ended = Snapshot::default();
        let tally = Tally::default();
        for (place, count) in [&tally.closed_before, &tally.bytes_acknowledged, &tally.lost, &tally.unknown]
            .into_iter()
            .enumerate()
        {
            count.store(1 << (20 + place), Relaxed);
        }
        let by = &mut ended.ended;
        let of_closer = [
            &mut by.peer_closed,
            &mut by.acknowledged,
            &mut by.unwaited,
            &mut by.peer_reset,
            &mut by.timed_out_idle,
            &mut by.timed_out_total,
            &mut by.timed_out_kernel,
            &mut by.limit,
            &mut by.evicted,
            &mut by.failed,
            &mut by.aborted,
            &mut ended.unacknowledged,
            &mut ended.discarded,
            &mut ended.lingering,
        ];
        of_closer.into_iter().enumerate().for_each(|(place, count)| *count = 1 << (30 + place));
        RunReport::new(closes, 1 << 50, &ended, &tally).with_coverage((1 << 51, 1 << 52))
    }

    #[test]
    fn each_count_comes_from_its_own_source() {
        let report = distinct();
        let sums: Vec<Vec<u32>> = report
            .named()
            .map(|(.., value)| (0..64).filter(|bit| value >> bit & 1 == 1).collect())
            .into_iter()
            .collect();
        let expected: [&[u32]; 24] = [
            // Of the closes, in the order of `Count`; of the tally; of the closer.
            &[0],
            &[1],
            &[2],
            &[3],
            &[4],
            &[5],
            &[6],
            &[7],
            &[8],
            &[21],
            &[41],
            &[22],
            &[23],
            &[42],
            &[43],
            &[20, 30],
            &[31, 32],
            &[33],
            &[34, 35, 36, 37],
            &[38],
            &[39, 40],
            &[50],
            &[51],
            &[52],
        ];
        assert_eq!(sums, expected);
    }

    /// Those that the peer closed before the first check are counted as gone by the closer.
    #[test]
    fn a_peer_that_closed_before_the_first_check_has_not_reset() {
        let (mut ended, tally) = (Snapshot::default(), Tally::default());
        ended.ended.gone = 5;
        tally.closed_before.store(2, Relaxed);
        let report = RunReport::new([0; COUNTS], 0, &ended, &tally);
        assert_eq!((report.peer_closed, report.peer_reset), (2, 3));
        // The tally is told of an outcome before the closer has counted it.
        tally.closed_before.store(6, Relaxed);
        let report = RunReport::new([0; COUNTS], 0, &ended, &tally);
        assert_eq!((report.peer_closed, report.peer_reset), (6, 0));
    }

    /// The metrics have each count of the report under its own name.
    #[test]
    fn the_metrics_are_the_report() {
        let report = distinct();
        let serde_json::Value::Object(fields) = serde_json::to_value(report).unwrap() else { panic!() };
        let named = report.named().map(|(name, _, value)| (name.to_owned(), value.into()));
        assert_eq!(serde_json::Map::from_iter(named), fields);
    }

    #[test]
    fn the_text_says_all_counts_of_closes_and_ends() {
        let text = distinct().to_string();
        let mut counted: Vec<u64> = text
            .split(|letter: char| !letter.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        let mut expected: Vec<u64> = distinct().named().map(|(.., value)| value).to_vec();
        // Searches and listeners are told elsewhere.
        expected.truncate(21);
        counted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(counted, expected, "{text}");
    }
}
