//! Tracepoints, destroyed sockets, socket list, counters and processes brought together.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use linger_why::Cause;

use crate::bytes::{Bytes, Unknown};
use crate::closers::{Close, Closers};
use crate::counted::{Comparison, Counted};
use crate::diagnose::{self, Context, Direction, Opinion, Queue, Reset};
use crate::events::{Blind, CannotWatch, Ends, Happening, Kernel, What};
use crate::held::{Held, Waiting};
use crate::notice::{Filter, Notice};
use crate::process::{Process, Processes};
use crate::sockets::Sockets;

/// A reset that this host received as an answer to its own, so soon before or after it, in nanoseconds, is the same
/// event.
const ECHO: u64 = 1_000_000;
/// While resets wait for the end of their sockets, that is looked for so often.
const WHILE_WAITING: Duration = Duration::from_millis(100);
/// More destroyed sockets at a time mean a busy host, whose next ones need room sooner.
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
    waiting: Waiting,
    comparison: Comparison,
    sent_last: VecDeque<(u64, Ends, Opinion)>,
    many: bool,
    /// What the first look found, for the first call.
    pending: Vec<Notice>,
}

impl Watcher {
    /// Opens the kernel's tracepoints.
    ///
    /// # Errors
    /// [`CannotWatch`] says what is missing and what to do.
    pub fn open(filter: Filter) -> Result<Self, CannotWatch> {
        let mut watcher = Self {
            kernel: Kernel::open()?,
            filter,
            processes: Processes::default(),
            closers: Closers::default(),
            sockets: Sockets::default(),
            waiting: Waiting::default(),
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

    /// What this kernel cannot tell.
    pub fn blind(&self) -> &[Blind] {
        self.kernel.blind()
    }

    /// Events that the kernel dropped because they were not read fast enough.
    pub fn lost(&self) -> u64 {
        self.kernel.lost()
    }

    /// What the kernel counted beside the events, as of the last comparison.
    pub fn counted(&self) -> &Counted {
        self.comparison.counted()
    }

    /// The listeners of this network namespace, with their queues and owners, as last looked at.
    pub fn listeners(&self) -> impl Iterator<Item = (SocketAddr, Queue, Option<&Process>)> {
        self.sockets.listeners()
    }

    /// Waits for `timeout` at most, and answers what happened.
    ///
    /// A reset is told when its socket is gone, and after a second at the latest.
    ///
    /// # Errors
    /// Those of waiting for the kernel.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Vec<Notice>> {
        self.next_or(timeout, None)
    }

    /// The same, and also ends when `other` can be read, such as a terminal.
    ///
    /// # Errors
    /// As [`next`](Self::next).
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

    /// What there is to say at the end: waits for sockets that are not gone yet for `patience` at most, and tells the
    /// rest without their bytes.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn finish(&mut self, patience: Duration) -> io::Result<Vec<Notice>> {
        const STEP: Duration = Duration::from_millis(5);
        let until = Instant::now() + patience;
        let mut notices = self.take_stock(true);
        while !self.waiting.is_empty() && Instant::now() < until {
            // The kernel's news is read all at once, in an order of its own (`take_stock`), not as it comes.
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

    /// Reads everything that the kernel has to tell, in an order in which nothing is told before what led to it.
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
        // A full queue is soon empty again: look while it lasts.
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

    fn take(&mut self, happening: Happening, done: &mut Vec<(Held, Ends)>) {
        let Happening { time, pid, ends, what } = happening;
        match what {
            // The peer's FIN had come, and a reset ended the connection.
            What::State { new: 7, .. } => self.closers.cut_after_fin(ends),
            What::State { new, .. } => {
                let process = self.processes.of(pid);
                const LAST_ACK: u8 = 9;
                self.closers.closed(ends, Close { time, process, after_peer: new == LAST_ACK });
            }
            What::Error { number } => {
                if let Some(held) = self.waiting.of(&ends) {
                    held.error.get_or_insert(number);
                }
            }
            What::Destroyed => self.waiting.destroyed(&ends, || self.processes.of(pid)),
            What::Received => {
                // For data after close the tracepoint fires at the sender of the reset as well.
                let just_sent = |ends: Ends| {
                    let mut last = self.sent_last.iter().rev();
                    last.find(|(sent, last, _)| *last == ends && sent.abs_diff(time) < ECHO)
                };
                if just_sent(ends).is_some() {
                    return;
                }
                let known = just_sent((ends.1, ends.0)).map(|(.., opinion)| diagnose::of_this_host(opinion));
                let mut reset = self.reset(time, ends, Direction::Received, diagnose::received(None));
                reset.process = self.closers.of(&ends).and_then(|close| close.process.clone());
                done.extend(self.waiting.hold(ends, time, reset).map(|held| (held, ends)));
                if let Some(held) = self.waiting.of(&ends) {
                    held.known = known;
                }
            }
            What::Sent { reason, state, active } => {
                self.comparison.saw_sent();
                if let Some(held) = self.waiting.take(&ends) {
                    let echo = held.reset.direction == Direction::Received && held.time.abs_diff(time) < ECHO;
                    if !echo {
                        done.push((held, ends));
                    }
                }
                if self.sent_last.len() >= 256 {
                    self.sent_last.pop_front();
                }
                let reset = self.sent(time, pid, ends, reason.as_deref(), state, active);
                let opinion =
                    (reset.cause, reset.confidence, reset.candidates.clone(), reset.evidence.clone());
                // On loopback it may have been received before it was told of as sent.
                if let Some(peer) = self.waiting.of(&(ends.1, ends.0))
                    && peer.reset.direction == Direction::Received
                    && peer.time.abs_diff(time) < ECHO
                {
                    peer.known = Some(diagnose::of_this_host(&opinion));
                }
                self.sent_last.push_back((time, ends, opinion));
                if reset.bytes == Bytes::default() {
                    done.extend(self.waiting.hold(ends, time, reset).map(|held| (held, ends)));
                } else {
                    done.push((Held::new(reset, time), ends));
                }
            }
        }
    }

    fn sent(
        &mut self,
        time: u64,
        pid: u32,
        ends: Ends,
        reason: Option<&str>,
        state: u8,
        active: bool,
    ) -> Reset {
        let listener = self.sockets.listener(ends.0).cloned();
        let closer = self.closers.of(&ends).cloned();
        let process = if active { self.processes.of(pid) } else { None };
        let context = Context {
            active,
            state,
            listens: listener.is_some(),
            queue: listener.as_ref().map(|(queue, _)| *queue),
            closed: closer.as_ref().map(|close| time.saturating_sub(close.time) as f64 / 1e9),
            name: process.as_ref().map(|process| process.name.clone()),
        };
        let opinion = diagnose::sent(reason, &context);
        let overflow = opinion.2.contains(&Cause::AcceptQueueOverflow);
        let mut reset = self.reset(time, ends, Direction::Sent, opinion);
        reset.bytes = match reason {
            // The bytes come with the socket's end.
            Some("TCP_ABORT_ON_DATA") => Bytes::default(),
            // Its FIN was acknowledged before the small socket took over.
            Some("TCP_TIMEWAIT_SOCKET") => Bytes::all_acknowledged(),
            _ if active => Bytes::default(),
            _ => Bytes::unknown(Unknown::NoSocket),
        };
        reset.reason = reason.map(str::to_owned);
        reset.state = diagnose::state_name(state);
        reset.process = process
            .or_else(|| closer.and_then(|close| close.process))
            .or_else(|| listener.as_ref().and_then(|(_, process)| process.clone()));
        reset.listener = context.queue.filter(|_| overflow);
        reset
    }

    fn reset(&self, time: u64, ends: Ends, direction: Direction, opinion: Opinion) -> Reset {
        let (cause, confidence, candidates, evidence) = opinion;
        Reset {
            time: time as f64 / 1e9,
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

    /// Completes resets, and adds those that are wanted, in the order of time.
    fn tell(&mut self, done: Vec<(Held, Ends)>, notices: &mut Vec<Notice>) {
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
        resets.sort_by(|a, b| a.time.total_cmp(&b.time));
        notices.extend(resets.into_iter().map(|reset| Notice::Reset(Box::new(reset))));
    }
}
