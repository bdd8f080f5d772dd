//! What a connection occupies: a slot while it has a request, and a seat among those that wait while it has none.

use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::lobby::{Bell, Lobby, Rank};

/// The slots for connections that have a request, and the seats for the others.
#[derive(Debug)]
pub(super) struct Gate {
    slots: Mutex<Slots>,
    freed: Condvar,
    lobby: Lobby<Arc<Doorbell>>,
}

#[derive(Debug)]
struct Slots {
    free: usize,
    /// Threads that wait for a slot. Where there is none, nobody has to be woken, which would be a system call for each request.
    awaited_by: usize,
}

/// Wakes a thread that waits without a request. Each thread that serves has one, made when it waits first.
#[derive(Debug)]
pub(super) struct Doorbell(OwnedFd);

impl Doorbell {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Readable once it was rung.
    pub(super) fn rung(&self) -> &OwnedFd {
        &self.0
    }

    fn heard(&self) {
        // Resets the counter, whose value does not matter.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Bell for Arc<Doorbell> {
    fn ring(&self) {
        // At 2^64 - 2 rings the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Gate {
    pub(super) fn new(slots: usize, lobby: Lobby<Arc<Doorbell>>) -> Self {
        let slots = Mutex::new(Slots { free: slots.max(1), awaited_by: 0 });
        Self { slots, freed: Condvar::new(), lobby }
    }

    /// Waits for a slot, and takes it for a connection.
    pub(super) fn enter(&self) -> Visit<'_> {
        let mut visit = Visit { gate: self, has_slot: false, is_leaving: false, rank: Rank::default() };
        visit.serve();
        visit.rank = self.lobby.rank();
        visit
    }

    /// Ends the connection that has been without a request longest. Returns whether there was one.
    pub(super) fn evict(&self) -> bool {
        self.lobby.evict()
    }

    /// Ends the connection that has been without a request longest, for its thread, unless one ends already for another.
    pub(super) fn make_way(&self) {
        self.lobby.make_way();
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a wait without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rested {
    Input,
    Time,
    Stop,
    /// Another connection needs the place.
    Evicted,
}

/// What one connection occupies. Its end gives that up.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    gate: &'a Gate,
    has_slot: bool,
    /// Its seat was taken away, and its end is awaited.
    is_leaving: bool,
    rank: Rank,
}

impl Visit<'_> {
    /// The connection has a request: waits for a slot if it has none.
    pub(super) fn serve(&mut self) {
        self.rank = Rank::default();
        if !self.has_slot {
            let mut slots = self.gate.slots();
            while slots.free == 0 {
                slots.awaited_by += 1;
                slots = self.gate.freed.wait(slots).unwrap_or_else(PoisonError::into_inner);
                slots.awaited_by -= 1;
            }
            slots.free -= 1;
            self.has_slot = true;
        }
    }

    /// Ends the connection that has been without a request longest.
    pub(super) fn evict(&self) {
        self.gate.evict();
    }

    /// Runs `wait` on a seat, without a slot. Returns `None`, without running `wait`, if there is no seat.
    pub(super) fn rest(
        &mut self,
        wait: impl FnOnce(&Doorbell) -> io::Result<Rested>,
    ) -> Option<io::Result<Rested>> {
        let bell = own_bell().ok()?;
        if !self.gate.lobby.sit(&mut self.rank, bell.clone()) {
            return None;
        }
        self.give_up();
        let rested = wait(&bell);
        if self.gate.lobby.leave(self.rank) {
            bell.heard();
            self.is_leaving = matches!(rested, Ok(Rested::Evicted));
            if !self.is_leaving {
                // What came at the same time is honoured.
                self.gate.lobby.gone();
            }
        }
        Some(rested)
    }

    fn give_up(&mut self) {
        if std::mem::replace(&mut self.has_slot, false) {
            let is_awaited = {
                let mut slots = self.gate.slots();
                slots.free += 1;
                slots.awaited_by > 0
            };
            if is_awaited {
                self.gate.freed.notify_one();
            }
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.is_leaving {
            self.gate.lobby.gone();
        }
        self.give_up();
    }
}

/// This thread's bell.
///
/// # Errors
/// No descriptor is left for it.
pub(super) fn own_bell() -> io::Result<Arc<Doorbell>> {
    thread_local!(static BELL: OnceCell<Arc<Doorbell>> = const { OnceCell::new() });
    BELL.with(|own| match own.get() {
        Some(bell) => Ok(bell.clone()),
        None => Doorbell::new().map(|bell| own.get_or_init(|| bell).clone()),
    })
}
