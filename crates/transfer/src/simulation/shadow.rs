//! A record of what was synced in a file system, and of what a power cut may leave of the rest.
//!
//! The files themselves are real, and the kernel decides what each call does. This module adds what a kernel cannot
//! show: the state of the disk. The model is the weakest that POSIX allows. To sync a file makes its content durable,
//! but not its name; to sync a directory makes the names in it durable. Any writes that were not synced may be lost, in
//! any order, and the last one may be torn. Of the changes of a directory that were not synced, any number of the first
//! ones is kept. A rename inside a directory is atomic; one between directories never loses the file.

use std::collections::{BTreeMap, HashMap};

use super::random::Random;

pub(super) type Ino = u64;
type EntryName = Vec<u8>;

#[derive(Clone, Debug)]
pub(super) enum Node {
    File {
        durable: Vec<u8>,
        pending: Vec<ContentChange>,
        /// What programs see, if that is something else: a sync has failed, and what it was to make durable never will be.
        seen: Option<Vec<u8>>,
    },
    Directory {
        durable: BTreeMap<EntryName, Ino>,
        pending: Vec<Renaming>,
    },
    Link,
}

/// A change of a file's content.
#[derive(Clone, Debug)]
pub(super) enum ContentChange {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// A change of a directory.
#[derive(Clone, Debug)]
pub(super) enum Renaming {
    Add(EntryName, Ino),
    Remove(EntryName),
    /// The name moved to another directory, where it has the last of these names.
    Away(EntryName, Ino, EntryName),
    Within(EntryName, EntryName, Ino),
}

/// The content of a directory entry, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    File(Vec<u8>),
    Directory,
    Link,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shadow {
    pub(super) nodes: HashMap<Ino, Node>,
}

impl Shadow {
    /// Adds an empty directory that is durable.
    pub(super) fn root(&mut self, ino: Ino) {
        self.nodes.insert(ino, Node::Directory { durable: BTreeMap::new(), pending: Vec::new() });
    }

    pub(super) fn file(&mut self, ino: Ino) {
        self.nodes.insert(ino, Node::File { durable: Vec::new(), pending: Vec::new(), seen: None });
    }

    pub(super) fn changed(&mut self, ino: Ino, change: ContentChange) {
        if let Some(Node::File { pending, seen, .. }) = self.nodes.get_mut(&ino) {
            if let Some(seen) = seen {
                write(seen, &change);
            }
            pending.push(change);
        }
    }

    pub(super) fn renamed(&mut self, directory: Ino, renaming: Renaming) {
        if let Some(Node::Directory { pending, .. }) = self.nodes.get_mut(&directory) {
            pending.push(renaming);
        }
    }

    /// The length of a file as programs see it.
    pub(super) fn length(&self, ino: Ino) -> u64 {
        let Some(Node::File { durable, pending, seen }) = self.nodes.get(&ino) else { return 0 };
        if let Some(seen) = seen {
            return seen.len() as u64;
        }
        pending.iter().fold(durable.len() as u64, |length, change| match change {
            ContentChange::Write(at, bytes) => length.max(at + bytes.len() as u64),
            ContentChange::Truncate(length) => *length,
        })
    }

    /// The names in a directory as programs see them.
    pub(super) fn names(&self, directory: Ino) -> BTreeMap<EntryName, Ino> {
        let Some(Node::Directory { durable, pending }) = self.nodes.get(&directory) else {
            return BTreeMap::new();
        };
        let mut names = durable.clone();
        pending.iter().for_each(|renaming| rename(&mut names, renaming));
        names
    }

    pub(super) fn content(&self, ino: Ino) -> Vec<u8> {
        let Some(Node::File { durable, pending, seen }) = self.nodes.get(&ino) else { return Vec::new() };
        if let Some(seen) = seen {
            return seen.clone();
        }
        let mut content = durable.clone();
        pending.iter().for_each(|change| write(&mut content, change));
        content
    }

    pub(super) fn sync(&mut self, ino: Ino) {
        let mut arrivals = Vec::new();
        match self.nodes.get_mut(&ino) {
            Some(Node::File { durable, pending, .. }) => {
                pending.drain(..).for_each(|change| write(durable, &change));
            }
            Some(Node::Directory { durable, pending }) => {
                for renaming in pending.drain(..) {
                    rename(durable, &renaming);
                    if let Renaming::Away(_, to, _) = renaming {
                        arrivals.push(to);
                    }
                }
            }
            Some(Node::Link) | None => {}
        }
        // A file that was moved away is durable in the directory to which it was moved: every file system does this.
        arrivals.into_iter().filter(|to| *to != ino).for_each(|to| self.sync(to));
    }

    /// Lets a sync of a file fail: programs go on to see what was written, and a later sync makes only later writes durable.
    pub(super) fn spoil(&mut self, ino: Ino) {
        let content = self.content(ino);
        if let Some(Node::File { pending, seen, .. }) = self.nodes.get_mut(&ino)
            && !pending.is_empty()
        {
            *seen = Some(content);
            pending.clear();
        }
    }

    pub(super) fn spoil_all(&mut self) {
        let all: Vec<Ino> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|ino| self.spoil(ino));
    }

    /// Makes everything durable that programs see.
    pub(super) fn settle(&mut self) {
        self.sync_all();
        for node in self.nodes.values_mut() {
            if let Node::File { durable, seen, .. } = node
                && let Some(seen) = seen.take()
            {
                *durable = seen;
            }
        }
    }

    pub(super) fn sync_all(&mut self) {
        let all: Vec<Ino> = self.nodes.keys().copied().collect();
        all.into_iter().for_each(|ino| self.sync(ino));
    }

    /// Loses data that was not synced, as a power cut may.
    pub(super) fn cut(&mut self, random: &mut Random) {
        let mut all: Vec<Ino> = self.nodes.keys().copied().collect();
        all.sort_unstable();
        // First the names: how many changes each directory keeps.
        let mut kept: HashMap<Ino, usize> = HashMap::new();
        for ino in &all {
            if let Some(Node::Directory { pending, .. }) = self.nodes.get(ino)
                && !pending.is_empty()
            {
                kept.insert(*ino, random.below(pending.len() as u64 + 1) as usize);
            }
        }
        let arrived = |shadow: &Self, to: Ino, name: &EntryName, from: &HashMap<Ino, usize>| {
            let Some(Node::Directory { pending, durable }) = shadow.nodes.get(&to) else { return true };
            let until = from.get(&to).copied().unwrap_or(pending.len());
            let mut names = durable.clone();
            pending.iter().take(until).for_each(|renaming| rename(&mut names, renaming));
            names.contains_key(name)
        };
        let before = self.clone();
        for ino in &all {
            match self.nodes.get_mut(ino) {
                Some(Node::Directory { durable, pending }) => {
                    let until = kept.get(ino).copied().unwrap_or(0);
                    for renaming in pending.drain(..).take(until) {
                        if let Renaming::Away(_, to, name) = &renaming
                            && !arrived(&before, *to, name, &kept)
                        {
                            continue;
                        }
                        rename(durable, &renaming);
                    }
                }
                Some(Node::File { durable, pending, seen }) => {
                    *seen = None;
                    let manner = random.below(3);
                    let last = pending.len().saturating_sub(1);
                    for (at, change) in pending.drain(..).enumerate() {
                        let keeps = match manner {
                            0 => false,
                            1 => true,
                            _ => random.once_in(2),
                        };
                        match (keeps, change) {
                            (true, ContentChange::Write(place, mut bytes)) => {
                                if at == last && random.once_in(2) {
                                    bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
                                }
                                write(durable, &ContentChange::Write(place, bytes));
                            }
                            (true, change) => write(durable, &change),
                            (false, _) => {}
                        }
                    }
                }
                Some(Node::Link) | None => {}
            }
        }
    }

    /// What would remain after a power cut that loses everything that was not synced.
    pub(super) fn durable(&self, root: Ino) -> BTreeMap<Vec<u8>, Image> {
        let mut found = BTreeMap::new();
        self.durable_below(root, &[], &mut found);
        found
    }

    fn durable_below(&self, directory: Ino, above: &[u8], found: &mut BTreeMap<Vec<u8>, Image>) {
        let Some(Node::Directory { durable, .. }) = self.nodes.get(&directory) else { return };
        for (name, ino) in durable {
            let path = if above.is_empty() { name.clone() } else { [above, b"/", name].concat() };
            let image = match self.nodes.get(ino) {
                Some(Node::File { durable, .. }) => Image::File(durable.clone()),
                Some(Node::Directory { .. }) => Image::Directory,
                Some(Node::Link) => Image::Link,
                None => continue,
            };
            if image == Image::Directory {
                self.durable_below(*ino, &path, found);
            }
            found.insert(path, image);
        }
    }
}

fn rename(names: &mut BTreeMap<EntryName, Ino>, renaming: &Renaming) {
    match renaming {
        Renaming::Add(name, ino) => drop(names.insert(name.clone(), *ino)),
        Renaming::Remove(name) | Renaming::Away(name, ..) => drop(names.remove(name)),
        Renaming::Within(name, to, ino) => {
            // The name may be missing, if an earlier change was lost.
            names.remove(name);
            names.insert(to.clone(), *ino);
        }
    }
}

fn write(content: &mut Vec<u8>, change: &ContentChange) {
    match change {
        ContentChange::Write(at, bytes) => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(bytes);
        }
        ContentChange::Truncate(length) => content.resize(*length as usize, 0),
    }
}
