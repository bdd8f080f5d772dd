//! The supervisor's side of the messages: which connections it holds, and which of them it proves to have no holder.

use linger_custody::process::Last;
use linger_custody::proof::{Heirs, Sight, Standing, judge};
use linger_custody::world::{Pid, ProcessFd};
use linger_custody::{Count, Origin};

use super::kernel::{CONNECTIONS, FDS, Fault, File, PROCESSES, Process, World, has_name, pid};

/// A connection that a process has nominated, because it has closed its last fd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nominee {
    pub(crate) connection: u8,
    pub(crate) origin: Origin,
    /// The process got it in a message.
    pub(crate) received: bool,
    pub(crate) by: usize,
    pub(crate) unread: bool,
    /// Whether by a close, and not by the end of the process.
    pub(crate) closed: bool,
}

impl World {
    /// Called after the nominated fd was closed. Ends the connection if it is proved that nobody has it. A holder may
    /// be a program that knows nothing of the library.
    pub(crate) fn judge(&mut self, nominee: Nominee) {
        let Nominee { connection, unread, closed, .. } = nominee;
        let known = self.connections[usize::from(connection)];
        let elsewhere = known.supervised || self.processes.iter().any(|process| process.waits(connection));
        match if elsewhere { None } else { Some(self.standing(nominee)) } {
            None | Some(Standing::Held(_)) => {
                // A process that has passed the connection on does not report its own close.
                let given =
                    |process: &Process| process.fds().any(|fd| fd.connection == connection && fd.given);
                self.connections[usize::from(connection)].excused |= self.processes.iter().any(given);
                if closed {
                    self.count(Count::Seen, 1);
                    self.count(Count::Shared, 1);
                }
            }
            // It is being closed: the supervisor looks again.
            Some(Standing::Closing) => self.nominated.push(nominee),
            Some(Standing::Hidden(whose)) => {
                if !self.processes.iter().enumerate().any(|(at, process)| is(at, whose) && process.hidden) {
                    self.fail(Fault::Proof);
                }
                let known = &mut self.connections[usize::from(connection)];
                (known.unproved, known.excused) = (true, true);
                if closed {
                    self.count(Count::Seen, 1);
                    self.count(Count::Refused, 1);
                }
            }
            Some(Standing::Nobody) => {
                self.count(Count::Unread, i64::from(unread));
                self.connections[usize::from(connection)].supervised = true;
                self.seen(nominee.by, connection.into(), Count::Handed);
                if self.is_had(connection) && !known.shut {
                    self.fail(Fault::HalfClosed);
                }
            }
        }
    }

    /// What a look at the possible holders shows.
    fn standing(&mut self, nominee: Nominee) -> Standing {
        let Nominee { connection, origin, received, by, .. } = nominee;
        // A process that has got the connection from a message cannot know who else has it. After a bare close nobody
        // knows the origin. Another process that had the connection before may have shut it down.
        let known = &self.connections[usize::from(connection)];
        if (received || known.sent && !known.shut) && !known.excused && origin != Origin::UNKNOWN {
            self.fail(Fault::Proof);
        }
        let pids: Vec<Pid> = match self.family.heirs(origin, Pid(pid(by) as u32)) {
            Heirs::None => return Standing::Nobody,
            Heirs::Some(pids) => {
                if pids.iter().any(|heir| !self.may_have(connection, *heir, by)) {
                    self.fail(Fault::Proof);
                }
                pids
            }
            Heirs::All => {
                let known = &self.connections[usize::from(connection)];
                if !known.passed && has_name(usize::from(known.acceptor)) {
                    self.fail(Fault::Proof);
                }
                self.family.all().collect()
            }
        };
        let mut closing = Vec::new();
        let mut seen = Vec::new();
        for whose in pids {
            let process = (0..PROCESSES).find(|at| is(*at, whose) && self.processes[*at].alive);
            // The process has ended, or there never was one.
            let Some(process) = process else {
                self.fail(Fault::Proof);
                continue;
            };
            let process = &self.processes[process];
            let mut fds = Vec::new();
            for at in 0..FDS {
                if let File::Connection(fd) = process.files[at]
                    && fd.connection == connection
                {
                    fds.push(at as i32);
                    let name = ProcessFd { pid: whose, fd: at as i32 };
                    closing.extend(fd.closing.then_some(name));
                }
            }
            seen.push((whose, if process.hidden { Sight::Hidden } else { Sight::Fds(fds) }));
        }
        judge(&seen, &closing)
    }

    /// Whether a process can have inherited a connection: it was made after the accept, or it is the acceptor and
    /// another process nominates.
    fn may_have(&self, connection: u8, heir: Pid, by: usize) -> bool {
        let known = &self.connections[usize::from(connection)];
        (0..PROCESSES).filter(|at| is(*at, heir)).any(|at| {
            let process = &self.processes[at];
            let accepted = usize::from(known.acceptor) == at && at != by;
            process.alive && (accepted || process.made_ms >= known.accepted_ms)
        })
    }

    pub(crate) fn seen(&mut self, process: usize, connection: u64, reason: Count) {
        self.count(Count::Seen, 1);
        self.count(reason, 1);
        self.ended(process, connection, reason, 1);
    }

    pub(crate) fn unseen(&mut self, process: usize, connection: u64, reason: Count) {
        self.count(Count::Seen, -1);
        self.count(reason, -1);
        self.ended(process, connection, reason, -1);
    }

    pub(crate) fn count(&mut self, count: Count, number: i64) {
        self.counts[count as usize] += number;
    }

    /// Each process reports a close that loses nothing for itself, once.
    fn ended(&mut self, process: usize, connection: u64, reason: Count, number: i32) {
        let known = &mut self.connections[connection as usize];
        if reason == Count::Handed {
            known.ends += number;
            if known.ends > 1 {
                self.fail(Fault::EndedTwice);
            }
            return;
        }
        known.told += number;
        let counted = &mut self.processes[process].counted;
        let before = *counted & 1 << connection != 0;
        *counted ^= 1 << connection;
        if before == (number > 0) {
            self.fail(Fault::EndedTwice);
        }
    }

    /// `MessageKind::Last`: the supervisor ends it when the process ends.
    pub(crate) fn send_last(&mut self, process: usize, fd: usize, last: &Last) -> bool {
        // Another thread has put another connection at this fd. The supervisor sees that by the socket's cookie, and
        // drops the fd.
        if self.cookie(process, fd) != Some(last.cookie) {
            return true;
        }
        if last.held && self.processes[process].waiting & 1 << last.cookie == 0 {
            self.is_missing(last.cookie);
        }
        let sent = self.send_waiting(process, fd, last.origin);
        sent || last.held
    }

    /// `MessageKind::Hold`: the supervisor ends it when the process ends, unless it holds it for another process.
    pub(crate) fn send_waiting(&mut self, process: usize, fd: usize, origin: Origin) -> bool {
        let Some(connection) = self.processes[process].fd(fd).map(|fd| fd.connection) else { return false };
        if std::mem::take(&mut self.refuses) {
            self.refused |= 1 << connection;
            self.processes[process].kept |= 1 << connection;
            return false;
        }
        let process = &mut self.processes[process];
        process.waiting |= 1 << connection;
        process.kept &= !(1 << connection);
        process.origins[usize::from(connection)] = origin;
        true
    }

    /// `MessageKind::Release`, for what the supervisor holds for the process.
    pub(crate) fn release(&mut self, process: usize, cookie: u64) {
        // A `shutdown`, or a bare close, by another thread may come between what an `execve` has decided and what it says.
        let known = self.connection(cookie);
        let raced = (known.supervised || known.excused) && self.processes[process].leaving;
        if self.processes[process].waiting & 1 << cookie == 0 && !raced {
            self.fail(Fault::Missing);
        }
        self.processes[process].waiting &= !(1 << cookie);
    }

    /// `MessageKind::Close` or `MessageKind::Shutdown`, with an fd unless it is held.
    pub(crate) fn send_now(&mut self, process: usize, cookie: u64, held: bool) -> bool {
        if std::mem::take(&mut self.refuses) {
            // A connection that the supervisor holds is ended when the process ends.
            self.connection(cookie).excused |= held;
            self.processes[process].kept |= u32::from(held) << cookie;
            return false;
        }
        let waited = self.processes[process].waiting & 1 << cookie != 0;
        if held && !waited {
            self.is_missing(cookie);
        }
        self.processes[process].waiting &= !(1 << cookie);
        true
    }

    /// The supervisor does not hold it, unless it ends it already.
    pub(crate) fn is_missing(&mut self, cookie: u64) {
        let known = self.connection(cookie);
        if !known.supervised && !known.unproved {
            self.fail(Fault::Missing);
        }
    }

    /// The process has ended, or is another program. Judges the connections that the supervisor holds for it.
    pub(crate) fn hang_up(&mut self, process: usize) {
        let waiting = std::mem::take(&mut self.processes[process].waiting);
        for connection in (0..CONNECTIONS as u8).filter(|connection| waiting & 1 << connection != 0) {
            let unread = self.connections[usize::from(connection)].socket.unread > 0;
            let origin = self.processes[process].origins[usize::from(connection)];
            let received = self.processes[process].received & 1 << connection != 0;
            self.judge(Nominee { connection, origin, received, by: process, unread, closed: false });
        }
    }
}

fn is(process: usize, whose: Pid) -> bool {
    Pid(pid(process) as u32) == whose
}
