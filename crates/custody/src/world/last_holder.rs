//! Connections that no process and no message holds any more: when that is known, and how they end.

use std::vec::Vec;

use super::World;
use super::connection::Sent;
use super::ending::{Ending, Stage};
use super::flights::Whereabouts;
use super::task::{Known, Task};
use super::vocabulary::{Ask, Cookie, Kept, Tid, Way};
use crate::{Count, Fate, after_discarding, fate};

impl World {
    pub(super) fn look(&mut self, known: &Known) -> Result<(), Ask> {
        let Some((sending, quiet, census, took)) = &known.flights else {
            let senders = self.flights.cookies().filter_map(|cookie| self.connections.get(&cookie));
            let senders = senders.filter_map(|one| one.shared.as_ref()?.sent.as_ref());
            let mut sending: Vec<Tid> = senders.flat_map(|sent| sent.senders.iter().copied()).collect();
            sending.sort_unstable();
            sending.dedup();
            return Err(Ask::Flights { copying: self.doubts.copying(), sending });
        };
        let cookies: Vec<Cookie> = self.flights.cookies().collect();
        for cookie in cookies {
            let Some(connection) = self.connections.get(&cookie) else { continue };
            if let Some(holder) = census.holder(connection.inode) {
                // A process that has made no call yet may have it from its parent, not from a message.
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
            let silent = sent.is_none_or(arrived)
                && !self.doubts.is_copying()
                && self.closing(cookie).next().is_none();
            if self.flights.judge(cookie, silent, self.now) == Whereabouts::Over {
                self.end_flight(cookie, census.hidden);
            }
        }
        self.flights.looked(*took, self.now);
        Ok(())
    }

    /// Ends a connection that was in flight and that no message carries any more, unless a process that cannot be
    /// looked at may hold it.
    pub(super) fn end_flight(&mut self, cookie: Cookie, hidden: bool) {
        let Some(kept) = self.flights.end(cookie) else { return };
        if self.is_abroad(cookie) {
            // The process that receives the connection is to end it.
            self.release(cookie);
            return self.forget_ending(kept);
        }
        let inode = self.connections.get(&cookie).map(|connection| connection.inode);
        let opaque = inode.map_or(self.doubts.is_any_opaque(), |inode| self.doubts.is_opaque(inode));
        if hidden || opaque {
            self.refuse(kept);
        } else {
            self.end_shared(cookie, kept);
        }
    }

    /// Begins to end a connection that was shared, and that nobody holds.
    pub(super) fn end_shared(&mut self, cookie: Cookie, kept: Kept) {
        self.unshare(cookie);
        if let Some(ending) = self.endings.get_mut(&kept) {
            // Another holder may have added it to an epoll after the epolls were looked at: an epoll may be shared,
            // too.
            ending.unwatched = false;
        }
        self.begin_end(kept);
    }

    pub(super) fn begin_end(&mut self, kept: Kept) {
        let Some(ending) = self.endings.get_mut(&kept) else { return };
        ending.stage = Stage::Over;
        // Not removed from the epolls before the call, because others had the connection then; they have closed it since.
        if !ending.unwatched && ending.way != Way::Exit {
            self.push(Task::Unwatch(kept));
        }
        self.push(Task::End(kept));
    }

    /// Ends a connection that nobody holds.
    pub(super) fn end(&mut self, kept: Kept, known: &Known) -> Result<(), Ask> {
        let Some(&Ending { cookie, unread, stage, name, .. }) = self.endings.get(&kept) else {
            return Ok(());
        };
        debug_assert_eq!(stage, Stage::Over, "it is known that nobody holds it");
        if self.shut_down.remove(&cookie).is_some() {
            self.note_end(cookie);
            self.release(cookie);
            self.forget_ending(kept);
            return Ok(());
        }
        if known.unsure {
            // Not noted as an end, and its unread bytes are not counted: another process may have it, and end it later.
            self.refuse(kept);
            return Ok(());
        }
        let socket = known.socket.ok_or(Ask::Socket(kept))?;
        // For a killed process no call was seen at which the socket could be asked for its unread bytes.
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
        let had_unread = matches!(reason, Count::Handed | Count::Refused) && unread > 0;
        if had_unread || reason == Count::Drained {
            self.count(cookie, Count::Unread);
        }
        self.note_end(cookie);
        self.count(cookie, reason);
        self.release(cookie);
        self.forget_ending(kept);
        Ok(())
    }
}
