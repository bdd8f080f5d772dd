//! The thread that gets the program's notifications: it tells custody about each call, and carries out the decisions
//! with `hands` and `eyes`.
//!
//! It has a table of fds of its own ([`crate::kernel::apart`]). The kernel knows an epoll's registration by file and
//! fd number, so only a table in which the file has the program's number can remove it.

mod calls;
mod lend;
mod obey;
mod pace;
mod unheard;

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use linger_custody::world::{Event, Kept, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Counts;
use super::ask::{Ask, Call};
use super::eyes::{Kin, Wanted};
use super::hands::{Accepting, Fd, Hands, Lent};
use crate::Refusal;
use crate::kernel::Listener;
use pace::{Rounds, SOON};
use unheard::Unheard;

/// The pause between looks after the last thread has left the filter, while its process closes its fds.
const LAST: Duration = Duration::from_micros(200);

/// Longest delay of a signal to a thread that is blocked in `accept`: only a fatal signal interrupts such a call.
const SIGNALS: Duration = Duration::from_millis(50);

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
    kin: Kin,
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
    /// For the first process that cannot be looked at.
    tell: Option<mpsc::Sender<Refusal>>,
}

impl Driver {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(
        listener: Listener,
        intake: OwnedFd,
        kin: Kin,
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
            kin,
            wanted,
            counts,
            accepting: Vec::new(),
            started: now,
            now: Duration::ZERO,
            look_at: now,
            unheard: Unheard::default(),
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
            // If one fd is due, all are looked at.
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
                        // A close is answered before the look. Other calls are decided after it: a search may be
                        // unnecessary once the finished closes are known.
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

    /// Waits for a notification, or until it is time to look. The timer is set only if no notification is there yet.
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
        // Usually these are all. Each further fd makes every notification more expensive.
        if !heeds_deaths && self.accepting.is_empty() {
            return Woken::of(always, timeout);
        }
        let mut fds = Vec::from(always);
        let ends = self.hands.ends().filter(|_| heeds_deaths);
        fds.extend(ends.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
        fds.extend(self.accepting.iter().map(|waiting| PollFd::new(&waiting.listener, PollFlags::IN)));
        Woken::of(fds, timeout)
    }

    /// The longest wait, for what has no fd to poll: signals to threads in `accept`, calls that the guard continued,
    /// custody's deadlines.
    fn timeout(&self) -> Option<Timespec> {
        let due = self.world.due().map(|due| due.saturating_sub(self.started.elapsed()));
        let waits = [
            (!self.accepting.is_empty()).then_some(SIGNALS),
            self.unheard.due().map(|due| due.saturating_sub(self.started.elapsed())),
            due,
        ];
        Timespec::try_from(waits.into_iter().flatten().min()?).ok()
    }

    /// Reads the clock.
    fn now(&mut self) -> Duration {
        self.now = self.started.elapsed();
        self.now
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

    /// Looks whether the fds whose close was continued are closed by now.
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
