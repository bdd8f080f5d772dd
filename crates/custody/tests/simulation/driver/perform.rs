//! What the driver does for the world, and what it answers.

use std::time::Duration;

use linger_custody::Discarded;
use linger_custody::world::{Action, Answer, Ask, Census, Cookie, Kept, Name, Pid, Tid};

use super::{Driver, Fault, KeptFd, LIMITS, inode, pid};
use crate::kernel::{Call, Kernel, Thread};

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
                self.world.answer(answer, self.now);
            }
            Action::Keep(kept) => {
                let (connection, name, unread, may_fail) =
                    self.at_hand.ok_or("keeps an fd, and none is at hand")?;
                let name = Some(name);
                self.kept.insert(
                    kept,
                    KeptFd {
                        connection,
                        name,
                        may_fail,
                        told_late: 0,
                        looked_for: 0,
                        unread,
                        closed: false,
                        open_since: None,
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
                        told_late: 0,
                        looked_for: 0,
                        unread: kernel.connections[connection].socket.unread,
                        closed: true,
                        open_since: None,
                    },
                );
            }
            Action::Drop(kept) => {
                self.kept.remove(&kept).ok_or(format!("{kept:?} is dropped and not kept"))?;
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
                if !kernel.processes[process as usize].hidden_once {
                    return Err(format!("names process {process}, which can be looked at"));
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
                Answer::Name(names.into_iter().find(names_it))
            }
            Ask::Census { copying } => {
                Answer::Census { copying: within(kernel, &copying, copies), census: census(kernel) }
            }
            Ask::Flights { copying, sending } => {
                let quiet = kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
                self.looks.push(self.now);
                self.check_waiting(kernel, &copying, &sending)?;
                Answer::Flights {
                    copying: within(kernel, &copying, copies),
                    sending: within(kernel, &sending, |call| matches!(call, Call::Send(..))),
                    quiet,
                    census: census(kernel),
                    took: Duration::from_micros(100),
                }
            }
            Ask::Socket(kept) => Answer::Socket(kernel.connections[self.connection(kept)?].socket),
            Ask::Discard(kept) => {
                let index = self.connection(kept)?;
                Self::check_over(kernel, index, "discards")?;
                kernel.connections[index].socket.unread = 0;
                Answer::Discarded(match kernel.connections[index].socket {
                    socket if socket.over => Discarded::Failed,
                    socket if socket.peer_finished => Discarded::ToTheEnd,
                    _ => Discarded::Unable,
                })
            }
            Ask::Unwatch(kept) => {
                let KeptFd { connection, name, .. } =
                    self.kept.get(&kept).ok_or("unwatches what is not kept")?;
                let (process, _) = name.ok_or("unwatches what was held")?;
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
                if one.name.is_some() && unread != one.unread {
                    return Err(format!("hands over with {unread} unread, which were {}", one.unread));
                }
                let connection = &mut kernel.connections[index];
                connection.handed += 1;
                if connection.handed > 1 && !connection.raced {
                    return Err(format!("connection {index} is handed over twice"));
                }
                Answer::Done(true)
            }
            Ask::HandOverShutdown { cookie: Cookie(told), unread } => {
                let (index, _, was_unread, _) = self.at_hand.ok_or("shuts down, and no fd is at hand")?;
                let connection = &mut kernel.connections[index];
                if told != index as u64 || unread != was_unread {
                    return Err(format!("hands over {told} with {unread} unread for {index}"));
                }
                connection.handed += 1;
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
