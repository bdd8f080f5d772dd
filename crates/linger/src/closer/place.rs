//! A close that is driven on a runtime until the closer's thread takes it over.

use std::task::{Context, Waker};

use crate::outcome::Outcome;
use crate::sync::{Mutex, MutexGuard, lock};

/// Holds the socket of one close while the runtime drives it: in a task ([`poll`](Self::poll)), or at the socket's events
/// ([`look`](Self::look)). Either the runtime or the closer's thread takes the socket out, ends the close, and tells the
/// other.
#[derive(Debug)]
pub(crate) struct Place<W> {
    inside: Mutex<Inside<W>>,
}

#[derive(Debug)]
struct Inside<W> {
    state: PlaceState<W>,
    /// The waker of the task, while the task waits.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum PlaceState<W> {
    Watched(W),
    Given,
    Over(Outcome),
}

/// The result of a task's attempt to drive its socket.
pub(crate) enum Look {
    /// The task waits on.
    Wait,
    /// The closer is to take the socket.
    Give,
    /// The close is over; only the descriptor is still to be closed.
    Over(Outcome),
}

/// What the task has to do after a look.
pub(crate) enum Next<W> {
    /// To wait.
    Pending,
    /// To hand the socket over, then to look again.
    Give,
    /// To close this socket, and to count its end.
    Close(W, Outcome),
    /// Nothing: the closer has ended it.
    Over(Outcome),
}

impl<W> Inside<W> {
    fn look(&mut self, look: impl FnOnce(&mut W) -> Look) -> Next<W> {
        if let PlaceState::Watched(watched) = &mut self.state {
            match look(watched) {
                Look::Wait => {}
                Look::Give => return Next::Give,
                Look::Over(outcome) => {
                    let over = PlaceState::Over(outcome);
                    if let PlaceState::Watched(watched) = std::mem::replace(&mut self.state, over) {
                        // The closer may keep a reference to this place a while longer. Drop the waker now, because
                        // nobody is to be woken any more.
                        self.waker = None;
                        return Next::Close(watched, outcome);
                    }
                }
            }
        }
        match self.state {
            PlaceState::Over(outcome) => Next::Over(outcome),
            PlaceState::Watched(_) | PlaceState::Given => Next::Pending,
        }
    }
}

impl<W> Place<W> {
    pub(crate) fn new(watched: W) -> Self {
        Self { inside: Mutex::new(Inside { state: PlaceState::Watched(watched), waker: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inside<W>> {
        lock(&self.inside)
    }

    /// Drives the socket by `look` while the task has it.
    ///
    /// The closer wakes the context when it takes the socket, and when the close is over.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
        look: impl FnOnce(&mut W, &mut Context<'_>) -> Look,
    ) -> Next<W> {
        let mut inside = self.lock();
        let next = inside.look(|watched| look(watched, context));
        // The waker is stored under the same lock under which the state was read. Otherwise the close could end between
        // the two, and the task would never be woken.
        let is_known = inside.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if matches!(next, Next::Pending) && !is_known {
            inside.waker = Some(context.waker().clone());
        }
        next
    }

    /// As [`poll`](Self::poll), for a close whose end nobody waits for.
    #[cfg(feature = "tokio")]
    pub(crate) fn look(&self, look: impl FnOnce(&mut W) -> Look) -> Next<W> {
        self.lock().look(look)
    }

    /// Whether the closer has taken the socket, or the close is over.
    #[cfg(test)]
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self.lock().state, PlaceState::Watched(_))
    }

    /// The outcome, if the close has ended.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if let PlaceState::Over(outcome) = self.lock().state { Some(outcome) } else { None }
    }

    /// Takes the socket out, if it is here, and wakes the task, which need not look at it any more.
    pub(crate) fn take(&self) -> Option<W> {
        let mut inside = self.lock();
        if !matches!(inside.state, PlaceState::Watched(_)) {
            return None;
        }
        let PlaceState::Watched(watched) = std::mem::replace(&mut inside.state, PlaceState::Given) else {
            return None;
        };
        let waker = inside.waker.take();
        drop(inside);
        waker.into_iter().for_each(Waker::wake);
        Some(watched)
    }

    /// Tells the task how the socket that was taken out has ended.
    pub(crate) fn over(&self, outcome: Outcome) {
        let mut inside = self.lock();
        debug_assert!(
            matches!(inside.state, PlaceState::Given),
            "an end is told of a socket that was not taken"
        );
        inside.state = PlaceState::Over(outcome);
        let waker = inside.waker.take();
        drop(inside);
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::outcome::Ended;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    const OUTCOME: Outcome = Outcome {
        ended: Ended::PeerClosed,
        discarded: 3,
        unacknowledged: Some(0),
        closed_after: true,
        elapsed: Duration::ZERO,
    };

    fn poll(place: &Place<u32>, task: &Arc<Woken>, look: Look) -> Next<u32> {
        place.poll(&mut Context::from_waker(&task.clone().into()), |_, _| look)
    }

    #[test]
    fn a_task_ends_it_and_nobody_else_can() {
        let (place, task) = (Place::new(7), Arc::new(Woken::default()));
        assert!(matches!(poll(&place, &task, Look::Wait), Next::Pending));
        assert!(!place.is_given() && place.outcome().is_none());
        assert!(matches!(poll(&place, &task, Look::Over(OUTCOME)), Next::Close(7, OUTCOME)));
        assert_eq!((place.take(), place.outcome(), place.is_given()), (None, Some(OUTCOME), true));
        // It has heard of it by itself, and is not kept.
        assert_eq!((task.times(), Arc::strong_count(&task)), (0, 1));
        assert!(matches!(poll(&place, &task, Look::Wait), Next::Over(OUTCOME)));
    }

    #[test]
    fn the_thread_takes_it_and_tells_the_task() {
        let (place, task) = (Place::new(7), Arc::new(Woken::default()));
        assert!(matches!(poll(&place, &task, Look::Give), Next::Give));
        assert!(matches!(poll(&place, &task, Look::Wait), Next::Pending));
        assert_eq!((place.take(), place.take()), (Some(7), None));
        assert_eq!((task.times(), place.is_given(), place.outcome()), (1, true, None));
        // What a look would say does not matter any more.
        assert!(matches!(poll(&place, &task, Look::Over(OUTCOME)), Next::Pending));
        place.over(OUTCOME);
        assert_eq!(task.times(), 2);
        assert!(matches!(poll(&place, &task, Look::Give), Next::Over(OUTCOME)));
    }

    #[test]
    fn the_last_task_that_polled_is_woken() {
        let (place, first, second) = (Place::new(7), Arc::new(Woken::default()), Arc::new(Woken::default()));
        poll(&place, &first, Look::Wait);
        poll(&place, &second, Look::Wait);
        place.take();
        assert_eq!((first.times(), second.times()), (0, 1));
    }
}
