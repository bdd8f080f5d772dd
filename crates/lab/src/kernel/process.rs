//! Processes: one whose exit closes a connection, and commands that end together with this program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::interior::{Interior, NewUser};

/// A process that serves one connection and exits. Dropping it waits for its end.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    pid: rustix::process::Pid,
    /// A pipe on which the process reports how many bytes of the response it has written.
    wrote: OwnedFd,
}

/// Starts a process that reads `consume` bytes, writes `response` and exits, which closes the connection.
///
/// The process starts only after this one has closed its fd, so that the exit is what ends the
/// connection: the kernel closes every fd of a dying process and lingers for none (`do_exit`).
///
/// # Errors
/// Returns an error if no process or pipe can be made. The connection is closed in that case.
pub(crate) fn serve_and_exit(
    connection: OwnedFd,
    consume: u64,
    response: &[u8],
) -> io::Result<WorkerProcess> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (wrote, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the child makes system calls only (`child` allocates nothing, takes no lock and never
    // returns), which is what POSIX allows after fork in a process with threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => child([wait.as_fd(), connection.as_fd(), tell.as_fd()], consume, response),
        pid => {
            drop((wait, tell, connection));
            // The child begins when this end of the pipe is closed.
            drop(go);
            match rustix::process::Pid::from_raw(pid) {
                Some(pid) => Ok(WorkerProcess { pid, wrote }),
                None => Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
    }
}

fn child(keep: [BorrowedFd<'_>; 3], mut consume: u64, mut response: &[u8]) -> ! {
    // Close inherited fds: this process must not be a holder of other threads' connections.
    let mut keep = keep.map(|fd| fd.as_raw_fd());
    let [wait, connection, tell] = keep;
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep.into_iter().chain([libc::c_int::MAX]) {
        if from < fd {
            // SAFETY: closes fds by number; nothing in this process uses them any more.
            unsafe { libc::close_range(from as u32, (fd - 1) as u32, 0) };
        }
        from = fd.saturating_add(1);
    }
    let mut buffer = [0u8; 4096];
    // SAFETY: reads into a live buffer of that size; returns 0 once the parent has closed its end.
    while unsafe { libc::read(wait, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
    while consume > 0 {
        let most = buffer.len().min(usize::try_from(consume).unwrap_or(usize::MAX));
        // SAFETY: reads at most the buffer's length into it.
        let got = unsafe { libc::read(connection, buffer.as_mut_ptr().cast(), most) };
        if got <= 0 {
            break;
        }
        consume -= got as u64;
    }
    let mut wrote = 0u64;
    while !response.is_empty() {
        // SAFETY: reads from a live slice of that length; MSG_NOSIGNAL keeps SIGPIPE away.
        let sent =
            unsafe { libc::send(connection, response.as_ptr().cast(), response.len(), libc::MSG_NOSIGNAL) };
        if sent <= 0 {
            break;
        }
        wrote += sent as u64;
        response = &response[sent as usize..];
    }
    let told = wrote.to_ne_bytes();
    // SAFETY: writes eight bytes from a live array; a pipe takes them whole.
    unsafe { libc::write(tell, told.as_ptr().cast(), told.len()) };
    // SAFETY: ends this process without running the parent's exit handlers; the kernel closes the connection.
    unsafe { libc::_exit(0) }
}

impl WorkerProcess {
    /// Waits until the process is gone. Returns how many bytes it had written.
    ///
    /// # Errors
    /// Returns the errors of `read(2)` on the process's pipe.
    pub(crate) fn wait(self) -> io::Result<u64> {
        let mut told = [0; 8];
        let wrote = match rustix::io::read(&self.wrote, &mut told)? {
            8 => u64::from_ne_bytes(told),
            _ => 0,
        };
        drop(self);
        Ok(wrote)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let wait = || rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
        while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
    }
}

/// Makes a command, and everything that it starts, end with the thread that starts it, even if this program is
/// killed. When the thread ends, the kernel kills the child that it has made, then the child's child, which is the
/// first process of a PID namespace (`PR_SET_PDEATHSIG`), and with that one all others of the namespace.
///
/// The thread must live as long as the command is to run. When the command ends, the processes that it left behind
/// are killed. The exit status that the caller sees is the command's; if a signal ended the command, it is 128 plus
/// the signal's number. The child that the caller sees leads a process group, in which the command runs. Needs the
/// rights that [`Isolation`](linger_netns::Isolation) gives.
///
/// The command sees the file system with this interior.
pub(crate) fn contain(command: &mut Command, interior: Interior) -> &mut Command {
    command.process_group(0);
    // SAFETY: `enclose` makes system calls only; nothing is allocated and no lock taken between fork and exec.
    unsafe { command.pre_exec(move || enclose(&interior)) }
}

/// Puts two processes above the one that calls exec. The outer one is the child of this program. The inner one is the
/// first process of the PID namespace; when it ends, the kernel kills all others in it.
fn enclose(interior: &Interior) -> io::Result<()> {
    let die_with_parent =
        || rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    die_with_parent()?;
    // SAFETY: concerns the children of this single-threaded child only.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?;
    interior.enter()?;
    // SAFETY: this process has one thread, and both sides make system calls only.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => die_with_parent()?,
        inner => stand_by(inner),
    }
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => interior.user.as_ref().map_or(Ok(()), NewUser::become_it),
        command => stand_by(command),
    }
}

/// Waits for one child, reaping all others, and exits with its status.
fn stand_by(child: libc::pid_t) -> ! {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal installs no handler. The command, in the same process group, gets the signal
        // itself.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: nothing in this process uses an fd any more. The one by which `spawn` hears of a failed exec must be
    // closed, for `spawn` waits for its end.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    loop {
        let mut status = 0;
        // SAFETY: writes one int to a live one.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == child {
            let code = if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
            // SAFETY: ends this process without running the program's exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use linger_netns::Counters;
    use linger_testing::sandboxed;

    #[test]
    fn a_process_that_exits_resets_when_bytes_are_unread() {
        sandboxed(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(b"request and more").unwrap();
            let before = Counters::read().unwrap();
            let worker = serve_and_exit(listener.accept().unwrap().0.into(), 7, b"response").unwrap();
            assert_eq!(worker.wait().unwrap(), 8);
            let spent = Counters::read().unwrap().since(&before);
            assert_eq!((spent.of("TCPAbortOnClose"), spent.of("OutRsts")), (1, 1));
        });
    }
}
