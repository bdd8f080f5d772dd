//! What both ends need from the machine on which they run: the time, waiting, random bytes, threads, connections.
//!
//! In a program, the kernel provides these. A simulation takes the kernel's place on its own thread, so that the same
//! code of both ends runs with a clock, a network and a disk that a seed decides. `disk.rs` has the calls that
//! change files.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use rustix::event::{PollFd, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::transport::Transport;

/// What a simulation does in place of the kernel.
pub(crate) trait HostCalls {
    fn now(&self) -> Instant;
    fn poll(&self, fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno>;
    fn random(&self, into: &mut [u8]);
    /// Lets other threads run for `time`.
    fn pause(&self, time: std::time::Duration);
    /// A name for the current boot of the calling end's machine.
    fn boot(&self) -> Vec<u8>;
    /// Starts a thread in the calling end's process.
    fn start(&self, work: Box<dyn FnOnce()>);
    fn connect(&self) -> io::Result<Box<dyn Transport>>;
    /// Runs a sink's command.
    fn command(&self, content: &[u8]) -> io::Result<()>;
    /// Called before each call that changes a file system. Returns false if the simulation has done the call itself.
    fn before(&self, call: &DiskCall<'_>) -> Result<bool, Errno>;
    /// Called after each such call that succeeded.
    fn after(&self, call: &DiskCall<'_>);
    /// Whether the code under test is to break `rule`, so that a simulation can show that it finds the fault.
    fn lacks(&self, rule: Rule) -> bool;
}

/// A call that changes a file system.
#[cfg_attr(not(any(test, feature = "simulation")), allow(dead_code))] // Only a simulation looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DiskCall<'a> {
    /// Opens a file for writing, and may make or empty it.
    Open {
        dir: BorrowedFd<'a>,
        name: &'a Path,
        flags: OFlags,
    },
    /// A file that the last `Open` has opened.
    Opened {
        dir: BorrowedFd<'a>,
        name: &'a Path,
        flags: OFlags,
        file: BorrowedFd<'a>,
    },
    MakeDirectory {
        dir: BorrowedFd<'a>,
        name: &'a Path,
    },
    Remove {
        dir: BorrowedFd<'a>,
        name: &'a Path,
    },
    /// Gives an open file without a name its name.
    Link {
        file: BorrowedFd<'a>,
        dir: BorrowedFd<'a>,
        name: &'a Path,
    },
    SymbolicLink {
        dir: BorrowedFd<'a>,
        name: &'a Path,
    },
    Rename {
        from: BorrowedFd<'a>,
        name: &'a Path,
        dir: BorrowedFd<'a>,
        to: &'a Path,
        replaces: bool,
    },
    /// `offset` is `None` if the bytes are appended.
    Write {
        file: BorrowedFd<'a>,
        offset: Option<u64>,
        bytes: &'a [u8],
    },
    Truncate {
        file: BorrowedFd<'a>,
        length: u64,
    },
    /// Changes mode or times.
    Attributes,
    /// Syncs a file or a directory.
    Sync {
        file: BorrowedFd<'a>,
    },
    /// Syncs the whole file system.
    SyncAll,
}

#[cfg(any(test, feature = "simulation"))]
impl DiskCall<'_> {
    /// Whether the call may fail on a full disk: what is there needs no room.
    pub(crate) fn needs_room(&self) -> bool {
        let is_new = |dir: &BorrowedFd<'_>, name: &Path| {
            rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err()
        };
        match self {
            Self::Open { dir, name, flags } => {
                flags.contains(OFlags::TMPFILE) || (flags.contains(OFlags::CREATE) && is_new(dir, name))
            }
            Self::MakeDirectory { dir, name }
            | Self::Link { dir, name, .. }
            | Self::SymbolicLink { dir, name } => is_new(dir, name),
            Self::Rename { .. } | Self::Write { .. } => true,
            _ => false,
        }
    }
}

/// Rules of the code that a simulation can leave out, to show that it then finds a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A delivery is noted before its command starts.
    NoteBeforeCommand,
    /// One session at a time receives a file.
    ClaimFiles,
    /// A partial file is compared with its log after a reboot.
    ComparePrefix,
    /// A client that reconnects uses the same id for its transfer.
    KeepId,
    /// A client's patience rests while a session gets on.
    RestPatience,
    /// A content that may have been delivered is not delivered to the same sink again by itself.
    KeepDoubts,
    /// A delivery that ended well is in doubt until a client has said that it knows.
    KeepUnheard,
}

#[cfg(any(test, feature = "simulation"))]
thread_local! {
    static HOST: std::cell::RefCell<Option<Rc<dyn HostCalls>>> = const { std::cell::RefCell::new(None) };
}

/// Makes a simulation take the kernel's place on this thread, or ends that with `None`.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn simulate(host: Option<Rc<dyn HostCalls>>) {
    HOST.with(|place| *place.borrow_mut() = host);
}

/// The simulation on this thread, if there is one.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn simulated() -> Option<Rc<dyn HostCalls>> {
    // A thread that ends may call this when its thread-local variables are gone already.
    HOST.try_with(|place| place.borrow().clone()).ok().flatten()
}

/// Returns `None`: this build has no simulation.
#[cfg(not(any(test, feature = "simulation")))]
#[inline(always)]
pub(crate) fn simulated() -> Option<Rc<dyn HostCalls>> {
    None
}

/// Whether a rule is left out on purpose: never, outside a simulation.
pub(crate) fn lacks(rule: Rule) -> bool {
    simulated().is_some_and(|host| host.lacks(rule))
}

/// The monotonic clock.
pub(crate) fn now() -> Instant {
    simulated().map_or_else(Instant::now, |host| host.now())
}

/// `poll(2)`.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno> {
    match simulated() {
        Some(host) => host.poll(fds, timeout),
        None => rustix::event::poll(fds, timeout),
    }
}

/// Fills a buffer of at most 256 bytes. `getrandom(2)` always fills such a buffer completely.
pub(crate) fn random(into: &mut [u8]) -> Result<(), Errno> {
    match simulated() {
        Some(host) => host.random(into),
        None => drop(rustix::rand::getrandom(into, GetRandomFlags::empty())?),
    }
    Ok(())
}

/// A name for the current boot.
pub(crate) fn boot() -> Vec<u8> {
    match simulated() {
        Some(host) => host.boot(),
        None => std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
    }
}
