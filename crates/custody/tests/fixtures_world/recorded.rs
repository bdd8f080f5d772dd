//! The recording, read: panics where it is not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use linger_custody::world::{Census, Inode, Pid, ProcessFd, Tid, Way};
use linger_custody::{Count, Socket};

/// What one supervisor was told, in order.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// One event, what was true at its moment, and what the supervisor did.
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) event: Event,
    pub(crate) truth: Truth,
    /// Removing these connections from the program's epolls failed.
    pub(crate) unable: BTreeSet<u64>,
    /// The closer did not take these.
    pub(crate) untaken: BTreeSet<u64>,
    pub(crate) done: Vec<(u64, Outcome)>,
}

/// What was true of the program at one moment.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    pub(crate) census: Census,
    /// No fd was in flight.
    pub(crate) quiet: bool,
    pub(crate) copying: Vec<Tid>,
    pub(crate) sending: Vec<Tid>,
    /// What the sockets last said of themselves.
    pub(crate) sockets: BTreeMap<u64, Said>,
}

/// What a socket says of itself.
#[derive(Clone, Copy)]
pub(crate) struct Said {
    pub(crate) socket: Socket,
    /// It has an error to report.
    pub(crate) failed: bool,
    pub(crate) is_tcp: bool,
}

/// A connection at an fd.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) name: ProcessFd,
    pub(crate) tid: Tid,
    pub(crate) cookie: u64,
    pub(crate) inode: Inode,
    pub(crate) socket: Socket,
}

/// A process and the sockets that it has.
pub(crate) struct Family {
    pub(crate) pid: Pid,
    pub(crate) tid: Tid,
    pub(crate) hidden: bool,
    /// The fd, the inode and the cookie of each.
    pub(crate) open: Vec<(i32, Inode, u64)>,
}

pub(crate) enum Event {
    Calls(Tid),
    Appeared(Family),
    Fork(Family, bool),
    Copy(Found),
    Send(Found, bool),
    Close(Found, Way),
    Shutdown(Found),
    Hidden(Pid, bool),
    Accepted(u64, Inode, Pid),
    Closed(ProcessFd, u64),
    StillOpen(ProcessFd, u64),
    Lost(ProcessFd, u64),
    Died(Pid),
    Ended,
    Tick,
}

/// What was done for a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The fd of a call was kept.
    Keep(ProcessFd),
    /// With another process that has the connection, where it is shared.
    Count(Count, Option<Pid>),
    HandOver(Handed, u32),
    Pretend,
    /// When all is over this many fds of it are kept.
    Left(usize),
}

/// The call for which a connection was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handed {
    Close,
    Shutdown,
}

/// By connection, with the step of each; connection 0 is none.
pub(crate) type Outcomes = BTreeMap<u64, Vec<(usize, Outcome)>>;

/// The steps with the first one of the same moment: deaths that are noticed together are told one after another.
pub(crate) fn moments(steps: &[Step]) -> impl Iterator<Item = (usize, &Step)> {
    let mut first = 0;
    steps.iter().enumerate().map(move |(at, step)| {
        let dies = |at: usize| matches!(steps[at].event, Event::Died(_));
        if at == 0 || !dies(at) || !dies(at - 1) {
            first = at;
        }
        (first, step)
    })
}

pub(crate) fn outcomes(steps: &[Step]) -> Outcomes {
    let mut all = Outcomes::new();
    for (moment, step) in moments(steps) {
        for (cookie, outcome) in &step.done {
            all.entry(*cookie).or_default().push((moment, outcome.clone()));
        }
    }
    all
}

pub(crate) fn read(text: &str) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    let mut truth = Truth::default();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        if kind == "trace" {
            traces.push(Trace { name: rest.to_owned(), steps: Vec::new() });
            truth = Truth::default();
            continue;
        }
        let steps = &mut traces.last_mut().expect("a trace has a name").steps;
        if let Ok(at) = kind.parse() {
            let event = event(rest, &mut truth);
            let at = Duration::from_millis(at);
            let (unable, untaken) = (BTreeSet::new(), BTreeSet::new());
            steps.push(Step { at, event, truth: truth.clone(), unable, untaken, done: Vec::new() });
            continue;
        }
        let step = steps.last_mut().expect("what follows an event");
        let mut words = Words(rest.split_whitespace());
        match kind {
            "?" => truth.look(&mut words),
            "s" => {
                let cookie = words.next();
                truth.sockets.insert(cookie, words.said());
            }
            "u" => drop(step.unable.insert(words.next())),
            "n" => drop(step.untaken.insert(words.next())),
            ">" => step.done.push(outcome(&mut words)),
            _ => panic!("{line}"),
        }
        step.truth = truth.clone();
    }
    traces
}

struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn word(&mut self) -> &'a str {
        self.0.next().expect("one more word")
    }

    fn next<T: FromStr>(&mut self) -> T {
        let word = self.word();
        word.parse().unwrap_or_else(|_| panic!("{word}"))
    }

    fn flag(&mut self) -> bool {
        self.next::<u8>() == 1
    }

    fn pid(&mut self) -> Pid {
        Pid(self.next())
    }

    /// `aborts`, `finished`, `over`, `e` for an error, `tcp`, by their first letters; then the unread bytes.
    fn said(&mut self) -> Said {
        let letters = self.word();
        let is = |letter| letters.contains(letter);
        let (aborts, peer_finished, over) = (is('a'), is('f'), is('o'));
        let socket = Socket { aborts, peer_finished, over, unread: self.next() };
        Said { socket, failed: is('e'), is_tcp: is('t') }
    }

    /// A connection at an fd; what its socket says is true from now on.
    fn found(&mut self, truth: &mut Truth) -> Found {
        let pid = self.pid();
        let (tid, fd, cookie, inode) = (Tid(self.next()), self.next(), self.next(), Inode(self.next()));
        let said = self.said();
        truth.sockets.insert(cookie, said);
        Found { name: ProcessFd { pid, fd }, tid, cookie, inode, socket: said.socket }
    }

    fn kept(&mut self) -> (ProcessFd, u64) {
        (ProcessFd { pid: self.pid(), fd: self.next() }, self.next())
    }

    /// The rest: `fd:inode:cookie` of each socket.
    fn open(&mut self) -> Vec<(i32, Inode, u64)> {
        let socket = |word: &str| {
            let mut words = word.split(':').map(|word| word.parse::<u64>().unwrap());
            let mut next = || words.next().expect("three numbers");
            (next() as i32, Inode(next()), next())
        };
        self.0.by_ref().map(socket).collect()
    }
}

impl Truth {
    fn look(&mut self, words: &mut Words<'_>) {
        self.census = Census { hidden: words.flag(), ..Census::default() };
        self.quiet = words.flag();
        let tids = |list: &str| match list {
            "-" => Vec::new(),
            list => list.split(',').map(|tid| Tid(tid.parse().unwrap())).collect(),
        };
        self.copying = tids(words.word());
        self.sending = tids(words.word());
        for word in words.0.by_ref() {
            let (inode, names) = word.split_once('=').unwrap();
            let names = names.split(',').map(name).collect();
            self.census.names.insert(Inode(inode.parse().unwrap()), names);
        }
    }
}

/// `pid:fd`
fn name(word: &str) -> ProcessFd {
    let (pid, fd) = word.split_once(':').unwrap();
    ProcessFd { pid: Pid(pid.parse().unwrap()), fd: fd.parse().unwrap() }
}

fn event(text: &str, truth: &mut Truth) -> Event {
    let mut words = Words(text.split_whitespace());
    match words.word() {
        "calls" => Event::Calls(Tid(words.next())),
        "appeared" => {
            let (pid, tid, hidden) = (words.pid(), Tid(words.next()), words.flag());
            Event::Appeared(Family { pid, tid, hidden, open: words.open() })
        }
        "fork" => {
            let (pid, tid, hidden, alone) = (words.pid(), Tid(words.next()), words.flag(), words.flag());
            Event::Fork(Family { pid, tid, hidden, open: words.open() }, alone)
        }
        "copy" => Event::Copy(words.found(truth)),
        "send" => Event::Send(words.found(truth), words.flag()),
        "close" => {
            let found = words.found(truth);
            let way = match words.word() {
                "close" => Way::Close,
                "replace" => Way::Replace,
                "exit" => Way::Exit,
                "exec" => Way::Exec,
                other => panic!("{other}"),
            };
            Event::Close(found, way)
        }
        "shutdown" => Event::Shutdown(words.found(truth)),
        "hidden" => Event::Hidden(words.pid(), words.flag()),
        "accepted" => Event::Accepted(words.next(), Inode(words.next()), words.pid()),
        "closed" => {
            let (name, cookie) = words.kept();
            Event::Closed(name, cookie)
        }
        "stillopen" => {
            let (name, cookie) = words.kept();
            Event::StillOpen(name, cookie)
        }
        "lost" => {
            let (name, cookie) = words.kept();
            Event::Lost(name, cookie)
        }
        "died" => Event::Died(words.pid()),
        "ended" => Event::Ended,
        "tick" => Event::Tick,
        other => panic!("{other}"),
    }
}

fn outcome(words: &mut Words<'_>) -> (u64, Outcome) {
    let (kind, cookie) = (words.word(), words.next());
    let outcome = match kind {
        "keep" => Outcome::Keep(name(words.word())),
        "count" => {
            let reason = words.word();
            let counts = [
                Count::Handed,
                Count::Finished,
                Count::Drained,
                Count::Shared,
                Count::Aborted,
                Count::Gone,
                Count::Refused,
                Count::Unread,
            ];
            let count = counts.into_iter().find(|count| format!("{count:?}") == reason).expect(reason);
            Outcome::Count(count, words.0.next().map(|pid| Pid(pid.parse().unwrap())))
        }
        "handover" => {
            let kind = match words.word() {
                "close" => Handed::Close,
                "shutdown" => Handed::Shutdown,
                other => panic!("{other}"),
            };
            Outcome::HandOver(kind, words.next())
        }
        "pretend" => Outcome::Pretend,
        "left" => Outcome::Left(words.next()),
        other => panic!("{other}"),
    };
    (cookie, outcome)
}
