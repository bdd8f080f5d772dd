//! Finds out how a program is to be run, and starts what all ways have in common.

use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use linger::Closer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::intake::{Address, Intake};
use crate::kernel::has_one_thread;
use crate::options::Via;
use crate::preload::Preload;
use crate::seccomp::{Counts, Seccomp};
use crate::tally::Tally;
use crate::{Notice, Options, Place, Program, Refusal, RunError, RunReport, child, itself, metrics};

/// How a supervised program ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProgramEnd {
    /// The program's own status, to be passed on. `None` if the calling process became the program: then its starter has it.
    pub status: Option<ExitStatus>,
    /// Counts of its closes and of what became of them.
    pub report: RunReport,
}

/// Fds of the supervisor that are reserved for other things than lingering connections, mainly for the program's processes.
const SPARE: u64 = 512;

/// Runs a command to its end. Then waits until its last connection has ended, at most for [`Options::linger_at_exit`].
///
/// Where possible ([`Place::Itself`]) the calling process becomes the command, and this function returns in another process:
/// the supervisor, which was forked off before, in a session of its own, with stderr alone of the caller's fds. It returns once
/// in any case: an error is returned to the caller. SIGUSR1 to the supervisor calls `notify` with a report, and it ignores all
/// other signals: it ends with the program and its connections.
///
/// Otherwise ([`Place::Child`]) the command is a child of this process, and inherits the standard streams, process group,
/// terminal, mask of signals and ignored ones. Signals to this process are passed on to it; SIGUSR1 also calls `notify` with a
/// report, and is passed on only if the program has a handler for it.
///
/// Other notices are listed at [`Notice`]. Processes that the command leaves behind (a daemon) are waited for as well, and get
/// the signals once the command has ended. Signals are blocked in this process on return.
///
/// # Errors
/// The command was not started; see [`RunError`]. Also if this process has more than one thread: signals that are sent to it
/// could not be told from the program's, and the others would not be there after a fork.
pub fn run(
    command: &OsStr,
    arguments: &[OsString],
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    check(options)?;
    let program = Program::find(command, &options.search)?;
    let via = way_in(&program, options)?;
    let (place, reason) = Place::choose(via, options);
    tracing::info!(?place, reason, "where the program is to run");
    let address = Address::new().map_err(RunError::system("cannot listen for the program's connections"))?;
    let metrics = options.metrics.map(metrics::listen).transpose()?;
    let (name, token) = (address.name.clone(), address.token);
    let way = match via {
        Via::Preload => Way::Preload(Preload::unpack(&name, token, options)?),
        Via::Seccomp => Way::Seccomp(Arc::default()),
    };
    let mut prepared = Command::new(&program.path);
    prepared.arg0(command).args(arguments);
    let parts = Parts { limit: getrlimit(Resource::Nofile), address, metrics, way: Arc::new(way) };
    let job = Job { name: command.to_owned(), command: prepared, program, parts };
    match place {
        Place::Itself => itself::run(job, options, notify),
        Place::Child => child::run(job, options, notify),
    }
}

/// What is ready before the program is started, and before there is a second process or thread.
pub(crate) struct Job {
    pub(crate) program: Program,
    /// The command as it was given, which is its first argument.
    pub(crate) name: OsString,
    pub(crate) command: Command,
    pub(crate) parts: Parts,
}

/// What a supervisor is made from.
pub(crate) struct Parts {
    /// The limit of fds that the program is to have.
    pub(crate) limit: Rlimit,
    pub(crate) address: Address,
    pub(crate) metrics: Option<TcpListener>,
    pub(crate) way: Arc<Way>,
}

/// The supervisor's threads.
pub(crate) struct Supervision {
    closer: Closer,
    intake: Intake,
    tally: Arc<Tally>,
    way: Arc<Way>,
    report: Arc<dyn Fn() -> RunReport + Send + Sync>,
}

impl Supervision {
    pub(crate) fn start(parts: Parts, options: &Options) -> Result<Self, RunError> {
        let Parts { limit, address, metrics, way } = parts;
        let mut budget = options.budget;
        let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(SPARE).max(16);
        budget.sockets = budget.sockets.min(usize::try_from(most).unwrap_or(usize::MAX));
        let closer = Closer::new(budget).map_err(RunError::system("cannot start the closer"))?;
        let tally = Arc::new(Tally::default());
        let report = {
            let (closer, tally, way) = (closer.clone(), Arc::clone(&tally), Arc::clone(&way));
            Arc::new(move || {
                RunReport::new(way.counts(&tally), way.looks(&tally), &closer.snapshot(), &tally)
            })
        };
        if let Some(listener) = metrics {
            metrics::serve(listener, closer.clone(), Arc::clone(&report) as _)
                .map_err(RunError::system("cannot serve the counts"))?;
        }
        let intake = Intake::start(address, closer.clone(), options.policy, Arc::clone(&tally))
            .map_err(RunError::system("cannot start the intake"))?;
        Ok(Self { closer, intake, tally, way, report })
    }

    pub(crate) fn report(&self) -> RunReport {
        (self.report)()
    }

    /// The first process that could not be looked at, once. SIGCHLD to this process says that there is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.tally.refusal()
    }

    /// Waits until the last connection has ended, after the last process of the program has.
    pub(crate) fn finish(self, options: &Options) -> RunReport {
        self.intake.finish();
        self.closer.finish(options.linger_at_exit);
        self.way.remove();
        (self.report)()
    }
}

fn check(options: &Options) -> Result<(), RunError> {
    let wrong = |error: &dyn std::fmt::Display| RunError::Options(error.to_string());
    options.policy.validate().map_err(|error| wrong(&error))?;
    options.budget.validate().map_err(|error| wrong(&error))?;
    if !has_one_thread() {
        return Err(RunError::Threads);
    }
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
pub(crate) enum Way {
    Preload(Preload),
    Seccomp(Arc<Counts>),
}

impl From<Preload> for Arc<Way> {
    fn from(preload: Preload) -> Self {
        Self::new(Way::Preload(preload))
    }
}

impl Way {
    pub(crate) fn counts(&self, tally: &Tally) -> [u64; linger_preload::protocol::COUNTS] {
        match self {
            Self::Preload(_) => tally.all(),
            Self::Seccomp(counts) => counts.all(),
        }
    }

    pub(crate) fn looks(&self, tally: &Tally) -> u64 {
        match self {
            Self::Preload(_) => tally.looks.load(Relaxed),
            Self::Seccomp(counts) => counts.looks(),
        }
    }

    pub(crate) fn put_into(
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

    /// The preloaded library.
    pub(crate) fn preload(&self) -> Option<&Preload> {
        match self {
            Self::Preload(preload) => Some(preload),
            Self::Seccomp(_) => None,
        }
    }

    /// What the memory maps of every process of the program name.
    pub(crate) fn mark(&self) -> Option<String> {
        self.preload().map(Preload::mark)
    }

    /// Removes what was unpacked.
    pub(crate) fn remove(&self) {
        if let Self::Preload(preload) = self {
            preload.remove();
        }
    }
}

/// Raises this process's limit of fds to the hard limit, for lingering connections. The program runs with the old limit.
pub(crate) fn raise_descriptor_limit(limit: Rlimit) {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
