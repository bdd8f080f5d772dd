//! Signals as data: all are blocked and read from a `signalfd(2)`, so that no handler is installed and no action changed.
//!
//! The kernel keeps a blocked signal even where it is ignored (`sig_ignored` in kernel/signal.c), so that a signal which the
//! starter ignored arrives here as well.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// A mask of blocked signals.
#[derive(Clone, Copy)]
pub(crate) struct Mask(libc::sigset_t);

impl Mask {
    /// Blocks every signal in this thread and in those that it starts. Returns the mask before.
    ///
    /// # Errors
    /// None is known.
    pub(crate) fn block_all() -> io::Result<Self> {
        let all = every();
        // SAFETY: zeroes are a valid value of this set, which the call fills.
        let mut before: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: reads one live set and writes another.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) } {
            0 => Ok(Self(before)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Sets the mask of this thread.
    ///
    /// # Errors
    /// None is known.
    pub(crate) fn set(&self) -> io::Result<()> {
        // SAFETY: reads a live set; null is "do not tell the old one".
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

/// All signals but the two that the C library keeps for itself.
fn every() -> libc::sigset_t {
    // SAFETY: zeroes are a valid value of this set, which is filled next.
    let mut all: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: fills a live set.
    unsafe { libc::sigfillset(&raw mut all) };
    all
}

/// Sets a signal's action: `SIG_DFL` or `SIG_IGN`.
pub(super) fn set_action(signal: i32, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: neither value is a function that could run.
    match unsafe { libc::signal(signal, action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// As [`set_action`] with the default action.
///
/// # Errors
/// The signal has no action that can be set.
pub(crate) fn set_default(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_DFL)
}

/// A signal that arrived at this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) signal: i32,
    /// The value given to `sigqueue(3)`, if it was sent so.
    pub(crate) value: Option<u64>,
    pub(crate) sender: SignalSender,
}

impl Arrived {
    /// Whether the kernel sent it, as it does for a terminal.
    pub(crate) fn is_from_kernel(&self) -> bool {
        self.sender.code == libc::SI_KERNEL
    }

    /// Whether this process caused it, such as SIGPIPE by a write.
    pub(crate) fn is_from_us(&self) -> bool {
        !self.is_from_kernel() && self.sender.pid == std::process::id()
    }
}

/// What the kernel tells of the sender of a signal (sigaction(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct SignalSender {
    pub(crate) code: i32,
    pub(crate) pid: u32,
    user: u32,
    /// The value given to `sigqueue(3)`, or 0.
    word: u64,
}

/// The blocked signals of this process.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals {
    /// Makes a signalfd that receives every blocked signal. Call it after [`Mask::block_all`].
    ///
    /// # Errors
    /// No fd is left.
    pub(crate) fn new() -> io::Result<Self> {
        let all = every();
        // SAFETY: reads a live set, and makes a new fd.
        let fd = unsafe { libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new fd that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that has arrived.
    pub(crate) fn next(&self) -> Option<Arrived> {
        // SAFETY: zeroes are a valid value of these integers.
        let mut told: libc::signalfd_siginfo = unsafe { zeroed() };
        let size = size_of_val(&told);
        // SAFETY: the kernel writes at most `size` bytes to a live structure.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut told).cast(), size) };
        (usize::try_from(got) == Ok(size)).then_some(Arrived {
            signal: told.ssi_signo as i32,
            value: (told.ssi_code == libc::SI_QUEUE).then_some(told.ssi_ptr),
            sender: SignalSender {
                code: told.ssi_code,
                pid: told.ssi_pid,
                user: told.ssi_uid,
                word: if told.ssi_code == libc::SI_QUEUE { told.ssi_ptr } else { 0 },
            },
        })
    }
}

/// Sends a signal to a process, with the value that came with it.
///
/// # Errors
/// The process has ended, or belongs to somebody else.
pub(crate) fn send(process: Pid, arrived: Arrived) -> io::Result<()> {
    let pid = process.as_raw_nonzero().get();
    let result = match arrived.value {
        // SAFETY: names a process and a signal.
        None => unsafe { libc::kill(pid, arrived.signal) },
        Some(value) => {
            let value = libc::sigval { sival_ptr: std::ptr::with_exposed_provenance_mut(value as usize) };
            // SAFETY: names a process, a signal and a word that is passed on unread.
            unsafe { libc::sigqueue(pid, arrived.signal, value) }
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The process group of a process, or of this one. 0 if the group's leader is in a PID namespace further out, which is not seen here
/// (`pid_vnr`): a process that has never left the group of who made the namespace has that one.
pub(crate) fn group_of(process: Option<Pid>) -> Option<i32> {
    // SAFETY: names a process. rustix's function knows no 0.
    let group = unsafe { libc::getpgid(process.map_or(0, |process| process.as_raw_nonzero().get())) };
    (group >= 0).then_some(group)
}

/// Ends this process by a signal, so that its parent sees the status of a program that the signal has ended. Returns if the
/// signal's default action ends no process. No core is written: it would be this process's.
pub fn die_of(signal: i32) {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    if set_default(signal).is_err() {
        // SIGKILL has no action, and needs none.
        debug_assert_eq!(signal, libc::SIGKILL);
    }
    // SAFETY: zeroes are a valid value of this set, and an empty one.
    let mut one: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: changes a live set.
    unsafe { libc::sigaddset(&raw mut one, signal) };
    // SAFETY: reads a live set; null is "do not tell the old one".
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const one, std::ptr::null_mut()) };
    // SAFETY: signals this thread.
    unsafe { libc::raise(signal) };
}
