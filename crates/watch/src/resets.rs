//! [`Resets`]: makes resets with cause, process and bytes from the kernel's events.

use std::net::SocketAddr;
use std::time::Instant;

use linger_netns::Counters;
use linger_why::Cause;

use crate::bytes::{Bytes, Unknown};
use crate::closers::{Close, Closers};
use crate::diagnose::{self, AcceptQueue, Context, Direction, LiveReset, Opinion, Role};
use crate::events::{Endpoints, Happening, KernelEvent, What};
use crate::exits::{EndedProcesses, Exits};
use crate::held::{Held, HeldResets};
use crate::kernel::leftovers::Leftover;
use crate::notice::Warning;
use crate::overflow::OverflowHistory;
use crate::process::{NamedProcess, Processes};
use crate::recent::{Echoes, RecentResets};
use crate::sockets::Sockets;
use crate::tcp_state;

/// The kernel resets a socket and sends the reset within this time (nanoseconds), if late data leads to both.
const AT_ONCE: u64 = 1_000_000;

/// Everything that is known of this host's connections and their resets.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    processes: Processes,
    closers: Closers,
    sockets: Sockets,
    overflows: OverflowHistory,
    exits: Exits,
    waiting: HeldResets,
    recent: RecentResets,
    ended: EndedProcesses,
    /// Complete, and to be returned by the next [`settle`](Self::settle).
    done: Vec<(Held, Endpoints)>,
    /// Resets sent and received, echoes included.
    seen: (u64, u64),
}

/// A sent reset as its event has it.
struct SentEvent<'a> {
    reason: Option<&'a str>,
    state: u8,
    active: bool,
    /// The kernel has just reset the socket itself.
    reset_by_data: bool,
}

impl Resets {
    /// The number of resets sent and received.
    pub(crate) fn seen(&self) -> (u64, u64) {
        self.seen
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.sockets.listeners()
    }

    /// Whether a poll of the socket list is due.
    pub(crate) fn is_due(&self) -> bool {
        self.sockets.is_due()
    }

    /// Whether a reset waits for more to be known of it.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.ended.is_empty()
    }

    /// Caches the name of a process.
    pub(crate) fn named(&mut self, pid: u32, name: &[u8]) {
        self.processes.named(pid, name);
    }

    /// Polls the socket list and the counters of its listeners.
    pub(crate) fn look(&mut self) -> Vec<Warning> {
        if let Ok(counters) = Counters::read() {
            let resets = std::fs::read("/proc/sys/net/ipv4/tcp_abort_on_overflow");
            let resets = resets.is_ok_and(|value| value.first() == Some(&b'1'));
            self.overflows.note(Instant::now(), counters.of("ListenOverflows"), resets);
        }
        self.sockets.look(&mut self.processes)
    }

    /// The processes of which no further reset comes. Ask before the events are read.
    pub(crate) fn dead(&self) -> Vec<u32> {
        self.ended.dead()
    }

    /// The echoes of resets that were reported before.
    pub(crate) fn echoes(&mut self) -> Vec<Echoes> {
        self.recent.echoes()
    }

    pub(crate) fn take(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Process(event) => self.exits.take(event, &mut self.processes),
            KernelEvent::Socket(happening) => self.take_of_socket(happening),
        }
    }

    fn take_of_socket(&mut self, happening: Happening) {
        let Happening { time_ns, pid, thread, ends, what } = happening;
        self.recent.own(ends.0.ip());
        match what {
            // The peer's FIN had arrived, and then a reset ended the connection.
            What::State { new: tcp_state::CLOSE, .. } => self.closers.cut_after_fin(ends),
            What::State { new, .. } => {
                let process = self.processes.of(pid);
                let after_peer = new == tcp_state::LAST_ACK;
                self.closers.closed(ends, Close { time_ns, process, after_peer });
            }
            What::MptcpClosed => {
                self.waiting.is_mptcp(&ends);
                self.closers.mptcp_closed(ends);
            }
            What::Error { number } => {
                if let Some(held) = self.waiting.of(&ends) {
                    held.error.get_or_insert(number);
                }
            }
            What::Destroyed => self.waiting.destroyed(&ends, || self.processes.of(pid)),
            What::Received => self.received(time_ns, ends),
            What::Sent { reason, state, active } => {
                self.seen.0 += 1;
                let mut reset_by_data = false;
                if let Some(held) = self.waiting.take(&ends) {
                    // For data after close the kernel resets the sender's own socket first (`tcp_reset`).
                    reset_by_data = held.reset.direction == Direction::Received
                        && held.time_ns.abs_diff(time_ns) < AT_ONCE;
                    if !reset_by_data {
                        self.done.push((held, ends));
                    }
                }
                let event = SentEvent { reason: reason.as_deref(), state, active, reset_by_data };
                self.sent(time_ns, (pid, thread), ends, &event);
            }
        }
    }

    fn received(&mut self, time_ns: u64, ends: Endpoints) {
        let mut reset = reset(time_ns, ends, Direction::Received, diagnose::received(None));
        reset.process = self.closers.of(&ends).and_then(|close| close.process.clone());
        reset.role = reset.process.is_some().then_some(Role::Held);
        self.done.extend(self.waiting.hold(ends, time_ns, reset).map(|held| (held, ends)));
        let known = self.recent.cause_of(&ends, time_ns);
        if let Some(held) = self.waiting.of(&ends) {
            held.known = known;
        }
    }

    fn sent(&mut self, time_ns: u64, (pid, thread): (u32, u32), ends: Endpoints, event: &SentEvent<'_>) {
        let SentEvent { reason, state, active, .. } = *event;
        let listener = self.sockets.listener(ends.0).cloned();
        let closer = self.closers.of(&ends).cloned();
        let ending = self.exits.of(pid, thread, time_ns).filter(|_| active);
        let mut process = if active { self.processes.of(pid) } else { None };
        let mut ended = None;
        if let Some((named, _)) = &ending {
            ended = Some(named.pid);
            process = Some(named.clone());
        }
        let context = Context {
            active,
            state,
            listens: listener.is_some(),
            queue: listener.as_ref().map(|(queue, _)| *queue),
            closed: closer.as_ref().map(|close| time_ns.saturating_sub(close.time_ns) as f64 / 1e9),
            name: process.as_ref().map(|process| process.name.clone()),
            ending: ending.map(|(_, ending)| ending),
            reset_by_data: event.reset_by_data,
            arrived: None,
            overflow: self.overflows.now(),
        };
        let opinion = diagnose::sent(reason, &context);
        if diagnose::may_be_echo(reason, &context, opinion.0)
            && let Some(original) = self.recent.original(&ends, time_ns)
        {
            match self.waiting.of(&original) {
                Some(held) => held.reset.further_resets += 1,
                None => self.recent.echo(&original),
            }
            return;
        }
        let overflow = opinion.2.contains(&Cause::AcceptQueueOverflow);
        let mut reset = reset(time_ns, ends, Direction::Sent, opinion);
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
        // Without a socket nobody listened where the packet arrived: who listens elsewhere has no part in it.
        let listens = listener.filter(|_| reason != Some("NO_SOCKET")).and_then(|(_, process)| process);
        let closed = process.or_else(|| closer.and_then(|close| close.process));
        (reset.process, reset.role) = match (closed, listens) {
            (Some(process), _) => (Some(process), Some(Role::Closed)),
            (None, Some(process)) => (Some(process), Some(Role::Listens)),
            (None, None) => (None, None),
        };
        reset.listener = context.queue.filter(|_| overflow);
        let process = reset.process.clone().zip(reset.role);
        self.recent.sent(time_ns, ends, reset.opinion(), process);
        if reset.bytes == Bytes::default() {
            self.done.extend(self.waiting.hold(ends, time_ns, reset).map(|held| (held, ends)));
            if let Some(held) = self.waiting.of(&ends) {
                held.ended = ended;
                held.mptcp = self.closers.is_mptcp(&ends);
            }
        } else {
            self.done.push((Held::new(reset, time_ns), ends));
        }
    }

    /// The resets that are complete, ordered by time. `dead` are processes that had ended before the events were read.
    pub(crate) fn settle(&mut self, leftovers: Vec<Leftover>, dead: &[u32]) -> Vec<LiveReset> {
        let settled = self.waiting.settle(leftovers, &self.closers);
        self.done.extend(settled);
        let mut resets = self.complete();
        for pid in dead {
            if !self.waiting.of_ended(*pid) {
                resets.extend(self.ended.take(*pid));
            }
        }
        resets.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        resets
    }

    /// All resets that still wait.
    pub(crate) fn give_up(&mut self) -> Vec<LiveReset> {
        let waiting = self.waiting.give_up();
        self.done.extend(waiting);
        let mut resets = self.complete();
        for pid in self.ended.pids() {
            resets.extend(self.ended.take(pid));
        }
        resets.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        resets
    }

    fn complete(&mut self) -> Vec<LiveReset> {
        let mut resets = Vec::with_capacity(self.done.len());
        let (sent, received): (Vec<_>, Vec<_>) = std::mem::take(&mut self.done)
            .into_iter()
            .partition(|(held, _)| held.reset.direction == Direction::Sent);
        // The cause of a sent reset may have been decided by now; it is that of the received one, too.
        for (held, ends) in sent {
            let ended = held.ended;
            let reset = held.finish();
            self.recent.correct(&ends, &reset.opinion());
            match ended {
                Some(pid) if reset.cause == Cause::ProcessGone => self.ended.add(pid, reset),
                _ => resets.push(reset),
            }
        }
        for (mut held, ends) in received {
            self.seen.1 += 1;
            if let Some(known) = self.recent.cause_of_same(&ends, held.time_ns) {
                held.known = Some(known);
            }
            let mut reset = held.finish();
            if reset.process.is_none() {
                reset.process = self.sockets.listener(ends.0).and_then(|(_, process)| process.clone());
                reset.role = reset.process.is_some().then_some(Role::Held);
            }
            resets.push(reset);
        }
        resets
    }
}

fn reset(time_ns: u64, ends: Endpoints, direction: Direction, opinion: Opinion) -> LiveReset {
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
        role: None,
        connections: 1,
        further_resets: 0,
        bytes: Bytes::default(),
        listener: None,
        evidence,
        remedy: cause.remedy(),
    }
}
