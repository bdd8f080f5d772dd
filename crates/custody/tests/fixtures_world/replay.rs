//! A recording told to `World`: what it asks is answered with what was true at that moment.

use std::collections::{BTreeMap, BTreeSet};

use linger_custody::world::{
    Action, Answer, Ask, Caller, Cookie, Event, Inode, Kept, Open, Pid, ProcessFd, Seen, Unseen, World,
};
use linger_custody::{Count, Discarded};

use crate::recorded::{self, Found, Handed, Outcome, Outcomes, Said, Step};

/// A kept fd.
struct KeptFd {
    cookie: u64,
    /// `None` for what was held since it was accepted.
    fd: Option<(ProcessFd, Inode)>,
    /// Its close was reported.
    closed: bool,
}

#[derive(Default)]
struct Replay {
    world: World,
    kept: BTreeMap<Kept, KeptFd>,
    /// What the recorded supervisor kept, and watched.
    watched: BTreeSet<(u64, ProcessFd)>,
    outcomes: Outcomes,
}

/// What `World` decides at each step, by connection.
pub(crate) fn replay(steps: &[Step]) -> Outcomes {
    let mut replay = Replay::default();
    for (moment, step) in recorded::moments(steps) {
        replay.step(moment, step);
    }
    let mut left: BTreeMap<u64, usize> = BTreeMap::new();
    for one in replay.kept.values() {
        *left.entry(one.cookie).or_default() += 1;
    }
    for (cookie, count) in left {
        replay.outcomes.entry(cookie).or_default().push((steps.len() - 1, Outcome::Left(count)));
    }
    replay.outcomes
}

impl Replay {
    fn step(&mut self, at: usize, step: &Step) {
        self.see_what_is_closed(at, step);
        if self.world.due().is_some_and(|due| due <= step.at) {
            self.tell(at, step, Event::Tick, None);
        }
        match &step.event {
            recorded::Event::Calls(tid) => self.tell(at, step, Event::Calls(*tid), None),
            recorded::Event::Appeared(family) => {
                let (caller, open) = self.family(family);
                self.tell(at, step, Event::Appeared { caller, open: &open, hidden: family.hidden }, None);
            }
            recorded::Event::Fork(family, alone) => {
                let (caller, open) = self.family(family);
                let event = Event::Fork { caller, open: &open, hidden: family.hidden, alone: *alone };
                self.tell(at, step, event, None);
            }
            recorded::Event::Copy(found) => {
                let (caller, seen) = seen(found);
                self.tell(at, step, Event::Copy { caller, seen }, None);
            }
            recorded::Event::Send(found, abroad) => {
                let (caller, seen) = seen(found);
                self.tell(at, step, Event::Send { caller, seen, abroad: *abroad }, None);
            }
            recorded::Event::Close(found, way) => {
                let (caller, seen) = seen(found);
                self.tell(at, step, Event::Close { caller, seen, way: *way }, Some(found));
            }
            recorded::Event::Shutdown(found) => {
                let (_, seen) = seen(found);
                self.tell(at, step, Event::Shutdown(seen), Some(found));
            }
            recorded::Event::Hidden(pid, sends) => {
                // All that were recorded and send nothing close something.
                let does = if *sends { Unseen::Sends } else { Unseen::Closes };
                self.tell(at, step, Event::Hidden { pid: *pid, does }, None);
            }
            recorded::Event::Accepted(cookie, inode, pid) => {
                let event = Event::Accepted { cookie: Cookie(*cookie), inode: *inode, pid: *pid };
                self.tell(at, step, event, None);
            }
            recorded::Event::Closed(name, cookie) => {
                self.watched.remove(&(*cookie, *name));
                if let Some(kept) = self.find(*cookie, *name) {
                    self.closed(at, step, kept);
                }
            }
            recorded::Event::StillOpen(name, cookie) => {
                if let Some(kept) = self.find(*cookie, *name) {
                    self.tell(at, step, Event::StillOpen(kept), None);
                }
            }
            recorded::Event::Lost(name, cookie) => {
                self.watched.remove(&(*cookie, *name));
                if let Some(kept) = self.find(*cookie, *name) {
                    self.tell(at, step, Event::Lost(kept), None);
                }
            }
            recorded::Event::Died(pid) => self.tell(at, step, Event::Died(*pid), None),
            recorded::Event::Ended => self.tell(at, step, Event::Ended, None),
            recorded::Event::Tick => self.tell(at, step, Event::Tick, None),
        }
        for (cookie, outcome) in &step.done {
            if let Outcome::Keep(name) = outcome {
                self.watched.insert((*cookie, *name));
            }
        }
    }

    /// The recording does not show when an fd is closed that only `World` keeps. It counts as closed when it is seen
    /// nowhere.
    fn see_what_is_closed(&mut self, at: usize, step: &Step) {
        let is_gone = |one: &KeptFd| {
            one.fd.is_some_and(|(name, inode)| {
                !one.closed
                    && !self.watched.contains(&(one.cookie, name))
                    && !step.truth.census.names(inode).contains(&name)
            })
        };
        let gone: Vec<Kept> =
            self.kept.iter().filter(|(_, one)| is_gone(one)).map(|(kept, _)| *kept).collect();
        gone.into_iter().for_each(|kept| self.closed(at, step, kept));
    }

    fn closed(&mut self, at: usize, step: &Step, kept: Kept) {
        // An earlier one's end may have dropped it.
        if let Some(one) = self.kept.get_mut(&kept) {
            one.closed = true;
            self.tell(at, step, Event::Closed(kept), None);
        }
    }

    fn find(&self, cookie: u64, name: ProcessFd) -> Option<Kept> {
        let is_it =
            |one: &KeptFd| one.cookie == cookie && !one.closed && one.fd.is_some_and(|fd| fd.0 == name);
        self.kept.iter().find(|(_, one)| is_it(one)).map(|(kept, _)| *kept)
    }

    fn family(&self, family: &recorded::Family) -> (Caller, Vec<Open>) {
        let open = |&(fd, inode, cookie): &(i32, Inode, u64)| {
            let cookie = (!self.world.shares(inode)).then_some(Cookie(cookie));
            Open { fd, inode, cookie }
        };
        (Caller { pid: family.pid, tid: family.tid }, family.open.iter().map(open).collect())
    }

    fn tell(&mut self, at: usize, step: &Step, event: Event<'_>, found: Option<&Found>) {
        let shuts_down = matches!(event, Event::Shutdown { .. });
        self.world.on(event, step.at);
        while let Some(action) = self.world.next() {
            match action {
                Action::Ask(ask) => {
                    let answer = self.find_out(at, step, ask);
                    self.world.answer(answer, step.at);
                }
                Action::Keep(kept) => {
                    let found = found.filter(|_| !shuts_down).expect("only a close keeps");
                    let fd = Some((found.name, found.inode));
                    self.kept.insert(kept, KeptFd { cookie: found.cookie, fd, closed: false });
                    self.note(at, found.cookie, Outcome::Keep(found.name));
                }
                Action::KeepHeld(kept, Cookie(cookie)) => {
                    self.kept.insert(kept, KeptFd { cookie, fd: None, closed: true });
                }
                Action::Drop(kept) => {
                    self.kept.remove(&kept).expect("what is dropped is kept");
                }
                // That the fd of a held connection is closed says nothing more of it.
                Action::Release(_) | Action::Watch(_) | Action::Hidden(_) => {}
                Action::Pretend => {
                    let cookie = found.filter(|_| shuts_down).expect("only a shutdown is pretended").cookie;
                    self.note(at, cookie, Outcome::Pretend);
                }
                Action::Count { cookie, reason, holder } => {
                    let holder: Option<Pid> = holder.filter(|_| reason == Count::Shared);
                    self.note(at, cookie.map_or(0, |cookie| cookie.0), Outcome::Count(reason, holder));
                }
            }
        }
    }

    fn note(&mut self, at: usize, cookie: u64, outcome: Outcome) {
        self.outcomes.entry(cookie).or_default().push((at, outcome));
    }

    fn find_out(&mut self, at: usize, step: &Step, ask: Ask) -> Answer {
        let truth = &step.truth;
        let cookie_of = |kept: Kept| self.kept.get(&kept).expect("what is asked about is kept").cookie;
        let said = |kept: Kept| *truth.sockets.get(&cookie_of(kept)).expect("its socket has spoken");
        match ask {
            Ask::Which { inode, names } => {
                Answer::ProcessFd(names.into_iter().find(|name| truth.census.names(inode).contains(name)))
            }
            Ask::Census { mut copying } => {
                copying.retain(|tid| truth.copying.contains(tid));
                Answer::Census { copying, census: truth.census.clone() }
            }
            Ask::Flights { mut copying, mut sending } => {
                copying.retain(|tid| truth.copying.contains(tid));
                sending.retain(|tid| truth.sending.contains(tid));
                let (census, took) = (truth.census.clone(), std::time::Duration::ZERO);
                Answer::Flights { copying, sending, quiet: truth.quiet, census, took }
            }
            Ask::Socket(kept) => Answer::Socket(said(kept).socket),
            // The bytes are read before the error is reported (`tcp_recvmsg_locked`); only TCP discards without a buffer.
            Ask::Discard(kept) => Answer::Discarded(match said(kept) {
                Said { is_tcp: false, .. } => Discarded::Unable,
                Said { failed: true, .. } => Discarded::Failed,
                Said { failed: false, .. } => Discarded::ToTheEnd,
            }),
            Ask::Unwatch(kept) => Answer::Done(!step.unable.contains(&cookie_of(kept))),
            Ask::HandOver { kept, cookie: Cookie(cookie), unread } => {
                assert_eq!(cookie_of(kept), cookie);
                self.hand_over(at, step, cookie, Handed::Close, unread)
            }
            Ask::HandOverShutdown { cookie: Cookie(cookie), unread } => {
                self.hand_over(at, step, cookie, Handed::Shutdown, unread)
            }
        }
    }

    fn hand_over(&mut self, at: usize, step: &Step, cookie: u64, kind: Handed, unread: u32) -> Answer {
        let taken = !step.untaken.contains(&cookie);
        if taken {
            self.note(at, cookie, Outcome::HandOver(kind, unread));
        }
        Answer::Done(taken)
    }
}

fn seen(found: &Found) -> (Caller, Seen) {
    let Found { name, tid, cookie, inode, socket } = *found;
    (Caller { pid: name.pid, tid }, Seen { fd: name.fd, cookie: Cookie(cookie), inode, socket })
}
