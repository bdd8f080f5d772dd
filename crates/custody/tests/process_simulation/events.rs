//! What each event starts, if it is possible.

use linger_custody::process::Phase;

use super::coverage::Coverage;
use super::kernel::{CONNECTIONS, FDS, Fault, Fd, File, Mode, PROCESSES, THREADS, World, pid};
use super::ops::{At, Got, Op};
use super::schedule::{Event, Kind};

impl World {
    /// Carries out an event, if it is possible.
    pub(crate) fn happens(&mut self, event: Event, coverage: &mut Coverage) {
        let process = usize::from(event.process) % PROCESSES;
        self.events += 1;
        if !self.processes[process].alive {
            return;
        }
        let thread = usize::from(event.b) % THREADS;
        if event.kind == Kind::Go {
            return self.go(process, thread, event.steps);
        }
        if self.processes[process].foreign {
            if event.kind == Kind::ForeignClose {
                let fd = usize::from(event.a) % FDS;
                self.processes[process].files[fd] = File::Closed;
            }
            return;
        }
        // If a connection is announced, and closed before the `execve` fails, the supervisor keeps it to the end of the
        // process: no hook can connect the two.
        let fails = |op: &Op| matches!(op, Op::Exec { fails: true, .. });
        let fails = self.processes[process].threads.iter().flatten().any(fails);
        // Another `execve` is allowed: it waits.
        let execs = matches!(event.kind, Kind::Exec | Kind::FailedExec);
        if self.processes[process].threads[thread].is_some() || fails && !execs {
            return;
        }
        if let Some(op) = self.begin(process, event, coverage) {
            self.processes[process].threads[thread] = Some(op);
            self.go(process, thread, event.steps);
        }
    }

    fn go(&mut self, process: usize, thread: usize, steps: u8) {
        for _ in 0..steps {
            let Some(op) = self.processes[process].threads[thread] else { return };
            let next = self.step(process, op);
            // The process may have ended.
            if self.processes[process].threads[thread].is_some() {
                self.processes[process].threads[thread] = next;
            }
            if self.fault.is_some() || next.is_some_and(|op| op.waits()) {
                return;
            }
        }
    }

    /// Ends all calls, then all processes.
    pub(crate) fn finish(&mut self) {
        // A thread may wait for another thread of its process.
        for thread in (0..THREADS).cycle().take(4 * THREADS) {
            (0..PROCESSES).for_each(|process| self.go(process, thread, u8::MAX));
        }
        if self.fault.is_none()
            && self.processes.iter().any(|process| process.threads.iter().any(Option::is_some))
        {
            self.fail(Fault::Stuck);
        }
        for connection in std::mem::take(&mut self.in_flight) {
            self.connections[usize::from(connection)].excused = true;
        }
        for process in 0..PROCESSES {
            if self.processes[process].alive && !self.processes[process].foreign && self.fault.is_none() {
                self.check();
                self.processes[process].leaving = true;
                self.processes[process].threads[0] = Some(Op::Exit { fd: 0 });
                self.go(process, 0, u8::MAX);
            }
        }
        if self.fault.is_none() {
            self.check_end();
        }
    }

    /// An fd of a connection that no call concerns, chosen by a number.
    fn choose(&self, process: usize, number: u8) -> Option<usize> {
        let process = &self.processes[process];
        let usable = |fd: &usize| {
            process.fd(*fd).is_some_and(|known| known.known && (process.leaving || !known.closing))
                && !process.is_busy(*fd)
        };
        let all = (0..FDS).filter(usable).count();
        (0..FDS).filter(usable).nth(usize::from(number).checked_rem(all)?)
    }

    fn begin(&mut self, process: usize, event: Event, coverage: &mut Coverage) -> Option<Op> {
        let Event { kind, a, b, .. } = event;
        let leaving = self.processes[process].leaving;
        match kind {
            Kind::Accept => {
                let fd = self.processes[process].free_fd().filter(|_| self.accepted < CONNECTIONS)?;
                let connection = self.accepted as u8;
                self.accepted += 1;
                // The next program does not know of a connection that was accepted beside an `execve`.
                let file = Fd { cloexec: a & 3 != 0 || leaving, ..Fd::new(connection) };
                self.processes[process].files[fd] = File::Connection(file);
                let now = self.now_ms();
                let known = &mut self.connections[usize::from(connection)];
                known.socket.unread = u32::from(b & 1);
                (known.acceptor, known.accepted_ms) = (process as u8, now);
                coverage.note(kind, self, process, fd);
                Some(Op::Get { fd: fd as u8, connection, noted: None, found: None, got: Got::Accepted })
            }
            Kind::Receive => {
                let fd = self.processes[process].free_fd()?;
                let at = usize::from(a).checked_rem(self.in_flight.len())?;
                // A connection that other processes may have, too, is held and released by its cookie. So two threads
                // of a process must not do that at the same time.
                let shut = self.connections[usize::from(self.in_flight[at])].shut;
                let alone = self.processes[process].threads.iter().flatten().count() == 0;
                if shut && !alone {
                    return None;
                }
                let connection = self.in_flight.swap_remove(at);
                self.processes[process].files[fd] = File::Connection(Fd::new(connection));
                coverage.note(kind, self, process, fd);
                let received =
                    Op::Get { fd: fd as u8, connection, noted: None, found: None, got: Got::Received };
                if shut { self.whole(process, received) } else { Some(received) }
            }
            Kind::Peer => {
                let accepted = self.accepted;
                let known = &mut self.connections[usize::from(a).checked_rem(accepted)?].socket;
                match b % 6 {
                    0 | 1 if !known.peer_finished => known.unread += 1,
                    2 => known.peer_finished = true,
                    3 => known.over = true,
                    4 => known.aborts = true,
                    5 => self.refuses = true,
                    _ => known.unread = 0,
                }
                None
            }
            Kind::Fork => {
                // A child that is made while another thread exits has connections that were announced already.
                let exits = |op: &Op| matches!(op, Op::Exit { .. });
                if self.processes[process].threads.iter().flatten().any(exits) {
                    return None;
                }
                let child = self.processes.iter().position(|process| !process.alive)?;
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                self.make_child(process, child);
                None
            }
            Kind::Exit | Kind::Exec if leaving => None,
            Kind::Exit => {
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                self.processes[process].leaving = true;
                self.closing_all(process, true);
                Some(Op::Exit { fd: 0 })
            }
            Kind::Exec | Kind::FailedExec => {
                let fails = kind == Kind::FailedExec;
                let execs = |op: &Op| matches!(op, Op::Exec { .. });
                let alone = self.processes[process].threads.iter().flatten().all(execs);
                if fails && (!alone || leaving) {
                    return None;
                }
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                if !fails {
                    self.processes[process].leaving = true;
                    self.closing_all(process, false);
                }
                Some(Op::Exec { begun: 0, fd: 0, fails, second: false, last: None })
            }
            Kind::Kill => {
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                self.kill(process);
                None
            }
            _ => self.begin_with_fd(process, event, coverage),
        }
    }

    /// Makes a call without interruption.
    fn whole(&mut self, process: usize, op: Op) -> Option<Op> {
        let mut next = Some(op);
        while let Some(op) = next {
            next = self.step(process, op);
        }
        next
    }

    fn note_tracked(&self, coverage: &mut Coverage, kind: Kind, process: usize, fd: usize) {
        if self.processes[process].table.is_tracked(fd as i32) {
            coverage.note(kind, self, process, fd);
        }
    }

    /// Notes that the program gives up the fds that the coming exit or `execve` closes.
    fn closing_all(&mut self, process: usize, all: bool) {
        for fd in 0..FDS {
            if self.processes[process].is_busy(fd) {
                // What a thread does while another ends the process may come too late to be noticed.
                self.excuse(process, fd);
            }
            if let Some(fd) = self.processes[process].fd_mut(fd) {
                // The next program does not know of an fd whose call has not returned yet.
                fd.cloexec |= !fd.known;
                fd.closing |= all || fd.cloexec;
            }
        }
    }

    fn begin_with_fd(&mut self, process: usize, event: Event, coverage: &mut Coverage) -> Option<Op> {
        let Event { kind, a, b, .. } = event;
        let fd = self.choose(process, a)?;
        let Fd { connection, given, .. } = *self.processes[process].fd(fd)?;
        coverage.note(kind, self, process, fd);
        if self.processes[process].leaving {
            // As in `closing_all`.
            self.excuse(process, fd);
        }
        match kind {
            Kind::Close => {
                self.processes[process].fd_mut(fd)?.closing = true;
                Some(Op::Close { fd: fd as u8, at: At::Cookie, then: None })
            }
            Kind::Copy => {
                let new = self.processes[process].free_fd()?;
                self.processes[process].files[new] = File::Connection(Fd { given, ..Fd::new(connection) });
                Some(Op::Copy { old: fd as u8, new: new as u8 })
            }
            Kind::CopyOver => {
                let new = self.choose(process, b).filter(|new| *new != fd)?;
                if self.processes[process].leaving {
                    self.excuse(process, new);
                }
                self.processes[process].fd_mut(new)?.closing = true;
                Some(Op::Close { fd: new as u8, at: At::Cookie, then: Some(fd as u8) })
            }
            Kind::Shutdown => Some(Op::Shutdown { fd: fd as u8, asked: false, half_closed: false }),
            Kind::Send => {
                let alone = self.processes[process].threads.iter().flatten().count() == 0;
                let elsewhere = |other: usize| {
                    let known = &self.processes[other];
                    let says = known.threads.iter().flatten().any(|op| op.connection() == Some(connection));
                    other != process && (known.holds(connection) || known.waits(connection) || says)
                };
                let shared = (0..PROCESSES).any(elsewhere) && self.mode != Mode::PassedAndShared;
                // A connection that was shut down cannot be half-closed wrongly, whoever has it.
                let shut = self.connections[usize::from(connection)].shut;
                if given || shared && !shut || !alone {
                    return None;
                }
                self.in_flight.push(connection);
                let known = &mut self.connections[usize::from(connection)];
                (known.sent, known.passed) = (true, true);
                // The connection is the receiver's, whatever the sender has done with it.
                self.processes[process].handed &= !(1 << connection);
                self.give(process, connection);
                Some(Op::Give { fd: fd as u8 })
            }
            Kind::Spawn | Kind::RawClone => {
                let child = self.processes.iter().position(|process| !process.alive)?;
                if given {
                    return None;
                }
                // The child of `vfork` has the parent's table, and makes the connection its input.
                let table = &self.processes[process].table;
                if kind == Kind::Spawn && table.is_of(pid(child)) {
                    let unhold = table.copied(fd as i32, 0);
                    self.unhold(process, unhold);
                }
                self.born(child);
                let made = &mut self.processes[child];
                (made.alive, made.foreign, made.waiting) = (true, true, 0);
                // Like a process that has changed its user, whose fds the kernel does not show to others.
                made.hidden = b & 1 != 0;
                made.files = [File::Closed; FDS];
                made.threads = [None; THREADS];
                made.files[0] = File::Connection(Fd { known: true, ..Fd::new(connection) });
                self.connections[usize::from(connection)].excused = true;
                None
            }
            Kind::Watch => {
                let epoll = b % 2;
                let made = self.processes[process].epolls & 1 << epoll != 0;
                self.processes[process].epolls |= 1 << epoll;
                let stale = self.processes[process].is_stale(fd);
                self.processes[process].unseen |= u32::from(stale) << connection;
                let fd_known = self.processes[process].fd_mut(fd)?;
                fd_known.watched |= 1 << epoll;
                fd_known.watched_by_both |= fd_known.watched == 3;
                let table = &self.processes[process].table;
                if !made && epoll == 0 {
                    // One epoll that is made and closed again and again takes only one place.
                    (0..64).for_each(|_| table.made_epoll(19));
                    table.made_epoll(20);
                }
                table.watched(fd as i32, 20 + i32::from(epoll));
                None
            }
            Kind::Again => {
                // Only a socket that is connected twice is entered twice at the same fd, and only if nobody has passed it
                // on or shut it down.
                let entry = self.processes[process].table.entry(fd as i32);
                let ours = entry.is_some_and(|entry| entry.phase == Phase::Ours);
                let stale = self.processes[process].is_stale(fd);
                let alone = self.processes[process].threads.iter().flatten().count() == 0;
                let again =
                    Op::Get { fd: fd as u8, connection, noted: None, found: None, got: Got::Connected };
                if ours && !given && !stale && alone && !self.processes[process].leaving {
                    self.connections[usize::from(connection)].passed = true;
                    // A program does not exit in the middle of this call.
                    return self.whole(process, again);
                }
                None
            }
            Kind::CloseOnExec if self.processes[process].leaving => None,
            Kind::CloseOnExec => {
                let fd = self.processes[process].fd_mut(fd)?;
                fd.cloexec = !fd.cloexec;
                None
            }
            Kind::RawClose => {
                self.excuse(process, fd);
                // The fd may become another file, or another connection, which a bare call has copied there.
                let other = self.choose(process, b).filter(|other| *other != fd);
                self.processes[process].files[fd] = match (b % 4, other) {
                    (0 | 1, _) | (2, None) => File::Closed,
                    (2, Some(other)) => {
                        let other = *self.processes[process].fd(other)?;
                        File::Connection(Fd { known: true, given: true, ..Fd::new(other.connection) })
                    }
                    _ => File::Other,
                };
                None
            }
            _ => None,
        }
    }

    /// From here on the process only closes all its fds of this connection.
    fn give(&mut self, process: usize, connection: u8) {
        for fd in 0..FDS {
            if let Some(known) = self.processes[process].fd_mut(fd)
                && known.connection == connection
            {
                known.given = true;
            }
        }
    }
}
