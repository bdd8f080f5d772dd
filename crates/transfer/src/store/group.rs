//! Files that are complete: made durable together, then given their final names.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use linger_untrusted::Untrusted;
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::temporary::Temporary;
use super::{Store, hash_as, log_name, now, os};
use crate::alive::Gauge;
use crate::claim::Claim;
use crate::disk;
use crate::fault::Fault;
use crate::message::{Durability, IfExists, Receipt, Refusal};
use crate::path::RelPath;
use crate::state::PartLog;

/// A complete and verified file that does not have its final name yet.
pub(super) struct Landed {
    pub(super) file: OwnedFd,
    pub(super) temporary: Temporary,
    pub(super) parent: Rc<OwnedFd>,
    pub(super) dest: RelPath,
    pub(super) log: Option<PartLog>,
    /// The claim to the file, released once the file has its final name.
    pub(super) claim: Option<Claim>,
    pub(super) receipt: Receipt,
    pub(super) by_blocks: bool,
}

/// The most files that one syncfs(2) makes durable together.
const GROUP: usize = 256;
/// Up to this many files, each gets an fsync(2) instead.
const FEW: usize = 3;
/// Once a group has this many bytes, it is made durable.
const GROUP_BYTES: u64 = 64 << 20;

impl Store<'_> {
    /// Whether files wait for their final names.
    pub(crate) fn waits(&self) -> bool {
        !self.group.is_empty() || !self.linked.is_empty()
    }

    /// Whether the group should be confirmed now, even if more is to come. Without durability a group has no advantage.
    pub(crate) fn is_due(&self) -> bool {
        self.group.len() + self.linked.len() >= GROUP
            || self.group_bytes >= GROUP_BYTES
            || (self.waits() && self.options.durability != Durability::Disk)
    }

    /// Whether the files of the group are made durable by syncfs(2), and not one by one.
    fn syncs_together(&self) -> bool {
        self.options.durability == Durability::Disk && self.group.len() > FEW
    }

    /// The file systems of the group's files, and a file on each: others may be mounted below the directory that is shared.
    fn systems(&self) -> Result<Vec<(u64, &Landed)>, Errno> {
        let mut systems: Vec<(u64, &Landed)> = Vec::new();
        let mut last: Option<&Rc<OwnedFd>> = None;
        for landed in &self.group {
            if last.replace(&landed.parent).is_some_and(|last| Rc::ptr_eq(last, &landed.parent)) {
                continue;
            }
            let system = rustix::fs::fstat(&landed.file)?.st_dev;
            if !systems.iter().any(|(known, _)| *known == system) {
                systems.push((system, landed));
            }
        }
        Ok(systems)
    }

    /// Returns a closure that makes the waiting files durable, if that was asked for.
    pub(crate) fn syncer(&self) -> Result<Option<impl FnOnce() -> Result<(), Errno> + Send + use<>>, Errno> {
        if self.options.durability != Durability::Disk {
            return Ok(None);
        }
        let whole = self.syncs_together();
        let copy = |landed: &Landed| rustix::io::fcntl_dupfd_cloexec(&landed.file, 0);
        let files: Vec<OwnedFd> = if whole {
            // One syncfs(2) is cheaper than a journal commit for each file.
            self.systems()?.iter().map(|(_, landed)| copy(landed)).collect::<Result<_, _>>()?
        } else {
            self.group.iter().map(copy).collect::<Result<_, _>>()?
        };
        Ok(Some(move || {
            files.iter().try_for_each(|file| if whole { disk::syncfs(file) } else { disk::fsync(file) })
        }))
    }

    /// Renames the waiting files to their final names, and syncs their directories if durability was asked for. `synced` is the
    /// result of [`syncer`](Self::syncer). Returns a receipt or a fault for each file and link.
    pub(crate) fn commit(&mut self, synced: Result<(), Errno>) -> Vec<Result<Receipt, (u64, Fault)>> {
        self.group_bytes = 0;
        let disk = self.options.durability == Durability::Disk;
        if self.syncs_together() && synced.is_ok() {
            self.forget_synced();
        }
        let durability = if self.syncs_together() { Durability::FileSystem } else { self.options.durability };
        let sync_failed = synced.is_err();
        let synced = synced.and_then(|()| self.sync_grown());
        let mut results = Vec::with_capacity(self.group.len());
        let mut last_parent: Option<Rc<OwnedFd>> = None;
        let mut directories: Result<(), Errno> = Ok(());
        let mut finish = |parent: Option<Rc<OwnedFd>>| match parent {
            Some(parent) if disk && directories.is_ok() => directories = disk::fsync(&*parent),
            _ => {}
        };
        let now = now();
        for landed in std::mem::take(&mut self.group) {
            let index = landed.receipt.index;
            let dest = &landed.dest;
            let named = match synced {
                Ok(()) => self.name(&landed),
                Err(error) => Err(Fault::new("make durable", dest, error)),
            };
            // An older session of the same transfer may have given the name to the same content meanwhile.
            let present = matches!(&named, Err(Fault(Refusal::Exists, _))) && self.has_same(&landed);
            let named = if present {
                landed.temporary.remove(false);
                Ok(())
            } else {
                named
            };
            match named {
                Ok(()) => {
                    if let (Temporary::Named { work, name }, Some(_)) = (&landed.temporary, &landed.log) {
                        let _ = disk::unlinkat(&work.dir, log_name(name), AtFlags::empty());
                    }
                    if last_parent.as_ref().is_none_or(|last| !Rc::ptr_eq(last, &landed.parent)) {
                        finish(last_parent.replace(landed.parent));
                    }
                    drop(landed.claim);
                    results.push(Ok(Receipt { time: now, present, durability, ..landed.receipt }));
                }
                Err(fault) => {
                    landed.claim.iter().filter(|_| sync_failed).for_each(Claim::mark_unsynced);
                    landed.temporary.remove(landed.log.is_some());
                    results.push(Err((index, fault)));
                }
            }
        }
        for (parent, receipt) in std::mem::take(&mut self.linked) {
            match synced {
                Ok(()) => {
                    if last_parent.as_ref().is_none_or(|last| !Rc::ptr_eq(last, &parent)) {
                        finish(last_parent.replace(parent));
                    }
                    results.push(Ok(Receipt { time: now, ..receipt }));
                }
                Err(error) => {
                    let name = Untrusted::from(&*receipt.name).terminal().to_string();
                    results.push(Err((receipt.index, Fault::new("make durable", name, error))));
                }
            }
        }
        finish(last_parent);
        if let Err(error) = directories {
            for result in &mut results {
                if let Ok(receipt) = result {
                    let fault = Fault::new(
                        "make durable the directory of",
                        Untrusted::from(&*receipt.name).terminal(),
                        error,
                    );
                    *result = Err((receipt.index, fault));
                }
            }
        }
        results
    }

    /// Forgets directories that syncfs(2) has made durable with the group: those on the same file systems.
    fn forget_synced(&mut self) {
        let Ok(systems) = self.systems() else { return };
        let systems: Vec<u64> = systems.iter().map(|(system, _)| *system).collect();
        self.grown.retain(|directory| {
            !rustix::fs::fstat(directory).is_ok_and(|stat| systems.contains(&stat.st_dev))
        });
    }

    /// Syncs the directories that got subdirectories: without their entries nothing below can be found after a crash.
    pub(super) fn sync_grown(&mut self) -> Result<(), Errno> {
        if self.options.durability == Durability::Disk {
            self.grown.iter().try_for_each(|directory| disk::fsync(&**directory))?;
        }
        self.grown.clear();
        Ok(())
    }

    /// For a file that was complete here already: makes the directories above it durable.
    pub(crate) fn settle_above(&mut self, dest: &RelPath) -> Result<(), Fault> {
        self.sync_grown().map_err(|error| Fault::new("make durable the directories of", dest, error))
    }

    /// Whether the file under the final name has the same content. False if there is no hash to compare.
    fn has_same(&self, landed: &Landed) -> bool {
        let Ok((file, stat)) = self.root.file(&landed.dest) else { return false };
        landed.receipt.hash.is_some()
            && stat.st_size as u64 == landed.receipt.size
            && hash_as(file.as_fd(), landed.by_blocks, &Gauge::default())
                .is_ok_and(|(hash, _)| Some(hash) == landed.receipt.hash)
    }

    /// Gives one file its final name, atomically.
    fn name(&mut self, landed: &Landed) -> Result<(), Fault> {
        let replace = self.options.if_exists == IfExists::Replace;
        let dest = &landed.dest;
        let to = os(dest.name());
        let named = match &landed.temporary {
            Temporary::Named { work, name } => {
                let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
                disk::renameat_with(&work.dir, name, &*landed.parent, to, flags)
            }
            Temporary::Nameless => match disk::link(&landed.file, &landed.parent, to) {
                // linkat(2) cannot replace a file, so this makes a temporary name and renames that.
                Err(Errno::EXIST) if replace => {
                    let name = self.next_name();
                    let (work, linked) = self.in_work(&landed.parent, dest, |work| {
                        disk::link(&landed.file, &work.dir, Path::new(&name))
                    })?;
                    linked
                        .and_then(|()| disk::renameat(&work.dir, &name, &*landed.parent, to))
                        .inspect_err(|_| Temporary::Named { work, name }.remove(false))
                }
                other => other,
            },
        };
        named.map_err(|error| match error {
            Errno::EXIST => self.taken(dest, FileType::RegularFile),
            Errno::ISDIR | Errno::NOTEMPTY => self.taken(dest, FileType::Directory),
            error => Fault::new("give its final name to", dest, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cancel::Cancel;
    use crate::claim::{Claimant, Claims};
    use crate::message::{Kind, Options, Time, TreeEntry};
    use crate::root::Root;

    /// How many file systems are synced for four files, two of them in a directory.
    fn synced(top: &Path) -> usize {
        let root = Root::open(top).unwrap();
        let (if_exists, durability) = (IfExists::Fail, Durability::Disk);
        let options = Options { if_exists, verify: true, dry_run: false, durability };
        let claims = Arc::new(Claims::default());
        let cancel = Cancel::new().unwrap();
        let claimant = Claimant { claims, session: 1, transfer: [0; 16], cancel, activity: Arc::default() };
        let mut store = Store::new(&root, options, claimant);
        for (index, name) in (0..).zip(["a", "b", "inner/c", "inner/d"]) {
            let dest = RelPath::new(name.as_bytes()).unwrap();
            let entry = TreeEntry {
                index,
                kind: Kind::File,
                path: dest.clone(),
                mode: 0o640,
                mtime: Some(Time::default()),
                size: Some(1),
                token: [0; 16],
                hash: None,
                sparse: false,
                by_blocks: false,
                target: Vec::new(),
            };
            let landing = store.begin(entry, dest, None, None).unwrap();
            let mut tail = crate::hash::Pieces::default();
            tail[0] = b"x";
            store.land(landing, tail, 1, None).unwrap();
        }
        let systems = store.systems().unwrap().len();
        let synced = store.syncer().unwrap().unwrap()();
        assert_eq!(store.commit(synced).iter().filter(|result| result.is_ok()).count(), 4);
        systems
    }

    #[test]
    fn each_file_system_of_a_group_is_synced() {
        linger_testing::secluded(|| {
            let top = tempfile::tempdir().unwrap();
            let inner = top.path().join("inner");
            std::fs::create_dir(&inner).unwrap();
            assert_eq!(synced(top.path()), 1);
            for name in ["a", "b", "inner/c", "inner/d"] {
                std::fs::remove_file(top.path().join(name)).unwrap();
            }
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", &inner, "tmpfs", flags, None).unwrap();
            assert_eq!(synced(top.path()), 2);
        });
    }
}
