//! Files before they have their final names: without one, or with one in a work directory.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::sweep::sweep;
use super::{Store, log_name};
use crate::disk;
use crate::fault::Fault;
use crate::path::RelPath;
use crate::root::Root;

/// A directory for incomplete files.
pub(crate) struct WorkDir {
    pub(super) dir: OwnedFd,
    reach: Reach,
    /// Where it lies, if that is not the root of the store.
    top: Option<Top>,
}

impl WorkDir {
    /// Whether a file can get its final name from here, and a later session finds it here.
    fn serves(&self, reach: Reach, dest: &RelPath) -> bool {
        let is_above = |top: &Top| {
            let below = dest.as_bytes().strip_prefix(top.path.as_bytes());
            below.is_some_and(|below| below.starts_with(b"/"))
        };
        self.reach == reach && self.top.as_ref().is_none_or(is_above)
    }
}

/// A directory below the root in which a work directory lies.
struct Top {
    path: RelPath,
    root: Root,
}

/// How far rename(2) and link(2) reach: not beyond a mount, even if the same device is on both sides of it (a bind mount), and
/// not beyond a device, even within a mount (Btrfs subvolumes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    device: u64,
    mount: u64,
}

impl Reach {
    fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let device = rustix::fs::fstat(fd)?.st_dev;
        // Before Linux 5.8, statx(2) does not know the mount.
        let mount = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .ok()
            .filter(|found| found.stx_mask & StatxFlags::MNT_ID.bits() != 0)
            .map_or(0, |found| found.stx_mnt_id);
        Ok(Self { device, mount })
    }
}

/// The name of a file before its final one: none, or one in a work directory.
pub(super) enum Temporary {
    Nameless,
    Named { work: Rc<WorkDir>, name: String },
}

impl Temporary {
    /// Removes the file, and its log if it has one.
    pub(super) fn remove(&self, has_log: bool) {
        if let Self::Named { work, name } = self {
            let _ = disk::unlinkat(&work.dir, name, AtFlags::empty());
            if has_log {
                let _ = disk::unlinkat(&work.dir, log_name(name), AtFlags::empty());
            }
        }
    }
}

impl Store<'_> {
    /// The directory for the unfinished file of `dest`, which will lie in `parent`.
    ///
    /// It lies as far above as rename(2) reaches and this user may write, so that there are few of them and a later session finds
    /// them: in the root, at the top of what is mounted below it, or in a directory of this user's in one of somebody else's.
    pub(super) fn work_for(&mut self, parent: &Rc<OwnedFd>, dest: &RelPath) -> Result<Rc<WorkDir>, Fault> {
        let fault = |error| Fault::new("write into the directory of", dest, error);
        let reach = Reach::of(parent.as_fd()).map_err(fault)?;
        if let Some(work) = self.works.iter().find(|work| work.serves(reach, dest)) {
            return Ok(work.clone());
        }
        // If nothing else: somebody has moved or mounted something meanwhile.
        let mut refused = Errno::XDEV;
        for top in tops(self.root, dest) {
            let top = top.map_err(fault)?;
            let at = top.as_ref().map_or(self.root, |top| &top.root);
            if Reach::of(at.as_fd()).map_err(fault)? != reach {
                continue;
            }
            match at.work() {
                Ok(dir) => return Ok(self.use_work(dir, reach, top)),
                Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => refused = error,
                Err(error) => {
                    let path = at.path().join(crate::path::WORK);
                    return Err(Fault::new("make the work directory", path.display(), error));
                }
            }
        }
        Err(fault(refused))
    }

    fn use_work(&mut self, dir: OwnedFd, reach: Reach, top: Option<Top>) -> Rc<WorkDir> {
        // `Root::tidy` sees by this lock that the directory is used. Without locks for directories, it removes nothing.
        let _ = rustix::fs::flock(&dir, FlockOperation::LockShared);
        if !self.swept.contains(&reach) {
            self.swept.push(reach);
            sweep(dir.as_fd(), SystemTime::now());
        }
        let work = Rc::new(WorkDir { dir, reach, top });
        self.works.push(work.clone());
        work
    }

    /// The directory in which an earlier session has left a file of this name on the way to `dest`.
    pub(super) fn work_with(
        &mut self,
        parent: &Rc<OwnedFd>,
        dest: &RelPath,
        name: &str,
    ) -> Result<Option<Rc<WorkDir>>, Errno> {
        let reach = Reach::of(parent.as_fd())?;
        let has_it = |dir: &OwnedFd| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if let Some(work) = self.works.iter().find(|work| work.serves(reach, dest) && has_it(&work.dir)) {
            return Ok(Some(work.clone()));
        }
        for top in tops(self.root, dest) {
            let top = top?;
            let at = top.as_ref().map_or(self.root, |top| &top.root);
            if let Some(dir) = at.existing_work().filter(has_it)
                && Reach::of(at.as_fd())? == reach
            {
                return Ok(Some(self.use_work(dir, reach, top)));
            }
        }
        Ok(None)
    }

    /// Calls `see` with each work directory that there is on the way to `dest`, and with the directory in which it lies unless
    /// that is the root.
    pub(super) fn existing_works(&self, dest: &RelPath, mut see: impl FnMut(OwnedFd, Option<&Root>)) {
        for top in tops(self.root, dest) {
            let Ok(top) = top else { return };
            let at = top.as_ref().map_or(self.root, |top| &top.root);
            if let Some(work) = at.existing_work() {
                see(work, top.as_ref().map(|top| &top.root));
            }
        }
    }

    /// Removes what this store leaves over of its work directories.
    pub(super) fn tidy_works(&mut self) {
        // The session's own locks go with their fds.
        let tops: Vec<_> = self.works.drain(..).filter_map(|work| Rc::into_inner(work)?.top).collect();
        self.root.tidy();
        tops.iter().for_each(|top| top.root.tidy());
    }

    /// Removes the work directory in a directory that is complete: a later removal would change the directory's time.
    pub(super) fn tidy_work_in(&mut self, directory: &RelPath) {
        let lies_there = |work: &mut Rc<WorkDir>| work.top.as_ref().is_some_and(|top| top.path == *directory);
        let done: Vec<_> = self.works.extract_if(.., lies_there).collect();
        for top in done.into_iter().filter_map(|work| Rc::into_inner(work)?.top) {
            top.root.tidy();
        }
    }

    /// Forgets a work directory that another session has removed, because it was empty.
    pub(super) fn forget_work(&mut self, gone: &Rc<WorkDir>) {
        self.works.retain(|work| !Rc::ptr_eq(work, gone));
    }

    /// Calls `act` with the work directory for `dest`. Tries again, up to 5 times, if another session has removed the empty
    /// directory.
    pub(super) fn in_work<T>(
        &mut self,
        parent: &Rc<OwnedFd>,
        dest: &RelPath,
        mut act: impl FnMut(&WorkDir) -> Result<T, Errno>,
    ) -> Result<(Rc<WorkDir>, Result<T, Errno>), Fault> {
        let mut tries = 0;
        loop {
            let work = self.work_for(parent, dest)?;
            let done = act(&work);
            tries += 1;
            if !matches!(done, Err(Errno::NOENT)) || tries == 5 {
                return Ok((work, done));
            }
            self.forget_work(&work);
        }
    }

    /// Makes a temporary file in the file system of `parent`, with `mode` (and at least 0600) less the umask.
    ///
    /// With O_TMPFILE it has no name, leaves nothing behind when the process is killed, and costs less.
    pub(super) fn temporary(
        &mut self,
        parent: &Rc<OwnedFd>,
        dest: &RelPath,
        mode: u32,
    ) -> Result<(Temporary, OwnedFd), Fault> {
        let fault = |error| Fault::new("create a temporary file for", dest, error);
        let mode = Mode::from_raw_mode(mode | 0o600);
        if self.nameless {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            match disk::openat(&**parent, ".", flags, mode) {
                Ok(file) => return Ok((Temporary::Nameless, file)),
                Err(Errno::OPNOTSUPP | Errno::ISDIR) => self.nameless = false,
                Err(error) => return Err(fault(error)),
            }
        }
        let name = self.next_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (work, file) = self.in_work(parent, dest, |work| disk::openat(&work.dir, &name, flags, mode))?;
        Ok((Temporary::Named { work, name }, file.map_err(fault)?))
    }

    pub(super) fn next_name(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.prefix, self.count)
    }
}

/// The root (`None`), and the directories below it on the way to `dest`.
fn tops<'a>(root: &'a Root, dest: &RelPath) -> impl Iterator<Item = Result<Option<Top>, Errno>> + use<'a> {
    let mut last: Option<Root> = None;
    // One name after the other: a path from the root for each would take the square of the depth.
    let below = move |path: RelPath| {
        let name = RelPath::new(path.name()).map_err(|_| Errno::INVAL)?;
        let root = last.as_ref().unwrap_or(root).below(&name)?;
        last = Some(root.again()?);
        Ok(Some(Top { path, root }))
    };
    std::iter::once(Ok(None)).chain(above(dest).into_iter().map(below))
}

/// The directories above a path, the topmost first, without the root.
fn above(path: &RelPath) -> Vec<RelPath> {
    let mut all: Vec<_> = std::iter::successors(path.split().map(|(above, _)| above), |path| {
        path.split().map(|(above, _)| above)
    })
    .filter(|above| !above.is_root())
    .collect();
    all.reverse();
    all
}

/// The process's umask, from /proc: umask(2) could only read it by changing it. 0o777 if it is unknown.
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok()).unwrap_or(0o777)
}
