//! What the driver reports to the world, and when it continues the program's calls.

use std::collections::VecDeque;

use linger_custody::Rights;
use linger_custody::world::{Caller, Event, Kept, Open, Seen, State, Unseen, Way};

use super::answer::copies;
use super::check::PATIENCE;
use super::{AtHand, Driver, KeptFd, Notification, Telling, cookie, inode, pid, tid};
use crate::kernel::{Call, File, HIDDEN, Kernel, Thread};

impl Driver {
    pub(super) fn on(&mut self, what: &'static str, about: Option<usize>, event: Event<'_>) {
        self.about = about;
        self.closes = false;
        let is_clean = match event {
            Event::Died(_) | Event::Ended | Event::Hidden { .. } | Event::Lost(_) | Event::Unnotified => {
                false
            }
            Event::Appeared { open, hidden, .. } => open.is_empty() && !hidden,
            _ => true,
        };
        self.clean = self.clean.filter(|_| is_clean);
        let state = about.map_or(State::Unknown, |one| self.world.state(cookie(one)));
        (self.state, self.saw_copying, self.is_late) = (state, false, false);
        if !matches!(event, Event::Unnotified | Event::CaughtUp(_)) {
            self.told.push((what, state));
        }
        self.fault = about.and_then(|one| self.check_state(one, state).err());
        (self.told_at, self.asks) = (self.now, 0);
        if self.tracing {
            eprintln!("    {event:?} [{state:?}]");
        }
        self.stray |=
            matches!(event, Event::Copy { .. } | Event::Fork { alone: false, .. } | Event::Unnotified);
        self.wants_room = matches!(what, "copy" | "fork" | "appeared" | "shutdown");
        self.may_add =
            matches!(what, "fork" | "appeared" | "shutdown") || !matches!(state, State::Shared | State::Sent);
        self.silent = false;
        self.note_hints(&event);
        self.world.on(event, self.now);
    }

    pub(super) fn begin(&mut self, kernel: &Kernel, process: usize, thread: usize, call: Call) {
        self.on("calls", None, Event::Calls(tid(process, thread)));
        self.copying.remove(&tid(process, thread));
        if copies(&call) {
            self.copying.insert(tid(process, thread));
        }
        let mut rest = VecDeque::new();
        if !self.world.knows(pid(process)) {
            if self.known.contains(&process) {
                self.fault = Some(format!("process {process} is not known any more"));
            }
            self.watched.insert(process);
            rest.push_back(Telling::Appeared);
        }
        self.clean = self.clean.filter(|_| !call.gives() && !kernel.ever_hidden);
        let this = &kernel.processes[process];
        match &call {
            Call::Close(fd) => rest.push_back(Telling::Close(*fd, Way::Close)),
            Call::CloseRange(first, last) => {
                let fds = this.connections().map(|(fd, _)| fd).filter(|fd| (first..=last).contains(&fd));
                rest.extend(fds.map(|fd| Telling::Close(fd, Way::Close)));
            }
            Call::Dup(fd) => rest.push_back(Telling::Copy(*fd)),
            Call::Dup2(old, new) if old != new => {
                rest.push_back(Telling::Copy(*old));
                rest.push_back(Telling::Close(*new, Way::Replace));
            }
            Call::Dup2(..) | Call::Accept | Call::EpollCreate => {}
            Call::Shutdown(fd) => rest.push_back(Telling::Shutdown(*fd)),
            Call::Fork | Call::Vfork => rest.push_back(Telling::Fork),
            Call::Exec { .. } => {
                rest.extend(this.connections().map(|(fd, _)| Telling::Close(fd, Way::Exec)));
            }
            Call::Exit => rest.extend(this.connections().map(|(fd, _)| Telling::Close(fd, Way::Exit))),
            Call::Send(control, to) => {
                let fds = Rights::new(control);
                rest.extend(fds.map(|fd| Telling::Send(fd, to.is_none())));
            }
        }
        if this.hidden {
            rest.retain(|telling| !matches!(telling, Telling::Close(_, Way::Exit | Way::Exec)));
        }
        self.current = Some(Notification {
            process,
            thread,
            call,
            id: this.calls[thread],
            to_pretend: None,
            rest,
            pretended: false,
            told: Vec::new(),
        });
    }

    pub(super) fn tell_next(&mut self, kernel: &mut Kernel) {
        let Some(current) = &mut self.current else { return };
        let (process, thread) = (current.process, current.thread);
        let caller = Caller { pid: pid(process), tid: tid(process, thread) };
        let this = &kernel.processes[process];
        let waits = matches!(this.threads[thread], Thread::Notified(_)) && this.calls[thread] == current.id;
        let Some(telling) = current.rest.pop_front().filter(|_| waits) else {
            return self.reply(kernel, waits);
        };
        match telling {
            Telling::Appeared | Telling::Fork => self.tell_process(kernel, process, caller, telling),
            _ if this.hidden => self.tell_hidden(process, telling),
            Telling::Copy(fd) | Telling::Close(fd, _) | Telling::Shutdown(fd) | Telling::Send(fd, _) => {
                if let Some(File::Connection(index)) = this.file(fd) {
                    self.tell_fd(kernel, (process, fd), index, caller, telling);
                }
            }
        }
    }

    /// Reports an event of a process, with all sockets that it has open.
    fn tell_process(&mut self, kernel: &Kernel, process: usize, caller: Caller, telling: Telling) {
        let this = &kernel.processes[process];
        let known = |(fd, index)| Open {
            fd,
            inode: inode(index),
            cookie: (!self.world.shares(inode(index))).then_some(cookie(index)),
        };
        let open: Vec<Open> = this.connections().filter(|_| !this.hidden).map(known).collect();
        let about = this.connections().next().map(|(_, index)| index);
        let (hidden, alone) = (this.hidden, this.single);
        if hidden {
            self.hidden.insert(process);
        }
        if let Telling::Fork = telling {
            self.on("fork", about, Event::Fork { caller, open: &open, hidden, alone });
        } else {
            self.known.insert(process);
            self.on("appeared", about, Event::Appeared { caller, open: &open, hidden });
        }
    }

    /// Reports what a process does that cannot be looked at.
    fn tell_hidden(&mut self, process: usize, telling: Telling) {
        if let Some(current) = &mut self.current {
            // `pidfd_getfd` is refused before it looks whether there is such an fd.
            current.told.push(HIDDEN);
        }
        let does = match telling {
            Telling::Copy(_) => Unseen::Copies,
            Telling::Send(..) => Unseen::Sends,
            Telling::Close(..) => Unseen::Closes,
            _ => return,
        };
        self.hidden.insert(process);
        if does == Unseen::Closes {
            self.closed_unseen.insert(process);
        }
        self.opaque |= does == Unseen::Sends;
        self.on("hidden", None, Event::Hidden { pid: pid(process), does });
    }

    /// Reports what is about to happen to the fd of a connection.
    fn tell_fd(
        &mut self,
        kernel: &mut Kernel,
        name: (usize, i32),
        index: usize,
        caller: Caller,
        telling: Telling,
    ) {
        let Some(current) = &mut self.current else { return };
        let (process, fd) = name;
        let socket = kernel.connections[index].socket;
        self.at_hand = Some(AtHand {
            connection: index,
            name,
            unread: socket.unread,
            way: if let Telling::Close(_, way) = telling { Some(way) } else { None },
            sole: kernel.is_sole(index),
            serials: kernel.serials,
            processes: kernel.processes.len(),
        });
        current.told.push((fd, index, kernel.processes[process].serial(fd)));
        if let Telling::Close(..) | Telling::Send(..) = telling {
            // The connection is in use again: earlier looks prove nothing any more.
            let same = self.kept.values_mut().filter(|one| one.connection == index);
            same.for_each(|one| (one.looked_for, one.looks) = (0, 0));
        }
        let seen = Seen { fd, cookie: cookie(index), inode: inode(index), socket };
        match telling {
            Telling::Copy(_) => self.on("copy", Some(index), Event::Copy { caller, seen }),
            Telling::Close(_, way) => {
                let what = match way {
                    Way::Close => "close",
                    Way::Replace => "replace",
                    Way::Exit => "exit",
                    Way::Exec => "exec",
                };
                let connection = &mut kernel.connections[index];
                connection.arrived |= connection.receivers & (1 << process) != 0 && connection.counted == 0;
                self.on(what, Some(index), Event::Close { caller, seen, way });
            }
            Telling::Shutdown(_) => {
                let loses = !socket.aborts && !socket.over && (!socket.peer_finished || socket.unread > 0);
                current.to_pretend = Some(index).filter(|_| loses);
                self.on("shutdown", Some(index), Event::Shutdown(seen));
            }
            Telling::Send(_, abroad) => {
                // Nobody will know whether it arrived.
                kernel.connections[index].sent_unseen |= abroad;
                let known = self.known.iter().fold(0, |bits, process| bits | 1_u8 << process);
                let unsure = kernel.ever_hidden || self.is_unheard() || self.has_news(kernel);
                let connection = &mut kernel.connections[index];
                let is_first = !std::mem::replace(&mut connection.told_sent, true);
                connection.receivers =
                    if is_first && !abroad && !unsure { known & !connection.has } else { 0 };
                connection.arrived = false;
                self.on("send", Some(index), Event::Send { caller, seen, abroad });
            }
            Telling::Appeared | Telling::Fork => {}
        }
    }

    /// Continues the call.
    fn reply(&mut self, kernel: &mut Kernel, waits: bool) {
        let Some(current) = self.current.take() else { return };
        if !waits {
            return;
        }
        let Notification { process, thread, call, id, pretended, told, to_pretend, .. } = current;
        self.fault = self.check_reported(kernel, process, (thread, id)).err();
        if let (Call::Shutdown(_), Some(index)) = (&call, to_pretend) {
            let handed = kernel.connections[index].by_shutdown;
            if handed != pretended {
                self.fault = Some(format!(
                    "shutdown of connection {index}: pretended {pretended}, handed over {handed}"
                ));
            }
        }
        kernel.processes[process].told[thread] = told;
        let state = &mut kernel.processes[process].threads[thread];
        *state = if pretended { Thread::Idle } else { Thread::Continued(call.clone()) };
        if call == Call::Accept && self.hold {
            // The driver accepts the connection itself, and gives it to the program.
            *state = Thread::Idle;
            if let Some(index) = kernel.accept(process) {
                let accepted =
                    Event::Accepted { cookie: cookie(index), inode: inode(index), pid: pid(process) };
                self.on("accepted", Some(index), accepted);
                self.held.insert(index);
            }
        }
    }

    /// Looks whether the program's fd still names a kept connection.
    pub(super) fn look_at(&mut self, kernel: &mut Kernel, kept: Kept) {
        let Some(KeptFd { connection, name: Some((process, fd)), .. }) = self.kept.get(&kept) else { return };
        let (connection, process, fd) = (*connection, *process, *fd);
        let this = &kernel.processes[process];
        if this.alive && this.hidden {
            self.hidden.insert(process);
            self.closed_unseen.insert(process);
            kernel.connections[connection].lost |= this.file(fd) != Some(File::Connection(connection));
            self.on("lost", Some(connection), Event::Lost(kept));
        } else if this.file(fd) == Some(File::Connection(connection)) {
            if let Some(one) = self.kept.get_mut(&kept) {
                let since = *one.open_since.get_or_insert(self.now);
                one.told_late += u32::from(self.now.saturating_sub(since) > PATIENCE);
            }
            self.on("still open", Some(connection), Event::StillOpen(kept));
            self.is_late = true;
        } else {
            let is_other = |one: &&KeptFd| one.connection == connection && !one.closed;
            let alone = self.kept.values().filter(is_other).count() == 1;
            if let Some(one) = self.kept.get_mut(&kept) {
                one.closed = true;
                one.looks = 0;
                one.others = if alone { kernel.others(connection, process) } else { 0 };
            }
            self.on("closed", Some(connection), Event::Closed(kept));
            self.closes = self.kept.get(&kept).is_some_and(|one| one.is_close);
        }
    }
}
