//! Files before they have their final names: without one, or with one in a work directory.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::sweep::sweep;
use super::{Store, log_name};
use crate::disk;
use crate::fault::Fault;
use crate::path::RelPath;

/// A directory for incomplete files.
pub(super) struct WorkDir {
    pub(super) dir: OwnedFd,
    pub(super) device: u64,
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
    /// The directory for unfinished files on the file system of `parent`.
    pub(super) fn work_for(&mut self, parent: &Rc<OwnedFd>) -> Result<Rc<WorkDir>, Fault> {
        let fault = |error| {
            Fault::new("make the work directory", self.root.path().join(crate::path::WORK).display(), error)
        };
        let device = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_dev).map_err(fault);
        let work = match &self.work {
            Some(work) => work.clone(),
            None => {
                let dir = self.root.work().map_err(fault)?;
                // `Root::tidy` sees by this lock that the directory is used. Without locks for directories, it removes nothing.
                let _ = rustix::fs::flock(&dir, FlockOperation::LockShared);
                if !std::mem::replace(&mut self.has_swept, true) {
                    sweep(dir.as_fd(), SystemTime::now());
                }
                let work = Rc::new(WorkDir { device: device(dir.as_fd())?, dir });
                self.work = Some(work.clone());
                work
            }
        };
        let device = device(parent.as_fd())?;
        if device == work.device {
            return Ok(work);
        }
        // Another file system is mounted inside the tree. rename(2) cannot cross it, so it gets a work directory of
        // its own.
        let made = disk::mkdirat(&**parent, crate::path::WORK, Mode::RWXU);
        if let Err(error) = made
            && error != Errno::EXIST
        {
            return Err(Fault::new("make a work directory on", "the file system mounted there", error));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&**parent, crate::path::WORK, flags, Mode::empty()).map_err(fault)?;
        Ok(Rc::new(WorkDir { dir, device }))
    }

    /// Calls `act` with the work directory. Tries again, up to 5 times, if another session has removed the empty
    /// directory.
    pub(super) fn in_work<T>(
        &mut self,
        parent: &Rc<OwnedFd>,
        mut act: impl FnMut(&WorkDir) -> Result<T, Errno>,
    ) -> Result<(Rc<WorkDir>, Result<T, Errno>), Fault> {
        let mut tries = 0;
        loop {
            let work = self.work_for(parent)?;
            let done = act(&work);
            tries += 1;
            if !matches!(done, Err(Errno::NOENT)) || tries == 5 {
                return Ok((work, done));
            }
            self.work = None;
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
        let (work, file) = self.in_work(parent, |work| disk::openat(&work.dir, &name, flags, mode))?;
        Ok((Temporary::Named { work, name }, file.map_err(fault)?))
    }

    pub(super) fn next_name(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.prefix, self.count)
    }
}

/// The process's umask, from /proc: umask(2) could only read it by changing it. 0o777 if it is unknown.
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok()).unwrap_or(0o777)
}
