//! Tells the server: runs the command, or sends the signal.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::by::{ReloadBy, ReloadSignal};
use super::listening::Listening;
use crate::deadline::Deadline;

/// How often it is looked whether the command has ended.
const EVERY: Duration = Duration::from_millis(5);

/// What tells the server, before it does.
#[derive(Debug)]
pub(super) enum Trigger<'b> {
    Command(&'b str),
    Signal { process: OwnedFd, pid: u32, signal: ReloadSignal },
}

impl<'b> Trigger<'b> {
    /// Looks for the process.
    ///
    /// # Errors
    /// Returns a sentence if there is none, or if it has no part in what listens at the target.
    pub(super) fn new(by: &'b ReloadBy, listening: &Listening) -> Result<Self, String> {
        let (pid, signal) = match by {
            ReloadBy::Command(command) => return Ok(Self::Command(command)),
            ReloadBy::Signal { pid, signal } => (*pid, *signal),
        };
        let missing = || format!("there is no process {pid}");
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
        let process = pidfd_open(id, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => missing(),
            // pidfd_open(2), which takes the first thread of a process alone.
            Errno::NOENT | Errno::INVAL => format!("{pid} is a thread, and no process"),
            error => format!("process {pid} cannot be told: {error}"),
        })?;
        match listening.is_of(pid) {
            Some(true) => {}
            Some(false) => {
                return Err(format!(
                    "not told: process {pid} has no part in what listens there, and has started nothing that does"
                ));
            }
            // A number that was mistyped is another's.
            None => {
                return Err(format!(
                    "not told: who listens there is not seen from here, so that process {pid} may be anybody's; a command may tell it"
                ));
            }
        }
        Ok(Self::Signal { process, pid, signal })
    }

    /// Tells the server. Waits for the end of the command, for `patience` at most.
    ///
    /// # Errors
    /// Returns a sentence if it was not told, or if the command has failed or has not ended.
    pub(super) fn pull(&self, patience: Duration, deadline: &Deadline) -> Result<(), String> {
        match self {
            Self::Command(command) => run(command, patience, deadline),
            Self::Signal { process, pid, signal } => pidfd_send_signal(process, signal.kernels())
                .map_err(|error| format!("process {pid} was not sent SIG{signal}: {error}")),
        }
    }

    pub(super) fn is_command(&self) -> bool {
        matches!(self, Self::Command(_))
    }

    /// Whether the process has ended that was sent the signal.
    pub(super) fn has_ended(&self) -> bool {
        let Self::Signal { process, .. } = self else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

fn run(command: &str, patience: Duration, deadline: &Deadline) -> Result<(), String> {
    let failed = |error: io::Error| format!("the command cannot be run: {error}");
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null());
    // Standard output is for the report.
    shell.stdout(Stdio::from(io::stderr()));
    let mut child = shell.spawn().map_err(failed)?;
    let until = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("the command ended with {status}")),
            None if Instant::now() > until || deadline.is_over() => {
                deadline.note(until);
                // Half of a reload may be worse than a late one, so that it is left to run.
                return Err(format!(
                    "the command has not ended after {:.1} s, and runs on: a longer --patience waits for it",
                    patience.as_secs_f64()
                ));
            }
            None => deadline.sleep(EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(command: &str) -> Result<(), String> {
        let by = ReloadBy::Command(command.to_owned());
        let deadline = Deadline::after(Duration::from_secs(60));
        Trigger::new(&by, &Listening::default())?.pull(Duration::from_secs(20), &deadline)
    }

    #[test]
    fn a_command_that_fails_has_not_reloaded() {
        assert_eq!(pulled("true"), Ok(()));
        assert_eq!(pulled("exit 3").unwrap_err(), "the command ended with exit status: 3");
        let by = ReloadBy::Command("sleep 0.2".into());
        let deadline = Deadline::after(Duration::from_secs(60));
        let trigger = Trigger::new(&by, &Listening::default()).unwrap();
        let said = trigger.pull(Duration::from_millis(10), &deadline).unwrap_err();
        assert!(said.contains("has not ended after 0.0 s, and runs on"), "{said}");
        // It is not to outlive the test.
        std::thread::sleep(Duration::from_millis(400));
    }

    #[test]
    fn a_process_that_is_not_there_or_not_the_servers_is_told_nothing() {
        let new = |pid, listening: &Listening| {
            let by = ReloadBy::Signal { pid, signal: ReloadSignal::Term };
            Trigger::new(&by, listening).map(|_| ())
        };
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert_eq!(new(pid, &Listening::default()), Err(format!("there is no process {pid}")));
        }
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = Listening::look(&listener.local_addr().unwrap().into(), None);
        assert!(new(child.id(), &here).unwrap_err().starts_with("not told: process"));
        assert_eq!(new(std::process::id(), &here), Ok(()));
        let thread = std::thread::spawn(|| {
            let id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            let by = ReloadBy::Signal { pid: id, signal: ReloadSignal::Term };
            (id, Trigger::new(&by, &Listening::default()).map(|_| ()))
        });
        let (id, told) = thread.join().unwrap();
        assert_eq!(told, Err(format!("{id} is a thread, and no process")));
        // Where nothing is seen to listen, as behind a translated address, nobody is told.
        let said = new(child.id(), &Listening::default()).unwrap_err();
        assert!(said.starts_with("not told: who listens there is not seen"), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
