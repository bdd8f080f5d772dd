//! The end of one connection: first its own task's, then the closer's.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use linger_sys::Discarder;

use super::Stream;
use crate::closer::{Arrival, Ticket, Watched};
use crate::machine::{Action, Core, Event};
use crate::socket::Socket;
use crate::{Closer, Outcome, Policy};

/// A connection that is being ended. Dropped before it is over, it is left to the closer.
#[derive(Debug)]
pub(super) struct Ending<S: Stream> {
    shared: Arc<Shared<S>>,
    ticket: Ticket,
}

/// What the task and the closer's thread share.
#[derive(Debug)]
struct Shared<S: Stream> {
    /// `None` in a process that could not make one.
    closer: Option<Closer>,
    place: Mutex<Place<S>>,
}

#[derive(Debug)]
struct Place<S> {
    state: State<S>,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State<S> {
    /// The runtime still has it.
    Watched(Socket<S>, Core),
    Given,
    Over(Outcome),
}

impl<S: Stream> Ending<S> {
    /// Half-closes, so that the peer has the FIN whenever the task runs next.
    pub(super) fn begin(stream: S, policy: &Policy, closer: Option<&Closer>) -> Self {
        let closer = closer.or_else(|| Closer::global().ok()).cloned();
        let now = closer.as_ref().map_or(0, Closer::now);
        let (socket, mut core) = (Socket::of(S::FAMILY, stream), Core::new(policy, now));
        if core.next(now) == Action::HalfClose {
            core.on(socket.half_close(), now);
        }
        let place = Place { state: State::Watched(socket, core), waker: None };
        let shared = Arc::new(Shared { closer, place: Mutex::new(place) });
        let ticket = shared.closer.as_ref().map_or(0, |closer| closer.watch(shared.clone()));
        let this = Self { shared, ticket };
        if this.shared.closer.is_none() {
            // Nothing would bound the wait.
            this.give();
        }
        this
    }

    /// Drives the close while the socket is here, and waits for the closer's report afterwards.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut place = self.shared.lock();
        if let State::Watched(socket, core) = &mut place.state {
            let now = self.shared.closer.as_ref().map_or(0, Closer::now);
            match drive(socket, core, now, context) {
                Next::Wait => {}
                Next::Give => {
                    drop(place);
                    self.give();
                    place = self.shared.lock();
                }
                Next::Close { abort, outcome } => {
                    let acknowledged = core.acknowledged();
                    let state = std::mem::replace(&mut place.state, State::Over(outcome));
                    // The closer may know of this place a while longer; the task need not.
                    place.waker = None;
                    drop(place);
                    // A descriptor that the runtime does not give back was closed by it.
                    if let State::Watched(socket, _) = state
                        && let Ok(socket) = socket.map(S::into_fd)
                    {
                        socket.close(abort, acknowledged);
                    }
                    self.shared.closer.iter().for_each(|closer| closer.is_over(self.ticket, &outcome));
                    return Poll::Ready(outcome);
                }
            }
        }
        if let State::Over(outcome) = place.state {
            return Poll::Ready(outcome);
        }
        if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            place.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the closer has it.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self.shared.lock().state, State::Watched(..))
    }

    /// Leaves it to the closer, unless that has it, or it is over.
    fn give(&self) {
        let Some(arrival) = self.shared.clone().take() else { return };
        match &self.shared.closer {
            Some(closer) => closer.take_over(self.ticket, arrival),
            None => crate::closer::do_without(arrival),
        }
    }
}

impl<S: Stream> Drop for Ending<S> {
    fn drop(&mut self) {
        self.give();
    }
}

impl<S: Stream> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Place<S>> {
        // Nothing that runs under the lock panics; if it did, what it guards would still be whole.
        self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_over(&self, outcome: Outcome) {
        let mut place = self.lock();
        place.state = State::Over(outcome);
        let waker = place.waker.take();
        drop(place);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<S: Stream> Watched for Shared<S> {
    fn take(self: Arc<Self>) -> Option<Arrival> {
        let mut place = self.lock();
        if !matches!(place.state, State::Watched(..)) {
            return None;
        }
        let State::Watched(socket, core) = std::mem::replace(&mut place.state, State::Given) else {
            return None;
        };
        let waker = place.waker.take();
        drop(place);
        waker.into_iter().for_each(Waker::wake);
        let this = self.clone();
        let report = move |outcome| this.is_over(outcome);
        match socket.map(S::into_fd) {
            Ok(socket) => Some(Arrival { socket, core, watcher: Some(Box::new(report)) }),
            Err(error) => {
                // A descriptor that the runtime does not give back was closed by it.
                let outcome = Outcome::failed(error.kind());
                self.closer.iter().for_each(|closer| closer.is_over(Ticket::MAX, &outcome));
                report(outcome);
                None
            }
        }
    }
}

/// Most bytes that a task throws away before it leaves the rest to the closer.
const LOOK: u64 = 64 << 10;

enum Next {
    /// For the peer to close, or for the closer to take over.
    Wait,
    /// It needs more than a look: the peer goes on sending, or is slow to acknowledge.
    Give,
    Close {
        abort: bool,
        outcome: Outcome,
    },
}

/// Does what the machine asks for as long as it is little.
fn drive<S: Stream>(socket: &Socket<S>, core: &mut Core, now: u64, context: &mut Context<'_>) -> Next {
    if let Action::Wait { .. } = core.next(now) {
        core.on(Event::Woken, now);
    }
    loop {
        let event = match core.next(now) {
            // It has been tried, and failed in a way that may pass.
            Action::HalfClose => socket.half_close(),
            Action::Discard { max } => discard(socket, max, context),
            Action::Measure => socket.measure(),
            Action::Wait { .. } if core.end_of_stream() => return Next::Give,
            Action::Wait { .. } => return Next::Wait,
            Action::Close { abort, outcome } => return Next::Close { abort, outcome },
        };
        core.on(event, now);
        if let Event::Discarded(_) = event {
            return Next::Give;
        }
    }
}

/// Reads what has come; without anything, sees to it that the task is woken when something does.
fn discard<S: Stream>(socket: &Socket<S>, max: u64, context: &mut Context<'_>) -> Event {
    loop {
        match socket.get_ref().poll_readable(context) {
            Poll::Pending => return Event::Empty,
            Poll::Ready(Err(error)) => return Event::Failed(error.kind()),
            Poll::Ready(Ok(())) => {}
        }
        let read = || match socket.discard(&mut Discarder::new(), max.min(LOOK)) {
            Event::Empty => Err(ErrorKind::WouldBlock.into()),
            event => Ok(event),
        };
        if let Ok(event) = socket.get_ref().reading(read) {
            return event;
        }
    }
}
