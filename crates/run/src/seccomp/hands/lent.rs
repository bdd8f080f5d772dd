//! Sockets and epolls that the supervisor has made or accepted in the program's place, where its fds cannot be copied.
//!
//! The profiles of containers refuse `pidfd_getfd(2)`, and permit a supervisor to install an fd of its own in the program
//! (`SECCOMP_IOCTL_NOTIF_ADDFD`). So it keeps a copy of what it gives, and finds it again by the inode that the program's fd
//! names in `/proc`. Epolls have no inode of their own: they are found by the fd that they were given.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use linger_custody::world::Inode;
use rustix::io::Errno;

use crate::seccomp::eyes;

/// Copies of the fds that were lent to the program, shared by the code that lends them and the code that looks them up.
#[derive(Clone, Debug, Default)]
pub(in crate::seccomp) struct Lent(Rc<RefCell<Copies>>);

#[derive(Debug, Default)]
struct Copies {
    /// By inode: sockets that may come to listen.
    sockets: HashMap<u64, OwnedFd>,
    /// By inode: accepted connections, as long as they are held.
    connections: HashMap<u64, OwnedFd>,
    /// By process and fd.
    epolls: HashMap<(u32, RawFd), OwnedFd>,
    /// An `execve` may have closed what is open here.
    stale: bool,
}

impl Lent {
    /// Keeps a copy of a socket that the program was given.
    pub(in crate::seccomp) fn socket(&self, copy: OwnedFd) {
        if let Ok(status) = rustix::fs::fstat(&copy) {
            self.0.borrow_mut().sockets.insert(status.st_ino, copy);
        }
    }

    /// Keeps a copy of an accepted connection.
    pub(super) fn connection(&self, copy: OwnedFd) {
        if let Ok(status) = rustix::fs::fstat(&copy) {
            self.0.borrow_mut().connections.insert(status.st_ino, copy);
        }
    }

    /// Keeps a copy of an epoll that the program was given as `fd`.
    pub(in crate::seccomp) fn epoll(&self, process: u32, fd: RawFd, copy: OwnedFd) {
        self.0.borrow_mut().epolls.insert((process, fd), copy);
    }

    /// A copy of a thread's `fd`, if that was lent.
    pub(super) fn take(&self, process: u32, thread: u32, fd: RawFd) -> rustix::io::Result<OwnedFd> {
        let link = fs::read_link(format!("/proc/{thread}/fd/{fd}")).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Errno::PERM,
            _ => Errno::BADF,
        })?;
        let copies = self.0.borrow();
        let found = match eyes::kind(&link) {
            Some(eyes::Open::Socket(inode)) => {
                copies.sockets.get(&inode).or_else(|| copies.connections.get(&inode))
            }
            Some(eyes::Open::Epoll) => copies.epolls.get(&(process, fd)),
            Some(eyes::Open::Ring) | None => None,
        };
        rustix::io::fcntl_dupfd_cloexec(found.ok_or(Errno::NOENT)?, 0)
    }

    /// Closes the copy of a socket.
    pub(in crate::seccomp) fn forget(&self, socket: impl AsFd) {
        if let Ok(status) = rustix::fs::fstat(socket) {
            let mut copies = self.0.borrow_mut();
            copies.sockets.remove(&status.st_ino);
            copies.connections.remove(&status.st_ino);
        }
    }

    /// Whether a process was given an epoll as an fd that it `closes`.
    pub(in crate::seccomp) fn has_epoll(&self, process: u32, closes: impl Fn(RawFd) -> bool) -> bool {
        self.0.borrow().epolls.keys().any(|(owner, fd)| *owner == process && closes(*fd))
    }

    /// Called before a process closes fds. If no fd of the program names a copy's file afterwards, the copy must not
    /// stay open: a listener would keep its port.
    pub(in crate::seccomp) fn closing(&self, process: u32, closed: impl Fn(RawFd) -> bool) {
        self.0.borrow_mut().epolls.retain(|(owner, fd), _| *owner != process || !closed(*fd));
        let open = eyes::open(process).filter(|(fd, _)| closed(*fd));
        let inodes: Vec<u64> = open.filter_map(|(_, kind)| kind.inode()).collect();
        if inodes.iter().any(|inode| self.0.borrow().sockets.contains_key(inode)) {
            self.sweep(|holder, fd| holder == process && closed(fd));
        }
    }

    /// Called before a process makes an `execve`, which closes some of its fds.
    pub(in crate::seccomp) fn executing(&self) {
        self.0.borrow_mut().stale = true;
    }

    /// After an `execve` (a later call shows that it is over): closes the copies of sockets that it has closed.
    pub(in crate::seccomp) fn refresh(&self) {
        if std::mem::take(&mut self.0.borrow_mut().stale) {
            self.sweep(|_, _| false);
        }
    }

    /// Closes the copies of sockets that no process of the program has open, apart from fds that are `going`.
    pub(in crate::seccomp) fn sweep(&self, going: impl Fn(u32, RawFd) -> bool) {
        if self.0.borrow().sockets.is_empty() {
            return;
        }
        let census = eyes::census();
        // A process that cannot be looked at may have one of them: it is closed here as well, and its connections then
        // end plainly.
        let is_open = |inode: &u64| {
            let names = census.names.get(&Inode(*inode)).into_iter().flatten();
            names.into_iter().any(|name| !going(name.pid.0, name.fd))
        };
        self.0.borrow_mut().sockets.retain(|inode, _| is_open(inode));
    }
}
