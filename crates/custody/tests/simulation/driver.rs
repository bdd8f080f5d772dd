//! The supervisor's driver over the simulated kernel: what it is told, it is told as the real one is, and what it does
//! takes as many steps, between which the program goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use linger_custody::world::{
    Action, Answer, Ask, Caller, Census, Cookie, Event, Inode, Kept, Limits, Name, Open, Pid, Seen, Tid, Way,
    World,
};
use linger_custody::{Count, Discarded, Rights};

use crate::kernel::{Call, End, File, HIDDEN, Kernel, Thread};

/// What went wrong.
pub(crate) type Fault = String;

/// Small, so that every limit is met.
const LIMITS: Limits = Limits { shared: 2, names: 2, lately: 6, in_flight: 1 };

/// A notification that is being dealt with.
#[derive(Debug)]
struct Notification {
    process: usize,
    thread: usize,
    call: Call,
    /// What is still to be told, in order.
    rest: VecDeque<Telling>,
    pretended: bool,
    told: Vec<(i32, usize)>,
}

#[derive(Clone, Copy, Debug)]
enum Telling {
    Appeared,
    Fork,
    Copy(i32),
    Close(i32, Way),
    Shutdown(i32, bool),
    Send(i32, bool),
}

#[derive(Debug)]
struct KeptFd {
    connection: usize,
    /// The program's fd; `None` for what was held.
    name: Option<(usize, i32)>,
    /// The call that was to close it may fail.
    may_fail: bool,
    /// How often it was said to be open still when the patience had ended.
    told_late: u32,
    /// Looks in a row that found nobody who has it, nor a call that may give it to somebody.
    looked_for: u32,
    /// Unread bytes when it was kept.
    unread: u32,
    /// The fd was seen to be gone.
    closed: bool,
    open_since: Option<Duration>,
}

pub(crate) struct Driver {
    pub(crate) world: World,
    pub(crate) now: Duration,
    hold: bool,
    current: Option<Notification>,
    /// The fd of the event that is being told.
    at_hand: Option<(usize, (usize, i32), u32, bool)>,
    kept: BTreeMap<Kept, KeptFd>,
    held: BTreeSet<usize>,
    watched: BTreeSet<usize>,
    known: BTreeSet<usize>,
    counts: [u64; Count::ALL],
    ended: bool,
    /// The world has nothing more to say of what it was told.
    silent: bool,
    looks: Vec<Duration>,
    pub(crate) told: Vec<(&'static str, linger_custody::world::State)>,
    pub(crate) tracing: bool,
}

fn pid(process: usize) -> Pid {
    Pid(process as u32)
}

fn tid(process: usize, thread: usize) -> Tid {
    Tid((process * 2 + thread) as u32)
}

fn cookie(connection: usize) -> Cookie {
    Cookie(connection as u64)
}

fn inode(connection: usize) -> Inode {
    // Unlike a cookie, so that one taken for the other is a fault.
    Inode(100 - connection as u64)
}

impl Driver {
    pub(crate) fn new(hold: bool) -> Self {
        Self {
            world: World::new(LIMITS),
            now: Duration::ZERO,
            hold,
            current: None,
            at_hand: None,
            kept: BTreeMap::new(),
            held: BTreeSet::new(),
            watched: BTreeSet::new(),
            known: BTreeSet::new(),
            counts: [0; Count::ALL],
            ended: false,
            silent: true,
            looks: Vec::new(),
            told: Vec::new(),
            tracing: false,
        }
    }

    /// Does one thing; whether there was any to do. `choice` decides which, where there are several.
    pub(crate) fn step(&mut self, kernel: &mut Kernel, choice: u8) -> Result<bool, Fault> {
        if let Some(action) = self.world.next() {
            self.perform(kernel, action)?;
            return Ok(true);
        }
        self.silent = true;
        self.at_hand = None;
        if self.current.is_some() {
            self.tell_next(kernel);
            return Ok(true);
        }
        let notified = kernel.processes.iter().enumerate().flat_map(|(process, one)| {
            let threads = one.threads.iter().enumerate();
            threads.filter_map(move |(thread, state)| match state {
                Thread::Notified(call) => Some((process, thread, call.clone())),
                _ => None,
            })
        });
        let notified: Vec<_> = notified.collect();
        let dead: Vec<usize> =
            self.watched.iter().copied().filter(|process| !kernel.processes[*process].alive).collect();
        let called: Vec<Kept> =
            self.kept.iter().filter(|(_, one)| !one.closed).map(|(kept, _)| *kept).collect();
        let choices = notified.len() + dead.len() + called.len() + 1;
        let mut choice = usize::from(choice) % choices;
        if let Some((process, thread, call)) = notified.get(choice) {
            self.begin(kernel, *process, *thread, call.clone());
            return Ok(true);
        }
        choice -= notified.len();
        if let Some(process) = dead.get(choice) {
            self.watched.remove(process);
            self.on("died", None, Event::Died(pid(*process)));
            return Ok(true);
        }
        choice -= dead.len();
        if let Some(kept) = called.get(choice) {
            self.look_at(kernel, *kept);
            return Ok(true);
        }
        let due = self.world.due().is_some_and(|due| due <= self.now);
        if due {
            self.on("tick", None, Event::Tick);
        }
        Ok(due)
    }

    /// Whether there is anything left to do without the program.
    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some() || !self.kept.is_empty() || !self.held.is_empty()
    }

    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.on("ended", None, Event::Ended);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn is_held(&self) -> bool {
        self.hold
    }

    /// Whether nothing is being dealt with.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.silent && self.current.is_none()
    }

    /// Whether no fd of the program is waited for.
    pub(crate) fn has_settled(&self) -> bool {
        self.is_at_rest() && self.kept.values().all(|one| one.closed)
    }

    fn on(&mut self, what: &'static str, about: Option<usize>, event: Event<'_>) {
        let state = about.map_or(linger_custody::world::State::Unknown, |one| self.world.state(cookie(one)));
        self.told.push((what, state));
        if self.tracing {
            eprintln!("    {event:?} [{state:?}]");
        }
        self.silent = false;
        self.world.on(event, self.now);
    }

    fn begin(&mut self, kernel: &Kernel, process: usize, thread: usize, call: Call) {
        self.on("calls", None, Event::Calls(tid(process, thread)));
        let mut rest = VecDeque::new();
        if self.known.insert(process) {
            self.watched.insert(process);
            rest.push_back(Telling::Appeared);
        }
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
            Call::Shutdown(fd, both) => rest.push_back(Telling::Shutdown(*fd, *both)),
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
        self.current = Some(Notification { process, thread, call, rest, pretended: false, told: Vec::new() });
    }

    fn tell_next(&mut self, kernel: &mut Kernel) {
        let Some(current) = &mut self.current else { return };
        let (process, thread) = (current.process, current.thread);
        let caller = Caller { pid: pid(process), tid: tid(process, thread) };
        let waits = kernel.processes[process].threads[thread] == Thread::Notified(current.call.clone());
        let Some(telling) = current.rest.pop_front().filter(|_| waits) else {
            return self.reply(kernel, waits);
        };
        let this = &kernel.processes[process];
        if let Telling::Appeared | Telling::Fork = telling {
            let open: Vec<Open> = this
                .connections()
                .filter(|_| !this.hidden)
                .map(|(fd, index)| Open {
                    fd,
                    inode: inode(index),
                    cookie: (!self.world.shares(inode(index))).then_some(cookie(index)),
                })
                .collect();
            let about = this.connections().next().map(|(_, index)| index);
            let hidden = this.hidden;
            return match telling {
                Telling::Fork => {
                    let alone = this.single;
                    self.on("fork", about, Event::Fork { caller, open: &open, hidden, alone });
                }
                _ => self.on("appeared", about, Event::Appeared { caller, open: &open, hidden }),
            };
        }
        let (Telling::Copy(fd) | Telling::Close(fd, _) | Telling::Shutdown(fd, _) | Telling::Send(fd, _)) =
            telling
        else {
            return;
        };
        if this.hidden {
            // `pidfd_getfd` is refused before it looks whether there is such an fd.
            let sends = matches!(telling, Telling::Send(..));
            current.told.push(HIDDEN);
            if !matches!(telling, Telling::Shutdown(..)) {
                self.on("hidden", None, Event::Hidden { pid: pid(process), sends });
            }
            return;
        }
        let Some(File::Connection(index)) = this.file(fd) else { return };
        let unread = kernel.connections[index].socket.unread;
        let may_fail = matches!(telling, Telling::Close(_, Way::Replace | Way::Exec));
        self.at_hand = Some((index, (process, fd), unread, may_fail));
        current.told.push((fd, index));
        let socket = kernel.connections[index].socket;
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
                self.on(what, Some(index), Event::Close { caller, seen, way });
            }
            Telling::Shutdown(_, both) => {
                self.on("shutdown", Some(index), Event::Shutdown { seen, both });
            }
            Telling::Send(_, abroad) => {
                // Whether it got there nobody will know.
                kernel.connections[index].untold |= abroad;
                self.on("send", Some(index), Event::Send { caller, seen, abroad });
            }
            Telling::Appeared | Telling::Fork => {}
        }
    }

    /// Lets the call happen.
    fn reply(&mut self, kernel: &mut Kernel, waits: bool) {
        let Some(current) = self.current.take() else { return };
        if !waits {
            return;
        }
        let Notification { process, thread, call, pretended, told, .. } = current;
        kernel.processes[process].told[thread] = told;
        let state = &mut kernel.processes[process].threads[thread];
        *state = if pretended { Thread::Idle } else { Thread::Continued(call.clone()) };
        if call == Call::Accept && self.hold {
            // Accepted here, and given to the program.
            *state = Thread::Idle;
            if let Some(index) = kernel.accept(process) {
                self.held.insert(index);
                let accepted =
                    Event::Accepted { cookie: cookie(index), inode: inode(index), pid: pid(process) };
                self.on("accepted", Some(index), accepted);
            }
        }
    }

    /// Looks whether the program's fd still names a kept connection.
    fn look_at(&mut self, kernel: &Kernel, kept: Kept) {
        let Some(KeptFd { connection, name: Some((process, fd)), .. }) = self.kept.get(&kept) else { return };
        let (connection, process, fd) = (*connection, *process, *fd);
        let this = &kernel.processes[process];
        if this.alive && this.hidden {
            self.on("lost", Some(connection), Event::Lost(kept));
        } else if this.file(fd) == Some(File::Connection(connection)) {
            if let Some(one) = self.kept.get_mut(&kept) {
                let since = *one.open_since.get_or_insert(self.now);
                one.told_late += u32::from(self.now.saturating_sub(since) > Duration::from_secs(5));
            }
            self.on("still open", Some(connection), Event::StillOpen(kept));
        } else {
            if let Some(one) = self.kept.get_mut(&kept) {
                one.closed = true;
            }
            self.on("closed", Some(connection), Event::Closed(kept));
        }
    }

    fn perform(&mut self, kernel: &mut Kernel, action: Action) -> Result<(), Fault> {
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

    fn count(
        &mut self,
        kernel: &mut Kernel,
        cookie: Option<Cookie>,
        reason: Count,
        holder: Option<Pid>,
    ) -> Result<(), Fault> {
        self.counts[reason as usize] += 1;
        let Some(Cookie(index)) = cookie else { return Ok(()) };
        let connection = &mut kernel.connections[index as usize];
        match reason {
            Count::Seen => return Err("counts what the driver counts".into()),
            Count::Unread => connection.unread_counted += 1,
            Count::Shared => {
                let holder = holder.ok_or("shared, with nobody")?;
                if !connection.had_by.contains(&(holder.0 as usize)) {
                    return Err(format!("connection {index} is shared with {holder:?}, which never had it"));
                }
            }
            Count::Refused => connection.refused += 1,
            _ => connection.counted += 1,
        }
        if connection.counted > 1 && !connection.raced {
            return Err(format!("the end of connection {index} is counted twice"));
        }
        if connection.unread_counted > 1 && !connection.raced {
            return Err(format!("the unread bytes of connection {index} are counted twice"));
        }
        let plain = matches!(reason, Count::Finished | Count::Drained | Count::Gone | Count::Aborted);
        if plain && would_lose(kernel, index as usize) {
            return Err(format!("a plain close of connection {index} for {reason:?} loses"));
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

    /// What nobody has is not looked for without end.
    fn check_waiting(&mut self, kernel: &Kernel, copying: &[Tid], sending: &[Tid]) -> Result<(), Fault> {
        let calls = within(kernel, copying, copies).len()
            + within(kernel, sending, |call| matches!(call, Call::Send(..))).len();
        let quiet =
            calls == 0 && kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
        let closing: Vec<usize> =
            self.kept.values().filter(|one| !one.closed).map(|one| one.connection).collect();
        for (kept, one) in &mut self.kept {
            let over = one.closed && quiet && !kernel.is_open(File::Connection(one.connection));
            one.looked_for = if over && !closing.contains(&one.connection) { one.looked_for + 1 } else { 0 };
            if one.looked_for > 3 {
                return Err(format!("{kept:?} is looked for without end"));
            }
        }
        Ok(())
    }

    fn connection(&self, kept: Kept) -> Result<usize, Fault> {
        Ok(self.kept.get(&kept).ok_or(format!("{kept:?} is not kept"))?.connection)
    }

    /// The worst error: to end what the program still has.
    fn check_over(kernel: &Kernel, index: usize, what: &str) -> Result<(), Fault> {
        let connection = &kernel.connections[index];
        if (kernel.is_open(File::Connection(index)) || connection.abroad) && !connection.raced {
            return Err(format!("{what} connection {index}, which the program still has"));
        }
        Ok(())
    }

    /// What the program closed its epolls must not report.
    fn check_unwatched(&self, kernel: &Kernel, kept: Kept) -> Result<(), Fault> {
        let Some(KeptFd { connection, name: Some((process, _)), .. }) = self.kept.get(&kept) else {
            return Ok(());
        };
        if kernel.connections[*connection].raced {
            return Ok(());
        }
        let watched = &kernel.connections[*connection].watched_by;
        if kernel.processes[*process].epolls().any(|epoll| watched.contains(&epoll)) {
            return Err(format!("connection {connection} is over, and its epoll goes on to report it"));
        }
        Ok(())
    }

    /// A call that may fail is not waited for without end.
    pub(crate) fn check_patience(&self) -> Result<(), Fault> {
        match self.kept.iter().find(|(_, one)| one.may_fail && one.told_late > 1) {
            Some((kept, _)) => Err(format!("{kept:?} is waited for without end")),
            None => Ok(()),
        }
    }

    /// At the end of all: nothing is left, and the counts add up.
    pub(crate) fn check_end(&self, kernel: &Kernel) -> Result<(), Fault> {
        if !self.kept.is_empty() || !self.held.is_empty() || !self.world.is_idle() {
            return Err(format!("left over: {:?} kept, {:?} held", self.kept, self.held));
        }
        if self.world.due().is_some() {
            return Err("something is looked for without end".into());
        }
        for (index, connection) in kernel.connections.iter().enumerate() {
            let ended = connection.counted;
            let refused = connection.refused > 0 || connection.raced || connection.doubled;
            match connection.end {
                End::Open => return Err(format!("connection {index} is open at the end")),
                End::Closed if ended != 1 && !refused && !connection.raced => {
                    return Err(format!("connection {index} was closed, and counted {ended} times"));
                }
                End::Closed if connection.handed == 0 && would_lose(kernel, index) && !refused => {
                    return Err(format!("connection {index} was closed plainly, which loses"));
                }
                // Held from the start: a kill loses nothing either.
                End::Unseen
                    if self.hold
                        && !connection.abroad
                        && !connection.untold
                        && !connection.was_sent
                        && connection.handed == 0
                        && !refused
                        && would_lose(kernel, index)
                        && !kernel.ever_hidden =>
                {
                    return Err(format!(
                        "connection {index} was held, its process killed, and it was not ended"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks for what is in flight are neither too many nor too rare.
    pub(crate) fn check_pace(&self) -> Result<(), Fault> {
        for two in self.looks.windows(2) {
            if two[1] - two[0] < Duration::from_millis(20) {
                return Err(format!("looks again after {:?}", two[1] - two[0]));
            }
        }
        Ok(())
    }
}

/// Whether a plain close may make the kernel reset the connection.
fn would_lose(kernel: &Kernel, index: usize) -> bool {
    let socket = &kernel.connections[index].socket;
    !socket.aborts && !socket.over && (!socket.peer_finished || socket.unread > 0)
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

fn copies(call: &Call) -> bool {
    matches!(call, Call::Dup(_) | Call::Dup2(..) | Call::Fork | Call::Vfork)
}

/// The threads that are within such a call, as `/proc/TID/syscall` shows it from the notification on.
fn within(kernel: &Kernel, threads: &[Tid], is: fn(&Call) -> bool) -> Vec<Tid> {
    let in_it = |tid: &&Tid| match &kernel.processes[tid.0 as usize / 2].threads[tid.0 as usize % 2] {
        Thread::Notified(call) | Thread::Continued(call) => is(call),
        Thread::WaitsFor(_) => true,
        _ => false,
    };
    threads.iter().filter(in_it).copied().collect()
}
