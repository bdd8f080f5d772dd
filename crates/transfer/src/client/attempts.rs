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

use super::Client;
use super::connect::is_stranger;
use super::goodbye::{Goodbye, Goodbyes, hurried};
use super::patience::Patience;
use crate::driver::Session;
use crate::error::Error;
use crate::host;
use crate::machine::Role;
use crate::progress::Progress;

impl Client {
    /// Bounds of a close. Whoever has asked for the end does not wait for a slow peer.
    pub(super) fn policy(&self) -> linger::Policy {
        if self.cancel.is_cancelled() { hurried(&self.options.policy) } else { self.options.policy }
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
            let result = self.connect(goodbyes.is_some()).and_then(|mut session| {
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
                        Ok(Goodbye::Heard)
                    }
                    Err(error) => {
                        let _ = session.goodbye(error.code(Role::Initiator), &error.farewell());
                        session.close(&self.policy());
                        Err(error)
                    }
                }
            });
            let error = match result {
                Ok(Goodbye::Heard) => return Ok(()),
                Err(error) if goodbyes.is_none() => error,
                // The result is known here and does not change. The server may not know that: this side reconnects to say
                // so.
                lost => {
                    let goodbye = lost.unwrap_or_else(|error| Goodbye::after(&error, answered));
                    let now = host::now();
                    let goodbyes = goodbyes.get_or_insert_with(|| Goodbyes::new(retry.patience, now));
                    if !goodbyes.again(goodbye, now) || self.cancel.wait(retry.first) {
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
