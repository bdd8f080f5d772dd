//! Clients that ask for the plain page again and again, until they are told to stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::attempt::{AttemptFate, ClientKind, LoadAttempt, returned, told, unconnected};
use super::connection::LoadConnection;
use crate::budget::MOST_REQUESTS;
use crate::dialect::RequestShape;
use crate::prober::Prober;

/// Between two requests of a client: together the clients are no burden for any server, and still meet an instant that matters.
const PAUSE: Duration = Duration::from_millis(25);
/// How often it is looked whether what is waited for has come.
const EVERY: Duration = Duration::from_millis(5);

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
        let mut connection = LoadConnection::open(self.prober, false)?;
        connection.ask(RequestShape::GET)?;
        let sent = Instant::now();
        connection.read();
        self.record(ended(self.prober, ClientKind::New, sent, false, &mut connection));
        Ok(1)
    }

    /// Requests on one connection, as long as the server keeps it. Returns how many.
    fn kept(&self, asked: u32) -> io::Result<u32> {
        let (prober, kind) = (self.prober, ClientKind::Kept);
        let mut connection = LoadConnection::open(prober, false)?;
        connection.ask(RequestShape::KEPT)?;
        let mut made = 0;
        loop {
            let sent = Instant::now();
            connection.read();
            made += 1;
            if made > 1 && connection.is_returned() {
                // A client makes it again on another connection, and so does this one.
                return Ok(made);
            }
            if !connection.takes_more() || !self.goes_on(asked + made) {
                self.record(told_of(prober, kind, sent, made > 1, &mut connection));
                return Ok(made);
            }
            self.record(told_of(prober, kind, sent, made > 1, &mut connection));
            self.pause(asked + made);
            // A client looks whether its connection has ended before it uses it again.
            if connection.has_left() || connection.again(RequestShape::KEPT).is_err() {
                return Ok(made);
            }
        }
    }
}

/// A response that has begun, most of which waits in the server.
pub(super) struct UnderWay<'p> {
    prober: &'p Prober,
    connection: LoadConnection<'p>,
    sent: Instant,
}

impl<'p> UnderWay<'p> {
    /// `None` if no response has begun, as in a server all of whose workers are busy.
    pub(super) fn begin(prober: &'p Prober) -> Option<Self> {
        let mut connection = LoadConnection::open(prober, true).ok()?;
        connection.ask(RequestShape::GET).ok()?;
        let sent = Instant::now();
        connection.begins().then_some(Self { prober, connection, sent })
    }

    /// Reads the rest.
    pub(super) fn finish(mut self) -> LoadAttempt {
        self.connection.read();
        ended(self.prober, ClientKind::UnderWay, self.sent, false, &mut self.connection)
    }
}

/// Waits a moment for what follows a response, and judges the request.
fn ended(
    prober: &Prober,
    kind: ClientKind,
    sent: Instant,
    is_again: bool,
    connection: &mut LoadConnection<'_>,
) -> LoadAttempt {
    connection.settle();
    told_of(prober, kind, sent, is_again, connection)
}

fn told_of(
    prober: &Prober,
    kind: ClientKind,
    sent: Instant,
    is_again: bool,
    connection: &mut LoadConnection<'_>,
) -> LoadAttempt {
    if connection.is_returned() {
        returned(kind, sent)
    } else {
        told(prober, kind, sent, is_again, connection.result())
    }
}
