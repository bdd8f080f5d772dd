//! Connections that are passed on in messages (`SCM_RIGHTS`): one that is under way nobody has open, and it is not over.
//!
//! A message is sent with a question, and received without one. So a message counts as one that has the connection until
//! its arrival is known: by a process that closes the connection, or has it open, and cannot have got it otherwise. An end before that
//! which finds nobody else with the connection is put off, until somebody has it again or the kernel says that no
//! descriptor is under way to the program any more (`scm_fds` in `/proc/PID/fdinfo`, Linux 5.6).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::kernel::{Question, peer_process, read_memory};

use super::holders::{self, Everything};
use super::message;
use super::share::Shared;
use super::thread::Thread;
use super::watch::Watcher;

/// How soon to look for what is under way; doubled while it stays so, and longer where a look takes long.
const SOON: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(1);

/// Between two looks that must agree: `recvmsg` takes a descriptor out of the queue a moment before its process has it.
const CERTAIN: Duration = Duration::from_millis(50);

/// Connections under way that are kept, at most; what is more ends plainly if its message never arrives.
const UNDER_WAY: usize = 1_024;

const SENDING: &[i64] = &[libc::SYS_sendmsg, libc::SYS_sendmmsg];

/// A connection with messages whose arrival is not known.
#[derive(Debug)]
pub(super) struct Giving {
    inode: u64,
    /// Messages that carry it.
    messages: usize,
    /// Processes that have or had it otherwise, and whether they sent it.
    had: HashMap<u32, bool>,
    /// Threads that sent it: one may still be about to.
    senders: HashSet<u32>,
    /// Whether it went to another program's process, whose closes nobody is asked about.
    abroad: bool,
}

/// A connection that no process of the program has, but perhaps a message.
#[derive(Debug)]
pub(super) struct UnderWay {
    fd: OwnedFd,
    cookie: u64,
    unread: u32,
    /// Whose call closed it, and its number there: an epoll may have to forget it.
    closed: Option<(Rc<Thread>, RawFd)>,
    /// Since when no message was found.
    quiet: Option<Instant>,
}

/// What is passed on, and when to look for it.
#[derive(Debug)]
pub(super) struct Passing {
    given: HashMap<u64, Giving>,
    under_way: Vec<UnderWay>,
    next: Instant,
    pause: Duration,
    /// What the last look took: looks are to cost a twentieth of the time at most.
    took: Duration,
}

/// Who has a connection, as far as messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// Nobody but whom `/proc` shows.
    No,
    /// Perhaps a message: the process has sent one.
    BySender,
    /// Perhaps a message, of another process.
    ByOther,
    /// Perhaps another program.
    Abroad,
}

impl Passing {
    pub(super) fn new() -> Self {
        Self {
            given: HashMap::new(),
            under_way: Vec::new(),
            next: Instant::now(),
            pause: SOON,
            took: Duration::ZERO,
        }
    }

    /// Notes that a process has the connection; who else may.
    pub(super) fn seen_at(&mut self, cookie: u64, process: u32) -> Passed {
        let Some(giving) = self.given.get_mut(&cookie) else { return Passed::No };
        if let Entry::Vacant(had) = giving.had.entry(process) {
            // It came from a message, and from one: another may be under way to somebody else.
            had.insert(false);
            giving.messages -= 1;
            if giving.messages == 0 {
                self.given.remove(&cookie);
                self.under_way.retain(|other| other.cookie != cookie);
            }
        }
        self.passed(cookie, process)
    }

    /// Who else may have the connection of a process that was seen with it.
    pub(super) fn passed(&self, cookie: u64, process: u32) -> Passed {
        match self.given.get(&cookie) {
            None => Passed::No,
            Some(giving) if giving.abroad => Passed::Abroad,
            Some(giving) if giving.had.get(&process) == Some(&true) => Passed::BySender,
            Some(_) => Passed::ByOther,
        }
    }

    /// Whether a message has it, perhaps.
    pub(super) fn is_passed(&self, cookie: u64) -> bool {
        self.given.contains_key(&cookie)
    }

    /// Notes which sockets a process has that forks, or that is new: such a one may have them by the fork.
    pub(super) fn forked(&mut self, process: u32, sockets: &HashSet<u64>, is_new: bool) {
        let has = |giving: &Giving| sockets.contains(&giving.inode);
        if is_new {
            for giving in self.given.values_mut().filter(|giving| has(giving)) {
                giving.had.entry(process).or_insert(false);
            }
            return;
        }
        let seen: Vec<u64> =
            self.given.iter().filter(|(_, giving)| has(giving)).map(|(cookie, _)| *cookie).collect();
        for cookie in seen {
            self.seen_at(cookie, process);
        }
    }

    /// Forgets connections that are not shared any more, nor under way.
    pub(super) fn retain(&mut self, shared: &HashMap<u64, Shared>) {
        self.given.retain(|cookie, _| shared.contains_key(cookie));
    }

    pub(super) fn is_under_way(&self, cookie: u64) -> bool {
        self.under_way.iter().any(|other| other.cookie == cookie)
    }

    /// How long until the next look; `None` where there is nothing to look for.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.under_way.is_empty()).then(|| self.next.saturating_duration_since(Instant::now()))
    }
}

impl Watcher {
    /// A message is about to be sent, which may carry descriptors to whoever reads it.
    pub(super) fn sending(
        &mut self,
        question: &Question,
        thread: &Rc<Thread>,
        socket: RawFd,
        address: u64,
        messages: u64,
    ) {
        /// `struct msghdr` and, of the same form with a length behind it, `struct mmsghdr`.
        const MMSGHDR: u64 = 64;
        for place in 0..messages {
            let mut header = [0; size_of::<libc::msghdr>()];
            let address = address.wrapping_add(place * MMSGHDR);
            if read_memory(question.thread, address, &mut header).is_err() {
                return;
            }
            for number in message::passed(question.thread, &header) {
                if let Some(fd) = thread.take(number)
                    && let Some(cookie) = self.wanted.cookie(fd.as_fd())
                {
                    self.passing_on(question, thread.process, cookie, &fd);
                    self.share(cookie, &fd, (thread.process, number));
                    let abroad = !self.goes_to_the_program(thread, socket);
                    if let Some(giving) = self.passing.given.get_mut(&cookie) {
                        giving.abroad |= abroad;
                    }
                }
            }
        }
    }

    fn passing_on(&mut self, question: &Question, process: u32, cookie: u64, fd: &OwnedFd) {
        // It may have come by a message itself.
        self.passing.seen_at(cookie, process);
        let Ok(status) = rustix::fs::fstat(fd) else { return };
        // What never had two names only its sender has.
        let had = if self.shared.contains_key(&cookie) && !self.passing.is_passed(cookie) {
            self.look().names(status.st_ino).iter().map(|(other, _)| (*other, false)).collect()
        } else {
            HashMap::new()
        };
        let giving = self.passing.given.entry(cookie).or_insert_with(|| Giving {
            inode: status.st_ino,
            messages: 0,
            had,
            senders: HashSet::new(),
            abroad: false,
        });
        giving.messages += 1;
        giving.had.insert(process, true);
        giving.senders.insert(question.thread);
    }

    /// Whether the other end of a unix socket is one of the program's, by the process that made it.
    fn goes_to_the_program(&self, thread: &Thread, socket: RawFd) -> bool {
        let Some(peer) = thread.take(socket).and_then(|socket| peer_process(socket.as_fd())) else {
            return false;
        };
        self.processes.contains_key(&peer) || holders::processes().contains(&peer)
    }

    /// Keeps a connection that only a message has, if one has.
    pub(super) fn put_off(
        &mut self,
        fd: &OwnedFd,
        cookie: u64,
        unread: u32,
        closed: Option<(Rc<Thread>, RawFd)>,
    ) {
        let passing = &mut self.passing;
        if passing.given.get(&cookie).is_none_or(|giving| giving.abroad) || passing.is_under_way(cookie) {
            return;
        }
        let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(fd, self.least) else { return };
        if passing.under_way.is_empty() {
            passing.pause = SOON;
            passing.next = Instant::now() + SOON.max(passing.took * 20);
        }
        if passing.under_way.len() < UNDER_WAY {
            passing.under_way.push(UnderWay { fd, cookie, unread, closed, quiet: None });
        }
    }

    /// Looks for the connections that were under way, when it is time.
    pub(super) fn look_for_what_is_under_way(&mut self) {
        let started = Instant::now();
        if self.passing.under_way.is_empty() || started < self.passing.next {
            return;
        }
        let processes = holders::processes();
        // First the messages: what is received between the two looks is seen open.
        let quiet = !holders::receives_descriptors(&processes);
        let open = Everything::of(&processes);
        for mut one in std::mem::take(&mut self.passing.under_way) {
            let Some(giving) = self.passing.given.get(&one.cookie) else { continue };
            if let Some(holder) = open.holder(giving.inode) {
                self.passing.seen_at(one.cookie, holder);
                self.inherit(one.cookie, holder);
                continue;
            }
            let sent = quiet && !giving.senders.iter().any(|thread| holders::may_be_in(*thread, SENDING));
            match one.quiet {
                Some(since) if sent && since.elapsed() >= CERTAIN => {
                    self.passing.given.remove(&one.cookie);
                    self.end_of_passed(one);
                    continue;
                }
                _ if !sent => one.quiet = None,
                None => one.quiet = Some(started),
                Some(_) => {}
            }
            self.passing.under_way.push(one);
        }
        let passing = &mut self.passing;
        passing.took = started.elapsed();
        passing.pause = (passing.pause * 2).min(LATE);
        if passing.under_way.iter().any(|one| one.quiet.is_some()) {
            passing.pause = CERTAIN;
        }
        passing.next = Instant::now() + passing.pause.max(passing.took * 20);
    }

    /// Ends what was under way, when the last process of the program has ended.
    pub(super) fn end_what_is_under_way(&mut self) {
        for one in std::mem::take(&mut self.passing.under_way) {
            self.end_of_passed(one);
        }
    }

    fn end_of_passed(&mut self, one: UnderWay) {
        let UnderWay { fd, cookie, unread, closed, .. } = one;
        self.shared.remove(&cookie);
        let fd = match closed {
            Some((thread, number)) => self.unwatch(&thread, thread.process, number, fd),
            None => Some(fd),
        };
        if let Some(fd) = fd {
            self.end(&fd, cookie, unread);
        }
    }
}
