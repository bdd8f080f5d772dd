//! What the driver does for the world, and what it answers.

use std::time::Duration;

use linger_custody::Discarded;
use linger_custody::world::{Action, Answer, Ask, Census, Cookie, Kept, Name, Pid, Tid, Way};

use super::{AtHand, Driver, Fault, KeptFd, LIMITS, inode, pid};
use crate::kernel::{Call, Kernel, Thread};

/// What is asked with this luck or more is refused.
const UNLUCKY: u8 = 0xf0;

impl Driver {
    pub(super) fn perform(&mut self, kernel: &mut Kernel, action: Action) -> Result<(), Fault> {
        if self.tracing {
            eprintln!("      -> {action:?}");
        }
        match action {
            Action::Ask(ask) => {
                let answer = self.answer(kernel, ask)?;
                if self.tracing {
                    eprintln!("      <- {answer:?}");
                }
                self.told_at = self.now;
                self.world.answer(answer, self.now);
            }
            Action::Keep(kept) => {
                let AtHand { connection, name, unread, way, sole, serials, processes } =
                    self.at_hand.ok_or("keeps an fd, and none is at hand")?;
                let name = Some(name);
                self.kept.insert(
                    kept,
                    KeptFd {
                        connection,
                        name,
                        may_fail: matches!(way, Some(Way::Replace | Way::Exec)),
                        sole,
                        call: self.current.as_ref().map(|current| (current.thread, current.id)),
                        serials,
                        processes,
                        is_close: matches!(way, Some(Way::Replace | Way::Close)),
                        told_late: 0,
                        looked_for: 0,
                        unread,
                        closed: false,
                        open_since: None,
                        reported: false,
                        others: 0,
                    },
                );
            }
            Action::KeepHeld(kept, Cookie(index)) => {
                let connection = index as usize;
                if !self.held.remove(&connection) {
                    return Err(format!("connection {connection} is not held"));
                }
                self.kept.insert(
                    kept,
                    KeptFd {
                        connection,
                        name: None,
                        may_fail: false,
                        sole: false,
                        call: None,
                        serials: 0,
                        processes: 0,
                        is_close: false,
                        told_late: 0,
                        looked_for: 0,
                        unread: 0,
                        closed: true,
                        open_since: None,
                        reported: false,
                        others: 0,
                    },
                );
            }
            Action::Drop(kept) => {
                let one = self.kept.remove(&kept).ok_or(format!("{kept:?} is dropped and not kept"))?;
                self.check_dropped(kernel, &one)?;
            }
            Action::Release(Cookie(index)) => {
                if !self.held.remove(&(index as usize)) {
                    return Err(format!("connection {index} is released and not held"));
                }
            }
            Action::Watch(Pid(process)) => {
                self.watched.insert(process as usize);
            }
            Action::Hidden(Pid(process)) => {
                if !self.hidden.contains(&(process as usize)) || !self.named.insert(process as usize) {
                    return Err(format!("names process {process}, which can be looked at, or twice"));
                }
            }
            Action::Pretend => {
                let current = self.current.as_mut().ok_or("nothing to pretend")?;
                if std::mem::replace(&mut current.pretended, true)
                    || !matches!(current.call, Call::Shutdown(..))
                {
                    return Err("pretends what is no shutdown, or twice".into());
                }
            }
            Action::Count { cookie, reason, holder } => self.count(kernel, cookie, reason, holder)?,
        }
        Ok(())
    }

    fn answer(&mut self, kernel: &mut Kernel, ask: Ask) -> Result<Answer, Fault> {
        Ok(match ask {
            Ask::Which { inode: wanted, names } => {
                let names_it = |name: &Name| {
                    let process = &kernel.processes[name.pid.0 as usize];
                    !process.hidden
                        && process.connections().any(|(fd, index)| fd == name.fd && inode(index) == wanted)
                };
                if names.is_empty() || names.len() > LIMITS.names {
                    return Err(format!("asks for {} names", names.len()));
                }
                let name = names.into_iter().find(names_it);
                if name.is_some() {
                    self.told.push(("remembered", linger_custody::world::State::Shared));
                }
                Answer::Name(name)
            }
            Ask::Census { copying } => {
                if self.clean.is_some_and(|clean| self.about.is_none_or(|about| about >= clean)) {
                    return Err("looks at all fds, and nothing may have two".into());
                }
                let (copying, census) = (within(kernel, &copying, copies), census(kernel));
                if kernel.is_calm() {
                    self.clean = Some(kernel.connections.len());
                }
                Answer::Census { copying, census }
            }
            Ask::Flights { copying, sending } => {
                let quiet = kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
                let took = Duration::from_micros(if self.luck & 3 == 0 { 10_000 } else { 100 });
                let calls = within(kernel, &copying, copies);
                let confirms = self.check_waiting(kernel, &copying, &sending)?;
                self.pace.looked(took, if calls.is_empty() { confirms } else { Some(false) }, self.now);
                Answer::Flights {
                    copying: within(kernel, &copying, copies),
                    sending: within(kernel, &sending, |call| matches!(call, Call::Send(..))),
                    quiet,
                    census: census(kernel),
                    took,
                }
            }
            Ask::Socket(kept) => {
                let socket = kernel.connections[self.connection(kept)?].socket;
                if let Some(one) = self.kept.get_mut(&kept).filter(|one| one.name.is_none()) {
                    one.unread = socket.unread;
                }
                Answer::Socket(socket)
            }
            Ask::Discard(kept) => {
                let index = self.connection(kept)?;
                Self::check_over(kernel, index, "discards")?;
                if self.luck & 7 == 7 {
                    return Ok(Answer::Discarded(Discarded::Unable));
                }
                kernel.connections[index].socket.unread = 0;
                Answer::Discarded(match kernel.connections[index].socket {
                    socket if socket.over => Discarded::Failed,
                    socket if socket.peer_finished => Discarded::ToTheEnd,
                    _ => Discarded::Unable,
                })
            }
            Ask::Unwatch(kept) => {
                self.check_unwatches(kernel, kept)?;
                let refused = self.luck >= UNLUCKY;
                let KeptFd { connection, name, reported, closed, .. } =
                    self.kept.get_mut(&kept).ok_or("unwatches what is not kept")?;
                let (process, _) = name.ok_or("unwatches what was held")?;
                if refused {
                    *reported = true;
                    kernel.connections[*connection].may_refuse = true;
                    kernel.connections[*connection].early += u32::from(!*closed);
                    return Ok(Answer::Done(false));
                }
                for epoll in kernel.processes[process].epolls() {
                    kernel.connections[*connection].watched_by.remove(&epoll);
                }
                Answer::Done(true)
            }
            Ask::HandOver { kept, cookie: Cookie(told), unread } => {
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
                Answer::Done(taken)
            }
            Ask::HandOverShutdown { cookie: Cookie(told), unread } => {
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
                Answer::Done(true)
            }
        })
    }

    fn connection(&self, kept: Kept) -> Result<usize, Fault> {
        Ok(self.kept.get(&kept).ok_or(format!("{kept:?} is not kept"))?.connection)
    }
}

fn census(kernel: &Kernel) -> Census {
    let mut census = Census::default();
    for (index, process) in kernel.processes.iter().enumerate() {
        if process.alive && process.hidden {
            census.hidden = true;
            continue;
        }
        for (fd, connection) in process.connections() {
            census.names.entry(inode(connection)).or_default().push(Name { pid: pid(index), fd });
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
        Thread::WaitsFor(_) => true,
        _ => false,
    };
    threads.iter().filter(in_it).copied().collect()
}
