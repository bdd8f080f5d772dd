//! The supervisor: starts the program, stays until its last connection has ended, and ends as it did.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use linger::Closer;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getrlimit, setrlimit, waitpid};
use signal_hook::consts::{SIGCHLD, SIGUSR1};

use crate::intake::{Address, Intake};
use crate::preload::Preload;
use crate::report::Tally;
use crate::{Error, Options, Program, Report, metrics, signals};

/// How a supervised program ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ended {
    /// The program's own status, to be passed on.
    pub status: ExitStatus,
    /// What was done for it.
    pub report: Report,
}

/// Descriptors of this process that are not for lingering connections: the program's processes, mostly.
const SPARE: u64 = 512;

/// Runs a command to its end, and until its last connection has ended or [`Options::linger_at_exit`] is over.
///
/// Signals that this process gets are passed on. `on_request` is called with a report at each SIGUSR1, which is
/// passed on as well to a program that has a handler for it. The command keeps this process's standard streams,
/// process group and terminal. Processes that it leaves behind (a daemon) are waited for, too, and get the signals
/// once it has ended.
///
/// # Errors
/// Where the command was not started; see [`Error`].
pub fn run(
    command: &OsStr,
    arguments: &[OsString],
    options: &Options,
    mut on_request: impl FnMut(&Report),
) -> Result<Ended, Error> {
    check(options)?;
    let program = Program::find(command, &options.search)?;
    check_way_in(&program)?;
    let limit = getrlimit(Resource::Nofile);
    let mut budget = options.budget;
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(SPARE).max(16);
    budget.sockets = budget.sockets.min(usize::try_from(most).unwrap_or(usize::MAX));
    let closer = Closer::new(budget).map_err(Error::system("cannot start the closer"))?;
    let tally = Arc::new(Tally::default());
    let address = Address::new().map_err(Error::system("cannot listen for the program's connections"))?;
    let preload = Arc::new(Preload::unpack(&address.name, address.token, options)?);
    let report = {
        let (closer, tally, preload) = (closer.clone(), Arc::clone(&tally), Arc::clone(&preload));
        Arc::new(move || Report::new(preload.counts(), &closer.snapshot(), &tally))
    };
    if let Some(address) = options.metrics {
        metrics::serve(address, closer.clone(), Arc::clone(&report) as _)?;
    }
    let intake = Intake::start(address, closer.clone(), options.policy, tally)
        .map_err(Error::system("cannot start the intake"))?;
    let mut signals = signals::take().map_err(Error::system("cannot take signals"))?;
    // Orphans of the program become this process's children, so that it knows when the last is gone.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Error::system("cannot adopt the program's orphans"))?;
    let mut prepared = Command::new(&program.path);
    prepared.arg0(command).args(arguments);
    preload.put_into(&mut prepared, &options.preloaded);
    let child = start(&program, &mut prepared).inspect_err(|_| preload.remove())?;
    raise_descriptor_limit(limit);
    let status = wait(child, &mut signals, || on_request(&report()));
    intake.finish();
    closer.finish(options.linger_at_exit);
    preload.remove();
    Ok(Ended { status: status.map_err(Error::system("cannot wait for the program"))?, report: report() })
}

fn check(options: &Options) -> Result<(), Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Options(error.to_string());
    options.policy.validate().map_err(|error| wrong(&error))?;
    options.budget.validate().map_err(|error| wrong(&error))?;
    let too_many = options.ports.len().max(options.exclude_ports.len()) > 64;
    if too_many { Err(Error::Options("more than 64 ports".to_owned())) } else { Ok(()) }
}

fn check_way_in(program: &Program) -> Result<(), Error> {
    let path = program.path.clone();
    if let Some(bits) = program.gains {
        return Err(Error::GainsRights { path, bits });
    }
    match program.kind.obstacle() {
        None => Ok(()),
        Some(reason) => Err(Error::NoLoader { path, reason }),
    }
}

fn start(program: &Program, command: &mut Command) -> Result<Pid, Error> {
    let child = command
        .spawn()
        .map_err(|error| Error::NotExecutable { path: program.path.clone(), reason: error.to_string() })?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::system("no process")(io::Error::from(io::ErrorKind::InvalidData)))
}

/// The program got the limit as it was; what lingers is this process's to hold.
fn raise_descriptor_limit(limit: Rlimit) {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Waits for the program and for all that it leaves behind; the program's own status.
fn wait(
    child: Pid,
    signals: &mut signal_hook::iterator::SignalsInfo<signal_hook::iterator::exfiltrator::SignalOnly>,
    mut report: impl FnMut(),
) -> io::Result<ExitStatus> {
    let mut status = None;
    loop {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
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
            match signal {
                SIGCHLD => {}
                signal => {
                    if signal == SIGUSR1 {
                        report();
                    }
                    match status {
                        None => signals::pass_on(signal, child),
                        Some(_) => signals::pass_on_to_orphans(signal),
                    }
                }
            }
        }
    }
}
