//! The calls of threads, each as the steps of the preloaded library and of the kernel, in their order.

use linger_custody::process::{Close, Epolls, FoundAt, Last, Phase, Shutdown, Unhold};
use linger_custody::{Count, Origin, Rights, Socket};

use super::kernel::{Connection, FDS, Fault, Fd, File, World, pid};
use super::sockets::control;
use super::supervisor::Nominee;

/// How far a close has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// Asks the kernel for the cookie.
    Cookie,
    /// Asks custody.
    Ask(Option<u64>),
    /// Asks the socket.
    Settle(Last),
    /// Nominates the connection; the flag says whether it had unread bytes.
    Send(Last, bool),
    /// The close itself. The supervisor may have the connection; what was nominated is judged after it.
    Real { handed: bool, nominated: Option<Nominee> },
}

/// How the program gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Accepted,
    Connected,
    Received,
}

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// `then` is the file that takes the fd's place.
    Close {
        fd: u8,
        at: At,
        then: Option<u8>,
    },
    /// The fd is there; the library notes it.
    Get {
        fd: u8,
        connection: u8,
        /// Its origin, and whether the supervisor holds it.
        noted: Option<(Origin, bool)>,
        /// Where the table had it before.
        found: Option<Option<FoundAt>>,
        got: Got,
    },
    /// The copy is there; the library notes it.
    Copy {
        old: u8,
        new: u8,
    },
    Shutdown {
        fd: u8,
        asked: bool,
        half_closed: bool,
    },
    /// Sent; the library notes it.
    Give {
        fd: u8,
    },
    /// All fds up to this one have been handled.
    Exit {
        fd: u8,
    },
    /// All fds up to this one have been handled. There are two such rounds, and then the call.
    Exec {
        begun: u8,
        fd: u8,
        fails: bool,
        second: bool,
        /// The last fd of a connection, which is about to be announced.
        last: Option<Last>,
    },
}

impl Op {
    /// Whether other calls must leave an fd alone.
    pub(crate) fn concerns(&self, fd: usize) -> bool {
        let fd = fd as u8;
        match *self {
            Self::Close { fd: own, then, .. } => own == fd || then == Some(fd),
            Self::Get { fd: own, .. } | Self::Shutdown { fd: own, .. } | Self::Give { fd: own } => own == fd,
            Self::Copy { old, new } => old == fd || new == fd,
            Self::Exit { .. } | Self::Exec { .. } => false,
        }
    }

    /// Whether it waits for another thread.
    pub(crate) fn waits(&self) -> bool {
        match *self {
            Self::Exec { begun, .. } => (1..4).contains(&begun),
            _ => false,
        }
    }

    /// The connection of this call, which may no longer be in any table.
    pub(crate) fn connection(&self) -> Option<u8> {
        match *self {
            Self::Close { at: At::Settle(last) | At::Send(last, _), .. }
            | Self::Exec { last: Some(last), .. } => Some(last.cookie as u8),
            Self::Close { at: At::Real { nominated: Some(nominee), .. }, .. } => Some(nominee.connection),
            _ => None,
        }
    }
}

impl World {
    /// Takes the next step of a thread. Returns `None` once the call is over.
    pub(crate) fn step(&mut self, process: usize, op: Op) -> Option<Op> {
        match op {
            Op::Close { fd, at, then } => self.close(process, fd, at, then),
            Op::Get { fd, connection, noted, found, got } => {
                self.get(process, fd, connection, noted, found, got)
            }
            Op::Copy { old, new } => {
                if let (Some(fd), false) =
                    (self.processes[process].fd(new.into()), usize::from(new) + 1 < FDS)
                {
                    let connection = fd.connection;
                    self.connection(connection.into()).beyond = true;
                    self.connection(connection.into()).passed = true;
                }
                let unhold = self.processes[process].table.copied(old.into(), new.into());
                self.unhold(process, unhold);
                let tracked = self.processes[process].table.is_tracked(old.into());
                if tracked {
                    let told = &mut self.processes[process].told;
                    told[usize::from(new)] = told[usize::from(old)];
                }
                self.returns(process, new.into())
            }
            Op::Shutdown { fd, asked, half_closed } => self.shutdown(process, fd, asked, half_closed),
            Op::Give { fd } => {
                // No message has this many fds. An iteration without end would be a fault, and is seen here.
                for passed in Rights::new(&control(fd)).take(2 * FDS) {
                    let unhold = self.processes[process].table.given_away(passed);
                    self.unhold(process, unhold);
                }
                None
            }
            Op::Exit { fd } => self.exit(process, fd),
            Op::Exec { begun: 4, fd, fails, second, last } => self.exec(process, fd, fails, second, last),
            Op::Exec { begun, fd, fails, second, last } => {
                Some(Op::Exec { begun: self.begins(process, begun), fd, fails, second, last })
            }
        }
    }

    /// A call that has made an fd returns.
    fn returns(&mut self, process: usize, fd: usize) -> Option<Op> {
        let leaving = self.processes[process].leaving;
        if leaving {
            self.excuse(process, fd);
        }
        if let Some(fd) = self.processes[process].fd_mut(fd) {
            fd.known = true;
            fd.closing |= leaving;
        }
        None
    }

    pub(super) fn unhold(&mut self, process: usize, unhold: Option<Unhold>) {
        if let Some(Unhold { cookie }) = unhold {
            self.release(process, cookie);
        }
    }

    fn get(
        &mut self,
        process: usize,
        fd: u8,
        connection: u8,
        noted: Option<(Origin, bool)>,
        found: Option<Option<FoundAt>>,
        got: Got,
    ) -> Option<Op> {
        let received = got == Got::Received;
        if !self.processes[process].table.has_room_for(fd.into()) {
            if usize::from(fd) + 1 < FDS {
                self.fail(Fault::Missing);
            }
            self.connection(connection.into()).beyond = true;
            return self.returns(process, fd.into());
        }
        let Some((origin, held)) = noted else {
            let origin = match got {
                Got::Accepted => Origin::new(self.processes[process].table.process(), self.now_ms()),
                Got::Connected | Got::Received => Origin::UNKNOWN,
            };
            let held = self.hold && self.send_waiting(process, fd.into(), origin);
            return Some(Op::Get { fd, connection, noted: Some((origin, held)), found, got });
        };
        let table = &self.processes[process].table;
        let (fd, cookie) = (i32::from(fd), u64::from(connection));
        let unhold = if received {
            let Some(found) = found else {
                let (fd, found) = (fd as u8, Some(table.find(cookie)));
                return Some(Op::Get { fd, connection, noted, found, got });
            };
            table.received(fd, cookie, held, found)
        } else {
            table.accepted(fd, cookie, origin, held)
        };
        self.processes[process].counted &= !(1 << connection);
        // A connection that the process has handed over, and still has, stays handed over, however it gets one more fd
        // of it.
        let is_new = matches!(found, Some(None));
        self.processes[process].handed &= !(u32::from(is_new) << connection);
        self.unhold(process, unhold);
        self.processes[process].told[fd as usize] = Some(connection);
        if received {
            self.processes[process].received |= 1 << connection;
            // A connection that has come back is the process's own again, under all fds that are still in the table.
            for fd in 0..FDS {
                let tracked = self.processes[process].table.is_tracked(fd as i32)
                    && !self.processes[process].is_stale(fd);
                if let Some(known) = self.processes[process].fd_mut(fd)
                    && known.connection == connection
                    && tracked
                {
                    known.given = false;
                }
            }
        }
        self.returns(process, fd as usize)
    }

    pub(super) fn ask(&mut self, process: usize, fd: u8, cookie: Option<u64>) -> Close {
        let table = &self.processes[process].table;
        // Nothing is done in a child of `vfork`, which has other fds than the table says.
        if table.is_of(pid(process)) { table.close(fd.into(), cookie) } else { Close::Leave }
    }

    fn close(&mut self, process: usize, fd: u8, at: At, then: Option<u8>) -> Option<Op> {
        let plain = At::Real { handed: false, nominated: None };
        let handed = At::Real { handed: true, nominated: None };
        let next = match at {
            At::Cookie if !self.processes[process].table.is_tracked(fd.into()) => plain,
            At::Cookie => At::Ask(self.cookie(process, fd.into())),
            At::Ask(cookie) => match self.ask(process, fd, cookie) {
                Close::Last(last) => {
                    // A connection that a `shutdown` has handed over must not be nominated again.
                    if self.processes[process].handed & 1 << last.cookie != 0 {
                        self.fail(Fault::Fate);
                    }
                    At::Settle(last)
                }
                Close::Leave => plain,
                Close::Unhold(unhold) => {
                    self.unhold(process, Some(unhold));
                    plain
                }
                Close::Handed(epolls) => {
                    self.unwatch(process, fd, epolls);
                    handed
                }
            },
            At::Settle(last) => {
                let settled = self.settle(last.cookie);
                if last.held || settled.is_ok() {
                    self.unwatch(process, fd, last.epolls);
                }
                match settled {
                    Ok(unread) if last.stray => {
                        self.unhold(process, last.unhold());
                        self.count(Count::Unread, i64::from(unread > 0));
                        self.seen(process, last.cookie, Count::Refused);
                        plain
                    }
                    Ok(unread) => At::Send(last, unread > 0),
                    Err(reason) => {
                        self.unhold(process, last.unhold());
                        self.seen(process, last.cookie, reason);
                        plain
                    }
                }
            }
            At::Send(last, unread) => {
                if self.send_now(process, last.cookie, last.held) {
                    let (connection, origin) = (last.cookie as u8, last.origin);
                    let received = self.processes[process].received & 1 << connection != 0;
                    let nominee = Nominee { connection, origin, received, by: process, unread, closed: true };
                    At::Real { handed: true, nominated: Some(nominee) }
                } else {
                    self.count(Count::Unread, i64::from(unread));
                    self.seen(process, last.cookie, Count::Refused);
                    handed
                }
            }
            At::Real { handed, nominated } => {
                let next = self.really_close(process, fd, handed, then);
                if let Some(nominee) = nominated {
                    self.judge(nominee);
                }
                return next;
            }
        };
        Some(Op::Close { fd, at: next, then })
    }

    fn really_close(&mut self, process: usize, fd: u8, handed: bool, then: Option<u8>) -> Option<Op> {
        let reported = self.processes[process].fd(fd.into()).is_some_and(reports);
        if handed && reported {
            self.fail(Fault::Reported);
        }
        self.leave_registered(process, fd, handed);
        let old = then?;
        let copy = self.processes[process].files[usize::from(old)];
        self.processes[process].files[usize::from(fd)] = match copy {
            File::Connection(Fd { connection, given, .. }) => {
                File::Connection(Fd { given, ..Fd::new(connection) })
            }
            other => other,
        };
        Some(Op::Copy { old, new: fd })
    }

    /// Closes an fd in the kernel. An epoll keeps its registration while the file is open, which the supervisor's fd must
    /// not prolong.
    fn leave_registered(&mut self, process: usize, fd: u8, handed: bool) {
        let closed = self.processes[process].fd(fd.into()).copied();
        self.processes[process].files[usize::from(fd)] = File::Closed;
        let Some(closed) = closed else { return };
        let connection = closed.connection;
        let one = &mut self.processes[process];
        let stray = 1u32 << connection;
        let others =
            one.files.iter().any(|file| matches!(file, File::Connection(fd) if fd.connection == connection));
        // What was passed on and came back is a new connection to the table (docs/custody.md).
        let again = (one.received | one.unseen) & stray != 0;
        let excused = again || self.connections[usize::from(connection)].excused;
        if handed && one.stray & stray != 0 && !excused {
            self.fail(Fault::Reported);
        }
        let one = &mut self.processes[process];
        if !others {
            one.stray &= !stray;
        } else if reports(&closed) {
            one.stray |= stray;
        }
    }

    pub(super) fn unwatch(&mut self, process: usize, fd: u8, epolls: Epolls) {
        let process = &mut self.processes[process];
        let mut known = 0;
        let mut other = false;
        for epoll in process.table.each_epoll(epolls).filter(|epoll| *epoll != 19) {
            let epoll = if matches!(epoll, 20 | 21) { 1 << (epoll - 20) } else { 0 };
            known |= epoll;
            other |= process.epolls & epoll == 0;
        }
        if let Some(fd) = process.fd_mut(fd.into()) {
            fd.watched &= !known;
        }
        if other {
            self.fail(Fault::Reported);
        }
    }

    fn shutdown(&mut self, process: usize, fd: u8, asked: bool, half_closed: bool) -> Option<Op> {
        let connection = self.processes[process].fd(fd.into())?.connection;
        let cookie = u64::from(connection);
        if !asked {
            let entry = self.processes[process].table.entry(fd.into());
            let stale = self.processes[process].is_stale(fd.into());
            let ours = entry.is_some_and(|entry| entry.phase == Phase::Ours && !entry.stray) && !stale;
            let Connection { socket, supervised, beyond, .. } = *self.connection(cookie);
            match self.processes[process].table.shutdown(fd.into(), Some(cookie)) {
                Shutdown::HandOver { cookie: known } => {
                    // The connection must not be another process's. If the supervisor has it, another process may have
                    // shut it down.
                    let done = self.processes[process].handed & 1 << cookie != 0;
                    if known != cookie || !ours || done {
                        self.fail(Fault::Fate);
                    }
                    return Some(Op::Shutdown { fd, asked: true, half_closed });
                }
                Shutdown::Done if supervised => {}
                Shutdown::Done => self.fail(Fault::Fate),
                Shutdown::Leave => {
                    let known = &self.processes[process];
                    let handed = known.handed & 1 << cookie != 0 && known.table.is_tracked(fd.into());
                    let handed = handed && !stale && !beyond;
                    if handed || ours && !socket.peer_finished && !socket.over {
                        self.fail(Fault::Fate);
                    }
                    self.really_shut_down(connection);
                }
            }
            return None;
        }
        let Socket { peer_finished, over, unread, .. } = self.connection(cookie).socket;
        if !half_closed {
            if peer_finished || over {
                self.really_shut_down(connection);
                return None;
            }
            self.connection(cookie).shut = true;
            return Some(Op::Shutdown { fd, asked, half_closed: true });
        }
        if !self.send_now(process, cookie, false) {
            self.really_shut_down(connection);
            return None;
        }
        // Closed by another thread since custody was asked (docs/custody.md).
        let entry = self.processes[process].table.entry(fd.into());
        let stray = entry.is_some_and(|entry| entry.stray);
        self.processes[process].unseen |= u32::from(stray) << connection;
        self.processes[process].table.handed(fd.into());
        self.processes[process].handed |= 1 << connection;
        // The supervisor knows what it ends already.
        if !std::mem::replace(&mut self.connection(cookie).supervised, true) {
            self.count(Count::Unread, i64::from(unread > 0));
            self.seen(process, cookie, Count::Handed);
        }
        None
    }

    fn really_shut_down(&mut self, connection: u8) {
        let known = self.connection(connection.into());
        known.shut = true;
        known.socket.peer_finished = true;
        known.socket.over = true;
    }
}

/// Whether an epoll watches an fd that the table knows to search. Of two it searches those that it has seen made.
fn reports(fd: &Fd) -> bool {
    fd.watched & 1 != 0 || fd.watched != 0 && !fd.watched_by_both
}
