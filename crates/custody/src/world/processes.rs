//! The processes of the program: which there are, what they inherit, and what becomes of the connections of dead
//! ones.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::vec::Vec;

use super::World;
use super::connection::Connection;
use super::ending::{Ending, Stage};
use super::task::{Known, Task};
use super::vocabulary::{Action, Ask, Caller, Cookie, Inode, Kept, Open, Pid, ProcessFd, Seen, Unseen, Way};
use crate::{Count, Socket};

impl World {
    pub(super) fn appeared(&mut self, caller: Caller, open: &[Open], hidden: bool) {
        self.alive.insert(caller.pid, true);
        // The pid of a process that has died may be reused.
        self.doubts.forget(caller.pid);
        if hidden {
            self.note_hidden(caller.pid);
            // It may have inherited any of them, and then no message has brought it.
            let all = self.connections.values_mut().filter_map(|one| one.shared.as_mut());
            all.for_each(|shared| shared.inherited_by(caller.pid));
        }
        self.inherit_all(caller, open, true);
    }

    /// Notes that a process and its child, or a new process and its parent, both have these sockets.
    pub(super) fn inherit_all(&mut self, caller: Caller, open: &[Open], is_new: bool) {
        let mut known = BTreeSet::new();
        for socket in open {
            let name = ProcessFd { pid: caller.pid, fd: socket.fd };
            match self.inodes.get(&socket.inode) {
                Some(cookie) => {
                    known.insert(*cookie);
                    if let Some(shared) = self.connections.get_mut(cookie).and_then(|one| one.shared.as_mut())
                    {
                        shared.note(name, self.limits.names);
                    }
                }
                None => {
                    if let Some(cookie) = socket.cookie {
                        let seen =
                            Seen { fd: socket.fd, cookie, inode: socket.inode, socket: Socket::default() };
                        self.push(Task::Share(seen, caller));
                    }
                }
            }
        }
        for cookie in known {
            if !is_new {
                self.seen_at(cookie, caller.pid);
            } else if let Some(shared) = self.connections.get_mut(&cookie).and_then(|one| one.shared.as_mut())
            {
                shared.inherited_by(caller.pid);
            }
        }
    }

    /// A process that cannot be looked at does something with its fds.
    pub(super) fn hidden(&mut self, pid: Pid, does: Unseen) {
        self.note_hidden(pid);
        match does {
            Unseen::Copies => {}
            Unseen::Sends => self.doubts.sends_unseen(),
            // Count one close for each such process: how many it makes is not known.
            Unseen::Closes if self.doubts.note_unseen_close(pid) => {
                self.act(Action::Count { cookie: None, reason: Count::Refused, holder: Some(pid) });
            }
            Unseen::Closes => {}
        }
    }

    /// It will never be known whether the fd is closed: the process cannot be looked at any more.
    pub(super) fn lost(&mut self, kept: Kept) {
        let name = self.endings.get(&kept).and_then(|ending| ending.name);
        self.forget_ending(kept);
        if let Some(name) = name {
            self.hidden(name.pid, Unseen::Closes);
        }
    }

    pub(super) fn note_hidden(&mut self, pid: Pid) {
        if self.doubts.note_hidden(pid) {
            self.act(Action::Hidden(pid));
            self.act(Action::Watch(pid));
        }
        // It may close its connections unseen, and the driver's fds would then keep them from ending.
        let held = self.connections.iter().filter(|(_, one)| one.held == Some(pid));
        let held: Vec<Cookie> = held.map(|(cookie, _)| *cookie).collect();
        held.into_iter().for_each(|cookie| self.release(cookie));
    }

    pub(super) fn accepted(&mut self, cookie: Cookie, inode: Inode, pid: Pid) {
        let connection = self.connections.entry(cookie).or_insert_with(|| Connection::new(inode));
        debug_assert!(connection.held.is_none(), "a connection is accepted once");
        connection.held = Some(pid);
    }

    /// Notes who has a held connection now.
    pub(super) fn inherit(&mut self, cookie: Cookie, heir: Pid) {
        let Some(connection) = self.connections.get_mut(&cookie).filter(|one| one.held.is_some()) else {
            return;
        };
        connection.held = Some(heir);
        if let Entry::Vacant(entry) = self.alive.entry(heir) {
            entry.insert(false);
            self.act(Action::Watch(heir));
        }
    }

    /// Ends held connections whose process has died, or has closed them without a notification.
    pub(super) fn orphans(&mut self, known: &Known) -> Result<(), Ask> {
        let any = self.doubts.is_closed_unheard();
        let is_orphan = |connection: &Connection| {
            connection.held.is_some_and(|pid| any || !self.alive.contains_key(&pid))
                && connection.kept.is_empty()
        };
        let orphans = self.connections.iter().filter(|(_, connection)| is_orphan(connection));
        let orphans: Vec<(Cookie, Inode)> = orphans.map(|(cookie, one)| (*cookie, one.inode)).collect();
        if orphans.is_empty() {
            self.doubts.looked_for_held();
            return Ok(());
        }
        let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
        self.doubts.looked_for_held();
        for (cookie, inode) in orphans {
            let blind = self.doubts.about(inode);
            let Some(connection) = self.connections.get_mut(&cookie) else { continue };
            let sent = connection.shared.as_ref().is_some_and(|shared| shared.sent.is_some());
            let shared = connection.shared.is_some();
            let lives = connection.held.is_some_and(|pid| self.alive.contains_key(&pid));
            // A message may carry it, or the child of a fork that cannot be seen yet may have it.
            let waits = sent || blind && self.doubts.is_copying();
            match census.holder(inode) {
                Some(heir) => self.inherit(cookie, heir),
                // A process that cannot be looked at may still have it. If so, its own close will be reported and
                // counted.
                None if census.hidden && lives => self.release(cookie),
                None if (census.hidden || self.doubts.is_opaque(inode)) && (shared || blind) && !waits => {
                    self.leave(cookie);
                }
                None => {
                    connection.held = None;
                    let ending = Ending {
                        cookie,
                        name: None,
                        way: Way::Exit,
                        unread: 0,
                        passed: sent,
                        unwatched: true,
                        stage: if waits { Stage::Closed } else { Stage::Over },
                    };
                    let kept = self.new_ending(inode, ending);
                    self.act(Action::KeepHeld(kept, cookie));
                    if waits {
                        self.put_off(kept);
                    } else {
                        self.push(Task::End(kept));
                    }
                }
            }
        }
        Ok(())
    }
}
