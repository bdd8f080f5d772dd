//! What both ends do after a connection was cut. This is the place to start reading about it.
//!
//! The client opens session after session ([`attempts`](Client::attempts)) until everything is settled or its [`Patience`] is
//! over. `Error::is_temporary` tells which errors are worth another session. Each session of a put sends again what has no
//! receipt ([`Outgoing::again`]), under the same transfer id. If every entry has its receipt and only the goodbye was lost, the
//! client reconnects to say goodbye again ([`Goodbyes`]).
//!
//! At the receiver, the new session makes the old session of the same client give way (`claim.rs`). Then it continues with the
//! partial file (`state.rs`), answers that it has the entry already (`receive/entry.rs`), or repeats the result of the sink's
//! command (`delivery.rs`). A server that ends after one request waits for a client that was cut (`Served::may_return`,
//! `serve/count.rs`), for as long as [`ShareOptions::patience`] says.
//!
//! [`Outgoing::again`]: crate::outgoing::Outgoing::again
//! [`ShareOptions::patience`]: crate::ShareOptions::patience

use std::sync::PoisonError;
use std::time::Duration;

use super::Client;
use super::connect::is_stranger;
use super::patience::{Goodbyes, Patience};
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::host;
use crate::machine::Role;
use crate::progress::Progress;

/// Longest time for a close after a stop was requested.
const HURRY: Duration = Duration::from_millis(300);

impl Client {
    /// Bounds of a close: those of the options, or [`HURRY`] after a request to stop, which shall not wait for a slow peer.
    fn policy(&self) -> linger::Policy {
        let policy = self.options.policy;
        if !self.cancel.is_cancelled() {
            return policy;
        }
        policy.with_total(policy.total.min(HURRY)).with_idle(policy.idle.min(HURRY))
    }

    /// Whether a goodbye that was lost with this error may arrive if it is said again: not if the server cannot be reached or
    /// the error is permanent.
    fn may_hear(error: Option<&Error>) -> bool {
        error.is_none_or(|error| error.is_temporary() && !matches!(error, Error::Unreachable { .. }))
    }

    /// Ends a session whose receipts are all here. Returns whether the server knows that they are.
    ///
    /// A TCP acknowledgement of the goodbye is no proof: a proxy or tunnel on the path may have acknowledged the bytes and then
    /// lost them. So the server answers with a goodbye of its own, from version 3 of the protocol on. With an older server, an
    /// orderly close of the connection has to be enough.
    pub(super) fn say_goodbye(&self, mut session: Session) -> bool {
        let said = session.goodbye(0, "all receipts are here").is_ok();
        let heard = (said && session.answers_goodbyes()).then(|| self.hears_answer(&mut session));
        let outcome = session.close(&self.policy());
        said && heard.unwrap_or_else(|| outcome.is_none_or(|outcome| !is_lost(outcome.ended)))
    }

    /// Waits for the server's goodbye, within the bounds of a close, and returns whether it came. A server that writes to a
    /// slow disk first reports work meanwhile, and each report restarts the bound `idle`.
    fn hears_answer(&self, session: &mut Session) -> bool {
        let policy = self.policy();
        let began = host::now();
        let mut heard = began;
        loop {
            match session.try_receive() {
                Ok(Some(SessionEvent::Bye { code, .. })) => return code == 0,
                Ok(Some(_)) => heard = host::now(),
                Ok(None) => {
                    let now = host::now();
                    let left = policy.idle.saturating_sub(now.saturating_duration_since(heard));
                    let left = left.min(policy.total.saturating_sub(now.saturating_duration_since(began)));
                    if left.is_zero() || session.linger_for(left).is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        // The goodbye may have come together with the end of the connection.
        let mut words = std::iter::from_fn(|| session.last_words());
        words.any(|word| matches!(word, SessionEvent::Bye { code: 0, .. }))
    }

    /// Runs sessions until one succeeds, an error is permanent, or there is no progress for too long. If the first attempt to
    /// connect fails, nothing is tried again. With `repeats`, each session confirms again what an earlier one has confirmed.
    pub(super) fn attempts(
        &self,
        repeats: bool,
        observe: &mut dyn FnMut(Progress),
        mut once: impl FnMut(&mut Session, &mut dyn FnMut(Progress)) -> Result<Farewell, Error>,
    ) -> Result<(), Error> {
        let retry = self.options.retry;
        let mut patience = Patience::new(retry, repeats, host::now());
        let (mut connected, mut greeted) = (false, false);
        // Set once everything is settled and a goodbye was lost.
        let mut goodbyes = None;
        loop {
            let mut answered = false;
            patience.begin(host::now());
            let result = self.connect().and_then(|mut session| {
                connected = true;
                *self.activity.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.activity());
                session.watch(|| {});
                observe(Progress::Connected { secure: session.is_encrypted() });
                let mut watch = |progress: Progress| {
                    patience.see(&progress, host::now());
                    observe(progress);
                };
                let result = once(&mut session, &mut watch);
                answered = session.is_greeted();
                greeted |= answered;
                match result {
                    // All receipts are here. A goodbye that is not heard does not change that.
                    Ok(Farewell::Due) => Ok(self.say_goodbye(session)),
                    Ok(Farewell::Said) => {
                        session.close(&self.policy());
                        Ok(true)
                    }
                    Err(error) => {
                        let _ = session.goodbye(error.code(Role::Initiator), &error.farewell());
                        session.close(&self.policy());
                        Err(error)
                    }
                }
            });
            let error = match result {
                Ok(true) => return Ok(()),
                Err(error) if goodbyes.is_none() => error,
                // The result is known here and does not change. The server may not know that: this side reconnects to say
                // so.
                lost => {
                    let now = host::now();
                    let goodbyes = goodbyes.get_or_insert_with(|| Goodbyes::new(retry.patience, now));
                    let again = goodbyes.again(answered, now) && Self::may_hear(lost.err().as_ref());
                    if !again || self.cancel.wait(retry.first) {
                        return Ok(());
                    }
                    continue;
                }
            };
            if error.is_temporary() && self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if connected && !greeted && is_stranger(&error) {
                return Err(self.stranger(&error));
            }
            if self.has_to_encrypt(&error) {
                continue;
            }
            let pause = patience.end(host::now());
            let (temporary, in_vain) = (error.is_temporary(), patience.in_vain().as_secs_f64());
            tracing::info!(%error, connected, temporary, seconds_in_vain = in_vain, "session ended early");
            // Only an established transfer waits out an outage; the first connection has to succeed.
            let Some(pause) = pause.filter(|_| connected && temporary) else { return Err(error) };
            observe(Progress::Retrying { error: error.to_string(), pause: pause.as_secs_f64() });
            if self.cancel.wait(pause) {
                return Err(Error::Cancelled);
            }
        }
    }
}

/// Whether this side's goodbye is still to be sent.
pub(super) enum Farewell {
    Due,
    Said,
}

/// The result of a put whose session is over. If all receipts are here it has succeeded, and a goodbye to the server is due.
pub(super) fn last_word(run: Result<(), Error>, is_settled: bool) -> Result<Farewell, Error> {
    match run {
        Ok(()) => Ok(Farewell::Due),
        // All receipts are here. That the peer does not know so, or that a stop was requested, does not change the result.
        Err(error) if is_settled && (error.is_temporary() || matches!(error, Error::Cancelled)) => {
            tracing::info!(%error, "the session ended early, after the last receipt");
            Ok(Farewell::Due)
        }
        Err(error) => Err(error),
    }
}

/// Whether a goodbye may not have reached the server's program, if the close after it ended like this. A server that has read
/// the goodbye closes its side.
fn is_lost(ended: linger::Ended) -> bool {
    use linger::Ended;
    matches!(ended, Ended::PeerReset | Ended::Gone | Ended::TimedOut(_))
}
