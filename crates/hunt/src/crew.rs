//! The threads that play stories, many at a time: most of a story is a pause.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use linger_lab::Stop;

use crate::field::{Load, StoryTrial, TrialField};
use crate::story::Story;
use crate::trials::TrialMap;

/// A story that was played.
#[derive(Clone, Debug)]
pub(crate) struct PlayedStory {
    pub(crate) index: u64,
    pub(crate) story: Story,
    pub(crate) trial: StoryTrial,
}

/// Those who play on a field, and how many connections it bears.
pub(crate) struct Crew<'a> {
    pub(crate) field: &'a dyn TrialField,
    /// The most connections at a time.
    most: usize,
    turns: Turns,
    /// The stories that were played again.
    repeated: Mutex<TrialMap>,
}

/// How many connections there are at first.
const FIRST: usize = 16;
/// How often the number of connections is halved at most.
const CALM: Duration = Duration::from_secs(1);
/// How often the one who waits for results looks for other reasons to end.
const LOOK: Duration = Duration::from_millis(50);
/// A thread's stack. A client needs little, and there are hundreds.
const STACK: usize = 256 << 10;

impl<'a> Crew<'a> {
    pub(crate) fn new(field: &'a dyn TrialField, most: usize) -> Self {
        let most = most.max(1);
        Self { field, most, turns: Turns::new(FIRST.min(most)), repeated: Mutex::default() }
    }

    /// The stories that were played again, by time and size.
    pub(crate) fn repeated(&self) -> MutexGuard<'_, TrialMap> {
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most connections that were open at once.
    pub(crate) fn peak(&self) -> usize {
        self.turns.peak.load(Ordering::Relaxed)
    }

    /// How many connections the server bears, as far as is known.
    pub(crate) fn may_be(&self) -> usize {
        self.turns.lock().may_be
    }

    /// Plays what `source` gives, until it gives nothing more or `halt` is requested. Calls `told` with each, and `look` now and then.
    pub(crate) fn run(
        &self,
        source: &(dyn Fn() -> Option<(u64, Story)> + Sync),
        count: usize,
        halt: &Stop,
        mut told: impl FnMut(PlayedStory),
        mut look: impl FnMut(),
    ) -> io::Result<()> {
        let (sender, results) = channel();
        let failed = Mutex::new((0, None));
        thread::scope(|scope| {
            let mut started = 0;
            for _ in 0..self.most.min(count) {
                let sender = sender.clone();
                let failed = &failed;
                let work = move || {
                    if let Err(error) = self.work(source, halt, &sender) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        *failed = (failed.0 + 1, Some(error));
                    }
                };
                match thread::Builder::new().name("client".into()).stack_size(STACK).spawn_scoped(scope, work)
                {
                    Ok(_) => started += 1,
                    // With those that there are it takes longer.
                    Err(_) if started > 0 => break,
                    Err(error) => {
                        halt.request();
                        return Err(error);
                    }
                }
            }
            drop(sender);
            loop {
                match results.recv_timeout(LOOK) {
                    Ok(played) => told(played),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                look();
                if halt.requested() {
                    self.turns.changed.notify_all();
                }
            }
            // With those that can play it takes longer.
            match std::mem::take(&mut *failed.lock().unwrap_or_else(PoisonError::into_inner)) {
                (count, Some(error)) if count == started => Err(error),
                _ => Ok(()),
            }
        })
    }

    fn work(
        &self,
        source: &(dyn Fn() -> Option<(u64, Story)> + Sync),
        halt: &Stop,
        told: &Sender<PlayedStory>,
    ) -> io::Result<()> {
        let mut inside = None;
        while self.turns.enter(self.field.spacing(), halt) {
            let Some((index, story)) = source() else {
                self.turns.leave(Load::AsBefore, self.most);
                break;
            };
            let trial = match self.field.play(&story, &mut inside, halt) {
                Ok(trial) => trial,
                Err(error) => {
                    self.turns.leave(Load::AsBefore, self.most);
                    return Err(error);
                }
            };
            self.turns.leave(trial.load, self.most);
            if told.send(PlayedStory { index, story, trial }).is_err() {
                break;
            }
        }
        self.turns.changed.notify_all();
        Ok(())
    }
}

/// How many connections are open, and how many may be: as many as the server answers.
#[derive(Debug)]
struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
    peak: AtomicUsize,
}

#[derive(Debug)]
struct TurnState {
    open: usize,
    may_be: usize,
    halved: Option<Instant>,
    /// When the next connection may begin.
    next: Instant,
}

impl Turns {
    fn new(may_be: usize) -> Self {
        let state = TurnState { open: 0, may_be, halved: None, next: Instant::now() };
        Self { state: Mutex::new(state), changed: Condvar::new(), peak: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, `spacing` after the one before. Returns false if the hunt is halted.
    fn enter(&self, spacing: Duration, halt: &Stop) -> bool {
        let mut state = self.lock();
        while state.open >= state.may_be && !halt.requested() {
            state = self.changed.wait_timeout(state, LOOK * 4).unwrap_or_else(PoisonError::into_inner).0;
        }
        if halt.requested() {
            return false;
        }
        state.open += 1;
        self.peak.fetch_max(state.open, Ordering::Relaxed);
        let now = Instant::now();
        let begin = state.next.max(now);
        state.next = begin + spacing;
        drop(state);
        thread::sleep(begin - now);
        true
    }

    fn leave(&self, load: Load, most: usize) {
        let mut state = self.lock();
        state.open -= 1;
        match load {
            Load::Light => state.may_be = (state.may_be + 1).min(most),
            Load::AsBefore => {}
            Load::TooMuch if state.halved.is_some_and(|halved| halved.elapsed() < CALM) => {}
            Load::TooMuch => {
                state.may_be = (state.may_be / 2).max(1);
                state.halved = Some(Instant::now());
            }
        }
        drop(state);
        self.changed.notify_one();
    }
}
