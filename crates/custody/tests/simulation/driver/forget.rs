//! Nothing is remembered for ever: the next census removes connections that are gone, and it does come.

use linger_custody::Socket;
use linger_custody::world::{Action, Answer, Ask, Caller, Cookie, Event, Inode, ProcessFd, Seen, State, Way};

use super::answer::census;
use super::{Driver, Fault, cookie, inode, pid, tid};
use crate::kernel::Kernel;

/// Cookies and inodes that no connection of a schedule has.
const OTHERS: u64 = 1_000;

impl Driver {
    /// After the end another process calls `shutdown` on connections of its own until there is a census. Then nothing
    /// of the schedule may be remembered.
    pub(super) fn check_forgotten(&mut self, kernel: &Kernel) -> Result<(), Fault> {
        let mut own: Vec<Seen> = Vec::new();
        let mut looked = false;
        while !looked {
            let id = OTHERS + own.len() as u64;
            let socket = Socket::default();
            let seen = Seen { fd: own.len() as i32, cookie: Cookie(id), inode: Inode(id), socket };
            own.push(seen);
            self.world.on(Event::Shutdown(seen), self.now);
            self.asks = 0;
            while let Some(action) = self.world.next() {
                if matches!(action, Action::Ask(_)) {
                    self.check_asks()?;
                }
                match action {
                    Action::Ask(Ask::Census { .. }) => {
                        let mut census = census(kernel);
                        for one in &own {
                            let name = ProcessFd { pid: pid(kernel.processes.len()), fd: one.fd };
                            census.names.entry(one.inode).or_default().push(name);
                        }
                        looked = true;
                        self.world.answer(Answer::Census { copying: Vec::new(), census }, self.now);
                    }
                    Action::Ask(Ask::HandOverShutdown { .. }) => {
                        self.world.answer(Answer::Done(true), self.now)
                    }
                    _ => {}
                }
            }
            if !looked && own.len() > self.room {
                return Err("remembers more and more, and does not look".into());
            }
        }
        for (index, connection) in kernel.connections.iter().enumerate() {
            let state = self.world.state(cookie(index));
            // A message that never arrived may be in a program that still has it.
            let may_be_sent = connection.told_sent || self.opaque;
            if !matches!(state, State::Unknown | State::Ended) && !may_be_sent {
                return Err(format!("connection {index} is gone, and remembered as {state:?}"));
            }
        }
        let still = own.iter().filter(|one| self.world.state(one.cookie) == State::ShutDown).count();
        if still != own.len() {
            return Err(format!("forgets {} connections that somebody has", own.len() - still));
        }
        self.check_given_again(kernel)
    }

    /// The inode of a connection that is gone is given again: to close the new one with it takes no look.
    fn check_given_again(&mut self, kernel: &Kernel) -> Result<(), Fault> {
        let process = kernel.processes.len();
        let caller = Caller { pid: pid(process), tid: tid(process, 0) };
        for (index, connection) in kernel.connections.iter().enumerate() {
            if connection.told_sent || self.opaque {
                continue;
            }
            let socket = Socket { peer_finished: true, ..Socket::default() };
            let new = Cookie(2 * OTHERS + index as u64);
            let seen = Seen { fd: 0, cookie: new, inode: inode(index), socket };
            self.world.on(Event::Close { caller, seen, way: Way::Close }, self.now);
            while let Some(action) = self.world.next() {
                if !matches!(action, Action::Count { .. }) {
                    return Err(format!("another connection has the inode of {index}: {action:?}"));
                }
            }
        }
        Ok(())
    }
}
