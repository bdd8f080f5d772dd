//! Connections that the program is closing, or that no process has any more. Each of them is an ending until it is
//! known what becomes of the connection.

use std::time::Duration;

use super::World;
use super::connection::Connection;
use super::vocabulary::{Action, Cookie, Inode, Kept, ProcessFd, Seen, Way};
use crate::Count;

/// How long to wait for a call that may fail (`dup2`, `execve`) to close its fd.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that the program is closing, or that no process has any more.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) cookie: Cookie,
    /// The fd that the program is closing; `None` for a connection of a killed process.
    pub(super) name: Option<ProcessFd>,
    pub(super) way: Way,
    pub(super) unread: u32,
    /// A message may have held it when the call was made.
    pub(super) passed: bool,
    /// It was removed from the program's epolls.
    pub(super) unwatched: bool,
    pub(super) stage: Stage,
}

/// How far an ending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The call was continued, and the fd is not yet seen to be gone. `open_since` is when it was first seen to be still open.
    Called { open_since: Option<Duration> },
    /// The fd is gone: it is being decided who else holds the connection.
    Closed,
    /// No process is seen to have it. A message, or the child of a fork that is not over, may have it.
    InFlight,
    /// Nobody holds it: it is being ended.
    Over,
}

impl World {
    pub(super) fn keep(&mut self, seen: Seen, name: ProcessFd, way: Way, passed: bool) -> Kept {
        let stage = Stage::Called { open_since: None };
        let unread = seen.socket.unread;
        let name = Some(name);
        let ending = Ending { cookie: seen.cookie, name, way, unread, passed, unwatched: false, stage };
        let kept = self.new_ending(seen.inode, ending);
        self.act(Action::Keep(kept));
        kept
    }

    /// Forgets endings of this fd that an interrupted call or a failed `execve` has left behind.
    pub(super) fn forget_endings_of(&mut self, cookie: Cookie, name: ProcessFd) {
        let kept = self.connections.get(&cookie).map(|one| one.kept.clone()).unwrap_or_default();
        for kept in kept {
            if self.endings.get(&kept).is_some_and(|ending| ending.name == Some(name)) {
                self.forget_ending(kept);
            }
        }
    }

    /// The fds of a connection that are being closed.
    pub(super) fn closing(&self, cookie: Cookie) -> impl Iterator<Item = ProcessFd> {
        let kept = self.connections.get(&cookie).map(|one| one.kept.as_slice()).unwrap_or_default();
        let called = |ending: &&Ending| matches!(ending.stage, Stage::Called { .. });
        kept.iter().filter_map(|kept| self.endings.get(kept)).filter(called).filter_map(|ending| ending.name)
    }

    pub(super) fn new_ending(&mut self, inode: Inode, ending: Ending) -> Kept {
        let kept = Kept(self.next_kept);
        self.next_kept += 1;
        let fresh = || Connection::new(inode);
        self.connections.entry(ending.cookie).or_insert_with(fresh).kept.push(kept);
        let before = self.endings.insert(kept, ending);
        debug_assert!(before.is_none(), "an identity is given once");
        kept
    }

    /// Forgets an ending, and has its fd closed.
    pub(super) fn forget_ending(&mut self, kept: Kept) {
        let Some(ending) = self.endings.remove(&kept) else { return };
        if let Some(connection) = self.connections.get_mut(&ending.cookie) {
            connection.kept.retain(|other| *other != kept);
        }
        if ending.stage == Stage::InFlight {
            self.flights.end(ending.cookie);
        }
        self.act(Action::Drop(kept));
        self.tidy(ending.cookie);
    }

    /// Notes that the fd is still open. If its call may fail, forgets the ending after [`PATIENCE`].
    pub(super) fn note_open(&mut self, kept: Kept) {
        let Some(Ending { way: Way::Replace | Way::Exec, stage: Stage::Called { open_since }, .. }) =
            self.endings.get_mut(&kept)
        else {
            return;
        };
        // From the first look on: the supervisor itself may have been stopped before.
        if self.now.saturating_sub(*open_since.get_or_insert(self.now)) > PATIENCE {
            self.forget_ending(kept);
        }
    }

    /// Notes that a connection has ended, so that another call that closes it does not end it again.
    pub(super) fn note_end(&mut self, cookie: Cookie) {
        self.lately.push_front(cookie);
        self.lately.truncate(self.limits.lately);
    }

    /// Leaves a connection to a plain close, counts that, and drops the kept fd.
    pub(super) fn refuse(&mut self, kept: Kept) {
        let Some(cookie) = self.endings.get(&kept).map(|ending| ending.cookie) else { return };
        self.leave(cookie);
        self.forget_ending(kept);
    }

    /// Counts a plain close, unless the connection was counted at its `shutdown`. Releases the held fd.
    pub(super) fn leave(&mut self, cookie: Cookie) {
        if !self.shut_down.contains_key(&cookie) {
            self.count(cookie, Count::Refused);
        }
        self.release(cookie);
    }

    /// Closes the fd that is held since the connection was accepted.
    pub(super) fn release(&mut self, cookie: Cookie) {
        if self.connections.get_mut(&cookie).and_then(|one| one.held.take()).is_some() {
            self.act(Action::Release(cookie));
            self.tidy(cookie);
        }
    }

    /// Forgets a connection of which nothing is known.
    pub(super) fn tidy(&mut self, cookie: Cookie) {
        if self.connections.get(&cookie).is_some_and(Connection::is_blank) {
            self.connections.remove(&cookie);
        }
    }
}
