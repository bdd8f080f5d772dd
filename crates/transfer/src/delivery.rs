//! Transfers to sinks. The sink's command is started at most once for each transfer, however often the client reconnects, and
//! even if the server is restarted meanwhile.
//!
//! The connection may be lost after the command has run and before the client has the receipt. The client reconnects with the
//! same transfer id and gets the same receipt, even days later if a [`Journal`] on disk outlives the server's process. If the
//! process ended while the command ran, nobody knows whether the command did its work: the client is told so, and the command
//! is not run again. Nor is it run for another transfer of the same content to the same sink, until a person says so
//! (`put --again`): a script that repeats failed puts does not print twice.
//!
//! The same holds if the command succeeded and no client has confirmed that it knows: a client that gave up while the command
//! ran cannot tell, and may put the same content again. The goodbye of a client that has the receipt, from its transfer or from
//! asking later, settles the doubt. While a session is open whose client may still confirm, other transfers of the same
//! content wait.

mod attendance;
mod journal;
mod memory;

use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Hash;
use crate::host::{self, Rule};
use crate::message::{MemoryId, Receipt, Refusal, TransferId};
pub(crate) use attendance::Attendance;
pub(crate) use journal::DamagedJournal;
use journal::{DeliveryRecord, Journal};
use memory::{ContentStanding, Delivery, Remembered, may_have_been_done, random};

/// How many transfers are remembered. Each costs some 300 bytes.
const MOST: usize = 16 << 10;

/// Why nobody knows what became of a command: the process ended while it ran, or had no room on its disk to note how it ended.
const NOT_NOTED: &str = "this server ended before it could note what its command had come to";

/// The transfers to sinks that this server remembers.
#[derive(Debug)]
pub(crate) struct Deliveries {
    known: Mutex<Remembered>,
    /// Notified when a command has ended, or a client has confirmed its receipt or has left.
    changed: Condvar,
    most: usize,
}

/// A transfer whose bytes are all here, so that its command may be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryOrder {
    pub(crate) id: TransferId,
    /// A hash of the sink's name and the content.
    pub(crate) content: Hash,
    /// A person knows that the command may have run for this content already, and wants it run.
    pub(crate) anew: bool,
}

/// What is known of a transfer that somebody asks for.
#[derive(Debug)]
pub(crate) enum AskedDelivery {
    Delivered(Receipt),
    Failed(Fault),
    /// The command runs.
    Runs,
    /// The command was started, and nobody knows more.
    Unknown,
    /// No command was started, as far as this server remembers.
    Nothing,
}

impl Default for Deliveries {
    /// Remembers as long as the process lives.
    fn default() -> Self {
        Self::with(None, random(), Vec::new())
    }
}

impl Deliveries {
    /// Remembers in the file at `path`, and what was remembered there before.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the file cannot be used, or another server uses it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (journal, memory, history) = Journal::open(path, MOST)?;
        Ok(Self::with(Some(journal), memory, history))
    }

    fn with(journal: Option<Journal>, memory: MemoryId, history: journal::History) -> Self {
        let known = Mutex::new(Remembered::new(journal, memory, history));
        Self { known, changed: Condvar::new(), most: MOST }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this memory. It changes when a transfer whose command was started is forgotten.
    pub(crate) fn memory(&self) -> MemoryId {
        self.lock().memory()
    }

    /// Begins a transfer, or continues a known one. `sent`: the name that this memory had when the client had sent all
    /// of the transfer, in an earlier session.
    ///
    /// # Errors
    /// Returns a refusal if nobody can know whether the command has run.
    pub(crate) fn begin(&self, id: TransferId, sent: Option<MemoryId>) -> Result<(), Fault> {
        let mut known = self.lock();
        match known.get(&id) {
            Some(Delivery::Unknown(_)) => {
                return Err(may_have_been_done(NOT_NOTED));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        // A memory that has forgotten nothing knows of every command that was started.
        if sent.is_some_and(|memory| memory != known.memory()) {
            return Err(may_have_been_done("this server does not remember"));
        }
        known.begin(id, self.most);
        Ok(())
    }

    /// Whether the transfer's command is running.
    pub(crate) fn is_running(&self, id: TransferId) -> bool {
        matches!(self.lock().get(&id), Some(Delivery::Running(_)))
    }

    /// The result of the transfer's command, if that has ended.
    pub(crate) fn outcome(&self, id: TransferId) -> Option<Result<Receipt, Fault>> {
        self.lock().get(&id)?.outcome()
    }

    /// What is known of a transfer.
    pub(crate) fn ask(&self, id: TransferId) -> AskedDelivery {
        match self.lock().get(&id) {
            Some(Delivery::Ended(Ok(receipt)) | Delivery::Unheard(receipt, _)) => {
                AskedDelivery::Delivered(receipt.clone())
            }
            Some(Delivery::Ended(Err(fault))) => AskedDelivery::Failed(fault.clone()),
            Some(Delivery::Running(_)) => AskedDelivery::Runs,
            Some(Delivery::Unknown(_)) => AskedDelivery::Unknown,
            Some(Delivery::Arriving | Delivery::Refused(_)) | None => AskedDelivery::Nothing,
        }
    }

    /// Runs the transfer's command and returns its result. If another session is running the command, waits for that
    /// result; if it has ended, returns the known result. The command is not run again.
    ///
    /// If the command runs for another transfer of the same content, or has succeeded and that transfer's client may still
    /// confirm so, waits for that too.
    ///
    /// # Errors
    /// Returns how the command failed, or why nothing was started. A fault that [is open](Fault::is_open) means that the
    /// command may have run before, and was not started now.
    pub(crate) fn run(
        &self,
        order: &DeliveryOrder,
        command: impl FnOnce() -> Result<Receipt, Fault>,
    ) -> Result<Receipt, Fault> {
        let &DeliveryOrder { id, content, .. } = order;
        let mut known = match self.await_turn(order)? {
            Turn::Its(known) => known,
            Turn::Over(outcome) => return outcome,
        };
        // On disk before the command runs: a restarted server then knows that the command may have run.
        if let Err(error) = known.start(id, content, !host::lacks(Rule::NoteBeforeCommand)) {
            let told =
                format!("cannot note the delivery in {}, so nothing was run: {error}", known.journal_name());
            let fault = known.refuse(id, Fault::io(told, &error));
            drop(known);
            self.changed.notify_all();
            return Err(fault);
        }
        drop(known);
        let outcome = command();
        let record = match &outcome {
            Ok(receipt) if !host::lacks(Rule::KeepUnheard) => {
                DeliveryRecord::Unheard(receipt.clone(), content)
            }
            _ => DeliveryRecord::Ended(outcome.clone()),
        };
        // If the result cannot be noted, clients are told after a restart that the command may have run, which is true.
        self.lock().conclude(id, record);
        self.changed.notify_all();
        outcome
    }

    /// Waits until it is decided whether the transfer's command is to be started.
    fn await_turn(&self, &DeliveryOrder { id, content, anew }: &DeliveryOrder) -> Result<Turn<'_>, Fault> {
        let mut known = self.lock();
        let mut has_waited = false;
        loop {
            match known.get(&id) {
                Some(Delivery::Running(_)) => {
                    known = self.wait(known);
                    continue;
                }
                Some(Delivery::Unknown(_)) => {
                    return Err(may_have_been_done(NOT_NOTED));
                }
                Some(Delivery::Arriving) | None => {}
                Some(ended) => {
                    if let Some(outcome) = ended.outcome() {
                        return Ok(Turn::Over(outcome));
                    }
                }
            }
            match known.standing(&content) {
                _ if anew || host::lacks(Rule::KeepDoubts) => {}
                ContentStanding::Settled => {}
                ContentStanding::Doubted(fault) => return Err(known.refuse(id, fault)),
                ContentStanding::Undecided => {
                    has_waited = true;
                    known = self.wait(known);
                    continue;
                }
            }
            if has_waited && !known.is_attended(&id) {
                // Nobody expects the command to run any more.
                return Err(Fault(Refusal::Busy, "its client has left, and nothing was run".into()));
            }
            return Ok(Turn::Its(known));
        }
    }

    /// Notes that a client knows that its transfer was delivered, if it was.
    fn heard(&self, id: TransferId) {
        let mut known = self.lock();
        if let Some(Delivery::Unheard(receipt, _)) = known.get(&id) {
            let record = DeliveryRecord::Ended(Ok(receipt.clone()));
            known.conclude(id, record);
            drop(known);
            self.changed.notify_all();
        }
    }
}

/// What [`Deliveries::await_turn`] has waited for.
enum Turn<'a> {
    /// The command is to be started.
    Its(MutexGuard<'a, Remembered>),
    /// The command has ended.
    Over(Result<Receipt, Fault>),
}

impl Deliveries {
    /// Waits until a command has ended, or a client has confirmed its receipt or has left.
    fn wait<'a>(&'a self, known: MutexGuard<'a, Remembered>) -> MutexGuard<'a, Remembered> {
        let Some(host) = host::simulated() else {
            return self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
        };
        drop(known);
        host.pause(Duration::from_millis(10));
        self.lock()
    }
}

#[cfg(test)]
mod tests;
