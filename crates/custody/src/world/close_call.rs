//! What a call that closes an fd means: before it is made, and after the fd is gone.

use super::World;
use super::connection::Passed;
use super::ending::{Ending, Stage};
use super::sharing::Holder;
use super::task::{Known, Task};
use super::vocabulary::{Action, Ask, Caller, Cookie, Kept, ProcessFd, Seen, Way};
use crate::{Count, Fate, fate};

impl World {
    pub(super) fn close(&mut self, seen: Seen, caller: Caller, way: Way, known: &Known) -> Result<(), Ask> {
        let cookie = seen.cookie;
        if self.lately.contains(&cookie) {
            return Ok(());
        }
        let passed = self.seen_at(cookie, caller.pid);
        if passed == Passed::Abroad {
            // The process that receives the connection is to end it.
            self.release(cookie);
            return Ok(());
        }
        let name = ProcessFd { pid: caller.pid, fd: seen.fd };
        self.forget_endings_of(cookie, name);
        // Two fds that are being closed at once are two holders. A second attempt, with a census, decides by what that has found.
        let several = self.connections.get(&cookie).is_some_and(|one| !one.kept.is_empty());
        if self.doubts.about(seen.inode) || several || known.census.is_some() {
            self.share(cookie, seen.inode, name, known)?;
        }
        let connection = self.connections.get(&cookie);
        let sole = connection.is_none_or(|one| one.shared.is_none());
        if sole
            && way == Way::Close
            && !self.shut_down.contains_key(&cookie)
            && let Fate::Plain(reason) = fate(&seen.socket)
        {
            self.note_end(cookie);
            self.count(cookie, reason);
            self.release(cookie);
            return Ok(());
        }
        let may_be_last = matches!(way, Way::Close | Way::Replace) && passed == Passed::No;
        let last = may_be_last && (sole || self.is_last(cookie, seen.inode, name, known)?);
        let kept = self.keep(seen, name, way, passed != Passed::No);
        if last {
            // Done before the call, because the program's next call may be an `epoll_wait`.
            self.push(Task::Unwatch(kept));
        }
        Ok(())
    }

    pub(super) fn unwatch(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(ending) = self.endings.get_mut(&kept) else { return Ok(()) };
        if !known.unsure && known.done.ok_or(Ask::Unwatch(kept))? {
            ending.unwatched = true;
        } else {
            // The program's epolls would report a closed connection for as long as the supervisor keeps its fd.
            self.refuse(kept);
        }
        Ok(())
    }

    /// Ends a connection of which the program has closed an fd, unless another fd of it is open, in this process or another.
    pub(super) fn closed(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(ending) = self.endings.get_mut(&kept) else { return Ok(()) };
        debug_assert!(matches!(ending.stage, Stage::Called { .. } | Stage::Closed), "its fd is gone once");
        ending.stage = Stage::Closed;
        let Ending { cookie, way, passed: was_passed, name, .. } = *ending;
        let Some(connection) = self.connections.get(&cookie) else { return Ok(()) };
        if (self.doubts.about(connection.inode) || known.census.is_some())
            && let Some(name) = name
        {
            // It may have become shared since the call was continued.
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
            // Most likely the message that this process has sent is in flight: the search for other holders can wait.
            self.put_off(kept);
            return Ok(());
        }
        match self.holder(cookie, inode, closing, known)? {
            Holder::Process(holder) => {
                // Not counted: a bystander's exit, one of two fds in a process, a passed connection.
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
            // A process that cannot be looked at may have it. A plain close is better than a half-close under such a
            // process.
            Holder::Unknown => self.refuse(kept),
            Holder::Nobody => self.end_shared(cookie, kept),
        }
        Ok(())
    }

    /// Keeps a connection that no process is seen to have, until it is known whether a message or the child of a fork
    /// has it.
    pub(super) fn put_off(&mut self, kept: Kept) {
        let Some(cookie) = self.endings.get(&kept).map(|ending| ending.cookie) else { return };
        if self.is_abroad(cookie) {
            // Another program received it, and ends it itself.
            self.release(cookie);
            return self.forget_ending(kept);
        }
        // One kept fd is enough to look for the connection.
        if self.flights.contains(cookie) {
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
    pub(super) fn is_abroad(&self, cookie: Cookie) -> bool {
        let shared = self.connections.get(&cookie).and_then(|one| one.shared.as_ref());
        shared.and_then(|shared| shared.sent.as_ref()).is_some_and(|sent| sent.abroad)
    }

    pub(super) fn shutdown(&mut self, seen: Seen, known: &Known) -> Result<(), Ask> {
        let cookie = seen.cookie;
        if !matches!(fate(&seen.socket), Fate::Linger | Fate::Discard) {
            return Ok(());
        }
        // The read side stays open. With it shut, bytes that come after this side's FIN would be answered with a reset
        // (`tcp_rcv_state_process` in FIN_WAIT1 and FIN_WAIT2).
        if self.shut_down.contains_key(&cookie) {
            self.act(Action::Pretend);
            return Ok(());
        }
        self.make_room(known)?;
        let unread = seen.socket.unread;
        if known.done.ok_or(Ask::HandOverShutdown { cookie, unread })? {
            self.shut_down.insert(cookie, seen.inode);
            // Counted here, because a process that is killed never reaches a close.
            self.count(cookie, Count::Handed);
            if unread > 0 {
                self.count(cookie, Count::Unread);
            }
            self.act(Action::Pretend);
        }
        Ok(())
    }
}
