//! [`Watcher`]: combines tracepoints, destroyed sockets, the socket list, counters and processes into notices.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use linger_why::Cause;

use crate::bytes::{Bytes, Unknown};
use crate::closers::{Close, Closers};
use crate::counted::{Comparison, Counted};
use crate::diagnose::{self, AcceptQueue, Context, Direction, LiveReset, Opinion};
use crate::events::{Blind, CannotWatch, Endpoints, Happening, Kernel, What};
use crate::held::{Held, HeldResets};
use crate::notice::{Filter, Notice};
use crate::process::{NamedProcess, Processes};
use crate::sockets::Sockets;
use crate::tcp_state;

/// On loopback a reset is seen as sent and as received. The two belong together if less than this apart (nanoseconds).
const ECHO: u64 = 1_000_000;
/// Polling interval for destroyed sockets while resets are held back for them.
const WHILE_WAITING: Duration = Duration::from_millis(100);
/// If one read returns more destroyed sockets than this, the host is busy: read again at once, before the buffer is full.
const MANY: usize = 200;
const WHILE_MANY: Duration = Duration::from_millis(50);

/// Watches this host's resets.
#[derive(Debug)]
pub struct Watcher {
    kernel: Kernel,
    filter: Filter,
    processes: Processes,
    closers: Closers,
    sockets: Sockets,
    waiting: HeldResets,
    comparison: Comparison,
    sent_last: VecDeque<(u64, Endpoints, Opinion)>,
    many: bool,
    /// Warnings of the poll at the start, returned by the first call of `next`.
    pending: Vec<Notice>,
}

impl Watcher {
    /// Opens the kernel's tracepoints.
    ///
    /// # Errors
    /// Returns [`CannotWatch`], which says what is missing and what to do.
    pub fn open(filter: Filter) -> Result<Self, CannotWatch> {
        let mut watcher = Self {
            kernel: Kernel::open()?,
            filter,
            processes: Processes::default(),
            closers: Closers::default(),
            sockets: Sockets::default(),
            waiting: HeldResets::default(),
            comparison: Comparison::start(),
            sent_last: VecDeque::new(),
            many: false,
            pending: Vec::new(),
        };
        for blind in watcher.blind() {
            tracing::info!(?blind, "not to be seen: {}", blind.meaning());
        }
        watcher.pending = watcher.look();
        Ok(watcher)
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

    /// The listeners of this network namespace with their accept queues and holders, as of the last poll.
    pub fn listeners(&self) -> impl Iterator<Item = (SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.sockets.listeners()
    }

    /// Waits for `timeout` at most, and returns what happened.
    ///
    /// A reset is reported when its socket is destroyed, and after one second at the latest.
    ///
    /// # Errors
    /// Returns the errors of waiting for the kernel.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Vec<Notice>> {
        self.next_or(timeout, None)
    }

    /// As [`next`](Self::next), and returns early when `other` is readable, such as a terminal.
    ///
    /// # Errors
    /// Returns the errors of [`next`](Self::next).
    pub fn next_or(&mut self, timeout: Duration, other: Option<BorrowedFd<'_>>) -> io::Result<Vec<Notice>> {
        let most = if self.many {
            WHILE_MANY
        } else if self.waiting.is_empty() {
            timeout
        } else {
            WHILE_WAITING
        };
        self.kernel.wait(timeout.min(most), other)?;
        Ok(self.take_stock(false))
    }

    /// The last notices. Waits up to `patience` for sockets that are not destroyed yet; remaining resets are reported
    /// without byte counts.
    ///
    /// # Errors
    /// Returns the errors of [`next`](Self::next).
    pub fn finish(&mut self, patience: Duration) -> io::Result<Vec<Notice>> {
        const STEP: Duration = Duration::from_millis(5);
        let until = Instant::now() + patience;
        let mut notices = self.take_stock(true);
        while !self.waiting.is_empty() && Instant::now() < until {
            // Only wait here; `take_stock` then reads all sources in the order that it needs.
            std::thread::sleep(STEP);
            notices.extend(self.take_stock(true));
        }
        let rest = self.waiting.give_up();
        self.tell(rest, &mut notices);
        notices.extend(
            self.comparison.compare(self.kernel.lost()).map(|counted| Notice::Counters(counted.into())),
        );
        Ok(notices)
    }

    /// Reads all sources, in an order in which a cause is read before its effect.
    fn take_stock(&mut self, at_end: bool) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut self.pending);
        let mut due = self.sockets.is_due();
        if due || at_end {
            self.comparison.read();
        }
        let mut leftovers = Vec::new();
        let drained = self.kernel.leftovers(|leftover| leftovers.push(leftover));
        self.many = drained.taken >= MANY;
        if drained.overrun {
            self.comparison.overrun();
        }
        let happenings = self.kernel.drain(|pid, name| self.processes.named(pid, name));
        // A full accept queue may be empty a moment later: poll it now.
        due |= happenings.iter().any(|happening| matches!(happening.what, What::Sent { state: 10, .. }));
        if due {
            notices.extend(self.look());
        }
        let mut done = Vec::new();
        for happening in happenings {
            self.take(happening, &mut done);
        }
        done.extend(self.waiting.settle(leftovers, &self.closers));
        self.tell(done, &mut notices);
        if due {
            let counted = self.comparison.compare(self.kernel.lost());
            notices.extend(counted.map(|counted| Notice::Counters(counted.into())));
        }
        notices
    }

    fn look(&mut self) -> Vec<Notice> {
        self.sockets.look(&mut self.processes).into_iter().map(Notice::Warning).collect()
    }

    fn take(&mut self, happening: Happening, done: &mut Vec<(Held, Endpoints)>) {
        let Happening { time_ns, pid, ends, what } = happening;
        match what {
            // The peer's FIN had arrived, and then a reset ended the connection.
            What::State { new: tcp_state::CLOSE, .. } => self.closers.cut_after_fin(ends),
            What::State { new, .. } => {
                let process = self.processes.of(pid);
                self.closers.closed(ends, Close { time_ns, process, after_peer: new == tcp_state::LAST_ACK });
            }
            What::Error { number } => {
                if let Some(held) = self.waiting.of(&ends) {
                    held.error.get_or_insert(number);
                }
            }
            What::Destroyed => self.waiting.destroyed(&ends, || self.processes.of(pid)),
            What::Received => {
                // For data after close this tracepoint fires at the host that sends the reset, too.
                let just_sent = |ends: Endpoints| {
                    let mut last = self.sent_last.iter().rev();
                    last.find(|(sent, last, _)| *last == ends && sent.abs_diff(time_ns) < ECHO)
                };
                if just_sent(ends).is_some() {
                    return;
                }
                let known = just_sent((ends.1, ends.0)).map(|(.., opinion)| diagnose::of_this_host(opinion));
                let mut reset = self.reset(time_ns, ends, Direction::Received, diagnose::received(None));
                reset.process = self.closers.of(&ends).and_then(|close| close.process.clone());
                done.extend(self.waiting.hold(ends, time_ns, reset).map(|held| (held, ends)));
                if let Some(held) = self.waiting.of(&ends) {
                    held.known = known;
                }
            }
            What::Sent { reason, state, active } => {
                self.comparison.saw_sent();
                if let Some(held) = self.waiting.take(&ends) {
                    let echo =
                        held.reset.direction == Direction::Received && held.time_ns.abs_diff(time_ns) < ECHO;
                    if !echo {
                        done.push((held, ends));
                    }
                }
                if self.sent_last.len() >= 256 {
                    self.sent_last.pop_front();
                }
                let reset = self.sent(time_ns, pid, ends, reason.as_deref(), state, active);
                let opinion =
                    (reset.cause, reset.confidence, reset.candidates.clone(), reset.evidence.clone());
                // On loopback the event of the receiver may come before the one of the sender.
                if let Some(peer) = self.waiting.of(&(ends.1, ends.0))
                    && peer.reset.direction == Direction::Received
                    && peer.time_ns.abs_diff(time_ns) < ECHO
                {
                    peer.known = Some(diagnose::of_this_host(&opinion));
                }
                self.sent_last.push_back((time_ns, ends, opinion));
                if reset.bytes == Bytes::default() {
                    done.extend(self.waiting.hold(ends, time_ns, reset).map(|held| (held, ends)));
                } else {
                    done.push((Held::new(reset, time_ns), ends));
                }
            }
        }
    }

    fn sent(
        &mut self,
        time_ns: u64,
        pid: u32,
        ends: Endpoints,
        reason: Option<&str>,
        state: u8,
        active: bool,
    ) -> LiveReset {
        let listener = self.sockets.listener(ends.0).cloned();
        let closer = self.closers.of(&ends).cloned();
        let process = if active { self.processes.of(pid) } else { None };
        let context = Context {
            active,
            state,
            listens: listener.is_some(),
            queue: listener.as_ref().map(|(queue, _)| *queue),
            closed: closer.as_ref().map(|close| time_ns.saturating_sub(close.time_ns) as f64 / 1e9),
            name: process.as_ref().map(|process| process.name.clone()),
        };
        let opinion = diagnose::sent(reason, &context);
        let overflow = opinion.2.contains(&Cause::AcceptQueueOverflow);
        let mut reset = self.reset(time_ns, ends, Direction::Sent, opinion);
        reset.bytes = match reason {
            // The byte counts come when the socket is destroyed.
            Some("TCP_ABORT_ON_DATA") => Bytes::default(),
            // A time-wait socket sent the reset: the own FIN was acknowledged before it replaced the full socket.
            Some("TCP_TIMEWAIT_SOCKET") => Bytes::all_acknowledged(),
            _ if active => Bytes::default(),
            _ => Bytes::unknown(Unknown::NoSocket),
        };
        reset.reason = reason.map(str::to_owned);
        reset.state = tcp_state::name(state);
        reset.process = process
            .or_else(|| closer.and_then(|close| close.process))
            .or_else(|| listener.as_ref().and_then(|(_, process)| process.clone()));
        reset.listener = context.queue.filter(|_| overflow);
        reset
    }

    fn reset(&self, time_ns: u64, ends: Endpoints, direction: Direction, opinion: Opinion) -> LiveReset {
        let (cause, confidence, candidates, evidence) = opinion;
        LiveReset {
            time_seconds: time_ns as f64 / 1e9,
            direction,
            local: ends.0,
            remote: (ends.1.port() != 0).then_some(ends.1),
            cause,
            confidence,
            candidates,
            reason: None,
            state: None,
            process: None,
            bytes: Bytes::default(),
            listener: None,
            evidence,
            remedy: cause.remedy(),
        }
    }

    /// Completes the settled resets, and appends those that the filter admits, ordered by time.
    fn tell(&mut self, done: Vec<(Held, Endpoints)>, notices: &mut Vec<Notice>) {
        let mut resets = Vec::with_capacity(done.len());
        for (held, ends) in done {
            let mut reset = held.finish();
            if reset.direction == Direction::Received {
                self.comparison.saw_received();
                reset.process = reset
                    .process
                    .or_else(|| self.sockets.listener(ends.0).and_then(|(_, process)| process.clone()));
            }
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
            if shown {
                resets.push(reset);
            }
        }
        resets.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        notices.extend(resets.into_iter().map(|reset| Notice::Reset(Box::new(reset))));
    }
}
