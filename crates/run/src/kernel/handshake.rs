//! A process installs its filter before `exec`. The thread that serves the filter gets its listener (the notification
//! fd).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, kill_process};

use super::depart::in_child;
use super::filter::Filter;
use super::foreign::read_memory;
use super::listener::Listener;
use super::trial::{PIDFD_GETFD, forbidden};

/// The socket over which the process with the filter and the serving thread talk before `exec`.
#[derive(Debug)]
pub(crate) struct Handshake(UnixStream);

/// Bytes of what the process with the filter sends: its pid (4), the listener's fd or a negative errno (4), and the
/// address of [`READ_PROBE`] (8).
const TOLD: usize = 16;

/// A word that the supervisor reads in another process's memory to find out whether it may.
static READ_PROBE: u64 = 1;

/// The error with which the kernel has refused the filter to this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterRefusal(Arc<AtomicI32>);

impl FilterRefusal {
    /// The error; `None` if the filter was not refused, or was tried in another process.
    pub(crate) fn error(&self) -> Option<io::Error> {
        match self.0.load(Relaxed) {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number)),
        }
    }
}

/// Makes a command install the filter before `exec`, and wait until a thread serves the listener.
///
/// The limit of fds is set to `descriptors`. With `passes` the listener's fd is sent to this process, which may not
/// copy it. Start the command only once a thread waits in [`Handshake::listener`], or is about to. Each side learns of
/// the other's death by the end of the socket. So close this end in the process that installs the filter, and drop the
/// command in the one that serves it.
///
/// # Errors
/// Where no socket pair can be made.
pub(crate) fn before_exec(
    command: &mut Command,
    filter: Filter,
    descriptors: Rlimit,
    passes: bool,
) -> io::Result<(Handshake, FilterRefusal)> {
    let (ours, theirs) = UnixStream::pair()?;
    let refusal = FilterRefusal::default();
    let refused = refusal.clone();
    let prepare = move || {
        rustix::process::setrlimit(Resource::Nofile, descriptors)?;
        let passer = if passes { Some(Passer::new(theirs.as_fd())?) } else { None };
        let installed = filter.install();
        let number = match &installed {
            Ok(fd) => *fd,
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                refused.0.store(number, Relaxed);
                -number
            }
        };
        let mut told = [0; TOLD];
        told[..4].copy_from_slice(&rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes());
        told[4..8].copy_from_slice(&number.to_ne_bytes());
        told[8..].copy_from_slice(&something().to_ne_bytes());
        match passer {
            Some(passer) => passer.pass(&told)?,
            None => drop(rustix::io::write(&theirs, &told)?),
        }
        installed?;
        // From here on every `close` of the child would wait for an answer. Nothing needs one: the fds are close-on-exec.
        let mut go = [0];
        match rustix::io::read(&theirs, &mut go) {
            Ok(1..) => Ok(()),
            _ => {
                // Nobody serves the filter: an exit, too, would wait for an answer.
                let _ = kill_process(rustix::process::getpid(), Signal::KILL);
                Err(io::Error::from_raw_os_error(libc::ENOSYS))
            }
        }
    };
    // SAFETY: `prepare` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
    Ok((Handshake(ours), refusal))
}

/// The address of [`READ_PROBE`] in this process's memory.
pub(crate) fn something() -> u64 {
    (&raw const READ_PROBE) as u64
}

/// Tries what a supervisor needs to do to another process: open a pidfd, copy fds, read memory.
///
/// # Errors
/// The call that is refused. Yama permits them on descendants only (`kernel.yama.ptrace_scope`).
pub(crate) fn may_supervise(process: u32, something: u64) -> Result<(), LaunchRefused> {
    let refused = |call: &'static str| move |error: Errno| LaunchRefused::Call(call, error.into());
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(LaunchRefused::NotStarted)?;
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    // No process has such an fd. The kernel says so (EBADF) only to a caller that may copy the others (`__pidfd_fget`).
    match rustix::process::pidfd_getfd(handle, RawFd::MAX, PidfdGetfdFlags::empty()) {
        Ok(_) | Err(Errno::BADF) => {}
        Err(error) => return Err(refused("pidfd_getfd")(error)),
    }
    read_memory(process, something, &mut [0; 8])
        .map_err(|error| LaunchRefused::Call("process_vm_readv", error))
}

/// Whether a process that is no ancestor of this one may supervise it. A child of this process tries.
pub(crate) fn may_be_supervised_from_beside() -> bool {
    let own = std::process::id();
    let tried = in_child(|| i32::from(may_supervise(own, something()).is_err()));
    tried.is_ok_and(|status| status == 0)
}

/// Whether this process may copy fds of other processes at all (`pidfd_getfd(2)`). The profiles of containers refuse
/// the call, and a filter of systemd's may kill the process that makes it.
pub(crate) fn may_copy_fds() -> bool {
    if !forbidden(&[PIDFD_GETFD]).is_empty() {
        return false;
    }
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let own = own.map_err(drop);
    // This pidfd is one of the process's fds. Only a refused call fails.
    own.and_then(|own| pidfd_getfd_of(&own).map_err(drop)).is_ok()
}

/// A copy of one of this process's own fds, and whether an `execve` leaves the fd open.
pub(crate) fn copy_own(number: RawFd) -> Option<(OwnedFd, bool)> {
    // SAFETY: the fd is borrowed for two calls, which accept any number.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(fd).ok()?;
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0).ok()?;
    Some((copy, !flags.contains(rustix::io::FdFlags::CLOEXEC)))
}

fn pidfd_getfd_of(own: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::process::pidfd_getfd(own, own.as_raw_fd(), PidfdGetfdFlags::empty())
}

/// A process without the filter that has the child's fds: `sendmsg` of the child itself would wait for an answer.
struct Passer {
    process: i32,
    /// The write end of the pipe that both processes have. It is never closed here, because a `close` would wait for an
    /// answer as well; the `execve` closes it.
    go: RawFd,
}

impl Passer {
    /// Makes system calls only.
    fn new(to: BorrowedFd<'_>) -> io::Result<Self> {
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (wait, go) = (wait.into_raw_fd(), go.into_raw_fd());
        // SAFETY: a fork that shares the table of fds and sends no SIGCHLD. The new process makes system calls only and never
        // returns.
        match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES, 0, 0, 0, 0) } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                pass_on(wait, to);
                // SAFETY: ends this process without running exit handlers.
                unsafe { libc::_exit(0) }
            }
            process => Ok(Self { process: process as i32, go }),
        }
    }

    /// Sends `told`, with the listener's fd.
    fn pass(self, told: &[u8; TOLD]) -> io::Result<()> {
        // SAFETY: open until the `execve`.
        let go = unsafe { BorrowedFd::borrow_raw(self.go) };
        rustix::io::write(go, told)?;
        // SAFETY: waits for a child of this process, without a place for its status.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), libc::__WALL) };
        Ok(())
    }
}

fn pass_on(wait: RawFd, to: BorrowedFd<'_>) {
    let mut told = [0; TOLD];
    // SAFETY: open in the shared table until the child's `execve`, which waits for this process.
    let wait = unsafe { BorrowedFd::borrow_raw(wait) };
    if !rustix::io::read(wait, &mut told).is_ok_and(|length| length == told.len()) {
        return;
    }
    let [_, _, _, _, a, b, c, d, ..] = told;
    let number = i32::from_ne_bytes([a, b, c, d]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // SAFETY: as above, where it is an fd and no error number.
    let listener = (number >= 0).then(|| [unsafe { BorrowedFd::borrow_raw(number) }]);
    if let Some(listener) = &listener {
        control.push(SendAncillaryMessage::ScmRights(listener));
    }
    let _ = rustix::net::sendmsg(to, &[IoSlice::new(&told)], &mut control, SendFlags::NOSIGNAL);
}

/// Why the child cannot be supervised.
#[derive(Debug)]
pub(crate) enum LaunchRefused {
    /// The kernel, or a filter around this process, refuses the filter.
    Filter(io::Error),
    /// A system call on the child's process is refused.
    Call(&'static str, io::Error),
    /// This process has no fd or no process left.
    Means(io::Error),
    /// The command was not started.
    NotStarted,
}

impl Handshake {
    /// Waits for the process with the filter, and copies its listener. That process waits until the second value is
    /// dropped or told to go. `process` is its pid if it is not a child of this one: the pid that it sends may be of
    /// another pid namespace.
    ///
    /// # Errors
    /// [`LaunchRefused`].
    pub(crate) fn listener(self, process: Option<u32>) -> Result<(Listener, WaitingChild), LaunchRefused> {
        let mut told = [0; TOLD];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut told)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        if !got.is_ok_and(|got| got.bytes == told.len()) {
            return Err(LaunchRefused::NotStarted);
        }
        let passed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let [a, b, c, d, e, f, g, h, something @ ..] = told;
        let (own, number) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        let pid = process.and_then(|process| i32::try_from(process).ok()).unwrap_or(own);
        if number < 0 {
            return Err(LaunchRefused::Filter(io::Error::from_raw_os_error(-number)));
        }
        let child = Pid::from_raw(pid).ok_or(LaunchRefused::NotStarted)?;
        match take(child, number, u64::from_ne_bytes(something), passed) {
            Ok(fd) => Ok((Listener::new(fd).map_err(LaunchRefused::Means)?, WaitingChild(self.0))),
            Err(refused) => {
                // Kill it: even its exit would wait for an answer.
                let _ = kill_process(child, Signal::KILL);
                Err(refused)
            }
        }
    }

    /// The fd, to be passed to [`apart`](super::apart::apart).
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// The reverse of [`into_fd`](Self::into_fd).
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// Copies the child's listener fd, and tries to read the child's memory, which will be needed later.
fn take(
    child: Pid,
    number: RawFd,
    something: u64,
    passed: Option<OwnedFd>,
) -> Result<OwnedFd, LaunchRefused> {
    let refused = |call: &'static str| move |error: Errno| LaunchRefused::Call(call, error.into());
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    let fd = match passed {
        Some(passed) => passed,
        None => rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .map_err(refused("pidfd_getfd"))?,
    };
    let thread = u32::try_from(child.as_raw_nonzero().get()).unwrap_or_default();
    read_memory(thread, something, &mut [0; 8])
        .map_err(|error| LaunchRefused::Call("process_vm_readv", error))?;
    Ok(fd)
}

/// A child that waits before its `exec`.
#[derive(Debug)]
pub(crate) struct WaitingChild(UnixStream);

impl WaitingChild {
    /// Lets the child continue to its `exec`.
    ///
    /// # Errors
    /// The child is gone.
    pub(crate) fn go(self) -> io::Result<()> {
        rustix::io::write(&self.0, &[1])?;
        Ok(())
    }
}
