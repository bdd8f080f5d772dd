//! When packets leave a link: rate, queue, traces, delay and jitter, by a clock that begins with the lane's first packet.

use std::time::Duration;

use crate::clock::Nanos;
use crate::link::mtu::ETHERNET;
use crate::link::trace::Trace;
use crate::link::{Direction, Link, Path};

/// Bytes of each opportunity of a trace.
const OPPORTUNITY: u64 = 1_500;

/// What was sent before, of all packets that share the rate and the clock: of one connection, or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    begun: Option<Nanos>,
    ways: [OneWay; 2],
}

/// One direction of a lane.
#[derive(Clone, Copy, Debug, Default)]
struct OneWay {
    /// When the rate limit will have sent everything queued.
    free_at: Nanos,
    last_due: Nanos,
    /// Number of the last opportunity of the trace that was used, and what is left of it.
    opportunity: Option<(u64, u64)>,
}

impl Lane {
    /// The paths of the link when a packet enters it now.
    pub(crate) fn paths<'a>(&mut self, link: &'a Link, now: Nanos) -> &'a [Path; 2] {
        link.paths_at(Duration::from_nanos(self.elapsed(now)))
    }

    fn elapsed(&mut self, now: Nanos) -> Nanos {
        now.saturating_sub(*self.begun.get_or_insert(now))
    }

    /// Returns when a frame of this length leaves the link, or `None` if the queue is full. `jitter` is its share of the jitter.
    pub(crate) fn due(
        &mut self,
        link: &Link,
        direction: Direction,
        now: Nanos,
        len: usize,
        jitter: f64,
    ) -> Option<Nanos> {
        let path = &self.paths(link, now)[direction.index()];
        let sent = match &path.trace {
            Some(trace) if trace.is_read() => self.by_trace(trace, path, direction, now, len)?,
            _ => self.by_rate(link, direction, now, len)?,
        };
        let due = sent.saturating_add(nanos(path.delay)) + (nanos(path.jitter) as f64 * jitter) as u64;
        // Jitter and a delay that becomes shorter change gaps and never the order; `reorder` does that.
        let last = &mut self.ways[direction.index()].last_due;
        *last = due.max(*last);
        Some(*last)
    }

    /// Whether the queue before the rate limit is half full.
    pub(crate) fn is_crowded(&mut self, link: &Link, direction: Direction, now: Nanos) -> bool {
        let rates = Rates { link, direction, begun: now - self.elapsed(now) };
        let start = self.ways[direction.index()].free_at.max(now);
        let waiting = rates.work_between(now, start) / WORK_OF_A_BYTE;
        rates.path(now).queue.is_some_and(|limit| 2 * waiting >= u128::from(limit.0))
    }

    fn by_rate(&mut self, link: &Link, direction: Direction, now: Nanos, len: usize) -> Option<Nanos> {
        let begun = self.begun.unwrap_or(now);
        let way = &mut self.ways[direction.index()];
        let rates = Rates { link, direction, begun };
        let start = way.free_at.max(now);
        if let Some(limit) = rates.path(now).queue {
            let waiting = rates.work_between(now, start) / WORK_OF_A_BYTE;
            if waiting + len as u128 > u128::from(limit.0) {
                return None;
            }
        }
        let sent = rates.end(start, len as u128 * WORK_OF_A_BYTE);
        way.free_at = sent;
        Some(sent)
    }

    fn by_trace(
        &mut self,
        trace: &Trace,
        path: &Path,
        direction: Direction,
        now: Nanos,
        len: usize,
    ) -> Option<Nanos> {
        let begun = self.begun.unwrap_or(now);
        let elapsed = now.saturating_sub(begun);
        let first = trace.first_at(elapsed);
        let way = &mut self.ways[direction.index()];
        // What is left of an opportunity that has passed is lost, as in mahimahi.
        let (number, left) =
            way.opportunity.filter(|(number, _)| *number >= first).unwrap_or((first, OPPORTUNITY));
        // A trace counts IP packets.
        let len = len.saturating_sub(ETHERNET) as u64;
        if let Some(limit) = path.queue {
            let waiting = (number - first + 1) * OPPORTUNITY - left;
            if waiting + len > limit.0 {
                return None;
            }
        }
        let beyond = len.saturating_sub(left);
        let more = beyond.div_ceil(OPPORTUNITY);
        let last = number + more;
        way.opportunity = Some((last, left + more * OPPORTUNITY - len));
        Some(begun.saturating_add(trace.time(last)).max(now))
    }
}

/// What a byte costs, in bits times nanoseconds: at a rate of one bit a second, each bit takes a second.
const WORK_OF_A_BYTE: u128 = 8 * 1_000_000_000;

/// The rates of one direction over time.
struct Rates<'a> {
    link: &'a Link,
    direction: Direction,
    begun: Nanos,
}

impl Rates<'_> {
    fn path(&self, at: Nanos) -> &Path {
        &self.link.paths_at(self.since(at))[self.direction.index()]
    }

    fn since(&self, at: Nanos) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.begun))
    }

    /// The rate at this time (none for no limit), and when it may change.
    fn rate(&self, at: Nanos) -> (Option<u128>, Nanos) {
        let rate = self.path(at).rate.map(|rate| u128::from(rate.0));
        let next = self.link.next_change(self.since(at));
        (rate, next.map_or(Nanos::MAX, |next| self.begun.saturating_add(nanos(next))))
    }

    /// What the link can send between two times, of which no rate is without a limit where something waits.
    fn work_between(&self, mut from: Nanos, to: Nanos) -> u128 {
        let mut work = 0;
        while from < to {
            let (rate, next) = self.rate(from);
            let until = next.min(to);
            work += u128::from(until - from) * rate.unwrap_or(0);
            from = until;
        }
        work
    }

    /// When the link has done so much from `start` on.
    fn end(&self, mut start: Nanos, mut work: u128) -> Nanos {
        loop {
            let (rate, next) = self.rate(start);
            let Some(rate) = rate else { return start };
            let possible = u128::from(next - start) * rate;
            if work <= possible || next == Nanos::MAX {
                let takes = u64::try_from(work.div_ceil(rate)).unwrap_or(FAR);
                return start.saturating_add(takes).min(FAR);
            }
            work -= possible;
            start = next;
        }
    }
}

/// Later than anything happens, and far from where times overflow.
const FAR: Nanos = Nanos::MAX / 4;

pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(FAR)
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
