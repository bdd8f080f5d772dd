//! [`Opener`]: a process of its own that keeps the capabilities which watching needs after its start, and hands out what it opens.
//!
//! It is a child that was forked before anything else was done. It reads no packet and no event; it answers five fixed requests
//! ([`OpenerRequest`]) with descriptors, pids and inodes, and ends when the socket to it is closed.

mod messages;
mod serve;

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

use self::messages::{MOST_INODES, OpenerAnswer, OpenerRequest};
use crate::kernel::fork;
use crate::kernel::leftovers::Leftovers;
use crate::kernel::ring::{Ring, RingError, Subscription};
use crate::namespace_id::NamespaceId;
use crate::privileged::{FoundNamespaces, NamespaceFiles};

/// Longest wait for an answer. To look at all descriptors of the largest hosts takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for its end. Where it is held up, the kernel ends it with this process.
const GOODBYE: Duration = Duration::from_secs(1);

/// The process that opens for this one what takes capabilities.
#[derive(Debug)]
pub struct Opener {
    socket: UnixStream,
    /// `None` in tests, where a thread answers.
    process: Option<Pid>,
    has_ended: bool,
}

impl Opener {
    /// Starts the process. It must be done while this process has one thread, and before anything is open that the other should not
    /// have.
    ///
    /// # Errors
    /// Returns the errors of `socketpair(2)` and `fork(2)`, and an error if this process has other threads.
    pub fn start() -> io::Result<Self> {
        let (socket, other) = UnixStream::pair()?;
        let process = fork::start(c"linger-opener", other.into(), |socket| serve::serve(&socket.into()))?;
        Self::of(socket, Some(process), PATIENCE)
    }

    fn of(socket: UnixStream, process: Option<Pid>, patience: Duration) -> io::Result<Self> {
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self { socket, process, has_ended: false })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        Pid::as_raw(self.process)
    }

    /// Whether it has ended, although nobody told it to, or does not answer.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn ask(&mut self, request: &OpenerRequest) -> io::Result<(OpenerAnswer, Vec<OwnedFd>)> {
        if self.has_ended {
            // What it may still say answers another request.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let answer =
            messages::send(&self.socket, request, &[]).and_then(|()| messages::receive(&self.socket));
        match answer.inspect_err(|_| self.has_ended = true)? {
            (OpenerAnswer::Failed(number), _) => Err(io::Error::from_raw_os_error(number)),
            answer => Ok(answer),
        }
    }

    pub(crate) fn begin(&mut self, sources: &[Subscription]) -> io::Result<()> {
        self.ask(&OpenerRequest::Begin(sources.to_vec())).map(drop)
    }

    pub(crate) fn processor(&mut self, cpu: i32, size: usize) -> Result<Ring, RingError> {
        match self.ask(&OpenerRequest::Processor { cpu, size })? {
            (OpenerAnswer::Locked, _) => Err(RingError::Locked),
            (_, events) => Ring::of_events(events, cpu, size),
        }
    }

    pub(crate) fn namespaces(&mut self) -> io::Result<FoundNamespaces> {
        match self.ask(&OpenerRequest::Namespaces)? {
            (OpenerAnswer::Namespaces(found), _) => Ok(found),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn leftovers(&mut self, id: NamespaceId) -> io::Result<Leftovers> {
        let (_, descriptors) = self.ask(&OpenerRequest::Leftovers(id.inode()))?;
        let socket = descriptors.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Leftovers::of_socket(socket, Some(id)))
    }

    pub(crate) fn survey(&mut self, id: NamespaceId) -> io::Result<NamespaceFiles> {
        match self.ask(&OpenerRequest::Survey(id.inode()))? {
            (OpenerAnswer::Some(which), descriptors) => {
                Ok(NamespaceFiles::of_descriptors(&which, descriptors))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn owners(&mut self, inodes: &[u32]) -> io::Result<Vec<(u32, u32)>> {
        let inodes = &inodes[..inodes.len().min(MOST_INODES)];
        match self.ask(&OpenerRequest::Owners(inodes.to_vec()))? {
            (OpenerAnswer::Owners(owners), _) => Ok(owners),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(GOODBYE));
        // Its end is the end of the stream: then it is gone in a moment.
        let has_closed = loop {
            match self.socket.read(&mut [0; 4096]) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error.kind() == io::ErrorKind::ConnectionReset,
            }
        };
        if self.process.is_some() && has_closed {
            let _ = waitpid(self.process, WaitOptions::empty());
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
