//! Forks, exits and execs: what concerns all fds of a process at once.

use linger_custody::process::{Close, Entry, Executes, Last, Phase};
use linger_custody::{Count, Fate};

use super::kernel::{FDS, Fault, Fd, File, Mode, THREADS, World};
use super::ops::{Op, PATIENCE};

impl World {
    pub(super) fn fork(&mut self, process: usize, begun: u8, fd: u8, child: usize) -> Option<Op> {
        if begun < 4 {
            return Some(Op::Fork { begun: self.begins(process, begun), fd, child: child as u8 });
        }
        let next = self.processes[process].table.fds(fd.into(), i32::MAX).next();
        if let Some(next) = next {
            let unhold = self.processes[process].table.prepare(next, self.shares());
            self.unhold(process, unhold);
            let given = |entry: Entry| entry.phase == Phase::Given;
            if self.words.len() < 2 && self.processes[process].table.entry(next).is_some_and(given) {
                // No counter is left, so nobody ends it.
                self.excuse(process, next as usize);
            }
            return Some(Op::Fork { begun, fd: next as u8 + 1, child: child as u8 });
        }
        if begun == 4 {
            self.make_child(process, child);
            return Some(Op::Fork { begun: 5, fd: FDS as u8, child: child as u8 });
        }
        self.processes[process].table.parent();
        for fd in 0..FDS {
            self.processes[process].fd_mut(fd).into_iter().for_each(|fd| fd.late = false);
        }
        None
    }

    /// Where a fork or an `execve` is that has not begun: at 4 it has. Those who wait for it, wait to its end.
    pub(super) fn begins(&mut self, process: usize, begun: u8) -> u8 {
        if self.processes[process].table.begins() { 4 } else { begun.max(1) }
    }

    fn make_child(&mut self, parent: usize, child: usize) {
        let table = self.processes[parent].table.forked();
        let mut files = self.processes[parent].files;
        // What no call had returned when the fork began, the child's program does not know.
        for (fd, file) in files.iter_mut().enumerate() {
            let busy = self.processes[parent].is_busy(fd);
            if let File::Connection(fd) = file {
                fd.known &= !busy && !fd.late;
                fd.late = false;
            }
        }
        // Who has an fd of what is passed on does not end it, nor say when it is gone.
        for fd in
            files.iter().filter_map(|file| if let File::Connection(fd) = file { Some(fd) } else { None })
        {
            self.connections[usize::from(fd.connection)].excused |= fd.given;
        }
        let (epolls, told) = (self.processes[parent].epolls, self.processes[parent].told);
        let made = &mut self.processes[child];
        debug_assert!(!made.alive);
        made.threads = [None; THREADS];
        (made.alive, made.foreign, made.leaving) = (true, false, false);
        (made.waiting, made.announced) = (0, 0);
        (made.table, made.files, made.epolls, made.told) = (table, files, epolls, told);
        made.table.child(child as i32);
        if !self.hold {
            return;
        }
        for fd in 0..FDS {
            let cookie = self.cookie(child, fd);
            let holds = self.processes[child].table.child_holds(fd as i32, cookie, self.shares());
            // As for the parent, not more; and not what is another's to end.
            let parent = self.processes[parent].waiting;
            let entry = self.processes[child].table.entry(fd as i32);
            let ours = entry.is_some_and(|entry| entry.phase == Phase::Ours);
            if holds && (!ours || cookie.is_none_or(|cookie| parent & 1 << cookie == 0)) {
                self.fail(Fault::Missing);
            }
            if holds && !self.send_waiting(child, fd) {
                self.processes[child].table.not_held(fd as i32);
            }
        }
    }

    /// The next tracked fd; announces it as the driver does.
    pub(super) fn exit(&mut self, process: usize, fd: u8, tries: u8) -> Option<Op> {
        let next = self.processes[process].table.fds(fd.into(), i32::MAX).next();
        let Some(next) = next else {
            self.end(process);
            return None;
        };
        let next = next as u8;
        let cookie = self.cookie(process, next.into());
        match self.ask(process, next, cookie, tries > PATIENCE) {
            Close::Wait => return Some(Op::Exit { fd: next, tries: tries + 1 }),
            Close::Leave => {}
            Close::Unhold(unhold) => self.unhold(process, Some(unhold)),
            Close::Shared(unhold) => self.unhold(process, unhold),
            Close::Handed(epolls, unhold) => {
                self.unwatch(process, next, epolls);
                self.unhold(process, unhold);
            }
            Close::Last(last) => drop(self.announce(process, next, last)),
        }
        Some(Op::Exit { fd: next + 1, tries: 0 })
    }

    fn announce(&mut self, process: usize, fd: u8, last: Last) -> Count {
        let reason = match self.settle(last.cookie).0 {
            Fate::Plain(reason) => reason,
            _ if self.send_last(process, fd.into(), &last) => Count::Handed,
            _ => Count::Refused,
        };
        if reason != Count::Handed {
            self.unhold(process, last.unhold());
        }
        self.seen(last.cookie, reason);
        reason
    }

    pub(super) fn exec(&mut self, process: usize, fd: u8, fails: bool, second: bool) -> Option<Op> {
        let next = self.processes[process].table.fds(fd.into(), i32::MAX).next();
        match next {
            Some(next) if !second => {
                if let Some(fd) = self.processes[process].fd(next as usize) {
                    let unhold = self.processes[process].table.will_close(next, fd.cloexec);
                    self.unhold(process, unhold);
                }
                Some(Op::Exec { begun: 4, fd: next as u8 + 1, fails, second })
            }
            None if !second => Some(Op::Exec { begun: 4, fd: 0, fails, second: true }),
            Some(next) => {
                let cookie = self.cookie(process, next as usize);
                match self.processes[process].table.executes(next, cookie, self.shares()) {
                    Executes::Leave => {}
                    Executes::Unhold(unhold) => self.unhold(process, Some(unhold)),
                    Executes::Last(last) => {
                        let reason = self.announce(process, next as u8, last);
                        self.processes[process].table.announced(next, reason);
                    }
                }
                Some(Op::Exec { begun: 4, fd: next as u8 + 1, fails, second })
            }
            None if fails => {
                self.exec_failed(process);
                None
            }
            None => {
                self.becomes_another_program(process);
                None
            }
        }
    }

    fn exec_failed(&mut self, process: usize) {
        for fd in 0..FDS {
            let cookie = self.cookie(process, fd);
            let back = self.processes[process].table.failed_to_execute(fd as i32, cookie, self.shares());
            self.unhold(process, back.unhold);
            if back.hold.is_some() && !self.send_waiting(process, fd) {
                self.processes[process].table.not_held(fd as i32);
            }
            let connection = self.processes[process].fd(fd).map(|fd| fd.connection);
            if let (Some(reason), Some(connection)) = (back.uncount, connection) {
                self.unseen(connection.into(), reason);
            }
        }
        self.processes[process].table.goes_on();
        // What the program still has was half-closed meanwhile.
        let wrong = (0..FDS).filter_map(|fd| self.processes[process].fd(fd)).any(|fd| {
            let known = &self.connections[usize::from(fd.connection)];
            known.half_closed && !known.shut && self.processes[process].has(fd.connection)
        });
        if wrong && self.mode == Mode::FailedExec {
            self.fail(Fault::HalfClosed);
        }
    }

    /// A successful `execve`: into a program without the library, which has what is not closed.
    fn becomes_another_program(&mut self, process: usize) {
        self.abandon(process);
        for fd in 0..FDS {
            match self.processes[process].fd(fd).copied() {
                Some(Fd { cloexec: false, .. }) => self.excuse(process, fd),
                _ => self.processes[process].files[fd] = File::Closed,
            }
        }
        self.processes[process].foreign = true;
        self.hang_up(process);
    }
}
