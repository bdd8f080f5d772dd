//! Connections that have asked for nothing yet: anybody can make them, so they take nobody's place.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;

/// The largest number of connections that have asked for nothing yet. One more makes the oldest end: a client that wants
/// something asks for it within a round trip or two.
pub(super) const MOST: usize = 256;

/// The connections that have asked for nothing yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lobby(Mutex<VecDeque<(u64, Cancel)>>);

impl Lobby {
    /// Notes a new connection. If there are too many, the oldest is cancelled.
    pub(super) fn enter(&self, number: u64, cancel: Cancel) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST
            && let Some((_, oldest)) = waiting.pop_front()
        {
            tracing::info!("a connection is ended that asked for nothing: there are too many of them");
            oldest.cancel();
        }
        waiting.push_back((number, cancel));
    }

    /// Notes that a connection has asked for something, or has ended. Returns false if it was cancelled before.
    pub(super) fn leave(&self, number: u64) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|(known, _)| *known == number);
        at.is_some_and(|at| waiting.remove(at).is_some())
    }

    /// Cancels all connections that have asked for nothing yet.
    pub(super) fn clear(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.drain(..).for_each(|(_, cancel)| cancel.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_asked_for_nothing_has_to_go() {
        let lobby = Lobby::default();
        let cancels: Vec<_> = (0..=MOST).map(|_| Cancel::new().unwrap()).collect();
        for (number, cancel) in cancels[..MOST].iter().enumerate() {
            lobby.enter(number as u64, cancel.clone());
        }
        assert!(lobby.leave(0), "it has asked, and is safe");
        lobby.enter(MOST as u64, cancels[MOST].clone());
        assert!(!cancels.iter().any(Cancel::is_cancelled), "all fit");
        let one_more = Cancel::new().unwrap();
        lobby.enter(1_000, one_more.clone());
        assert_eq!(cancels.iter().position(Cancel::is_cancelled), Some(1));
        assert!(!lobby.leave(1) && lobby.leave(2));
        lobby.clear();
        assert!(one_more.is_cancelled() && !cancels[0].is_cancelled() && !cancels[2].is_cancelled());
    }
}
