//! The supervisor: starts the program, waits until it and its last connection have ended, and returns its status.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use linger::Closer;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getrlimit, setrlimit};
use signal_hook::consts::{SIGCHLD, SIGUSR1};

use crate::intake::{Address, Intake};
use crate::options::Via;
use crate::preload::Preload;
use crate::seccomp::{Counts, Seccomp};
use crate::tally::Tally;
use crate::{Notice, Options, Program, RunError, RunReport, metrics, signals};

/// How a supervised program ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProgramEnd {
    /// The program's own status, to be passed on.
    pub status: ExitStatus,
    /// Counts of its closes and of what became of them.
    pub report: RunReport,
}

/// Fds of this process that are reserved for other things than lingering connections, mainly for the program's processes.
const SPARE: u64 = 512;

/// Runs a command to its end. Then waits until its last connection has ended, at most for [`Options::linger_at_exit`].
///
/// Signals to this process are passed on to the program. SIGUSR1 also calls `notify` with a report, and is passed on only
/// if the program has a handler for it; other notices are listed at [`Notice`]. The command inherits the standard streams,
/// process group and terminal. Processes that it leaves behind (a daemon) are waited for as well, and get the signals once
/// the command has ended.
///
/// # Errors
/// The command was not started; see [`RunError`].
pub fn run(
    command: &OsStr,
    arguments: &[OsString],
    options: &Options,
    mut notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    check(options)?;
    let program = Program::find(command, &options.search)?;
    let via = way_in(&program, options)?;
    let limit = getrlimit(Resource::Nofile);
    let mut budget = options.budget;
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(SPARE).max(16);
    budget.sockets = budget.sockets.min(usize::try_from(most).unwrap_or(usize::MAX));
    let closer = Closer::new(budget).map_err(RunError::system("cannot start the closer"))?;
    let tally = Arc::new(Tally::default());
    let address = Address::new().map_err(RunError::system("cannot listen for the program's connections"))?;
    let (name, token) = (address.name.clone(), address.token);
    let way = match via {
        Via::Preload => Way::Preload(Preload::unpack(&name, token, options)?),
        Via::Seccomp => Way::Seccomp(Arc::default()),
    };
    let way = Arc::new(way);
    let report = {
        let (closer, tally, way) = (closer.clone(), Arc::clone(&tally), Arc::clone(&way));
        Arc::new(move || RunReport::new(way.counts(&tally), way.looks(&tally), &closer.snapshot(), &tally))
    };
    if let Some(address) = options.metrics {
        metrics::serve(address, closer.clone(), Arc::clone(&report) as _)?;
    }
    let intake = Intake::start(address, closer.clone(), options.policy, Arc::clone(&tally))
        .map_err(RunError::system("cannot start the intake"))?;
    let mut signals = signals::take().map_err(RunError::system("cannot take signals"))?;
    // A child subreaper: orphans of the program become children of this process, so that it sees the last one end.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(RunError::system("cannot adopt the program's orphans"))?;
    let mut prepared = Command::new(&program.path);
    prepared.arg0(command).args(arguments);
    let watched = way.put_into(&mut prepared, &name, token, options, limit)?;
    let started = start(&program, &mut prepared).inspect_err(|_| way.remove());
    // Dropping the command closes the fds that only the child was to have.
    drop(prepared);
    if let Some(watched) = &watched {
        watched.check()?;
    }
    let child = started?;
    raise_descriptor_limit(limit);
    let status = wait(child, &mut signals, |asked| {
        if let Some(refusal) = watched.as_ref().and_then(Seccomp::refusal).or_else(|| tally.refusal()) {
            notify(Notice::Refused(&refusal));
        }
        if asked {
            notify(Notice::Report(&report()));
        }
    });
    if let Some(watched) = watched {
        watched.finish();
    }
    intake.finish();
    closer.finish(options.linger_at_exit);
    way.remove();
    Ok(ProgramEnd {
        status: status.map_err(RunError::system("cannot wait for the program"))?,
        report: report(),
    })
}

fn check(options: &Options) -> Result<(), RunError> {
    let wrong = |error: &dyn std::fmt::Display| RunError::Options(error.to_string());
    options.policy.validate().map_err(|error| wrong(&error))?;
    options.budget.validate().map_err(|error| wrong(&error))?;
    let too_many = options.ports.len().max(options.exclude_ports.len()) > 64;
    if too_many { Err(RunError::Options("more than 64 ports".to_owned())) } else { Ok(()) }
}

/// The requested way to see closes, or the one that fits the program.
fn way_in(program: &Program, options: &Options) -> Result<Via, RunError> {
    let path = program.path.clone();
    let obstacle = program.kind.obstacle();
    let via = options.via.unwrap_or(if obstacle.is_none() { Via::Preload } else { Via::Seccomp });
    tracing::info!(
        ?via,
        asked = options.via.is_some(),
        obstacle,
        program = %path.display(),
        "how closes are to be seen"
    );
    match via {
        _ if program.gains.is_some() => {
            Err(RunError::GainsRights { path, bits: program.gains.unwrap_or_default() })
        }
        Via::Preload => obstacle.map_or(Ok(via), |reason| Err(RunError::NoLoader { path, reason })),
        Via::Seccomp if !program.kind.is_native() => Err(RunError::ForeignCalls { path }),
        Via::Seccomp => Ok(via),
    }
}

/// The means by which the program's closes are seen.
enum Way {
    Preload(Preload),
    Seccomp(Arc<Counts>),
}

impl Way {
    fn counts(&self, tally: &Tally) -> [u64; linger_preload::protocol::COUNTS] {
        match self {
            Self::Preload(_) => tally.all(),
            Self::Seccomp(counts) => counts.all(),
        }
    }

    fn looks(&self, tally: &Tally) -> u64 {
        match self {
            Self::Preload(_) => tally.looks.load(Relaxed),
            Self::Seccomp(counts) => counts.looks(),
        }
    }

    fn put_into(
        &self,
        command: &mut Command,
        name: &str,
        token: [u8; 16],
        options: &Options,
        limit: Rlimit,
    ) -> Result<Option<Seccomp>, RunError> {
        match self {
            Self::Preload(preload) => {
                preload.put_into(command, &options.preloaded);
                Ok(None)
            }
            Self::Seccomp(counts) => {
                // Raise the limit before the seccomp thread starts: the thread places its fds below it. The child restores the old limit.
                raise_descriptor_limit(limit);
                Seccomp::prepare(command, name, token, options, limit, Arc::clone(counts)).map(Some)
            }
        }
    }

    fn remove(&self) {
        if let Self::Preload(preload) = self {
            preload.remove();
        }
    }
}

fn start(program: &Program, command: &mut Command) -> Result<Pid, RunError> {
    let child = command
        .spawn()
        .map_err(|error| RunError::NotExecutable { path: program.path.clone(), reason: error.to_string() })?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| RunError::system("no process")(io::Error::from(io::ErrorKind::InvalidData)))
}

/// Raises this process's limit of fds to the hard limit, for lingering connections. The program runs with the old limit.
fn raise_descriptor_limit(limit: Rlimit) {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Waits for the program and for every process that it leaves behind. Returns the status of the program itself.
///
/// `awake` is called after each signal; its argument is true for SIGUSR1, which asks for a report.
fn wait(
    child: Pid,
    signals: &mut signal_hook::iterator::SignalsInfo<signal_hook::iterator::exfiltrator::SignalOnly>,
    mut awake: impl FnMut(bool),
) -> io::Result<ExitStatus> {
    let mut status = None;
    loop {
        loop {
            // Any child, whatever process group it has moved to.
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, ended))) if pid == child => status = Some(ExitStatus::from_raw(ended.as_raw())),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(rustix::io::Errno::CHILD) => {
                    return status.ok_or_else(|| io::Error::from_raw_os_error(10));
                }
                Err(error) => return Err(error.into()),
            }
        }
        for signal in signals.wait() {
            awake(signal == SIGUSR1);
            match signal {
                SIGCHLD => {}
                signal => match status {
                    None => signals::pass_on(signal, child),
                    Some(_) => signals::pass_on_to_orphans(signal),
                },
            }
        }
    }
}
