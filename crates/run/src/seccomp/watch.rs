//! The thread that is asked about the program's calls.
//!
//! Its table of descriptors is its own ([`crate::kernel::apart`]): an epoll knows a file by its number, too, so
//! that a registration can be removed only by who has the file at the number that the program has it at.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::kernel::{Listener, Question, least_of_own, open_thread, read_memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Refusal;

use super::Counts;
use super::close::{LATELY, Pending, Way};
use super::connection::Wanted;
use super::epolls::Epolls;
use super::hold::Accepting;
use super::pass::Passing;
use super::share::Shared;
use super::thread::{Thread, has_ended};

/// How soon to look whether a call has happened that was let go on; doubled while none has.
const SOON: Duration = Duration::from_micros(200);
const LATE: Duration = Duration::from_millis(100);

/// How long a signal waits for a thread that waits for a connection, which only a fatal one interrupts.
const SIGNALS: Duration = Duration::from_millis(50);

/// Threads that are remembered, at most.
const THREADS: usize = 1_024;

pub(super) struct Watcher {
    pub(super) listener: Listener,
    pub(super) intake: OwnedFd,
    pub(super) wanted: Wanted,
    pub(super) counts: Arc<Counts>,
    pub(super) least: RawFd,
    pub(super) threads: HashMap<u32, Rc<Thread>>,
    /// Those whose first question was asked already.
    pub(super) processes: HashMap<u32, OwnedFd>,
    pub(super) epolls: HashMap<u32, Epolls>,
    /// Connections that may have several descriptors.
    pub(super) shared: HashMap<u64, Shared>,
    /// Threads that were let copy descriptors, and may still be about it.
    pub(super) copiers: HashMap<u32, Rc<Thread>>,
    pub(super) passing: Passing,
    /// Connections that the intake has already (`shutdown` was called).
    pub(super) handed: HashSet<u64>,
    /// Connections that were handed over lately: a copy that a fork made by chance is none to hand over again.
    pub(super) done: VecDeque<u64>,
    /// What the program was let close, by cookie.
    pub(super) pending: BTreeMap<u64, Vec<Pending>>,
    /// When to look at it next: many of them take long.
    pub(super) settle_at: Instant,
    /// With `--hold`: every connection that the program has accepted, with the process that did.
    pub(super) held: HashMap<u64, (OwnedFd, u32)>,
    /// Processes that got such a connection otherwise.
    pub(super) heirs: HashMap<u32, OwnedFd>,
    /// Threads that wait for a connection, likewise.
    pub(super) accepting: Vec<Accepting>,
    /// Processes whose descriptors are refused, and that were counted.
    pub(super) refused: HashSet<u32>,
    /// Some process's descriptors were refused at the last look: it may have any connection.
    pub(super) blind: bool,
    /// Where the first refusal is told.
    pub(super) tell: Option<mpsc::Sender<Refusal>>,
}

impl Watcher {
    pub(super) fn new(
        listener: Listener,
        intake: OwnedFd,
        wanted: Wanted,
        counts: Arc<Counts>,
        tell: mpsc::Sender<Refusal>,
    ) -> Self {
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
            copiers: HashMap::new(),
            passing: Passing::new(),
            handed: HashSet::new(),
            done: VecDeque::with_capacity(LATELY),
            pending: BTreeMap::new(),
            settle_at: Instant::now(),
            held: HashMap::new(),
            heirs: HashMap::new(),
            accepting: Vec::new(),
            refused: HashSet::new(),
            blind: false,
            tell: Some(tell),
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
            self.look_for_what_is_under_way();
            let news = self.pending.len() < before || events.contains(PollFlags::IN);
            wait = if news { SOON } else { (wait * 2).min(LATE) };
            if events.contains(PollFlags::HUP) && self.pending.is_empty() {
                // Nobody can ask any more; the last may still be closing what it had.
                self.accepting.clear();
                self.processes.clear();
                self.heirs.clear();
                self.take_from_the_dead();
                self.end_what_is_under_way();
                if self.held.is_empty() {
                    return;
                }
                // The last process closes what it had after it has left the filter, and no descriptor tells when.
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
        let waits = [
            (!self.pending.is_empty()).then_some(wait),
            (!self.accepting.is_empty()).then_some(SIGNALS),
            self.passing.due(),
        ];
        let least = waits.into_iter().flatten().min();
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
        // Its last call is over.
        self.copiers.remove(&question.thread);
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
            libc::SYS_dup | libc::SYS_fcntl => self.copying(question, &thread, number),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => self.forking(question, &thread, false),
            libc::SYS_clone => self.forking(question, &thread, false),
            libc::SYS_clone3 => {
                // struct clone_args begins with the flags.
                let mut flags = [0; 8];
                let known = read_memory(question.thread, a, &mut flags).is_ok();
                if !known || u64::from_ne_bytes(flags) & libc::CLONE_FILES as u64 == 0 {
                    self.forking(question, &thread, false);
                }
            }
            libc::SYS_execve | libc::SYS_execveat => {
                self.epolls.remove(&thread.process);
                // The call leaves the process one thread, which has the first one's number.
                if let Some(first) = Thread::open(thread.process, question.id, &self.listener, self.least) {
                    self.closing_all(question, &first, question.thread, Way::Exec, |_| true);
                }
            }
            libc::SYS_sendmsg => self.sending(question, &thread, number, b, 1),
            libc::SYS_sendmmsg => self.sending(question, &thread, number, b, c.min(1_024)),
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
            self.refused.remove(&thread.process);
            // What it has, its parent had: also what another of the parent's threads accepted during the fork.
            self.forking(question, &thread, true);
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
}
