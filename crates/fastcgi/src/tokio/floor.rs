//! What a connection occupies: a slot while it has a request, and a seat among those that wait while it has none.

use std::future::pending;
use std::sync::Arc;

use ::tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::stop::StopNews;
use crate::journal::{Incident, Journal, note};
use crate::lobby::{Bell, Lobby, Rank};

impl Bell for Arc<Notify> {
    fn ring(&self) {
        self.notify_one();
    }
}

/// The slots for connections that have a request, and the seats for the others.
#[derive(Debug)]
pub(super) struct Floor {
    slots: Arc<Semaphore>,
    lobby: Lobby<Arc<Notify>>,
}

impl Floor {
    pub(super) fn new(slots: usize, lobby: Lobby<Arc<Notify>>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { slots, lobby })
    }

    /// Waits until there is a free slot, and leaves it free.
    pub(super) async fn has_room(&self) {
        drop(self.slots.acquire().await);
    }

    /// Begins the visit of a connection. It has a slot if one is free.
    pub(super) fn enter(self: &Arc<Self>) -> Visit {
        let slot = self.slots.clone().try_acquire_owned().ok();
        Visit { floor: self.clone(), slot, rank: self.lobby.rank(), bell: Arc::default(), has_seat: false }
    }

    /// Ends the connection that has been without a request longest. Returns whether there was one.
    pub(super) fn evict(&self) -> bool {
        self.lobby.evict()
    }
}

/// What one connection occupies. Its end gives that up.
#[derive(Debug)]
pub(super) struct Visit {
    floor: Arc<Floor>,
    slot: Option<OwnedSemaphorePermit>,
    rank: Rank,
    bell: Arc<Notify>,
    has_seat: bool,
}

impl Visit {
    /// The connection has a request: waits for a slot if it has none, but not beyond the stop's bound.
    pub(super) async fn serve(&mut self, stopped: &StopNews) {
        self.stand_up();
        self.rank = Rank::default();
        if self.slot.is_none() {
            ::tokio::select! {
                biased;
                slot = self.floor.slots.clone().acquire_owned() => self.slot = slot.ok(),
                () = stopped.overdue() => {}
            }
        }
    }

    /// Takes a seat, gives the slot up, and waits until another connection needs the seat. If there is no seat, a connection that
    /// rests between two requests has to end at once, and one that has asked for nothing yet keeps its slot.
    pub(super) async fn rest(&mut self, is_between: bool, journal: Option<&Arc<dyn Journal>>) {
        if !self.has_seat {
            self.has_seat = self.floor.lobby.sit(&mut self.rank, self.bell.clone());
        }
        if self.has_seat {
            self.slot = None;
            self.bell.notified().await;
            note(journal, &Incident::Evicted);
        } else if !is_between {
            pending().await
        }
    }

    /// Gives the seat up: something came.
    pub(super) fn stand_up(&mut self) {
        if std::mem::take(&mut self.has_seat) && self.floor.lobby.leave(self.rank) {
            // What came at the same time as the bell is honoured. A task needs no thread of its own, so nobody waits for its end.
            self.bell = Arc::default();
            self.floor.lobby.gone();
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.stand_up();
    }
}
