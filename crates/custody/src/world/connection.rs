//! What is remembered of one connection.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::vocabulary::{Inode, Kept, Pid, ProcessFd, Tid};

/// What is known of a connection. A connection with one fd, of which nothing else is known, has no entry.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) inode: Inode,
    /// `None` while it has one fd: it was never copied, inherited or passed, as far as the kernel has told.
    pub(super) shared: Option<Shared>,
    /// The process for which the driver has held an fd since the accept, if it has.
    pub(super) held: Option<Pid>,
    /// Kept fds of it.
    pub(super) kept: Vec<Kept>,
}

/// A connection that may have several fds.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Fds that named it when they were last seen: hints, to be looked at again before they are believed.
    names: Vec<ProcessFd>,
    /// Messages that may carry it.
    pub(super) sent: Option<Sent>,
}

/// Messages that carry a connection and whose arrival is not known.
///
/// The supervisor is notified when a message is sent, not when it is received. So a message counts as a holder until the
/// supervisor sees the connection in a process that can only have got it from a message.
#[derive(Debug)]
pub(super) struct Sent {
    /// How many.
    messages: usize,
    /// Processes that got the connection otherwise than by these messages, or whose message has arrived; and whether they sent
    /// it.
    had: BTreeMap<Pid, bool>,
    /// Threads that called `sendmsg`; one may still be in the call.
    pub(super) senders: BTreeSet<Tid>,
    /// Some went to a process whose closes nobody is notified of.
    pub(super) abroad: bool,
}

/// Whether a message may hold a connection, as one process that has or had it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// No message carries it.
    No,
    /// A message that this process has sent may carry it.
    BySender,
    /// A message that another process has sent may carry it.
    ByOther,
    /// A message to another program may carry it, or that program may have it.
    Abroad,
}

impl Connection {
    pub(super) fn new(inode: Inode) -> Self {
        Self { inode, shared: None, held: None, kept: Vec::new() }
    }

    /// Whether nothing is worth remembering.
    pub(super) fn is_blank(&self) -> bool {
        self.shared.is_none() && self.held.is_none() && self.kept.is_empty()
    }

    /// Notes that there may be more fds than this one.
    pub(super) fn share(&mut self, name: ProcessFd, most: usize) -> &mut Shared {
        let shared = self.shared.get_or_insert_default();
        shared.note(name, most);
        shared
    }

    /// Whether a message may hold it, as `pid` sees it.
    pub(super) fn passed(&self, pid: Pid) -> Passed {
        self.shared
            .as_ref()
            .and_then(|shared| shared.sent.as_ref())
            .map_or(Passed::No, |sent| sent.seen_by(pid))
    }

    /// Notes that a process has the connection. If the process can only have got it from a message, that message has arrived.
    /// Returns whether another message may hold it, as [`passed`](Self::passed) does.
    pub(super) fn seen_at(&mut self, pid: Pid) -> Passed {
        let Some(shared) = &mut self.shared else { return Passed::No };
        if shared.sent.as_mut().is_some_and(|sent| sent.arrived_at(pid)) {
            shared.sent = None;
        }
        self.passed(pid)
    }
}

impl Shared {
    pub(super) fn note(&mut self, name: ProcessFd, most: usize) {
        if self.names.len() < most && !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    pub(super) fn names(&self) -> &[ProcessFd] {
        &self.names
    }

    /// Replaces the fds that were seen before by those seen now.
    pub(super) fn renew(&mut self, names: &[ProcessFd], most: usize) {
        self.names.clear();
        self.names.extend(names.iter().take(most));
    }

    /// Notes one more message of a thread; `had` are the processes that have the connection already.
    pub(super) fn send(&mut self, pid: Pid, tid: Tid, abroad: bool, had: impl Iterator<Item = Pid>) {
        let fresh = || Sent {
            messages: 0,
            had: had.map(|pid| (pid, false)).collect(),
            senders: BTreeSet::new(),
            abroad: false,
        };
        let sent = self.sent.get_or_insert_with(fresh);
        sent.messages += 1;
        sent.had.insert(pid, true);
        sent.senders.insert(tid);
        sent.abroad |= abroad;
    }

    /// Notes that a process has the connection from its parent.
    pub(super) fn inherited_by(&mut self, pid: Pid) {
        if let Some(sent) = &mut self.sent {
            sent.had.entry(pid).or_insert(false);
        }
    }
}

impl Sent {
    /// Notes that a process has the connection. Returns whether no message is left that may hold it.
    fn arrived_at(&mut self, pid: Pid) -> bool {
        if self.had.contains_key(&pid) {
            return false;
        }
        debug_assert!(self.messages > 0, "what is sent has a message");
        // One message has brought it here; others may be in flight to other processes.
        self.had.insert(pid, false);
        self.messages -= 1;
        // Whether another program has received its message is never known.
        self.messages == 0 && !self.abroad
    }

    fn seen_by(&self, pid: Pid) -> Passed {
        if self.abroad {
            Passed::Abroad
        } else if self.had.get(&pid) == Some(&true) {
            Passed::BySender
        } else {
            Passed::ByOther
        }
    }
}
