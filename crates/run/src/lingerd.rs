//! A supervisor that the host's service manager has started, in a unit of its own: stopping or restarting the program's unit
//! neither waits for lingering connections nor ends them.
//!
//! One process supervises one program, as the user that has started the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::assignment;
use crate::job::Parts;
use crate::kernel::{Caller, Departed};
use crate::supervise::{Supervised, supervise};
use crate::{Notice, Options, RunError, RunReport};

/// How long a program's starter waits for the supervisor, which the service manager may have to start.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the supervisor waits for an assignment. Whoever connects and says nothing keeps a place from others.
const SILENCE: Duration = Duration::from_secs(1);

/// Asks for a supervisor at the address of a `SOCK_SEQPACKET` socket, and waits until it is ready.
///
/// # Errors
/// No supervisor is ready in time. One that comes too late does not supervise the program.
pub(crate) fn ask(
    address: &Path,
    program: &OwnedFd,
    parts: &Parts,
    options: &Options,
) -> io::Result<Departed> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // A connect waits for a place in the accept queue, for as long as a write may wait (unix(7)).
    let begun = Instant::now();
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(address)?)?;
    assignment::send(socket.as_fd(), program.as_fd(), parts, options)?;
    let mut supervisor = Departed::new(UnixStream::from(socket));
    let late = !is_readable(&supervisor, PATIENCE.saturating_sub(begun.elapsed()));
    let ready = if late { Err(io::ErrorKind::TimedOut.into()) } else { supervisor.ready() };
    match ready {
        Ok(()) => Ok(supervisor),
        Err(error) => {
            supervisor.not_started();
            Err(error)
        }
    }
}

/// Whether something, or the end, can be read within a time.
fn is_readable(connection: &impl AsFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).ok();
    !matches!(poll(&mut [PollFd::new(connection, PollFlags::IN)], within.as_ref()), Ok(0))
}

/// How a program that was supervised for another process has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Served {
    /// The starter's [`Options::manner`].
    pub manner: String,
    /// Counts of the program's closes. `None` if the program was not started.
    pub report: Option<RunReport>,
}

/// Supervises a program for the process at the other end of `connection`, a `SOCK_SEQPACKET` socket, until the program and
/// its connections have ended.
///
/// This process's stderr is replaced by the program's before `notify` is called. The first argument of `notify` is the
/// [`Options::manner`] that the other process has sent. This process becomes the user of the other process, and must have
/// only one thread.
///
/// # Errors
/// Returns an error if the message received is no assignment, or if the supervisor cannot start.
pub fn serve(connection: OwnedFd, mut notify: impl FnMut(&str, Notice<'_>)) -> Result<Served, RunError> {
    let failed = RunError::system("cannot supervise for another process");
    let received = become_user(&connection).and_then(|()| match is_readable(&connection, SILENCE) {
        true => assignment::receive(connection.as_fd()),
        false => Err(io::ErrorKind::TimedOut.into()),
    });
    let caller = Caller::new(UnixStream::from(connection));
    let assignment::Assignment { program, stderr, parts, options } = match received {
        Ok(received) => received,
        Err(error) => {
            caller.refuse(&error);
            return Err(failed(error));
        }
    };
    rustix::stdio::dup2_stderr(&stderr).map_err(RunError::system("cannot take the program's stderr"))?;
    drop(stderr);
    let manner = options.manner.clone();
    match supervise(parts, &program, caller, &options, |notice| notify(&manner, notice))? {
        Supervised::Ended(report) => Ok(Served { manner, report: Some(report) }),
        Supervised::NotStarted => Ok(Served { manner, report: None }),
        Supervised::Lost(error) => Err(error),
    }
}

/// Becomes the peer's user and group. A process that is not root can serve its own user only.
fn become_user(connection: &OwnedFd) -> io::Result<()> {
    let peer = socket_peercred(connection)?;
    if rustix::process::geteuid() == peer.uid {
        return Ok(());
    }
    rustix::thread::set_thread_groups(&[peer.gid])?;
    rustix::thread::set_thread_res_gid(peer.gid, peer.gid, peer.gid)?;
    rustix::thread::set_thread_res_uid(peer.uid, peer.uid, peer.uid)?;
    Ok(())
}
