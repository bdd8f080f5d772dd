//! Proves that no process holds a connection any more that one of them has closed, before it is half-closed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use linger_custody::Origin;
use linger_custody::proof::{Heirs, Relations, Sight, Standing, judge};
use linger_custody::world::{Pid, ProcessFd};

use crate::proc;
use crate::relatives::Relatives;
use crate::shares::{Passed, Share, Shares};

#[cfg(test)]
mod tests;

/// First pause before a connection that was found open is looked at again; doubles each time, up to a quarter of
/// [`PATIENCE`].
const SOON: Duration = Duration::from_micros(200);

/// How long a connection is kept that another process still has. A child that is about to call `execve`, or to exit,
/// has closed it by then. If the other process goes on using it, its own close ends the connection later.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a connection is kept in any case. The close that was announced may be late, because its thread waits for a
/// processor.
const PROMISE: Duration = Duration::from_secs(10);

/// The largest number of connections that wait for a look. Further ones are closed plainly.
const PENDING: usize = 8_192;

/// How often one look goes on to processes that were made during it.
const ROUNDS: usize = 4;

/// A look that proves nothing is followed by a pause of at least this many times its length.
const REST: u32 = 4;

/// This many of a program's first connections are looked for in all processes, although no process can have inherited
/// them. Later ones are, too, as far as [`AUDIT`] permits. So a program is found out that copies or passes on fds by
/// system calls of its own, which the library does not see.
const TRUST: u32 = 64;

/// Such looks may take one part in this many of the time.
const AUDIT: u32 = 100;

/// A connection that a process has nominated, with the supervisor's copy of it.
#[derive(Debug)]
pub(crate) struct Nominee {
    pub(crate) passed: Passed,
    pub(crate) cookie: u64,
    /// The process, and its fd.
    pub(crate) by: ProcessFd,
    pub(crate) origin: Origin,
    /// Received bytes that the program had not read.
    pub(crate) unread: u32,
    /// Whether by a close. The exit of a process does not count as a close if the connection has other holders.
    pub(crate) closed: bool,
}

/// Who holds a nominated connection.
#[derive(Debug)]
pub(crate) enum Proof {
    /// No process has it any more: it may be ended.
    Sole(Nominee),
    /// Another process has it.
    Shared(Nominee),
    /// A process that cannot be looked at may have it: its pid, or `None` where the processes cannot be listed.
    Hidden(Nominee, Option<Pid>),
}

/// A nominee that was not proved at once.
#[derive(Debug)]
struct Pending {
    nominee: Nominee,
    inode: u64,
    /// The fds that are being closed.
    closing: Vec<ProcessFd>,
    /// Who had it at the last look, and since when somebody has.
    held: Option<(ProcessFd, Instant)>,
    /// It is looked for in all processes, also in those that cannot have inherited it.
    audit: bool,
    /// The last look has found nobody. A process that had it until then may have nominated it since, and then that
    /// nomination ends it.
    proved: bool,
    since: Instant,
    _share: Share,
}

impl Pending {
    /// Whether it has been waited for long enough.
    fn is_late(&self, now: Instant) -> bool {
        let held = self.held.is_some_and(|(_, since)| now.duration_since(since) >= PATIENCE);
        held || now.duration_since(self.since) >= PROMISE
    }
}

/// What the proof asks of the machine.
pub(crate) trait ProcessSights {
    fn now(&self) -> Instant;

    /// Brings [`family`](Self::family) to a moment after this call began, with all that may have inherited a connection that
    /// was accepted at `since_ms` or later. False where the processes cannot be listed.
    fn update(&mut self, since_ms: u64) -> bool;

    /// The processes of the program.
    fn family(&self) -> &Relations;

    /// Whether there is such a process.
    fn is_there(&self, pid: Pid) -> bool;

    /// Whether an fd of a process refers to the socket of this inode.
    fn has(&self, name: ProcessFd, inode: u64) -> bool;

    /// The sockets of a process, by inode, with their fds; `None` where it does not let itself be looked at.
    fn sockets(&self, pid: Pid) -> Option<HashMap<u64, Vec<i32>>>;
}

/// This machine, by `/proc`.
impl ProcessSights for Relatives {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn update(&mut self, since_ms: u64) -> bool {
        self.update_since(since_ms).is_some()
    }

    fn family(&self) -> &Relations {
        Self::family(self)
    }

    fn is_there(&self, pid: Pid) -> bool {
        proc::stat(pid.0).is_some()
    }

    fn has(&self, name: ProcessFd, inode: u64) -> bool {
        proc::has(name.pid.0, name.fd, inode)
    }

    fn sockets(&self, pid: Pid) -> Option<HashMap<u64, Vec<i32>>> {
        proc::sockets(pid.0)
    }
}

#[derive(Debug)]
pub(crate) struct Prover<M = Relatives> {
    machine: M,
    fresh: Vec<Nominee>,
    /// By cookie.
    pending: HashMap<u64, Pending>,
    shares: Shares,
    pause: Duration,
    due: Instant,
    looks: u64,
    /// How long the last call of `judge` has spent on searches.
    searched: Duration,
    /// How many more connections are looked for although no process can have inherited them.
    untrusted: u32,
    next_audit: Instant,
    /// A process had a connection that it cannot have inherited. From then on every connection is looked for.
    unseen: bool,
}

impl Prover {
    /// `root` is the program's process, or the one whose children are the program.
    pub(crate) fn new(root: u32) -> Self {
        Self::on(Relatives::new(root))
    }
}

impl<M: ProcessSights> Prover<M> {
    fn on(machine: M) -> Self {
        let now = machine.now();
        Self {
            machine,
            fresh: Vec::new(),
            pending: HashMap::new(),
            shares: Shares::new(PENDING, PENDING),
            pause: SOON,
            due: now,
            looks: 0,
            searched: Duration::ZERO,
            untrusted: TRUST,
            next_audit: now,
            unseen: false,
        }
    }

    /// Takes a nominee, to be judged by the next [`judge`](Self::judge).
    pub(crate) fn nominate(&mut self, nominee: Nominee) {
        self.fresh.push(nominee);
    }

    /// When to judge again, if nothing is nominated until then.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.pending.is_empty()).then_some(self.due)
    }

    /// How often the fds of processes have been searched.
    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }

    /// How long the last call of [`judge`](Self::judge) has searched for processes, and in them.
    pub(crate) fn searched(&self) -> Duration {
        self.searched
    }

    /// Judges the nominated connections. If no other process can have inherited a connection, that is mostly proof enough.
    /// The others are looked for together, in one look. One whose announced close is not done yet waits for a later look.
    pub(crate) fn judge(&mut self, mut tell: impl FnMut(Proof)) {
        self.searched = Duration::ZERO;
        if self.fresh.is_empty() && self.pending.is_empty() {
            return;
        }
        let now = self.machine.now();
        let is_listed = self.machine.update(self.since_ms());
        self.searched = self.machine.now() - now;
        if !is_listed {
            let pending = self.pending.drain().map(|(_, pending)| pending.nominee);
            return self
                .fresh
                .drain(..)
                .chain(pending)
                .for_each(|nominee| tell(Proof::Hidden(nominee, None)));
        }
        for nominee in std::mem::take(&mut self.fresh) {
            self.admit(nominee, now, &mut tell);
        }
        for (_, pending) in self.pending.extract_if(|_, pending| pending.proved) {
            tell(Proof::Sole(pending.nominee));
        }
        if self.pending.is_empty() || now < self.due {
            return;
        }
        let begun = self.machine.now();
        self.look(now, tell);
        let ended = self.machine.now();
        self.searched += ended - begun;
        let took = ended - now;
        let proved = self.pending.values().any(|pending| pending.proved);
        let rest = if proved { Duration::ZERO } else { self.pause.max(took * REST) };
        self.next_audit = ended + took * AUDIT;
        self.due = ended + rest;
        self.pause = (self.pause * 2).min(PATIENCE / 4);
    }

    /// When the oldest of the connections that are to be judged was accepted; 0 if that is not known of one.
    fn since_ms(&self) -> u64 {
        let all = self.fresh.iter().chain(self.pending.values().map(|pending| &pending.nominee));
        all.map(|nominee| nominee.origin.known().map_or(0, |(_, accepted_ms)| accepted_ms)).min().unwrap_or(0)
    }

    /// Tells at once what is known of a nominee, or keeps it for a look.
    fn admit(&mut self, nominee: Nominee, now: Instant, tell: &mut impl FnMut(Proof)) {
        let by = nominee.by.pid;
        // A process that was yet to appear may have accepted the connection itself.
        if !self.machine.family().contains(by) && !self.machine.update(0) {
            return tell(Proof::Hidden(nominee, None));
        }
        let family = self.machine.family();
        // The process is no known descendant, so nothing is known about the processes that may have inherited from
        // it.
        if !family.contains(by) && self.machine.is_there(by) {
            return tell(Proof::Hidden(nominee, Some(by)));
        }
        let none = family.heirs(nominee.origin, by) == Heirs::None;
        let audit = self.untrusted > 0 || now >= self.next_audit || self.unseen;
        if none && !audit && !self.pending.contains_key(&nominee.cookie) {
            return tell(Proof::Sole(nominee));
        }
        self.untrusted = self.untrusted.saturating_sub(audit.into());
        // Each pending connection makes the looks longer for all users.
        let Some(share) = self.shares.take(nominee.passed.share.user()) else {
            return tell(Proof::Hidden(nominee, None));
        };
        let Ok(status) = rustix::fs::fstat(&nominee.passed.fd) else {
            return tell(Proof::Hidden(nominee, None));
        };
        let mut closing = vec![nominee.by];
        if let Some(earlier) = self.pending.remove(&nominee.cookie) {
            closing.extend(earlier.closing);
            tell(Proof::Shared(earlier.nominee));
        }
        let pending = Pending {
            inode: status.st_ino,
            closing,
            held: None,
            audit,
            proved: false,
            since: now,
            _share: share,
            nominee,
        };
        self.pending.insert(pending.nominee.cookie, pending);
        self.due = now;
        self.pause = SOON;
    }

    fn look(&mut self, now: Instant, mut tell: impl FnMut(Proof)) {
        if !self.machine.update(self.since_ms()) {
            return;
        }
        for pending in self.pending.values_mut() {
            pending.closing.retain(|name| self.machine.has(*name, pending.inode));
        }
        // What a process still has by the fd that was found is not searched for again.
        let is_held =
            |pending: &Pending| pending.held.is_some_and(|(name, _)| self.machine.has(name, pending.inode));
        let judged: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.closing.is_empty() && !is_held(pending))
            .map(|(cookie, _)| *cookie)
            .collect();
        let mut heirs = heirs_of(&judged, &self.pending, self.machine.family());
        let mut seen: HashMap<Pid, Option<HashMap<u64, Vec<i32>>>> = HashMap::new();
        for round in 0..ROUNDS {
            let looked = heirs.values().flat_map(|(_, looked)| looked).copied();
            let unseen: BTreeSet<Pid> = looked.filter(|pid| !seen.contains_key(pid)).collect();
            if unseen.is_empty() {
                break;
            }
            self.looks += u64::from(round == 0);
            seen.extend(unseen.into_iter().map(|pid| (pid, self.machine.sockets(pid))));
            // A process that was made meanwhile has inherited fds that its maker may have closed before it was looked
            // at.
            if !self.machine.update(self.since_ms()) {
                return;
            }
            heirs = heirs_of(&judged, &self.pending, self.machine.family());
        }
        let mut over = Vec::new();
        for (cookie, pending) in &mut self.pending {
            if pending.is_late(now) {
                over.push((*cookie, None));
                continue;
            }
            // Still being closed, or held as before.
            let Some((heirs, looked)) = heirs.get(cookie) else { continue };
            if looked.iter().any(|pid| !seen.contains_key(pid)) {
                // The family grows faster than it is looked at: the next look begins anew.
                continue;
            }
            let sight = |pid: &Pid| match seen.get(pid).and_then(Option::as_ref) {
                Some(fds) => Sight::Fds(fds.get(&pending.inode).cloned().unwrap_or_default()),
                None if heirs.contains(pid) => Sight::Hidden,
                // It cannot be looked at, but cannot have inherited the connection either.
                None => Sight::Fds(Vec::new()),
            };
            let sights: Vec<(Pid, Sight)> = looked.iter().map(|pid| (*pid, sight(pid))).collect();
            match judge(&sights, &pending.closing) {
                Standing::Held(name) => {
                    pending.held = Some((name, pending.held.map_or(now, |(_, since)| since)));
                }
                Standing::Closing => {}
                Standing::Nobody => pending.proved = true,
                verdict => over.push((*cookie, Some(verdict))),
            }
        }
        for (cookie, verdict) in over {
            let Some(Pending { nominee, audit, held, .. }) = self.pending.remove(&cookie) else { continue };
            if let Some((name, _)) = held.filter(|_| audit && verdict.is_none()) {
                tracing::info!(
                    ?name,
                    cookie,
                    "the program has it unseen: from now on all is looked for in all processes"
                );
                self.unseen = true;
            }
            tell(match verdict {
                Some(Standing::Hidden(pid)) => Proof::Hidden(nominee, Some(pid)),
                _ => Proof::Shared(nominee),
            });
        }
    }
}

/// For each connection, by cookie: who may have it, and whom to look at.
fn heirs_of(
    cookies: &[u64],
    pending: &HashMap<u64, Pending>,
    family: &Relations,
) -> HashMap<u64, (Vec<Pid>, Vec<Pid>)> {
    let pending = cookies.iter().filter_map(|cookie| Some((*cookie, pending.get(cookie)?)));
    let heirs = pending.map(|(cookie, pending)| {
        let nominee = &pending.nominee;
        let pids = match family.heirs(nominee.origin, nominee.by.pid) {
            Heirs::None => Vec::new(),
            Heirs::Some(pids) => pids,
            Heirs::All => family.all().collect(),
        };
        let looked = if pending.audit { family.all().collect() } else { pids.clone() };
        (cookie, (pids, looked))
    });
    heirs.collect()
}
