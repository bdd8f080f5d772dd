//! The opener's own part: answers one request after the other until the socket is closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::messages::{MOST_DESCRIPTORS, OpenerAnswer, OpenerRequest, receive, send};
use crate::kernel::ring::{Ring, RingError, Subscription};
use crate::kernel::seccomp;
use crate::namespace_id::NamespaceId;
use crate::privilege;
use crate::privileged::Privileged;

/// Most inodes whose holders are sought at a time.
const MOST_INODES: usize = 65_536;

#[derive(Debug, Default)]
struct OpenerState {
    /// What is opened on each processor, once that is said.
    sources: Option<Vec<Subscription>>,
    privileged: Privileged,
    /// The ring that was opened last. Mapped in two processes its memory counts once; it is unmapped here when the other has had it.
    ring: Option<Ring>,
}

/// Answers requests until the other end is closed.
pub(super) fn serve(socket: &UnixStream) {
    // What fails here it can do without. Where a filter kills for one of the calls that the other process makes later (systemd's
    // SystemCallFilter without SystemCallErrorNumber), it kills this process, and the other goes on as it is. Landlock itself would
    // hide all processes from this one: it lets nobody look at a process outside of its own domain (`ptrace_may_access`).
    let _ = privilege::give_up_capabilities();
    privilege::rehearse();
    let _ = seccomp::refuse(seccomp::OPENER);
    let mut served = OpenerState::default();
    while let Ok((request, _)) = receive::<OpenerRequest>(socket) {
        if served.answer(socket, request).is_err() {
            return;
        }
    }
}

impl OpenerState {
    fn answer(&mut self, socket: &UnixStream, request: OpenerRequest) -> io::Result<()> {
        self.ring = None;
        match self.prepared(request) {
            Ok(PreparedAnswer { answer, descriptors, ring }) => {
                self.ring = ring;
                let events = self.ring.iter().flat_map(|ring| &ring.events).map(AsFd::as_fd);
                let all: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).chain(events).collect();
                if all.len() > MOST_DESCRIPTORS {
                    return send(socket, &OpenerAnswer::Failed(libc::EMFILE), &[]);
                }
                send(socket, &answer, &all)
            }
            Err(error) => send(socket, &OpenerAnswer::Failed(error.raw_os_error().unwrap_or(libc::EIO)), &[]),
        }
    }

    fn prepared(&mut self, request: OpenerRequest) -> io::Result<PreparedAnswer> {
        match request {
            OpenerRequest::Begin(_) if self.sources.is_some() => {
                Err(io::Error::from_raw_os_error(libc::EPERM))
            }
            OpenerRequest::Begin(sources) => {
                self.sources = Some(sources);
                // What was found before it was asked is known here as well.
                self.privileged.namespaces();
                Ok(OpenerAnswer::Done.into())
            }
            OpenerRequest::Processor { cpu, size } => {
                let sources = self.sources.as_deref().unwrap_or_default();
                match Ring::open(sources, cpu, size) {
                    Ok(ring) => Ok(PreparedAnswer { ring: Some(ring), ..OpenerAnswer::Done.into() }),
                    Err(RingError::Locked) => Ok(OpenerAnswer::Locked.into()),
                    Err(RingError::Other(error)) => Err(error),
                }
            }
            OpenerRequest::Namespaces => Ok(OpenerAnswer::Namespaces(self.privileged.namespaces()).into()),
            OpenerRequest::Leftovers(inode) => {
                let leftovers = self.privileged.leftovers(NamespaceId::from_inode(inode))?;
                Ok(PreparedAnswer { descriptors: vec![leftovers.into_socket()], ..OpenerAnswer::Done.into() })
            }
            OpenerRequest::Survey(inode) => {
                let files = self.privileged.survey(NamespaceId::from_inode(inode))?;
                let (which, descriptors) = files.into_descriptors();
                Ok(PreparedAnswer { descriptors, ..OpenerAnswer::Some(which).into() })
            }
            OpenerRequest::Owners(mut inodes) => {
                inodes.truncate(MOST_INODES);
                Ok(OpenerAnswer::Owners(self.privileged.owners(&inodes)).into())
            }
        }
    }
}

/// An answer, and what goes with it.
struct PreparedAnswer {
    answer: OpenerAnswer,
    descriptors: Vec<std::os::fd::OwnedFd>,
    ring: Option<Ring>,
}

impl From<OpenerAnswer> for PreparedAnswer {
    fn from(answer: OpenerAnswer) -> Self {
        Self { answer, descriptors: Vec::new(), ring: None }
    }
}
