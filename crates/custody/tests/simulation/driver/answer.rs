//! How the driver answers the world's questions.

use std::time::Duration;

use linger_custody::Discarded;
use linger_custody::world::{Answer, Ask, Census, Cookie, Inode, Kept, ProcessFd, State, Tid};

use super::{AtHand, Driver, Fault, KeptFd, LIMITS, inode, pid};
use crate::kernel::{Call, Kernel, Thread};

/// A request at this luck or more is refused.
const UNLUCKY: u8 = 0xf0;

impl Driver {
    pub(super) fn answer(&mut self, kernel: &mut Kernel, ask: Ask) -> Result<Answer, Fault> {
        match ask {
            Ask::Which { inode, names } => self.which(kernel, inode, names),
            Ask::Census { copying } => self.look(kernel, &copying),
            Ask::Flights { copying, sending } => self.look_for_flights(kernel, &copying, &sending),
            Ask::Socket(kept) => self.ask_socket(kernel, kept),
            // This cannot be undone, and may be wrong because of calls that are not known yet.
            Ask::Discard(kept) | Ask::HandOver { kept, .. } if self.has_news(kernel) => {
                self.refuse(kernel, kept)
            }
            Ask::Discard(kept) => self.discard(kernel, kept),
            Ask::Unwatch(kept) => self.unwatch(kernel, kept),
            Ask::HandOver { kept, cookie, unread } => self.hand_over(kernel, kept, cookie, unread),
            Ask::HandOverShutdown { cookie, unread } => self.hand_over_shutdown(kernel, cookie, unread),
        }
    }

    fn which(&mut self, kernel: &Kernel, wanted: Inode, names: Vec<ProcessFd>) -> Result<Answer, Fault> {
        if names.is_empty() || names.len() > LIMITS.names {
            return Err(format!("asks for {} names", names.len()));
        }
        self.check_hints(kernel, Some(&names))?;
        self.asked_which = true;
        let names_it = |name: &ProcessFd| {
            let process = &kernel.processes[name.pid.0 as usize];
            !process.hidden
                && process.connections().any(|(fd, index)| fd == name.fd && inode(index) == wanted)
        };
        let name = names.into_iter().find(names_it);
        if name.is_some() {
            self.told.push(("remembered", State::Shared));
        }
        Ok(Answer::ProcessFd(name))
    }

    fn look(&mut self, kernel: &Kernel, copying: &[Tid]) -> Result<Answer, Fault> {
        if !copying.iter().all(|tid| self.copying.contains(tid)) {
            return Err("asks whether a thread copies that has made another call".into());
        }
        let is_clean = self
            .clean
            .is_some_and(|clean| self.about.is_none_or(|about| about >= clean && !self.is_suspect(about)));
        let is_full = self.may_add && self.world.remembered() >= self.room;
        if (is_clean && !self.has_news(kernel) || self.wants_room) && !is_full {
            return Err("looks at all fds, and nothing may have two".into());
        }
        self.check_mourns(kernel)?;
        if !is_full {
            self.check_hints(kernel, None)?;
            self.check_waits()?;
        }
        if kernel.is_calm() {
            self.clean = Some(kernel.connections.len());
        }
        let copying = within(kernel, copying, copies);
        let census = self.census(kernel);
        self.saw_copying |= !copying.is_empty();
        if !census.hidden {
            self.several.clear();
        }
        let several = census.names.iter().filter(|(_, names)| names.len() > 1);
        self.several.extend(several.map(|(inode, _)| *inode));
        self.stray &= census.hidden || !copying.is_empty();
        Ok(Answer::Census { copying, census })
    }

    /// A census. If calls were made that are not reported yet, it does not show their effects, and counts as hidden.
    fn census(&self, kernel: &Kernel) -> Census {
        let census = census(kernel);
        Census { hidden: census.hidden || self.has_news(kernel), ..census }
    }

    fn look_for_flights(
        &mut self,
        kernel: &Kernel,
        copying: &[Tid],
        sending: &[Tid],
    ) -> Result<Answer, Fault> {
        let took = Duration::from_micros(if self.luck & 3 == 0 { 10_000 } else { 100 });
        let confirms = self.check_waiting(kernel, copying, sending)?;
        self.kept.values_mut().for_each(|one| one.looks += 1);
        let copying = within(kernel, copying, copies);
        self.pace.looked(took, if copying.is_empty() { confirms } else { Some(false) }, self.now);
        Ok(Answer::Flights {
            copying,
            sending: within(kernel, sending, |call| matches!(call, Call::Send(..))),
            quiet: kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty)),
            census: self.census(kernel),
            took,
        })
    }

    fn ask_socket(&mut self, kernel: &Kernel, kept: Kept) -> Result<Answer, Fault> {
        let index = self.connection(kept)?;
        if self.kept[&kept].looks < 2 && self.told.last().is_some_and(|(what, _)| *what == "tick") {
            return Err(format!("connection {index} is over after one look since it was seen"));
        }
        let socket = kernel.connections[index].socket;
        if let Some(one) = self.kept.get_mut(&kept).filter(|one| one.name.is_none()) {
            one.unread = socket.unread;
        }
        Ok(Answer::Socket(socket))
    }

    fn discard(&self, kernel: &mut Kernel, kept: Kept) -> Result<Answer, Fault> {
        let index = self.connection(kept)?;
        Self::check_over(kernel, index, "discards")?;
        if self.luck & 7 == 7 {
            return Ok(Answer::Discarded(Discarded::Unable));
        }
        kernel.connections[index].socket.unread = 0;
        Ok(Answer::Discarded(match kernel.connections[index].socket {
            socket if socket.over => Discarded::Failed,
            socket if socket.peer_finished => Discarded::ToTheEnd,
            _ => Discarded::Unable,
        }))
    }

    fn unwatch(&mut self, kernel: &mut Kernel, kept: Kept) -> Result<Answer, Fault> {
        let refused = self.luck >= UNLUCKY || self.has_news(kernel);
        if !refused {
            self.check_unwatches(kernel, kept)?;
        }
        let KeptFd { connection, name, reported, closed, .. } =
            self.kept.get_mut(&kept).ok_or("unwatches what is not kept")?;
        let (process, _) = name.ok_or("unwatches what was held")?;
        if refused {
            *reported = true;
            kernel.connections[*connection].may_refuse = true;
            kernel.connections[*connection].early += u32::from(!*closed);
            return Ok(if self.has_news(kernel) { Answer::Unsure } else { Answer::Done(false) });
        }
        for epoll in kernel.processes[process].epolls() {
            kernel.connections[*connection].watched_by.remove(&epoll);
        }
        Ok(Answer::Done(true))
    }

    /// Refuses, because calls were continued since the holders of the connection were looked for.
    fn refuse(&self, kernel: &mut Kernel, kept: Kept) -> Result<Answer, Fault> {
        kernel.connections[self.connection(kept)?].may_refuse = true;
        Ok(Answer::Unsure)
    }

    fn hand_over(
        &mut self,
        kernel: &mut Kernel,
        kept: Kept,
        Cookie(told): Cookie,
        unread: u32,
    ) -> Result<Answer, Fault> {
        let index = self.connection(kept)?;
        if told != index as u64 {
            return Err(format!("hands over {told} for {index}"));
        }
        Self::check_over(kernel, index, "half-closes")?;
        self.check_unwatched(kernel, kept)?;
        let one = &self.kept[&kept];
        if unread != one.unread {
            return Err(format!("hands over with {unread} unread, which were {}", one.unread));
        }
        let connection = &mut kernel.connections[index];
        connection.handed += 1;
        connection.saves_unread += u32::from(unread > 0);
        if connection.handed > 1 && !connection.raced {
            return Err(format!("connection {index} is handed over twice"));
        }
        let taken = self.luck < UNLUCKY;
        connection.may_refuse |= !taken;
        connection.untaken = !taken;
        if taken {
            self.parted.push(index);
        }
        Ok(Answer::Done(taken))
    }

    fn hand_over_shutdown(
        &self,
        kernel: &mut Kernel,
        Cookie(told): Cookie,
        unread: u32,
    ) -> Result<Answer, Fault> {
        let AtHand { connection: index, unread: was_unread, .. } =
            self.at_hand.ok_or("shuts down, and no fd is at hand")?;
        let connection = &mut kernel.connections[index];
        if told != index as u64 || unread != was_unread {
            return Err(format!("hands over {told} with {unread} unread for {index}"));
        }
        if self.luck >= UNLUCKY {
            return Ok(Answer::Done(false));
        }
        connection.handed += 1;
        connection.saves_unread += u32::from(unread > 0);
        connection.by_shutdown = true;
        if connection.handed > 1 && !connection.raced {
            return Err(format!("connection {index} is handed over twice, by shutdown"));
        }
        Ok(Answer::Done(true))
    }

    fn connection(&self, kept: Kept) -> Result<usize, Fault> {
        Ok(self.kept.get(&kept).ok_or(format!("{kept:?} is not kept"))?.connection)
    }
}

/// The census: what is open in the processes that let their fds be looked at.
pub(super) fn census(kernel: &Kernel) -> Census {
    let mut census = Census::default();
    for (index, process) in kernel.processes.iter().enumerate() {
        if process.alive && process.hidden {
            census.hidden = true;
            continue;
        }
        for (fd, connection) in process.connections() {
            census.names.entry(inode(connection)).or_default().push(ProcessFd { pid: pid(index), fd });
        }
    }
    census
}

pub(super) fn copies(call: &Call) -> bool {
    matches!(call, Call::Dup(_) | Call::Dup2(..) | Call::Fork | Call::Vfork)
}

/// The threads that are within such a call, as `/proc/TID/syscall` shows it from the notification on.
pub(super) fn within(kernel: &Kernel, threads: &[Tid], is: fn(&Call) -> bool) -> Vec<Tid> {
    let in_it = |tid: &&Tid| match &kernel.processes[tid.0 as usize / 2].threads[tid.0 as usize % 2] {
        Thread::Notified(call) | Thread::Continued(call) => is(call),
        Thread::Forking(..) | Thread::WaitsFor(_) => is(&Call::Fork),
        _ => false,
    };
    threads.iter().filter(in_it).copied().collect()
}
