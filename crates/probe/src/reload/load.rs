//! Clients that ask for the plain page again and again, until they are told to stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::budget::MOST_REQUESTS;
use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::judge::{by_status, judge};
use crate::often::STUCK;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};

/// Between two requests of a client: together the clients are no burden for any server, and still meet an instant that matters.
const PAUSE: Duration = Duration::from_millis(25);
/// How often it is looked whether what is waited for has come.
const EVERY: Duration = Duration::from_millis(5);

/// Whether a client makes a connection for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    New,
    Kept,
    /// Its response begins before the server is told, and is read later.
    UnderWay,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptFate {
    Kept,
    AtRisk,
    /// On a kept connection that the server had ended a moment before: the client could not know.
    Crossed,
    /// A part of the response came, or a gateway's word that there is none.
    Cut,
    /// It was connected and sent, and not a byte came.
    Unanswered,
    Refused,
    Other,
}

#[derive(Debug)]
pub(super) struct LoadAttempt {
    pub(super) kind: ClientKind,
    /// When all of it was sent; of one that was not connected, when that was tried.
    pub(super) sent: Instant,
    pub(super) ended: Instant,
    pub(super) fate: AttemptFate,
    /// As of a check; `None` where there was no connection.
    pub(super) finding: Option<CheckFinding>,
}

impl LoadAttempt {
    pub(super) fn was_reset(&self) -> bool {
        self.finding.as_ref().and_then(|finding| finding.ended).is_some_and(ConnectionEnd::is_reset)
    }
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct ReloadLoad<'p> {
    prober: &'p Prober,
    is_over: AtomicBool,
    attempts: Mutex<Vec<LoadAttempt>>,
}

impl<'p> ReloadLoad<'p> {
    pub(super) fn new(prober: &'p Prober) -> Self {
        Self { prober, is_over: AtomicBool::new(false), attempts: Mutex::default() }
    }

    /// Ends the clients: each finishes the request that it has begun.
    pub(super) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    pub(super) fn record(&self, attempt: LoadAttempt) {
        self.attempts().push(attempt);
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, Vec<LoadAttempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests of such clients were sent since then, and have ended.
    pub(super) fn count(&self, kind: ClientKind, since: Instant) -> usize {
        self.attempts().iter().filter(|one| one.kind == kind && one.sent >= since).count()
    }

    /// Whether a request has been refused since then.
    pub(super) fn has_refused(&self, since: Instant) -> bool {
        self.attempts().iter().any(|one| one.fate == AttemptFate::Refused && one.sent >= since)
    }

    /// Waits until it is so; `false` if it is not in time.
    pub(super) fn wait(&self, longest: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + longest;
        loop {
            if is_so() {
                return true;
            }
            if Instant::now() > until || self.prober.is_late() {
                self.prober.deadline.note(until);
                return false;
            }
            self.prober.deadline.sleep(EVERY);
        }
    }

    /// One client, until the end.
    pub(super) fn client(&self, kind: ClientKind) {
        let mut asked = 0;
        while self.goes_on(asked) {
            let made = if kind == ClientKind::Kept { self.kept(asked) } else { self.on_a_new_one() };
            asked += made.unwrap_or_else(|error| {
                self.record(unconnected(kind, &error));
                1
            });
            self.pause(asked);
        }
    }

    fn goes_on(&self, asked: u32) -> bool {
        asked < MOST_REQUESTS && !self.is_over.load(Relaxed) && !self.prober.is_late()
    }

    /// Longer once half of the requests are made, so that the others last for a reload that takes long.
    fn pause(&self, asked: u32) {
        let slow = self.prober.config.patience * 3 / (MOST_REQUESTS / 2);
        let pause = if asked < MOST_REQUESTS / 2 { PAUSE } else { PAUSE.max(slow) };
        // A longer one is cut by the end of the load.
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.is_over.load(Relaxed) {
            thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn on_a_new_one(&self) -> io::Result<u32> {
        let prober = self.prober;
        let mut trial = Trial::open(prober, false)?;
        trial.queue(&prober.dialect.request(RequestShape::GET));
        trial.send(prober.config.patience);
        let sent = Instant::now();
        trial.read(Until::Complete, prober.config.patience);
        self.record(ended(prober, ClientKind::New, RequestShape::GET, sent, false, trial));
        Ok(1)
    }

    /// Requests on one connection, as long as the server keeps it. Returns how many.
    fn kept(&self, asked: u32) -> io::Result<u32> {
        let (prober, ask) = (self.prober, RequestShape::KEPT);
        let mut trial = Trial::open(prober, false)?;
        let request = prober.dialect.request(ask);
        trial.queue(&request);
        let mut made = 0;
        loop {
            trial.send(prober.config.patience);
            let sent = Instant::now();
            trial.read(Until::Complete, prober.config.patience);
            made += 1;
            if !trial.is_complete() || trial.has_ended() || trial.is_last() || !self.goes_on(asked + made) {
                self.record(ended(prober, ClientKind::Kept, ask, sent, made > 1, trial));
                return Ok(made);
            }
            let seen = trial.result();
            self.record(told(prober, ClientKind::Kept, ask, sent, made > 1, seen));
            self.pause(asked + made);
            // A client looks whether its connection has ended before it uses it again.
            if trial.idle_end(Instant::now()).is_some() {
                return Ok(made);
            }
            trial.again(&request);
        }
    }
}

/// A response that has begun, most of which waits in the server.
pub(super) struct UnderWay<'p> {
    prober: &'p Prober,
    trial: Trial<'p>,
    sent: Instant,
}

impl<'p> UnderWay<'p> {
    /// `None` if no response has begun, as in a server all of whose workers are busy.
    pub(super) fn begin(prober: &'p Prober) -> Option<Self> {
        let mut trial = Trial::open(prober, true).ok()?;
        trial.queue(&prober.dialect.request(RequestShape::GET));
        trial.send(STUCK);
        let sent = Instant::now();
        trial.answer_begins(prober.holding()).then_some(Self { prober, trial, sent })
    }

    /// Reads the rest.
    pub(super) fn finish(self) -> LoadAttempt {
        let Self { prober, mut trial, sent } = self;
        trial.read(Until::Complete, prober.config.patience);
        ended(prober, ClientKind::UnderWay, RequestShape::GET, sent, false, trial)
    }
}

/// Waits a moment for what follows a response, and judges the request.
fn ended(
    prober: &Prober,
    kind: ClientKind,
    ask: RequestShape,
    sent: Instant,
    is_again: bool,
    mut trial: Trial<'_>,
) -> LoadAttempt {
    if trial.is_complete() && !ask.is_kept {
        trial.read(Until::Closed, prober.moment());
    }
    told(prober, kind, ask, sent, is_again, trial.finish())
}

/// `is_again`: whether the connection had a request before.
fn told(
    prober: &Prober,
    kind: ClientKind,
    ask: RequestShape,
    sent: Instant,
    is_again: bool,
    seen: TrialResult,
) -> LoadAttempt {
    let ended = Instant::now();
    let finding = by_status(&prober.model, judge(prober, Check::Reload, ask, seen));
    let fate = fate(&finding, is_again, prober.tls_host.is_some());
    LoadAttempt { kind, sent, ended, fate, finding: Some(finding) }
}

fn unconnected(kind: ClientKind, error: &io::Error) -> LoadAttempt {
    let now = Instant::now();
    let fate = match error.kind() {
        // A unix socket that is gone, or is nobody's.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => AttemptFate::Refused,
        _ => AttemptFate::Unanswered,
    };
    LoadAttempt { kind, sent: now, ended: now, fate, finding: None }
}

fn fate(finding: &CheckFinding, is_again: bool, is_tls: bool) -> AttemptFate {
    let is_empty = finding.got == 0 && finding.status.is_none();
    let has_finished = matches!(finding.ended, Some(ConnectionEnd::Closed | ConnectionEnd::ClosedThenReset));
    match finding.answer {
        CheckAnswer::Keeps => AttemptFate::Kept,
        CheckAnswer::AtRisk => AttemptFate::AtRisk,
        // Before the FIN of a kept connection the server had closed it; with TLS close_notify may have come before the request.
        CheckAnswer::Loses | CheckAnswer::LosesSilently
            if is_empty && is_again && (has_finished || is_tls) =>
        {
            AttemptFate::Crossed
        }
        CheckAnswer::Loses | CheckAnswer::LosesSilently | CheckAnswer::Stalls if is_empty => {
            AttemptFate::Unanswered
        }
        CheckAnswer::Loses | CheckAnswer::LosesSilently | CheckAnswer::Stalls => AttemptFate::Cut,
        _ => AttemptFate::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_away_from_a_request_that_was_lost() {
        let of = |answer, ended, got| {
            let mut finding = CheckFinding::undecided(Check::Reload, "");
            (finding.answer, finding.ended, finding.got) = (answer, Some(ended), got);
            finding
        };
        let reset = of(CheckAnswer::Loses, ConnectionEnd::Reset, 0);
        assert_eq!(fate(&reset, true, false), AttemptFate::Unanswered);
        // With a FIN before, or where TLS hides the order, the server may have closed before the request came.
        let closed = of(CheckAnswer::LosesSilently, ConnectionEnd::Closed, 0);
        let both = of(CheckAnswer::Loses, ConnectionEnd::ClosedThenReset, 0);
        assert_eq!(fate(&closed, true, false), AttemptFate::Crossed);
        assert_eq!(fate(&both, true, false), AttemptFate::Crossed);
        assert_eq!(fate(&reset, true, true), AttemptFate::Crossed);
        // Not on a new connection, nor with a byte of the response.
        assert_eq!(fate(&closed, false, false), AttemptFate::Unanswered);
        assert_eq!(fate(&reset, false, true), AttemptFate::Unanswered);
        let cut = of(CheckAnswer::LosesSilently, ConnectionEnd::Closed, 1);
        assert_eq!(fate(&cut, true, false), AttemptFate::Cut);
        let head = CheckFinding { status: Some(200), ..closed };
        assert_eq!(fate(&head, true, false), AttemptFate::Cut);
        assert_eq!(
            fate(&of(CheckAnswer::Stalls, ConnectionEnd::Silent, 0), true, false),
            AttemptFate::Unanswered
        );
    }
}
