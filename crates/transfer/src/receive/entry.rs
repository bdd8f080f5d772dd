//! Announced entries: whether each may be stored, what of it is here already, and where it will land.

use super::account::{Announced, receipt};
use super::{MAX_ANNOUNCED, MAX_DIRECTORIES, OpenTarget, Receiver, Waiting, Waits};
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Tree;
use crate::message::{EntryAnswer, IfExists, Kind, Message, Refusal, Token, TreeEntry};
use crate::path::RelPath;
use crate::progress::Progress;
use crate::state::short;
use crate::store::{Landing, Modes, leaves_part};
use crate::wire::Violation;

impl Receiver<'_> {
    /// Changes the modes that are announced.
    pub(crate) fn change_modes(&mut self, modes: Modes) {
        if let OpenTarget::Tree { store, .. } = &mut self.place {
            store.modes = modes;
        }
    }

    /// Refuses what is more than so many bytes together.
    pub(crate) fn take_at_most(&mut self, bytes: u64) {
        if let OpenTarget::Tree { store, .. } = &mut self.place {
            store.quota = Some(bytes);
        }
    }

    /// Settles where the top of the transfer goes, once its kind is known.
    fn settle_base(&mut self, kind: Kind) {
        let OpenTarget::Tree { base, store } = &mut self.place else { return };
        // As with cp(1): a file goes into the directory that has the name.
        if kind == Kind::File
            && !self.own_name.is_empty()
            && store.has_directory(base)
            && let Ok(inside) = base.child(&self.own_name)
        {
            *base = inside;
        }
        store.parents = base.split().map_or_else(RelPath::root, |(parent, _)| parent);
    }

    /// Takes an announcement.
    pub(super) fn entry(&mut self, entry: TreeEntry) -> Result<(), Error> {
        if entry.path.is_root() {
            self.settle_base(entry.kind);
        }
        let TreeEntry { index, kind, .. } = entry;
        if self.files.len() >= MAX_ANNOUNCED || (!self.ask && !self.files.is_empty()) {
            return Err(Violation::Unexpected("too many announcements").into());
        }
        self.announced += 1;
        let is_one = !matches!(self.place, OpenTarget::Tree { .. });
        if is_one && self.announced > 1 {
            return Err(Violation::Unexpected("a second entry where one goes").into());
        }
        let is_directory = kind == Kind::Directory;
        if entry.path.is_root() && self.offered_directory.is_some_and(|offered| offered != is_directory) {
            return Err(Violation::Unexpected("something else than its offer").into());
        }
        if self.options.dry_run {
            return self.dry(entry);
        }
        let is_tree = matches!(self.place, OpenTarget::Tree { .. });
        let dest = if is_tree || entry.path.is_root() {
            self.dest(&entry.path)
        } else {
            Err(Fault(Refusal::Forbidden, "one file can be sent there, no directory".into()))
        };
        if !is_tree && !matches!(kind, Kind::File | Kind::Pipe) {
            return self.failed(
                index,
                &entry.path,
                Fault(Refusal::Forbidden, "one file can be sent there, no directory".into()),
            );
        }
        self.paths.insert(index, Announced::from(&entry));
        let started =
            |resumed| Progress::Started { path: entry.path.clone(), kind, size: entry.size, resumed };
        if !matches!(kind, Kind::File | Kind::Pipe) {
            (self.observe)(started(0));
        }
        match kind {
            Kind::Directory => {
                if self.directories.len() >= MAX_DIRECTORIES {
                    return Err(Violation::Unexpected("too many open directories").into());
                }
                let made = dest.and_then(|dest| {
                    if let OpenTarget::Tree { store, .. } = &mut self.place {
                        store.make_directory(&dest)?;
                    }
                    Ok(dest)
                });
                match made {
                    Ok(dest) => {
                        self.directories.insert(index, dest);
                        debug_assert!(self.directories.len() <= MAX_DIRECTORIES);
                    }
                    Err(fault) => self.failed(index, &entry.path, fault)?,
                }
                Ok(())
            }
            Kind::Link => {
                let made = dest.and_then(|dest| {
                    if let OpenTarget::Tree { store, .. } = &mut self.place {
                        store.make_link(&entry, &dest)?;
                    }
                    Ok(dest)
                });
                match made {
                    Ok(dest) => self.confirm(receipt(index, 0, None, self.options, &dest)),
                    Err(fault) => self.failed(index, &entry.path, fault),
                }
            }
            Kind::File | Kind::Pipe => self.announce(entry, dest),
        }
    }

    /// In a dry run every entry is answered, and nothing else happens.
    fn dry(&mut self, entry: TreeEntry) -> Result<(), Error> {
        let looked = self.dest(&entry.path).and_then(|dest| match &mut self.place {
            OpenTarget::Tree { store, .. } if entry.kind == Kind::File => store.look(&entry, &dest),
            OpenTarget::Sink { spool, .. } => spool.begin(entry.size).map(|()| Ok(Tree::new())),
            _ => Ok(Ok(Tree::new())),
        });
        let answer = match looked {
            Ok(Ok(_)) => EntryAnswer::Fresh,
            // The directory would have been made by then.
            Err(Fault(Refusal::NotFound, _)) => EntryAnswer::Fresh,
            Err(Fault(Refusal::Exists, _)) if self.options.if_exists == IfExists::KeepBoth => {
                EntryAnswer::Fresh
            }
            Ok(Err(hash)) => EntryAnswer::Complete(hash),
            Err(Fault(refusal, text)) => EntryAnswer::Refused(refusal, text),
        };
        let TreeEntry { index, path, kind, size, .. } = entry;
        let bytes = if matches!(answer, EntryAnswer::Complete(_)) { 0 } else { size.unwrap_or(0) };
        if let EntryAnswer::Refused(refusal, text) = &answer {
            self.note_failure(*refusal, text);
            (self.observe)(Progress::NotDelivered { path, refusal: *refusal, text: text.clone() });
        } else {
            (self.observe)(Progress::WouldSend { path, kind, bytes });
        }
        self.say(&Message::Answer { index, answer })
    }

    fn announce(&mut self, entry: TreeEntry, dest: Result<RelPath, Fault>) -> Result<(), Error> {
        let TreeEntry { index, kind, size, .. } = entry;
        let path = entry.path.clone();
        let state = match dest.and_then(|dest| self.look(entry, dest)) {
            Ok(state) => {
                let resumed = state.so_far();
                (self.observe)(Progress::Started { path, kind, size, resumed });
                state
            }
            Err(Fault(refusal, text)) => {
                if self.ask {
                    self.paths.remove(&index);
                    (self.observe)(Progress::NotDelivered { path, refusal, text: text.clone() });
                    self.note_failure(refusal, &text);
                    return self.say(&Message::Answer { index, answer: EntryAnswer::Refused(refusal, text) });
                }
                self.failed(index, &path, Fault(refusal, text))?;
                Waits::Dropped
            }
        };
        if self.ask {
            let answer = match &state {
                Waits::Landing(landing) if landing.tree.blocks() > 0 => {
                    EntryAnswer::Partial(landing.tree.clone())
                }
                Waits::Complete { hash, .. } => EntryAnswer::Complete(*hash),
                _ => EntryAnswer::Fresh,
            };
            self.say(&Message::Answer { index, answer })?;
        }
        self.files.push_back(Waiting { index, state });
        debug_assert!(self.files.len() <= MAX_ANNOUNCED && (self.ask || self.files.len() == 1));
        Ok(())
    }

    fn look(&mut self, mut entry: TreeEntry, mut dest: RelPath) -> Result<Waits, Fault> {
        if leaves_part(&entry) {
            // The same source may go to several names at once.
            entry.token = bound(entry.token, &dest);
        }
        let store = match &mut self.place {
            OpenTarget::Tree { store, .. } => store,
            OpenTarget::Sink { spool, deliveries, id } => {
                match deliveries.outcome(*id) {
                    // An earlier session has delivered it: it is not delivered again, even if the sender's file has
                    // changed.
                    Some(Ok(receipt)) => {
                        let landing = Box::new(Landing::bare(entry, dest, Tree::new()));
                        return Ok(Waits::Complete { hash: receipt.hash.unwrap_or_default(), landing });
                    }
                    Some(Err(fault)) => return Err(fault),
                    None => {}
                }
                spool.begin(entry.size)?;
                return Ok(Waits::Landing(Box::new(Landing::bare(entry, dest, Tree::new()))));
            }
            OpenTarget::Stream { so_far, .. } => {
                return Ok(Waits::Landing(Box::new(Landing::bare(entry, dest, so_far.clone()))));
            }
        };
        let claim = store.claim(&entry)?;
        let looked = if self.ask { store.look(&entry, &dest) } else { Ok(Ok(Tree::new())) };
        let looked = match looked {
            Err(Fault(Refusal::Exists, _)) if self.options.if_exists == IfExists::KeepBoth => {
                dest = store.another_name(&entry, &dest)?;
                store.look(&entry, &dest)?
            }
            other => other?,
        };
        if let Err(hash) = looked {
            return Ok(Waits::Complete { hash, landing: Box::new(Landing::bare(entry, dest, Tree::new())) });
        }
        store.begin(entry, dest, claim, self.ask).map(|landing| Waits::Landing(Box::new(landing)))
    }
}

/// Names a partial file by its source and its destination.
fn bound(token: Token, dest: &RelPath) -> Token {
    let named = [&b"linger-transfer partial file\0"[..], &token, dest.as_bytes()].concat();
    short(blake3::hash(&named))
}
