//! Connections that have not sent a request yet. Anybody can make them, so they must not take the places of requests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::door::PeerGroup;
use crate::cancel::Cancel;

/// The largest number of connections without a request. One more ends another: a client that wants something sends its
/// request within a round trip or two.
pub(super) const MOST: usize = 256;
/// The largest number of them from one group of addresses. One bundle of a client has up to 16 connections.
pub(super) const EACH: usize = 64;

/// The connections without a request, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lobby(Mutex<VecDeque<Guest>>);

#[derive(Debug)]
struct Guest {
    number: u64,
    group: PeerGroup,
    cancel: Cancel,
    /// It has sent a whole TLS ClientHello, as a client would.
    has_begun: bool,
}

impl Lobby {
    /// Notes a new connection. If there are too many, ends the oldest of the same address, or of the address that has the most;
    /// a connection that has not begun a handshake before one that has. Otherwise a crowd that only connects would end the
    /// handshakes of known clients before these are done.
    pub(super) fn enter(&self, number: u64, group: PeerGroup, cancel: Cancel) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = if waiting.iter().filter(|guest| guest.group == group).count() >= EACH {
            waiting
                .iter()
                .position(|guest| guest.group == group && !guest.has_begun)
                .or_else(|| waiting.iter().position(|guest| guest.group == group))
        } else if waiting.len() >= MOST {
            oldest_of_most(&waiting, |guest| !guest.has_begun).or_else(|| oldest_of_most(&waiting, |_| true))
        } else {
            None
        };
        if let Some(oldest) = chosen.and_then(|chosen| waiting.remove(chosen)) {
            tracing::info!("a connection is ended that asked for nothing: there are too many of them");
            oldest.cancel.cancel();
        }
        waiting.push_back(Guest { number, group, cancel, has_begun: false });
    }

    /// Notes that a connection has sent a whole TLS ClientHello.
    pub(super) fn has_begun(&self, number: u64) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = waiting.iter_mut().find(|guest| guest.number == number) {
            guest.has_begun = true;
        }
    }

    /// Notes that a connection has asked for something, or has ended. Returns false if it was cancelled before.
    pub(super) fn leave(&self, number: u64) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|guest| guest.number == number);
        at.is_some_and(|at| waiting.remove(at).is_some())
    }

    /// Cancels all connections that have not sent a request yet.
    pub(super) fn clear(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.drain(..).for_each(|guest| guest.cancel.cancel());
    }
}

/// The oldest of those that are `wanted`, of the address that has the most of them.
fn oldest_of_most(waiting: &VecDeque<Guest>, wanted: impl Fn(&Guest) -> bool) -> Option<usize> {
    let mut counts: HashMap<PeerGroup, usize> = HashMap::new();
    for guest in waiting.iter().filter(|guest| wanted(guest)) {
        *counts.entry(guest.group).or_default() += 1;
    }
    let most = counts.values().max()?;
    waiting.iter().position(|guest| wanted(guest) && counts.get(&guest.group) == Some(most))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn v4(last: usize) -> PeerGroup {
        PeerGroup::Network(IpAddr::from([192, 0, 2, last as u8]))
    }

    /// Fills a lobby: `EACH` connections from each of several addresses, one address after the other.
    fn crowded() -> (Lobby, Vec<Cancel>) {
        let lobby = Lobby::default();
        let cancels: Vec<_> = (0..MOST).map(|_| Cancel::new().unwrap()).collect();
        for (number, cancel) in cancels.iter().enumerate() {
            lobby.enter(number as u64, v4(number / EACH), cancel.clone());
        }
        (lobby, cancels)
    }

    #[test]
    fn the_oldest_of_the_crowd_has_to_go() {
        let (lobby, cancels) = crowded();
        assert!(!cancels.iter().any(Cancel::is_cancelled), "all fit");
        assert!(lobby.leave(0), "it has asked, and is safe");
        let newcomer = |number, address| {
            let cancel = Cancel::new().unwrap();
            lobby.enter(number, address, cancel.clone());
            cancel
        };
        let single = newcomer(1_000, v4(77));
        assert!(!cancels.iter().any(Cancel::is_cancelled), "there was room for it");
        // One more from a full address: the oldest of that address is ended.
        newcomer(1_001, v4(2));
        assert_eq!(cancels.iter().position(Cancel::is_cancelled), Some(2 * EACH));
        // The lobby is full: a connection of an address with many is ended, not the only one of its address.
        for number in 0..3 {
            newcomer(2_000 + number, v4(78));
        }
        assert_eq!(cancels.iter().filter(|cancel| cancel.is_cancelled()).count(), 4);
        assert!(!single.is_cancelled());
        lobby.clear();
        assert!(single.is_cancelled() && !cancels[0].is_cancelled());
        assert!(!lobby.leave(1));
    }

    #[test]
    fn who_has_begun_a_handshake_goes_last() {
        let lobby = Lobby::default();
        let cancels: Vec<_> = (0..MOST as u64)
            .map(|number| {
                let cancel = Cancel::new().unwrap();
                // Each is a user of its own.
                lobby.enter(number, PeerGroup::User(number as u32), cancel.clone());
                cancel
            })
            .collect();
        let ended = || cancels.iter().filter(|cancel| cancel.is_cancelled()).count();
        lobby.has_begun(0);
        for number in 0..MOST as u64 - 1 {
            lobby.enter(1_000 + number, v4(number as usize), Cancel::new().unwrap());
            lobby.has_begun(1_000 + number);
        }
        assert!(!cancels[0].is_cancelled() && ended() == MOST - 1, "{}", ended());
        lobby.enter(2_000, v4(1_000), Cancel::new().unwrap());
        assert!(cancels[0].is_cancelled(), "all have begun one: the oldest goes");
    }
}
