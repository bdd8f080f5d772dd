//! The supervisor is stopped (SIGSTOP, a debugger): the guard lets the program's calls happen, and the supervisor learns
//! afterwards only that there were some.

use std::collections::BTreeSet;
use std::time::Duration;

use linger_custody::world::Event;

use super::answer::census;
use super::{Driver, Fault, cookie};
use crate::kernel::{End, File, Kernel, Thread};

/// A call that the guard has let happen is over by then.
const OVER: Duration = Duration::from_secs(1);

/// Whether the supervisor is stopped, and what it knows of its stops.
#[derive(Debug, Default)]
pub(super) struct Stop {
    pub(super) is_stopped: bool,
    /// It was stopped after it had looked whether there is news: so many things it does before it looks again.
    unminded: u8,
    /// Calls that the guard has let happen, as far as is known here.
    calls: u32,
    /// What they did is not known yet.
    is_any: bool,
    /// Until when one of them may not be over, and when that is told next.
    until: Duration,
    next: Duration,
    /// Nothing was in flight at the last look.
    quiet: bool,
    /// What was held, and had no fd left when that was told.
    gone: BTreeSet<usize>,
    /// Connections that may have been sent to anybody, unheard.
    suspects: BTreeSet<usize>,
}

impl Driver {
    /// Stops the supervisor; whether it ran.
    pub(crate) fn stop(&mut self, unminded: u8) -> bool {
        self.stop.unminded = unminded;
        !std::mem::replace(&mut self.stop.is_stopped, true)
    }

    /// Lets it go on; whether it was stopped.
    pub(crate) fn go_on(&mut self) -> bool {
        std::mem::take(&mut self.stop.is_stopped)
    }

    /// The guard lets one of the calls happen that wait for an answer, if there are any.
    pub(super) fn guard(kernel: &mut Kernel, choice: u8) -> bool {
        let threads = (0..2 * kernel.processes.len()).map(|one| (one / 2, one % 2));
        let notified: Vec<_> = threads
            .filter(|(process, thread)| {
                matches!(kernel.processes[*process].threads[*thread], Thread::Notified(_))
            })
            .collect();
        let Some((process, thread)) = notified.get(usize::from(choice) % notified.len().max(1)) else {
            return false;
        };
        kernel.let_happen(*process, *thread);
        true
    }

    /// Whether calls were let happen since the supervisor has looked: what it knows may be wrong.
    pub(super) fn has_news(&self, kernel: &Kernel) -> bool {
        kernel.unheard != self.stop.calls
    }

    /// Tells of calls that were let happen; whether there was anything to tell.
    pub(super) fn mind_unheard(&mut self, kernel: &Kernel) -> bool {
        if self.stop.unminded > 0 {
            self.stop.unminded -= 1;
            return false;
        }
        let now = self.now;
        if self.has_news(kernel) {
            let calls = kernel.unheard;
            let suspects = std::mem::take(&mut self.stop.suspects);
            self.stop =
                Stop { calls, is_any: true, until: now + OVER, next: now, suspects, ..Stop::default() };
        }
        if !self.stop.is_any || now < self.stop.next {
            return false;
        }
        self.stop.next = now + OVER / 10;
        if now < self.stop.until {
            self.cover("unheard", kernel);
            let is_gone = |index: &usize| {
                !kernel.is_open(File::Connection(*index))
                    && !self.kept.values().any(|one| one.connection == *index)
            };
            self.stop.gone = self.held.iter().copied().filter(is_gone).collect();
            self.on("unheard", None, Event::Unheard);
            return true;
        }
        let quiet = kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
        if !std::mem::replace(&mut self.stop.quiet, quiet) || !quiet {
            return false;
        }
        self.stop.is_any = false;
        let kept: BTreeSet<usize> = self.kept.values().map(|one| one.connection).collect();
        let open = |index: &usize| {
            kernel.connections[*index].end == End::Open || kept.contains(index) || self.held.contains(index)
        };
        self.stop.suspects.extend((0..kernel.connections.len()).filter(open));
        let census = census(kernel);
        // Of what a hidden process has nobody will know where it was sent.
        self.opaque |= census.hidden;
        self.cover("heard", kernel);
        self.on("heard", None, Event::Heard(&census));
        true
    }

    /// It concerns all connections.
    fn cover(&mut self, what: &'static str, kernel: &Kernel) {
        let states = (0..kernel.connections.len()).map(|index| self.world.state(cookie(index)));
        self.told.extend(states.map(|state| (what, state)));
    }

    /// Whether it is not known yet what was done by calls that were let happen.
    pub(super) fn is_unheard(&self) -> bool {
        self.stop.is_any
    }

    /// Whether a connection may be where nobody can know of, since calls were let happen.
    pub(super) fn is_suspect(&self, index: usize) -> bool {
        self.stop.is_any || self.stop.suspects.contains(&index)
    }

    /// What was held, and was closed unheard, is let go of.
    pub(super) fn check_held(&mut self) -> Result<(), Fault> {
        match std::mem::take(&mut self.stop.gone).intersection(&self.held).next() {
            Some(index) => Err(format!("connection {index} was closed unheard, and is held still")),
            None => Ok(()),
        }
    }
}
