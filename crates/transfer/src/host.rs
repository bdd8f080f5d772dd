//! What both ends ask of the machine they run on: the time, to wait, random bytes, threads, connections.
//!
//! In a program these are the kernel's. A simulation stands in for the kernel on its own thread, so that the same code of
//! both ends runs under a clock, a network and a disk that a seed decides. [`crate::disk`] has the calls that change files.

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
pub(crate) trait Host {
    fn now(&self) -> Instant;
    fn poll(&self, fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno>;
    fn random(&self, into: &mut [u8]);
    /// Lets others go on for some time.
    fn pause(&self, time: std::time::Duration);
    /// Names the boot of the machine that asks.
    fn boot(&self) -> Vec<u8>;
    /// Starts a thread of the process that asks.
    fn start(&self, work: Box<dyn FnOnce()>);
    fn connect(&self) -> io::Result<Box<dyn Transport>>;
    /// Runs a sink's command.
    fn command(&self, content: &[u8]) -> io::Result<()>;
    /// Comes before each call that changes a file system. Returns false if the call has been made in its place.
    fn before(&self, call: &DiskCall<'_>) -> Result<bool, Errno>;
    /// Comes after each such call that succeeded.
    fn after(&self, call: &DiskCall<'_>);
    /// Whether a rule is left out on purpose.
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
    /// Such a file is open.
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
    /// Gives an open file a name.
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
    /// `offset` is missing for bytes that are appended.
    Write {
        file: BorrowedFd<'a>,
        offset: Option<u64>,
        bytes: &'a [u8],
    },
    Truncate {
        file: BorrowedFd<'a>,
        length: u64,
    },
    /// Mode or times.
    Attributes,
    /// A file or a directory.
    Sync {
        file: BorrowedFd<'a>,
    },
    /// All of a file system.
    SyncAll,
}

/// Rules that a simulation leaves out, to show that it notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A delivery is noted before its command starts.
    NoteBeforeCommand,
    /// One session at a time receives a file.
    ClaimFiles,
    /// A partial file is compared with its log after a reboot.
    ComparePrefix,
    /// A client that comes back has the id of its transfer.
    KeepId,
}

#[cfg(any(test, feature = "simulation"))]
thread_local! {
    static HOST: std::cell::RefCell<Option<Rc<dyn Host>>> = const { std::cell::RefCell::new(None) };
}

/// Puts a simulation in the kernel's place on this thread, or takes it away.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn simulate(host: Option<Rc<dyn Host>>) {
    HOST.with(|place| *place.borrow_mut() = host);
}

/// The simulation on this thread, if there is one.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn simulated() -> Option<Rc<dyn Host>> {
    // Threads that end may ask after their own variables are gone.
    HOST.try_with(|place| place.borrow().clone()).ok().flatten()
}

/// No simulation is part of this build.
#[cfg(not(any(test, feature = "simulation")))]
#[inline(always)]
pub(crate) fn simulated() -> Option<Rc<dyn Host>> {
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

/// Fills a buffer of at most 256 bytes, which `getrandom(2)` always fills whole.
pub(crate) fn random(into: &mut [u8]) -> Result<(), Errno> {
    match simulated() {
        Some(host) => host.random(into),
        None => drop(rustix::rand::getrandom(into, GetRandomFlags::empty())?),
    }
    Ok(())
}

/// Names the current boot.
pub(crate) fn boot() -> Vec<u8> {
    match simulated() {
        Some(host) => host.boot(),
        None => std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
    }
}
