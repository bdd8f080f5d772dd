//! The transfers that were handed to sinks. For each of them the sink's command is started at most once, however often
//! the client comes back, and whatever becomes of the server in between.
//!
//! The connection may be lost after the command has run and before the client has the receipt. The client comes back with
//! the same transfer id and gets the same receipt, also days later. With a [`Journal`] that outlives the process. If the
//! process ended while the command ran, nobody knows whether it did its work: the client is told so, and no command is run.

mod journal;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::fault::Fault;
use crate::host::{self, Rule};
use crate::message::{MemoryId, Receipt, Refusal, TransferId};
use crate::reason::{Reason, Remedy};
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
    /// The sink's command is running.
    Running,
    /// The sink's command has ended.
    Ended(Result<Receipt, Fault>),
    /// The command was started, and the server ended before it did.
    Unknown,
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
                DeliveryRecord::Started => (id, Delivery::Unknown),
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
            Some(Delivery::Unknown) => {
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
        matches!(self.lock().deliveries.get(&id), Some(Delivery::Running))
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
            Some(Delivery::Running) => AskedDelivery::Runs,
            Some(Delivery::Unknown) => AskedDelivery::Unknown,
            Some(Delivery::Arriving) | None => AskedDelivery::Nothing,
        }
    }

    /// Runs the transfer's command and returns its result. If another session is running the command, waits for that
    /// result; if it has ended, returns the known result. The command is not run again.
    pub(crate) fn run(
        &self,
        id: TransferId,
        command: impl FnOnce() -> Result<Receipt, Fault>,
    ) -> Result<Receipt, Fault> {
        let mut known = self.lock();
        loop {
            match known.deliveries.get(&id) {
                Some(Delivery::Running) => known = self.wait(known),
                Some(Delivery::Ended(outcome)) => return outcome.clone(),
                Some(Delivery::Unknown) => {
                    return Err(may_have_been_done("this server ended while its command ran"));
                }
                Some(Delivery::Arriving) | None => break,
            }
        }
        // On disk before the command runs: a server that comes up again then knows that it may have run.
        let late = host::lacks(Rule::NoteBeforeCommand);
        if !late && let Err(error) = known.note(&id, &DeliveryRecord::Started) {
            return Err(Fault::io(format!("cannot note the delivery, so nothing was run: {error}"), &error));
        }
        known.deliveries.insert(id, Delivery::Running);
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
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(id, record))
    }

    /// Forgets the oldest whose command does not run. The file forgets it when it is opened again.
    fn forget_one(&mut self) {
        let runs = |id: &TransferId| matches!(self.deliveries.get(id), Some(Delivery::Running));
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
mod tests {
    use super::*;
    use crate::message::{Durability, Time};
    use std::cell::Cell;

    fn receipt(size: u64) -> Receipt {
        Receipt {
            index: 0,
            size,
            hash: None,
            durability: Durability::Handed,
            time: Time::default(),
            name: b"@print".to_vec(),
            present: false,
            mode: None,
        }
    }

    fn id(number: u64) -> TransferId {
        let mut id = TransferId::default();
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn a_command_runs_once_for_a_transfer_and_once_more_for_another() {
        let (deliveries, runs) = (Deliveries::default(), Cell::new(0));
        let run = |id| {
            deliveries.run(id, || {
                runs.set(runs.get() + 1);
                Ok(receipt(runs.get()))
            })
        };
        deliveries.begin(id(1), None).unwrap();
        assert!(deliveries.outcome(id(1)).is_none());
        assert_eq!(run(id(1)).unwrap().size, 1);
        deliveries.begin(id(1), Some(deliveries.memory())).unwrap();
        assert_eq!(deliveries.outcome(id(1)).unwrap().unwrap().size, 1);
        assert_eq!(run(id(1)).unwrap().size, 1);
        deliveries.begin(id(2), None).unwrap();
        assert_eq!(run(id(2)).unwrap().size, 2);
    }

    #[test]
    fn what_failed_is_not_tried_again_by_itself() {
        let deliveries = Deliveries::default();
        deliveries.begin(id(1), None).unwrap();
        let failed = deliveries.run(id(1), || Err(Fault(Refusal::Command, "no paper".into())));
        assert!(failed.is_err());
        assert!(deliveries.run(id(1), || Ok(receipt(1))).is_err());
        assert!(deliveries.outcome(id(1)).unwrap().is_err());
    }

    #[test]
    fn what_nobody_remembers_runs_only_if_nothing_was_forgotten() {
        let deliveries = Deliveries { most: 8, ..Deliveries::default() };
        let memory = deliveries.memory();
        let refused = deliveries.begin(id(1), Some([1; 16])).unwrap_err();
        assert!(refused.1.to_string().contains("may have been done"), "{refused:?}");
        // All of it arrived, and the server was asked before it ran: nothing has run.
        deliveries.begin(id(1), Some(memory)).unwrap();
        deliveries.run(id(1), || Ok(receipt(1))).unwrap();
        for number in 2..=8 {
            deliveries.begin(id(number), None).unwrap();
        }
        assert!(deliveries.begin(id(1), Some(memory)).is_ok(), "the last that fits");
        assert_eq!(deliveries.memory(), memory);
        deliveries.begin(id(9), None).unwrap();
        assert_ne!(deliveries.memory(), memory, "a command was started that is forgotten now");
        assert!(deliveries.begin(id(1), Some(memory)).is_err());
        let memory = deliveries.memory();
        deliveries.begin(id(10), None).unwrap();
        assert_eq!(deliveries.memory(), memory, "no command was started for what is forgotten");
    }

    #[test]
    fn a_server_that_comes_up_again_knows_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let before = Deliveries::open(&path).unwrap();
        let memory = before.memory();
        for number in 1..=4 {
            before.begin(id(number), None).unwrap();
        }
        before.run(id(1), || Ok(receipt(1))).unwrap();
        let _ = before.run(id(2), || Err(Fault(Refusal::Command, "no paper".into())));
        // The file as it is while the third command runs.
        let image = before.run(id(3), || {
            std::fs::copy(&path, dir.path().join("image")).unwrap();
            Ok(receipt(3))
        });
        image.unwrap();
        let after = Deliveries::open(&dir.path().join("image")).unwrap();
        assert_eq!(after.memory(), memory);
        let never = || -> Result<Receipt, Fault> { panic!("it is not run again") };
        after.begin(id(1), Some(memory)).unwrap();
        assert_eq!(after.run(id(1), never).unwrap().size, 1);
        assert!(matches!(after.ask(id(2)), AskedDelivery::Failed(_)));
        assert!(after.begin(id(3), Some(memory)).is_err() && after.run(id(3), never).is_err());
        assert!(matches!(after.ask(id(3)), AskedDelivery::Unknown));
        // Its command was never started, and this memory would know.
        after.begin(id(4), Some(memory)).unwrap();
        assert!(matches!(after.ask(id(4)), AskedDelivery::Nothing));
        assert_eq!(after.run(id(4), || Ok(receipt(4))).unwrap().size, 4);
    }

    #[test]
    fn what_cannot_be_noted_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let deliveries = Deliveries::open(&path).unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        deliveries.lock().journal.as_mut().unwrap().replace_file(full);
        deliveries.begin(id(1), None).unwrap();
        let refused = deliveries.run(id(1), || panic!("it is not run")).unwrap_err();
        assert_eq!(refused.0, Refusal::NoSpace);
        assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Nothing));
    }

    #[test]
    fn two_sessions_at_once_run_it_once() {
        let deliveries = Deliveries::default();
        deliveries.begin(id(1), None).unwrap();
        let (started, wait) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                deliveries.run(id(1), || {
                    started.wait();
                    wait.wait();
                    Ok(receipt(1))
                })
            });
            started.wait();
            assert!(deliveries.is_running(id(1)));
            let second = scope.spawn(|| deliveries.run(id(1), || Ok(receipt(2))));
            wait.wait();
            assert_eq!(second.join().unwrap().unwrap().size, 1);
            assert_eq!(first.join().unwrap().unwrap().size, 1);
        });
        assert!(!deliveries.is_running(id(1)));
    }
}
