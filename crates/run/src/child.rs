//! The program as a child of the supervisor, which stays until the program and its last connection have ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process};

use crate::job::{Job, Supervision, raise_descriptor_limit};
use crate::kernel::{Image, Mask, Signals, Witness, as_at_start, exec_with_own_pid, is_ignored, set_default};
use crate::seccomp::{Seccomp, Watch};
use crate::{Notice, Options, Place, Program, ProgramEnd, RunError, signals};

/// Variables in which a service manager names the pid that it has started, for that process alone (sd_listen_fds(3),
/// sd_watchdog_enabled(3)).
const OWN_PID: [&str; 2] = ["LISTEN_PID", "WATCHDOG_PID"];

pub(crate) fn run(
    job: Job,
    options: &Options,
    mut notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let Job { program, name: called, mut command, parts } = job;
    let (limit, way, filters) = (parts.limit, Arc::clone(&parts.way), parts.means.filters);
    let what = "cannot take signals";
    // Blocked before the first thread is started: threads inherit the mask.
    let mask = Mask::block_all().map_err(RunError::system(what))?;
    let signals = Signals::new().map_err(RunError::system(what))?;
    let witness = Witness::start().inspect_err(|error| {
        tracing::debug!(%error, "a signal to the process group will reach the program twice");
    });
    // A process that ignores SIGCHLD is not told its children's status.
    let ignores_children = is_ignored(libc::SIGCHLD);
    if ignores_children {
        set_default(libc::SIGCHLD).map_err(RunError::system(what))?;
    }
    let (name, token) = (parts.address.name.clone(), parts.address.token);
    let supervision = Supervision::start(parts, options)?;
    // A child subreaper: orphans of the program become children of this process, so that it sees the last one end.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(RunError::system("cannot adopt the program's orphans"))?;
    if let Some(preload) = way.preload() {
        preload.put_into(&mut command, &options.preloaded);
    }
    let watched = way.seccomp().map(|counts| {
        // Raised first, because the thread chooses its fds by the limit (`least_of_own`). The child restores the old
        // limit.
        raise_descriptor_limit(limit);
        Watch::new(&mut command, options, limit, Place::Child, filters)?.begin(&name, token, counts)
    });
    let watched = watched.transpose()?;
    as_at_start(&mut command, Some(mask), if ignores_children { vec![libc::SIGCHLD] } else { Vec::new() });
    name_own_pid(&mut command, &called, &program, options.environment.clone())?;
    let started = start(&program, &mut command).inspect_err(|_| way.remove());
    // Dropping the command closes the fds that only the child was to have.
    drop(command);
    if let Some(watched) = &watched {
        watched.check()?;
    }
    let child = started?;
    raise_descriptor_limit(limit);
    way.sweep();
    let status = wait(child, &signals, witness.ok(), |event| {
        if let Some(refusal) = watched.as_ref().and_then(Seccomp::refusal).or_else(|| supervision.refusal()) {
            notify(Notice::Refused(&refusal));
        }
        if let Some(coverage) = supervision.coverage_news() {
            notify(Notice::Coverage(&coverage));
        }
        match event {
            ChildEvent::Signal => {}
            ChildEvent::Asked => {
                notify(Notice::Report(&supervision.report()));
                notify(Notice::Coverage(&supervision.coverage()));
            }
            ChildEvent::Ended => notify(Notice::ProgramEnded),
        }
    });
    if let Some(watched) = watched {
        watched.finish();
    }
    let report = supervision.finish(options);
    let status = status.map_err(RunError::system("cannot wait for the program"))?;
    Ok(ProgramEnd { status: Some(status), report })
}

/// If a variable of [`OWN_PID`] in `environment`, which the command inherits, is this process's pid, makes it the
/// program's pid instead.
fn name_own_pid(
    command: &mut Command,
    called: &OsStr,
    program: &Program,
    mut environment: Vec<(OsString, OsString)>,
) -> Result<(), RunError> {
    let own = std::process::id().to_string();
    let meant: Vec<&str> = OWN_PID
        .into_iter()
        .filter(|name| environment.iter().any(|(key, value)| key == name && *value == *own))
        .collect();
    if meant.is_empty() {
        return Ok(());
    }
    // Variables that were set on the command override inherited ones.
    for (name, value) in command.get_envs() {
        environment.retain(|(key, _)| key != name);
        environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    let arguments = [called].into_iter().chain(command.get_args()).map(OsStr::to_owned);
    let image = Image::new(&program.path, arguments, environment.into_iter(), &meant)
        .map_err(RunError::system("cannot name the program's pid"))?;
    exec_with_own_pid(command, image);
    Ok(())
}

fn start(program: &Program, command: &mut Command) -> Result<Pid, RunError> {
    let child = command.spawn().map_err(|error| match error.raw_os_error() {
        // Of the fork, or of the pipe by which the child tells that its exec has failed.
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM) => {
            RunError::system("cannot start the program")(error)
        }
        _ => RunError::NotExecutable { path: program.path.clone(), reason: error.to_string() },
    })?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| RunError::system("no process")(io::Error::from(io::ErrorKind::InvalidData)))
}

/// What is seen while the program is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChildEvent {
    Signal,
    /// SIGUSR1, which asks for a report.
    Asked,
    /// The program itself has ended.
    Ended,
}

/// Waits for the program and for every process that it leaves behind. Returns the status of the program itself.
fn wait(
    child: Pid,
    signals: &Signals,
    mut witness: Option<Witness>,
    mut awake: impl FnMut(ChildEvent),
) -> io::Result<ExitStatus> {
    let mut status = None;
    let mut stops = Stops::default();
    loop {
        while let Some(arrived) = signals.next() {
            awake(if arrived.signal == libc::SIGUSR1 { ChildEvent::Asked } else { ChildEvent::Signal });
            stops.arrived(arrived.signal);
            match arrived.signal {
                libc::SIGCHLD => {}
                _ if arrived.is_from_us() => {}
                _ if status.is_none() => signals::pass_on(arrived, child, witness.as_mut()),
                _ => signals::pass_on_to_orphans(arrived),
            }
        }
        loop {
            // Any child, whatever process group it has moved to.
            match rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, ended))) if pid == child => match ended.stopping_signal() {
                    Some(signal) => stops.child_stopped(signal),
                    None => {
                        status = Some(ExitStatus::from_raw(ended.as_raw()));
                        awake(ChildEvent::Ended);
                    }
                },
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(rustix::io::Errno::CHILD) => {
                    return status.ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if stops.both() {
            // The shell waits for this process, so the job counts as stopped only if this process stops, too.
            // SIGCONT continues it.
            let _ = kill_process(getpid(), Signal::STOP);
        }
        // An interruption is impossible: every signal is blocked.
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
    }
}

/// Job control: stop signals for the whole process group, and stops of the program.
///
/// If somebody stops the program by its own pid, the supervisor does not stop: whoever continues the program would
/// not continue the supervisor.
#[derive(Debug, Default)]
struct Stops {
    arrived: Option<i32>,
    child: Option<i32>,
}

impl Stops {
    fn arrived(&mut self, signal: i32) {
        match signal {
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.arrived = Some(signal),
            libc::SIGCONT => *self = Self::default(),
            _ => {}
        }
    }

    fn child_stopped(&mut self, signal: i32) {
        self.child = Some(signal);
    }

    /// Whether both events have come, in any order. Forgets them if so.
    fn both(&mut self) -> bool {
        let both = self.arrived.is_some() && self.arrived == self.child;
        if both {
            *self = Self::default();
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_of_the_whole_group_stops_the_supervisor() {
        let mut stops = Stops::default();
        stops.child_stopped(libc::SIGTSTP);
        assert!(!stops.both(), "the program alone");
        stops.arrived(libc::SIGTSTP);
        assert!(stops.both() && !stops.both(), "the program first, then this process: once");
        stops.arrived(libc::SIGTTIN);
        stops.child_stopped(libc::SIGSTOP);
        assert!(!stops.both(), "another signal than the group's");
        stops.arrived(libc::SIGCONT);
        stops.child_stopped(libc::SIGTTIN);
        assert!(!stops.both(), "it has been continued since");
    }
}
