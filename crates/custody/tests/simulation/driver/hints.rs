//! Which fds of a shared connection the world may know from before: said here once more, apart from its own memory.

use std::collections::{BTreeMap, BTreeSet};

use linger_custody::world::{Census, Event, Inode, Name, World};

use super::{Driver, Fault, KeptFd, LIMITS, cookie, inode, pid};
use crate::kernel::{File, Kernel};

/// The first fds of each shared connection that were told of, or seen in a look at all; `None` where it is not sure that
/// one is remembered, which takes the place of another.
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeMap<Inode, Vec<Option<Name>>>);

impl Hints {
    /// An fd of a shared connection was told of; `is_sure` if it is one that stays.
    fn note(&mut self, inode: Inode, name: Name, is_sure: bool) {
        let names = self.0.entry(inode).or_default();
        if names.len() < LIMITS.names && !names.contains(&Some(name)) {
            names.push(is_sure.then_some(name));
        }
    }

    /// The shared connections of which fds are remembered.
    pub(super) fn shared(&self, world: &World) -> BTreeSet<Inode> {
        self.0.keys().copied().filter(|inode| world.shares(*inode)).collect()
    }

    /// All fds were looked at; `before` were shared until then.
    pub(super) fn renew(&mut self, census: &Census, before: &BTreeSet<Inode>, world: &World) {
        for inode in before {
            let names = census.names(*inode).iter().filter(|_| world.shares(*inode));
            let mut names: Vec<_> = names.take(LIMITS.names).copied().map(Some).collect();
            // The fd that is being closed may be remembered as well.
            if names.len() < LIMITS.names {
                names.push(None);
            }
            self.0.insert(*inode, names);
        }
    }
}

impl Driver {
    /// Notes the fds that an event tells of.
    pub(super) fn note_hints(&mut self, event: &Event<'_>) {
        self.is_ending = matches!(event, Event::Close { .. } | Event::Closed(_));
        self.asked_which = false;
        // What is not shared any more is not remembered.
        self.hints.0.retain(|inode, _| self.world.shares(*inode));
        match event {
            Event::Copy { caller, seen } | Event::Send { caller, seen, .. } => {
                self.hints.note(seen.inode, Name { pid: caller.pid, fd: seen.fd }, true);
            }
            Event::Close { caller, seen, .. } => {
                self.hints.note(seen.inode, Name { pid: caller.pid, fd: seen.fd }, false);
            }
            Event::Appeared { caller, open, .. } | Event::Fork { caller, open, .. } => {
                for one in *open {
                    self.hints.note(one.inode, Name { pid: caller.pid, fd: one.fd }, true);
                }
            }
            Event::Closed(kept) => {
                if let Some(KeptFd { connection, name: Some((process, fd)), .. }) = self.kept.get(kept) {
                    self.hints.note(inode(*connection), Name { pid: pid(*process), fd: *fd }, false);
                }
            }
            _ => {}
        }
    }

    /// Of a close all fds are looked at only if none that is remembered has the connection, and those are asked for.
    pub(super) fn check_hints(&self, kernel: &Kernel, asked: Option<&[Name]>) -> Result<(), Fault> {
        let Some(index) = self.about.filter(|_| self.is_ending && !self.asked_which) else { return Ok(()) };
        let names = self.hints.0.get(&inode(index)).into_iter().flatten().flatten();
        let is_closing = |name: &Name| {
            let this = (name.pid.0 as usize, name.fd);
            self.at_hand.is_some_and(|one| one.name == this)
                || self.kept.values().any(|one| !one.closed && one.name == Some(this))
        };
        let stays = |name: &&Name| {
            let process = &kernel.processes[name.pid.0 as usize];
            !process.hidden && process.file(name.fd) == Some(File::Connection(index)) && !is_closing(name)
        };
        match names.filter(stays).find(|name| asked.is_none_or(|asked| !asked.contains(name))) {
            Some(name) => Err(format!("has forgotten that {name:?} is connection {:?}", cookie(index))),
            None => Ok(()),
        }
    }
}
