//! Reports the program's calls to custody before they are made.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use linger_custody::Rights;
use linger_custody::world::{Caller, Event, Inode, Open, Pid, Seen, Tid, Unseen, Way};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::super::ask::Call;
use super::super::eyes;
use super::super::hands::{Accepted, Accepting, Taken, Thread};
use super::Driver;
use crate::kernel::{Notification, peer_process, read_memory};

/// Most bytes of control data: `SCM_MAX_FD` fds are one kilobyte; more carries other things as well.
const CONTROL: u64 = 65_536;

/// With more watched processes than these, those that have died are looked for.
const PROCESSES: usize = 1_024;

/// What is found at an fd of the program.
enum Found {
    Connection(Seen, Taken),
    /// Something else, or nothing.
    Other,
    /// The process does not let its fds be taken.
    Hidden,
}

impl Driver {
    pub(super) fn notified(&mut self, notification: &Notification, call: Call) {
        let id = notification.id;
        if let Call::Close(fd) = call
            && self.close_of_known(notification, fd)
        {
            return self.ask.go_on(id);
        }
        let ask = &self.ask;
        let Some(thread) = self.hands.thread(notification.thread, || ask.waits(id)) else {
            return self.ask.go_on(id);
        };
        let caller = Caller { pid: Pid(thread.process), tid: Tid(notification.thread) };
        self.tell(Event::Calls(caller.tid), None);
        self.meet(caller, &thread);
        self.take_back(call, &thread);
        if !self.called(notification, call, caller, &thread) {
            self.ask.go_on(id);
        }
    }

    /// Handles a close by a thread that has called before, with few system calls. Returns false if the thread must be
    /// looked at first.
    ///
    /// If its fd can be copied through its pidfd, the thread is alive, and so is the known process that it belongs to. It is then
    /// this thread that has called, and only its death can end a call that was received.
    fn close_of_known(&mut self, notification: &Notification, fd: RawFd) -> bool {
        let Some(thread) = self.hands.known(notification.thread) else { return false };
        let caller = Caller { pid: Pid(thread.process), tid: Tid(notification.thread) };
        if !self.world.knows(caller.pid) {
            return false;
        }
        let copy = match thread.take(fd) {
            Ok(copy) => Some(copy),
            // The thread lives, and has no such fd.
            Err(Errno::BADF) => None,
            Err(_) => return false,
        };
        let found = copy.map_or(Found::Other, |copy| self.recognize(copy, &thread, fd));
        if thread.is_lent_to() && !matches!(found, Found::Connection(..)) {
            // The copy of a listener or of an epoll has to be closed as well.
            return false;
        }
        self.tell(Event::Calls(caller.tid), None);
        self.hands.note_epoll_close(thread.process, fd);
        if let Found::Connection(seen, taken) = found
            && (self.ask.only_death_ends_calls() && !thread.is_lent_to() || self.ask.waits(notification.id))
        {
            self.tell(Event::Close { caller, seen, way: Way::Close }, Some(taken));
        }
        true
    }

    /// Reports a process that makes its first call.
    fn meet(&mut self, caller: Caller, thread: &Rc<Thread>) {
        if self.world.knows(caller.pid) && self.hands.watches(thread.process) {
            return;
        }
        if self.world.knows(caller.pid) {
            self.tell(Event::Died(caller.pid), None);
        }
        self.hands.forget_epolls(thread.process);
        // It has its parent's connections, also those that another thread of the parent accepted during the fork.
        let (open, hidden) = self.open(caller, thread);
        self.tell(Event::Appeared { caller, open: &open, hidden }, None);
        self.hands.watch(caller.pid);
        if self.hands.ends().count() > PROCESSES {
            self.bury();
        }
    }

    /// Reports a call. Returns whether it was answered, or will be.
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
                self.hands.note_epoll_close(thread.process, fd);
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
                self.hands.note_epoll_close(thread.process, new);
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
                // After the call the process has one thread, with the id of the first thread.
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
            Call::EpollCreate => {
                self.hands.epolls_changed(thread.process);
                return self.lend_epoll(notification, thread.process);
            }
            Call::Socket => return self.lend_socket(notification),
            Call::Connect(_) => {}
            Call::Register => {
                for (fd, open) in eyes::open(caller.tid.0) {
                    if let eyes::Open::Socket(_) = open {
                        self.copy(caller, thread, fd);
                    }
                }
            }
        }
        false
    }

    /// The connections that a process has open, and whether its fds cannot be looked at.
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

    /// The connection at an fd of a process, if it is one.
    fn find(&self, thread: &Rc<Thread>, fd: RawFd) -> Found {
        match thread.take(fd) {
            Ok(copy) => self.recognize(copy, thread, fd),
            Err(Errno::PERM) => Found::Hidden,
            Err(_) => Found::Other,
        }
    }

    /// The connection that a copy of an fd is of, if it is one.
    fn recognize(&self, copy: OwnedFd, thread: &Rc<Thread>, fd: RawFd) -> Found {
        let connection = self.wanted.connection(copy.as_fd());
        let (Some((cookie, info)), Ok(status)) = (connection, rustix::fs::fstat(&copy)) else {
            return Found::Other;
        };
        let is_plain = self.wanted.all_plain();
        let socket = eyes::socket_in(info.map(|info| info.state), is_plain, copy.as_fd());
        let before = info.filter(|_| is_plain);
        let before = before.and_then(|info| eyes::OpenBefore::new(info, socket));
        let seen = Seen { fd, cookie, inode: Inode(status.st_ino), socket };
        Found::Connection(seen, Taken { copy, thread: Rc::clone(thread), fd, before })
    }

    fn copy(&mut self, caller: Caller, thread: &Rc<Thread>, fd: RawFd) {
        match self.find(thread, fd) {
            Found::Connection(seen, _) => {
                self.hands.copies(seen.cookie);
                self.tell(Event::Copy { caller, seen }, None);
            }
            Found::Hidden => {
                self.tell(Event::Hidden { pid: caller.pid, does: Unseen::Copies }, None);
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
                self.tell(Event::Hidden { pid: caller.pid, does: Unseen::Closes }, None);
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

    /// Reports a `shutdown` of both sides. Returns whether to answer it with success instead of making it.
    fn shutdown(&mut self, id: u64, thread: &Rc<Thread>, fd: RawFd, how: i32) -> bool {
        match self.find(thread, fd) {
            Found::Connection(seen, taken) if how == libc::SHUT_RDWR && self.ask.waits(id) => {
                self.tell(Event::Shutdown(seen), Some(taken))
            }
            _ => false,
        }
    }

    /// Reports messages that are about to be sent, and may carry fds to another process.
    fn send(&mut self, caller: Caller, thread: &Rc<Thread>, socket: RawFd, headers: u64, count: u64) {
        /// `struct msghdr` and, of the same form with a length behind it, `struct mmsghdr`.
        const MMSGHDR: u64 = 64;
        for place in 0..count {
            let address = headers.wrapping_add(place * MMSGHDR);
            let control = match control_data(caller.tid.0, address) {
                Ok(control) => control,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    self.tell(Event::Hidden { pid: caller.pid, does: Unseen::Sends }, None);
                    return;
                }
                Err(_) => return,
            };
            for fd in Rights::new(&control) {
                match self.find(thread, fd) {
                    Found::Connection(seen, _) => {
                        let abroad = !self.goes_to_the_program(thread, socket);
                        self.hands.copies(seen.cookie);
                        self.tell(Event::Send { caller, seen, abroad }, None);
                    }
                    Found::Hidden => {
                        self.tell(Event::Hidden { pid: caller.pid, does: Unseen::Sends }, None);
                    }
                    Found::Other => {}
                }
            }
        }
    }

    /// Whether the other end of a unix socket is one of the program's, by the process that made it.
    fn goes_to_the_program(&mut self, thread: &Thread, socket: RawFd) -> bool {
        let peer = thread.take(socket).ok().and_then(|socket| peer_process(socket.as_fd()));
        peer.is_some_and(|peer| {
            self.world.knows(Pid(peer)) || self.processes().is_some_and(|all| all.contains(&peer))
        })
    }

    /// Notes the port of a socket that is about to listen. Returns whether the call was answered.
    fn listen(&mut self, id: u64, thread: &Thread, fd: RawFd, backlog: i32) -> bool {
        self.counts.listens.fetch_add(1, Relaxed);
        let Ok(socket) = thread.take(fd) else { return false };
        if self.wanted.listens(socket.as_fd()).is_some() || !self.ask.waits(id) {
            return false;
        }
        // The socket gets its port only from the call itself, so the call is made here.
        let listening = rustix::net::listen(&socket, backlog);
        self.wanted.listens(socket.as_fd());
        self.ask.result(id, listening.map(|()| 0).map_err(Errno::raw_os_error));
        true
    }

    /// Accepts for a thread, which gets the connection or an error, or goes on waiting.
    pub(super) fn accept(&mut self, accepting: Accepting) {
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
