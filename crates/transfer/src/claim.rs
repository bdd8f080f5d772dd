//! Which session of this process receives which file.
//!
//! A client whose connection was cut reconnects while the server's old session still reads what had arrived. The new
//! session waits for the old one, so that no block is sent twice, and cancels it after a bound. An older session never
//! takes a file from a newer one.
//!
//! Another transfer of the same file, such as a second `put` of it, takes nothing from one that gets on: it is refused. Only
//! where nothing comes any more does it take over, because the client of the older transfer may be gone without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::driver::Activity;
use crate::fault::Fault;
use crate::host::{self, Rule};
use crate::message::{Refusal, Token, TransferId};
use crate::reason::{Reason, Remedy};

/// How long a newer session waits before it cancels the older one.
const FINISH: Duration = Duration::from_secs(2);
/// How long the older session may take to stop once it is cancelled.
const STOP: Duration = Duration::from_secs(5);
/// How long a session may make no progress before another transfer of the same file takes over.
const DEAD: Duration = Duration::from_secs(20);
/// Polling interval, at first and where it takes long.
const LOOK: Duration = Duration::from_millis(2);
const LONG_LOOK: Duration = Duration::from_millis(50);

/// The files that are being received in this process.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<BTreeMap<Token, Holder>>,
    /// Files whose sync has failed and whose partial file may still be there.
    unsynced: Mutex<BTreeSet<Token>>,
}

#[derive(Debug)]
struct Holder {
    session: u64,
    transfer: TransferId,
    cancel: Cancel,
    activity: Arc<Activity>,
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
    /// The transfer that the session belongs to: all sessions of one client's request have the same.
    pub(crate) transfer: TransferId,
    pub(crate) cancel: Cancel,
    pub(crate) activity: Arc<Activity>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Token, Holder>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<Token>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a partial file must not be resumed: its sync has failed. The kernel counts its pages as written once it has reported that
    /// they were not (fsync(2)), so that a later sync of the same file succeeds without them.
    pub(crate) fn is_unsynced(&self, token: Token) -> bool {
        self.unsynced().contains(&token)
    }

    /// The partial file is another one from here on.
    pub(crate) fn begin_anew(&self, token: Token) {
        self.unsynced().remove(&token);
    }
}

impl Claim {
    /// The sync of the file has failed: see [`Claims::is_unsynced`].
    pub(crate) fn mark_unsynced(&self) {
        self.claims.unsynced().insert(self.token);
    }
}

impl Claimant {
    /// Claims a file if nobody has it.
    fn try_claim(&self, token: Token) -> Option<Claim> {
        let mut held = self.claims.lock();
        if held.contains_key(&token) && !host::lacks(Rule::ClaimFiles) {
            return None;
        }
        let Self { session, transfer, cancel, activity, .. } = self.clone();
        held.insert(token, Holder { session, transfer, cancel, activity });
        Some(Claim { claims: self.claims.clone(), token, session })
    }

    /// Claims a file, waiting for an older session to release it.
    ///
    /// # Errors
    /// Returns [`Refusal::Busy`] if a newer session has the file, another transfer that gets on has it, the older session does
    /// not stop in time, or this session is cancelled.
    pub(crate) fn claim(&self, token: Token) -> Result<Claim, Fault> {
        let started = host::now();
        // When the older session was cancelled.
        let mut cancelled = None;
        loop {
            if let Some(claim) = self.try_claim(token) {
                return Ok(claim);
            }
            let waited = host::now().saturating_duration_since(started);
            match self.claims.lock().get(&token) {
                None => {}
                Some(holder) if holder.session >= self.session => return Err(self.refusal(holder)),
                Some(holder) if waited > FINISH && cancelled.is_none() => {
                    match self.yields(holder, waited, host::now()) {
                        Some(true) => cancelled = Some(host::now()),
                        Some(false) => return Err(self.refusal(holder)),
                        None => {}
                    }
                }
                // Counted from the cancellation: even if this thread runs late, the older session has all of STOP to react.
                Some(holder)
                    if cancelled.is_some_and(|since| host::now().saturating_duration_since(since) > STOP) =>
                {
                    return Err(self.refusal(holder));
                }
                Some(_) => {}
            }
            if self.cancel.wait(if waited < FINISH + STOP { LOOK } else { LONG_LOOK }) {
                return Err(Fault(Refusal::Busy, "another session is receiving this file".into()));
            }
        }
    }

    /// Whether the holder of a file has to release it, for which it is cancelled; `None` if that is not known yet.
    fn yields(&self, holder: &Holder, waited: Duration, now: Instant) -> Option<bool> {
        if holder.transfer == self.transfer {
            holder.cancel.cancel_because("the same client has come back over another connection".into());
            return Some(true);
        }
        let idle = holder.activity.idle(now);
        if idle >= DEAD {
            let told = "another transfer of the same file has taken over, because nothing came of this one";
            holder.cancel.cancel_because(told.into());
            return Some(true);
        }
        (idle < waited).then_some(false)
    }

    /// Why a file is not to be had.
    fn refusal(&self, holder: &Holder) -> Fault {
        let told = if holder.transfer == self.transfer {
            "another session is receiving this file"
        } else {
            "another transfer of the same file to this place is under way"
        };
        Fault(Refusal::Busy, Reason::from(told).with(Remedy::WaitForOther))
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

    fn claimant(claims: &Arc<Claims>, session: u64, transfer: u8) -> Claimant {
        let cancel = Cancel::new().unwrap();
        Claimant {
            claims: claims.clone(),
            session,
            transfer: [transfer; 16],
            cancel,
            activity: Arc::default(),
        }
    }

    #[test]
    fn the_newer_session_waits_and_the_older_gives_way() {
        let claims = Arc::new(Claims::default());
        let (old, new) = (claimant(&claims, 1, 7), claimant(&claims, 2, 7));
        let held = old.claim([1; 16]).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| new.claim([1; 16]).unwrap());
            drop(held);
            let _held = waiting.join().unwrap();
            assert!(old.claim([1; 16]).is_err());
            assert!(!new.cancel.is_cancelled(), "an older session takes nothing from a newer one");
            assert!(old.claim([2; 16]).is_ok(), "another file is free");
            assert!(!old.cancel.is_cancelled(), "nobody had to be stopped");
        });
    }

    #[test]
    fn a_session_of_the_same_transfer_takes_over_and_one_of_another_does_not() {
        for (transfer, takes) in [(7, true), (8, false)] {
            let claims = Arc::new(Claims::default());
            let (old, new) = (claimant(&claims, 1, 7), claimant(&claims, 2, transfer));
            let held = old.claim([1; 16]).unwrap();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| new.claim([1; 16]));
                if takes {
                    assert!(old.cancel.wait(Duration::from_secs(60)), "it is told to stop");
                    assert!(old.cancel.error().to_string().contains("the same client has come back"));
                    drop(held);
                    assert!(waiting.join().unwrap().is_ok());
                    return;
                }
                while !waiting.is_finished() {
                    old.activity.got_on(host::now());
                    std::thread::sleep(Duration::from_millis(10));
                }
                let Fault(refusal, told) = waiting.join().unwrap().unwrap_err();
                assert_eq!(refusal, Refusal::Busy);
                assert!(told.contains("another transfer") && told.remedy() == Some(&Remedy::WaitForOther));
                assert!(!old.cancel.is_cancelled(), "nobody had to be stopped");
                drop(held);
                assert!(new.claim([1; 16]).is_ok());
            });
        }
    }

    #[test]
    fn an_older_session_that_does_not_stop_keeps_the_file() {
        let claims = Arc::new(Claims::default());
        let (old, new) = (claimant(&claims, 1, 7), claimant(&claims, 2, 7));
        let _held = old.claim([1; 16]).unwrap();
        let Fault(refusal, told) = new.claim([1; 16]).unwrap_err();
        assert_eq!((refusal, &*told), (Refusal::Busy, "another session is receiving this file"));
        assert!(old.cancel.is_cancelled(), "it was told to stop");
    }

    /// Counter-examples to each other, one field away: the time for which nothing came of the older transfer.
    #[test]
    fn a_transfer_of_which_nothing_comes_gives_way_to_another() {
        let claims = Arc::new(Claims::default());
        let (old, new) = (claimant(&claims, 1, 7), claimant(&claims, 2, 8));
        let _held = old.claim([1; 16]).unwrap();
        let held = claims.lock();
        let holder = held.get(&[1; 16]).unwrap();
        let now = Instant::now();
        old.activity.got_on(now);
        for (idle, waited, expected) in [
            (Duration::ZERO, FINISH * 2, Some(false)),
            (FINISH * 3, FINISH * 2, None),
            (DEAD - FINISH, FINISH * 2, None),
            (DEAD - FINISH, DEAD, Some(false)),
        ] {
            // Activity counts in milliseconds.
            let later = now + idle + Duration::from_millis(1);
            assert_eq!(new.yields(holder, waited, later), expected, "{idle:?} {waited:?}");
            assert!(!old.cancel.is_cancelled());
        }
        assert_eq!(new.yields(holder, FINISH * 2, now + DEAD + Duration::from_millis(1)), Some(true));
        assert!(old.cancel.is_cancelled());
        assert!(old.cancel.error().to_string().contains("another transfer of the same file has taken over"));
    }
}
