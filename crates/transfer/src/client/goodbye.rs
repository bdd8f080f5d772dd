//! How a client ends a session whose receipts are all here, and how often it comes back to say that they are.
//!
//! The client's own result is known by then and does not change: what it waits for here is only that the server knows it as
//! well. So a server that is there and says nothing is not waited for long.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::Client;
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::host;

/// Longest silence of a server that has to answer a goodbye, and of one to which it is said again. A longer one lets a server
/// behind a bad link know more often; everybody whose server does not answer waits for it.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// Longest time for a server that works, as one does that notes on a slow disk what it has heard.
const WORKING: Duration = Duration::from_secs(10);
/// Longest time for a close for which nobody wants to wait.
const HURRY: Duration = Duration::from_millis(300);
/// How often a client whose goodbye was lost comes back to say it again, in any case but silence.
const LEAST: u32 = 2;
/// How many silent sessions there are in a row. A second one shows that it was not a box on the path that went silent.
const SILENT: u32 = 2;
/// For how long a client comes back more often than [`LEAST`], if the server answers.
const LONGEST: Duration = Duration::from_secs(20);

/// What became of a goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// The server has answered it, or works on what it has heard for longer than a client waits.
    Heard,
    /// The session was cut; the server took part in it.
    Cut,
    /// The session was cut before the server said anything.
    Unanswered,
    /// The connection stood, and nothing came.
    Silent,
    /// There is no server any more that could hear it.
    Futile,
}

impl Goodbye {
    /// That of a session which ended before the goodbye could be said.
    pub(super) fn after(error: &Error, answered: bool) -> Self {
        match error {
            Error::Cut(error) if error.kind() == ErrorKind::TimedOut => Self::Silent,
            Error::Unreachable { .. } => Self::Futile,
            error if !error.is_temporary() => Self::Futile,
            _ if answered => Self::Cut,
            _ => Self::Unanswered,
        }
    }
}

impl Client {
    /// Ends a session whose receipts are all here.
    ///
    /// That the server's machine has acknowledged the goodbye does not say that the server has it: it may have been a box on the
    /// path (a proxy, a tunnel) that acknowledged it and lost it then. So the server says goodbye in its turn. For one that speaks an
    /// earlier version the end of the connection has to do.
    pub(super) fn say_goodbye(&self, mut session: Session) -> Goodbye {
        let policy = self.policy();
        let policy = policy.with_total(policy.total.min(WORKING)).with_idle(policy.idle.min(ANSWER));
        if session.goodbye(0, "all receipts are here").is_err() {
            session.close(&policy);
            return Goodbye::Cut;
        }
        if !session.answers_goodbyes() {
            return session.close(&policy).map_or(Goodbye::Heard, |outcome| closed(outcome.ended));
        }
        let goodbye = hears_answer(&mut session, &policy);
        // Whoever was silent until now is not waited for once more.
        session.close(&if goodbye == Goodbye::Silent { hurried(&policy) } else { policy });
        goodbye
    }
}

/// Bounds of a close for which nobody wants to wait.
pub(super) fn hurried(policy: &linger::Policy) -> linger::Policy {
    policy.with_total(policy.total.min(HURRY)).with_idle(policy.idle.min(HURRY))
}

/// What a close says of the goodbye before it. A server that has it closes in its turn.
fn closed(ended: linger::Ended) -> Goodbye {
    use linger::Ended;
    match ended {
        Ended::PeerReset | Ended::Gone => Goodbye::Cut,
        Ended::TimedOut(_) => Goodbye::Silent,
        _ => Goodbye::Heard,
    }
}

/// Waits for the server's goodbye.
fn hears_answer(session: &mut Session, policy: &linger::Policy) -> Goodbye {
    let began = host::now();
    let mut heard = began;
    loop {
        match session.try_receive() {
            Ok(Some(SessionEvent::Bye { code: 0, .. })) => return Goodbye::Heard,
            Ok(Some(SessionEvent::Bye { .. })) => return Goodbye::Cut,
            Ok(Some(_)) => heard = host::now(),
            Ok(None) => {
                let now = host::now();
                let silence = policy.idle.saturating_sub(now.saturating_duration_since(heard));
                let all = policy.total.saturating_sub(now.saturating_duration_since(began));
                if silence.is_zero() {
                    return Goodbye::Silent;
                }
                if all.is_zero() {
                    return Goodbye::Heard;
                }
                if session.linger_for(silence.min(all)).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // It may have come together with the end of the connection.
    let mut words = std::iter::from_fn(|| session.last_words());
    let said = words.any(|word| matches!(word, SessionEvent::Bye { code: 0, .. }));
    if said { Goodbye::Heard } else { Goodbye::Cut }
}

/// The goodbyes that were lost.
#[derive(Debug)]
pub(super) struct Goodbyes {
    until: Instant,
    lost: u32,
    /// How many of the last attempts met silence.
    silent: u32,
    /// How many of the last attempts brought no answer. A forward to a server that has ended accepts connections, too.
    unanswered: u32,
}

impl Goodbyes {
    /// No goodbye was lost until now. A client without patience does not come back.
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        let lost = if patience.is_zero() { LEAST } else { 0 };
        Self { until: now + patience.min(LONGEST), lost, silent: 0, unanswered: 0 }
    }

    /// Notes what became of one more. Returns whether it is of use to come back once more.
    pub(super) fn again(&mut self, goodbye: Goodbye, now: Instant) -> bool {
        self.lost += 1;
        self.silent = if goodbye == Goodbye::Silent { self.silent + 1 } else { 0 };
        match goodbye {
            Goodbye::Heard | Goodbye::Futile => return false,
            Goodbye::Cut => self.unanswered = 0,
            Goodbye::Unanswered => self.unanswered += 1,
            Goodbye::Silent => {}
        }
        let least = self.lost <= LEAST;
        self.silent < SILENT && (least || (now < self.until && self.unanswered < LEAST))
    }
}

#[cfg(test)]
mod tests;
