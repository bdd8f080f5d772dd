//! Which fds of a shared connection the world may remember. Computed here a second time, independently of the world's
//! own memory.

use std::collections::{BTreeMap, BTreeSet};

use linger_custody::world::{Census, Event, Inode, Pid, ProcessFd, World};

use super::{Driver, Fault, KeptFd, LIMITS, cookie, inode, pid};
use crate::kernel::{File, Kernel};

/// The first fds of each shared connection that were reported, or seen in a census. `None` stands for an fd that the
/// world may remember or not, and that then takes the place of another.
#[derive(Debug, Default)]
pub(super) struct Hints {
    names: BTreeMap<Inode, Vec<Option<ProcessFd>>>,
    /// The only process that has sent a connection, as long as no other is known to have it; `None` afterwards.
    senders: BTreeMap<Inode, Option<Pid>>,
    /// How many fds of each connection the present event tells of, if it tells of all that a process has.
    present: BTreeMap<Inode, usize>,
}

impl Hints {
    /// An fd of a shared connection was told of; `is_sure` if it is one that stays.
    fn note(&mut self, inode: Inode, name: ProcessFd, is_sure: bool) {
        let names = self.names.entry(inode).or_default();
        if names.len() < LIMITS.names && !names.contains(&Some(name)) {
            names.push(is_sure.then_some(name));
        }
    }

    /// A process is seen to have a connection, or to send it.
    fn meet(&mut self, inode: Inode, pid: Pid, sends: bool) {
        if sends {
            self.senders.entry(inode).or_insert(Some(pid));
        }
        if let Some(sender) = self.senders.get_mut(&inode) {
            *sender = sender.filter(|sender| *sender == pid);
        }
    }

    /// The shared connections of which fds are remembered.
    pub(super) fn shared(&self, world: &World) -> BTreeSet<Inode> {
        self.names.keys().copied().filter(|inode| world.shares(*inode)).collect()
    }

    /// Notes a census; `before` are the connections that were shared until then.
    pub(super) fn renew(&mut self, census: &Census, before: &BTreeSet<Inode>, world: &World) {
        for inode in before {
            let names = census.names(*inode).iter().filter(|_| world.shares(*inode));
            let mut names: Vec<_> = names.take(LIMITS.names).copied().map(Some).collect();
            // The fd that is being closed may be remembered as well, and those of a fork that come after the look.
            let more = self.present.get(inode).copied().unwrap_or(1);
            names.resize(LIMITS.names.min(names.len() + more), None);
            self.names.insert(*inode, names);
        }
    }
}

impl Driver {
    /// Notes the fds of an event.
    pub(super) fn note_hints(&mut self, event: &Event<'_>) {
        self.is_ending = matches!(event, Event::Close { .. } | Event::Closed(_));
        self.asked_which = false;
        self.hints.present.clear();
        // A connection that is no longer shared is not remembered.
        self.hints.names.retain(|inode, _| self.world.shares(*inode));
        match event {
            Event::Copy { caller, seen } => {
                self.hints.meet(seen.inode, caller.pid, false);
                self.hints.note(seen.inode, ProcessFd { pid: caller.pid, fd: seen.fd }, true);
            }
            Event::Send { caller, seen, abroad } => {
                self.hints.meet(seen.inode, caller.pid, true);
                if *abroad {
                    self.hints.senders.insert(seen.inode, None);
                }
                self.hints.note(seen.inode, ProcessFd { pid: caller.pid, fd: seen.fd }, true);
            }
            Event::Tick => self.hints.senders.values_mut().for_each(|sender| *sender = None),
            Event::Close { caller, seen, .. } => {
                self.hints.meet(seen.inode, caller.pid, false);
                self.hints.note(seen.inode, ProcessFd { pid: caller.pid, fd: seen.fd }, false);
            }
            Event::Appeared { caller, open, .. } | Event::Fork { caller, open, .. } => {
                for one in *open {
                    self.hints.meet(one.inode, caller.pid, false);
                    self.hints.note(one.inode, ProcessFd { pid: caller.pid, fd: one.fd }, true);
                    *self.hints.present.entry(one.inode).or_default() += 1;
                }
            }
            Event::Closed(kept) => {
                if let Some(KeptFd { connection, name: Some((process, fd)), .. }) = self.kept.get(kept) {
                    self.hints.note(inode(*connection), ProcessFd { pid: pid(*process), fd: *fd }, false);
                }
            }
            _ => {}
        }
    }

    /// A connection that the closing process has sent is most likely in flight. The search for it can wait.
    pub(super) fn check_waits(&self) -> Result<(), Fault> {
        let Some(index) = self.about.filter(|_| self.is_ending) else { return Ok(()) };
        let mut kept = self.kept.values().filter(|one| one.connection == index);
        let (Some(KeptFd { closed: true, name: Some((process, _)), .. }), None) = (kept.next(), kept.next())
        else {
            return Ok(());
        };
        if self.hints.senders.get(&inode(index)) == Some(&Some(pid(*process))) {
            return Err(format!("connection {index} was sent by who closes it, and is looked for"));
        }
        Ok(())
    }

    /// At a close the world may ask for a census only if none of the remembered fds has the connection, and it must ask
    /// for those first.
    pub(super) fn check_hints(&self, kernel: &Kernel, asked: Option<&[ProcessFd]>) -> Result<(), Fault> {
        let Some(index) = self.about.filter(|_| self.is_ending && !self.asked_which) else { return Ok(()) };
        let names = self.hints.names.get(&inode(index)).into_iter().flatten().flatten();
        let is_closing = |name: &ProcessFd| {
            let this = (name.pid.0 as usize, name.fd);
            self.at_hand.is_some_and(|one| one.name == this)
                || self.kept.values().any(|one| !one.closed && one.name == Some(this))
        };
        let stays = |name: &&ProcessFd| {
            let process = &kernel.processes[name.pid.0 as usize];
            !process.hidden && process.file(name.fd) == Some(File::Connection(index)) && !is_closing(name)
        };
        match names.filter(stays).find(|name| asked.is_none_or(|asked| !asked.contains(name))) {
            Some(name) => Err(format!("has forgotten that {name:?} is connection {:?}", cookie(index))),
            None => Ok(()),
        }
    }
}
