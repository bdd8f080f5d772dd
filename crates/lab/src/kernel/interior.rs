//! What a program sees of the file system: the machine's, with a hosts file of the experiment's and a folder of its own.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr::null;

use rustix::fs::{Mode, OFlags};

use crate::program_user::ProgramUser;

/// What a program finds changed in its mount namespace, which goes with it. Nobody else sees any of it.
///
/// All of it is prepared before the process is made: entering makes system calls only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interior {
    /// The text of its `/etc/hosts`.
    pub(crate) names: Option<Vec<u8>>,
    /// The folder in which it begins.
    pub(crate) room: Option<Room>,
    /// As whom it runs; else as who this process is.
    pub(crate) user: Option<NewUser>,
    /// Whether it must not begin without them, where this machine refuses a mount namespace or a mount.
    pub(crate) is_needed: bool,
}

/// Another user than this process.
#[derive(Clone, Debug)]
pub(crate) struct NewUser {
    user: ProgramUser,
    /// The lines of `uid_map` and `gid_map` of a user namespace in which root has these numbers (`user_namespaces(7)`).
    maps: [String; 2],
}

impl NewUser {
    pub(crate) fn new(user: ProgramUser) -> Self {
        Self { user, maps: [user.uid, user.gid].map(|number| format!("{number} 0 1")) }
    }

    /// Makes the calling process, which has one thread, that user.
    ///
    /// # Errors
    /// Returns the errors of `setresuid(2)`, or of making a user namespace where this process may not become another user.
    pub(crate) fn become_it(&self) -> io::Result<()> {
        let ProgramUser { uid, gid } = self.user;
        // SAFETY: changes the identity of this single-threaded child; the list of groups is empty.
        let is_privileged = unsafe { libc::setgroups(0, null()) } == 0;
        if is_privileged {
            // SAFETY: as above.
            let has_group = unsafe { libc::setresgid(gid, gid, gid) } == 0;
            // SAFETY: as above.
            let is_user = has_group && unsafe { libc::setresuid(uid, uid, uid) } == 0;
            return if is_user { Ok(()) } else { Err(io::Error::last_os_error()) };
        }
        // SAFETY: concerns this single-threaded child and its children only.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }?;
        overwrite(c"/proc/self/setgroups", b"deny")?;
        overwrite(c"/proc/self/uid_map", self.maps[0].as_bytes())?;
        overwrite(c"/proc/self/gid_map", self.maps[1].as_bytes())
    }
}

fn overwrite(path: &CStr, content: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content)?;
    Ok(())
}

/// A folder in memory.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// The folder of the machine over which it lies.
    place: CString,
    /// The files in it, by their paths.
    files: Vec<(CString, Vec<u8>)>,
}

impl Room {
    /// Where one can be.
    pub(crate) const PLACES: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/home", "/var/tmp"];

    /// An empty room over the first of these folders that has nothing in it, so that nothing is hidden; `None` if all have something.
    pub(crate) fn empty() -> Option<Self> {
        let is_empty =
            |place: &&str| std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
        let place = Self::PLACES.into_iter().find(is_empty)?;
        CString::new(place).ok().map(|place| Self { place, files: Vec::new() })
    }

    /// Puts a file into it. The name has neither a slash nor a zero in it.
    pub(crate) fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = format!("{}/{name}", self.place.to_string_lossy());
        self.files.push((CString::new(path)?, content.to_vec()));
        Ok(())
    }
}

/// Any folder that is there as long as `/proc` is: covered for a moment to write the hosts file.
const COVERED: &CStr = c"/proc";
const WRITTEN: &CStr = c"/proc/hosts";
const HOSTS: &CStr = c"/etc/hosts";
const LIMIT: &CStr = c"size=256m,mode=1777";

impl Interior {
    /// Moves the calling process, which has one thread, into it.
    ///
    /// # Errors
    /// Returns the errors of `unshare(2)` and `mount(2)` if it is needed.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if self.names.is_none() && self.room.is_none() {
            return Ok(());
        }
        match self.make() {
            Err(error) if self.is_needed => Err(error),
            _ => Ok(()),
        }
    }

    fn make(&self) -> io::Result<()> {
        // SAFETY: concerns this single-threaded child and its children only.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
        // What is mounted from here on does not reach the machine.
        mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_SLAVE, None)?;
        if let Some(names) = &self.names {
            memory(COVERED)?;
            let bound =
                write(WRITTEN, names).and_then(|()| mount(WRITTEN, HOSTS, c"none", libc::MS_BIND, None));
            // SAFETY: takes away what was mounted two lines above; the name is a live C string.
            if unsafe { libc::umount2(COVERED.as_ptr(), libc::MNT_DETACH) } < 0 {
                return Err(io::Error::last_os_error());
            }
            bound?;
        }
        if let Some(room) = &self.room {
            memory(&room.place)?;
            for (path, content) in &room.files {
                write(path, content)?;
            }
            rustix::process::chdir(&*room.place)?;
        }
        Ok(())
    }
}

fn memory(place: &CStr) -> io::Result<()> {
    mount(c"linger", place, c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, Some(LIMIT))
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let data = data.map_or(null(), CStr::as_ptr);
    // SAFETY: all pointers are live C strings, or null where mount(2) allows it.
    match unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn write(path: &CStr, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o755))?;
    let mut rest = content;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest)?;
        rest = &rest[count..];
    }
    Ok(())
}
