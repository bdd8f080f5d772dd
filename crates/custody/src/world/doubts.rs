//! Why a connection with one known fd may have other holders all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::vocabulary::{Census, Inode, Pid, Tid};

/// What may have happened without a notification.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Threads whose call to copy an fd was continued, and may not be over.
    copying: BTreeSet<Tid>,
    /// There may be copies that no census has shown yet: a fork also copies what another thread accepted meanwhile,
    /// `dup` what another thread has put at the fd since, and a process that cannot be looked at may copy anything.
    stray: bool,
    /// Sockets with several fds at the last look that are not known as connections.
    several: BTreeSet<Inode>,
    /// Processes that did something with their fds when they could not be looked at: what they have may be shared.
    obscure: BTreeMap<Pid, Obscure>,
    /// A message was sent that cannot be read: it may carry any connection.
    opaque: bool,
    /// Calls were made without a notification, and it is not known yet what they have sent: messages may be in flight.
    unheard: bool,
    /// Sockets that such calls may have sent to another process.
    suspect: BTreeSet<Inode>,
    /// Held connections may have been closed without a notification.
    closed_unheard: bool,
}

/// A process that could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Obscure {
    /// One of its closes was counted.
    counted: bool,
}

impl Doubts {
    /// Notes that a thread makes a call, so that its last one is over.
    pub(super) fn calls(&mut self, tid: Tid) {
        self.copying.remove(&tid);
    }

    /// Notes that a thread's call to copy an fd is continued.
    pub(super) fn copies(&mut self, tid: Tid) {
        self.forks(tid, false);
    }

    /// Notes that a fork is continued, of a process that has one thread (`alone`), or several.
    pub(super) fn forks(&mut self, tid: Tid, alone: bool) {
        self.copying.insert(tid);
        self.stray |= !alone;
    }

    /// Notes that a process that cannot be looked at sends a message.
    pub(super) fn sends_unseen(&mut self) {
        self.opaque = true;
    }

    /// Notes that calls were made without a notification: anything may have been copied, sent and closed.
    pub(super) fn note_unheard(&mut self) {
        self.stray = true;
        self.unheard = true;
        self.closed_unheard = true;
    }

    /// All calls without a notification are over, and nothing is in flight: they may have sent what is `open` now, and cannot
    /// have sent what is opened later.
    pub(super) fn note_heard(&mut self, open: impl Iterator<Item = Inode>) {
        self.unheard = false;
        self.suspect.extend(open);
    }

    /// Keeps only these of the sockets that may have been sent unheard: the inodes of the others may be given again.
    pub(super) fn keep_suspects(&mut self, exists: impl Fn(Inode) -> bool) {
        self.suspect.retain(|inode| exists(*inode));
    }

    /// Whether held connections may have been closed without a notification.
    pub(super) fn is_closed_unheard(&self) -> bool {
        self.closed_unheard
    }

    /// Notes that all held connections were looked for.
    pub(super) fn looked_for_held(&mut self) {
        self.closed_unheard = false;
    }

    /// Notes a process that cannot be looked at. Returns whether it was not noted before.
    pub(super) fn note_hidden(&mut self, pid: Pid) -> bool {
        let is_new = !self.obscure.contains_key(&pid);
        self.obscure.entry(pid).or_insert(Obscure { counted: false });
        is_new
    }

    /// Notes that a process that cannot be looked at closes something. Returns whether this is its first close.
    pub(super) fn note_unseen_close(&mut self, pid: Pid) -> bool {
        self.obscure.get_mut(&pid).is_some_and(|one| !std::mem::replace(&mut one.counted, true))
    }

    /// The process has died; its pid may be reused. The next census shows what its children hold.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.stray |= self.obscure.remove(&pid).is_some();
    }

    /// Whether any process cannot be looked at.
    pub(super) fn any_hides(&self) -> bool {
        !self.obscure.is_empty()
    }

    /// Whether a message that could not be read may carry a connection.
    pub(super) fn is_opaque(&self, inode: Inode) -> bool {
        self.is_any_opaque() || self.suspect.contains(&inode)
    }

    /// Whether some message may carry any connection whatever.
    pub(super) fn is_any_opaque(&self) -> bool {
        self.opaque || self.unheard
    }

    /// Whether a connection with one known fd may have others.
    pub(super) fn about(&self, inode: Inode) -> bool {
        self.is_opaque(inode) || self.stray || self.any_hides() || self.several.contains(&inode)
    }

    /// Whether some fd may be about to be copied, so that the copy cannot be seen yet.
    pub(super) fn is_copying(&self) -> bool {
        !self.copying.is_empty()
    }

    /// The threads that may be copying.
    pub(super) fn copying(&self) -> Vec<Tid> {
        self.copying.iter().copied().collect()
    }

    /// Keeps only these of the threads that may be copying.
    pub(super) fn keep_copying(&mut self, tids: &[Tid]) {
        self.copying.retain(|tid| tids.contains(tid));
    }

    /// Learns from a look at all processes, after [`keep_copying`](Self::keep_copying); `is_known` tells connections that are
    /// known to be shared.
    pub(super) fn look(&mut self, census: &Census, is_known: impl Fn(Inode) -> bool) {
        if !census.hidden {
            self.stray &= self.is_copying();
            self.several.clear();
        }
        let several = census.names.iter().filter(|(_, names)| names.len() > 1);
        self.several.extend(several.map(|(inode, _)| *inode).filter(|inode| !is_known(*inode)));
    }
}
