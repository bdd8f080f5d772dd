//! Places for requests: who gets one, and who has to give it back.
//!
//! A client with a known key can take any place. Clients without one have a share of the places, and each address has a
//! share of that. A session that makes no progress loses its place when another client waits for it; its client
//! reconnects and continues.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::door::PeerGroup;
use crate::cancel::Cancel;
use crate::driver::Activity;

/// How long a session may make no progress while another client waits for its place, by default.
pub(super) const IDLE: Duration = Duration::from_secs(20);
/// The most requests that wait for a place, in all and from one address.
const MOST_WAITING: usize = 256;
const WAITING_EACH: usize = 64;

/// The requests that are served, and those that wait.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    /// Whether some clients are known by their keys: then clients without a known key get only their share.
    has_known: bool,
    idle: Duration,
    state: Mutex<SlotTable>,
}

#[derive(Debug, Default)]
struct SlotTable {
    taken: Vec<TakenSlot>,
    waiting: Vec<(u64, PeerGroup)>,
}

/// A session that asks for a place.
#[derive(Clone, Debug)]
pub(super) struct TakenSlot {
    pub(super) number: u64,
    /// The group of a client without a known key; `None` for a client with one.
    pub(super) stranger: Option<PeerGroup>,
    pub(super) cancel: Cancel,
    pub(super) activity: Arc<Activity>,
}

impl Slots {
    pub(super) fn new(most: usize, has_known: bool, idle: Duration) -> Self {
        Self { most: most.max(1), has_known, idle, state: Mutex::default() }
    }

    /// Takes a place. Returns false if there is none for this client; then the session that has made no progress for
    /// longest is ended, if that is `idle` at least.
    pub(super) fn take(&self, asks: &TakenSlot, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = &mut state.taken;
        let strangers = if self.has_known { self.most - self.most / 4 } else { self.most };
        // Every address may have at least one place, however few there are.
        let each = if self.has_known { (strangers / 2).max(1) } else { strangers };
        let rival = |other: &TakenSlot| match asks.stranger {
            None => true,
            Some(_) => other.stranger.is_some(),
        };
        let same = |other: &TakenSlot| other.stranger.is_some() && other.stranger == asks.stranger;
        let count = |is: &dyn Fn(&TakenSlot) -> bool| taken.iter().filter(|other| is(other)).count();
        let of_its_address = count(&same);
        let full = taken.len() >= self.most;
        let is_free =
            !full && (asks.stranger.is_none() || (count(&rival) < strangers && of_its_address < each));
        if is_free {
            taken.push(asks.clone());
            state.waiting.retain(|(number, _)| *number != asks.number);
            return true;
        }
        // A session is ended only if this client could have its place: one of its own address if that has its full
        // share, otherwise one of a client without a known key; for a client with a known key, any.
        let serves = |other: &&TakenSlot| {
            if asks.stranger.is_some() && of_its_address >= each { same(other) } else { rival(other) }
        };
        let idlest = taken.iter().filter(serves).max_by_key(|other| other.activity.idle(now));
        if let Some(idlest) = idlest.filter(|idlest| idlest.activity.idle(now) >= self.idle) {
            tracing::info!(session = idlest.number, "a session that does nothing gives its place up");
            idlest
                .cancel
                .cancel_because("nothing came of this session, and others wait for its place".into());
        }
        false
    }

    /// Adds a request to those that wait. Returns false if too many wait.
    pub(super) fn queue(&self, number: u64, group: PeerGroup) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = state.waiting.iter().filter(|(_, other)| *other == group).count();
        let fits = state.waiting.len() < MOST_WAITING && of_it < WAITING_EACH;
        if fits {
            state.waiting.push((number, group));
        }
        fits
    }

    /// Gives a place back, or gives up waiting for one.
    pub(super) fn leave(&self, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken.retain(|taken| taken.number != number);
        state.waiting.retain(|(waiting, _)| *waiting != number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn v4(last: u8) -> PeerGroup {
        PeerGroup::Network(IpAddr::from([192, 0, 2, last]))
    }

    fn session(number: u64, stranger: Option<u8>) -> TakenSlot {
        let stranger = stranger.map(v4);
        TakenSlot { number, stranger, cancel: Cancel::new().unwrap(), activity: Arc::default() }
    }

    #[test]
    fn strangers_and_addresses_have_shares_and_a_known_key_has_the_rest() {
        let (slots, now) = (Slots::new(8, true, IDLE), Instant::now());
        for number in 0..3 {
            assert!(slots.take(&session(number, Some(1)), now), "{number}");
        }
        assert!(!slots.take(&session(3, Some(1)), now), "half of six are for one address");
        for number in 3..6 {
            assert!(slots.take(&session(number, Some(2)), now), "{number}");
        }
        assert!(!slots.take(&session(6, Some(3)), now), "two are for known keys");
        assert!(slots.take(&session(6, None), now) && slots.take(&session(7, None), now));
        assert!(!slots.take(&session(8, None), now), "full");
        slots.leave(6);
        assert!(!slots.take(&session(8, Some(3)), now) && slots.take(&session(8, None), now));
        let without_keys = Slots::new(2, false, IDLE);
        let alone = |number| without_keys.take(&session(number, Some(1)), now);
        assert!(alone(0) && alone(1) && !alone(2), "nobody is known: all places are for all");
    }

    #[test]
    fn whoever_does_nothing_gives_way_to_somebody_who_waits_and_to_nobody_else() {
        let (slots, now) = (Slots::new(8, true, IDLE), Instant::now());
        let held: Vec<_> = (0..6).map(|number| session(number, Some(1 + number as u8 / 3))).collect();
        assert!(held.iter().all(|held| slots.take(held, now)));
        let gave_way = || held.iter().map(|held| held.cancel.is_cancelled()).collect::<Vec<_>>();
        assert!(!slots.take(&session(6, Some(1)), now + IDLE / 2));
        assert_eq!(gave_way(), [false; 6], "not idle for long enough");
        assert!(slots.take(&session(6, None), now + 2 * IDLE));
        assert_eq!(gave_way(), [false; 6], "there was room");
        assert!(!slots.take(&session(7, Some(2)), now + 2 * IDLE));
        let gone = gave_way();
        assert_eq!(gone[..3], [false; 3], "another address's place would not help");
        assert_eq!(gone.iter().filter(|gone| **gone).count(), 1);
    }

    #[test]
    fn not_everybody_may_wait() {
        let slots = Slots::new(1, false, IDLE);
        let queue = |number: usize, last: u8| slots.queue(number as u64, v4(last));
        assert!((0..WAITING_EACH).all(|number| queue(number, 1)) && !queue(1000, 1));
        assert!((WAITING_EACH..MOST_WAITING).all(|number| queue(number, 2 + (number / WAITING_EACH) as u8)));
        assert!(!queue(1000, 9));
        slots.leave(0);
        assert!(queue(1000, 1));
    }
}
