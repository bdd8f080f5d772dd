//! [`Watcher`]: combines tracepoints, destroyed sockets, the socket list, counters and processes into notices.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::blind::Blind;
use crate::cgroup::KnownPlace;
use crate::counted::{Comparison, Counted};
use crate::events::{CannotWatch, Kernel, KernelEvent};
use crate::held;
use crate::interval::LookInterval;
use crate::kernel::leftovers::Leftovers;
use crate::live_reset::{AcceptQueue, BoxedReset};
use crate::namespace_id::NamespaceId;
use crate::notice::{Filter, FurtherResets, Notice};
use crate::opener::Opener;
use crate::process::NamedProcess;
use crate::recorder::Recorder;
use crate::resets::Resets;

/// Polling interval for destroyed sockets while resets are held back for them.
const WHILE_WAITING: Duration = Duration::from_millis(100);
/// If one read returns this many destroyed sockets or more, the host is busy: read again after [`WHILE_MANY`], before the
/// netlink buffer is full.
const MANY: usize = 200;
/// How often the kernel's counters are read, at least, and the share of a processor that it may take up to there: one part in so
/// many.
const COUNTERS: LookInterval = LookInterval::new(Duration::from_secs(3), Duration::from_secs(15), 1_500);
/// How often the socket lists are polled, at least, while accept queues overflow: the list of a host with many namespaces may else be
/// half a minute old, and where nothing is reset nothing else tells of them.
const OVERFLOWING: LookInterval = LookInterval::new(Duration::from_secs(3), Duration::from_secs(30), 150);
/// Shortest interval between notices of further resets after one.
const FURTHER_EVERY: Duration = Duration::from_secs(1);
/// Most notices that one call returns: while they are told, the rings fill.
const AT_ONCE: usize = 512;
/// The rings are read again after so many events were taken.
const READ_AFTER: usize = 1_024;
const WHILE_MANY: Duration = Duration::from_millis(50);

/// Watches this host's resets.
#[derive(Debug)]
pub struct Watcher {
    kernel: Kernel,
    filter: Filter,
    resets: Resets,
    comparison: Comparison,
    counting: LookInterval,
    overflowing: LookInterval,
    /// Accept queues have overflowed since the last poll.
    overflowed: bool,
    many: bool,
    /// Poll at the next opportunity.
    look_now: bool,
    further_told: Instant,
    /// What the next calls of `next` return.
    pending: VecDeque<Notice>,
    recorder: Option<Recorder>,
    access: Access,
}

impl Watcher {
    /// Opens the kernel's tracepoints.
    ///
    /// # Errors
    /// Returns [`CannotWatch`], which says what is missing and what to do.
    pub fn open(filter: Filter) -> Result<Self, CannotWatch> {
        let access = Access::default();
        let mut watcher = Self {
            kernel: Kernel::open(filter.own.map(|client| client.port))?,
            resets: Resets::new(&access, filter.own),
            filter,
            comparison: Comparison::start(),
            counting: COUNTERS,
            overflowing: OVERFLOWING,
            overflowed: false,
            many: false,
            look_now: false,
            further_told: Instant::now(),
            pending: VecDeque::new(),
            recorder: None,
            access,
        };
        watcher.discover(true);
        for blind in watcher.blind() {
            tracing::info!(?blind, "not to be seen: {}", blind.meaning());
        }
        watcher.pending = watcher.look().into();
        Ok(watcher)
    }

    /// Has everything that takes capabilities done by the opener from now on: this process needs none any more.
    ///
    /// # Errors
    /// Returns an error if the opener has ended. Then everything is done as before.
    pub fn delegate(&mut self, mut opener: Opener) -> io::Result<()> {
        opener.begin(self.kernel.sources())?;
        self.access.delegate(opener);
        Ok(())
    }

    /// Records the packets of the resets that the filter admits. They are told once their packets are on disk.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// The recorder, if packets are recorded.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// The limitations of this kernel and user.
    pub fn blind(&self) -> &[Blind] {
        self.kernel.blind()
    }

    /// Number of events that the kernel dropped because the ring was full.
    pub fn lost(&self) -> u64 {
        self.kernel.lost()
    }

    /// Size of the ring for events that each processor has, in bytes. It is smaller where less memory may be locked
    /// (`RLIMIT_MEMLOCK`), and then overflows sooner; see [`lost`](Self::lost).
    pub fn ring_bytes(&self) -> usize {
        self.kernel.ring_bytes()
    }

    /// The kernel's counters beside the events, as of the last comparison.
    pub fn counted(&self) -> &Counted {
        self.comparison.counted()
    }

    /// The listeners of all network namespaces with their accept queues and holders, as of the last poll.
    pub fn listeners(
        &self,
    ) -> impl Iterator<Item = (NamespaceId, SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.resets.listeners()
    }

    /// The namespace's name, and container, pod and unit of a process that was named before, also after its end; those of the namespace
    /// if no process is known.
    pub fn place(&self, namespace: NamespaceId, process: Option<&NamedProcess>) -> KnownPlace {
        self.resets.place(namespace, process)
    }

    /// The place of this process.
    pub fn own_place(&self) -> KnownPlace {
        KnownPlace::new(self.resets.own_namespace())
    }

    /// Waits for `timeout` at most, and returns what happened.
    ///
    /// A reset is reported when its socket is destroyed, and after one second at the latest. Two kinds may come later: resets
    /// over a loopback address whose namespace is still sought, by about a second, and those of a process that ended, which are
    /// one notice when the process is gone, or after five seconds.
    ///
    /// # Errors
    /// Returns the errors of waiting for the kernel.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Vec<Notice>> {
        self.next_or(timeout, None)
    }

    /// Does what [`next`](Self::next) does, and returns early when `other`, such as a terminal, is readable.
    ///
    /// # Errors
    /// Returns the errors of [`next`](Self::next).
    pub fn next_or(&mut self, timeout: Duration, other: Option<BorrowedFd<'_>>) -> io::Result<Vec<Notice>> {
        if !self.pending.is_empty() {
            // While the caller tells of the others the rings fill.
            self.read();
            return Ok(self.told());
        }
        let is_behind = self.kernel.is_behind() || self.recorder.as_ref().is_some_and(Recorder::is_behind);
        let most = if is_behind {
            Duration::ZERO
        } else if self.many {
            WHILE_MANY
        } else if !self.resets.waits() && !self.kernel.has_more() && !self.records() {
            timeout
        } else {
            WHILE_WAITING
        };
        let ring = self.recorder.as_ref().map(AsFd::as_fd);
        let others: Vec<_> = ring.into_iter().chain(other).collect();
        self.kernel.wait(timeout.min(most), &others)?;
        self.pending = self.take_stock(false).into();
        Ok(self.told())
    }

    /// The next notices of those that wait.
    fn told(&mut self) -> Vec<Notice> {
        let count = self.pending.len().min(AT_ONCE);
        self.pending.drain(..count).collect()
    }

    /// Reads the rings.
    fn read(&mut self) {
        self.kernel.read(|pid, name| self.resets.named(pid, name));
    }

    /// How many resets are kept until they are told.
    fn kept(&self) -> usize {
        self.resets.kept() + self.recorder.as_ref().map_or(0, Recorder::waiting)
    }

    /// Takes the events that are read, as long as there is room for the resets.
    fn take_events(&mut self) {
        for taken in 1..=self.kernel.waiting().len() {
            if self.kept() >= held::MAX {
                break;
            }
            let Some(event) = self.kernel.take() else { break };
            self.resets.take(event);
            if taken % READ_AFTER == 0 {
                self.read();
            }
        }
    }

    /// Whether a reset waits for its packets.
    fn records(&self) -> bool {
        self.recorder.as_ref().is_some_and(Recorder::waits)
    }

    /// Returns the last notices. Waits up to `patience` for sockets that are not destroyed yet. The resets of sockets that are
    /// not destroyed by then are reported without byte counts.
    ///
    /// # Errors
    /// Returns the errors of [`next`](Self::next).
    pub fn finish(&mut self, patience: Duration) -> io::Result<Vec<Notice>> {
        const STEP: Duration = Duration::from_millis(5);
        let until = Instant::now() + patience;
        // The last poll, so that what has grown since the one before is told.
        self.look_now = true;
        let mut notices = self.take_stock(true);
        // Of what other namespaces had counted at that poll the events are there now.
        notices.extend(self.take_stock(true));
        while (self.resets.waits() || self.kernel.has_more()) && Instant::now() < until {
            // Only wait here; `take_stock` then reads all sources in the order that it needs.
            std::thread::sleep(STEP);
            notices.extend(self.take_stock(true));
        }
        let rest = self.resets.give_up();
        self.tell(rest, &mut notices);
        // Each waits for a bounded time, whatever the patience: its packet was seen, and is not handed over yet.
        while self.records() {
            std::thread::sleep(STEP);
            self.tell_recorded(&mut notices);
        }
        self.tell_further(true, &mut notices);
        notices.extend(self.compare());
        Ok(notices)
    }

    /// Reads all sources, in an order in which a cause is read before its effect.
    fn take_stock(&mut self, at_end: bool) -> Vec<Notice> {
        let mut notices = Vec::from(std::mem::take(&mut self.pending));
        let mut due = self.resets.is_due() || std::mem::take(&mut self.look_now);
        // The counters cost one file; the socket lists of a crowded host may be minutes apart.
        let counts = due || at_end || self.counting.is_due(Instant::now());
        if counts {
            let started = Instant::now();
            self.comparison.read();
            self.counting.done(started);
            self.overflowed |= self.comparison.notice_overflows();
        }
        let dead = self.resets.dead();
        let mut leftovers = Vec::new();
        let drained = self.kernel.leftovers(|leftover| leftovers.push(leftover));
        self.many = drained.taken >= MANY;
        if drained.overrun {
            self.comparison.overrun();
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.drain();
        }
        self.read();
        // A full accept queue may be empty a moment later: poll it now.
        due |= self.kernel.waiting().iter().any(KernelEvent::is_of_listener);
        due |= self.overflowed && self.overflowing.is_due(Instant::now());
        if due {
            let started = Instant::now();
            notices.extend(self.look());
            self.overflowing.done(started);
            self.overflowed = false;
        }
        self.take_events();
        let done = if self.kernel.is_behind() {
            // A process that has ended may have resets among the events that are left.
            self.resets.settle(leftovers, &[], true)
        } else {
            self.resets.settle(leftovers, &dead, false)
        };
        self.tell(done, &mut notices);
        self.tell_recorded(&mut notices);
        if self.further_told.elapsed() >= FURTHER_EVERY {
            self.further_told = Instant::now();
            self.tell_further(false, &mut notices);
        }
        if counts || due {
            notices.extend(self.compare());
        }
        notices
    }

    fn compare(&mut self) -> Option<Notice> {
        self.kernel.count_lost();
        self.comparison.saw(self.resets.seen(), self.resets.own_resets());
        let (lost, blind) = (self.kernel.lost(), self.kernel.blind());
        self.comparison.compare(lost, blind).map(|counted| Notice::Counters(counted.into()))
    }

    /// Finds the network namespaces of this host, and listens for the ends of their sockets.
    fn discover(&mut self, at_start: bool) {
        let namespaces = self.resets.namespaces();
        let sources = namespaces.discover();
        self.kernel.keep_leftovers(|id| namespaces.is_there(id));
        let (refused, crowded) = (namespaces.refused(), namespaces.crowded());
        if at_start {
            // Where others cannot be entered, the kernel is asked for what it tells of them here.
            let own = if refused { None } else { Some(namespaces.own()) };
            match Leftovers::open(own) {
                Ok(leftovers) => self.kernel.add_leftovers(leftovers),
                Err(_) => self.kernel.note_blind(Blind::NoBytes),
            }
            if refused {
                self.kernel.note_blind(Blind::NoNamespaces);
            }
        }
        if crowded {
            self.kernel.note_blind(Blind::TooManyNamespaces);
        }
        sources.into_iter().for_each(|source| self.kernel.add_leftovers(source));
    }

    fn look(&mut self) -> Vec<Notice> {
        self.discover(false);
        self.kernel.follow_processors(&self.access);
        let (warnings, others) = self.resets.look();
        self.comparison.others(others);
        if self.access.is_lost() {
            self.kernel.note_blind(Blind::NoOpener);
        }
        warnings
            .into_iter()
            .filter(|warning| self.filter.admits_warning(warning))
            .map(Notice::Warning)
            .collect()
    }

    /// Appends the resets that the filter admits.
    fn tell(&mut self, resets: Vec<BoxedReset>, notices: &mut Vec<Notice>) {
        for reset in resets {
            let shown = self.filter.admits(&reset);
            tracing::debug!(
                shown,
                reason = reset.reason.as_deref(),
                state = reset.state,
                local = %reset.local,
                cause = reset.cause.name(),
                confidence = reset.confidence.name(),
                "reset {}",
                reset.direction.name()
            );
            match &mut self.recorder {
                _ if !shown => {}
                Some(recorder) => recorder.take(reset),
                None => notices.push(Notice::Reset(reset)),
            }
        }
    }

    /// Appends the resets whose packets are recorded.
    fn tell_recorded(&mut self, notices: &mut Vec<Notice>) {
        let Some(recorder) = &mut self.recorder else { return };
        if recorder.waits() {
            recorder.drain();
            let done = recorder.ready(false);
            notices.extend(done.into_iter().map(Notice::Reset));
        }
    }

    /// Appends what followed resets that were told before. `all`: also what came last.
    fn tell_further(&mut self, all: bool, notices: &mut Vec<Notice>) {
        for (echoes, place) in self.resets.echoes(all) {
            let (local, remote) = (echoes.ends.0, (echoes.ends.1.port() != 0).then_some(echoes.ends.1));
            let (process, resets) = (echoes.process, echoes.count);
            if self.filter.admits_all(&[Some(local), remote], process.as_ref()) {
                let further =
                    FurtherResets { local, remote, cause: echoes.opinion.0, process, place, resets };
                notices.push(Notice::Further(further.into()));
            }
        }
    }
}
