//! Kernel tracepoints through perf events: one ring for each processor, shared by all tracepoints, with lost events counted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::ClockId;

use crate::access::Access;
use crate::kernel::locked::LockableMemory;
pub(crate) use crate::kernel::ring::{PerfRecord, Sample, Subscription};
use crate::kernel::ring::{Ring, RingError};

/// Why the tracepoints cannot be opened.
#[derive(Debug)]
pub(crate) enum PerfError {
    /// Not even the smallest rings may be locked in memory.
    Locked(LockableMemory),
    /// Another call failed.
    Refused(io::Error),
}

impl From<io::Error> for PerfError {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

/// How many events of a ring are read before another's turn comes.
const LEAST_PIECE: usize = 16;
const MOST_PIECE: usize = 1_024;

/// The result of [`Perf::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PerfDrained {
    /// Every event up to this time was passed on (nanoseconds since 1970).
    pub(crate) until_ns: u64,
    /// Whether a ring had more.
    pub(crate) is_behind: bool,
}

/// Open tracepoints on all processors.
#[derive(Debug)]
pub(crate) struct Perf {
    /// What is opened on each processor, also on those that come online later.
    sources: Vec<Subscription>,
    rings: Vec<Ring>,
    /// Lost events of processors that went offline.
    gone_lost: u64,
    /// Lost events by the records in the rings.
    lost: u64,
    /// Lost events by the events' own counts. Either number may lag behind the other.
    counted_lost: u64,
}

impl Perf {
    /// Opens `sources` on every processor, with the largest rings that the kernel admits.
    ///
    /// # Errors
    /// Returns [`PerfError::Locked`] if not even the smallest rings are admitted, `EACCES` or `EPERM` without `CAP_PERFMON`, and
    /// `EINVAL` for a filter that the kernel does not understand.
    pub(crate) fn open(sources: Vec<Subscription>) -> Result<Self, PerfError> {
        Self::open_on(&processors()?, sources)
    }

    fn open_on(processors: &[i32], sources: Vec<Subscription>) -> Result<Self, PerfError> {
        let memory = LockableMemory::now(processors.len());
        for size in memory.rings() {
            let rings =
                processors.iter().map(|cpu| Ring::open(&sources, *cpu, size)).collect::<Result<_, _>>();
            match rings {
                Ok(rings) => {
                    tracing::info!(
                        ring_bytes = size,
                        processors = processors.len(),
                        "rings for kernel events"
                    );
                    return Ok(Self { sources, rings, gone_lost: 0, lost: 0, counted_lost: 0 });
                }
                // Other processes of this user have used the allowance, or some of it.
                Err(RingError::Locked) => tracing::info!(ring_bytes = size, "too much memory to be locked"),
                Err(RingError::Other(error)) => return Err(error.into()),
            }
        }
        Err(PerfError::Locked(memory))
    }

    /// Opens the tracepoints on processors that came online since the last call or the start, and closes those of processors
    /// that went offline: their events do not come back with them. A new ring is as large as the first, or as the kernel admits.
    ///
    /// # Errors
    /// Returns why a new processor is not watched. It is tried again at the next call.
    pub(crate) fn follow_processors(&mut self, access: &Access) -> io::Result<()> {
        let online = processors()?;
        let (gone, rest): (Vec<Ring>, Vec<Ring>) =
            std::mem::take(&mut self.rings).into_iter().partition(|ring| !online.contains(&ring.cpu));
        self.rings = rest;
        self.gone_lost += lost_of(&gone);
        drop(gone);
        let known: Vec<i32> = self.rings.iter().map(|ring| ring.cpu).collect();
        for cpu in online.iter().filter(|cpu| !known.contains(cpu)) {
            self.follow(access, *cpu, online.len())?;
        }
        Ok(())
    }

    fn follow(&mut self, access: &Access, cpu: i32, processors: usize) -> io::Result<()> {
        let most = self.rings.first().map_or(usize::MAX, |ring| ring.size);
        let memory = LockableMemory::now(processors);
        // The user's allowance grows with the processors, and rings that are open do not: a smaller one may pass where the
        // memory is not enough for all of them in this size.
        for size in memory.all_sizes().filter(|size| *size <= most) {
            match access.processor(&self.sources, cpu, size) {
                Ok(ring) => {
                    tracing::info!(cpu, ring_bytes = size, "a processor came online");
                    self.rings.push(ring);
                    return Ok(());
                }
                Err(RingError::Locked) => {}
                Err(RingError::Other(error)) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    /// What is opened on each processor.
    pub(crate) fn sources(&self) -> &[Subscription] {
        &self.sources
    }

    /// Size of each processor's ring, in bytes.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.rings.first().map_or(0, |ring| ring.size)
    }

    /// Waits until a ring has filled to a quarter, until one of the `others` can be read, or for `timeout`.
    ///
    /// # Errors
    /// Returns the errors of `poll`. A signal that interrupts the call is no error.
    pub(crate) fn wait(&self, timeout: Duration, others: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = self
            .rings
            .iter()
            .filter_map(|ring| ring.events.first())
            .map(|event| event.as_fd())
            .chain(others.iter().copied())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes pending records to `on_record`, about `most` events: a piece of each ring, of that which is behind first, so that
    /// little is read that is younger than what is left in another.
    pub(crate) fn drain(&mut self, most: usize, mut on_record: impl FnMut(PerfRecord<'_>)) -> PerfDrained {
        // Tracepoints may fire in an interrupt, where only the monotonic clock can be read.
        let now = clock(ClockId::Monotonic);
        let offset = clock(ClockId::Realtime).wrapping_sub(now);
        let mut on_record = |mut record: PerfRecord<'_>| {
            if let PerfRecord::Sample(sample) = &mut record {
                sample.time_ns = sample.time_ns.wrapping_add(offset);
            }
            on_record(record);
        };
        let piece = (most / self.rings.len().max(1)).clamp(LEAST_PIECE, MOST_PIECE);
        let mut left = most;
        loop {
            let until = self.rings.iter().map(|ring| ring.read_until).min().unwrap_or(now);
            if until >= now || left == 0 {
                let is_behind = until < now;
                return PerfDrained { until_ns: until.min(now).wrapping_add(offset), is_behind };
            }
            for ring in self.rings.iter_mut().filter(|ring| ring.read_until <= until) {
                let drained = ring.drain(piece.min(left), now, &mut on_record);
                self.lost += drained.lost;
                left -= drained.events.min(left);
            }
        }
    }

    /// Asks each event how many of its records the kernel dropped (`PERF_FORMAT_LOST`, Linux 6.0). A full ring says so by a
    /// record only once it has room for one and a further event comes, which may be never.
    pub(crate) fn count_lost(&mut self) {
        self.counted_lost = self.gone_lost + lost_of(&self.rings);
    }

    /// Number of events that the kernel dropped because a ring was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.max(self.counted_lost)
    }
}

/// The lost events of these rings by the events' own counts.
fn lost_of(rings: &[Ring]) -> u64 {
    rings.iter().map(Ring::counted_lost).sum()
}

fn clock(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The online processors.
pub(crate) fn processors() -> io::Result<Vec<i32>> {
    list_of(&std::fs::read_to_string("/sys/devices/system/cpu/online")?)
}

/// Parses a list such as `0-3,8`.
fn list_of(text: &str) -> io::Result<Vec<i32>> {
    let number = |text: &str| {
        text.parse::<i32>().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a list of processors"))
    };
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(number(first)?..=number(last)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::tracepoint::{Format, tracefs};

    #[test]
    fn lists_of_processors_are_parsed() {
        assert_eq!(list_of("0-1\n").unwrap(), [0, 1]);
        assert_eq!(list_of("0,2-3,511\n").unwrap(), [0, 2, 3, 511]);
        assert_eq!(list_of("0-511").unwrap().len(), 512);
        assert!(list_of("").is_err() && list_of("0-x").is_err());
    }

    /// Opens the event of a state change, on these processors alone.
    fn on(processors: &[i32]) -> Option<Perf> {
        let opened = tracefs().and_then(|tracefs| Format::read(&tracefs, "sock", "inet_sock_set_state"));
        let opened = opened
            .map_err(PerfError::from)
            .and_then(|format| Perf::open_on(processors, vec![Subscription { id: format.id, filter: None }]));
        match opened {
            Ok(perf) => Some(perf),
            Err(error) => {
                linger_testing::skip("live tracepoints", &format!("{error:?}"));
                None
            }
        }
    }

    /// How many events are in the rings after a connection made on `cpu`.
    fn events_of_a_connection(perf: &mut Perf, cpu: i32) -> usize {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu as usize);
        let thread = std::thread::spawn(move || {
            rustix::thread::sched_setaffinity(None, &set).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            rustix::thread::gettid().as_raw_nonzero().get() as u32
        });
        let own = thread.join().unwrap();
        let mut events = 0;
        perf.drain(usize::MAX, |record| {
            // Not those of other tests, nor of packets that arrive while they run.
            events += usize::from(matches!(record, PerfRecord::Sample(sample) if sample.thread == own))
        });
        events
    }

    #[test]
    fn a_processor_that_comes_online_is_watched() {
        let all = processors().unwrap();
        let [first, .., last] = all[..] else { return };
        let Some(mut perf) = on(&[first]) else { return };
        assert_eq!(events_of_a_connection(&mut perf, last), 0, "nobody watches this processor yet");
        perf.follow_processors(&Access::default()).unwrap();
        assert_eq!(perf.rings.len(), all.len());
        assert!(events_of_a_connection(&mut perf, last) > 0);
        // One that went offline leaves its count, and takes nothing of the others with it.
        perf.rings.last_mut().unwrap().cpu = i32::MAX;
        perf.follow_processors(&Access::default()).unwrap();
        assert_eq!(perf.rings.len(), all.len());
        assert!(events_of_a_connection(&mut perf, last) > 0);
    }

    /// Whatever is read at a time: all of it comes, and nothing that is older than what all were said to be read up to.
    #[test]
    fn what_is_read_in_pieces_is_all_and_in_order() {
        let all = processors().unwrap();
        let Some(mut perf) = on(&all) else { return };
        let events = |perf: &mut Perf, most: usize| {
            let mut times = Vec::new();
            let drained = perf.drain(most, |record| {
                if let PerfRecord::Sample(sample) = record {
                    times.push(sample.time_ns);
                }
            });
            (times, drained)
        };
        events(&mut perf, usize::MAX);
        // Connections on one processor after the other, each younger than those before.
        let made: usize = all.iter().rev().map(|cpu| connections_on(*cpu, 20)).sum();
        let (mut seen, mut until, mut rounds) = (0, 0, 0);
        loop {
            let (times, drained) = events(&mut perf, 20);
            assert!(times.iter().all(|time| *time > until), "{times:?} after {until}");
            assert!(times.len() <= 20 && drained.until_ns >= until);
            (seen, until, rounds) = (seen + times.len(), drained.until_ns, rounds + 1);
            if !drained.is_behind {
                break;
            }
        }
        assert!(seen >= made * 2 && rounds > all.len(), "{seen} of {made} in {rounds}");
    }

    /// Makes connections on a processor, of each of which there are two changes of state at least.
    fn connections_on(cpu: i32, count: usize) -> usize {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu as usize);
        let thread = std::thread::spawn(move || {
            rustix::thread::sched_setaffinity(None, &set).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            for _ in 0..count {
                drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            }
        });
        thread.join().unwrap();
        count
    }

    #[test]
    fn a_ring_that_another_has_opened_is_read_without_rights() {
        let all = processors().unwrap();
        let Some(mut perf) = on(&all[..1]) else { return };
        let opened = &perf.rings[0];
        let events = opened.events.iter().map(|event| event.try_clone().unwrap()).collect();
        let (cpu, size) = (opened.cpu, opened.size);
        let without_rights = std::thread::spawn(move || {
            crate::privilege::give_up_all_capabilities().unwrap();
            rustix::thread::set_name(c"no-rights").unwrap();
            Ring::of_events(events, cpu, size).unwrap()
        });
        let ring = without_rights.join().unwrap();
        // It is the same memory: who opened it may go, and another size is no ring of these events.
        let other = ring.events.iter().map(|event| event.try_clone().unwrap()).collect();
        assert!(Ring::of_events(other, cpu, size / 2).is_err());
        perf.rings = vec![ring];
        assert!(events_of_a_connection(&mut perf, cpu) > 0);
    }
}
