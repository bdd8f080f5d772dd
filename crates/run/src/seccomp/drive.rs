//! The thread that gets the program's notifications: it tells custody about each call, and carries out the decisions
//! with `hands` and `eyes`.
//!
//! It has a table of fds of its own ([`crate::kernel::apart`]). The kernel knows an epoll's registration by file and
//! fd number, so only a table in which the file has the program's number can remove it.

mod calls;
mod lend;
mod pace;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use linger_custody::Count;
use linger_custody::world::{Action, Answer, Ask as Wanting, Census, Event, Kept, Pid, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::Counts;
use super::ask::{Ask, Call};
use super::eyes::{self, Wanted};
use super::hands::{Accepting, Fd, Hands, Lent, Taken};
use crate::Refusal;
use crate::kernel::Listener;
use pace::{Rounds, SOON};

/// The pause after the last thread has left the filter, until its process has closed its fds.
const LAST: Duration = Duration::from_micros(200);

/// Longest delay of a signal to a thread that is blocked in `accept`: only a fatal signal interrupts such a call.
const SIGNALS: Duration = Duration::from_millis(50);

/// After this time a call that the guard has continued is over.
const OVER: Duration = Duration::from_secs(1);

/// Looks for what these calls have done take at most one in this many parts of the time.
const SHARE: u32 = 20;

/// The calls that copy fds, but for messages.
const COPYING: &[i64] = &[
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

const SENDING: &[i64] = &[libc::SYS_sendmsg, libc::SYS_sendmmsg];

/// Calls that the guard has continued.
struct Unheard {
    calls: u64,
    /// Their effects are not known yet.
    is_any: bool,
    /// Until when one of them may not be over, and when that is reported again.
    until: Instant,
    next: Instant,
    /// The last look has found nothing in flight, and nothing hidden.
    quiet: bool,
}

impl Unheard {
    /// So many calls were let happen by now.
    fn of(calls: u64, until: Instant, now: Instant) -> Self {
        Self { calls, is_any: calls > 0, until, next: now, quiet: false }
    }
}

/// What has ended a wait.
struct Woken {
    /// Of the notification fd.
    asked: PollFlags,
    timer: bool,
    /// The guard, the end of a process, or a thread that waits for a connection.
    others: bool,
}

impl Woken {
    /// Waits for the notification fd, the timer, and all others.
    fn of<'fd>(mut fds: impl AsMut<[PollFd<'fd>]>, timeout: Option<Timespec>) -> Self {
        let fds = fds.as_mut();
        match (poll(fds, timeout.as_ref()), &*fds) {
            (Ok(_), [asked, timer, others @ ..]) => Self {
                asked: asked.revents(),
                timer: !timer.revents().is_empty(),
                others: others.iter().any(|other| !other.revents().is_empty()),
            },
            _ => Self { asked: PollFlags::empty(), timer: false, others: false },
        }
    }
}

/// The parts of the thread. None of them uses another.
pub(super) struct Driver {
    ask: Ask,
    world: World,
    hands: Hands,
    wanted: Wanted,
    counts: Arc<Counts>,
    /// Threads blocked in `accept` (with `--hold`).
    accepting: Vec<Accepting>,
    started: Instant,
    /// The time since then, read once for each notification.
    now: Duration,
    rounds: Rounds,
    /// When to look next at fds whose close was continued: a look at many of them takes long.
    look_at: Instant,
    unheard: Unheard,
    /// When a notification came last.
    asked_at: Option<Duration>,
    /// Receives the first refusal.
    tell: Option<mpsc::Sender<Refusal>>,
}

impl Driver {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(
        listener: Listener,
        intake: OwnedFd,
        wanted: Wanted,
        counts: Arc<Counts>,
        tell: mpsc::Sender<Refusal>,
        // If the program's fds cannot be copied, the supervisor needs copies of the listeners that the program
        // inherits.
        lends: Option<Vec<OwnedFd>>,
    ) -> rustix::io::Result<Self> {
        let lent = lends.map(|inherited| {
            let lent = Lent::default();
            inherited.into_iter().for_each(|listener| lent.socket(listener));
            lent
        });
        let hands = Hands::new(intake, lent);
        let now = Instant::now();
        Ok(Self {
            ask: Ask::new(listener),
            world: World::default(),
            rounds: Rounds::new(|timer| hands.move_up(timer))?,
            hands,
            wanted,
            counts,
            accepting: Vec::new(),
            started: now,
            now: Duration::ZERO,
            look_at: now,
            unheard: Unheard::of(0, now, now),
            asked_at: None,
            tell: Some(tell),
        })
    }

    /// Answers until the last process of the program has ended.
    pub(super) fn run(mut self) {
        self.answer_all();
        self.hand_over(true);
    }

    fn answer_all(&mut self) {
        loop {
            let Woken { asked, timer, others } = self.wait_or_look();
            let others = others || !self.accepting.is_empty();
            let now = self.now();
            self.mind_unheard(others);
            let is_over = asked.contains(PollFlags::HUP);
            // One that is due brings the look for all.
            let is_any_due = others || is_over || !self.hands.called(now.saturating_sub(SOON)).is_empty();
            let mut called = if is_any_due { self.hands.called(now) } else { Vec::new() };
            if timer {
                // While notifications come, they bring the looks.
                let is_due = !called.is_empty() || self.hands.parted_due().is_some_and(|due| due <= now);
                self.rounds.fired(is_due && self.asked_at.is_none_or(|at| at + SOON <= now));
            }
            let is_asked = asked.contains(PollFlags::IN);
            if is_asked {
                self.asked_at = Some(now);
                match self.ask.next() {
                    Ok(Some((notification, call))) => {
                        // A close is answered first. What else is asked is decided without a search if what is closed is known.
                        if !matches!(call, Call::Close(_)) {
                            self.look(&self.hands.called(now));
                            called.clear();
                        }
                        self.notified(&notification, call);
                    }
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
            let waiting = self.hands.calls();
            self.look(&called);
            if timer && !called.is_empty() && self.hands.calls() == waiting {
                self.rounds.in_vain();
            }
            self.hand_over(false);
            if others {
                self.accept_all();
                self.bury();
            }
            if self.world.due().is_some_and(|due| due <= self.now) {
                self.tell(Event::Tick, None);
            }
            if is_over && self.hands.calls() == 0 {
                // No thread can make a call any more. The last process may still be closing its fds.
                self.accepting.clear();
                self.tell(Event::Ended, None);
                if self.world.is_idle() {
                    return;
                }
                // The last process leaves the filter first and closes its fds afterwards; no fd reports that.
                std::thread::sleep(LAST);
            }
        }
    }

    /// Hands over what was half-closed some time ago, or `all`.
    fn hand_over(&mut self, all: bool) {
        let now = self.now;
        if self.hands.parted_due().is_some_and(|due| all || due <= now) {
            let partings = self.hands.hand_over_parted(now, all);
            self.counts.part(partings);
        }
    }

    /// Waits for a notification, or until it is time to look. The timer is set only if there is none yet.
    fn wait_or_look(&mut self) -> Woken {
        let (calls, due) = (self.hands.calls() > 0, self.hands.parted_due());
        if !self.rounds.is_set(self.now, calls, due) {
            let woken = self.wait(Some(Timespec { tv_sec: 0, tv_nsec: 0 }));
            if !woken.asked.is_empty() || woken.timer || woken.others {
                return woken;
            }
            let now = self.now();
            self.rounds.set(now, calls, due);
        }
        self.wait(self.timeout())
    }

    fn wait(&self, timeout: Option<Timespec>) -> Woken {
        let heeds_deaths = self.world.heeds_deaths() || self.hands.lent().is_some();
        let always = [
            PollFd::new(&self.ask, PollFlags::IN),
            PollFd::from_borrowed_fd(self.rounds.timer(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.ask.news(), PollFlags::IN),
        ];
        // Usually there are no more. Many of them would make each notification dearer.
        if !heeds_deaths && self.accepting.is_empty() {
            return Woken::of(always, timeout);
        }
        let mut fds = Vec::from(always);
        let ends = self.hands.ends().filter(|_| heeds_deaths);
        fds.extend(ends.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
        fds.extend(self.accepting.iter().map(|waiting| PollFd::new(&waiting.listener, PollFlags::IN)));
        Woken::of(fds, timeout)
    }

    /// Until when to wait for what comes seldom.
    fn timeout(&self) -> Option<Timespec> {
        let due = self.world.due().map(|due| due.saturating_sub(self.started.elapsed()));
        let waits = [
            (!self.accepting.is_empty()).then_some(SIGNALS),
            self.unheard.is_any.then(|| self.unheard.next.saturating_duration_since(Instant::now())),
            due,
        ];
        Timespec::try_from(waits.into_iter().flatten().min()?).ok()
    }

    /// Reports calls that the guard has continued while this process was stopped.
    ///
    /// Checked with each notification: the guard counts a call before it continues it. `others` says whether anything
    /// else has happened.
    fn mind_unheard(&mut self, others: bool) {
        let unheard = if others { self.ask.unheard() } else { self.ask.counted() };
        if unheard == self.unheard.calls && !self.unheard.is_any {
            return;
        }
        let now = Instant::now();
        if unheard != self.unheard.calls {
            tracing::warn!(calls = unheard, "the guard has let calls happen: this process was stopped");
            self.unheard = Unheard::of(unheard, now + OVER, now);
        }
        if !self.unheard.is_any || now < self.unheard.next {
            return;
        }
        self.unheard.next = now + OVER / 10;
        if now < self.unheard.until {
            self.tell(Event::Unheard, None);
            return;
        }
        let processes = eyes::processes();
        // The messages are checked first: an fd that is received between the two looks is then found open. Twice, for `recvmsg`
        // takes an fd out of its queue a moment before its process has it.
        let quiet = eyes::quiet(&processes);
        let census = eyes::census_of(&processes);
        // Nobody knows what a process that cannot be looked at has, and what it has been sent, until it ends.
        let is_over = quiet && !census.hidden;
        if std::mem::replace(&mut self.unheard.quiet, is_over) && is_over {
            self.unheard.is_any = false;
            self.tell(Event::Heard(&census), None);
        }
        let took = now.elapsed();
        let pause = if census.hidden { OVER } else { OVER / 10 };
        self.unheard.next = now + took + (took * SHARE).max(pause);
    }

    /// Reads the clock.
    fn now(&mut self) -> Duration {
        self.now = self.started.elapsed();
        self.now
    }

    /// Reports an event to custody, and carries out its decisions. Returns whether the call is answered instead of
    /// made.
    fn tell(&mut self, event: Event<'_>, taken: Option<Taken>) -> bool {
        let cookie = match event {
            Event::Close { seen, .. } => Some(seen.cookie),
            _ => None,
        };
        self.world.on(event, self.now);
        let mut at_hand = taken;
        let mut pretends = false;
        while let Some(action) = self.world.next() {
            match action {
                Action::Ask(ask) => {
                    let takes_long = matches!(ask, Wanting::Census { .. } | Wanting::Flights { .. });
                    let answer = self.find_out(ask, at_hand.as_ref());
                    if takes_long {
                        self.now();
                    }
                    self.world.answer(answer, self.now);
                }
                Action::Keep(kept) => {
                    if let (Some(taken), Some(cookie)) = (at_hand.take(), cookie) {
                        self.hands.keep(kept, cookie, taken, self.now);
                        self.rounds.closing();
                    }
                }
                Action::KeepHeld(kept, cookie) => self.hands.keep_held(kept, cookie),
                Action::Drop(kept) => self.hands.drop_kept(kept),
                Action::Release(cookie) => self.hands.release(cookie),
                Action::Watch(pid) => {
                    // A process that cannot be watched any more has ended, which is noticed at the next look for dead
                    // processes.
                    self.hands.watch(pid);
                }
                Action::Pretend => pretends = true,
                Action::Hidden(pid) => self.name(pid),
                Action::Count { reason, .. } => self.count(reason),
            }
        }
        pretends
    }

    fn count(&self, reason: Count) {
        if reason != Count::Unread {
            self.counts.add(Count::Seen);
        }
        self.counts.add(reason);
    }

    /// Reports the first process that cannot be looked at.
    fn name(&mut self, Pid(process): Pid) {
        if let Some(tell) = self.tell.take()
            && tell.send(Refusal::new(process, Errno::PERM.into())).is_ok()
        {
            // The main thread waits for signals. SIGCHLD only wakes it.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
        }
    }

    /// Whether the guard has let calls happen of which custody has not been told: what it knows may be wrong.
    fn has_news(&self) -> bool {
        self.ask.counted() != self.unheard.calls
    }

    /// What the calls have done that the guard has let happen is hidden from a look.
    fn seen(&self, census: Census) -> Census {
        Census { hidden: census.hidden || self.has_news(), ..census }
    }

    fn find_out(&mut self, ask: Wanting, at_hand: Option<&Taken>) -> Answer {
        match ask {
            // This process was stopped since it was seen who has the connection, and nothing of this can be undone.
            Wanting::Discard(_) | Wanting::Unwatch(_) | Wanting::HandOver { .. } if self.has_news() => {
                Answer::Unsure
            }
            Wanting::Which { inode, names } => Answer::Name(eyes::which(inode, names)),
            Wanting::Census { copying } => {
                self.counts.look();
                // Before the census, so that the census shows the results of calls that are over by then.
                let copying = self.hands.within(copying, COPYING);
                Answer::Census { copying, census: self.seen(eyes::census()) }
            }
            Wanting::Flights { copying, sending } => {
                let started = Instant::now();
                let copying = self.hands.within(copying, COPYING);
                let sending = self.hands.within(sending, SENDING);
                let processes = eyes::processes();
                // The messages are checked first: an fd that is received between the two looks is then found open.
                let quiet = eyes::quiet(&processes);
                let census = self.seen(eyes::census_of(&processes));
                Answer::Flights { copying, sending, quiet, census, took: started.elapsed() }
            }
            Wanting::Socket(kept) => Answer::Socket(self.hands.socket(kept)),
            Wanting::Discard(kept) => Answer::Discarded(self.hands.discard(kept)),
            Wanting::Unwatch(kept) => Answer::Done(self.hands.unwatch(kept)),
            Wanting::HandOver { kept, cookie, unread } => {
                Answer::Done(self.hands.part(kept, cookie, unread, self.now))
            }
            Wanting::HandOverShutdown { cookie, unread } => {
                let done = at_hand
                    .is_some_and(|taken| self.hands.hand_over_shutdown(cookie, unread, taken.copy.as_fd()));
                Answer::Done(done)
            }
        }
    }

    fn accept_all(&mut self) {
        for accepting in std::mem::take(&mut self.accepting) {
            if !accepting.give_way(&self.ask) {
                self.accept(accepting);
            }
        }
    }

    /// Reports the processes that have died.
    fn bury(&mut self) {
        let ended = self.hands.ended();
        if let Some(lent) = self.hands.lent().filter(|_| !ended.is_empty()) {
            lent.sweep(|_, _| false);
        }
        for pid in ended {
            self.tell(Event::Died(pid), None);
        }
    }

    /// Looks whether these that the program was let close are closed.
    fn look(&mut self, called: &[Kept]) {
        if called.is_empty() {
            return;
        }
        let started = Instant::now();
        if started < self.look_at {
            return;
        }
        self.now = started - self.started;
        let states = self.hands.look_at(called, self.now);
        let took = started.elapsed();
        for (kept, state) in states {
            self.tell(
                match state {
                    Fd::Closed => Event::Closed(kept),
                    Fd::Open => Event::StillOpen(kept),
                    Fd::Lost => Event::Lost(kept),
                },
                None,
            );
        }
        if self.hands.calls() > 0 {
            self.look_at = Instant::now() + took * 4;
        }
    }
}
