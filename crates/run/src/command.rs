//! Finds out how a program is to be run, and runs it.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use crate::intake::Address;
use crate::job::{Job, Parts, ProgramEnd, Way};
use crate::kernel::{ALWAYS, SECCOMP, forbidden, has_one_thread};
use crate::options::Via;
use crate::preload::Preload;
use crate::survey::Means;
use crate::{Notice, Options, Place, Program, RunError, child, itself, metrics, preload, proc};

/// Runs a command to its end. Then waits until its last connection has ended, at most for [`Options::linger_at_exit`].
///
/// Where possible ([`Place::Itself`]) the calling process becomes the command: in it, this function returns only if
/// that fails. Otherwise it returns in the supervisor, a process that was forked off before, in a session of its own
/// and at `/`, with no fd of the caller's but stderr. A supervisor that the service manager has started
/// ([`Options::lingerd`]) is another program: then no process returns from here. SIGUSR1 to the supervisor calls
/// `notify` with a report. It ignores all other signals, because it has to outlive the program until the last
/// connection has ended.
///
/// With [`Place::Child`] the command is a child of this process, and inherits the standard streams, process group,
/// terminal, mask of signals and ignored ones. Signals to this process are passed on to the command and, after its end,
/// to the processes that it has left behind. SIGUSR1 also calls `notify` with a report, and is passed on only if the
/// program has a handler for it.
///
/// Other notices are listed at [`Notice`]. Processes that the command leaves behind (a daemon) are waited for as well.
/// Signals are blocked in this process on return.
///
/// # Errors
/// The command was not started, or could not be supervised; see [`RunError`]. If only its `exec` has failed, the
/// calling process may have the seccomp filter already, and should end. It is also an error if this process has more
/// than one thread: signals that are sent to it could not be told from the program's, and a fork copies the calling
/// thread alone.
pub fn run(
    command: &OsStr,
    arguments: &[OsString],
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let asked = if options.via == Some(Via::Seccomp) { SECCOMP } else { &[] };
    let calls = forbidden(&[ALWAYS, asked].concat());
    // If only calls of supervision by seccomp are forbidden, `may_ask` below says whether the program can be run
    // without it.
    if calls.iter().any(|call| !is_of_seccomp(call)) {
        return Err(RunError::CallsForbidden { calls, optional: false });
    }
    check(options)?;
    let program = Program::find(command, &options.search)?;
    let via = way_in(&program, options)?;
    may_ask(via, &program)?;
    let address = Address::new().map_err(|source| match source.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => RunError::NoUnixSockets { source },
        _ => RunError::system("cannot listen for the program's connections")(source),
    })?;
    let metrics = options.metrics.map(metrics::listen).transpose()?;
    let (name, token) = (address.name.clone(), address.token);
    let (root, filters) = (std::process::id(), proc::filters(std::process::id()));
    let way = match via {
        Via::Preload => Way::Preload(Preload::unpack(&name, token, filters, options)?),
        Via::Seccomp => Way::Seccomp(Arc::default()),
    };
    let (place, reason) = if way.preload().is_some_and(Preload::is_in_memory) {
        (Place::Child, "the preloaded library is in this process's memory")
    } else {
        Place::choose(via, options)
    };
    tracing::info!(?place, reason, "where the program is to run");
    let mut prepared = Command::new(&program.path);
    prepared.arg0(command).args(arguments);
    if program.sanitized && way.preload().is_some() {
        preload::permit_before_sanitizer(&mut prepared, &options.sanitizer_options);
    }
    let means = Means::new(root, filters, way.mark(), options);
    let parts = Parts {
        limit: getrlimit(Resource::Nofile),
        address,
        metrics,
        way: Arc::new(way),
        means,
        watch: None,
    };
    let job = Job { name: command.to_owned(), command: prepared, program, parts };
    match place {
        Place::Itself => itself::run(job, options, notify),
        Place::Child => child::run(job, options, notify),
    }
}

fn check(options: &Options) -> Result<(), RunError> {
    let wrong = |error: &dyn std::fmt::Display| RunError::Options(error.to_string());
    options.policy.validate().map_err(|error| wrong(&error))?;
    options.budget.validate().map_err(|error| wrong(&error))?;
    if !has_one_thread().map_err(|source| RunError::NoProc { source })? {
        return Err(RunError::Threads);
    }
    let too_many = options.ports.len().max(options.exclude_ports.len()) > 64;
    if too_many { Err(RunError::Options("more than 64 ports".to_owned())) } else { Ok(()) }
}

fn is_of_seccomp(call: &str) -> bool {
    SECCOMP.iter().any(|trial| trial.name == call)
}

/// Fails if the program is to be supervised by seccomp, and a filter around this process forbids a call that this
/// needs.
fn may_ask(via: Via, program: &Program) -> Result<(), RunError> {
    let calls = if via == Via::Seccomp { forbidden(SECCOMP) } else { Vec::new() };
    let optional = program.kind.obstacle().is_none();
    if calls.is_empty() { Ok(()) } else { Err(RunError::CallsForbidden { calls, optional }) }
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
