//! The thread that is asked about the program's calls.
//!
//! Its table of descriptors is its own ([`linger_host::seccomp::apart`]): an epoll knows a file by its number, too, so
//! that a registration can be removed only by who has the file at the number that the program has it at.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linger_host::seccomp::{Listener, Question, least_of_own, open_thread, read_memory};
use linger_shim::protocol::{Count, Kind, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::Counts;
use super::connection::{self, Wanted};
use super::hold::Accepting;
use super::holders::{self, Open};
use super::message;
use super::thread::{Thread, has_ended};

/// How soon to look whether a call has happened that was let go on; doubled while none has.
const SOON: Duration = Duration::from_micros(200);
const LATE: Duration = Duration::from_millis(100);

/// How long a call that may fail (`execve`, `dup2` from a bad descriptor) is given to close what it would.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a signal waits for a thread that waits for a connection, which only a fatal one interrupts.
const SIGNALS: Duration = Duration::from_millis(50);

/// Threads that are remembered, at most.
const THREADS: usize = 1_024;

/// Sockets that may have more than one descriptor before those that are gone are looked for.
const SHARED: usize = 4_096;

/// Connections that are remembered after they were handed over.
const LATELY: usize = 256;

/// A connection that the program was let close, and whether it did is to be seen.
#[derive(Debug)]
pub(super) struct Pending {
    /// This process's own: as long as it is open the connection cannot end.
    fd: OwnedFd,
    pub(super) cookie: u64,
    thread: Rc<Thread>,
    /// The program's number of it.
    number: RawFd,
    unread: u32,
    way: Way,
    since: Instant,
}

/// What closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The call cannot fail.
    Close,
    /// The call may fail, and the program go on with the connection.
    Perhaps,
    /// The end of the process, or what it becomes: of a connection that others have it is no news.
    Process,
    /// `execve`.
    Exec,
}

/// The epolls of a process.
#[derive(Debug, Default)]
struct Epolls {
    /// By the program's numbers.
    fds: Vec<(RawFd, OwnedFd)>,
    /// There are no others.
    complete: bool,
}

pub(super) struct Watcher {
    pub(super) listener: Listener,
    intake: OwnedFd,
    pub(super) wanted: Wanted,
    counts: Arc<Counts>,
    pub(super) least: RawFd,
    threads: HashMap<u32, Rc<Thread>>,
    /// Those whose first question was asked already.
    pub(super) processes: HashMap<u32, OwnedFd>,
    epolls: HashMap<u32, Epolls>,
    /// Connections that may have several descriptors, with their inodes.
    shared: HashMap<u64, u64>,
    /// Connections that were passed on in a message, which may be under way, with the processes that did so.
    given: HashMap<u64, Vec<u32>>,
    /// Connections that the intake has already (`shutdown` was called).
    handed: HashSet<u64>,
    /// Connections that were handed over lately: a copy that a fork made by chance is none to hand over again.
    done: VecDeque<u64>,
    pub(super) pending: Vec<Pending>,
    /// With `--hold`: every connection that the program has accepted, with the process that did.
    pub(super) held: HashMap<u64, (OwnedFd, u32)>,
    /// Processes that got such a connection otherwise.
    pub(super) heirs: HashMap<u32, OwnedFd>,
    /// Threads that wait for a connection, likewise.
    pub(super) accepting: Vec<Accepting>,
    /// Processes whose descriptors are refused.
    refused: Vec<u32>,
}

impl Watcher {
    pub(super) fn new(listener: Listener, intake: OwnedFd, wanted: Wanted, counts: Arc<Counts>) -> Self {
        Self {
            listener,
            intake,
            wanted,
            counts,
            least: least_of_own(),
            threads: HashMap::new(),
            processes: HashMap::new(),
            epolls: HashMap::new(),
            shared: HashMap::new(),
            given: HashMap::new(),
            handed: HashSet::new(),
            done: VecDeque::with_capacity(LATELY),
            pending: Vec::new(),
            held: HashMap::new(),
            heirs: HashMap::new(),
            accepting: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Answers until the last process of the program has ended.
    pub(super) fn run(mut self) {
        let mut wait = SOON;
        loop {
            let (events, others) = self.wait(wait);
            if events.contains(PollFlags::IN) {
                match self.listener.next() {
                    Ok(Some(question)) => self.answer(&question),
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
            if others {
                self.accept_all();
                self.take_from_the_dead();
            }
            let before = self.pending.len();
            self.settle();
            let news = self.pending.len() < before || events.contains(PollFlags::IN);
            wait = if news { SOON } else { (wait * 2).min(LATE) };
            if events.contains(PollFlags::HUP) && self.pending.is_empty() {
                // Nobody can ask any more; the last may still be closing what it had.
                self.accepting.clear();
                self.processes.clear();
                self.heirs.clear();
                self.take_from_the_dead();
                if self.held.is_empty() {
                    return;
                }
                std::thread::sleep(SOON);
            }
        }
    }

    /// Waits for a question, or until it is time to look at what is pending; whether anything else has happened, too.
    fn wait(&self, wait: Duration) -> (PollFlags, bool) {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if !self.held.is_empty() || !self.accepting.is_empty() {
            let processes = self.processes.values().chain(self.heirs.values());
            fds.extend(processes.map(|process| PollFd::new(process, PollFlags::IN)));
        }
        fds.extend(self.accepting.iter().map(|waiting| PollFd::new(&waiting.listener, PollFlags::IN)));
        let waits = [(!self.pending.is_empty(), wait), (!self.accepting.is_empty(), SIGNALS)];
        let least = waits.into_iter().filter_map(|(due, wait)| due.then_some(wait)).min();
        let timeout = least.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {
                let others = fds[1..].iter().any(|other| !other.revents().is_empty());
                (fds[0].revents(), others || !self.accepting.is_empty())
            }
            Err(_) => (PollFlags::empty(), false),
        }
    }

    fn answer(&mut self, question: &Question) {
        let [a, b, c, ..] = question.arguments;
        let Some(thread) = self.thread(question) else {
            self.listener.go_on(question.id);
            return;
        };
        let number = a as RawFd;
        match question.call {
            libc::SYS_close => self.closing(question, &thread, number, Way::Close),
            libc::SYS_shutdown => return self.shutdown(question, &thread, number, b as i32),
            libc::SYS_exit_group => {
                self.closing_all(question, &thread, question.thread, Way::Process, |_| true);
                self.epolls.remove(&thread.process);
            }
            libc::SYS_close_range => {
                let range = a as u32..=b as u32;
                let within = |number: RawFd| range.contains(&number.cast_unsigned());
                self.closing_all(question, &thread, question.thread, Way::Close, within);
                self.forget_epolls(&thread);
            }
            libc::SYS_dup3 => self.copying_over(question, &thread, number, b as RawFd),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => self.copying_over(question, &thread, number, b as RawFd),
            libc::SYS_dup | libc::SYS_fcntl => self.copying(&thread, number),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => self.forking(question, &thread),
            libc::SYS_clone => self.forking(question, &thread),
            libc::SYS_clone3 => {
                // struct clone_args begins with the flags.
                let mut flags = [0; 8];
                let known = read_memory(question.thread, a, &mut flags).is_ok();
                if !known || u64::from_ne_bytes(flags) & libc::CLONE_FILES as u64 == 0 {
                    self.forking(question, &thread);
                }
            }
            libc::SYS_execve | libc::SYS_execveat => {
                self.epolls.remove(&thread.process);
                // The call leaves the process one thread, which has the first one's number.
                if let Some(first) = Thread::open(thread.process, question.id, &self.listener, self.least) {
                    self.closing_all(question, &first, question.thread, Way::Exec, |_| true);
                }
            }
            libc::SYS_sendmsg => self.sending(question, &thread, b, 1),
            libc::SYS_sendmmsg => self.sending(question, &thread, b, c.min(1_024)),
            libc::SYS_accept | libc::SYS_accept4 => {
                if let Some(listener) = thread.take(number)
                    && let Ok(listener) = rustix::io::fcntl_dupfd_cloexec(&listener, self.least)
                    && rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false)
                {
                    return self.accept(Accepting { question: *question, thread, listener });
                }
            }
            libc::SYS_listen => {
                if let Some(socket) = thread.take(number)
                    && self.wanted.listens(socket.as_fd()).is_none()
                    // Without a port until the call itself gives it one: the call is made here.
                    && self.listener.waits(question.id)
                {
                    let listening = rustix::net::listen(&socket, b as i32);
                    self.wanted.listens(socket.as_fd());
                    self.listener.result(question.id, listening.map(|()| 0).map_err(Errno::raw_os_error));
                    return;
                }
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => self.forget_epolls(&thread),
            libc::SYS_epoll_create1 => self.forget_epolls(&thread),
            _ => {}
        }
        // One that was interrupted meanwhile is asked about anew, or its thread is gone: `settle` sees which.
        self.listener.go_on(question.id);
    }

    /// The thread that asks, remembered.
    fn thread(&mut self, question: &Question) -> Option<Rc<Thread>> {
        if let Some(known) = self.threads.get(&question.thread) {
            // One that has ended takes nothing any more; its number may be another's by now.
            if !has_ended(&known.handle) {
                return Some(Rc::clone(known));
            }
            self.threads.remove(&question.thread);
        }
        let thread = Thread::open(question.thread, question.id, &self.listener, self.least)?;
        if thread.process == question.thread || thread.is_exact() {
            if self.threads.len() >= THREADS {
                self.forget_ended();
            }
            self.threads.insert(question.thread, Rc::clone(&thread));
        }
        if self.processes.get(&thread.process).is_none_or(has_ended) {
            let handle = open_thread(thread.process).ok()?;
            let handle = rustix::io::fcntl_dupfd_cloexec(&handle, self.least).ok()?;
            self.processes.insert(thread.process, handle);
            self.epolls.remove(&thread.process);
            // What it has, its parent had: also what another of the parent's threads accepted during the fork.
            self.forking(question, &thread);
        }
        Some(thread)
    }

    fn forget_ended(&mut self) {
        self.threads.retain(|_, thread| !has_ended(&thread.handle));
        self.processes.retain(|_, handle| !has_ended(handle));
        let processes = &self.processes;
        self.epolls.retain(|process, _| processes.contains_key(process));
        if self.threads.len() >= THREADS {
            self.threads.clear();
        }
    }

    /// The program is about to close one number.
    fn closing(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, way: Way) {
        self.forget_epoll(thread, number);
        match pidfd_getfd(&thread.handle, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => self.consider(question, thread, number, fd, way),
            Err(Errno::PERM) => self.refuse(thread.process),
            Err(_) => {}
        }
    }

    /// As [`closing`](Self::closing), for all numbers that are meant.
    fn closing_all(
        &mut self,
        question: &Question,
        thread: &Rc<Thread>,
        lister: u32,
        way: Way,
        meant: impl Fn(RawFd) -> bool,
    ) {
        for (number, open) in holders::open(lister) {
            if meant(number) && matches!(open, Open::Socket(_)) {
                self.closing_one_of_many(question, thread, number, way);
            }
        }
    }

    fn closing_one_of_many(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, way: Way) {
        if let Some(fd) = thread.take(number) {
            self.consider(question, thread, number, fd, way);
        }
    }

    /// Keeps a connection if its end is to be seen to.
    fn consider(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, fd: OwnedFd, way: Way) {
        let Some(cookie) = self.wanted.cookie(fd.as_fd()) else { return };
        if self.done.contains(&cookie) || !self.listener.waits(question.id) {
            return;
        }
        if let Some(givers) = self.given.get_mut(&cookie)
            && let Some(place) = givers.iter().position(|giver| *giver == thread.process)
        {
            // Whoever got it, or will, is to end it.
            givers.swap_remove(place);
            self.held.remove(&cookie);
            return;
        }
        // A call that was interrupted, or an exec that failed, may have left one behind.
        let me = thread.process;
        self.pending.retain(|old| old.cookie != cookie || old.number != number || old.thread.process != me);
        let alone = !self.shared.contains_key(&cookie);
        if alone && way == Way::Close {
            if self.handed.remove(&cookie) {
                self.held.remove(&cookie);
                self.unwatch(thread, question.thread, number, fd);
                return self.count(Count::Handed);
            }
            if let Some(reason) = connection::safe_to_close(fd.as_fd()) {
                self.held.remove(&cookie);
                return self.count(reason);
            }
        }
        let unread = connection::unread(fd.as_fd());
        let fd = match way {
            Way::Close | Way::Perhaps
                if alone || self.is_last(cookie, fd.as_fd(), thread.process, number) =>
            {
                self.unwatch(thread, question.thread, number, fd)
            }
            _ => Some(fd),
        };
        let Some(fd) = fd else { return };
        let (thread, since) = (Rc::clone(thread), Instant::now());
        self.pending.push(Pending { fd, cookie, thread, number, unread, way, since });
    }

    fn count(&self, reason: Count) {
        self.counts.add(Count::Seen);
        self.counts.add(reason);
    }

    fn refuse(&mut self, process: u32) {
        if !self.refused.contains(&process) {
            self.refused.push(process);
            self.count(Count::Refused);
        }
    }

    /// Hands on what the program has closed by now.
    fn settle(&mut self) {
        let mut at = 0;
        while let Some(pending) = self.pending.get(at) {
            match self.is_closed(pending) {
                Some(true) => {
                    let pending = self.pending.swap_remove(at);
                    self.closed(pending);
                }
                Some(false) => at += 1,
                None => drop(self.pending.swap_remove(at)),
            }
        }
    }

    /// Whether the number names the connection no more; `None` if it never will, or nobody can tell.
    fn is_closed(&self, pending: &Pending) -> Option<bool> {
        match pidfd_getfd(&pending.thread.handle, pending.number, PidfdGetfdFlags::empty()) {
            Err(Errno::BADF) => Some(true),
            // The thread is on its way out; that its process's descriptors are closed is seen elsewhere.
            Err(Errno::SRCH) => {
                let inode = rustix::fs::fstat(&pending.fd).ok()?.st_ino;
                Some(holders::at(pending.thread.process, pending.number) != Some(Open::Socket(inode)))
            }
            Ok(fd) if !connection::is(&fd, pending.cookie) => Some(true),
            Ok(_)
                if matches!(pending.way, Way::Perhaps | Way::Exec) && pending.since.elapsed() > PATIENCE =>
            {
                None
            }
            Ok(_) | Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Some(false),
            Err(_) => None,
        }
    }

    /// Ends a connection that the program has closed, unless it has it under another number, or in another process.
    fn closed(&mut self, pending: Pending) {
        let Pending { fd, cookie, unread, way, thread, .. } = pending;
        if self.shared.contains_key(&cookie) {
            let closing = self.pending.iter().find(|other| other.cookie == cookie);
            let holder = closing.map(|other| other.thread.process).or_else(|| self.holder(fd.as_fd()));
            if let Some(holder) = holder {
                // A bystander's end, and one of two names in one process, are no close.
                if !matches!(way, Way::Process | Way::Exec) && holder != thread.process {
                    self.count(Count::Shared);
                }
                self.inherit(cookie, holder);
                return;
            }
            self.shared.remove(&cookie);
            self.given.remove(&cookie);
        }
        self.end(&fd, cookie, unread);
    }

    /// Ends a connection that the program has no more.
    pub(super) fn end(&mut self, fd: &OwnedFd, cookie: u64, unread: u32) {
        self.held.remove(&cookie);
        if self.handed.remove(&cookie) {
            return self.count(Count::Handed);
        }
        if let Some(reason) = connection::safe_to_close(fd.as_fd()) {
            return self.count(reason);
        }
        if unread > 0 {
            self.counts.add(Count::Unread);
        }
        let taken = self.hand_over(Message::about(Kind::Close, cookie, unread), fd);
        let _ = rustix::net::shutdown(fd, Shutdown::Write);
        self.done.truncate(LATELY - 1);
        self.done.push_front(cookie);
        self.count(if taken { Count::Handed } else { Count::Refused });
    }

    /// Gives a connection to the intake; whether it is there.
    pub(super) fn hand_over(&self, message: Message, fd: &OwnedFd) -> bool {
        let fds = [fd.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        for _ in 0..100 {
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            match rustix::net::sendmsg(
                &self.intake,
                &[IoSlice::new(&message.to_bytes())],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                // Too many descriptors are under way for this user (unix(7)): they get fewer as they are received.
                Err(Errno::TOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return false,
            }
        }
        false
    }

    /// `shutdown` of both sides, as half a close; of the read side, as nothing at all.
    fn shutdown(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, how: i32) {
        let go_on = |watcher: &Self| {
            watcher.listener.go_on(question.id);
        };
        let Some(fd) = thread.take(number) else { return go_on(self) };
        let Some(cookie) = self.wanted.cookie(fd.as_fd()) else { return go_on(self) };
        if !self.listener.waits(question.id) || connection::safe_to_close(fd.as_fd()).is_some() {
            return go_on(self);
        }
        if how == libc::SHUT_RD || self.handed.contains(&cookie) {
            self.listener.result(question.id, Ok(0));
            return;
        }
        if how != libc::SHUT_RDWR {
            return go_on(self);
        }
        let unread = connection::unread(fd.as_fd());
        let result = rustix::net::shutdown(&fd, Shutdown::Write);
        if result.is_ok() && self.hand_over(Message::about(Kind::Shutdown, cookie, unread), &fd) {
            self.handed.insert(cookie);
            if unread > 0 {
                self.counts.add(Count::Unread);
            }
            self.listener.result(question.id, Ok(0));
        } else {
            go_on(self);
        }
    }

    fn copying_over(&mut self, question: &Question, thread: &Rc<Thread>, old: RawFd, new: RawFd) {
        if old != new {
            self.copying(thread, old);
            self.closing(question, thread, new, Way::Perhaps);
        }
    }

    /// A number is about to get a second one beside it.
    fn copying(&mut self, thread: &Rc<Thread>, number: RawFd) {
        if let Some(fd) = thread.take(number) {
            if let Some(cookie) = self.wanted.cookie(fd.as_fd()) {
                self.share(cookie, fd);
            } else if self.epolls.get(&thread.process).is_some_and(|epolls| !epolls.fds.is_empty()) {
                // Perhaps an epoll's.
                self.forget_epolls(thread);
            }
        }
    }

    /// A process is about to become two: each connection is both's.
    fn forking(&mut self, question: &Question, thread: &Rc<Thread>) {
        let known: HashSet<u64> = self.shared.values().copied().collect();
        for (number, open) in holders::open(question.thread) {
            if let Open::Socket(inode) = open
                && !known.contains(&inode)
                && let Some(fd) = thread.take(number)
                && let Some(cookie) = self.wanted.cookie(fd.as_fd())
            {
                self.share(cookie, fd);
            }
        }
    }

    fn share(&mut self, cookie: u64, fd: OwnedFd) {
        if self.shared.len() >= SHARED && self.shared.len().is_power_of_two() {
            let open = holders::every_socket();
            self.shared.retain(|_, inode| open.contains(inode));
            let shared = &self.shared;
            self.given.retain(|cookie, _| shared.contains_key(cookie));
        }
        if let Ok(status) = rustix::fs::fstat(&fd) {
            self.shared.insert(cookie, status.st_ino);
        }
    }

    /// A message is about to be sent, which may carry descriptors to whoever reads it.
    fn sending(&mut self, question: &Question, thread: &Rc<Thread>, address: u64, messages: u64) {
        /// `struct msghdr` and, of the same form with a length behind it, `struct mmsghdr`.
        const MMSGHDR: u64 = 64;
        for place in 0..messages {
            let mut header = [0; size_of::<libc::msghdr>()];
            if read_memory(question.thread, address + place * MMSGHDR, &mut header).is_err() {
                return;
            }
            for number in message::passed(question.thread, &header) {
                if let Some(fd) = thread.take(number)
                    && let Some(cookie) = self.wanted.cookie(fd.as_fd())
                {
                    self.share(cookie, fd);
                    let givers = self.given.entry(cookie).or_default();
                    if !givers.contains(&thread.process) {
                        givers.push(thread.process);
                    }
                }
            }
        }
    }

    /// A process of the program that has the socket.
    pub(super) fn holder(&self, socket: impl AsFd) -> Option<u32> {
        let inode = rustix::fs::fstat(socket).ok()?.st_ino;
        holders::processes()
            .into_iter()
            .find(|process| holders::open(*process).any(|(_, open)| open == Open::Socket(inode)))
    }

    /// Whether nobody has the socket but by numbers that are being closed.
    fn is_last(&self, cookie: u64, socket: impl AsFd, process: u32, number: RawFd) -> bool {
        let Ok(status) = rustix::fs::fstat(socket) else { return false };
        holders::processes().into_iter().all(|holder| {
            holders::open(holder).filter(|(_, open)| *open == Open::Socket(status.st_ino)).all(
                |(place, _)| {
                    let closing = self.pending.iter().any(|pending| {
                        pending.cookie == cookie
                            && pending.number == place
                            && pending.thread.process == holder
                    });
                    closing || (holder == process && place == number)
                },
            )
        })
    }

    fn forget_epolls(&mut self, thread: &Thread) {
        if let Some(epolls) = self.epolls.get_mut(&thread.process) {
            epolls.complete = false;
        }
    }

    fn forget_epoll(&mut self, thread: &Thread, number: RawFd) {
        if let Some(epolls) = self.epolls.get_mut(&thread.process)
            && epolls.fds.iter().any(|(epoll, _)| *epoll == number)
        {
            epolls.fds.retain(|(epoll, _)| *epoll != number);
            epolls.complete = false;
        }
    }

    /// Removes a connection from the program's epolls, as the close of its last descriptor would, were it not
    /// held here as well: it would go on to be reported to a program that has forgotten it.
    ///
    /// Before the call, since the program's next may be the wait. `None` where that is not possible.
    fn unwatch(&mut self, thread: &Rc<Thread>, lister: u32, number: RawFd, fd: OwnedFd) -> Option<OwnedFd> {
        let least = self.least;
        let epolls = self.epolls.entry(thread.process).or_default();
        if !epolls.complete {
            epolls.fds.clear();
            for (number, open) in holders::open(lister) {
                if open == Open::Epoll
                    && let Some(fd) = thread.take(number)
                {
                    epolls.fds.push((number, rustix::io::fcntl_dupfd_cloexec(fd, least).ok()?));
                }
            }
            epolls.complete = true;
        }
        if epolls.fds.is_empty() {
            return Some(fd);
        }
        if number >= least {
            return None;
        }
        let at_number = if fd.as_raw_fd() == number {
            None
        } else {
            if let Some(other) = self.pending.iter_mut().find(|pending| pending.fd.as_raw_fd() == number) {
                other.fd = rustix::io::fcntl_dupfd_cloexec(&other.fd, least).ok()?;
            }
            Some(rustix::io::fcntl_dupfd_cloexec(&fd, number).ok()?)
        };
        let named = at_number.as_ref().unwrap_or(&fd);
        for (_, epoll) in &epolls.fds {
            // It may not be there: programs remove what they close, too.
            let _ = rustix::event::epoll::delete(epoll, named);
        }
        Some(fd)
    }
}
