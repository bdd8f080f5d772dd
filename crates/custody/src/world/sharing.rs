//! Which processes hold a connection besides the one that closes it. A process gets a second hold on a connection in three
//! ways: it copies the fd (`dup`), it inherits the fd from its parent (`fork`), or it receives the fd in an `SCM_RIGHTS`
//! message. This file keeps what is known of these holders, and says whether somebody else still holds a connection when an
//! fd of it is closed: the supervisor may end the connection only if nobody does.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::World;
use super::connection::{Connection, Passed};
use super::task::Known;
use super::vocabulary::{Ask, Caller, Census, Cookie, Inode, Pid, ProcessFd, Seen};

/// Who holds a connection besides those that are letting go of it.
pub(super) enum Holder {
    Process(Pid),
    /// Perhaps a process that cannot be looked at, or a message that could not be read.
    Unknown,
    /// Perhaps the child of a fork that is not over: it is not in `/proc` yet.
    Unborn,
    Nobody,
}

impl World {
    pub(super) fn census_ask(&self) -> Ask {
        Ask::Census { copying: self.doubts.copying() }
    }

    /// Notes that a connection may have more fds than this one.
    pub(super) fn share(
        &mut self,
        cookie: Cookie,
        inode: Inode,
        name: ProcessFd,
        known: &Known,
    ) -> Result<(), Ask> {
        if !self.shares(inode) {
            self.make_room(known)?;
        }
        self.inodes.insert(inode, cookie);
        let most = self.limits.names;
        self.connections.entry(cookie).or_insert_with(|| Connection::new(inode)).share(name, most);
        Ok(())
    }

    /// Asks for a census, which shows what is gone, when twice as many connections are remembered as after the last one, and
    /// at least `Limits::shared`.
    pub(super) fn make_room(&self, known: &Known) -> Result<(), Ask> {
        let is_full = self.remembered() >= self.room;
        if is_full && known.census.is_none() { Err(self.census_ask()) } else { Ok(()) }
    }

    pub(super) fn send(
        &mut self,
        seen: Seen,
        caller: Caller,
        abroad: bool,
        known: &Known,
    ) -> Result<(), Ask> {
        // The sender may have received it in a message.
        self.seen_at(seen.cookie, caller.pid);
        let shared = self.connections.get(&seen.cookie).and_then(|one| one.shared.as_ref());
        let mut had = Vec::new();
        if shared.map_or(self.doubts.about(seen.inode), |shared| shared.sent.is_none()) {
            // Processes that have it before the call did not get it by this message. Without doubts about the connection, one that
            // was never shared needs no census: only its sender has it.
            let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
            had.extend(census.names(seen.inode).iter().map(|name| name.pid));
            if census.hidden {
                // A process that could not be looked at may have it as well.
                had.extend(self.alive.keys().copied());
            }
        }
        self.share(seen.cookie, seen.inode, ProcessFd { pid: caller.pid, fd: seen.fd }, known)?;
        if let Some(shared) = self.connections.get_mut(&seen.cookie).and_then(|one| one.shared.as_mut()) {
            shared.send(caller.pid, caller.tid, abroad, had.into_iter());
        }
        Ok(())
    }

    /// Notes that a process has a connection. Returns whether a message may hold it as well; if not, it is no longer looked for
    /// in flight.
    pub(super) fn seen_at(&mut self, cookie: Cookie, pid: Pid) -> Passed {
        let Some(connection) = self.connections.get_mut(&cookie) else { return Passed::No };
        let passed = connection.seen_at(pid);
        self.flights.seen(cookie);
        if passed == Passed::No
            && let Some(kept) = self.flights.end(cookie)
        {
            self.forget_ending(kept);
        }
        passed
    }

    pub(super) fn unshare(&mut self, cookie: Cookie) {
        if let Some(connection) = self.connections.get_mut(&cookie)
            && connection.shared.take().is_some()
        {
            self.inodes.remove(&connection.inode);
            self.tidy(cookie);
        }
    }

    /// Renews what is known of connections. A connection with at most one fd is no longer shared, and a shut-down one without
    /// any fd is forgotten, unless a call that copies, or a message, may be about to give it another.
    pub(super) fn take_census(&mut self, census: &Census) {
        let certain = !self.doubts.is_copying() && !census.hidden;
        self.doubts.look(census, |inode| self.inodes.contains_key(&inode));
        let mut sole = Vec::new();
        for cookie in self.inodes.values() {
            let Some(connection) = self.connections.get_mut(cookie) else { continue };
            let (inode, ending) = (connection.inode, !connection.kept.is_empty());
            let Some(shared) = &mut connection.shared else { continue };
            let names = census.names(inode);
            shared.renew(names, self.limits.names);
            if names.len() <= 1 && certain && shared.sent.is_none() && !ending {
                sole.push(*cookie);
            }
        }
        sole.into_iter().for_each(|cookie| self.unshare(cookie));
        if certain && !self.doubts.is_any_opaque() {
            let (connections, tasks) = (&self.connections, &self.tasks);
            self.shut_down.retain(|cookie, inode| {
                let is_told = tasks.iter().any(|(task, _)| task.is_about(*cookie));
                is_told || connections.contains_key(cookie) || !census.names(*inode).is_empty()
            });
            let told = tasks.iter().filter_map(|(task, _)| task.seen()).map(|seen| seen.inode);
            let known: BTreeSet<Inode> = connections.values().map(|one| one.inode).chain(told).collect();
            self.doubts.keep_suspects(|inode| known.contains(&inode) || !census.names(inode).is_empty());
        }
        self.room = self.limits.shared.max(self.remembered() * 2);
        // The process for which a connection is held may have closed it unseen: another process that has it takes its place.
        let mut heirs = Vec::new();
        for (cookie, connection) in &self.connections {
            let names = census.names(connection.inode);
            if let (Some(pid), Some(name)) = (connection.held, names.first())
                && names.iter().all(|name| name.pid != pid)
            {
                heirs.push((*cookie, name.pid));
            }
        }
        heirs.into_iter().for_each(|(cookie, heir)| self.inherit(cookie, heir));
    }

    /// A remembered fd that still names a connection; those that are being closed, and `besides`, do not count.
    fn which(
        &self,
        cookie: Cookie,
        inode: Inode,
        besides: Option<ProcessFd>,
        known: &Known,
    ) -> Result<Option<ProcessFd>, Ask> {
        if let Some(name) = known.name {
            return Ok(name);
        }
        if known.census.is_some() {
            return Ok(None);
        }
        let closing: Vec<ProcessFd> = self.closing(cookie).chain(besides).collect();
        let shared = self.connections.get(&cookie).and_then(|one| one.shared.as_ref());
        let names = shared.into_iter().flat_map(|shared| shared.names());
        let names: Vec<ProcessFd> = names.filter(|name| !closing.contains(name)).copied().collect();
        if names.is_empty() { Ok(None) } else { Err(Ask::Which { inode, names }) }
    }

    /// Whether all fds of a shared connection are being closed, `name` among them.
    pub(super) fn is_last(
        &self,
        cookie: Cookie,
        inode: Inode,
        name: ProcessFd,
        known: &Known,
    ) -> Result<bool, Ask> {
        if self.which(cookie, inode, Some(name), known)?.is_some() {
            return Ok(false);
        }
        let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
        let closing: Vec<ProcessFd> = self.closing(cookie).chain([name]).collect();
        Ok(!census.hidden && census.names(inode).iter().all(|other| closing.contains(other)))
    }

    pub(super) fn holder(
        &self,
        cookie: Cookie,
        inode: Inode,
        closing: Option<ProcessFd>,
        known: &Known,
    ) -> Result<Holder, Ask> {
        if let Some(name) = closing {
            return Ok(Holder::Process(name.pid));
        }
        if let Some(name) = self.which(cookie, inode, None, known)? {
            return Ok(Holder::Process(name.pid));
        }
        let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
        Ok(match census.holder(inode) {
            Some(pid) => Holder::Process(pid),
            None if census.hidden || self.doubts.is_opaque(inode) => Holder::Unknown,
            None if self.doubts.is_copying() => Holder::Unborn,
            None => Holder::Nobody,
        })
    }
}
