//! How long a client goes on trying.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::host::{self, Rule};
use crate::message::Kind;
use crate::options::Retry;
use crate::path::RelPath;
use crate::progress::Progress;

/// The time that is known to have passed in vain since the receiver last kept something of the transfer.
///
/// What a receiver has kept of a session is known only from the next session, which begins with how much the receiver has. So
/// the time of a session counts only once the next session has shown that nothing was kept. Time without a connection, and with
/// a connection on which the peer says nothing about the transfer, counts at once. Bytes that were sent are no progress by
/// themselves: the same bytes may be sent again and again.
#[derive(Debug)]
pub(super) struct Patience {
    retry: Retry,
    pause: Duration,
    in_vain: Duration,
    /// The length of the last session in which the peer took part. It does not count yet: something of it may have been kept.
    open: Duration,
    /// The latest of these: the begin of the present attempt, the last time that something was seen to be kept, the end of
    /// the last attempt.
    since: Instant,
    /// Whether the peer takes part in the present attempt: a file was begun, or the peer has reported work.
    takes_part: bool,
    /// Entries confirmed in this session, and the most of any session.
    confirmed: u64,
    most_confirmed: u64,
    /// The most bytes of each entry that a receiver had when a session came to it.
    kept: BTreeMap<RelPath, u64>,
    repeats: bool,
}

impl Patience {
    /// Full patience. With `repeats`, each session confirms again what an earlier one has confirmed.
    pub(super) fn new(retry: Retry, repeats: bool, now: Instant) -> Self {
        Self {
            retry,
            pause: retry.first,
            in_vain: Duration::ZERO,
            open: Duration::ZERO,
            since: now,
            takes_part: false,
            confirmed: 0,
            most_confirmed: 0,
            kept: BTreeMap::new(),
            repeats,
        }
    }

    /// Begins an attempt, before its connection is made.
    pub(super) fn begin(&mut self, now: Instant) {
        self.in_vain += now.saturating_duration_since(self.since);
        (self.since, self.takes_part) = (now, false);
        if self.repeats {
            self.confirmed = 0;
        }
    }

    /// Notes what a session shows.
    pub(super) fn see(&mut self, progress: &Progress, now: Instant) {
        match progress {
            Progress::Confirmed(_) => {
                self.confirmed += 1;
                if self.confirmed > self.most_confirmed {
                    self.most_confirmed = self.confirmed;
                    self.gain(now);
                }
            }
            Progress::Started { path, kind: Kind::File | Kind::Pipe, resumed, .. } => {
                self.takes_part = true;
                if *resumed > self.kept.get(path).copied().unwrap_or(0) {
                    self.kept.insert(path.clone(), *resumed);
                    self.gain(now);
                }
            }
            Progress::PeerWorks(_) => self.takes_part = true,
            _ => {}
        }
    }

    fn gain(&mut self, now: Instant) {
        (self.pause, self.since) = (self.retry.first, now);
        (self.in_vain, self.open) = (Duration::ZERO, Duration::ZERO);
    }

    /// Ends an attempt. Returns the pause before the next one, or `None` if the patience is over.
    pub(super) fn end(&mut self, now: Instant) -> Option<Duration> {
        let took = now.saturating_duration_since(self.since);
        let rests = self.takes_part && !host::lacks(Rule::RestPatience);
        self.in_vain += if rests { std::mem::replace(&mut self.open, took) } else { took };
        if self.takes_part {
            // The path and the server are there, so the next attempt need not wait long.
            self.pause = self.retry.first;
        }
        let pause = self.pause;
        self.since = now;
        if self.in_vain + pause > self.retry.patience {
            return None;
        }
        self.pause = (pause * 2).min(self.retry.longest);
        Some(pause)
    }

    /// The time in vain so far.
    pub(super) fn in_vain(&self) -> Duration {
        self.in_vain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Phase, PhaseWork};
    use crate::message::{Durability, Receipt, Time};
    use crate::progress::Confirmation;
    use crate::receive::Announced;

    /// Patience of 120 s, and a clock that begins at 0.
    struct Trial {
        patience: Patience,
        zero: Instant,
    }

    impl Trial {
        fn new(repeats: bool) -> Self {
            let zero = Instant::now();
            Self { patience: Patience::new(Retry::default(), repeats, zero), zero }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.zero + Duration::from_secs(seconds)
        }

        /// An attempt from one second to another, in which `seen` is seen at its begin. Whether the client goes on.
        fn goes_on(&mut self, from: u64, to: u64, seen: &[Progress]) -> bool {
            self.patience.begin(self.at(from));
            for progress in seen {
                self.patience.see(progress, self.at(from));
            }
            self.patience.end(self.at(to)).is_some()
        }
    }

    fn started(name: &[u8], resumed: u64) -> Progress {
        let path = RelPath::new(name.to_vec()).unwrap();
        Progress::Started { path, kind: Kind::File, size: None, resumed }
    }

    fn confirmed() -> Progress {
        let receipt = Receipt {
            index: 0,
            size: 0,
            hash: None,
            durability: Durability::Disk,
            time: Time::default(),
            name: Vec::new(),
            present: false,
            mode: None,
        };
        Progress::Confirmed(Confirmation::new(Announced::default(), receipt))
    }

    #[test]
    fn a_session_that_gets_on_costs_no_patience_until_the_next_one_has_told() {
        let mut trial = Trial::new(false);
        assert!(trial.goes_on(0, 1, &[started(b"a", 0)]), "cut before anything was kept");
        assert!(trial.goes_on(2, 900, &[started(b"a", 0)]), "cut long afterwards");
        assert!(trial.goes_on(901, 902, &[started(b"a", 5)]), "and something was kept");
        assert!(trial.goes_on(903, 1800, &[started(b"a", 5)]), "of this, nobody knows yet");
        assert!(!trial.goes_on(1801, 1802, &[started(b"a", 5)]), "now: nothing was kept of 897 s");
    }

    #[test]
    fn an_attempt_that_tells_nothing_counts_at_once() {
        let mut trial = Trial::new(false);
        assert!(trial.goes_on(0, 900, &[started(b"a", 0)]));
        // Whether something of the first session was kept is not told here: its 900 s do not count.
        assert!(trial.goes_on(900, 945, &[]));
        assert!(trial.goes_on(945, 990, &[]));
        assert!(!trial.goes_on(990, 1035, &[]), "135 s of silence");
    }

    #[test]
    fn what_is_seen_again_is_no_progress() {
        // Of a `get`, each session confirms again what is here.
        let mut trial = Trial::new(true);
        let session = [confirmed(), started(b"b", 7)];
        assert!(trial.goes_on(0, 100, &session) && trial.goes_on(100, 200, &session));
        assert!(!trial.goes_on(200, 201, &session));
        let mut trial = Trial::new(true);
        let more = [confirmed(), confirmed(), started(b"b", 7)];
        assert!(trial.goes_on(0, 100, &session) && trial.goes_on(100, 200, &session));
        assert!(trial.goes_on(200, 201, &more), "one more is confirmed");
        // Of a `put`, each entry is confirmed once.
        let mut trial = Trial::new(false);
        assert!(trial.goes_on(0, 100, &session) && trial.goes_on(100, 200, &session));
        assert!(trial.goes_on(200, 201, &session));
    }

    #[test]
    fn a_session_in_which_something_is_kept_counts_from_then_on() {
        let mut trial = Trial::new(false);
        trial.patience.begin(trial.at(0));
        trial.patience.see(&started(b"a", 0), trial.at(0));
        trial.patience.see(&confirmed(), trial.at(890));
        assert!(trial.patience.end(trial.at(900)).is_some());
        assert!(trial.goes_on(900, 901, &[started(b"b", 0)]), "10 s of 900 may be in vain");
        assert!(trial.patience.in_vain() < Duration::from_secs(12));
    }

    #[test]
    fn no_patience_means_one_attempt() {
        let mut trial = Trial::new(false);
        trial.patience.retry.patience = Duration::ZERO;
        assert!(!trial.goes_on(0, 0, &[confirmed()]));
    }

    #[test]
    fn a_peer_that_works_takes_part() {
        let work = || Progress::PeerWorks(PhaseWork::new(Phase::Command, 0, 0));
        let mut trial = Trial::new(false);
        assert!(trial.goes_on(0, 300, &[work()]), "its command took long");
        assert!(!trial.goes_on(300, 301, &[work()]), "and there is nothing to show for it");
    }
}
