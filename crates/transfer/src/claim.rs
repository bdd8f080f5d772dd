//! Which session of this process receives which file.
//!
//! A client whose connection was cut reconnects while the server's old session still reads what had arrived. The new
//! session waits for the old one, so that no block is sent twice, and cancels it after a bound. An older session never
//! takes a file from a newer one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::fault::Fault;
use crate::host::{self, Rule};
use crate::message::{Refusal, Token};

/// How long a newer session waits before it cancels the older one.
const FINISH: Duration = Duration::from_secs(2);
/// How long the older session may take to stop once it is cancelled.
const STOP: Duration = Duration::from_secs(5);
/// Polling interval.
const LOOK: Duration = Duration::from_millis(2);

/// The files that are being received in this process.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<BTreeMap<Token, Holder>>);

#[derive(Debug)]
struct Holder {
    session: u64,
    cancel: Cancel,
}

/// One session's right to receive one file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    token: Token,
    session: u64,
}

/// A session that claims files. Sessions are numbered in the order in which they were accepted.
#[derive(Clone, Debug)]
pub(crate) struct Claimant {
    pub(crate) claims: Arc<Claims>,
    pub(crate) session: u64,
    pub(crate) cancel: Cancel,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Token, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimant {
    /// Claims a file, waiting for an older session to release it.
    ///
    /// # Errors
    /// Returns [`Refusal::Busy`] if a newer session has the file, the older one does not stop in time, or this session is
    /// cancelled.
    pub(crate) fn claim(&self, token: Token) -> Result<Claim, Fault> {
        let started = host::now();
        let mut cancelled = None;
        loop {
            if host::lacks(Rule::ClaimFiles) {
                return Ok(Claim { claims: self.claims.clone(), token, session: self.session });
            }
            {
                let mut held = self.claims.lock();
                match held.get(&token) {
                    None => {
                        held.insert(token, Holder { session: self.session, cancel: self.cancel.clone() });
                        return Ok(Claim { claims: self.claims.clone(), token, session: self.session });
                    }
                    Some(holder) if holder.session >= self.session => break,
                    Some(holder) if host::now().saturating_duration_since(started) > FINISH => {
                        cancelled.get_or_insert_with(host::now);
                        holder.cancel.cancel();
                    }
                    Some(_) => {}
                }
            }
            // Counted from the cancellation: even if this thread runs late, the older session has all of STOP to react.
            let too_late = cancelled.is_some_and(|since| host::now().saturating_duration_since(since) > STOP);
            if too_late || self.cancel.wait(LOOK) {
                break;
            }
        }
        Err(Fault(Refusal::Busy, "another session is receiving this file".into()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        if held.get(&self.token).is_some_and(|holder| holder.session == self.session) {
            held.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(claims: &Arc<Claims>, session: u64) -> Claimant {
        Claimant { claims: claims.clone(), session, cancel: Cancel::new().unwrap() }
    }

    #[test]
    fn the_newer_session_waits_and_the_older_gives_way() {
        let claims = Arc::new(Claims::default());
        let (old, new) = (claimant(&claims, 1), claimant(&claims, 2));
        let held = old.claim([1; 16]).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| new.claim([1; 16]).unwrap());
            drop(held);
            let _held = waiting.join().unwrap();
            assert!(old.claim([1; 16]).is_err());
            assert!(old.claim([2; 16]).is_ok(), "another file is free");
            assert!(!old.cancel.is_cancelled(), "nobody had to be stopped");
        });
    }
}
