//! What must never happen, and what must hold at the end.

use std::time::Duration;

use linger_custody::Count;
use linger_custody::world::{Cookie, Kept, Pid, State, Tid, Way};

use super::answer::{copies, within};
use super::{Driver, Fault, KeptFd, LIMITS, cookie as cookie_of, inode as inode_of};
use crate::kernel::{Call, Connection, End, File, Kernel, Process};

/// How long to wait for a call that may fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn count(
        &mut self,
        kernel: &mut Kernel,
        cookie: Option<Cookie>,
        reason: Count,
        holder: Option<Pid>,
    ) -> Result<(), Fault> {
        self.counts[reason as usize] += 1;
        let Some(Cookie(index)) = cookie else { return self.count_hidden(reason, holder) };
        let in_flight =
            |other: usize| other != index as usize && self.world.state(cookie_of(other)) == State::InFlight;
        let crowded =
            (0..kernel.connections.len()).filter(|other| in_flight(*other)).count() >= LIMITS.in_flight;
        // There was a doubt about such a connection when the search for it began.
        let is_doubtful = !self.hidden.is_empty()
            || self.opaque
            || self.stray
            || self.told.last().is_some_and(|(what, _)| *what == "tick")
            || self.several.contains(&inode_of(index as usize))
            || self.world.shares(inode_of(index as usize))
            || kernel.connections[index as usize].told_sent;
        let maybe_hidden = kernel.ever_hidden && is_doubtful;
        let is_suspect = self.is_suspect(index as usize) || self.has_news(kernel);
        let connection = &mut kernel.connections[index as usize];
        match reason {
            Count::Seen => return Err("counts what the driver counts".into()),
            Count::Unread => connection.unread_counted += 1,
            Count::Shared => {
                let holder = holder.ok_or("shared, with nobody")?;
                if connection.had & (1 << holder.0) == 0 {
                    return Err(format!("connection {index} is shared with {holder:?}, which never had it"));
                }
                if !self.closes {
                    return Err(format!("connection {index} counts as shared, and is not closed"));
                }
                connection.shared += 1;
            }
            Count::Refused if !connection.may_refuse && !crowded && !maybe_hidden && !is_suspect => {
                return Err(format!("connection {index} is left alone without a reason"));
            }
            Count::Refused => connection.refused += 1,
            Count::Handed if connection.untaken && !connection.raced => {
                return Err(format!("connection {index} counts as handed over, and nobody took it"));
            }
            Count::Drained => {
                connection.saves_unread += 1;
                connection.counted += 1;
            }
            _ => connection.counted += 1,
        }
        if connection.counted > 1 && !connection.raced {
            return Err(format!("the end of connection {index} is counted twice"));
        }
        if connection.unread_counted > 1 && !connection.raced {
            return Err(format!("the unread bytes of connection {index} are counted twice"));
        }
        let plain = matches!(reason, Count::Finished | Count::Drained | Count::Gone | Count::Aborted);
        let is_close = self.at_hand.is_some_and(|one| one.way == Some(Way::Close));
        let is_open = kernel.is_open(File::Connection(index as usize));
        let is_excused = kernel.connections[index as usize].raced || self.has_news(kernel);
        if plain && is_open && !is_close && !is_excused {
            return Err(format!("connection {index} counts as ended before a call that may fail"));
        }
        if plain && would_lose(kernel, index as usize) {
            return Err(format!("a plain close of connection {index} for {reason:?} loses"));
        }
        Ok(())
    }

    /// A process that cannot be looked at is counted once, and only for a close.
    fn count_hidden(&mut self, reason: Count, who: Option<Pid>) -> Result<(), Fault> {
        let Some(Pid(process)) = who.filter(|_| reason == Count::Refused) else {
            return Err(format!("counts {reason:?} of nothing"));
        };
        let process = process as usize;
        if !self.closed_unseen.contains(&process) || !self.counted.insert(process) {
            return Err(format!("process {process} is counted, for no close of its own, or twice"));
        }
        Ok(())
    }

    /// Checks what must hold whenever the world has dealt with everything that it was told.
    pub(super) fn check_silent(&mut self, kernel: &Kernel) -> Result<(), Fault> {
        if self.world.is_idle() != (self.kept.is_empty() && self.held.is_empty()) {
            return Err(format!(
                "idle: {}, with {:?} kept and {:?} held",
                self.world.is_idle(),
                self.kept,
                self.held
            ));
        }
        if self.named != self.hidden || self.counted != self.closed_unseen {
            return Err(format!("{:?} cannot be looked at, and {:?} are named", self.hidden, self.named));
        }
        let looked_for =
            self.about.filter(|one| self.is_ending && self.world.state(cookie_of(*one)) == State::InFlight);
        if let Some(index) = looked_for.filter(|_| self.state != State::InFlight && !self.saw_copying)
            && !kernel.connections[index].told_sent
        {
            return Err(format!("connection {index} is looked for, and nobody can have it"));
        }
        let waits = |index: &usize| self.world.state(cookie_of(*index)) == State::InFlight;
        let orphans = std::mem::take(&mut self.orphans);
        if let Some(index) = orphans.into_iter().filter(|_| !self.saw_copying).find(waits)
            && !kernel.connections[index].told_sent
        {
            return Err(format!("connection {index} was held, and is looked for where nobody can have it"));
        }
        let is_awaited = |(index, one): &(usize, &Connection)| {
            one.arrived
                && !one.raced
                && !kernel.ever_hidden
                && self.world.state(cookie_of(*index)) == State::Sent
        };
        if kernel.connections.iter().enumerate().any(|one| is_awaited(&one)) {
            return Err("a message is waited for that has arrived".into());
        }
        if self.world.remembered() > self.room {
            return Err(format!("remembers {}, without a look", self.world.remembered()));
        }
        let in_flight =
            (0..kernel.connections.len()).any(|one| self.world.state(cookie_of(one)) == State::InFlight);
        if in_flight != self.world.due().is_some() {
            return Err(format!("in flight: {in_flight}, to be looked for: {:?}", self.world.due()));
        }
        self.check_held()?;
        if self.world.heeds_deaths() && self.held.is_empty() && self.hidden.is_subset(&self.dead_told) {
            return Err("heeds deaths for nothing".into());
        }
        if !self.world.heeds_deaths() && !self.held.is_empty() {
            return Err("heeds no deaths, and something is held".into());
        }
        Ok(())
    }

    /// The state that the world reports for a connection must agree with what was done for it.
    pub(super) fn check_state(&self, index: usize, state: State) -> Result<(), Fault> {
        let kept = self.kept.values().any(|one| one.connection == index);
        let right = match state {
            State::Held => self.held.contains(&index) && !kept,
            State::Closing | State::InFlight => kept,
            State::Unknown | State::Ended => !kept && !self.held.contains(&index),
            State::Shared | State::Sent | State::ShutDown => !kept,
        };
        if right { Ok(()) } else { Err(format!("connection {index} is said to be {state:?}")) }
    }

    /// A close by one of several holders is counted.
    pub(super) fn check_dropped(&self, kernel: &Kernel, one: &KeptFd) -> Result<(), Fault> {
        let Some((process, _)) = one.name else { return Ok(()) };
        let waits = one.open_since.map(|since| self.now.saturating_sub(since));
        if one.may_fail && !one.closed && self.is_late && waits.is_some_and(|waits| waits <= PATIENCE) {
            return Err(format!("connection {} is given up early, after {waits:?}", one.connection));
        }
        let still = kernel.others(one.connection, process) & one.others;
        let connection = &kernel.connections[one.connection];
        let counts = connection.shared + connection.refused > 0 || self.has_news(kernel);
        if one.is_close && still != 0 && !counts {
            return Err(format!(
                "a close of connection {}, which another process has, counts for nothing",
                one.connection
            ));
        }
        Ok(())
    }

    /// The world must not look without end for a connection that nobody has. Returns whether a second look is to
    /// confirm that it is nowhere, if that is certain.
    pub(super) fn check_waiting(
        &mut self,
        kernel: &Kernel,
        copying: &[Tid],
        sending: &[Tid],
    ) -> Result<Option<bool>, Fault> {
        let calls = within(kernel, copying, copies).len()
            + within(kernel, sending, |call| matches!(call, Call::Send(..))).len();
        let quiet =
            calls == 0 && kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
        let closing: Vec<usize> =
            self.kept.values().filter(|one| !one.closed).map(|one| one.connection).collect();
        for (kept, one) in &mut self.kept {
            let over = one.closed && quiet && !kernel.is_open(File::Connection(one.connection));
            one.looked_for = if over && !closing.contains(&one.connection) { one.looked_for + 1 } else { 0 };
            if one.looked_for > 2 {
                return Err(format!("{kept:?} is looked for without end"));
            }
        }
        // Of several connections one may have been confirmed already, or may still be waited for.
        Ok((self.kept.len() == 1 && self.kept.values().all(|one| one.looked_for == 1)).then_some(true))
    }

    /// A held connection must be released once it is over, or if nobody can see when it is over.
    pub(super) fn check_released(&self, kernel: &Kernel, index: usize) -> Result<(), Fault> {
        let one = &kernel.connections[index];
        let was_hidden =
            |(process, this): (usize, &Process)| one.had & (1 << process) != 0 && this.hidden_once;
        // It may have been closed by an unheard call, or by a hidden process.
        let unheard = self.is_unheard() && (kernel.ever_hidden || self.has_news(kernel));
        let is_unseen = unheard || one.sent_unseen || kernel.processes.iter().enumerate().any(was_hidden);
        if one.counted + one.refused + one.handed == 0 && !is_unseen && !one.raced {
            return Err(format!("connection {index} is let go of, and is not over"));
        }
        Ok(())
    }

    /// All fds are looked at after a death only if the dead process had a held connection.
    pub(super) fn check_mourns(&self, kernel: &Kernel) -> Result<(), Fault> {
        let dead = self.dead_told.iter().fold(0, |bits, process| bits | 1_u8 << process);
        let is_orphan = |index: &usize| kernel.connections[*index].had & dead != 0;
        let is_told = self.told.last().is_some_and(|(what, _)| *what == "died");
        if is_told && !self.held.iter().any(is_orphan) {
            return Err("looks at all fds for the dead, who had nothing that is held".into());
        }
        Ok(())
    }

    /// Ending a connection that the program still has is the worst error.
    pub(super) fn check_over(kernel: &Kernel, index: usize, what: &str) -> Result<(), Fault> {
        let connection = &kernel.connections[index];
        if (kernel.is_open(File::Connection(index)) || connection.abroad) && !connection.raced {
            return Err(format!("{what} connection {index}, which the program still has"));
        }
        Ok(())
    }

    /// The program's epolls must not report a connection that the program has closed.
    pub(super) fn check_unwatched(&self, kernel: &Kernel, kept: Kept) -> Result<(), Fault> {
        let Some(KeptFd { connection, name: Some((process, _)), reported, is_exit, .. }) =
            self.kept.get(&kept)
        else {
            return Ok(());
        };
        if *reported {
            return Err(format!(
                "connection {connection} is over, and epolls could not be told to forget it"
            ));
        }
        // Where the process has not ended, another thread's `execve` has come first, and closed the connection.
        if kernel.connections[*connection].raced || *is_exit {
            return Ok(());
        }
        let watched = &kernel.connections[*connection].watched_by;
        if kernel.processes[*process].epolls().any(|epoll| watched.contains(&epoll)) {
            return Err(format!("connection {connection} is over, and its epoll goes on to report it"));
        }
        Ok(())
    }

    /// The epolls must not forget a connection that is not over.
    pub(super) fn check_unwatches(&self, kernel: &Kernel, kept: Kept) -> Result<(), Fault> {
        let one = self.kept.get(&kept).ok_or("unwatches what is not kept")?;
        let is_closing = |process: usize, fd: i32| {
            self.kept.values().any(|other| !other.closed && other.name == Some((process, fd)))
        };
        let stays = |process: usize| {
            let this = &kernel.processes[process];
            !this.hidden
                && this.connections().any(|(fd, index)| {
                    index == one.connection && this.serial(fd) <= one.serials && !is_closing(process, fd)
                })
        };
        let raced = kernel.connections[one.connection].raced;
        if !one.closed && !raced && (0..one.processes).any(stays) {
            return Err(format!("epolls are to forget connection {}, which has another fd", one.connection));
        }
        if !one.closed && !one.is_close {
            return Err(format!("epolls are to forget connection {}, which may stay", one.connection));
        }
        // A connection that an unheard call may have sent is closed plainly: epolls may then lose the fd that is
        // closed.
        let is_suspect = self.is_suspect(one.connection);
        if !one.closed && !raced && !is_suspect && kernel.is_carried(one.connection) {
            return Err(format!("epolls are to forget connection {}, which a message has", one.connection));
        }
        Ok(())
    }

    /// The epolls must have forgotten it before the call, because the program's next call may be `epoll_wait`.
    pub(super) fn check_reported(
        &self,
        kernel: &Kernel,
        process: usize,
        call: (usize, u32),
    ) -> Result<(), Fault> {
        let is_meant = |one: &&KeptFd| {
            one.call == Some(call) && one.is_close && one.sole && one.processes == kernel.processes.len()
        };
        for one in self.kept.values().filter(is_meant) {
            let watched = &kernel.connections[one.connection].watched_by;
            if one.name.is_some_and(|name| name.0 == process)
                && !self.has_news(kernel)
                && kernel.is_sole(one.connection)
                && kernel.processes[process].epolls().any(|epoll| watched.contains(&epoll))
            {
                return Err(format!("connection {} is about to be closed, and reported", one.connection));
            }
        }
        Ok(())
    }

    /// The world must not wait without end for a call that may fail.
    pub(crate) fn check_patience(&self) -> Result<(), Fault> {
        match self.kept.iter().find(|(_, one)| one.may_fail && one.told_late > 1) {
            Some((kept, _)) => Err(format!("{kept:?} is waited for without end")),
            None => Ok(()),
        }
    }

    /// At the very end nothing may be left over, and the counts must add up.
    pub(crate) fn check_end(&mut self, kernel: &Kernel) -> Result<(), Fault> {
        if !self.kept.is_empty() || !self.held.is_empty() || !self.world.is_idle() {
            return Err(format!("left over: {:?} kept, {:?} held", self.kept, self.held));
        }
        if self.world.due().is_some() {
            return Err("something is looked for without end".into());
        }
        self.look_at_parted(kernel)?;
        let remembered =
            (0..kernel.connections.len()).filter(|one| self.world.state(cookie_of(*one)) == State::Ended);
        if remembered.count() > LIMITS.lately {
            return Err("more ends are remembered than allowed".into());
        }
        for (index, connection) in kernel.connections.iter().enumerate() {
            let Connection { counted: ended, shared, fds_closed, .. } = *connection;
            let raced = connection.raced;
            let refused = connection.refused > 0 || raced || connection.lost;
            if ended + connection.refused + shared > fds_closed + connection.early && !raced {
                return Err(format!(
                    "connection {index} had {fds_closed} fds closed, and more closes counted"
                ));
            }
            if connection.unread_counted != connection.saves_unread && !raced {
                return Err(format!(
                    "unread bytes of connection {index} are counted {} times",
                    connection.unread_counted
                ));
            }
            match connection.end {
                End::Open => return Err(format!("connection {index} is open at the end")),
                End::Closed if ended != 1 && !refused => {
                    return Err(format!("connection {index} was closed, and counted {ended} times"));
                }
                End::Closed if connection.handed == 0 && would_lose(kernel, index) && !refused => {
                    return Err(format!("connection {index} was closed plainly, which loses"));
                }
                // The driver has held it from the accept on, so that a kill loses nothing either.
                End::Unseen
                    if self.hold
                        && !connection.abroad
                        && !connection.sent_unseen
                        && !connection.was_sent
                        && !connection.unheld
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
        self.check_forgotten(kernel)
    }
}

/// Whether a plain close may make the kernel reset the connection.
fn would_lose(kernel: &Kernel, index: usize) -> bool {
    let socket = &kernel.connections[index].socket;
    !socket.aborts && !socket.over && (!socket.peer_finished || socket.unread > 0)
}
