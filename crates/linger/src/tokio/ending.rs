//! The end of one connection: first on the runtime that has its socket, then by the closer.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use linger_sys::Discarder;
use tokio::task::unconstrained;

use super::Stream;
use crate::closer::{Arrival, Here, LONGEST_WATCH, Look, Next, Place, Ticket, Watched, end_and_tell};
use crate::machine::{Action, Core, Event};
use crate::socket::Socket;
use crate::{Closer, Mode, Outcome, Policy};

/// A close for whose outcome a task waits. If this is dropped before the close is over, the closer goes on with the close.
#[derive(Debug)]
pub(super) struct LingeringClose<S: Stream> {
    shared: Arc<SharedClose<S>>,
}

/// What the runtime's side and the closer's thread share.
#[derive(Debug)]
struct SharedClose<S: Stream> {
    /// `None` if this process has no closer.
    closer: Option<Closer>,
    place: Place<Watching<S>>,
    /// Identifies this close to the closer.
    ticket: AtomicU64,
    /// For a close that no task waits for: the number of wake-ups since the last look at it has ended.
    wakes: AtomicUsize,
}

/// A close that the runtime's side drives. The socket is still registered with the runtime.
#[derive(Debug)]
struct Watching<S> {
    socket: Socket<S>,
    core: Core,
    abort: bool,
    /// The policy waits for the peer ([`Mode::Linger`]).
    lingers: bool,
    /// The peer has been waited for.
    has_waited: bool,
}

impl<S: Stream> LingeringClose<S> {
    /// Half-closes, unless that has been done, so that the peer has the FIN whenever the task runs next.
    pub(super) fn begin(stream: S, policy: &Policy, closer: Option<&Closer>, is_half_closed: bool) -> Self {
        Self { shared: SharedClose::begin(stream, policy, closer, is_half_closed) }
    }

    /// Drives the close while the socket is here, and waits for the closer's report afterwards.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let place = &self.shared.place;
        if self.shared.is_orphaned() {
            self.shared.give();
            return Poll::Ready(place.outcome().unwrap_or(Outcome::failed(ErrorKind::NotFound)));
        }
        let now = self.shared.now();
        loop {
            match place.poll(context, |watching, context| watching.drive(now, context)) {
                Next::Pending => return Poll::Pending,
                Next::Give => self.shared.give(),
                Next::Over(outcome) => return Poll::Ready(outcome),
                Next::Close(watching, outcome) => {
                    self.shared.close(watching, &outcome);
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

impl<S: Stream> Drop for LingeringClose<S> {
    fn drop(&mut self) {
        self.shared.give();
    }
}

/// Ends a connection whose outcome nobody waits for.
///
/// No task is made for it. The socket's event drives the close ([`Wake`]): what is left to do then is a read, a look at the
/// send queue and the close itself, which is less work than making and scheduling a task. Where the runtime reports no
/// events, or nobody drives it, the closer takes the socket over.
pub(super) fn let_go<S: Stream>(stream: S, policy: &Policy, closer: Option<&Closer>, is_half_closed: bool) {
    SharedClose::begin(stream, policy, closer, is_half_closed).look();
}

impl<S: Stream> SharedClose<S> {
    fn begin(stream: S, policy: &Policy, closer: Option<&Closer>, is_half_closed: bool) -> Arc<Self> {
        let closer = closer.or_else(|| Closer::global().ok()).filter(|closer| closer.here().is_some());
        let now = closer.map_or(0, Closer::now);
        let socket = Socket::of(stream.known().family(&stream), stream).half_closed(is_half_closed);
        let mut core = Core::begin(policy, is_half_closed, now);
        if core.next(now) == Action::HalfClose {
            core.on(socket.half_close(), now);
        }
        let lingers = policy.mode == Mode::Linger;
        let place = Place::new(Watching { socket, core, abort: false, lingers, has_waited: false });
        let (ticket, wakes) = (AtomicU64::new(Ticket::MAX), AtomicUsize::new(0));
        let this = Arc::new(Self { closer: closer.cloned(), place, ticket, wakes });
        let ticket = this.here().map(|here| here.watch(this.clone(), now));
        if let Some(ticket) = ticket {
            this.ticket.store(ticket, Ordering::Relaxed);
        }
        let is_short = policy.idle.min(policy.total).min(policy.grace) < LONGEST_WATCH;
        if ticket.is_none() || is_short {
            // Without a closer nothing would bound the wait on the runtime; with shorter bounds the closer would come too late.
            this.give();
        }
        this
    }

    /// Drives the close while the socket is here, without anybody who waits for it.
    fn look(self: Arc<Self>) {
        // A wake-up during a look, perhaps on this very thread, must not wait for the place's lock: it is counted, and the look
        // that is under way sees the count at its end. Relaxed, because all changes of one atomic have one order, and whatever
        // else a look uses is behind the lock.
        if self.wakes.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        if self.is_orphaned() {
            return self.give();
        }
        let (waker, now) = (Waker::from(self.clone()), self.now());
        // Unconstrained: otherwise the look would use up tokio's cooperative budget of whichever task runs now.
        let look = pin!(unconstrained(poll_fn(|context| {
            Poll::Ready(self.place.look(|watching| watching.drive(now, context)))
        })));
        match look.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Next::Close(watching, outcome)) => self.close(watching, &outcome),
            Poll::Ready(Next::Give) => self.give(),
            Poll::Ready(Next::Over(_)) => {}
            Poll::Ready(Next::Pending) | Poll::Pending => {
                if self.wakes.swap(0, Ordering::Relaxed) > 1 {
                    self.give();
                }
            }
        }
    }

    fn here(&self) -> Option<Here<'_>> {
        self.closer.as_ref()?.here()
    }

    /// Whether this is a child that was forked since: here no closer bounds the wait or reports.
    fn is_orphaned(&self) -> bool {
        self.closer.is_some() && self.here().is_none()
    }

    fn now(&self) -> u64 {
        self.closer.as_ref().map_or(0, Closer::now)
    }

    fn ticket(&self) -> Ticket {
        // Stored before the close is driven, and so before anybody asks.
        self.ticket.load(Ordering::Relaxed)
    }

    /// Closes a socket that was taken out, and counts its end.
    fn close(&self, watching: Watching<S>, outcome: &Outcome) {
        let Watching { socket, abort, .. } = watching;
        // A descriptor that the runtime does not give back was closed by it.
        if let Ok(socket) = socket.map(S::into_fd) {
            socket.close(abort);
        }
        self.here().into_iter().for_each(|here| here.count_end(self.ticket(), outcome));
    }

    /// Hands the close over to the closer, unless the closer has it already or it has ended.
    fn give(self: &Arc<Self>) {
        let Some(arrival) = self.clone().take() else { return };
        match self.here() {
            Some(here) => here.take_over(self.ticket(), arrival),
            None => end_and_tell(arrival),
        }
    }
}

impl<S: Stream> Wake for SharedClose<S> {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl<S: Stream> Watched for SharedClose<S> {
    fn take(self: Arc<Self>) -> Option<Arrival> {
        let Watching { socket, core, .. } = self.place.take()?;
        let this = self.clone();
        let report = move |outcome| this.place.over(outcome);
        match socket.map(S::into_fd) {
            Ok(socket) => Some(Arrival { socket, core, watcher: Some(Box::new(report)) }),
            Err(error) => {
                // A descriptor that the runtime does not give back was closed by it.
                let outcome = Outcome::failed(error.kind());
                self.here().into_iter().for_each(|here| here.count_end(Ticket::MAX, &outcome));
                report(outcome);
                None
            }
        }
    }
}

/// Most bytes that are discarded here before the rest is left to the closer.
const LOOK: u64 = 64 << 10;

impl<S: Stream> Watching<S> {
    /// Follows the machine as long as that is little work.
    fn drive(&mut self, now: u64, context: &mut Context<'_>) -> Look {
        let Self { socket, core, abort, lingers, has_waited } = self;
        let mut is_empty = false;
        if *has_waited {
            core.on(Event::Woken, now);
        }
        loop {
            let event = match core.next(now) {
                // The half-close has been tried before, and failed in a way that may pass.
                Action::HalfClose => socket.half_close(),
                Action::Discard { max } => match discard(socket, max, context) {
                    Some(event) => event,
                    // The runtime of this stream has ended.
                    None => return Look::Give,
                },
                // As long as the peer has not closed, what is acknowledged decides nothing. Most peers close next, and then the
                // kernel need be asked only once.
                Action::Measure if is_empty && *lingers => {
                    *has_waited = true;
                    return Look::Wait;
                }
                Action::Measure => socket.measure(),
                Action::Inspect => socket.inspect(),
                // The peer has closed, but is slow to acknowledge.
                Action::Wait { .. } if core.end_of_stream() => return Look::Give,
                Action::Wait { .. } => {
                    *has_waited = true;
                    return Look::Wait;
                }
                Action::Close { abort: wanted, outcome } => {
                    *abort = wanted;
                    return Look::Over(outcome);
                }
            };
            core.on(event, now);
            is_empty = event == Event::Empty;
            if let Event::Discarded(_) = event {
                // The peer goes on sending.
                return Look::Give;
            }
        }
    }
}

/// Reads and discards what has arrived. If nothing has, registers the waker. `None` if the runtime reports
/// no events any more.
fn discard<S: Stream>(socket: &Socket<S>, max: u64, context: &mut Context<'_>) -> Option<Event> {
    loop {
        match socket.get_ref().poll_readable(context) {
            Poll::Pending => return Some(Event::Empty),
            Poll::Ready(Err(_)) => return None,
            Poll::Ready(Ok(())) => {}
        }
        let read = || match socket.discard(&mut Discarder::new(), max.min(LOOK)) {
            Event::Empty => Err(ErrorKind::WouldBlock.into()),
            event => Ok(event),
        };
        if let Ok(event) = socket.get_ref().reading(read) {
            return Some(event);
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "ending_tests.rs"]
mod tests;
