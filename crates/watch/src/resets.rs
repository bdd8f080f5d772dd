//! [`Resets`]: makes resets with cause, process and bytes from the kernel's events.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use linger_netns::Counters;
use linger_why::Cause;

use crate::access::Access;
use crate::bytes::{Bytes, Unknown};
use crate::cgroup::KnownPlace;
use crate::closers::{Close, Closers};
use crate::diagnose::{self, Context};
use crate::events::{Endpoints, KernelEvent, SocketChange, SocketEvent};
use crate::exits::{EndedProcesses, Exits};
use crate::held::{Held, HeldResets};
use crate::kernel::leftovers::Leftover;
use crate::live_reset::{AcceptQueue, BoxedReset, Direction, LiveReset, ProcessRole};
use crate::namespace_id::NamespaceId;
use crate::namespaces::Namespaces;
use crate::notice::{OwnClient, Warning};
use crate::overflow::OverflowHistory;
use crate::own::{OwnConnections, OwnReset, is_elsewhere, turned};
use crate::places::Places;
use crate::process::{NamedProcess, Processes};
use crate::recent::{Echoes, RecentResets, Suspect};
use crate::sockets::Sockets;
use crate::tcp_state;

/// The kernel resets a socket and sends the reset within this time (nanoseconds), if late data leads to both.
const AT_ONCE: u64 = 1_000_000;

/// Everything that is known of this host's connections and their resets.
#[derive(Debug)]
pub(crate) struct Resets {
    processes: Processes,
    closers: Closers,
    sockets: Sockets,
    namespaces: Namespaces,
    places: Places,
    overflows: HashMap<NamespaceId, OverflowHistory>,
    exits: Exits,
    waiting: HeldResets,
    recent: RecentResets,
    ended: EndedProcesses,
    own: OwnConnections,
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
    socket: u64,
    /// The kernel has just reset the socket itself.
    reset_by_data: bool,
    /// It was taken for an echo, and its receiver has shown that no connection before had its addresses.
    is_new: bool,
}

impl SentEvent<'_> {
    /// Whether a full socket of the connection sent it: no listener, no request or time-wait socket, and not the kernel without
    /// any socket.
    fn has_socket(&self) -> bool {
        use tcp_state::{LISTEN, NEW_SYN_RECV, TIME_WAIT};
        self.socket != 0 && ![LISTEN, NEW_SYN_RECV, TIME_WAIT].contains(&self.state)
    }
}

impl Resets {
    pub(crate) fn new(access: &Access, own: Option<OwnClient>) -> Self {
        Self {
            processes: Processes::new(access.clone()),
            closers: Closers::default(),
            sockets: Sockets::default(),
            namespaces: Namespaces::new(access.clone()),
            places: Places::default(),
            overflows: HashMap::new(),
            exits: Exits::default(),
            waiting: HeldResets::default(),
            recent: RecentResets::default(),
            ended: EndedProcesses::default(),
            own: OwnConnections::new(own),
            done: Vec::new(),
            seen: (0, 0),
        }
    }

    /// The number of resets sent and received.
    pub(crate) fn seen(&self) -> (u64, u64) {
        self.seen
    }

    /// How many resets were of this program's own connections, and were not told.
    pub(crate) fn own_resets(&self) -> u64 {
        self.own.resets()
    }

    pub(crate) fn own_namespace(&self) -> NamespaceId {
        self.namespaces.own()
    }

    pub(crate) fn namespaces(&mut self) -> &mut Namespaces {
        &mut self.namespaces
    }

    pub(crate) fn listeners(
        &self,
    ) -> impl Iterator<Item = (NamespaceId, SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.sockets.listeners()
    }

    /// Whether a poll of the socket lists is due.
    pub(crate) fn is_due(&self) -> bool {
        self.sockets.is_due()
    }

    /// How many resets are kept until they are told.
    pub(crate) fn kept(&self) -> usize {
        self.waiting.count() + self.done.len()
    }

    /// Whether a reset waits for more to be known of it.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.ended.is_empty() || self.places.is_waiting()
    }

    /// Caches the name of a process.
    pub(crate) fn named(&mut self, pid: u32, name: &[u8]) {
        self.processes.named(pid, name);
        self.sockets.renamed(pid, name);
    }

    /// Polls the socket lists, addresses and counters of all namespaces. Returns warnings, and the counters of others than the own one.
    pub(crate) fn look(&mut self) -> (Vec<Warning>, Vec<(KnownPlace, Counters)>) {
        let started = Instant::now();
        let with_connections = self.sockets.wants_connections();
        let surveys = self.namespaces.survey(with_connections);
        self.places.take(&surveys);
        let mut warnings = self.sockets.take(&surveys, with_connections, started, &mut self.processes);
        self.overflows.retain(|namespace, _| surveys.contains_key(namespace));
        let mut counted = Vec::new();
        for (namespace, survey) in surveys {
            let Some(counters) = survey.counters else { continue };
            let history = self.overflows.entry(namespace).or_default();
            let count = counters.of("ListenOverflows");
            let overflows = history.note(Instant::now(), count, survey.resets_overflows);
            if overflows > 0 {
                let fullest = self.sockets.fullest(namespace);
                warnings.push(Warning::AcceptQueueOverflowed {
                    place: KnownPlace::new(namespace),
                    local: fullest.map(|(local, _)| local),
                    queue: fullest.map(|(_, (queue, _))| *queue),
                    process: fullest.and_then(|(_, (_, process))| process.clone()),
                    overflows,
                });
            }
            if namespace != self.namespaces.own() {
                counted.push((self.namespaces.place(namespace, None), counters));
            }
        }
        warnings.retain(|warning| {
            let Warning::UnreadAfterPeerClosed { process: Some(process), .. } = warning else { return true };
            !self.own.is_client(process.pid)
        });
        for warning in &mut warnings {
            let (place, process) = warning.place_mut();
            let workload = process.and_then(|process| self.processes.workload(process.pid));
            *place = self.namespaces.place(place.namespace, workload);
        }
        (warnings, counted)
    }

    /// The processes of which no further reset comes. Ask before the events are read.
    pub(crate) fn dead(&self) -> Vec<u32> {
        self.ended.dead()
    }

    /// The echoes of resets that were reported before, and where these were sent. `all`: also the latest.
    pub(crate) fn echoes(&mut self, all: bool) -> Vec<(Echoes, Option<KnownPlace>)> {
        let place = |echoes: Echoes| {
            let workload = echoes.process.as_ref().and_then(|process| self.processes.workload(process.pid));
            let place = echoes.namespace.map(|id| self.namespaces.place(id, workload));
            (echoes, place)
        };
        self.recent.echoes(all).into_iter().map(place).collect()
    }

    /// Where a socket of this namespace and process is.
    pub(crate) fn place(&self, namespace: NamespaceId, process: Option<&NamedProcess>) -> KnownPlace {
        let workload = process.and_then(|process| self.processes.workload(process.pid));
        self.namespaces.place(namespace, workload)
    }

    pub(crate) fn take(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Process(event) => {
                self.own.process(&event);
                self.exits.take(event, &mut self.processes);
            }
            KernelEvent::Socket(happening) => self.take_of_socket(happening),
        }
    }

    fn take_of_socket(&mut self, happening: SocketEvent) {
        let SocketEvent { time_ns, pid, thread, socket, cookie, ends, what } = happening;
        let ends = Endpoints::from(ends);
        self.recent.own(ends.0.ip());
        match what {
            SocketChange::State { new: tcp_state::SYN_SENT, .. } => self.own.connects(pid, socket, ends),
            SocketChange::State { new: tcp_state::ESTABLISHED, .. } => self.own.connected(socket, ends),
            // The peer's FIN had arrived, and then a reset ended the connection.
            SocketChange::State { new: tcp_state::CLOSE, .. } => self.closers.cut_after_fin(ends, socket),
            SocketChange::State { new, .. } => {
                let process = self.processes.of(pid);
                let after_peer = new == tcp_state::LAST_ACK;
                let close = Close { time_ns, process, socket, cookie: 0, namespace: None, after_peer };
                self.closers.closed(ends, close);
            }
            SocketChange::MptcpClosed => {
                if let Some(held) = self.waiting.of(&ends, 0) {
                    held.mptcp = true;
                }
                self.closers.mptcp_closed(ends, socket);
            }
            SocketChange::Error { number } => {
                if let Some(held) = self.waiting.of(&ends, 0) {
                    held.error.get_or_insert(number);
                }
            }
            SocketChange::Destroyed => {
                self.closers.destroyed(&ends, socket, cookie);
                self.own.destroyed(socket);
                self.waiting.destroyed(&ends, (socket, cookie), || self.processes.of(pid));
            }
            SocketChange::Received => {
                if let Some(suspect) = self.recent.receive(&ends, time_ns, cookie) {
                    self.no_echo(suspect);
                    // Now that it is remembered it has this receiver.
                    self.recent.receive(&ends, time_ns, cookie);
                }
                self.received(time_ns, ends, (socket, cookie));
            }
            SocketChange::Sent { reason, state, active } => {
                self.seen.0 += 1;
                let mut reset_by_data = false;
                if let Some(held) = self.waiting.take(&ends, socket) {
                    // For data after close the kernel resets the sender's own socket first (`tcp_reset`).
                    reset_by_data = held.reset.direction == Direction::Received
                        && time_ns.saturating_sub(held.time_ns) < AT_ONCE;
                    if !reset_by_data {
                        self.done.push((held, ends));
                    }
                }
                let reason = reason.as_deref();
                let event = SentEvent { reason, state, active, socket, reset_by_data, is_new: false };
                self.sent(time_ns, (pid, thread), ends, &event);
            }
        }
    }

    fn received(&mut self, time_ns: u64, ends: Endpoints, (socket, cookie): (u64, u64)) {
        let mut reset = LiveReset::new(time_ns, ends, Direction::Received, diagnose::received(None));
        reset.process = self.closers.of(&ends, socket).and_then(|close| close.process.clone());
        reset.role = reset.process.is_some().then_some(ProcessRole::Held);
        let mut held = Held::new(reset, socket, time_ns);
        held.cookie = cookie;
        held.known = self.recent.cause_of(&ends, time_ns);
        held.mptcp = self.closers.is_mptcp(&ends);
        held.reset.is_own = self.own.received(&ends, socket);
        if held.reset.is_own
            && let Some(sent) = self.waiting.of(&turned(&ends), 0)
        {
            sent.reset.is_own |= sent.reset.direction == Direction::Sent;
        }
        self.done.extend(self.waiting.hold(ends, held).map(|held| (held, ends)));
    }

    /// The namespaces in which a reset may have been sent that no socket of the connection sent; empty if none is known.
    fn places_of(&self, ends: &Endpoints, event: &SentEvent<'_>) -> Vec<NamespaceId> {
        match event.state {
            tcp_state::LISTEN => self.sockets.listening_at(ends.0),
            _ => self.places.with(ends.0.ip()),
        }
    }

    /// That of them in which it was sent, as far as it can be told now.
    fn namespace_of(&self, places: &[NamespaceId], event: &SentEvent<'_>) -> Option<NamespaceId> {
        let overflowed =
            |id: &&NamespaceId| self.overflows.get(id).is_some_and(|history| history.now().grown > 0);
        match places {
            [only] => Some(*only),
            // Of several listeners on the port, that of the namespace whose queue overflowed.
            _ if event.state == tcp_state::LISTEN && event.reason == Some("INVALID_SYN") => {
                let mut overflowed = places.iter().filter(overflowed);
                overflowed.next().filter(|_| overflowed.next().is_none()).copied()
            }
            _ => None,
        }
    }

    /// Counts an echo with the reset that it follows.
    fn count_echo(&mut self, suspect: Suspect) {
        match self.waiting.at(&suspect.original) {
            Some(held) => held.reset.further_resets += 1,
            None => self.recent.echo(&suspect.original),
        }
        self.recent.suspect(suspect);
    }

    /// What was taken for an echo is the reset of a connection of its own, unless the echo is reported already.
    fn no_echo(&mut self, suspect: Suspect) {
        let Suspect { time_ns, running, ends, reason, state, socket, original } = suspect;
        match self.waiting.at(&original) {
            Some(held) => held.reset.further_resets = held.reset.further_resets.saturating_sub(1),
            None if self.recent.take_back(&original) => {}
            None => return,
        }
        let reason = reason.as_deref();
        let event = SentEvent { reason, state, active: false, socket, reset_by_data: false, is_new: true };
        self.sent(time_ns, running, ends, &event);
    }

    fn sent(&mut self, time_ns: u64, (pid, thread): (u32, u32), ends: Endpoints, event: &SentEvent<'_>) {
        let SentEvent { reason, state, active, socket, .. } = *event;
        let (mut closer, mut places) = (self.closers.of(&ends, socket).cloned(), Vec::new());
        if !event.has_socket() {
            places = self.places_of(&ends, event);
            let may_be = |id: NamespaceId| places.is_empty() || places.contains(&id);
            closer = self.closers.of_connection(&ends).cloned();
            closer = closer.filter(|close| !event.is_new && close.namespace.is_none_or(may_be));
        }
        let mut namespace = closer.as_ref().and_then(|close| close.namespace);
        if !event.has_socket() {
            namespace = namespace.or_else(|| self.namespace_of(&places, event));
        }
        let listener = namespace.and_then(|id| self.sockets.listener(id, ends.0)).cloned();
        let ending = self.exits.of(pid, thread, time_ns).filter(|_| active);
        let mut process = if active { self.processes.of(pid) } else { None };
        let mut ended = None;
        if let Some((named, _)) = &ending {
            ended = Some(named.pid);
            process = Some(named.clone());
        }
        let overflows = namespace.and_then(|id| self.overflows.get(&id));
        let context = Context {
            active,
            state,
            listens: !self.sockets.listening_at(ends.0).is_empty(),
            queue: listener.as_ref().map(|(queue, _)| *queue),
            closed: closer.as_ref().map(|close| time_ns.saturating_sub(close.time_ns) as f64 / 1e9),
            name: process.as_ref().map(|process| process.name.clone()),
            ending: ending.map(|(_, ending)| ending),
            reset_by_data: event.reset_by_data,
            arrived: None,
            overflow: overflows.map(OverflowHistory::now).unwrap_or_default(),
        };
        let opinion = diagnose::sent(reason, &context);
        let own = self.own.sent(&ends, socket, event.has_socket());
        if diagnose::may_be_echo(reason, &context, opinion.0)
            && !event.is_new
            && own == OwnReset::No
            && let Some(original) = self.recent.original(&ends, time_ns, &places)
        {
            let (running, reason) = ((pid, thread), reason.map(Into::into));
            self.count_echo(Suspect { time_ns, running, ends, reason, state, socket, original });
            return;
        }
        let overflow = opinion.2.contains(&Cause::AcceptQueueOverflow);
        let mut reset = LiveReset::new(time_ns, ends, Direction::Sent, opinion);
        reset.bytes = match reason {
            // The byte counts come when the socket is destroyed.
            Some("TCP_ABORT_ON_DATA") => Bytes::default(),
            // A time-wait socket sent the reset. It replaced the full socket after this side's FIN was acknowledged.
            Some("TCP_TIMEWAIT_SOCKET") => Bytes::all_acknowledged(),
            _ if active => Bytes::default(),
            _ => Bytes::unknown(Unknown::NoSocket),
        };
        reset.reason = reason.map(str::to_owned);
        reset.state = tcp_state::name(state);
        reset.namespace = namespace;
        reset.is_new = event.is_new;
        // Without a socket nobody listened where the packet arrived: who listens elsewhere has no part in it.
        let listens = listener.filter(|_| reason != Some("NO_SOCKET")).and_then(|(_, process)| process);
        let closed = process.or_else(|| closer.and_then(|close| close.process));
        (reset.process, reset.role) = concerned(closed, listens);
        reset.listener = context.queue.filter(|_| overflow);
        let process = reset.process.clone().zip(reset.role);
        self.recent.sent(time_ns, ends, reset.opinion(), process);
        // Whether it is an own one shows where it is received.
        let waits = reset.bytes == Bytes::default() || own == OwnReset::Perhaps;
        let mut held = Held::new(reset, socket, time_ns);
        held.ended = ended;
        held.has_socket = event.has_socket();
        held.reset.is_own = own == OwnReset::Yes;
        held.mptcp = self.closers.is_mptcp(&ends);
        if waits {
            self.done.extend(self.waiting.hold(ends, held).map(|held| (held, ends)));
        } else {
            self.done.push((held, ends));
        }
    }

    /// The resets that are complete, ordered by time. `dead` are processes that had ended before the events were read. `is_behind`:
    /// not all events that were read are taken.
    pub(crate) fn settle(
        &mut self,
        leftovers: Vec<Leftover>,
        dead: &[u32],
        is_behind: bool,
    ) -> Vec<BoxedReset> {
        leftovers.iter().for_each(|leftover| self.closers.place(leftover));
        let settled = self.waiting.settle(leftovers, &self.closers, is_behind);
        self.done.extend(settled);
        let mut resets = self.complete();
        for pid in dead {
            if !self.waiting.of_ended(*pid) {
                resets.extend(self.ended.take(*pid));
            }
        }
        let closers = &self.closers;
        resets.extend(self.places.placed(false, |reset| closed_in(closers, reset)));
        self.describe(resets)
    }

    /// All resets that still wait.
    pub(crate) fn give_up(&mut self) -> Vec<BoxedReset> {
        let waiting = self.waiting.give_up();
        self.done.extend(waiting);
        let mut resets = self.complete();
        for pid in self.ended.pids() {
            resets.extend(self.ended.take(pid));
        }
        let closers = &self.closers;
        resets.extend(self.places.placed(true, |reset| closed_in(closers, reset)));
        self.describe(resets)
    }

    fn complete(&mut self) -> Vec<BoxedReset> {
        let mut resets = Vec::with_capacity(self.done.len());
        let (sent, received): (Vec<_>, Vec<_>) = std::mem::take(&mut self.done)
            .into_iter()
            .partition(|(held, _)| held.reset.direction == Direction::Sent);
        // Sent resets first: their cause may have been decided only now, and it is that of the received ones, too.
        for (held, ends) in sent {
            let (ended, time_ns) = (held.ended, held.time_ns);
            let has_socket = held.has_socket;
            let mut reset = held.finish();
            if !has_socket {
                reset.namespace = reset.namespace.or_else(|| closed_in(&self.closers, &reset));
            }
            self.recent.correct(&(ends, time_ns), reset.opinion(), reset.namespace);
            if self.is_hidden(&reset, &ends) {
                self.recent.hide(&(ends, time_ns));
                continue;
            }
            match ended {
                Some(pid) if reset.cause == Cause::ProcessGone => self.ended.add(pid, reset),
                _ if Places::may_learn(&reset) => self.places.wait(reset),
                _ => resets.push(reset),
            }
        }
        for (mut held, ends) in received {
            self.seen.1 += 1;
            let time_ns = held.time_ns;
            if let Some(known) = self.recent.cause_of_same(&ends, held.time_ns, held.known.is_none()) {
                held.known = Some(known);
            }
            let mut reset = held.finish();
            reset.namespace = reset.namespace.or_else(|| self.recent.namespace_of(&ends, time_ns));
            if self.is_hidden(&reset, &ends) {
                continue;
            }
            if let Some(namespace) = reset.namespace {
                self.places.received(ends.0, ends.1, namespace);
                if reset.process.is_none() {
                    let listener = self.sockets.listener(namespace, ends.0);
                    reset.process = listener.and_then(|(_, process)| process.clone());
                    reset.role = reset.process.is_some().then_some(ProcessRole::Held);
                }
            }
            resets.push(reset);
        }
        resets
    }

    /// Whether a reset is of a connection of this program's own, which is counted.
    fn is_hidden(&mut self, reset: &LiveReset, ends: &Endpoints) -> bool {
        let is_hidden = reset.is_own && !is_elsewhere(ends, reset.namespace, self.namespaces.own());
        if is_hidden {
            self.own.count();
        }
        is_hidden
    }

    /// Adds namespace and workload, and orders by time.
    fn describe(&mut self, mut resets: Vec<BoxedReset>) -> Vec<BoxedReset> {
        for reset in &mut resets {
            self.places.decide(reset);
            let workload = reset.process.as_ref().and_then(|process| self.processes.workload(process.pid));
            match reset.namespace {
                Some(id) => {
                    let place = self.namespaces.place(id, workload);
                    (reset.is_own_namespace, reset.namespace_name) = (place.is_own, place.name);
                    reset.workload = place.workload;
                }
                None => reset.workload = workload.cloned(),
            }
        }
        resets.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        resets
    }
}

/// The process that is named with a reset: the one that closed, else the one that listens.
fn concerned(
    closed: Option<NamedProcess>,
    listens: Option<NamedProcess>,
) -> (Option<NamedProcess>, Option<ProcessRole>) {
    match (closed, listens) {
        (Some(process), _) => (Some(process), Some(ProcessRole::Closed)),
        (None, Some(process)) => (Some(process), Some(ProcessRole::Listens)),
        (None, None) => (None, None),
    }
}

/// The namespace of the connection's closer, for a reset that no socket sent.
fn closed_in(closers: &Closers, reset: &LiveReset) -> Option<NamespaceId> {
    if reset.is_new {
        return None;
    }
    closers.of_connection(&(reset.local, reset.remote?))?.namespace
}

#[cfg(test)]
#[path = "resets_tests.rs"]
mod tests;
