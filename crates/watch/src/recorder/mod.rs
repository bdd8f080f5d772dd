//! [`Recorder`]: keeps the last packets of each connection in memory, and writes those of connections that are reset to disk.
//!
//! Packets are those that pass the network namespace in which the recorder was opened. On the way of a container that is attached to
//! it, that is the host's end.

mod entry;
mod files;
mod filter;
mod flows;
mod index;
mod options;
mod section;
mod slots;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linger_untrusted::{Untrusted, to_json};
use linger_why::Cause;

use self::entry::{SectionPlace, by_kernel, comment, entry};
use self::files::{DirectoryError, RecordFiles, capture_name};
use self::flows::{Flows, Matching};
pub use self::index::{IndexedReset, KernelVerdict, NotRecorded};
use self::options::COMMENTS;
pub use self::options::{CannotRecord, PacketTap, RecordOptions};
use self::section::BareSection;
use crate::addresses::Endpoints;
use crate::kernel::tap::{BLOCK_TIMEOUT, PacketRing};
use crate::live_reset::{BoxedReset, Direction, LiveReset};
use crate::recorded::{Agreement, JudgedReset, Recorded, judge, verdict_on};

/// Memory for packets; with connections, the ring and what is to be written, the recorder takes about 30 MiB at most.
const MEMORY: usize = 14 << 20;
/// How long a reset waits for its packet: the kernel hands packets over by the block.
const PATIENCE: Duration = Duration::from_millis(3 * BLOCK_TIMEOUT.as_millis() as u64);
/// Most resets that wait. More are written as they come, with the packets that are there.
const MOST_WAITING: usize = 16_384;
/// Most resets that are written in one call: each is told with what its packets say.
const MOST_AT_ONCE: usize = 1_024;
/// Records whose other end may still be told.
const MOST_RECENT: usize = 4_096;
/// Names of interfaces that are remembered.
const MOST_NAMES: usize = 1_024;

/// What a recorder has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordCounts {
    /// Resets that have a record. Two ends of one connection are two, and share their packets.
    pub recorded: u64,
    /// Resets of which no packet was there: those of other network namespaces, of other ports, or pushed out of the memory.
    pub without_packets: u64,
    /// Resets whose packets could not be written.
    pub not_written: u64,
    /// Recorded resets that were removed to make room.
    pub overwritten: u64,
    /// Packets that the kernel dropped because the ring was full.
    pub dropped_packets: u64,
    /// Records in which the kernel and the packets differ.
    pub differ: u64,
}

/// A reset that waits for its packets.
#[derive(Debug)]
struct AwaitedReset {
    reset: BoxedReset,
    until: Instant,
}

/// A section on disk, and the resets in it by its packets.
#[derive(Clone, Debug)]
struct KnownSection {
    place: SectionPlace,
    verdicts: Arc<[JudgedReset]>,
}

/// A record that is not known to be on disk.
#[derive(Clone, Copy, Debug)]
struct Collected {
    /// The number of its file, and its own in it.
    at: (u64, u64),
    differs: bool,
}

impl Collected {
    fn new(at: (u64, u64), recorded: &Recorded) -> Self {
        Self { at, differs: recorded.agreement == Agreement::Differ }
    }
}

/// Records the packets of connections that are reset.
#[derive(Debug)]
pub struct Recorder {
    ring: PacketRing,
    flows: Flows,
    files: RecordFiles,
    snap: u32,
    waiting: VecDeque<AwaitedReset>,
    is_behind: bool,
    /// The latest sections, of which the first has the number `begun`.
    recent: VecDeque<KnownSection>,
    begun: u64,
    names: HashMap<u32, String>,
    /// Memory for the section that is written.
    section: Vec<u8>,
    /// The records that are not known to be on disk.
    collected: Vec<Collected>,
    counts: RecordCounts,
    error: Option<io::Error>,
}

impl Recorder {
    /// Begins to record into the directory of the tap's options.
    ///
    /// # Errors
    /// Returns [`CannotRecord`].
    pub fn begin(tap: PacketTap) -> Result<Self, CannotRecord> {
        let PacketTap { ring, options } = tap;
        let files = RecordFiles::open(&options.directory, options.keep).map_err(|error| match error {
            DirectoryError::NotADirectory => CannotRecord::NotADirectory,
            DirectoryError::Locked => CannotRecord::Locked,
            DirectoryError::Io(error) => CannotRecord::NotWritable(error),
        })?;
        Ok(Self {
            ring,
            flows: Flows::new(MEMORY, options.bytes as usize, options.per_flow),
            files,
            snap: options.bytes,
            waiting: VecDeque::new(),
            is_behind: false,
            recent: VecDeque::new(),
            begun: 0,
            names: HashMap::new(),
            section: Vec::new(),
            collected: Vec::new(),
            counts: RecordCounts::default(),
            error: None,
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> RecordCounts {
        RecordCounts { overwritten: self.files.overwritten(), ..self.counts }
    }

    /// The last error of writing.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// The directory of the captures.
    pub fn directory(&self) -> &Path {
        self.files.directory()
    }

    /// Takes the packets that the kernel has handed over.
    pub(crate) fn drain(&mut self) {
        self.ring.drain(|packet| self.flows.take(packet));
        self.counts.dropped_packets += u64::from(self.ring.overruns());
    }

    /// Whether a reset waits for its packets.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many resets wait for their packets.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether more could be written than one call does.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes a reset, to be returned by [`ready`](Self::ready).
    pub(crate) fn take(&mut self, reset: BoxedReset) {
        self.waiting.push_back(AwaitedReset { reset, until: Instant::now() + PATIENCE });
    }

    /// The resets whose packets are on disk, or will never be. Call [`drain`](Self::drain) before. `all`: without waiting for packets.
    pub(crate) fn ready(&mut self, all: bool) -> Vec<BoxedReset> {
        let now = Instant::now();
        let mut done = Vec::new();
        // The sender's end first, if both are there: of that the kernel knows more.
        let mut waiting = std::mem::take(&mut self.waiting);
        let all = all || waiting.len() > MOST_WAITING;
        waiting.make_contiguous().sort_by_key(|waiting| waiting.reset.direction == Direction::Received);
        for waiting in waiting {
            let over = all || now >= waiting.until;
            if done.len() < MOST_AT_ONCE && (over || self.has_packets(&waiting.reset)) {
                let mut reset = waiting.reset;
                self.record(&mut reset);
                done.push(reset);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        self.is_behind = done.len() >= MOST_AT_ONCE;
        self.files.flush();
        self.forget_lost(&mut done);
        done.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        done
    }

    /// Takes back what was said of records that could not be written.
    fn forget_lost(&mut self, done: &mut [BoxedReset]) {
        let lost = self.files.take_lost();
        let is_lost = |at: (u64, u64)| lost.iter().any(|lost| lost.has(at.0, at.1));
        let mut ids = HashSet::new();
        for collected in self.collected.drain(..) {
            if is_lost(collected.at) {
                self.counts.not_written += 1;
                ids.insert(id(collected.at));
            } else {
                self.counts.recorded += 1;
                self.counts.differ += u64::from(collected.differs);
            }
        }
        if !ids.is_empty() {
            let is_gone = |recorded: &mut Recorded| ids.contains(&recorded.id);
            done.iter_mut().for_each(|reset| drop(reset.recorded.take_if(is_gone)));
        }
        self.error = lost.into_iter().last().map(|lost| lost.error).or(self.error.take());
    }

    fn has_packets(&self, reset: &LiveReset) -> bool {
        connections(reset).all(|(ends, time_ns)| self.flows.matching(&ends, time_ns).has_reset)
    }

    /// Writes the packets of all connections of a reset.
    fn record(&mut self, reset: &mut LiveReset) {
        if is_elsewhere(reset) {
            self.counts.without_packets += 1;
            return;
        }
        let mut whole: Option<Recorded> = None;
        for (ends, time_ns) in connections(reset).collect::<Vec<_>>() {
            let matching = self.flows.matching(&ends, time_ns);
            if matching.is_empty() {
                self.counts.without_packets += 1;
                continue;
            }
            match self.write(reset, (&ends, time_ns), &matching) {
                Ok(recorded) => match &mut whole {
                    Some(whole) => whole.connections += 1,
                    none => *none = Some(recorded),
                },
                Err(error) => {
                    self.counts.not_written += 1;
                    self.error = Some(error);
                }
            }
        }
        if let Some(recorded) = whole {
            learn(reset, &recorded);
            reset.recorded = Some(recorded);
        }
    }

    fn known(&self, number: u64) -> Option<&KnownSection> {
        self.recent.get(usize::try_from(number.checked_sub(self.begun)?).ok()?)
    }

    /// Writes one connection. Of packets that are on disk already, for its other end, only the line is added.
    fn write(
        &mut self,
        reset: &LiveReset,
        (ends, time_ns): (&Endpoints, u64),
        matching: &Matching,
    ) -> io::Result<Recorded> {
        if let Some(known) = matching.written.and_then(|number| self.known(number)).cloned() {
            let at = self.files.next(COMMENTS)?;
            // Both go when their file does.
            if at.file == known.place.file {
                let recorded = recorded(reset, ends, at.number, &known);
                let line = line(&entry(reset, (ends, time_ns), &recorded, &known.place))?;
                self.files.collect(&[], 0, &line);
                self.collected.push(Collected::new((at.file, at.number), &recorded));
                return Ok(recorded);
            }
        }
        let packets = self.flows.packets(matching);
        let (names, ring) = (&mut self.names, &self.ring);
        let name = |interface| interface_name(ring, names, interface);
        let bare = BareSection::new(&packets, self.snap, &by_kernel(reset), name);
        let at = self.files.next(bare.as_bytes().len() as u64 + COMMENTS)?;
        let (file, offset, first_frame, frames) = (at.file, at.offset, at.first_frame, packets.len() as u64);
        let place = SectionPlace { file, offset, bytes: 0, first_frame, frames };
        let mut known = KnownSection { place, verdicts: judge(bare.as_bytes()).into() };
        let recorded = recorded(reset, ends, at.number, &known);
        self.section.clear();
        bare.append_to(&mut self.section, &comment(reset, ends, &recorded))?;
        known.place.bytes = self.section.len() as u64;
        let line = line(&entry(reset, (ends, time_ns), &recorded, &known.place))?;
        self.files.collect(&self.section, frames, &line);
        self.collected.push(Collected::new((file, at.number), &recorded));
        self.flows.written(matching, self.begun + self.recent.len() as u64);
        self.recent.push_back(known);
        if self.recent.len() > MOST_RECENT {
            self.recent.pop_front();
            self.begun += 1;
        }
        Ok(recorded)
    }
}

impl AsFd for Recorder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// What is told of a reset whose packets are in a section, as the `number`th of its file.
fn recorded(reset: &LiveReset, ends: &Endpoints, number: u64, known: &KnownSection) -> Recorded {
    let sender = match reset.direction {
        Direction::Sent => ends.0,
        Direction::Received => ends.1,
    };
    let packets = verdict_on(&known.verdicts, sender);
    Recorded {
        id: id((known.place.file, number)),
        file: capture_name(known.place.file),
        frames: known.place.frames,
        kernel: reset.cause,
        agreement: Agreement::of((reset.cause, &reset.candidates), packets.as_ref()),
        packets,
        connections: 1,
    }
}

fn id((file, number): (u64, u64)) -> String {
    format!("{file}-{number}")
}

fn line(entry: &IndexedReset) -> io::Result<String> {
    Ok(to_json(entry).map_err(io::Error::other)? + "\n")
}

/// The connections that a reset stands for, each with its time.
fn connections(reset: &LiveReset) -> impl Iterator<Item = (Endpoints, u64)> {
    std::iter::once((reset.ends(), reset.time_ns())).chain(reset.others.iter().copied())
}

/// Whether the reset is of a loopback interface of another network namespace. The same numbers here are another connection.
fn is_elsewhere(reset: &LiveReset) -> bool {
    reset.local.ip().is_loopback() && reset.namespace.is_some() && !reset.is_own_namespace
}

/// Gives a reset of which this host cannot know the cause the one that its packets show.
fn learn(reset: &mut LiveReset, recorded: &Recorded) {
    let Some(packets) = &recorded.packets else { return };
    let is_unknown = reset.direction == Direction::Received && reset.cause == Cause::Unknown;
    if !is_unknown || packets.cause == Cause::Unknown {
        return;
    }
    let mut evidence = std::mem::take(&mut reset.evidence);
    evidence.extend(packets.evidence.iter().map(|says| format!("the packets: {says}")));
    reset.set((packets.cause, packets.confidence, packets.candidates.clone(), evidence));
}

/// The name of an interface, or its number if it is gone.
fn interface_name(ring: &PacketRing, names: &mut HashMap<u32, String>, interface: u32) -> String {
    if names.len() >= MOST_NAMES {
        names.clear();
    }
    let look = || match rustix::net::netdevice::index_to_name(ring, interface) {
        Ok(name) => Untrusted::from(name).plain().to_string(),
        Err(_) => format!("if{interface}"),
    };
    names.entry(interface).or_insert_with(look).clone()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
