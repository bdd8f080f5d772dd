//! Closes descriptors whose close may block, in a thread of its own.
//!
//! The close of a socket with `SO_LINGER` waits for the peer, and the close of a file for its file system: a process
//! may pass a file of a file system that it serves itself (FUSE), and never answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use std::{io, mem, thread};

use rustix::net::sockopt;

/// Most descriptors that wait to be closed. Further ones are leaked.
const MOST: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Disposal<T> {
    sender: SyncSender<(OwnedFd, T)>,
}

impl<T: Send + 'static> Disposal<T> {
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MOST);
        let task = move || receiver.into_iter().for_each(drop);
        // The thread ends after its last descriptor; nobody waits for it.
        thread::Builder::new().name("linger-disposal".into()).spawn(task)?;
        Ok(Self { sender })
    }

    /// Closes a descriptor, and then drops what belongs to it.
    pub(crate) fn close(&self, fd: OwnedFd, with: T) {
        if !may_block(fd.as_fd()) {
            return drop((fd, with));
        }
        match self.sender.try_send((fd, with)) {
            Ok(()) => {}
            // The descriptor is leaked, and its place in its user's share is never given back: better than to wait for its close.
            Err(TrySendError::Full(left) | TrySendError::Disconnected(left)) => mem::forget(left),
        }
    }
}

/// Whether the close of a descriptor may block. True for everything but sockets, which alone have `SO_LINGER`.
pub(crate) fn may_block(fd: BorrowedFd<'_>) -> bool {
    sockopt::socket_linger(fd).map_or(true, |linger| linger.is_some_and(|time| time > Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_socket_that_lingers_and_a_file_may_block() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!may_block(stream.as_fd()));
        // A reset does not wait.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        assert!(!may_block(stream.as_fd()));
        sockopt::set_socket_linger(&stream, Some(Duration::from_secs(1))).unwrap();
        assert!(may_block(stream.as_fd()));
        assert!(may_block(File::open("/dev/null").unwrap().as_fd()));
    }

    #[test]
    fn what_belongs_to_a_descriptor_goes_after_it() {
        struct Tell(mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, told) = mpsc::channel();
        let disposal = Disposal::start().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        disposal.close(writer, Tell(tell));
        told.recv().unwrap();
        // Nobody has the other end any more.
        assert_eq!(rustix::io::read(&reader, &mut [0]), Ok(0));
    }
}
