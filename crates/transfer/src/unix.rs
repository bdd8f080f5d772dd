//! Unix sockets: listening on a path, connecting to one, and whose the other end is.
//!
//! No forward of ports leads to such a socket, no other host reaches it, and the kernel says whose process is at the other
//! end. A program that this user runs can still pass on to it what comes from elsewhere.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::cancel::{Cancel, Stopped};

/// Connections that wait for accept(2).
const BACKLOG: i32 = 1024;

/// A socket that listens on a path. The path is removed when this is dropped.
#[derive(Debug)]
pub struct PathListener {
    listener: UnixListener,
    /// Dropped first, which ends the thread.
    serving: Option<Sender<Infallible>>,
    remover: Option<JoinHandle<()>>,
}

impl PathListener {
    /// Listens on `path`. A socket that nobody listens on any more is replaced; anything else at that path is left alone.
    ///
    /// By the file's mode, only this user and root may connect; with `everybody`, all users who can reach the path. The server
    /// asks the kernel for each peer's user as well.
    ///
    /// # Errors
    /// Returns the errors of `bind(2)`: `AddrInUse` if something is there, `InvalidInput` if the path has more than 107
    /// bytes.
    pub fn bind(path: &Path, everybody: bool) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && linger_sys::is_forsaken(path)? => {
                fs::remove_file(path)?;
                socket.bind(&address)?;
            }
            other => other?,
        }
        // Nobody can connect before listen(2).
        fs::set_permissions(path, Permissions::from_mode(if everybody { 0o666 } else { 0o600 }))?;
        let made = inode(path)?;
        socket.listen(BACKLOG)?;
        let (serving, over) = channel();
        let path = std::path::absolute(path)?;
        // The thread is started before the server confines itself (Landlock), so it may still remove the path then.
        let remover = std::thread::Builder::new().spawn(move || remove_at_end(&path, made, &over))?;
        Ok(Self { listener: socket.into(), serving: Some(serving), remover: Some(remover) })
    }

    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for PathListener {
    fn drop(&mut self) {
        drop(self.serving.take());
        if let Some(remover) = self.remover.take() {
            let _ = remover.join();
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|stat| (stat.dev(), stat.ino()))
}

/// Removes the path once the other end of `over` is gone, unless something else has the path by then.
fn remove_at_end(path: &Path, made: (u64, u64), over: &Receiver<Infallible>) {
    let Err(_) = over.recv();
    if inode(path).is_ok_and(|now| now == made) {
        let _ = fs::remove_file(path);
    }
}

/// The user whose process made the other end of a connection, or listened for it (`SO_PEERCRED`).
pub(crate) fn peer_user(stream: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Whether a user is this process's own, or root.
pub(crate) fn is_own_user(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Connects within `timeout`; `cancel` ends the attempt.
pub(crate) fn connect(path: &Path, timeout: Duration, cancel: &Cancel) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let until = crate::host::now() + timeout;
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            // The accept queue is full. The kernel tells nobody when it no longer is.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(|()| socket.into()),
        }
        if crate::host::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if cancel.wait(Duration::from_millis(20)) {
            return Err(io::Error::other(Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    fn try_connect(path: &Path) -> io::Result<UnixStream> {
        connect(path, Duration::from_secs(1), &Cancel::new().unwrap())
    }

    #[test]
    fn the_path_is_there_as_long_as_the_listener() {
        let (_dir, path) = place();
        for (everybody, expected) in [(false, 0o600), (true, 0o666)] {
            let listener = PathListener::bind(&path, everybody).unwrap();
            assert_eq!(mode(&path), expected);
            let client = try_connect(&path).unwrap();
            let (served, _) = listener.listener().accept().unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!((peer_user(&served).unwrap(), peer_user(&client).unwrap()), (own, own));
            drop(listener);
            assert!(!path.exists());
            assert_eq!(try_connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn only_a_socket_without_a_listener_is_replaced() {
        let (_dir, path) = place();
        // A plain listener of the standard library leaves its path behind.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(try_connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let first = PathListener::bind(&path, false).unwrap();
        let in_use = |path: &Path| {
            assert_eq!(PathListener::bind(path, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        };
        in_use(&path);
        assert!(try_connect(&path).is_ok(), "the first one is not disturbed");
        drop(first);
        fs::write(&path, "precious").unwrap();
        in_use(&path);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let gone = path.with_file_name("gone");
        std::os::unix::fs::symlink(&gone, &path).unwrap();
        in_use(&path);
        assert!(!gone.exists());
    }

    #[test]
    fn what_another_has_put_at_the_path_stays() {
        let (_dir, path) = place();
        let listener = PathListener::bind(&path, false).unwrap();
        fs::remove_file(&path).unwrap();
        let other = PathListener::bind(&path, false).unwrap();
        drop(listener);
        assert!(try_connect(&path).is_ok());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn a_full_queue_is_waited_for_and_the_wait_can_be_ended() {
        let (_dir, path) = place();
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener: UnixListener = socket.into();
        let first = try_connect(&path).unwrap();
        let cancel = Cancel::new().unwrap();
        let late = connect(&path, Duration::from_millis(50), &cancel).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| connect(&path, Duration::from_secs(60), &cancel));
            drop(listener.accept().unwrap());
            assert!(waits.join().unwrap().is_ok(), "there is room once one was accepted");
        });
        cancel.cancel();
        let ended = connect(&path, Duration::from_secs(60), &cancel).unwrap_err();
        assert!(ended.get_ref().is_some_and(|why| why.is::<Stopped>()), "{ended}");
        drop(first);
    }

    #[test]
    fn root_and_the_own_user_are_trusted_and_nobody_else() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_own_user(own) && is_own_user(0));
        assert!(!is_own_user(own + 1) && !is_own_user(65534));
    }
}
