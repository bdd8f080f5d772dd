//! Forks, exits and execs: what concerns all fds of a process at once.

use linger_custody::Count;
use linger_custody::process::{Close, Executes, Last, Phase};

use super::kernel::{FDS, Fault, Fd, File, THREADS, World};
use super::ops::Op;

impl World {
    /// Where an `execve` is that has not begun: at 4 it has. Those who wait for it, wait to its end.
    pub(super) fn begins(&mut self, process: usize, begun: u8) -> u8 {
        if self.processes[process].table.begins() { 4 } else { begun.max(1) }
    }

    pub(super) fn make_child(&mut self, parent: usize, child: usize) {
        let table = self.processes[parent].table.forked();
        let mut files = self.processes[parent].files;
        // What no call had returned when the fork began, the child's program does not know.
        for (fd, file) in files.iter_mut().enumerate() {
            let busy = self.processes[parent].is_busy(fd);
            if let File::Connection(fd) = file {
                fd.known &= !busy;
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
        // What it has by chance, from the middle of a call of another thread, it cannot say that it has let go of.
        let child_of = &self.processes[child];
        let by_chance = |fd: &usize| !child_of.table.is_tracked(*fd as i32) || child_of.is_stale(*fd);
        let by_chance: Vec<usize> = (0..FDS).filter(by_chance).collect();
        by_chance.into_iter().for_each(|fd| self.excuse(child, fd));
        if !self.hold {
            return;
        }
        for fd in 0..FDS {
            let cookie = self.cookie(child, fd);
            let holds = self.processes[child].table.child_holds(fd as i32, cookie);
            // Not what is another's to end.
            let entry = self.processes[child].table.entry(fd as i32);
            let ours = entry.is_some_and(|entry| entry.phase == Phase::Ours);
            if holds && (!ours || cookie.is_none()) {
                self.fail(Fault::Missing);
            }
            if holds && !self.send_waiting(child, fd) {
                self.processes[child].table.not_held(fd as i32);
            }
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
            Close::Handed(epolls, unhold) => {
                self.unwatch(process, next, epolls);
                self.unhold(process, unhold);
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
                match self.processes[process].table.executes(next, cookie) {
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
            let back = self.processes[process].table.failed_to_execute(fd as i32, cookie);
            self.unhold(process, back.unhold);
            if back.hold.is_some() && !self.send_waiting(process, fd) {
                self.processes[process].table.not_held(fd as i32);
            }
            let connection = self.processes[process].fd(fd).map(|fd| fd.connection);
            let told = back.uncount.filter(|reason| *reason != Count::Handed);
            if let (Some(reason), Some(connection)) = (told, connection) {
                self.unseen(connection.into(), reason);
            }
        }
        self.processes[process].table.goes_on();
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
