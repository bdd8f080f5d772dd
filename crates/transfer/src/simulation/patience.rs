//! The simulation's own account of a client's patience, from what it sees of the client.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::Kind;
use crate::options::Retry;
use crate::path::RelPath;
use crate::progress::Progress;

/// One attempt of a client to transfer, with or without a connection.
#[derive(Clone, Copy, Debug)]
struct Try {
    begun: Duration,
    /// When its connection was closed; `None` while there is one, or if there was none.
    closed: Option<Duration>,
    /// The server had a part in it.
    has_part: bool,
}

/// The attempts of one client.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    attempts: Vec<Try>,
    /// When something was last kept.
    kept_at: Option<Duration>,
    kept: BTreeMap<RelPath, u64>,
    confirmed: u64,
    most_confirmed: u64,
}

impl Timeline {
    pub(super) fn connects(&mut self, now: Duration) {
        self.attempts.push(Try { begun: now, closed: None, has_part: false });
    }

    pub(super) fn closes(&mut self, now: Duration) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.closed.get_or_insert(now);
        }
    }

    /// Takes what the client reports. Each session of a `get` confirms again what is there. Returns what is wrong, if anything.
    pub(super) fn see(&mut self, progress: &Progress, is_get: bool, now: Duration) -> Option<String> {
        match progress {
            Progress::Connected { .. } if is_get => self.confirmed = 0,
            Progress::Confirmed(_) => {
                self.confirmed += 1;
                if self.confirmed > self.most_confirmed {
                    (self.most_confirmed, self.kept_at) = (self.confirmed, Some(now));
                }
            }
            Progress::Started { path, kind: Kind::File | Kind::Pipe, resumed, .. } => {
                self.takes_part();
                let kept = self.kept.entry(path.clone()).or_default();
                if resumed > kept {
                    (*kept, self.kept_at) = (*resumed, Some(now));
                }
            }
            Progress::PeerWorks(_) => self.takes_part(),
            Progress::Retrying { pause, .. } => {
                let (in_vain, patience) = (self.in_vain(now), Retry::default().patience);
                if in_vain.as_secs_f64() + pause > patience.as_secs_f64() + 0.001 {
                    return Some(format!(
                        "the client goes on after {in_vain:?} in vain: {:?}",
                        self.attempts
                    ));
                }
            }
            _ => {}
        }
        None
    }

    fn takes_part(&mut self) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.has_part = true;
        }
    }

    /// The time in vain since something was last kept: all of it, but for the last session in which the server had a part.
    fn in_vain(&self, now: Duration) -> Duration {
        let Some(first) = self.attempts.first() else { return Duration::ZERO };
        let since = self.kept_at.unwrap_or(first.begun);
        let last = self.attempts.iter().rev().find(|attempt| attempt.has_part);
        let open = last.map_or(Duration::ZERO, |attempt| {
            attempt.closed.unwrap_or(now).saturating_sub(attempt.begun.max(since))
        });
        now.saturating_sub(since).saturating_sub(open)
    }

    /// Whether the last two attempts were as long as the silences after which a client says its goodbye no more, and leaves a
    /// server without it.
    pub(super) fn met_silence(&self) -> bool {
        const SILENCE: Duration = Duration::from_secs(2);
        let lasted = |attempt: &Try| attempt.closed.is_some_and(|closed| closed - attempt.begun >= SILENCE);
        matches!(self.attempts.as_slice(), [.., one, other] if lasted(one) && lasted(other))
    }

    /// Returns why it is wrong that the client gives up now, if it is. Only a client that has had a connection tries again.
    pub(super) fn gives_up(&self, now: Duration) -> Option<String> {
        let Retry { longest, patience, .. } = Retry::default();
        let in_vain = self.in_vain(now);
        let connected = self.attempts.iter().any(|attempt| attempt.closed.is_some());
        (connected && in_vain + longest < patience)
            .then(|| format!("the client gives up after {in_vain:?} in vain: {:?}", self.attempts))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    /// Two cuts, the second of them long after the first: what random schedules in which the fault shows shrink to.
    #[test]
    fn patience_that_runs_while_a_session_gets_on_is_found() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut runner = Runner::new(dir.path()).unwrap();
        let cut = |sender, after, manner| {
            ScheduledEvent::Cut(Cut { sender, after, arrives: manner == Manner::ReceiverHears, manner })
        };
        let (client, server) = (EndOfTransfer::Client, EndOfTransfer::Server);
        for (seed, events) in [
            (11_862, vec![cut(client, 1, Manner::SenderHears), cut(client, 468_693, Manner::ReceiverHears)]),
            (12_222, vec![cut(client, 71, Manner::Reset), cut(server, 220, Manner::Reset)]),
        ] {
            let shrunk = Schedule::new(seed, Scenario::Large, events);
            let planted = Some(Planted::Rule(PlantedRule::RestPatience));
            for schedule in [Schedule::random(seed), shrunk] {
                let fault = runner.run(&schedule, planted).fault;
                let is_found = fault.as_ref().is_some_and(|told| told.contains("gives up after"));
                assert!(is_found, "{fault:?}: {schedule:?}");
                assert_eq!(runner.run(&schedule, None).fault, None, "{schedule:?}");
            }
        }
    }

    /// A client that comes back for its goodbye alone is cut again: the server cannot say that nothing was received.
    #[test]
    fn a_session_for_a_goodbye_that_is_cut_contradicts_nobody() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut runner = Runner::new(dir.path()).unwrap();
        let cut =
            |sender, after, arrives, manner| ScheduledEvent::Cut(Cut { sender, after, arrives, manner });
        let (client, server) = (EndOfTransfer::Client, EndOfTransfer::Server);
        let twice =
            vec![cut(server, 202, true, Manner::ReceiverHears), cut(client, 446, true, Manner::SenderHears)];
        let thrice = vec![
            cut(client, 602, true, Manner::Reset),
            cut(client, 140, true, Manner::SenderHears),
            cut(server, 294, false, Manner::Silence),
        ];
        for (seed, scenario, events) in
            [(30_001_000, Scenario::Replace, twice), (30_002_547, Scenario::File, thrice)]
        {
            let schedule = Schedule::new(seed, scenario, events);
            assert_eq!(runner.run(&schedule, None).fault, None, "{schedule:?}");
        }
    }
}
