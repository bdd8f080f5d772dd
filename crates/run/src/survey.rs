//! Looks which processes of the program listen, and whether their closes are seen.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;
use rustix::process::Signal;

use crate::coverage::{CoveredListener, Gap};
use crate::listeners::{ListeningSocket, listening};
use crate::mark::Mark;
use crate::{Coverage, Options, Program, Via, autogroup, proc};

#[cfg(test)]
mod tests;

/// First pause between two looks, and after each change at the start; doubles up to the longest. No event reports a
/// listener of a process without the preloaded library.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(10);

/// The longest pause while programs start.
const LONGEST_AT_START: Duration = Duration::from_millis(500);
const START: Duration = Duration::from_secs(20);

/// How the closes of the program are seen, as far as the coverage of its processes depends on it.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The program, or the process whose child it is.
    pub(crate) root: u32,
    pub(crate) via: Via,
    /// What shows that a process has the preloaded library.
    pub(crate) mark: Option<Mark>,
    /// The seccomp filters of the process that becomes the program, before any is installed for it.
    pub(crate) filters: u32,
    /// The control groups of that process at the start.
    control_group: Option<String>,
    pub(crate) ports: Vec<u16>,
    pub(crate) exclude_ports: Vec<u16>,
    /// Listeners of the supervisor's own, by inode.
    own: Vec<u64>,
}

impl Means {
    pub(crate) fn new(root: u32, filters: u32, mark: Option<Mark>, options: &Options) -> Self {
        let via = if mark.is_some() { Via::Preload } else { Via::Seccomp };
        let (ports, exclude_ports) = (options.ports.clone(), options.exclude_ports.clone());
        let control_group = proc::control_group(root);
        Self { root, via, mark, filters, control_group, ports, exclude_ports, own: Vec::new() }
    }

    /// Leaves out the supervisor's own listeners. The process that becomes the program has them as well until its
    /// `exec`, which may come late on a busy machine.
    pub(crate) fn without<'fd>(self, own: impl IntoIterator<Item = BorrowedFd<'fd>>) -> Self {
        let inode = |fd| rustix::fs::fstat(fd).ok().map(|status| status.st_ino);
        Self { own: own.into_iter().filter_map(inode).collect(), ..self }
    }

    fn wants(&self, port: u16) -> bool {
        !self.exclude_ports.contains(&port) && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

/// The coverage of the program's listeners, kept current by a thread.
#[derive(Clone, Debug)]
pub(crate) struct Survey(Arc<SharedSurvey>);

/// A look takes time in proportion to the number of processes, and longer on a busy machine. What was seen has a lock
/// of its own, so that the thread that passes on signals does not wait for a look.
#[derive(Debug)]
struct SharedSurvey {
    surveyor: Mutex<Surveyor>,
    seen: Mutex<SeenCoverage>,
}

#[derive(Debug, Default)]
struct SeenCoverage {
    /// The coverage when the program last had a listener.
    last: Coverage,
    /// The coverage that is still to be reported.
    untold: Option<Coverage>,
    told: ToldCoverage,
}

/// What has been reported.
#[derive(Debug, Default)]
struct ToldCoverage {
    /// That there are listeners.
    begun: bool,
    /// Which process is not covered at which listener.
    gaps: HashSet<(u64, u32)>,
    /// The look before this one. A gap that is seen only once is not reported: a child that is about to `execve` has
    /// its parent's listeners.
    before: Coverage,
}

impl ToldCoverage {
    /// Notes a look, and returns whether it shows something to report that was not reported before.
    fn note(&mut self, seen: &Coverage) -> bool {
        let stays =
            seen.listeners.iter().filter(|one| self.before.listeners.contains(one)).collect::<Vec<_>>();
        let mut is_news = !self.begun && !stays.is_empty();
        for one in stays.into_iter().filter(|one| one.covered.is_err()) {
            is_news |= self.gaps.insert((one.inode, one.process));
        }
        self.begun |= is_news;
        self.before.clone_from(seen);
        is_news
    }
}

/// When to look.
#[derive(Debug)]
struct SurveyPauses {
    started: Instant,
    pause: Duration,
    /// The next look.
    next: Instant,
    /// How often the program had called `listen` at the last look, where that is known.
    listens: Option<u64>,
}

impl SurveyPauses {
    fn new(now: Instant) -> Self {
        Self { started: now, pause: FIRST, next: now + FIRST, listens: None }
    }

    /// How long to wait before [`note_listens`](Self::note_listens) is asked again.
    fn wait(&self, now: Instant) -> Duration {
        let wait = self.next.saturating_duration_since(now);
        if self.listens.is_some() { wait.min(LONGEST_AT_START) } else { wait }
    }

    /// Notes how often `listen` was called, and returns whether to look now.
    fn note_listens(&mut self, now: Instant, listens: Option<u64>) -> bool {
        let is_news = listens != self.listens;
        if is_news {
            self.pause = FIRST;
        }
        self.listens = listens;
        is_news || now >= self.next
    }

    /// A look was taken; `changed` if it has shown something else than the one before.
    fn looked(&mut self, now: Instant, changed: bool) {
        // Later changes are normal: a worker that is replaced, a child for each connection.
        let starting = now.saturating_duration_since(self.started) < START;
        // If each `listen` is reported (seccomp), there is no new listener without it, so that looks may be rare.
        let longest = if starting && self.listens.is_none() { LONGEST_AT_START } else { LONGEST };
        self.pause = if changed && starting { FIRST } else { (self.pause * 2).min(longest) };
        self.next = now + self.pause;
    }
}

impl Survey {
    /// Starts the thread, which also keeps this process's scheduling group like the program's. It ends once the second value is
    /// dropped. `listens` says how often the program has called `listen`, where that is known.
    ///
    /// # Errors
    /// No thread can be made.
    pub(crate) fn start(
        means: Means,
        listens: impl Fn() -> Option<u64> + Send + 'static,
    ) -> std::io::Result<(Self, mpsc::Sender<()>)> {
        let root = means.root;
        autogroup::follow(root);
        let surveyor = Surveyor { means, family: HashMap::new(), has_cookies: has_cookies() };
        let survey = Self(Arc::new(SharedSurvey { surveyor: Mutex::new(surveyor), seen: Mutex::default() }));
        let (alive, until) = mpsc::channel();
        let own = survey.clone();
        thread::Builder::new().name("linger-survey".into()).spawn(move || {
            let mut pace = SurveyPauses::new(Instant::now());
            while until.recv_timeout(pace.wait(Instant::now())) == Err(RecvTimeoutError::Timeout) {
                if pace.note_listens(Instant::now(), listens()) {
                    autogroup::follow(root);
                    let changed = own.take_part();
                    pace.looked(Instant::now(), changed);
                }
            }
        })?;
        Ok((survey, alive))
    }

    /// Takes a look, and reports what is new. Returns whether anything has changed.
    fn take_part(&self) -> bool {
        let coverage = self.look();
        let mut seen = lock(&self.0.seen);
        let changed = coverage != seen.told.before;
        if seen.told.note(&coverage) {
            seen.untold = Some(coverage);
            // The thread that tells it on waits for signals. This one only wakes it.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
        }
        changed
    }

    /// The coverage that is to be reported, once.
    pub(crate) fn news(&self) -> Option<Coverage> {
        lock(&self.0.seen).untold.take()
    }

    /// The coverage at this moment. Waits for a look that is under way.
    pub(crate) fn look(&self) -> Coverage {
        let coverage = lock(&self.0.surveyor).look();
        // When the program has ended it has no listeners. The report is about those that it had.
        if !coverage.listeners.is_empty() {
            lock(&self.0.seen).last.clone_from(&coverage);
        }
        coverage
    }

    /// The coverage when the program last had a listener.
    pub(crate) fn last(&self) -> Coverage {
        lock(&self.0.seen).last.clone()
    }

    /// The number of listeners, and of those that are covered, as seen last.
    pub(crate) fn counts(&self) -> (u64, u64) {
        lock(&self.0.seen).last.counts()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the program's processes, and their listeners.
#[derive(Debug)]
struct Surveyor {
    means: Means,
    /// The processes that were found last, with the times of their start: an orphan has a new parent.
    family: HashMap<u32, u64>,
    has_cookies: bool,
}

impl Surveyor {
    fn look(&mut self) -> Coverage {
        self.find_family();
        let mut namespaces: HashMap<_, HashMap<u64, ListeningSocket>> = HashMap::new();
        let (mut listeners, mut hidden) = (Vec::new(), Vec::new());
        for process in self.family.keys().copied() {
            let namespace = fs::read_link(format!("/proc/{process}/ns/net")).ok();
            let listening =
                namespaces.entry(namespace.clone()).or_insert_with(|| listening(process, &self.means.own));
            let Some(sockets) = proc::sockets(process) else {
                // One that ends meanwhile hides nothing.
                if !proc::has_ended(process) {
                    hidden.push((process, namespace));
                }
                continue;
            };
            let here: Vec<_> = listening.iter().filter(|(inode, _)| sockets.contains_key(inode)).collect();
            let mut covered = None;
            for (inode, socket) in here {
                if socket.port.is_none_or(|port| self.means.wants(port)) {
                    let covered = *covered.get_or_insert_with(|| self.covered(process));
                    let Some(covered) = covered else { continue };
                    let (inode, address, name) = (*inode, socket.address.clone(), name(process));
                    listeners.push(CoveredListener { address, inode, process, name, covered });
                }
            }
        }
        let seen: HashSet<u64> = listeners.iter().map(|one| one.inode).collect();
        for (process, namespace) in hidden {
            // Nobody can tell what the process has open. A listener of its user that no other process has is most
            // likely its own.
            let user = proc::user(process);
            let sockets = namespaces.get(&namespace).into_iter().flatten();
            let own = sockets.filter(|(inode, socket)| {
                socket.user == user
                    && !seen.contains(inode)
                    && socket.port.is_some_and(|port| self.means.wants(port))
            });
            listeners.extend(own.map(|(inode, socket)| CoveredListener {
                address: socket.address.clone(),
                inode: *inode,
                process,
                name: name(process),
                covered: Err(Gap::Hidden),
            }));
        }
        listeners.sort_by_key(|one| (one.inode, one.process));
        Coverage { listeners }
    }

    /// The processes at and below the root, those that were found before, and orphans that
    /// [`is_marked`](Self::is_marked) recognizes.
    fn find_family(&mut self) {
        let own = std::process::id();
        // This process has adopted the orphans, so that the kernel's lists of children are complete. Reading the
        // parents of all processes of the machine takes milliseconds.
        if self.means.root == own
            && self.means.via == Via::Seccomp
            && let Some(pids) = proc::descendants()
        {
            let born = |pid: u32| Some((pid, proc::stat(pid)?.born_by_ms));
            self.family = pids.into_iter().filter_map(born).collect();
            return;
        }
        let since = proc::stat(own).map_or(0, |stat| stat.born_by_ms);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let stats: HashMap<u32, proc::Stat> =
            pids.filter(|pid| *pid != own).filter_map(|pid| Some((pid, proc::stat(pid)?))).collect();
        let stays = |pid: u32, stat: &proc::Stat| self.family.get(&pid) == Some(&stat.born_by_ms);
        let marked = |pid: u32, stat: &proc::Stat| {
            // Only an orphan can have been missed: one whose parent has ended before it was seen.
            stat.parent == 1 && stat.born_by_ms >= since && self.is_marked(pid)
        };
        let is_kept = |pid: u32, stat: &proc::Stat| stays(pid, stat) || marked(pid, stat);
        self.family = below(self.means.root, &stats, is_kept);
    }

    /// Whether an orphan has what identifies the program's processes: the library; with seccomp, an additional filter
    /// and the same control group.
    fn is_marked(&self, process: u32) -> bool {
        match &self.means.mark {
            Some(mark) => mark.may_be_on(process),
            None => {
                let group = &self.means.control_group;
                proc::filters(process) > self.means.filters
                    && group.is_some()
                    && proc::control_group(process) == *group
            }
        }
    }

    /// How the closes of a process are seen. `None` of one that [`Mark::is_between`].
    fn covered(&self, process: u32) -> Option<Result<Via, Gap>> {
        if !self.has_cookies {
            return Some(Err(Gap::NoCookie));
        }
        if proc::accepts_by_ring(process) {
            return Some(Err(Gap::Ring));
        }
        Some(match &self.means.mark {
            None => Ok(self.means.via),
            Some(mark) => {
                let kind = Program::find(Path::new(&format!("/proc/{process}/exe")).as_os_str(), "".as_ref())
                    .map(|program| program.kind);
                if let Ok(kind) = kind
                    && kind.obstacle().is_some()
                {
                    return Some(Err(Gap::Kind(kind)));
                }
                match mark.is_mapped(process) {
                    None => Err(Gap::Hidden),
                    Some(false) if Mark::is_between(process) => return None,
                    Some(false) => Err(Gap::NotLoaded),
                    Some(true) if proc::filters(process) > self.means.filters => Err(Gap::Sandboxed),
                    Some(true) => Ok(self.means.via),
                }
            }
        })
    }
}

/// The process `root`, those that are kept for another reason, and all below either; with the times of their start.
fn below(
    root: u32,
    stats: &HashMap<u32, proc::Stat>,
    is_kept: impl Fn(u32, &proc::Stat) -> bool,
) -> HashMap<u32, u64> {
    let mut family: HashMap<u32, u64> = stats
        .iter()
        .filter(|(pid, stat)| **pid == root || is_kept(**pid, stat))
        .map(|(pid, stat)| (*pid, stat.born_by_ms))
        .collect();
    loop {
        let is_child = |stat: &proc::Stat| stat.parent == root || family.contains_key(&stat.parent);
        let more: Vec<_> = stats
            .iter()
            .filter(|(pid, stat)| !family.contains_key(pid) && is_child(stat))
            .map(|(pid, stat)| (*pid, stat.born_by_ms))
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

fn name(process: u32) -> Untrusted {
    let name = fs::read(format!("/proc/{process}/comm")).unwrap_or_default();
    Untrusted::from(name.strip_suffix(b"\n").unwrap_or(&name))
}

/// Whether this kernel gives sockets a cookie.
fn has_cookies() -> bool {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    // Without a socket nothing is known.
    socket.is_ok_and(|socket| rustix::net::sockopt::socket_cookie(&socket).is_ok())
}
