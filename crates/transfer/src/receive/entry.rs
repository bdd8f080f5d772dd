//! Announced entries: whether each may be stored, what an earlier session has left of it, and where it will be
//! stored.

use std::os::fd::AsFd as _;

use super::account::{Announced, receipt};
use super::{MAX_ANNOUNCED, MAX_DIRECTORIES, OpenTarget, Receiver, Waiting, Waits};
use crate::alive::{Gauge, away};
use crate::driver::Phase;
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::{Hash, Hashing, Tree};
use crate::message::{EntryAnswer, IfExists, Kind, Message, Refusal, Token, TreeEntry};
use crate::path::RelPath;
use crate::progress::Progress;
use crate::state::short;
use crate::store::{Here, Landing, Modes, hash_as, leaves_part};
use crate::wire::Violation;

impl Receiver<'_> {
    /// Sets how the announced modes are changed.
    pub(crate) fn change_modes(&mut self, modes: Modes) {
        if let OpenTarget::Tree { store, .. } = &mut self.place {
            store.modes = modes;
        }
    }

    /// Refuses files once they are more than `bytes` together.
    pub(crate) fn take_at_most(&mut self, bytes: u64) {
        if let OpenTarget::Tree { store, .. } = &mut self.place {
            store.quota = Some(bytes);
        }
    }

    /// Decides the path of the top of the transfer, once its kind is known.
    fn settle_base(&mut self, kind: Kind) {
        let OpenTarget::Tree { base, store } = &mut self.place else { return };
        // As with cp(1): if the path is a directory, a file is stored inside it.
        if kind == Kind::File
            && !self.own_name.is_empty()
            && store.has_directory(base)
            && let Ok(inside) = base.child(&self.own_name)
        {
            *base = inside;
        }
        store.parents = base.split().map_or_else(RelPath::root, |(parent, _)| parent);
    }

    /// Handles the announcement of an entry.
    pub(super) fn entry(&mut self, entry: TreeEntry) -> Result<(), Error> {
        if entry.path.is_root() {
            self.settle_base(entry.kind);
        }
        self.session.turns_to(&entry.path);
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
        self.note_above(dest.as_ref().ok());
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
                let options = self.options;
                let made = dest.and_then(|dest| match &mut self.place {
                    OpenTarget::Tree { store, .. } => {
                        store.make_link(&entry, &dest, receipt(index, 0, None, options, &dest))?;
                        Ok(store.is_due())
                    }
                    _ => Ok(false),
                });
                match made {
                    Ok(true) => self.commit(),
                    Ok(false) => Ok(()),
                    Err(fault) => self.failed(index, &entry.path, fault),
                }
            }
            Kind::File | Kind::Pipe => self.announce(entry, dest),
        }
    }

    /// Sees to it that what is above an entry is synced before the entry is confirmed. An announced directory sees to that itself.
    fn note_above(&mut self, dest: Option<&RelPath>) {
        let (OpenTarget::Tree { store, .. }, Some((above, _))) =
            (&mut self.place, dest.and_then(RelPath::split))
        else {
            return;
        };
        // The innermost directory was announced last.
        if above != store.parents && self.directories.values().next_back() != Some(&above) {
            store.note_above(&above);
        }
    }

    /// Handles an announcement in a dry run: the entry is answered, and nothing is written.
    fn dry(&mut self, entry: TreeEntry) -> Result<(), Error> {
        let looked = self.dest(&entry.path).and_then(|dest| match &mut self.place {
            OpenTarget::Tree { store, .. } if entry.kind == Kind::File => store.look(&entry, &dest),
            OpenTarget::Sink { spool, .. } => spool.begin(entry.size).map(|()| Here::Nothing),
            _ => Ok(Here::Nothing),
        });
        let looked = match looked {
            Ok(here) => self.hash_of(here, &entry)?,
            Err(fault) => Err(fault),
        };
        let answer = match looked {
            Ok(None) => EntryAnswer::Fresh,
            // In a real run the directory would have been made by now.
            Err(Fault(Refusal::NotFound, _)) => EntryAnswer::Fresh,
            Err(Fault(Refusal::Exists, _)) if self.options.if_exists == IfExists::KeepBoth => {
                EntryAnswer::Fresh
            }
            Ok(Some(hash)) => EntryAnswer::Complete(hash),
            Err(Fault(refusal, text)) => EntryAnswer::Refused(refusal, text),
        };
        let TreeEntry { index, path, kind, size, .. } = entry;
        let bytes = if matches!(answer, EntryAnswer::Complete(_)) { 0 } else { size.unwrap_or(0) };
        if let EntryAnswer::Refused(refusal, text) = &answer {
            self.account.fail(index);
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
        let looked = match dest {
            Ok(dest) => self.look(entry, dest)?,
            Err(fault) => Err(fault),
        };
        let state = match looked {
            Ok(state) => {
                let resumed = state.so_far();
                (self.observe)(Progress::Started { path, kind, size, resumed });
                state
            }
            Err(Fault(refusal, text)) => {
                if self.ask {
                    self.paths.remove(&index);
                    self.account.fail(index);
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

    /// The hash of what is here, if anything is; zeros if it need not be compared ([`Here::Same`]). Reading may take long.
    fn hash_of(&mut self, here: Here, entry: &TreeEntry) -> Result<Result<Option<Hash>, Fault>, Error> {
        let file = match here {
            Here::Nothing => return Ok(Ok(None)),
            Here::Same => return Ok(Ok(Some(Hash::default()))),
            Here::Alike(file) => file,
        };
        (self.observe)(Progress::Verifying { path: entry.path.clone() });
        let by_blocks = entry.by_blocks;
        let hash = move |gauge: &Gauge| hash_as(file.as_fd(), by_blocks, gauge);
        Ok(match away(self.session, Phase::Verify, entry.size.unwrap_or(0), hash)? {
            Ok((hash, _)) => Ok(Some(hash)),
            Err(error) => Err(Fault::io(format!("cannot read {}: {error}", entry.path), &error)),
        })
    }

    fn look(&mut self, mut entry: TreeEntry, mut dest: RelPath) -> Result<Result<Waits, Fault>, Error> {
        if leaves_part(&entry) {
            // The same source may go to several names at once.
            entry.token = bound(entry.token, &dest);
        }
        let hashing = Hashing::of(self.options.verify, entry.by_blocks);
        let landing = |entry, dest, tree: Tree| Box::new(Landing::bare(entry, dest, tree.hashed(hashing)));
        let store = match &mut self.place {
            OpenTarget::Tree { store, .. } => store,
            OpenTarget::Sink { spool, deliveries, id, .. } => {
                return Ok(match deliveries.outcome(*id) {
                    // An earlier session has run the command: it does not run again, even if the sender's file has
                    // changed.
                    Some(Ok(receipt)) => {
                        let hash = receipt.hash.unwrap_or_default();
                        Ok(Waits::Complete { hash, landing: landing(entry, dest, Tree::new()) })
                    }
                    Some(Err(fault)) => Err(fault),
                    None => {
                        spool.begin(entry.size).map(|()| Waits::Landing(landing(entry, dest, Tree::new())))
                    }
                });
            }
            OpenTarget::Stream { so_far, .. } => {
                so_far.settle();
                return Ok(Ok(Waits::Landing(landing(entry, dest, so_far.clone()))));
            }
        };
        let claim = match store.claim(&entry) {
            Ok(claim) => claim,
            Err(fault) => return Ok(Err(fault)),
        };
        if !self.ask {
            return Ok(store
                .begin(entry, dest, claim, None)
                .map(|landing| Waits::Landing(Box::new(landing))));
        }
        let mut looked = store.look(&entry, &dest);
        if let (Err(Fault(Refusal::Exists, _)), IfExists::KeepBoth) = (&looked, self.options.if_exists) {
            dest = match store.another_name(&entry, &dest, false) {
                Ok(other) => other,
                Err(fault) => return Ok(Err(fault)),
            };
            looked = store.look(&entry, &dest);
        }
        let here = match looked {
            Ok(here) => here,
            Err(fault) => return Ok(Err(fault)),
        };
        match self.hash_of(here, &entry)? {
            Ok(None) => {}
            Ok(Some(hash)) => {
                if let OpenTarget::Tree { store, .. } = &self.place {
                    store.discard(&entry, &dest);
                }
                return Ok(Ok(Waits::Complete { hash, landing: landing(entry, dest, Tree::new()) }));
            }
            Err(fault) => return Ok(Err(fault)),
        }
        let OpenTarget::Tree { store, .. } = &mut self.place else { return Ok(Ok(Waits::Dropped)) };
        let found = match store.left_in(&entry, &dest) {
            Ok(Some(work)) => match store.resumer(&work, &entry, &dest) {
                Ok(resume) => away(self.session, Phase::Verify, 0, resume)?
                    .map(|found| found.map(|found| (found, work))),
                Err(fault) => Err(fault),
            },
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        let begun = found.and_then(|found| store.begin(entry, dest, claim, found));
        Ok(begun.map(|landing| Waits::Landing(Box::new(landing))))
    }
}

/// Names a partial file by its source and its destination.
fn bound(token: Token, dest: &RelPath) -> Token {
    let named = [&b"linger-transfer partial file\0"[..], &token, dest.as_bytes()].concat();
    short(blake3::hash(&named))
}
