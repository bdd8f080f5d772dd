//! The decisions of the world, one a task.
//!
//! A task is attempted with what is known so far. Where it lacks something it returns what to [`Ask`], and is attempted
//! again with the answer; up to that point it must have changed nothing that a second attempt would change again.

use std::collections::btree_map::Entry;
use std::time::Duration;
use std::vec::Vec;

use super::connection::{Connection, Passed, Sent};
use super::flights::Verdict;
use super::vocabulary::{
    Action, Answer, Ask, Caller, Census, Cookie, Inode, Kept, Name, Pid, Seen, Tid, Way,
};
use super::{Ending, Stage, World};
use crate::{Count, Discarded, Fate, Socket, after_discarding, fate};

/// What is to be decided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// A connection may get one more fd.
    Share(Seen, Caller),
    /// A message is about to carry a connection; the flag is for one to another program.
    Send(Seen, Caller, bool),
    /// An fd is about to be closed.
    Close(Seen, Caller, Way),
    /// `shutdown` of the read side, or of both.
    Shutdown(Seen, bool),
    /// The connection of a kept fd may be this one's last: the program's epolls are to forget it.
    Unwatch(Kept),
    /// An fd that was let close is gone.
    Closed(Kept),
    /// Nobody has a connection.
    End(Kept),
    /// Processes that had held connections have died.
    Orphans,
    /// It is time to look for what is in flight.
    Look,
    /// The program has ended: nobody can receive what is in flight.
    EndFlight(Cookie),
}

/// What a task has been told.
#[derive(Debug, Default)]
pub(super) struct Known {
    name: Option<Option<Name>>,
    census: Option<Census>,
    flights: Option<(Vec<Tid>, bool, Census, Duration)>,
    socket: Option<Socket>,
    discarded: Option<Discarded>,
    done: Option<bool>,
}

impl Known {
    pub(super) fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Name(name) => self.name = Some(name),
            Answer::Census { census, .. } => self.census = Some(census),
            Answer::Flights { sending, quiet, census, took, .. } => {
                self.flights = Some((sending, quiet, census, took));
            }
            Answer::Socket(socket) => self.socket = Some(socket),
            Answer::Discarded(discarded) => self.discarded = Some(discarded),
            Answer::Done(done) => self.done = Some(done),
        }
    }
}

/// Who holds a connection besides those that are letting go of it.
enum Holder {
    Process(Pid),
    /// A process that cannot be looked at, perhaps.
    Unknown,
    /// The child of a fork under way, perhaps, which cannot be seen yet.
    Unborn,
    Nobody,
}

impl World {
    pub(super) fn attempt(&mut self, task: &Task, known: &Known) -> Result<(), Ask> {
        match *task {
            Task::Share(seen, caller) => {
                self.share(seen.cookie, seen.inode, Name { pid: caller.pid, fd: seen.fd }, known)
            }
            Task::Send(seen, caller, abroad) => self.send(seen, caller, abroad, known),
            Task::Close(seen, caller, way) => self.close(seen, caller, way, known),
            Task::Shutdown(seen, both) => self.shutdown(seen, both, known),
            Task::Unwatch(kept) => self.unwatch(kept, known),
            Task::Closed(kept) => self.closed(kept, known),
            Task::End(kept) => self.end(kept, known),
            Task::Orphans => self.orphans(known),
            Task::Look => self.look(known),
            Task::EndFlight(cookie) => {
                self.end_flight(cookie, false);
                Ok(())
            }
        }
    }

    fn census_ask(&self) -> Ask {
        Ask::Census { copying: self.copying.iter().copied().collect() }
    }

    /// Notes that a connection may have more fds than this one.
    fn share(&mut self, cookie: Cookie, inode: Inode, name: Name, known: &Known) -> Result<(), Ask> {
        let shared = self.connections.get(&cookie).is_some_and(|one| one.shared.is_some());
        if !shared && self.inodes.len() >= self.limits.shared && self.inodes.len().is_power_of_two() {
            let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
            self.forget_what_is_gone(census);
        }
        self.inodes.insert(inode, cookie);
        let most = self.limits.names;
        self.connections.entry(cookie).or_insert_with(|| Connection::new(inode)).share(name, most);
        Ok(())
    }

    /// Forgets shared connections that nobody has open, nor a message, and that nobody was let close.
    fn forget_what_is_gone(&mut self, census: &Census) {
        if census.hidden {
            return;
        }
        let gone = |(inode, cookie): &(&Inode, &Cookie)| {
            let known = self.connections.get(*cookie);
            let sent = known.and_then(|one| one.shared.as_ref()).is_some_and(|shared| shared.sent.is_some());
            census.names(**inode).is_empty() && !sent && known.is_none_or(|one| one.kept.is_empty())
        };
        let gone: Vec<Cookie> = self.inodes.iter().filter(gone).map(|(_, cookie)| *cookie).collect();
        gone.into_iter().for_each(|cookie| self.unshare(cookie));
    }

    fn send(&mut self, seen: Seen, caller: Caller, abroad: bool, known: &Known) -> Result<(), Ask> {
        // It may have come by a message itself.
        self.seen_at(seen.cookie, caller.pid);
        let shared = self.connections.get(&seen.cookie).and_then(|one| one.shared.as_ref());
        let mut had = Vec::new();
        if shared.is_some_and(|shared| shared.sent.is_none()) {
            // Who has it now has it not by this message. One that was never shared only its sender has.
            let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
            had.extend(census.names(seen.inode).iter().map(|name| name.pid));
            if census.hidden {
                // Any that could not be looked at may have it as well.
                had.extend(self.alive.keys().copied());
            }
        }
        self.share(seen.cookie, seen.inode, Name { pid: caller.pid, fd: seen.fd }, known)?;
        if let Some(shared) = self.connections.get_mut(&seen.cookie).and_then(|one| one.shared.as_mut()) {
            shared.send(caller.pid, caller.tid, abroad, had.into_iter());
        }
        Ok(())
    }

    fn close(&mut self, seen: Seen, caller: Caller, way: Way, known: &Known) -> Result<(), Ask> {
        let cookie = seen.cookie;
        if self.lately.contains(&cookie) {
            return Ok(());
        }
        let passed = self.seen_at(cookie, caller.pid);
        if passed == Passed::Abroad {
            // Whoever receives it is to end it.
            self.release(cookie);
            return Ok(());
        }
        let name = Name { pid: caller.pid, fd: seen.fd };
        self.forget_endings_of(cookie, name);
        // Two fds that are being closed are two; and what was looked for once is looked at by what was found.
        let several = self.connections.get(&cookie).is_some_and(|one| !one.kept.is_empty());
        if self.may_be_shared(seen.inode) || several || known.census.is_some() {
            self.share(cookie, seen.inode, name, known)?;
        }
        let connection = self.connections.get(&cookie);
        let sole = connection.is_none_or(|one| one.shared.is_none());
        let handed = connection.is_some_and(|one| one.handed);
        if sole
            && way == Way::Close
            && !handed
            && let Fate::Plain(reason) = fate(&seen.socket)
        {
            self.release(cookie);
            self.note_end(cookie);
            self.count(cookie, reason);
            return Ok(());
        }
        let may_be_last = matches!(way, Way::Close | Way::Replace) && passed == Passed::No;
        let last = may_be_last && (sole || self.is_last(cookie, seen.inode, name, known)?);
        let kept = self.keep(seen, name, way, passed != Passed::No);
        if last {
            // Before the call: the program's next may be the wait.
            self.push(Task::Unwatch(kept));
        }
        Ok(())
    }

    fn keep(&mut self, seen: Seen, name: Name, way: Way, passed: bool) -> Kept {
        let stage = Stage::Called { open_since: None };
        let unread = seen.socket.unread;
        let name = Some(name);
        let ending = Ending { cookie: seen.cookie, name, way, unread, passed, unwatched: false, stage };
        let kept = self.new_ending(seen.inode, ending);
        self.act(Action::Keep(kept));
        kept
    }

    /// A call that was interrupted, or an `execve` that failed, may have left one behind.
    fn forget_endings_of(&mut self, cookie: Cookie, name: Name) {
        let kept = self.connections.get(&cookie).map(|one| one.kept.clone()).unwrap_or_default();
        for kept in kept {
            if self.endings.get(&kept).is_some_and(|ending| ending.name == Some(name)) {
                self.forget_ending(kept);
            }
        }
    }

    /// The fds of a connection that are being closed.
    fn closing(&self, cookie: Cookie) -> impl Iterator<Item = Name> {
        let kept = self.connections.get(&cookie).map(|one| one.kept.as_slice()).unwrap_or_default();
        let called = |ending: &&Ending| matches!(ending.stage, Stage::Called { .. });
        kept.iter().filter_map(|kept| self.endings.get(kept)).filter(called).filter_map(|ending| ending.name)
    }

    /// A process that has a connection by an fd that is known from before, besides those that are being closed and `name`.
    fn which(
        &self,
        cookie: Cookie,
        inode: Inode,
        besides: Option<Name>,
        known: &Known,
    ) -> Result<Option<Name>, Ask> {
        if let Some(name) = known.name {
            return Ok(name);
        }
        if known.census.is_some() {
            return Ok(None);
        }
        let closing: Vec<Name> = self.closing(cookie).chain(besides).collect();
        let shared = self.connections.get(&cookie).and_then(|one| one.shared.as_ref());
        let names = shared.into_iter().flat_map(|shared| shared.names());
        let names: Vec<Name> = names.filter(|name| !closing.contains(name)).copied().collect();
        if names.is_empty() { Ok(None) } else { Err(Ask::Which { inode, names }) }
    }

    /// Whether nobody has a shared connection but by fds that are being closed, `name` among them.
    fn is_last(&self, cookie: Cookie, inode: Inode, name: Name, known: &Known) -> Result<bool, Ask> {
        if self.which(cookie, inode, Some(name), known)?.is_some() {
            return Ok(false);
        }
        let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
        let closing: Vec<Name> = self.closing(cookie).chain([name]).collect();
        Ok(!census.hidden && census.names(inode).iter().all(|other| closing.contains(other)))
    }

    fn unwatch(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(ending) = self.endings.get_mut(&kept) else { return Ok(()) };
        if known.done.ok_or(Ask::Unwatch(kept))? {
            ending.unwatched = true;
        } else {
            // Kept on, it would be reported to a program that has forgotten it.
            self.refuse(kept);
        }
        Ok(())
    }

    /// Notes that a connection has ended: another call that closes it is none to end it again.
    fn note_end(&mut self, cookie: Cookie) {
        self.lately.push_front(cookie);
        self.lately.truncate(self.limits.lately);
    }

    /// Leaves a connection to a plain close, counted.
    pub(super) fn refuse(&mut self, kept: Kept) {
        let Some(cookie) = self.endings.get(&kept).map(|ending| ending.cookie) else { return };
        self.release(cookie);
        self.count(cookie, Count::Refused);
        self.forget_ending(kept);
    }

    /// Ends a connection that the program has closed, unless it has it under another fd, or in another process.
    fn closed(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(ending) = self.endings.get_mut(&kept) else { return Ok(()) };
        debug_assert!(matches!(ending.stage, Stage::Called { .. } | Stage::Closed), "its fd is gone once");
        ending.stage = Stage::Closed;
        let Ending { cookie, way, passed: was_passed, name, .. } = *ending;
        let Some(connection) = self.connections.get(&cookie) else { return Ok(()) };
        if (self.may_be_shared(connection.inode) || known.census.is_some())
            && let Some(name) = name
        {
            // It may have come to be shared since the call was let happen.
            self.share(cookie, connection.inode, name, known)?;
        }
        let Some(connection) = self.connections.get(&cookie) else { return Ok(()) };
        let Some(name) = name.filter(|_| connection.shared.is_some()) else {
            self.begin_end(kept);
            return Ok(());
        };
        let inode = connection.inode;
        let passed = connection.passed(name.pid);
        let closing = self.closing(cookie).next();
        if passed == Passed::BySender && closing.is_none() {
            // Most likely it is in flight: to look for it can wait.
            self.put_off(kept);
            return Ok(());
        }
        match self.holder(cookie, inode, closing, known)? {
            Holder::Process(holder) => {
                // A bystander's end, one of two fds in one process, and what was passed on are no close.
                let close = matches!(way, Way::Close | Way::Replace);
                if close && !was_passed && holder != name.pid {
                    let reason = Count::Shared;
                    self.act(Action::Count { cookie: Some(cookie), reason, holder: Some(holder) });
                }
                self.inherit(cookie, holder);
                self.forget_ending(kept);
            }
            Holder::Unborn => self.put_off(kept),
            _ if passed != Passed::No => self.put_off(kept),
            // No end is better than one of what a process has that cannot be looked at.
            Holder::Unknown => self.refuse(kept),
            Holder::Nobody => self.end_shared(cookie, kept),
        }
        Ok(())
    }

    fn holder(
        &self,
        cookie: Cookie,
        inode: Inode,
        closing: Option<Name>,
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
            None if census.hidden || self.opaque => Holder::Unknown,
            None if !self.copying.is_empty() => Holder::Unborn,
            None => Holder::Nobody,
        })
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

    /// Keeps a connection that nobody is seen to have, but perhaps a message, or the child of a fork, until it is known.
    fn put_off(&mut self, kept: Kept) {
        let Some(cookie) = self.endings.get(&kept).map(|ending| ending.cookie) else { return };
        // What another program receives it ends; and one is enough to look for.
        if self.is_abroad(cookie) || self.flights.contains(cookie) {
            return self.forget_ending(kept);
        }
        if !self.flights.begin(cookie, kept, self.now) {
            return self.refuse(kept);
        }
        if let Some(ending) = self.endings.get_mut(&kept) {
            ending.stage = Stage::InFlight;
        }
    }

    /// Whether another program may have a connection.
    fn is_abroad(&self, cookie: Cookie) -> bool {
        let shared = self.connections.get(&cookie).and_then(|one| one.shared.as_ref());
        shared.and_then(|shared| shared.sent.as_ref()).is_some_and(|sent| sent.abroad)
    }

    fn look(&mut self, known: &Known) -> Result<(), Ask> {
        let Some((sending, quiet, census, took)) = &known.flights else {
            let senders = self.flights.cookies().filter_map(|cookie| self.connections.get(&cookie));
            let senders = senders.filter_map(|one| one.shared.as_ref()?.sent.as_ref());
            let mut sending: Vec<Tid> = senders.flat_map(|sent| sent.senders.iter().copied()).collect();
            sending.sort_unstable();
            sending.dedup();
            return Err(Ask::Flights { copying: self.copying.iter().copied().collect(), sending });
        };
        let cookies: Vec<Cookie> = self.flights.cookies().collect();
        for cookie in cookies {
            let Some(connection) = self.connections.get(&cookie) else { continue };
            if let Some(holder) = census.holder(connection.inode) {
                // One that has made no call yet may have it from its parent as well.
                if self.knows(holder) {
                    self.seen_at(cookie, holder);
                }
                self.inherit(cookie, holder);
                if let Some(kept) = self.flights.end(cookie) {
                    self.forget_ending(kept);
                }
                continue;
            }
            let sent = connection.shared.as_ref().and_then(|shared| shared.sent.as_ref());
            let arrived = |sent: &Sent| *quiet && !sent.senders.iter().any(|sender| sending.contains(sender));
            let silent =
                sent.is_none_or(arrived) && self.copying.is_empty() && self.closing(cookie).next().is_none();
            if self.flights.judge(cookie, silent, self.now) == Verdict::Over {
                self.end_flight(cookie, census.hidden);
            }
        }
        self.flights.looked(*took, self.now);
        Ok(())
    }

    /// Ends what was in flight, and is over, unless somebody who cannot be looked at may have it.
    fn end_flight(&mut self, cookie: Cookie, hidden: bool) {
        let Some(kept) = self.flights.end(cookie) else { return };
        if self.is_abroad(cookie) {
            // Whoever receives it is to end it.
            self.release(cookie);
            return self.forget_ending(kept);
        }
        if hidden || self.opaque {
            self.refuse(kept);
        } else {
            self.end_shared(cookie, kept);
        }
    }

    /// Begins to end a connection that was shared, and that nobody holds.
    fn end_shared(&mut self, cookie: Cookie, kept: Kept) {
        self.unshare(cookie);
        if let Some(ending) = self.endings.get_mut(&kept) {
            // Since the epolls were looked at before the call, whoever else had it may have added it to one: an epoll
            // may be shared, too.
            ending.unwatched = false;
        }
        self.begin_end(kept);
    }

    fn begin_end(&mut self, kept: Kept) {
        let Some(ending) = self.endings.get_mut(&kept) else { return };
        ending.stage = Stage::Over;
        // Others had it when the call was made, and had let go of it since.
        if !ending.unwatched && ending.way != Way::Exit {
            self.push(Task::Unwatch(kept));
        }
        self.push(Task::End(kept));
    }

    /// Ends a connection that nobody holds.
    fn end(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(&Ending { cookie, unread, stage, name, .. }) = self.endings.get(&kept) else {
            return Ok(());
        };
        debug_assert_eq!(stage, Stage::Over, "it is known that nobody holds it");
        if self.connections.get(&cookie).is_some_and(|one| one.handed) {
            if let Some(connection) = self.connections.get_mut(&cookie) {
                connection.handed = false;
            }
            self.note_end(cookie);
            self.release(cookie);
            self.forget_ending(kept);
            return Ok(());
        }
        let socket = known.socket.ok_or(Ask::Socket(kept))?;
        // Of a killed process nobody has asked before.
        let unread = if name.is_some() { unread } else { socket.unread };
        let fate = match fate(&socket) {
            Fate::Discard => after_discarding(known.discarded.ok_or(Ask::Discard(kept))?),
            other => other,
        };
        let reason = match fate {
            Fate::Plain(reason) => reason,
            Fate::Linger | Fate::Discard => {
                let taken = known.done.ok_or(Ask::HandOver { kept, cookie, unread })?;
                if taken { Count::Handed } else { Count::Refused }
            }
        };
        let saved = matches!(reason, Count::Handed | Count::Refused) && unread > 0;
        if saved || reason == Count::Drained {
            self.count(cookie, Count::Unread);
        }
        self.note_end(cookie);
        self.count(cookie, reason);
        self.release(cookie);
        self.forget_ending(kept);
        Ok(())
    }

    fn shutdown(&mut self, seen: Seen, both: bool, known: &Known) -> Result<(), Ask> {
        let cookie = seen.cookie;
        if !matches!(fate(&seen.socket), Fate::Linger | Fate::Discard) {
            return Ok(());
        }
        // What still comes is not to be answered with a reset while the program writes.
        let handed = self.connections.get(&cookie).is_some_and(|one| one.handed);
        if !both || handed {
            self.act(Action::Pretend);
            return Ok(());
        }
        let unread = seen.socket.unread;
        if known.done.ok_or(Ask::HandOverShutdown { cookie, unread })? {
            let fresh = || Connection::new(seen.inode);
            self.connections.entry(cookie).or_insert_with(fresh).handed = true;
            // Counted here, for a process that is killed comes to no close.
            self.count(cookie, Count::Handed);
            if unread > 0 {
                self.count(cookie, Count::Unread);
            }
            self.act(Action::Pretend);
        }
        Ok(())
    }

    /// Ends what processes held that have died.
    fn orphans(&mut self, known: &Known) -> Result<(), Ask> {
        let is_orphan = |connection: &Connection| {
            connection.held.is_some_and(|pid| !self.alive.contains_key(&pid)) && connection.kept.is_empty()
        };
        let orphans = self.connections.iter().filter(|(_, connection)| is_orphan(connection));
        let orphans: Vec<(Cookie, Inode)> = orphans.map(|(cookie, one)| (*cookie, one.inode)).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let census = known.census.as_ref().ok_or_else(|| self.census_ask())?;
        for (cookie, inode) in orphans {
            let blind = self.may_be_shared(inode);
            let Some(connection) = self.connections.get_mut(&cookie) else { continue };
            let sent = connection.shared.as_ref().is_some_and(|shared| shared.sent.is_some());
            let shared = connection.shared.is_some();
            match census.holder(inode) {
                Some(heir) => self.inherit(cookie, heir),
                None if (census.hidden || self.opaque) && (shared || blind) && !sent => {
                    self.release(cookie);
                    self.count(cookie, Count::Refused);
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
                        stage: if sent { Stage::Closed } else { Stage::Over },
                    };
                    let kept = self.new_ending(inode, ending);
                    self.act(Action::KeepHeld(kept, cookie));
                    if sent {
                        // Killed while a message holds it, perhaps.
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
