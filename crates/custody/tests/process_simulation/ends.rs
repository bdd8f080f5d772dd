//! Forks, exits and execs: what concerns all fds of a process at once.

use linger_custody::process::{Close, Executes, Last, Phase};
use linger_custody::{Count, Origin};

use super::kernel::{FDS, Fault, Fd, File, THREADS, World, pid};
use super::ops::Op;

impl World {
    /// The state of a waiting `execve`: 4 once it has begun. Others wait until it has ended.
    pub(super) fn begins(&mut self, process: usize, begun: u8) -> u8 {
        if self.processes[process].table.begins() { 4 } else { begun.max(1) }
    }

    pub(super) fn make_child(&mut self, parent: usize, child: usize) {
        let table = self.processes[parent].table.forked();
        let mut files = self.processes[parent].files;
        // The child does not know a connection whose call had not returned when the fork began.
        for (fd, file) in files.iter_mut().enumerate() {
            let busy = self.processes[parent].is_busy(fd);
            if let File::Connection(fd) = file {
                fd.known &= !busy;
                // The child still has an fd that another thread of the parent is about to close by an `execve`.
                fd.closing = false;
            }
        }
        // A process that has inherited an fd of a connection that was passed on does not end the connection, and does
        // not report its own close.
        for fd in
            files.iter().filter_map(|file| if let File::Connection(fd) = file { Some(fd) } else { None })
        {
            self.connections[usize::from(fd.connection)].excused |= fd.given;
        }
        // The child may have an fd by chance, because the fork came in the middle of another thread's call, or an fd
        // that its parent's table does not know. It cannot report the close of such an fd.
        let parent_of = &self.processes[parent];
        let by_chance = |fd: &usize| {
            parent_of.is_busy(*fd) || !parent_of.table.is_tracked(*fd as i32) || parent_of.is_stale(*fd)
        };
        let by_chance: Vec<usize> = (0..FDS).filter(by_chance).collect();
        by_chance.into_iter().for_each(|fd| self.excuse(parent, fd));
        let (epolls, told) = (self.processes[parent].epolls, self.processes[parent].told);
        let (stray, unseen) = (self.processes[parent].stray, self.processes[parent].unseen);
        let (handed, received) = (self.processes[parent].handed, self.processes[parent].received);
        let made = &mut self.processes[child];
        debug_assert!(!made.alive);
        made.threads = [None; THREADS];
        (made.alive, made.foreign, made.hidden, made.leaving) = (true, false, false, false);
        (made.waiting, made.kept, made.counted) = (0, 0, 0);
        (made.handed, made.received) = (handed, received);
        (made.table, made.files, made.epolls, made.told) = (table, files, epolls, told);
        (made.stray, made.unseen) = (stray, unseen);
        made.table.child(pid(child));
        self.born(child);
        if !self.hold {
            return;
        }
        let executes = |op: &Op| matches!(op, Op::Exec { .. });
        let executes = self.processes[parent].threads.iter().flatten().any(executes);
        for fd in 0..FDS {
            let cookie = self.cookie(child, fd);
            let holds = self.processes[child].table.child_holds(fd as i32, cookie);
            // The supervisor holds for the child what it holds for the parent, unless an `execve` has made the parent
            // drop it. It does not hold connections that another process is to end.
            let held = self.processes[parent].table.entry(fd as i32).is_some_and(|entry| entry.held);
            let entry = self.processes[child].table.entry(fd as i32);
            let ours = entry.is_some_and(|entry| entry.phase == Phase::Ours);
            if holds && (!(held || executes) || !ours || cookie.is_none()) {
                self.fail(Fault::Missing);
            }
            if holds {
                self.hold_again(child, fd);
            }
        }
    }

    fn hold_again(&mut self, process: usize, fd: usize) {
        let entry = self.processes[process].table.entry(fd as i32);
        let origin = entry.map_or(Origin::UNKNOWN, |entry| entry.origin);
        if !self.send_waiting(process, fd, origin) {
            self.processes[process].table.not_held(fd as i32);
        }
    }

    /// The next tracked fd; announces it as the driver does.
    pub(super) fn exit(&mut self, process: usize, fd: u8) -> Option<Op> {
        let next = self.processes[process].table.fds(fd.into(), i32::MAX).next();
        let Some(next) = next else {
            self.end(process);
            return None;
        };
        let next = next as u8;
        let cookie = self.cookie(process, next.into());
        match self.ask(process, next, cookie) {
            Close::Leave => {}
            Close::Unhold(unhold) => self.unhold(process, Some(unhold)),
            Close::Handed(epolls) => {
                self.unwatch(process, next, epolls);
            }
            Close::Last(last) => drop(self.announce(process, next, last)),
        }
        Some(Op::Exit { fd: next + 1 })
    }

    fn announce(&mut self, process: usize, fd: u8, last: Last) -> Count {
        let reason = match self.settle(last.cookie) {
            Err(reason) => reason,
            Ok(_) if self.send_last(process, fd.into(), &last) => return Count::Handed,
            Ok(_) => Count::Refused,
        };
        self.unhold(process, last.unhold());
        self.seen(process, last.cookie, reason);
        reason
    }

    pub(super) fn exec(
        &mut self,
        process: usize,
        fd: u8,
        fails: bool,
        second: bool,
        last: Option<Last>,
    ) -> Option<Op> {
        let goes_on = |fd| Some(Op::Exec { begun: 4, fd, fails, second, last: None });
        if let Some(last) = last {
            let reason = self.announce(process, fd, last);
            self.processes[process].table.announced(fd.into(), reason);
            return goes_on(fd + 1);
        }
        let next = self.processes[process].table.fds(fd.into(), i32::MAX).next();
        match next {
            Some(next) if !second => {
                if let Some(fd) = self.processes[process].fd(next as usize) {
                    let unhold = self.processes[process].table.will_close(next, fd.cloexec);
                    self.unhold(process, unhold);
                }
                goes_on(next as u8 + 1)
            }
            None if !second => Some(Op::Exec { begun: 4, fd: 0, fails, second: true, last: None }),
            Some(next) => {
                let cookie = self.cookie(process, next as usize);
                match self.processes[process].table.executes(next, cookie) {
                    Executes::Leave => {}
                    Executes::Unhold(unhold) => self.unhold(process, Some(unhold)),
                    Executes::Last(last) => {
                        let last = Some(last);
                        return Some(Op::Exec { begun: 4, fd: next as u8, fails, second, last });
                    }
                }
                goes_on(next as u8 + 1)
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
            let back = self.processes[process].table.failed_to_execute(fd as i32, cookie);
            self.unhold(process, back.unhold);
            if back.hold.is_some() {
                self.hold_again(process, fd);
            }
            let connection = self.processes[process].fd(fd).map(|fd| fd.connection);
            let told = back.uncount.filter(|reason| *reason != Count::Handed);
            if let (Some(reason), Some(connection)) = (told, connection) {
                self.unseen(process, connection.into(), reason);
            }
        }
        self.processes[process].table.goes_on();
    }

    /// After a successful `execve` the process is a program without the library, with the fds that were not closed.
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
