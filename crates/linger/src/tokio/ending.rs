//! The end of one connection: first its own task's, then the closer's.

use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll};

use linger_sys::Discarder;

use super::Stream;
use crate::closer::{Arrival, Here, LONGEST_WATCH, Look, Next, Place, Ticket, Watched, end_and_tell};
use crate::machine::{Action, Core, Event};
use crate::socket::Socket;
use crate::{Closer, Mode, Outcome, Policy};

/// A connection that is being ended. Dropped before it is over, it is left to the closer.
#[derive(Debug)]
pub(super) struct LingeringClose<S: Stream> {
    shared: Arc<SharedClose<S>>,
    ticket: Ticket,
}

/// What the task and the closer's thread share.
#[derive(Debug)]
struct SharedClose<S: Stream> {
    /// `None` if there is none in this process.
    closer: Option<Closer>,
    place: Place<Watching<S>>,
}

/// A close that its task drives. The socket is still registered with the runtime.
#[derive(Debug)]
struct Watching<S> {
    socket: Socket<S>,
    core: Core,
    abort: bool,
    /// The policy is to wait for the peer at all.
    lingers: bool,
    /// The task has waited for the peer.
    has_waited: bool,
}

impl<S: Stream> LingeringClose<S> {
    /// Half-closes, unless that has been done, so that the peer has the FIN whenever the task runs next.
    pub(super) fn begin(stream: S, policy: &Policy, closer: Option<&Closer>, is_half_closed: bool) -> Self {
        let closer = closer.or_else(|| Closer::global().ok()).filter(|closer| closer.here().is_some());
        let now = closer.map_or(0, Closer::now);
        let socket = Socket::of(stream.known().family(&stream), stream).half_closed(is_half_closed);
        let mut core = Core::begin(policy, is_half_closed, now);
        if core.next(now) == Action::HalfClose {
            core.on(socket.half_close(), now);
        }
        let lingers = policy.mode == Mode::Linger;
        let place = Place::new(Watching { socket, core, abort: false, lingers, has_waited: false });
        let shared = Arc::new(SharedClose { closer: closer.cloned(), place });
        let ticket = shared.here().map(|here| here.watch(shared.clone(), now));
        let this = Self { shared, ticket: ticket.unwrap_or_default() };
        let is_short = policy.idle.min(policy.total).min(policy.grace) < LONGEST_WATCH;
        if ticket.is_none() || is_short {
            // Without the closer nothing would bound this wait, or not early enough.
            this.give();
        }
        this
    }

    /// Drives the close while the socket is here, and waits for the closer's report afterwards.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let SharedClose { closer, place } = &*self.shared;
        if closer.is_some() && self.shared.here().is_none() {
            // The process was forked since: nobody here bounds the wait, or reports.
            self.give();
            return Poll::Ready(place.outcome().unwrap_or(Outcome::failed(ErrorKind::NotFound)));
        }
        let now = closer.as_ref().map_or(0, Closer::now);
        loop {
            match place.poll(context, |watching, context| watching.drive(now, context)) {
                Next::Pending => return Poll::Pending,
                Next::Give => self.give(),
                Next::Over(outcome) => return Poll::Ready(outcome),
                Next::Close(Watching { socket, abort, .. }, outcome) => {
                    // A descriptor that the runtime does not give back was closed by it.
                    if let Ok(socket) = socket.map(S::into_fd) {
                        socket.close(abort);
                    }
                    self.shared.here().into_iter().for_each(|here| here.is_over(self.ticket, &outcome));
                    return Poll::Ready(outcome);
                }
            }
        }
    }

    /// Does what [`poll`](Self::poll) does, for a task that nobody waits for: that task is also done when the closer has
    /// taken the socket.
    pub(super) fn poll_here(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.poll(context) {
            Poll::Pending if !self.shared.place.is_given() => Poll::Pending,
            Poll::Pending | Poll::Ready(_) => Poll::Ready(()),
        }
    }

    /// Hands the close over to the closer, unless the closer has it already or it has ended.
    fn give(&self) {
        let Some(arrival) = self.shared.clone().take() else { return };
        match self.shared.here() {
            Some(here) => here.take_over(self.ticket, arrival),
            None => end_and_tell(arrival),
        }
    }
}

impl<S: Stream> Drop for LingeringClose<S> {
    fn drop(&mut self) {
        self.give();
    }
}

impl<S: Stream> SharedClose<S> {
    fn here(&self) -> Option<Here<'_>> {
        self.closer.as_ref()?.here()
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
                self.here().into_iter().for_each(|here| here.is_over(Ticket::MAX, &outcome));
                report(outcome);
                None
            }
        }
    }
}

/// Most bytes that a task discards before it leaves the rest to the closer.
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
                    // The runtime of this stream has ended, and this task is another's.
                    None => return Look::Give,
                },
                // While the peer has not closed, this task does not need to know what is acknowledged: it waits. Most peers
                // close next, and then one question to the kernel is enough.
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

/// Reads and discards what has arrived. If nothing has, registers the task to be woken. `None` if the runtime reports
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
mod tests {
    use super::*;
    use crate::Budget;
    use std::time::Duration;
    use tokio::net::UnixStream;

    #[test]
    fn the_closer_has_those_from_the_start_whose_bounds_a_watch_would_outlast() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let short = LONGEST_WATCH - Duration::from_nanos(1);
        let good = Policy { grace: LONGEST_WATCH, ..Policy::default() };
        runtime.block_on(async {
            for (policy, is_given) in [
                (good, false),
                (Policy { grace: short, ..good }, true),
                (Policy { idle: short, ..good }, true),
                (Policy { total: short, ..good }, true),
            ] {
                let (stream, _peer) = UnixStream::pair().unwrap();
                let ending = LingeringClose::begin(stream, &policy, Some(&closer), false);
                assert_eq!(ending.shared.place.is_given(), is_given, "{policy:?}");
            }
        });
    }
}
