//! Connections without a request: how many there may be, and which one has to go.
//!
//! They take no slot. Where there is one more than may wait, the one that has been without a request longest ends. So nobody who
//! holds idle connections, or sends a request byte by byte, keeps others out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ends the wait of one connection.
pub(crate) trait Bell {
    fn ring(&self);
}

/// Since when a connection is without a request, as a rank among others. It is kept while a request is only partly there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rank(Option<u64>);

/// The seats of connections that wait.
#[derive(Debug)]
pub(crate) struct Lobby<B> {
    most: usize,
    seats: Mutex<Seats<B>>,
}

#[derive(Debug)]
struct Seats<B> {
    /// The rank that was given last.
    last: u64,
    taken: BTreeMap<u64, B>,
    /// Those whose bell was rung, and which have not [gone](Lobby::gone) yet.
    leaving: usize,
}

impl<B: Bell> Lobby<B> {
    /// At most a quarter of the descriptors that the process may have are seats: handlers need some, too.
    pub(crate) fn within_descriptors(most: usize) -> Self {
        let quarter = linger_sys::descriptor_limit().map_or(usize::MAX, |limit| (limit / 4) as usize);
        Self::new(most.min(quarter))
    }

    pub(crate) fn new(most: usize) -> Self {
        Self { most, seats: Mutex::new(Seats { last: 0, taken: BTreeMap::new(), leaving: 0 }) }
    }

    /// The rank of a connection that begins now, whenever it sits first.
    pub(crate) fn rank(&self) -> Rank {
        self.seats().rank()
    }

    /// Takes a seat; returns false if there is none at all. For one too many, the connection with the lowest rank leaves, which may be
    /// this one.
    pub(crate) fn sit(&self, rank: &mut Rank, bell: B) -> bool {
        if self.most == 0 {
            return false;
        }
        let mut seats = self.seats();
        if rank.0.is_none() {
            *rank = seats.rank();
        }
        let Some(rank) = rank.0 else { return false };
        let before = seats.taken.insert(rank, bell);
        debug_assert!(before.is_none(), "two connections of rank {rank}");
        if seats.taken.len() > self.most {
            seats.evict();
        }
        true
    }

    /// Gives the seat up. Returns whether it had been taken away; the bell was rung then, and [`gone`](Self::gone) is to be called.
    pub(crate) fn leave(&self, rank: Rank) -> bool {
        rank.0.is_some_and(|rank| self.seats().taken.remove(&rank).is_none())
    }

    /// Takes the seat of the connection with the lowest rank. Returns whether there was one.
    pub(crate) fn evict(&self) -> bool {
        self.seats().evict()
    }

    /// Does what [`evict`](Self::evict) does, unless somebody leaves already.
    pub(crate) fn make_way(&self) {
        let mut seats = self.seats();
        if seats.leaving == 0 {
            seats.evict();
        }
    }

    /// One whose seat was taken away has left, or does not leave.
    pub(crate) fn gone(&self) {
        let mut seats = self.seats();
        debug_assert!(seats.leaving > 0, "more went than had to");
        seats.leaving -= 1;
    }

    fn seats(&self) -> MutexGuard<'_, Seats<B>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Bell> Seats<B> {
    fn rank(&mut self) -> Rank {
        self.last += 1;
        Rank(Some(self.last))
    }

    fn evict(&mut self) -> bool {
        let lowest = self.taken.pop_first();
        self.leaving += usize::from(lowest.is_some());
        // Under the lock: who finds that its seat was taken away knows that its bell was rung.
        lowest.inspect(|(_, bell)| bell.ring()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    struct Named(&'static str, Rc<RefCell<Vec<&'static str>>>);

    impl Bell for Named {
        fn ring(&self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    #[test]
    fn the_longest_without_a_request_leaves() {
        let rung = Rc::default();
        let lobby = Lobby::new(2);
        let [mut one, mut two, mut three] = [Rank::default(); 3];
        let bell = |name| Named(name, Rc::clone(&rung));
        assert!(lobby.sit(&mut one, bell("one")) && lobby.sit(&mut two, bell("two")));
        // A part of a request came: that is no request.
        assert!(!lobby.leave(one));
        assert!(lobby.sit(&mut one, bell("one")));
        assert!(rung.borrow().is_empty());
        assert!(lobby.sit(&mut three, bell("three")));
        assert_eq!(*rung.borrow(), ["one"]);
        assert!(lobby.leave(one) && !lobby.leave(two));
        // A request came and was served.
        two = Rank::default();
        assert!(lobby.sit(&mut two, bell("two")) && lobby.evict());
        assert_eq!(*rung.borrow(), ["one", "three"]);
        assert!(lobby.evict() && !lobby.evict());
    }

    #[test]
    fn whoever_comes_back_to_a_full_lobby_may_be_the_one_that_leaves() {
        let rung = Rc::default();
        let lobby = Lobby::new(1);
        let [mut one, mut two] = [Rank::default(); 2];
        assert!(lobby.sit(&mut one, Named("one", Rc::clone(&rung))));
        assert!(!lobby.leave(one));
        assert!(lobby.sit(&mut two, Named("two", Rc::clone(&rung))));
        assert!(lobby.sit(&mut one, Named("one", Rc::clone(&rung))));
        assert_eq!(*rung.borrow(), ["one"]);
        assert!(lobby.leave(one) && !lobby.leave(two));
    }

    #[test]
    fn whoever_leaves_already_makes_way() {
        let rung = Rc::default();
        let lobby = Lobby::new(2);
        let [mut one, mut two, mut three] = [Rank::default(); 3];
        let bell = |name| Named(name, Rc::clone(&rung));
        assert!(lobby.sit(&mut one, bell("one")) && lobby.sit(&mut two, bell("two")));
        lobby.make_way();
        lobby.make_way();
        assert_eq!(*rung.borrow(), ["one"]);
        assert!(lobby.leave(one));
        lobby.make_way();
        assert_eq!(*rung.borrow(), ["one"], "it has not gone yet");
        lobby.gone();
        lobby.make_way();
        assert_eq!(*rung.borrow(), ["one", "two"]);
        // Where nobody sits, nobody has to go later.
        assert!(lobby.leave(two));
        lobby.gone();
        lobby.make_way();
        assert!(lobby.sit(&mut three, bell("three")));
        lobby.make_way();
        assert_eq!(*rung.borrow(), ["one", "two", "three"]);
    }

    #[test]
    fn without_seats_nobody_sits() {
        let lobby = Lobby::new(0);
        assert!(!lobby.sit(&mut Rank::default(), Named("one", Rc::default())));
    }
}
