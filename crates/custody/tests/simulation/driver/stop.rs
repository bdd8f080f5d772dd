//! The supervisor is stopped (SIGSTOP, a debugger). Meanwhile the guard continues the program's calls. Afterwards the
//! supervisor learns only that there were such calls, which the names here call unheard.

use std::collections::BTreeSet;
use std::time::Duration;

use linger_custody::world::Event;

use super::answer::census;
use super::{Driver, Fault, cookie};
use crate::kernel::{End, File, Kernel, Thread};

/// After this time a call that the guard has continued is over.
const OVER: Duration = Duration::from_secs(1);

/// Whether the supervisor is stopped, and what it knows of its stops.
#[derive(Debug, Default)]
pub(super) struct Stop {
    pub(super) is_stopped: bool,
    /// The supervisor may be stopped after its check for unheard calls: it then takes this many more steps before it
    /// checks again.
    unminded: u8,
    /// How many calls the guard has continued, as far as the supervisor knows.
    calls: u32,
    /// The effects of these calls are not known yet.
    is_any: bool,
    /// Until when one of them may not be over, and when that is reported again.
    until: Duration,
    next: Duration,
    /// Nothing was in flight at the last look.
    quiet: bool,
    /// Held connections that had no fd left when unheard calls were reported.
    gone: BTreeSet<usize>,
    /// Connections that unheard calls may have sent to other processes.
    suspects: BTreeSet<usize>,
}

impl Driver {
    /// Stops the supervisor. Returns whether it was running.
    pub(crate) fn stop(&mut self, unminded: u8) -> bool {
        self.stop.unminded = unminded;
        !std::mem::replace(&mut self.stop.is_stopped, true)
    }

    /// Lets the supervisor run again. Returns whether it was stopped.
    pub(crate) fn go_on(&mut self) -> bool {
        std::mem::take(&mut self.stop.is_stopped)
    }

    /// The guard continues one of the calls that wait for an answer. Returns false if there are none.
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

    /// Whether calls were continued since the supervisor's last check: what it knows may be wrong.
    pub(super) fn has_news(&self, kernel: &Kernel) -> bool {
        kernel.unheard != self.stop.calls
    }

    /// Reports calls that the guard has continued. Returns whether there was anything to report.
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
            self.on("unheard", None, Event::Unnotified);
            return true;
        }
        let quiet = kernel.processes.iter().all(|process| process.inbox.iter().all(Vec::is_empty));
        if !std::mem::replace(&mut self.stop.quiet, quiet) || !quiet {
            return false;
        }
        let census = census(kernel);
        // Nobody can know what a hidden process has, and what it has been sent.
        if census.hidden {
            return false;
        }
        self.stop.is_any = false;
        let kept: BTreeSet<usize> = self.kept.values().map(|one| one.connection).collect();
        let open = |index: &usize| {
            kernel.connections[*index].end == End::Open || kept.contains(index) || self.held.contains(index)
        };
        self.stop.suspects.extend((0..kernel.connections.len()).filter(open));
        self.cover("heard", kernel);
        self.on("heard", None, Event::CaughtUp(&census));
        true
    }

    /// Counts this event for the states of all connections.
    fn cover(&mut self, what: &'static str, kernel: &Kernel) {
        let states = (0..kernel.connections.len()).map(|index| self.world.state(cookie(index)));
        self.told.extend(states.map(|state| (what, state)));
    }

    /// Whether the effects of unheard calls are not known yet.
    pub(super) fn is_unheard(&self) -> bool {
        self.stop.is_any
    }

    /// Whether unheard calls may have sent a connection to a process that nobody knows of.
    pub(super) fn is_suspect(&self, index: usize) -> bool {
        self.stop.is_any || self.stop.suspects.contains(&index)
    }

    /// Checks that held connections that an unheard call has closed are released.
    pub(super) fn check_held(&mut self) -> Result<(), Fault> {
        match std::mem::take(&mut self.stop.gone).intersection(&self.held).next() {
            Some(index) => Err(format!("connection {index} was closed unheard, and is held still")),
            None => Ok(()),
        }
    }
}
