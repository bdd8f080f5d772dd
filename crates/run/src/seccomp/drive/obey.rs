//! Carries out custody's decisions, and answers its questions.

use std::os::fd::AsFd;
use std::time::Instant;

use linger_custody::Count;
use linger_custody::world::{Action, Answer, Ask as Wanting, Event, Pid};
use rustix::io::Errno;
use rustix::process::Signal;

use super::super::eyes;
use super::super::hands::Taken;
use super::Driver;
use crate::Refusal;

/// The calls that copy fds, other than those that send messages.
const COPYING: &[i64] = &[
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

const SENDING: &[i64] = &[libc::SYS_sendmsg, libc::SYS_sendmmsg];

/// Whether a count says that no process has the connection any more. After a `shutdown` (`Handed`) the process still
/// has it, and after `Refused` it is not known.
fn is_end(reason: Count) -> bool {
    matches!(reason, Count::Finished | Count::Drained | Count::Aborted | Count::Gone)
}

impl Driver {
    /// Reports an event to custody, and carries out its decisions. Returns whether the call is answered instead of
    /// made.
    pub(super) fn tell(&mut self, event: Event<'_>, taken: Option<Taken>) -> bool {
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
                Action::Count { cookie, reason, .. } => {
                    self.count(reason);
                    if let Some(cookie) = cookie.filter(|_| is_end(reason)) {
                        self.hands.forget(cookie);
                    }
                }
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

    /// All processes of the program; `None` where they cannot be known.
    pub(super) fn processes(&mut self) -> Option<Vec<u32>> {
        self.kin.all(self.hands.watched())
    }

    fn find_out(&mut self, ask: Wanting, at_hand: Option<&Taken>) -> Answer {
        match ask {
            // The guard has continued calls since the holders were looked at (this process was stopped), and none of
            // these actions can be undone.
            Wanting::Discard(_) | Wanting::Unwatch(_) | Wanting::HandOver { .. } if self.has_news() => {
                Answer::Unsure
            }
            Wanting::Which { inode, names } => Answer::ProcessFd(eyes::which(inode, names)),
            Wanting::Census { copying } => {
                self.counts.look();
                // Before the census, so that the census shows the results of calls that are over by then.
                let copying = self.hands.within(copying, COPYING);
                let processes = self.processes();
                let census = eyes::census_among(processes.as_deref());
                Answer::Census { copying, census: self.seen(census) }
            }
            Wanting::Flights { copying, sending } => {
                let started = Instant::now();
                let copying = self.hands.within(copying, COPYING);
                let sending = self.hands.within(sending, SENDING);
                let processes = self.processes();
                // The messages are checked first: an fd that is received between the two looks is then found open.
                let quiet = processes.as_deref().is_some_and(eyes::quiet);
                let census = self.seen(eyes::census_among(processes.as_deref()));
                Answer::Flights { copying, sending, quiet, census, took: started.elapsed() }
            }
            Wanting::Socket(kept) => Answer::Socket(self.hands.socket(kept)),
            Wanting::Discard(kept) => Answer::Discarded(self.hands.discard(kept)),
            Wanting::Unwatch(kept) => Answer::Done(self.hands.unwatch(kept)),
            Wanting::HandOver { kept, cookie, unread } => {
                self.hands.forget(cookie);
                Answer::Done(self.hands.part(kept, cookie, unread, self.now))
            }
            Wanting::HandOverShutdown { cookie, unread } => {
                let done = at_hand
                    .is_some_and(|taken| self.hands.hand_over_shutdown(cookie, unread, taken.copy.as_fd()));
                Answer::Done(done)
            }
        }
    }
}
