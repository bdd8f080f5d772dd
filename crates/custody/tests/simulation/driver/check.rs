//! What must never be, and what must be at the end.

use std::time::Duration;

use linger_custody::Count;
use linger_custody::world::{Cookie, Kept, Pid, Tid};

use super::perform::{copies, within};
use super::{Driver, Fault, KeptFd};
use crate::kernel::{Call, End, File, Kernel};

impl Driver {
    pub(super) fn count(
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

    /// What nobody has is not looked for without end.
    pub(super) fn check_waiting(
        &mut self,
        kernel: &Kernel,
        copying: &[Tid],
        sending: &[Tid],
    ) -> Result<(), Fault> {
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

    /// The worst error: to end what the program still has.
    pub(super) fn check_over(kernel: &Kernel, index: usize, what: &str) -> Result<(), Fault> {
        let connection = &kernel.connections[index];
        if (kernel.is_open(File::Connection(index)) || connection.abroad) && !connection.raced {
            return Err(format!("{what} connection {index}, which the program still has"));
        }
        Ok(())
    }

    /// What the program closed its epolls must not report.
    pub(super) fn check_unwatched(&self, kernel: &Kernel, kept: Kept) -> Result<(), Fault> {
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
