//! What a transfer has come to so far, for the thread that ends the program when the transfer's own thread cannot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linger_transfer::{Client, Error, Progress, Refusal, Summary};

use super::status;
use crate::interrupt;
use crate::lines::{self, line};
use crate::output::{Stdout, say};

/// The state that the transfer's thread keeps up to date.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing(Arc<Mutex<StandingState>>);

#[derive(Debug, Default)]
struct StandingState {
    json: bool,
    summary: Summary,
    /// All transfers of the command have ended.
    is_whole: bool,
}

impl Standing {
    pub(super) fn new(json: bool) -> Self {
        Self(Arc::new(Mutex::new(StandingState { json, ..StandingState::default() })))
    }

    fn state(&self) -> MutexGuard<'_, StandingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event.
    pub(super) fn see(&self, progress: &Progress) {
        let summary = &mut self.state().summary;
        match progress {
            Progress::Confirmed(confirmation) => {
                summary.confirmed += 1;
                summary.bytes += confirmation.size;
            }
            Progress::NotDelivered { refusal: Refusal::Skipped, .. } => summary.skipped += 1,
            Progress::NotDelivered { text, .. } => {
                summary.failed += 1;
                summary.first_failure.get_or_insert_with(|| text.clone());
            }
            _ => {}
        }
    }

    /// Notes that all transfers have ended, and with what.
    pub(super) fn ended(&self, summary: &Summary) {
        let mut state = self.state();
        (state.summary, state.is_whole) = (summary.clone(), true);
    }

    /// Makes Ctrl-C end the transfer of `client` in order, and the program in any case: a thread that waits for a disk
    /// cannot be ended, and is left behind.
    pub(super) fn end_on_signal(&self, client: &Arc<Client>) -> Result<(), Error> {
        let (cancel, client, standing) = (client.canceller(), client.clone(), self.clone());
        let overdue = move || leave(&client, &standing.state());
        interrupt::on_first_and_overdue(move || cancel.cancel(), overdue).map_err(|source| Error::Io {
            doing: "take",
            what: "signals".into(),
            source,
        })
    }
}

/// Says what is known, and ends the program while its main thread is stuck.
fn leave(client: &Client, state: &StandingState) {
    let mut summary = state.summary.clone();
    // The entry at which the thread waits is not complete.
    summary.unsent += u64::from(!state.is_whole);
    if let Some((waited, at)) = client.waits_for_disk() {
        let at = at.filter(|path| !path.is_root()).map_or_else(String::new, |path| format!(" at {path}"));
        let seconds = waited.as_secs_f64();
        say!(
            "linger: the disk has not answered for {seconds:.1} s{at}: a thread that waits for it is left behind"
        );
    }
    let error = (!state.is_whole).then_some(Error::Cancelled);
    if state.json && !state.is_whole {
        let mut out = Stdout::new();
        let _ = out.json(&line(lines::Transferred::new(&summary, error.as_ref()))).and_then(|()| out.flush());
    }
    if let Some(error) = &error {
        say!("linger: {error}");
    }
    std::process::exit(status(&summary, error.as_ref()).into());
}
