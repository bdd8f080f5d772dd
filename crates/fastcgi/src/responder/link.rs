//! One connection, shared by its requests. Handlers that wait for their body drive the conversation; if requests are
//! multiplexed, the thread that reads the connection does.

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Config;
use super::gate::{Rested, Visit};
use super::wire::{Awaited, Ready, Wire};
use crate::conversation::{Answer, Conversation, End, Input, Key, Said, Step, Which};
use crate::incoming::Start;
use crate::journal::{Incident, Journal, RequestEntry, note};
use crate::sending::{Output, stopped};

const BUFFER: usize = 64 << 10;
/// How often [`Link::is_aborted`] takes what has arrived.
const LOOKS: u32 = 64;
/// How long a thread waits that has to look again at what another one does with the connection.
const GLANCE: Duration = Duration::from_millis(100);

/// A connection and the state of its requests.
#[derive(Debug)]
pub(super) struct Link<W: ?Sized> {
    state: Mutex<Conversation>,
    /// Handlers wait here for bytes of a stream or its end, the reading thread for a handler's read.
    news: Condvar,
    reader: Mutex<Reader>,
    writing: Mutex<Output>,
    /// Whether requests are multiplexed: handlers then have threads of their own, and only the connection's thread
    /// reads.
    is_shared: bool,
    /// A handler waits for input. If it reads and writes on two threads, a writer that waits must not take what the reader
    /// waits for: nobody would wake it.
    awaits_input: AtomicBool,
    io_timeout: Duration,
    journal: Option<Arc<dyn Journal>>,
    wire: W,
}

#[derive(Debug)]
struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

thread_local! {
    /// The buffer of this thread's last connection: a new one would have to be filled with zeros, a twentieth of what a short request takes.
    static LAST_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl Reader {
    fn new() -> Self {
        let buffer = LAST_BUFFER.take().unwrap_or_else(|| vec![0; BUFFER].into());
        Self { buffer, start: 0, end: 0 }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // At the end of the thread there is no place for it any more.
        let _ = LAST_BUFFER.try_with(|last| last.set(Some(buffer)));
    }
}

/// What the thread that serves a connection does next.
#[derive(Debug)]
pub(super) enum NextStep {
    Serve(Key, Start),
    /// No request is under way: wait for the next one, without a slot of the [`Gate`](super::gate::Gate).
    Rest(Pause),
    End(End),
}

/// A wait without a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Option<Instant>,
    /// Nothing was asked yet that was not answered: the connection may end at any time.
    pub(super) is_between: bool,
}

impl<W: Wire> Link<W> {
    pub(super) fn new(wire: W, config: &Config) -> Self {
        Self {
            state: Mutex::new(Conversation::new(config.bounds(config.multiplex))),
            news: Condvar::new(),
            reader: Mutex::new(Reader::new()),
            writing: Mutex::new(Output::Whole),
            is_shared: config.multiplex,
            awaits_input: AtomicBool::new(false),
            io_timeout: config.io_timeout,
            journal: config.journal.clone(),
            wire,
        }
    }

    /// Takes the connection out, for its close. Returns `None` while another `Arc` of the link exists. Handlers only borrow
    /// the link, so no other `Arc` exists once they have returned.
    pub(super) fn into_wire(link: Arc<Self>) -> Option<W> {
        Arc::into_inner(link).map(|link| link.wire)
    }
}

impl<W: Wire + ?Sized> Link<W> {
    /// Reads until there is a request to serve, or nothing to do.
    pub(super) fn next(&self) -> NextStep {
        loop {
            let mut state = self.state();
            if let Some((key, start)) = state.request() {
                return NextStep::Serve(key, start);
            }
            let step = state.next(Instant::now());
            let idle_until = match step {
                Step::Rest(until) | Step::Receive(until) if state.is_idle() => Some(until),
                _ => None,
            };
            match step {
                Step::End(end) => return NextStep::End(end),
                Step::Hold => drop(self.news.wait(state).unwrap_or_else(PoisonError::into_inner)),
                step => {
                    drop(state);
                    let is_between = matches!(step, Step::Rest(_));
                    match idle_until {
                        // The next request is often there already.
                        Some(until) if until.is_none_or(|until| until > Instant::now()) => {
                            if !self.advance_with_what_is_there() {
                                return NextStep::Rest(Pause { until, is_between });
                            }
                        }
                        _ => self.obey(step),
                    }
                }
            }
        }
    }

    /// Waits without a request. Returns whether the conversation goes on.
    pub(super) fn rest(&self, pause: Pause, visit: &mut Visit<'_>) -> bool {
        let rested = visit.rest(|bell| self.wire.rest(pause.until, pause.is_between, bell));
        match rested {
            Some(Ok(Rested::Input)) => true,
            Some(Ok(Rested::Evicted)) => {
                note(self.journal.as_ref(), &Incident::Evicted);
                false
            }
            // Whoever had a seat or could have none, and has asked for nothing, has nothing to lose.
            _ if pause.is_between => false,
            None => {
                self.advance(pause.until);
                true
            }
            Some(Ok(Rested::Time | Rested::Stop)) => {
                self.state().silent(Instant::now());
                true
            }
            Some(Err(error)) => {
                self.state().lost(error.kind());
                true
            }
        }
    }

    /// How to end the connection if it is not kept.
    pub(super) fn end(&self) -> End {
        self.state().end()
    }

    /// Reads from one of a request's streams. Returns 0 at its end.
    pub(super) fn read(&self, key: Key, which: Which, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            let mut state = self.state();
            let input = state.read(key, which, to)?;
            if self.is_shared && state.is_held() {
                self.news.notify_all();
            }
            match input {
                Input::Got(got) => return Ok(got),
                Input::End => return Ok(0),
                Input::Later if self.is_shared => {
                    drop(self.news.wait(state).unwrap_or_else(PoisonError::into_inner));
                }
                Input::Later => {
                    let step = state.next(Instant::now());
                    drop(state);
                    self.obey(step);
                }
            }
        }
    }

    /// Writes all parts without a gap: no record of another request comes in between.
    pub(super) fn write(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut output = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sending = output.begin(parts)?;
        while let Some(parts) = sending.left() {
            match self.wire.send(parts) {
                Ok(sent) => sending.sent(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.await_room()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the send buffer has room, and lets the connection be read meanwhile: the gateway may be one that writes its
    /// whole request before it reads. One that sends is not silent.
    fn await_room(&self) -> io::Result<()> {
        self.state().blocked(true);
        let room = self.read_until_room();
        self.state().blocked(false);
        room
    }

    fn read_until_room(&self) -> io::Result<()> {
        if self.is_shared {
            // The thread that reads may have been told to hold.
            self.news.notify_all();
        }
        let patience = || Instant::now().checked_add(self.io_timeout);
        let (mut heard, mut until) = (self.state().heard(), patience());
        loop {
            let is_free = !self.is_shared && !self.awaits_input.load(Ordering::SeqCst);
            let reads = is_free && self.state().reads_ahead();
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            let wait = if self.is_shared || reads { left } else { left.min(GLANCE) };
            match self.wire.await_room(wait, reads)? {
                Ready::Output => return Ok(()),
                Ready::Input => drop(self.advance_with_what_is_there()),
                Ready::Time => {}
            }
            let now = self.state().heard();
            if std::mem::replace(&mut heard, now) != now {
                until = patience();
            } else if until.is_some_and(|until| until <= Instant::now()) {
                return Err(stopped());
            }
        }
    }

    /// Takes one event or receives once, without waiting. Returns false if nothing has arrived, or nothing may be read now.
    fn look_once(&self) -> bool {
        self.state().reads_ahead() && self.advance_with_what_is_there()
    }

    pub(super) fn is_aborted(&self, key: Key) -> bool {
        // A gateway that sends all the time must not keep a handler that only asks.
        let mut looks = 0..LOOKS;
        while !self.is_shared && looks.next().is_some() && self.look_once() {}
        self.state().is_aborted(key)
    }

    /// Waits for the rest of a request whose handler is done, as long as that moves.
    fn settle(&self, key: Key, answer: &mut Answer, is_done: bool) {
        // More often than not the rest has arrived already.
        let is_awaited = || self.state().settle(key, Instant::now()).is_some();
        while !self.is_shared && is_awaited() && self.look_once() {}
        let mut is_sent = !is_done;
        loop {
            let mut state = self.state();
            let Some(until) = state.settle(key, Instant::now()) else { return };
            if self.is_shared && state.is_held() {
                // What this request held up the connection with is dropped.
                self.news.notify_all();
            }
            if !std::mem::replace(&mut is_sent, true) {
                drop(state);
                // If this fails the answer is torn, and the end says so.
                if let Some(record) = answer.gathered() {
                    if self.write(&mut [IoSlice::new(&record)]).is_ok() {
                        answer.sent(record);
                    }
                }
                continue;
            }
            if self.is_shared {
                let left = until.saturating_duration_since(Instant::now());
                drop(self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            match state.next(Instant::now()) {
                Step::Receive(deadline) => {
                    drop(state);
                    self.advance(Some(deadline.map_or(until, |deadline| deadline.min(until))));
                }
                Step::Hold | Step::End(_) => return,
                step => {
                    drop(state);
                    self.obey(step);
                }
            }
        }
    }

    /// A line of the journal for a request that begins, if there is a journal.
    pub(super) fn entry(&self, start: &Start) -> Option<Box<RequestEntry>> {
        RequestEntry::begin(self.journal.as_ref(), start)
    }

    /// Ends a request with its handler's result. Returns the answer's buffer, for reuse.
    pub(super) fn finish(
        &self,
        key: Key,
        mut answer: Answer,
        entry: Option<Box<RequestEntry>>,
        handled: io::Result<u32>,
    ) -> Vec<u8> {
        // A refusal is not held back behind an upload: nothing of it is sent before END_REQUEST.
        if handled.is_ok() || answer.said() != Said::Nothing {
            self.settle(key, &mut answer, handled.is_ok());
        }
        let status = handled.as_ref().ok().copied();
        let reason = handled.err().map(|error| error.to_string()).unwrap_or_default();
        let (body, end) = {
            let mut state = self.state();
            (state.received(key), state.finish(key, status, answer.said(), Instant::now()))
        };
        let last = answer.last(end, &reason);
        let sent = self.write(&mut [IoSlice::new(last.bytes())]);
        if let Some(entry) = entry {
            entry.end(end, last.told(), body, sent.is_ok());
        }
        self.state().answered(sent.is_ok());
        if self.is_shared {
            self.news.notify_all();
            self.wire.wake();
        }
        last.into_buffer()
    }

    /// Does the step that the conversation asks for.
    fn obey(&self, step: Step) {
        match step {
            Step::Send(records) => {
                if let Err(error) = self.write(&mut [IoSlice::new(&records)]) {
                    self.state().lost(error.kind());
                    self.news.notify_all();
                }
            }
            Step::Measure => {
                let event = self.wire.unacknowledged();
                self.state().measured(event, Instant::now());
            }
            Step::Receive(until) | Step::Rest(until) => self.advance(until),
            Step::Hold | Step::End(_) => debug_assert!(false, "{step:?} is for the thread that serves"),
        }
    }

    /// Takes one event, or receives once, waiting for input until `until`.
    fn advance(&self, until: Option<Instant>) {
        // More often than not the bytes have arrived already.
        while !self.advance_with_what_is_there() {
            match self.await_input(until) {
                Ok(Awaited::Input) => continue,
                Ok(Awaited::Wake) => return,
                Ok(Awaited::Time) if until.is_some_and(|until| Instant::now() < until) => return,
                Ok(Awaited::Time) if until.is_none() => return,
                Ok(Awaited::Time) => self.state().silent(Instant::now()),
                Err(error) => self.state().lost(error.kind()),
            }
            return self.news.notify_all();
        }
    }

    /// Waits for input until `until`; for a moment at most while a writer on another thread may take the input.
    fn await_input(&self, until: Option<Instant>) -> io::Result<Awaited> {
        if self.is_shared {
            return self.wire.await_input(until);
        }
        // In this order: a writer says that it waits, and then looks whether somebody waits for input.
        self.awaits_input.store(true, Ordering::SeqCst);
        let glance = self.state().is_blocked().then(|| Instant::now() + GLANCE);
        let until = until.into_iter().chain(glance).min();
        let awaited = self.wire.await_input(until);
        self.awaits_input.store(false, Ordering::SeqCst);
        awaited
    }

    /// Does what [`advance`](Self::advance) does, but only as far as no waiting is needed. Returns false if it would have
    /// to wait.
    fn advance_with_what_is_there(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.start == reader.end && !self.receive(&mut reader) {
            return false;
        }
        let mut input = &reader.buffer[reader.start..reader.end];
        if !input.is_empty() {
            self.state().take(&mut input, Instant::now());
            reader.start = reader.end - input.len();
        }
        if self.is_shared {
            self.news.notify_all();
        }
        true
    }

    /// Receives into the reader. Returns false if nothing has arrived.
    fn receive(&self, reader: &mut Reader) -> bool {
        match self.wire.receive(&mut reader.buffer) {
            Ok(0) => self.state().closed(),
            Ok(got) => (reader.start, reader.end) = (0, got),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => self.state().lost(error.kind()),
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, Conversation> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
