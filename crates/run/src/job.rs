//! A program that is to be run, and the supervision that all ways of running it have in common.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread;

use linger::Closer;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::intake::{Address, Intake};
use crate::kernel::work_in_batches;
use crate::mark::Mark;
use crate::preload::Preload;
use crate::seccomp::{Counts, Watch};
use crate::survey::{Means, Survey};
use crate::tally::Tally;
use crate::{Coverage, Options, Program, Refusal, RunError, RunReport, metrics};

/// How a supervised program ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ProgramEnd {
    /// The program's own status, to be passed on. `None` if the calling process became the program: then its starter has it.
    pub status: Option<ExitStatus>,
    /// Counts of its closes and of what became of them.
    pub report: RunReport,
}

/// With a lower hard limit of fds, which holds for the supervisor as well, few connections or none can linger.
pub const FEW_DESCRIPTORS: u64 = 64;

/// Fds of the supervisor that are reserved for other things than lingering connections, mainly for the program's processes.
const SPARE: u64 = 512;

/// What is ready before the program is started, and before there is a second process or thread.
pub(crate) struct Job {
    pub(crate) program: Program,
    /// The command as it was given (`argv[0]`).
    pub(crate) name: OsString,
    pub(crate) command: Command,
    pub(crate) parts: Parts,
}

/// The parts of a supervisor.
pub(crate) struct Parts {
    /// The limit of fds that the program is to have.
    pub(crate) limit: Rlimit,
    pub(crate) address: Address,
    pub(crate) metrics: Option<TcpListener>,
    pub(crate) way: Arc<Way>,
    pub(crate) means: Means,
    /// Where seccomp is the way and the supervisor is not the program's parent.
    pub(crate) watch: Option<Watch>,
}

/// The supervisor's threads.
pub(crate) struct Supervision {
    closer: Closer,
    intake: Intake,
    tally: Arc<Tally>,
    way: Arc<Way>,
    report: Arc<dyn Fn() -> RunReport + Send + Sync>,
    survey: Survey,
    /// The survey ends when this is dropped.
    surveys: Sender<()>,
}

impl Supervision {
    pub(crate) fn start(parts: Parts, options: &Options) -> Result<Self, RunError> {
        let Parts { limit, address, metrics, way, means, watch: _ } = parts;
        let mut budget = options.budget;
        let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(SPARE).max(16);
        budget.sockets = budget.sockets.min(usize::try_from(most).unwrap_or(usize::MAX));
        let closer =
            in_batches(move || Closer::new(budget)).map_err(RunError::system("cannot start the closer"))?;
        let tally = Arc::new(Tally::default());
        let heard = Arc::clone(&way);
        let own = metrics.iter().map(AsFd::as_fd).chain([address.listener()]);
        let means = means.without(own);
        let (survey, surveys) = Survey::start(means, move || heard.listens())
            .map_err(RunError::system("cannot look at the program's listeners"))?;
        let report = {
            let (closer, tally, way) = (closer.clone(), Arc::clone(&tally), Arc::clone(&way));
            let survey = survey.clone();
            Arc::new(move || {
                let report =
                    RunReport::new(way.counts(&tally), way.looks(&tally), &closer.snapshot(), &tally);
                way.with_partings(report).with_coverage(survey.counts())
            })
        };
        if let Some(listener) = metrics {
            let survey = survey.clone();
            metrics::serve(listener, Arc::clone(&report) as _, Arc::new(move || survey.last()))
                .map_err(RunError::system("cannot serve the counts"))?;
        }
        let intake =
            Intake::start(address, closer.clone(), options.policy, budget.sockets, Arc::clone(&tally))
                .map_err(RunError::system("cannot start the intake"))?;
        Ok(Self { closer, intake, tally, way, report, survey, surveys })
    }

    pub(crate) fn report(&self) -> RunReport {
        (self.report)()
    }

    /// The first process that could not be looked at, once. SIGCHLD to this process says that there is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.tally.refusal()
    }

    /// The coverage of the program's listeners if it is to be reported, once. SIGCHLD to this process says that there
    /// is something.
    pub(crate) fn coverage_news(&self) -> Option<Coverage> {
        self.survey.news()
    }

    /// The coverage of the program's listeners at this moment.
    pub(crate) fn coverage(&self) -> Coverage {
        self.survey.look()
    }

    /// Waits until the last connection has ended, after the last process of the program has.
    pub(crate) fn finish(self, options: &Options) -> RunReport {
        drop(self.surveys);
        self.intake.finish();
        self.closer.finish(options.linger_at_exit);
        self.way.remove();
        (self.report)()
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

    /// How often the program has called `listen`; `None` with a preloaded library, which does not report it.
    fn listens(&self) -> Option<u64> {
        match self {
            Self::Preload(_) => None,
            Self::Seccomp(counts) => Some(counts.listens.load(Relaxed)),
        }
    }

    pub(crate) fn looks(&self, tally: &Tally) -> u64 {
        match self {
            Self::Preload(_) => tally.looks.load(Relaxed),
            Self::Seccomp(counts) => counts.looks(),
        }
    }

    /// Adds the connections that were over before they could be handed over to the closer.
    fn with_partings(&self, report: RunReport) -> RunReport {
        match self {
            Self::Preload(_) => report,
            Self::Seccomp(counts) => RunReport {
                peer_closed: report.peer_closed + counts.peer_closed.load(Relaxed),
                bytes_acknowledged: report.bytes_acknowledged + counts.bytes_acknowledged.load(Relaxed),
                ..report
            },
        }
    }

    /// The counts of the seccomp thread.
    pub(crate) fn seccomp(&self) -> Option<Arc<Counts>> {
        match self {
            Self::Preload(_) => None,
            Self::Seccomp(counts) => Some(Arc::clone(counts)),
        }
    }

    /// The preloaded library.
    pub(crate) fn preload(&self) -> Option<&Preload> {
        match self {
            Self::Preload(preload) => Some(preload),
            Self::Seccomp(_) => None,
        }
    }

    /// What shows that a process has the preloaded library.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.preload().map(Preload::mark)
    }

    /// Removes what supervisors that were killed have left, in a thread that nobody waits for.
    pub(crate) fn sweep(self: &Arc<Self>) {
        let way = Arc::clone(self);
        let task = move || way.preload().into_iter().for_each(Preload::sweep);
        // Where there can be no thread, a later start will do it.
        let _ = thread::Builder::new().name("linger-sweep".into()).spawn(task);
    }

    /// Removes what was unpacked.
    pub(crate) fn remove(&self) {
        if let Self::Preload(preload) = self {
            preload.remove();
        }
    }
}

/// Calls `start`, so that the threads which it starts work in batches.
fn in_batches<R: Send + 'static>(start: impl FnOnce() -> io::Result<R> + Send + 'static) -> io::Result<R> {
    let task = move || {
        work_in_batches();
        start()
    };
    let maker = thread::Builder::new().name("linger-maker".into()).spawn(task)?;
    maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

/// Raises this process's limit of fds to the hard limit, for lingering connections. The program runs with the old limit.
pub(crate) fn raise_descriptor_limit(limit: Rlimit) {
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
