//! The opener's own part: answers one request after the other until the socket is closed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::messages::{MOST_DESCRIPTORS, MOST_INODES, OpenerAnswer, OpenerRequest, receive, send};
use crate::kernel::ring::{Ring, RingError, Subscription};
use crate::kernel::seccomp;
use crate::namespace_id::NamespaceId;
use crate::privilege;
use crate::privileged::Privileged;

/// Rings that are opened of a processor, and in which time: it may go and come with each sleep of the machine. Who asks keeps them
/// as long as he likes, and they are locked memory of the kernel's.
pub(super) const RINGS: (usize, Duration) = (16, Duration::from_secs(16 * 3_600));

#[derive(Debug, Default)]
struct OpenerState {
    /// What is opened on each processor, once that is said.
    sources: Option<Vec<Subscription>>,
    privileged: Privileged,
    /// When rings of each processor were opened.
    opened: HashMap<i32, Vec<Instant>>,
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
            OpenerRequest::Processor { cpu, size } => match self.processor(cpu, size) {
                Ok(ring) => Ok(PreparedAnswer { ring: Some(ring), ..OpenerAnswer::Done.into() }),
                Err(RingError::Locked) => Ok(OpenerAnswer::Locked.into()),
                Err(RingError::Other(error)) => Err(error),
            },
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

    fn processor(&mut self, cpu: i32, size: usize) -> Result<Ring, RingError> {
        let now = Instant::now();
        if let Some(opened) = self.opened.get_mut(&cpu) {
            opened.retain(|at| now - *at < RINGS.1);
            if opened.len() >= RINGS.0 {
                return Err(io::Error::from_raw_os_error(libc::EDQUOT).into());
            }
        }
        let ring = Ring::open(self.sources.as_deref().unwrap_or_default(), cpu, size)?;
        if !ring.events.is_empty() {
            self.opened.entry(cpu).or_default().push(now);
        }
        Ok(ring)
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
