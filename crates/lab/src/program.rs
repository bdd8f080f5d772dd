//! A program of somebody else in a namespace of the lab.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use linger_netns::Namespace;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::host_names::HostNames;
use crate::kernel::{Interior, contain};
use crate::stop::Stop;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// A command for `sh -c`.
pub(crate) fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    command
}

/// The hosts file with these names and the machine's own.
pub(crate) fn hosts_file(names: &HostNames) -> Vec<u8> {
    let machine = std::fs::read(HOSTS).unwrap_or_default();
    names.hosts_file(&String::from_utf8_lossy(&machine)).into_bytes()
}

/// Where resolvers look first (`hosts(5)`).
const HOSTS: &str = "/etc/hosts";

/// A running command. It ends with this value, and with this program, and takes with it whatever it has started.
#[derive(Debug)]
pub struct Program {
    pid: Pid,
    status: Mutex<mpsc::Receiver<io::Result<ExitStatus>>>,
    /// Readable once the process has ended.
    ended: rustix::fd::OwnedFd,
}

impl Program {
    /// Starts a command in the namespace of one of these hosts. It finds their addresses in `LINGER_SERVER` and so on, and by their names
    /// where this machine lets a process have a hosts file of its own.
    ///
    /// # Errors
    /// Returns the errors of making a process and of `execve(2)`.
    pub fn start(namespace: &Namespace, command: Command, names: &HostNames) -> io::Result<Self> {
        let interior = Interior { names: Some(hosts_file(names)), ..Interior::default() };
        Self::start_in(namespace, command, names, interior)
    }

    /// The same, with this interior.
    pub(crate) fn start_in(
        namespace: &Namespace,
        mut command: Command,
        names: &HostNames,
        interior: Interior,
    ) -> io::Result<Self> {
        command.envs(names.variables());
        let (started, is_started) = mpsc::channel();
        let (ended, status) = mpsc::channel();
        // The process is killed when this thread ends (PR_SET_PDEATHSIG), so the thread lives as long and waits for it.
        namespace.spawn("program", move || {
            let spawned: io::Result<Child> = contain(&mut command, interior).spawn();
            match spawned {
                Ok(mut child) => {
                    // Open the pidfd before the wait: a reaped process cannot be opened.
                    let pid = Pid::from_child(&child);
                    let opened = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
                    let _ = started.send(opened.map(|ended| (pid, ended)));
                    let _ = ended.send(child.wait());
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let (pid, ended) = is_started.recv().map_err(gone)??;
        Ok(Self { pid, status: Mutex::new(status), ended })
    }

    /// Waits for the command's end. Returns `None` if the time is over or the stop is requested before. The status can be had once.
    ///
    /// # Errors
    /// Returns the errors of `poll(2)` and `waitpid(2)`, and `BrokenPipe` if the status was returned before.
    pub fn wait(&self, stop: &Stop, timeout: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        if !stop.wait_readable(self.ended.as_fd(), timeout)? {
            return Ok(None);
        }
        crate::lock(&self.status).recv().map_err(|_| io::ErrorKind::BrokenPipe)?.map(Some)
    }

    /// Readable once the command has ended, for use in `poll` with others.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Sends SIGTERM to the process group, and SIGKILL if it is still running 5 s later.
    ///
    /// # Errors
    /// Returns `EMFILE` if no fd is left.
    pub fn end(&self) -> io::Result<()> {
        let patient = Stop::new()?;
        // Fails only if the group has ended already.
        let _ = kill_process_group(self.pid, Signal::TERM);
        if !patient.wait_readable(self.ended.as_fd(), Some(GRACE))? {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}
