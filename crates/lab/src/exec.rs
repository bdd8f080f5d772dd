//! Runs any two programs at the two ends of an emulated link.

use std::io;
use std::net::IpAddr;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linger_netns::{Counters, Namespace};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::bed::{Bed, BedOptions, IpVersion};
use crate::capture::Capture;
use crate::kernel::contain;
use crate::link::Link;
use crate::stop::Stop;
use crate::wire::WireReport;

/// Two commands and the link between them.
#[derive(Clone, Debug)]
pub struct ExecPlan {
    /// The link between them.
    pub link: Link,
    /// The server's command, for `sh -c`.
    pub server: String,
    /// The client's command, for `sh -c`.
    pub client: String,
    /// The IP version of the addresses in the environment.
    pub ip: IpVersion,
    /// Seed of the link's random decisions.
    pub seed: u64,
    /// Longest wait until a socket in the server's namespace listens; `None` for no wait.
    pub ready: Option<Duration>,
    /// Records what crosses the link.
    pub capture: Option<Arc<Mutex<Capture>>>,
}

/// The result of both programs.
#[derive(Debug)]
pub struct ExecReport {
    /// The client's exit status; `None` if the run was stopped before.
    pub client: Option<ExitStatus>,
    /// The kernel's counters of the server's namespace.
    pub server_counters: Counters,
    /// The kernel's counters of the client's namespace.
    pub client_counters: Counters,
    /// What the link carried; none for loopback.
    pub wire: Option<WireReport>,
}

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Starts the server, waits until it listens if [`ExecPlan::ready`] says so, runs the client to its end, and ends the
/// server with SIGTERM.
///
/// Both commands find the addresses in `LINGER_SERVER` and `LINGER_CLIENT`, and have the standard streams of this program.
///
/// # Errors
/// Returns an error if the bed cannot be built or a command cannot be started, `TimedOut` if the server does not listen
/// in time, and `BrokenPipe` if the server ended before it listened.
pub fn exec(plan: &ExecPlan, stop: &Stop) -> io::Result<ExecReport> {
    let options =
        BedOptions { ip: plan.ip, seed: plan.seed, capture: plan.capture.clone(), ..BedOptions::default() };
    let bed = Bed::new(&plan.link, options)?;
    let addresses = (bed.server_address, bed.client_address);
    let server = Program::start(&bed.server, shell(&plan.server), addresses)?;
    if let Some(ready) = plan.ready {
        server.wait_until_listening(&bed.server, ready, stop)?;
    }
    let client = Program::start(&bed.client, shell(&plan.client), addresses)?;
    let client_status = client.wait(stop, None)?;
    client.end()?;
    server.end()?;
    let server_counters = bed.server.run(Counters::read)??;
    let client_counters = bed.client.run(Counters::read)??;
    Ok(ExecReport { client: client_status, server_counters, client_counters, wire: bed.stop()? })
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    command
}

/// A running command. It ends with this value, and with this program, and takes with it whatever it has started.
#[derive(Debug)]
pub struct Program {
    pid: Pid,
    status: Mutex<mpsc::Receiver<io::Result<ExitStatus>>>,
    /// Readable once the process has ended.
    ended: rustix::fd::OwnedFd,
}

impl Program {
    /// Starts a command in a namespace. It finds the addresses of server and client in `LINGER_SERVER` and `LINGER_CLIENT`.
    ///
    /// # Errors
    /// Returns the errors of making a process and of `execve(2)`.
    pub fn start(
        namespace: &Namespace,
        mut command: Command,
        (server, client): (IpAddr, IpAddr),
    ) -> io::Result<Self> {
        command.env("LINGER_SERVER", server.to_string()).env("LINGER_CLIENT", client.to_string());
        let (started, is_started) = mpsc::channel();
        let (ended, status) = mpsc::channel();
        // The process is killed when this thread ends (PR_SET_PDEATHSIG), so the thread lives as long and waits for it.
        namespace.spawn("program", move || {
            let spawned: io::Result<Child> = contain(&mut command).spawn();
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

    /// Waits until any TCP socket of the namespace listens, or until the stop is requested.
    ///
    /// # Errors
    /// Returns `TimedOut` after `ready`, and `BrokenPipe` if the command has ended.
    pub fn wait_until_listening(
        &self,
        namespace: &Namespace,
        ready: Duration,
        stop: &Stop,
    ) -> io::Result<()> {
        let deadline = Instant::now() + ready;
        // The kernel has no event for a new listener, so this polls.
        while !namespace.run(is_listening)?? && !stop.requested() {
            if self.wait(stop, Some(Duration::from_millis(5)))?.is_some() {
                let told = "the server command ended before anything listened in its namespace";
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, told));
            }
            if Instant::now() >= deadline {
                let told = format!(
                    "nothing listens in the server's namespace after {} s; is it to listen on $LINGER_SERVER?",
                    ready.as_secs()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, told));
            }
        }
        Ok(())
    }

    /// Waits for the command's end. Returns `None` if the time is over or the stop is requested before. The status can be had once.
    ///
    /// # Errors
    /// Returns the errors of `poll(2)` and `waitpid(2)`, and `BrokenPipe` if the status was returned before.
    pub fn wait(&self, stop: &Stop, timeout: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        use std::os::fd::AsFd;
        if !stop.wait_readable(self.ended.as_fd(), timeout)? {
            return Ok(None);
        }
        crate::lock(&self.status).recv().map_err(|_| io::ErrorKind::BrokenPipe)?.map(Some)
    }

    /// Sends SIGTERM to the process group, and SIGKILL if it is still running 5 s later.
    ///
    /// # Errors
    /// Returns `EMFILE` if no fd is left.
    pub fn end(&self) -> io::Result<()> {
        use std::os::fd::AsFd;
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

/// Whether any TCP socket of the calling thread's namespace listens (state 0A in `proc_net_tcp`).
fn is_listening() -> io::Result<bool> {
    for file in ["tcp", "tcp6"] {
        let Ok(text) = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) else { continue };
        if text.lines().skip(1).any(|line| line.split_whitespace().nth(3) == Some("0A")) {
            return Ok(true);
        }
    }
    Ok(false)
}
