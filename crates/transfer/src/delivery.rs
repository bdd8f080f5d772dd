//! The transfers that were handed to sinks. For each of them the sink's command is started at most once, however often
//! the client comes back, and whatever becomes of the server in between.
//!
//! The connection may be lost after the command has run and before the client has the receipt. The client comes back with
//! the same transfer id and gets the same receipt, also days later. With a [`Journal`] that outlives the process. If the
//! process ended while the command ran, nobody knows whether it did its work: the client is told so, and no command is run.
//! Nor is one run for another transfer that brings the same content to the same sink, until a person says that it is to be
//! done again: a script that repeats what has failed does not print twice.

mod journal;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Hash;
use crate::host::{self, Rule};
use crate::message::{MemoryId, Receipt, Refusal, TransferId};
use crate::reason::{Reason, Remedy};
pub(crate) use journal::DamagedJournal;
use journal::{DeliveryRecord, Journal};

/// Transfers that are remembered. Each costs some 300 bytes.
const MOST: usize = 16 << 10;

/// The transfers to sinks that this server remembers.
#[derive(Debug)]
pub(crate) struct Deliveries {
    known: Mutex<Remembered>,
    /// A command has ended.
    ended: Condvar,
    most: usize,
}

#[derive(Debug)]
struct Remembered {
    /// Changes when something is forgotten that was started.
    memory: MemoryId,
    deliveries: HashMap<TransferId, Delivery>,
    /// In the order in which they began.
    order: VecDeque<TransferId>,
    journal: Option<Journal>,
}

#[derive(Clone, Debug)]
enum Delivery {
    /// The transfer's bytes are arriving.
    Arriving,
    /// The sink's command is running, with this content.
    Running(Hash),
    /// The sink's command has ended.
    Ended(Result<Receipt, Fault>),
    /// The command was started, and the server ended before it did. With the content that it was started for, until
    /// somebody has said that this is to be done again.
    Unknown(Option<Hash>),
}

/// A transfer whose bytes are all here, so that its command may be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryOrder {
    pub(crate) id: TransferId,
    /// Names the sink and the content.
    pub(crate) content: Hash,
    /// A person knows that it may have been done already, and wants it done.
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

fn random() -> MemoryId {
    let mut name = MemoryId::default();
    // It only has to be another than before.
    let _ = host::random(&mut name);
    name
}

fn may_have_been_done(why: &str) -> Fault {
    let told = format!("it may have been done already: {why}");
    Fault(Refusal::Command, Reason::from(told).with(Remedy::LookBeforeSending))
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
        let order = history.iter().map(|(id, _)| *id).collect();
        let deliveries = history
            .into_iter()
            .map(|(id, record)| match record {
                DeliveryRecord::Started(content) => (id, Delivery::Unknown(content)),
                DeliveryRecord::Ended(outcome) => (id, Delivery::Ended(outcome)),
            })
            .collect();
        let known = Mutex::new(Remembered { memory, deliveries, order, journal });
        Self { known, ended: Condvar::new(), most: MOST }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this memory: the same as long as nothing is forgotten.
    pub(crate) fn memory(&self) -> MemoryId {
        self.lock().memory
    }

    /// Begins a transfer, or continues a known one. `sent`: the name that this memory had when the client had sent all
    /// of the transfer, in an earlier session.
    ///
    /// # Errors
    /// Returns a refusal if nobody can know whether the command has run.
    pub(crate) fn begin(&self, id: TransferId, sent: Option<MemoryId>) -> Result<(), Fault> {
        let mut known = self.lock();
        match known.deliveries.get(&id) {
            Some(Delivery::Unknown(_)) => {
                return Err(may_have_been_done("this server ended while its command ran"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        // A memory that has forgotten nothing knows of every command that was started.
        if sent.is_some_and(|memory| memory != known.memory) {
            return Err(may_have_been_done("this server does not remember"));
        }
        if known.order.len() >= self.most {
            known.forget_one();
        }
        known.order.push_back(id);
        known.deliveries.insert(id, Delivery::Arriving);
        Ok(())
    }

    /// Whether the transfer's command is running.
    pub(crate) fn is_running(&self, id: TransferId) -> bool {
        matches!(self.lock().deliveries.get(&id), Some(Delivery::Running(_)))
    }

    /// The result of its command, if it has ended.
    pub(crate) fn outcome(&self, id: TransferId) -> Option<Result<Receipt, Fault>> {
        match self.lock().deliveries.get(&id) {
            Some(Delivery::Ended(outcome)) => Some(outcome.clone()),
            _ => None,
        }
    }

    /// What is known of a transfer.
    pub(crate) fn ask(&self, id: TransferId) -> AskedDelivery {
        match self.lock().deliveries.get(&id) {
            Some(Delivery::Ended(Ok(receipt))) => AskedDelivery::Delivered(receipt.clone()),
            Some(Delivery::Ended(Err(fault))) => AskedDelivery::Failed(fault.clone()),
            Some(Delivery::Running(_)) => AskedDelivery::Runs,
            Some(Delivery::Unknown(_)) => AskedDelivery::Unknown,
            Some(Delivery::Arriving) | None => AskedDelivery::Nothing,
        }
    }

    /// Runs the transfer's command and returns its result. If another session is running the command, waits for that
    /// result; if it has ended, returns the known result. The command is not run again.
    ///
    /// # Errors
    /// Returns how the command failed. A fault that [is open](Fault::is_open) means that nothing was started, and that
    /// what is asked for may have been done before.
    pub(crate) fn run(
        &self,
        order: &DeliveryOrder,
        command: impl FnOnce() -> Result<Receipt, Fault>,
    ) -> Result<Receipt, Fault> {
        let &DeliveryOrder { id, content, anew } = order;
        let mut known = self.lock();
        loop {
            match known.deliveries.get(&id) {
                Some(Delivery::Running(_)) => known = self.wait(known),
                Some(Delivery::Ended(outcome)) => return outcome.clone(),
                Some(Delivery::Unknown(_)) => {
                    return Err(may_have_been_done("this server ended while its command ran"));
                }
                Some(Delivery::Arriving) | None => break,
            }
        }
        if !anew && known.doubts(&content).next().is_some() && !host::lacks(Rule::KeepDoubts) {
            return Err(may_have_been_done("this server ended while the command ran with the same content"));
        }
        // On disk before the command runs: a server that comes up again then knows that it may have run.
        let late = host::lacks(Rule::NoteBeforeCommand);
        if !late && let Err(error) = known.note(&id, &DeliveryRecord::Started(Some(content))) {
            return Err(Fault::io(format!("cannot note the delivery, so nothing was run: {error}"), &error));
        }
        known.deliveries.insert(id, Delivery::Running(content));
        // From here on this transfer stands for the content, whatever becomes of it.
        known.settle(&content);
        drop(known);
        let outcome = command();
        let mut known = self.lock();
        if let Err(error) = known.note(&id, &DeliveryRecord::Ended(outcome.clone())) {
            // After a restart the client is told that it may have been done, which is true.
            tracing::warn!(%error, "what a command came to cannot be noted");
        }
        known.deliveries.insert(id, Delivery::Ended(outcome.clone()));
        drop(known);
        self.ended.notify_all();
        outcome
    }
}

impl Deliveries {
    /// Waits until a command has ended.
    fn wait<'a>(&'a self, known: MutexGuard<'a, Remembered>) -> MutexGuard<'a, Remembered> {
        let Some(host) = host::simulated() else {
            return self.ended.wait(known).unwrap_or_else(PoisonError::into_inner);
        };
        drop(known);
        host.pause(Duration::from_millis(10));
        self.lock()
    }
}

impl Remembered {
    fn note(&mut self, id: &TransferId, record: &DeliveryRecord) -> std::io::Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let lost = if journal.is_removed()? { Some(self.history()) } else { None };
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if let Some(history) = lost {
            tracing::warn!("the record of what was handed to sinks was removed; it is written again");
            journal.restore(&self.memory, &history)?;
        }
        journal.append(id, record)
    }

    /// All that a journal has to know, the oldest first.
    fn history(&self) -> journal::History {
        let of = |id: &TransferId| {
            let record = match self.deliveries.get(id)? {
                Delivery::Arriving => return None,
                Delivery::Running(content) => DeliveryRecord::Started(Some(*content)),
                Delivery::Unknown(content) => DeliveryRecord::Started(*content),
                Delivery::Ended(outcome) => DeliveryRecord::Ended(outcome.clone()),
            };
            Some((*id, record))
        };
        self.order.iter().filter_map(of).collect()
    }

    /// The transfers of a content of which nobody knows whether it was delivered.
    fn doubts(&self, content: &Hash) -> impl Iterator<Item = TransferId> {
        self.deliveries.iter().filter_map(move |(id, delivery)| match delivery {
            Delivery::Unknown(Some(of)) if of == content => Some(*id),
            _ => None,
        })
    }

    /// Nobody doubts any more whether a content is to be delivered. What became of those transfers stays unknown.
    fn settle(&mut self, content: &Hash) {
        let settled: Vec<TransferId> = self.doubts(content).collect();
        for id in settled {
            if let Err(error) = self.note(&id, &DeliveryRecord::Started(None)) {
                // After a restart somebody is asked once more.
                tracing::warn!(%error, "it cannot be noted that a delivery is to be made again");
            }
            self.deliveries.insert(id, Delivery::Unknown(None));
        }
    }

    /// Forgets the oldest whose command does not run. The file forgets it when it is opened again.
    fn forget_one(&mut self) {
        let runs = |id: &TransferId| matches!(self.deliveries.get(id), Some(Delivery::Running(_)));
        let Some(oldest) = self.order.iter().position(|id| !runs(id)).and_then(|at| self.order.remove(at))
        else {
            return;
        };
        if !matches!(self.deliveries.remove(&oldest), Some(Delivery::Arriving)) {
            self.memory = random();
        }
    }
}

#[cfg(test)]
mod tests;
