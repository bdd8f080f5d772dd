//! Directories and symbolic links, which have no content.

use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use linger_untrusted::Untrusted;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::{Store, beside, os, other_names};
use crate::disk;
use crate::fault::Fault;
use crate::message::{Durability, IfExists, Receipt, Refusal, Time, TreeEntry};
use crate::path::RelPath;
use crate::reason::{Reason, Remedy};
use crate::root::{self, Links};

impl Store<'_> {
    /// Makes a directory, or uses one that exists.
    pub(crate) fn make_directory(&mut self, dest: &RelPath) -> Result<(), Fault> {
        if dest.is_root() {
            return Ok(());
        }
        let (parent, name) = self.parent_of(dest)?;
        // In any case: an earlier session may have made it, and ended before it was synced. If this call fails, what is below it
        // may still be confirmed.
        self.note_grown(parent.clone());
        match disk::mkdirat(&*parent, os(&name), Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match self.root.directory(dest, Links::Refuse) {
                Ok(dir) => self.open_up(dest, &dir),
                Err(Errno::ACCESS) => Err(Fault::new("open the directory", dest, Errno::ACCESS)),
                Err(error) => {
                    let what = if error == Errno::LOOP { "is a link" } else { "exists and is no directory" };
                    let told = Reason::from(format!("{dest} {what}"));
                    Err(Fault(Refusal::Exists, told.with(Remedy::RemoveOrRename)))
                }
            },
            Err(error) => Err(Fault::new("make the directory", dest, error)),
        }
    }

    fn note_grown(&mut self, directory: Rc<OwnedFd>) {
        if self.grown.last().is_none_or(|last| !Rc::ptr_eq(last, &directory)) {
            self.grown.push(directory);
        }
    }

    /// Notes the directories above the top of the transfer, which an earlier session may have made.
    pub(super) fn note_parents(&mut self) {
        self.note_above(&self.parents.clone());
    }

    /// Notes the directories above one that was not announced in this session: it has failed, or did so in an earlier session,
    /// and is there all the same.
    pub(crate) fn note_above(&mut self, path: &RelPath) {
        if self.options.durability != Durability::Disk {
            return;
        }
        let mut path = path.clone();
        while let Some((above, _)) = path.split() {
            match self.root.directory(&above, Links::Refuse) {
                Ok(fd) => self.grown.push(Rc::new(fd)),
                // It exists, because a directory below it was just opened.
                Err(error) => tracing::info!(%error, "a directory cannot be synced"),
            }
            path = above;
        }
    }

    /// Lets this user write into an existing directory of theirs. The directory gets its announced mode once it is
    /// complete.
    fn open_up(&self, dest: &RelPath, dir: &OwnedFd) -> Result<(), Fault> {
        let opened = rustix::fs::fstat(dir).and_then(|stat| {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            if mode.contains(Mode::RWXU) || stat.st_uid != rustix::process::geteuid().as_raw() {
                return Ok(());
            }
            disk::fchmod(dir, mode | Mode::RWXU)
        });
        opened.map_err(|error| Fault::new("write into the directory", dest, error))
    }

    /// Makes the directories above the top of the transfer, as `mkdir -p` does.
    ///
    /// # Errors
    /// Returns what could not be done to one of them, and why.
    pub(super) fn make_parents(&mut self) -> Result<OwnedFd, (&'static str, Errno)> {
        let open = |path: &RelPath| {
            self.root.directory(path, Links::Refuse).map_err(|error| ("open the directory", error))
        };
        let mut fd = open(&RelPath::root())?;
        let mut path = RelPath::root();
        for name in self.parents.clone().as_bytes().split(|byte| *byte == b'/') {
            let make = |error| ("make the directory", error);
            path = path.child(name).map_err(|_| make(Errno::NAMETOOLONG))?;
            match disk::mkdirat(&fd, os(name), Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(make(error)),
            }
            fd = open(&path)?;
        }
        Ok(fd)
    }

    /// Gives a complete directory its announced mode and time. Returns the mode; `None` for the shared directory itself,
    /// which keeps its own.
    pub(crate) fn leave_directory(
        &mut self,
        dest: &RelPath,
        mode: u32,
        time: Time,
    ) -> Result<Option<u32>, Fault> {
        if dest.is_root() {
            return Ok(None);
        }
        self.tidy_work_in(dest);
        let dir = self
            .root
            .directory(dest, Links::Refuse)
            .map_err(|error| Fault::new("open the directory", dest, error))?;
        let mut mode = self.mode(mode, true);
        // In a directory that hands its group down (set-group-ID), mkdir(2) has made one that does so as well.
        let set = rustix::fs::fstat(&dir)
            .map(|there| Mode::from_raw_mode(mode) | Mode::from_raw_mode(there.st_mode) & Mode::SGID)
            .and_then(|mode| disk::fchmod(&dir, mode))
            // Who is not of the group cannot keep that bit; the receipt says which mode it has.
            .and_then(|()| rustix::fs::fstat(&dir))
            .map(|has| mode = has.st_mode & 0o7777)
            .and_then(|()| root::set_mtime(dir.as_fd(), time))
            .and_then(|()| match self.options.durability {
                Durability::Disk | Durability::FileSystem => disk::fsync(&dir),
                Durability::Memory | Durability::Handed => Ok(()),
            });
        let set = set.and_then(|()| self.sync_grown());
        set.map_err(|error| Fault::new("set mode and time of", dest, error))?;
        Ok(Some(mode))
    }

    /// Makes a symbolic link, if its target stays inside the tree. Its receipt is sent with those of the group.
    pub(crate) fn make_link(
        &mut self,
        entry: &TreeEntry,
        dest: &RelPath,
        receipt: Receipt,
    ) -> Result<(), Fault> {
        let name = self.link_in_place(entry, dest)?.as_bytes().to_vec();
        let (parent, _) = self.parent_of(dest)?;
        self.linked.push((parent, Receipt { name, ..receipt }));
        Ok(())
    }

    /// Returns where the link is now: under another name if its own is taken and both are to be kept.
    fn link_in_place(&mut self, entry: &TreeEntry, dest: &RelPath) -> Result<RelPath, Fault> {
        if !entry.path.link_stays_inside(&entry.target) {
            let to = Untrusted::from(&*entry.target);
            return Err(Fault(
                Refusal::Forbidden,
                format!("{dest}: the link to {} would lead outside the tree", to.terminal()).into(),
            ));
        }
        // What is a directory now stays one: nothing here puts a link in the place of a directory.
        if let Some(passed) =
            dest.left_by_link(&entry.target).iter().find(|passed| !self.has_directory(passed))
        {
            let to = Untrusted::from(&*entry.target);
            let told = format!(
                "{dest}: the link to {} could lead outside the tree: {passed} is no directory here",
                to.terminal()
            );
            return Err(Fault(Refusal::Forbidden, told.into()));
        }
        let (parent, name) = self.parent_of(dest)?;
        let target = os(&entry.target);
        let is_there = |name: &[u8]| {
            let there = rustix::fs::readlinkat(&*parent, os(name), Vec::new());
            there.is_ok_and(|there| there.as_bytes() == entry.target)
        };
        match disk::symlinkat(target, &*parent, os(&name)) {
            Ok(()) => return Ok(dest.clone()),
            Err(Errno::EXIST) if is_there(&name) => return Ok(dest.clone()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Fault::new("make the link", dest, error)),
        }
        match self.options.if_exists {
            IfExists::Replace => {
                let temporary = self.next_name();
                let (work, made) =
                    self.in_work(&parent, dest, |work| disk::symlinkat(target, &work.dir, &temporary))?;
                made.and_then(|()| disk::renameat(&work.dir, &temporary, &*parent, os(&name)))
                    .map_err(|error| Fault::new("replace", dest, error))?;
                Ok(dest.clone())
            }
            IfExists::KeepBoth => {
                for other in other_names(&name) {
                    match disk::symlinkat(target, &*parent, os(&other)) {
                        Err(Errno::EXIST) if !is_there(&other) => {}
                        Ok(()) | Err(Errno::EXIST) => return beside(dest, &other),
                        Err(error) => return Err(Fault::new("make the link", dest, error)),
                    }
                }
                Err(self.taken(dest, FileType::RegularFile))
            }
            _ => Err(self.taken(dest, FileType::RegularFile)),
        }
    }
}
