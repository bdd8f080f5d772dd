//! The thread that is notified of the program's calls: it tells custody what is about to happen, and does what
//! custody decides with the hands and the eyes that it has.
//!
//! Its table of fds is its own ([`crate::kernel::apart`]): an epoll knows a file by its fd, too, so that a registration
//! can be removed only by who has the file at the fd that the program has it at.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use linger_custody::world::{
    Action, Answer, Ask as Wanting, Caller, Cookie, Event, Inode, Open, Pid, Seen, Tid, Way, World,
};
use linger_custody::{Count, Rights};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::Signal;

use super::Counts;
use super::ask::{Ask, Call};
use super::eyes::{self, Wanted};
use super::hands::{Accepted, Accepting, Fd, Hands, Taken, Thread};
use crate::Refusal;
use crate::kernel::{Listener, Notification, peer_process, read_memory};

/// First pause before looking whether a call has happened that was let go on; doubles while none has.
const SOON: Duration = Duration::from_micros(200);
const LATE: Duration = Duration::from_millis(100);

/// How long a signal waits for a thread that waits for a connection, which only a fatal one interrupts.
const SIGNALS: Duration = Duration::from_millis(50);

/// The calls that copy fds, but for messages.
const COPYING: &[i64] = &[
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

const SENDING: &[i64] = &[libc::SYS_sendmsg, libc::SYS_sendmmsg];

/// Most bytes of control data: `SCM_MAX_FD` fds are one kilobyte; more carries other things as well.
const CONTROL: u64 = 65_536;

/// Processes that are remembered before those that have died are looked for.
const PROCESSES: usize = 1_024;

/// The thread's rooms: none knows another.
pub(super) struct Driver {
    ask: Ask,
    world: World,
    hands: Hands,
    wanted: Wanted,
    counts: Arc<Counts>,
    /// Threads that wait for a connection (with `--hold`).
    accepting: Vec<Accepting>,
    started: Instant,
    /// When to look at what was let close: many take long.
    look_at: Instant,
    /// Where the first refusal is told.
    tell: Option<mpsc::Sender<Refusal>>,
}

/// What is found at an fd of the program.
enum Found {
    Connection(Seen, Taken),
    /// Something else, or nothing.
    Other,
    /// The process does not let its fds be taken.
    Hidden,
}

impl Driver {
    pub(super) fn new(
        listener: Listener,
        intake: OwnedFd,
        wanted: Wanted,
        counts: Arc<Counts>,
        tell: mpsc::Sender<Refusal>,
    ) -> Self {
        Self {
            ask: Ask::new(listener),
            world: World::default(),
            hands: Hands::new(intake),
            wanted,
            counts,
            accepting: Vec::new(),
            started: Instant::now(),
            look_at: Instant::now(),
            tell: Some(tell),
        }
    }

    /// Answers until the last process of the program has ended.
    pub(super) fn run(mut self) {
        let mut pause = SOON;
        loop {
            let (events, others) = self.wait(pause);
            if events.contains(PollFlags::IN) {
                match self.ask.next() {
                    Ok(Some((notification, call))) => self.notified(&notification, call),
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
            if others {
                self.accept_all();
                self.bury();
            }
            let before = self.hands.calls();
            self.look();
            self.tell(Event::Tick, None);
            let news = self.hands.calls() < before || events.contains(PollFlags::IN);
            pause = if news { SOON } else { (pause * 2).min(LATE) };
            if events.contains(PollFlags::HUP) && self.hands.calls() == 0 {
                // Nobody can call any more; the last may still be closing what it had.
                self.accepting.clear();
                self.tell(Event::Ended, None);
                if self.world.is_idle() {
                    return;
                }
                // The last process closes what it had after it has left the filter, and no fd tells when.
                std::thread::sleep(SOON);
            }
        }
    }

    /// Waits for a notification, or until it is time to look; whether anything else has happened, too.
    fn wait(&self, pause: Duration) -> (PollFlags, bool) {
        let heeds_deaths = self.world.heeds_deaths();
        let mut fds = vec![PollFd::new(&self.ask, PollFlags::IN)];
        // Many of them would make each notification dearer.
        let ends = self.hands.ends().filter(|_| heeds_deaths);
        fds.extend(ends.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
        fds.extend(self.accepting.iter().map(|waiting| PollFd::new(&waiting.listener, PollFlags::IN)));
        let due = self.world.due().map(|due| due.saturating_sub(self.now()));
        let waits =
            [(self.hands.calls() > 0).then_some(pause), (!self.accepting.is_empty()).then_some(SIGNALS), due];
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

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells custody, and does what it decides; whether the call is to be answered instead of made.
    fn tell(&mut self, event: Event<'_>, taken: Option<Taken>) -> bool {
        let cookie = match event {
            Event::Close { seen, .. } => Some(seen.cookie),
            _ => None,
        };
        self.world.on(event, self.started.elapsed());
        let mut at_hand = taken;
        let mut pretends = false;
        while let Some(action) = self.world.next() {
            match action {
                Action::Ask(ask) => {
                    let answer = self.find_out(ask, at_hand.as_ref());
                    self.world.answer(answer, self.started.elapsed());
                }
                Action::Keep(kept) => {
                    if let (Some(taken), Some(cookie)) = (at_hand.take(), cookie) {
                        self.hands.keep(kept, cookie, taken);
                    }
                }
                Action::KeepHeld(kept, cookie) => self.hands.keep_held(kept, cookie),
                Action::Drop(kept) => self.hands.drop_kept(kept),
                Action::Release(cookie) => self.hands.release(cookie),
                Action::Watch(pid) => {
                    // One that cannot be watched any more is gone, which is noticed at the next look for the dead.
                    self.hands.watch(pid);
                }
                Action::Pretend => pretends = true,
                Action::Count { cookie, reason, holder } => self.count(cookie, reason, holder),
            }
        }
        pretends
    }

    fn count(&mut self, cookie: Option<Cookie>, reason: Count, holder: Option<Pid>) {
        if reason != Count::Unread {
            self.counts.add(Count::Seen);
        }
        self.counts.add(reason);
        if let (None, Count::Refused, Some(Pid(process))) = (cookie, reason, holder)
            && let Some(tell) = self.tell.take()
            && tell.send(Refusal::new(process, Errno::PERM.into())).is_ok()
        {
            // The thread that tells it on waits for signals; this one says no more than that there is something.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
        }
    }

    fn find_out(&mut self, ask: Wanting, at_hand: Option<&Taken>) -> Answer {
        match ask {
            Wanting::Which { inode, names } => Answer::Name(eyes::which(inode, names)),
            Wanting::Census { copying } => {
                self.counts.look();
                // Before the look: what such a call has made is seen by it if the call is over.
                let copying = self.hands.within(copying, COPYING);
                Answer::Census { copying, census: eyes::census() }
            }
            Wanting::Flights { copying, sending } => {
                let started = Instant::now();
                let copying = self.hands.within(copying, COPYING);
                let sending = self.hands.within(sending, SENDING);
                let processes = eyes::processes();
                // First the messages: what is received between the two looks is seen open.
                let quiet = eyes::quiet(&processes);
                let census = eyes::census_of(&processes);
                Answer::Flights { copying, sending, quiet, census, took: started.elapsed() }
            }
            Wanting::Socket(kept) => Answer::Socket(self.hands.socket(kept)),
            Wanting::Discard(kept) => Answer::Discarded(self.hands.discard(kept)),
            Wanting::Unwatch(kept) => Answer::Done(self.hands.unwatch(kept)),
            Wanting::HandOver { kept, cookie, unread } => {
                Answer::Done(self.hands.hand_over(kept, cookie, unread))
            }
            Wanting::HandOverShutdown { cookie, unread } => {
                let done = at_hand
                    .is_some_and(|taken| self.hands.hand_over_shutdown(cookie, unread, taken.copy.as_fd()));
                Answer::Done(done)
            }
        }
    }

    fn notified(&mut self, notification: &Notification, call: Call) {
        let id = notification.id;
        let ask = &self.ask;
        let Some(thread) = self.hands.thread(notification.thread, || ask.waits(id)) else {
            return self.ask.go_on(id);
        };
        let caller = Caller { pid: Pid(thread.process), tid: Tid(notification.thread) };
        self.tell(Event::Calls(caller.tid), None);
        self.meet(caller, &thread);
        if !self.called(notification, call, caller, &thread) {
            self.ask.go_on(id);
        }
    }

    /// Tells of a process that makes its first call.
    fn meet(&mut self, caller: Caller, thread: &Rc<Thread>) {
        if self.world.knows(caller.pid) && self.hands.watches(thread.process) {
            return;
        }
        if self.world.knows(caller.pid) {
            self.tell(Event::Died(caller.pid), None);
        }
        self.hands.forget_epolls(thread.process);
        // What it has, its parent had: also what another of the parent's threads accepted during the fork.
        let (open, hidden) = self.open(caller, thread);
        self.tell(Event::Appeared { caller, open: &open, hidden }, None);
        self.hands.watch(caller.pid);
        if self.hands.ends().count() > PROCESSES {
            self.bury();
        }
    }

    /// Tells of a call; whether it has been answered, or will be.
    fn called(
        &mut self,
        notification: &Notification,
        call: Call,
        caller: Caller,
        thread: &Rc<Thread>,
    ) -> bool {
        let id = notification.id;
        match call {
            Call::Close(fd) => {
                self.hands.may_close_epoll(thread.process, fd);
                self.close(id, caller, thread, fd, Way::Close);
            }
            Call::CloseRange(first, last) => {
                let within = |fd: RawFd| (first..=last).contains(&fd.cast_unsigned());
                self.close_all(id, caller, thread, Way::Close, within);
                self.hands.epolls_changed(thread.process);
            }
            Call::Copy(fd) => self.copy(caller, thread, fd),
            Call::Replace { old, new } if old != new => {
                self.copy(caller, thread, old);
                self.hands.may_close_epoll(thread.process, new);
                self.close(id, caller, thread, new, Way::Replace);
            }
            Call::Replace { .. } | Call::Other => {}
            Call::Shutdown { fd, how } => {
                if self.shutdown(id, thread, fd, how) {
                    self.ask.result(id, Ok(0));
                    return true;
                }
            }
            Call::Fork => {
                let (open, hidden) = self.open(caller, thread);
                let alone = eyes::is_alone(notification.thread);
                self.tell(Event::Fork { caller, open: &open, hidden, alone }, None);
            }
            Call::Exec => {
                self.hands.forget_epolls(thread.process);
                let ask = &self.ask;
                // The call leaves the process one thread, which has the first one's number.
                if let Some(first) = self.hands.first_thread(thread.process, || ask.waits(id)) {
                    self.close_all(id, caller, &first, Way::Exec, |_| true);
                }
            }
            Call::Exit => {
                self.close_all(id, caller, thread, Way::Exit, |_| true);
                self.hands.forget_epolls(thread.process);
            }
            Call::Send { socket, headers, count } => self.send(caller, thread, socket, headers, count),
            Call::Accept(fd) => {
                if let Ok(listener) = thread.take(fd)
                    && let Some(listener) = self.hands.move_up(&listener)
                    && sockopt::socket_acceptconn(&listener).unwrap_or(false)
                {
                    let thread = Rc::clone(thread);
                    self.accept(Accepting { notification: *notification, thread, listener });
                    return true;
                }
            }
            Call::Listen { fd, backlog } => return self.listen(id, thread, fd, backlog),
            Call::EpollCreate => self.hands.epolls_changed(thread.process),
        }
        false
    }

    /// What a process has open, and whether that cannot be seen.
    fn open(&self, caller: Caller, thread: &Thread) -> (Vec<Open>, bool) {
        let mut nothing = true;
        let mut open = Vec::new();
        for (fd, kind) in eyes::open(caller.tid.0) {
            nothing = false;
            let eyes::Open::Socket(inode) = kind else { continue };
            let inode = Inode(inode);
            if self.world.shares(inode) {
                open.push(Open { fd, inode, cookie: None });
            } else if let Ok(copy) = thread.take(fd)
                && let Some(cookie) = self.wanted.cookie(copy.as_fd())
            {
                open.push(Open { fd, inode, cookie: Some(cookie) });
            }
        }
        (open, nothing && eyes::census_of(&[caller.pid.0]).hidden)
    }

    /// What a process has at an fd.
    fn find(&self, thread: &Rc<Thread>, fd: RawFd) -> Found {
        let copy = match thread.take(fd) {
            Ok(copy) => copy,
            Err(Errno::PERM) => return Found::Hidden,
            Err(_) => return Found::Other,
        };
        let (Some(cookie), Ok(status)) = (self.wanted.cookie(copy.as_fd()), rustix::fs::fstat(&copy)) else {
            return Found::Other;
        };
        let seen = Seen { fd, cookie, inode: Inode(status.st_ino), socket: eyes::socket(copy.as_fd()) };
        Found::Connection(seen, Taken { copy, thread: Rc::clone(thread), fd })
    }

    fn copy(&mut self, caller: Caller, thread: &Rc<Thread>, fd: RawFd) {
        match self.find(thread, fd) {
            Found::Connection(seen, _) => {
                self.tell(Event::Copy { caller, seen }, None);
            }
            Found::Hidden => {
                self.tell(Event::Hidden { pid: caller.pid, sends: false }, None);
            }
            Found::Other => {
                if self.hands.has_epolls(thread.process)
                    && thread.take(fd).is_ok_and(|copy| eyes::is_epoll(&copy))
                {
                    self.hands.epolls_changed(thread.process);
                }
            }
        }
    }

    fn close(&mut self, id: u64, caller: Caller, thread: &Rc<Thread>, fd: RawFd, way: Way) {
        match self.find(thread, fd) {
            Found::Connection(seen, taken) if self.ask.waits(id) => {
                self.tell(Event::Close { caller, seen, way }, Some(taken));
            }
            Found::Hidden => {
                self.tell(Event::Hidden { pid: caller.pid, sends: false }, None);
            }
            Found::Connection(..) | Found::Other => {}
        }
    }

    fn close_all(
        &mut self,
        id: u64,
        caller: Caller,
        thread: &Rc<Thread>,
        way: Way,
        meant: impl Fn(RawFd) -> bool,
    ) {
        for (fd, open) in eyes::open(caller.tid.0) {
            if meant(fd) && matches!(open, eyes::Open::Socket(_)) {
                self.close(id, caller, thread, fd, way);
            }
        }
    }

    /// `shutdown` of the read side or both; whether it is to be answered with success instead of made.
    fn shutdown(&mut self, id: u64, thread: &Rc<Thread>, fd: RawFd, how: i32) -> bool {
        match self.find(thread, fd) {
            Found::Connection(seen, taken)
                if matches!(how, libc::SHUT_RD | libc::SHUT_RDWR) && self.ask.waits(id) =>
            {
                self.tell(Event::Shutdown { seen, both: how == libc::SHUT_RDWR }, Some(taken))
            }
            _ => false,
        }
    }

    /// Messages are about to be sent, which may carry fds to whoever receives them.
    fn send(&mut self, caller: Caller, thread: &Rc<Thread>, socket: RawFd, headers: u64, count: u64) {
        /// `struct msghdr` and, of the same form with a length behind it, `struct mmsghdr`.
        const MMSGHDR: u64 = 64;
        for place in 0..count {
            let address = headers.wrapping_add(place * MMSGHDR);
            let control = match control_data(caller.tid.0, address) {
                Ok(control) => control,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    self.tell(Event::Hidden { pid: caller.pid, sends: true }, None);
                    return;
                }
                Err(_) => return,
            };
            for fd in Rights::new(&control) {
                match self.find(thread, fd) {
                    Found::Connection(seen, _) => {
                        let abroad = !self.goes_to_the_program(thread, socket);
                        self.tell(Event::Send { caller, seen, abroad }, None);
                    }
                    Found::Hidden => {
                        self.tell(Event::Hidden { pid: caller.pid, sends: true }, None);
                    }
                    Found::Other => {}
                }
            }
        }
    }

    /// Whether the other end of a unix socket is one of the program's, by the process that made it.
    fn goes_to_the_program(&self, thread: &Thread, socket: RawFd) -> bool {
        let peer = thread.take(socket).ok().and_then(|socket| peer_process(socket.as_fd()));
        peer.is_some_and(|peer| self.world.knows(Pid(peer)) || eyes::processes().contains(&peer))
    }

    /// Notes the port of a socket that is about to listen; whether the call has been answered.
    fn listen(&mut self, id: u64, thread: &Thread, fd: RawFd, backlog: i32) -> bool {
        let Ok(socket) = thread.take(fd) else { return false };
        if self.wanted.listens(socket.as_fd()).is_some() || !self.ask.waits(id) {
            return false;
        }
        // Without a port until the call itself gives it one: the call is made here.
        let listening = rustix::net::listen(&socket, backlog);
        self.wanted.listens(socket.as_fd());
        self.ask.result(id, listening.map(|()| 0).map_err(Errno::raw_os_error));
        true
    }

    /// Accepts for a thread, which gets the connection, an error, or waits on.
    fn accept(&mut self, accepting: Accepting) {
        match accepting.attempt(&self.ask) {
            Accepted::NotYet => self.accepting.push(accepting),
            Accepted::Answered => {}
            Accepted::Lost(connection) => self.hands.hand_over_lost(connection.as_fd()),
            Accepted::Given(connection) => {
                if let Some(cookie) = self.wanted.cookie(connection.as_fd())
                    && let Ok(status) = rustix::fs::fstat(&connection)
                    && let Some(copy) = self.hands.move_up(&connection)
                {
                    self.hands.hold(cookie, copy);
                    let (inode, pid) = (Inode(status.st_ino), Pid(accepting.thread.process));
                    self.tell(Event::Accepted { cookie, inode, pid }, None);
                }
            }
        }
    }

    fn accept_all(&mut self) {
        for accepting in std::mem::take(&mut self.accepting) {
            if !accepting.give_way(&self.ask) {
                self.accept(accepting);
            }
        }
    }

    /// Tells of the processes that have died.
    fn bury(&mut self) {
        for pid in self.hands.ended() {
            self.tell(Event::Died(pid), None);
        }
    }

    /// Looks whether what the program was let close is closed.
    fn look(&mut self) {
        let started = Instant::now();
        if self.hands.calls() == 0 || started < self.look_at {
            return;
        }
        let states: Vec<_> =
            self.hands.called().into_iter().map(|kept| (kept, self.hands.look_at(kept))).collect();
        let took = started.elapsed();
        for (kept, state) in states {
            self.tell(
                match state {
                    Fd::Closed => Event::Closed(kept),
                    Fd::Open => Event::StillOpen(kept),
                    Fd::Lost => Event::Lost(kept),
                },
                None,
            );
        }
        if self.hands.calls() > 0 {
            self.look_at = Instant::now() + took * 4;
        }
    }
}

/// The control data of a message that a thread is about to send, by the address of its header.
fn control_data(thread: u32, address: u64) -> std::io::Result<Vec<u8>> {
    let mut header = [0; size_of::<libc::msghdr>()];
    read_memory(thread, address, &mut header)?;
    let word = |at: usize| {
        let word = header.get(at..at + 8).and_then(|word| word.try_into().ok());
        word.map_or(0, u64::from_ne_bytes)
    };
    let address = word(std::mem::offset_of!(libc::msghdr, msg_control));
    let length = word(std::mem::offset_of!(libc::msghdr, msg_controllen)).min(CONTROL);
    let mut control = vec![0; length as usize];
    if address == 0 || control.is_empty() {
        return Ok(Vec::new());
    }
    read_memory(thread, address, &mut control)?;
    Ok(control)
}
