//! Directories and symbolic links, which have no content.

use std::os::fd::AsFd as _;
use std::rc::Rc;

use linger_untrusted::Untrusted;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::{Store, exists, os};
use crate::fault::Fault;
use crate::message::{Durability, Refusal, Time, TreeEntry};
use crate::path::RelPath;
use crate::reason::{Reason, Remedy};
use crate::root::{self, Links};

impl Store<'_> {
    /// Makes a directory, or goes on with one that is there.
    pub(crate) fn make_directory(&mut self, dest: &RelPath) -> Result<(), Fault> {
        if dest.is_root() {
            return Ok(());
        }
        let (parent, name) = self.parent_of(dest)?;
        match rustix::fs::mkdirat(&*parent, os(&name), Mode::RWXU) {
            Ok(()) => {
                if self.grown.last().is_none_or(|last| !Rc::ptr_eq(last, &parent)) {
                    self.grown.push(parent);
                }
                Ok(())
            }
            Err(Errno::EXIST) => match self.root.directory(dest, Links::Refuse) {
                Ok(_) => Ok(()),
                Err(_) => {
                    let told = Reason::from(format!("{dest} exists and is no directory"));
                    Err(Fault(Refusal::Exists, told.with(Remedy::RemoveOrRename)))
                }
            },
            Err(error) => Err(Fault::new("make the directory", dest, error)),
        }
    }

    /// Gives a complete directory its mode and time.
    pub(crate) fn leave_directory(&mut self, dest: &RelPath, mode: u32, time: Time) -> Result<(), Fault> {
        if dest.is_root() {
            return Ok(());
        }
        let dir = self
            .root
            .directory(dest, Links::Refuse)
            .map_err(|error| Fault::new("open the directory", dest, error))?;
        let set = rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode & 0o777))
            .and_then(|()| root::set_mtime(dir.as_fd(), time))
            .and_then(|()| match self.options.durability {
                Durability::Disk => rustix::fs::fsync(&dir),
                Durability::Memory | Durability::Handed => Ok(()),
            });
        let set = set.and_then(|()| self.sync_grown());
        set.map_err(|error| Fault::new("set mode and time of", dest, error))
    }

    /// Makes a symbolic link whose target stays inside `base`.
    pub(crate) fn make_link(&mut self, entry: &TreeEntry, dest: &RelPath) -> Result<(), Fault> {
        if !entry.path.link_stays_inside(&entry.target) {
            let to = Untrusted::from(&*entry.target);
            return Err(Fault(
                Refusal::Forbidden,
                format!("{dest}: the link to {} would lead outside the tree", to.terminal()).into(),
            ));
        }
        let (parent, name) = self.parent_of(dest)?;
        let (name, target) = (os(&name), os(&entry.target));
        match rustix::fs::symlinkat(target, &*parent, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let there = rustix::fs::readlinkat(&*parent, name, Vec::new());
                if there.is_ok_and(|there| there.as_bytes() == entry.target) {
                    return Ok(());
                }
                if !self.options.replace {
                    return Err(exists(dest, true));
                }
                let temporary = self.next_name();
                let (work, made) =
                    self.in_work(&parent, |work| rustix::fs::symlinkat(target, &work.dir, &temporary))?;
                made.and_then(|()| rustix::fs::renameat(&work.dir, &temporary, &*parent, name))
                    .map_err(|error| Fault::new("replace", dest, error))
            }
            Err(error) => Err(Fault::new("make the link", dest, error)),
        }
    }
}
