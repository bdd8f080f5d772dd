//! Connections that wait for their next request, and requests that wait for a worker.
//!
//! Many applications have a worker for each connection, and an idle connection holds one (php-fpm). A request on a new connection may
//! then wait for a worker that an idle connection of the same gateway holds. So one that has waited for a while without a byte makes the
//! gateway give up an idle connection, or the next one that would become idle.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a request on a new connection waits for its first byte before an idle connection is given up for it. Then again after twice
/// the time, and so on.
pub(crate) const HUNGER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Idle<S>(Mutex<Kept<S>>);

#[derive(Debug)]
struct Kept<S> {
    /// The most recently used last: the first to be taken, while the others grow old.
    list: Vec<(S, Instant)>,
    /// How many requests have waited for so long.
    hungry: usize,
    /// How many connections are still to be given up for them.
    owed: usize,
}

impl<S> Default for Idle<S> {
    fn default() -> Self {
        Self(Mutex::new(Kept { list: Vec::new(), hungry: 0, owed: 0 }))
    }
}

impl<S> Idle<S> {
    /// Takes the connection that was used last.
    pub(crate) fn pop(&self) -> Option<(S, Instant)> {
        self.kept().list.pop()
    }

    /// Keeps a connection. Where there are more than `most`, the one that was idle longest is closed.
    pub(crate) fn put(&self, stream: S, most: usize) {
        let mut kept = self.kept();
        if kept.owed > 0 {
            kept.owed -= 1;
            return;
        }
        if kept.list.len() >= most && !kept.list.is_empty() {
            kept.list.remove(0);
        }
        if most > 0 {
            kept.list.push((stream, Instant::now()));
        }
    }

    pub(crate) fn clear(&self) {
        self.kept().list.clear();
    }

    /// Closes an idle connection for a hungry request, now or when there is one.
    fn give_up_one(&self) {
        let mut kept = self.kept();
        if !kept.list.is_empty() {
            tracing::debug!("gives an idle connection up, for a request that waits");
            kept.list.remove(0);
        } else if kept.owed < kept.hungry {
            kept.owed += 1;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait of a request for its first byte.
#[derive(Debug)]
pub(crate) struct Hunger {
    since: Instant,
    wait: Duration,
    is_counted: bool,
}

impl Hunger {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), wait: HUNGER, is_counted: false }
    }

    /// How long until the next [`bite`](Self::bite).
    pub(crate) fn left(&self) -> Duration {
        self.wait.saturating_sub(self.since.elapsed())
    }

    /// Makes room, if it is time to.
    pub(crate) fn bite<S>(&mut self, idle: &Idle<S>) {
        if !self.left().is_zero() {
            return;
        }
        if !std::mem::replace(&mut self.is_counted, true) {
            idle.kept().hungry += 1;
        }
        (self.since, self.wait) = (Instant::now(), self.wait * 2);
        idle.give_up_one();
    }

    /// The wait is over.
    pub(crate) fn end<S>(self, idle: &Idle<S>) {
        if self.is_counted {
            let mut kept = idle.kept();
            kept.hungry -= 1;
            kept.owed = kept.owed.min(kept.hungry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn hungry() -> Hunger {
        Hunger { wait: Duration::ZERO, ..Hunger::new() }
    }

    #[test]
    fn the_oldest_goes_for_a_hungry_request_and_for_the_next_the_one_that_comes() {
        let idle = Idle::default();
        let [old, new, next, last] = [0, 1, 2, 3].map(Rc::new);
        idle.put(old.clone(), 9);
        idle.put(new.clone(), 9);
        let mut hunger = Hunger::new();
        hunger.bite(&idle);
        assert_eq!(Rc::strong_count(&old), 2, "not yet");
        let (mut one, mut two, mut three) = (hungry(), hungry(), hungry());
        one.bite(&idle);
        assert_eq!((Rc::strong_count(&old), Rc::strong_count(&new)), (1, 2));
        two.bite(&idle);
        three.bite(&idle);
        assert_eq!(Rc::strong_count(&new), 1);
        idle.put(next.clone(), 9);
        assert_eq!(Rc::strong_count(&next), 1, "it is given up at once");
        idle.put(last.clone(), 9);
        assert_eq!(Rc::strong_count(&last), 2, "one for each");
        [one, two, three].into_iter().for_each(|hunger| hunger.end(&idle));
    }

    #[test]
    fn nothing_is_owed_to_a_request_that_is_answered() {
        let idle = Idle::default();
        let kept = Rc::new(());
        let mut hunger = hungry();
        hunger.bite(&idle);
        hunger.end(&idle);
        idle.put(kept.clone(), 1);
        assert_eq!(Rc::strong_count(&kept), 2);
    }
}
