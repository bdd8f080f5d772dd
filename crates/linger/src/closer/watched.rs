//! The sockets that are watched on a runtime, by a task or for their events, in the order in which the closer's thread takes them over.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Arrival;

/// A socket that the runtime's side drives until the thread takes it over. The one that takes the socket first ends its close.
pub(crate) trait Watched<A = Arrival>: Send + Sync {
    /// Takes the socket, unless its close is over already.
    fn take(self: Arc<Self>) -> Option<A>;
}

/// Identifies a watched socket.
pub(crate) type Ticket = u64;

/// A queue of watched sockets by their deadlines.
///
/// An entry is freed as soon as its close has ended, not at its deadline a tenth of a second later. A server that ends
/// many thousand connections a second would otherwise have thousands of dead small allocations scattered through its
/// heap, and the allocator could not reuse memory that is still in the processor's cache.
pub(super) struct WatchList<A> {
    sockets: VecDeque<Guarded<A>>,
    /// The ticket of the first.
    first: Ticket,
}

/// A deadline, and the socket unless it has left.
type Guarded<A> = (u64, Option<Arc<dyn Watched<A>>>);

impl<A> WatchList<A> {
    pub(super) const fn new() -> Self {
        Self { sockets: VecDeque::new(), first: 0 }
    }

    /// Adds a socket at the end of the queue. Callers add sockets in the order of their deadlines `until`, except that
    /// two racing callers may swap: the deadlines are then out of order by the length of that race, which is harmless.
    #[cfg(any(feature = "tokio", test, loom))]
    pub(super) fn push(&mut self, until: u64, watched: Arc<dyn Watched<A>>) -> Ticket {
        self.sockets.push_back((until, Some(watched)));
        self.first + self.sockets.len() as u64 - 1
    }

    /// Removes a socket, unless it has been taken.
    #[cfg(any(feature = "tokio", test, loom))]
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Arc<dyn Watched<A>>> {
        let place = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        let watched = self.sockets.get_mut(place)?.1.take();
        self.drop_empty_places();
        watched
    }

    /// Takes the sockets whose deadlines have passed.
    pub(super) fn take(&mut self, now: u64, taken: &mut Vec<Arc<dyn Watched<A>>>) {
        while let Some((until, watched)) = self.sockets.front_mut() {
            if *until > now {
                break;
            }
            taken.extend(watched.take());
            self.drop_empty_places();
        }
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<u64> {
        self.sockets.front().map(|(until, _)| *until)
    }

    /// Drops the empty places at the front, so that the first place is always taken.
    fn drop_empty_places(&mut self) {
        while let Some((_, None)) = self.sockets.front() {
            self.sockets.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Nothing;

    impl Watched<()> for Nothing {
        fn take(self: Arc<Self>) -> Option<()> {
            None
        }
    }

    #[test]
    fn who_is_over_leaves_and_the_rest_is_taken_in_time() {
        let mut list = WatchList::new();
        let tickets: Vec<_> = (0..6).map(|until| list.push(until, Arc::new(Nothing))).collect();
        // In any order, twice, and one that was never given out.
        for gone in [3, 0, 3] {
            drop(list.remove(tickets[gone]));
        }
        assert!(list.remove(Ticket::MAX).is_none());
        let mut taken = Vec::new();
        list.take(2, &mut taken);
        assert_eq!((taken.len(), list.next()), (2, Some(4)));
        assert!(list.remove(tickets[1]).is_none(), "it has been taken");
        assert!(list.remove(tickets[4]).is_some());
        list.take(u64::MAX, &mut taken);
        assert_eq!((taken.len(), list.next(), list.sockets.len()), (3, None, 0));
        assert_eq!(list.push(9, Arc::new(Nothing)), 6);
    }
}
