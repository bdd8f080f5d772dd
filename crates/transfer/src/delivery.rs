//! What was handed to sinks: for each transfer the sink's command is started at most once, however often the client comes
//! back.
//!
//! The connection may be lost after the command has run and before the client has the receipt. The client comes back with
//! the same transfer id and gets the same receipt. The memory of this ends with the server's process: a client that had
//! sent everything before the server was started anew is told that nobody knows whether the command ran, and no command
//! is run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::fault::Fault;
use crate::message::{Receipt, Refusal, TransferId};
use crate::reason::{Reason, Remedy};

/// Transfers that are remembered. Each costs some 200 bytes.
const MOST: usize = 4096;

/// The transfers to sinks that this server remembers.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    known: Mutex<Remembered>,
    /// A command has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Remembered {
    deliveries: HashMap<TransferId, Delivery>,
    /// In the order in which they began.
    order: VecDeque<TransferId>,
}

#[derive(Clone, Debug)]
enum Delivery {
    /// Its bytes arrive.
    Arriving,
    /// Its command runs.
    Running,
    /// Its command has ended.
    Ended(Result<Receipt, Fault>),
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transfer, or goes on with a known one. `sent`: the client sent all of it in an earlier session.
    ///
    /// # Errors
    /// Returns a refusal if the client had sent everything and this server does not know the transfer: the command may
    /// have run before the server was started anew.
    pub(crate) fn begin(&self, id: TransferId, sent: bool) -> Result<(), Fault> {
        let mut known = self.lock();
        if known.deliveries.contains_key(&id) {
            return Ok(());
        }
        if sent {
            let told =
                "it may have been done already: this server was started anew meanwhile and does not know";
            return Err(Fault(Refusal::Command, Reason::from(told).with(Remedy::LookBeforeSending)));
        }
        if known.order.len() >= MOST
            && let Some(at) =
                known.order.iter().position(|id| !matches!(known.deliveries.get(id), Some(Delivery::Running)))
            && let Some(oldest) = known.order.remove(at)
        {
            known.deliveries.remove(&oldest);
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
                Some(Delivery::Running) => {
                    known = self.ended.wait(known).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Delivery::Ended(outcome)) => return outcome.clone(),
                Some(Delivery::Arriving) | None => break,
            }
        }
        known.deliveries.insert(id, Delivery::Running);
        drop(known);
        let outcome = command();
        self.lock().deliveries.insert(id, Delivery::Ended(outcome.clone()));
        self.ended.notify_all();
        outcome
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
        deliveries.begin(id(1), false).unwrap();
        assert!(deliveries.outcome(id(1)).is_none());
        assert_eq!(run(id(1)).unwrap().size, 1);
        deliveries.begin(id(1), true).unwrap();
        assert_eq!(deliveries.outcome(id(1)).unwrap().unwrap().size, 1);
        assert_eq!(run(id(1)).unwrap().size, 1);
        deliveries.begin(id(2), false).unwrap();
        assert_eq!(run(id(2)).unwrap().size, 2);
    }

    #[test]
    fn what_failed_is_not_tried_again_by_itself() {
        let deliveries = Deliveries::default();
        deliveries.begin(id(1), false).unwrap();
        let failed = deliveries.run(id(1), || Err(Fault(Refusal::Command, "no paper".into())));
        assert!(failed.is_err());
        assert!(deliveries.run(id(1), || Ok(receipt(1))).is_err());
        assert!(deliveries.outcome(id(1)).unwrap().is_err());
    }

    #[test]
    fn what_nobody_remembers_runs_only_if_it_was_not_sent() {
        let deliveries = Deliveries::default();
        let refused = deliveries.begin(id(1), true).unwrap_err();
        assert!(refused.1.to_string().contains("may have been done"), "{refused:?}");
        deliveries.begin(id(1), false).unwrap();
        deliveries.run(id(1), || Ok(receipt(1))).unwrap();
        for number in 2..=MOST as u64 {
            deliveries.begin(id(number), false).unwrap();
        }
        assert!(deliveries.begin(id(1), true).is_ok(), "the last that fits");
        deliveries.begin(id(0), false).unwrap();
        assert!(deliveries.begin(id(1), true).is_err(), "the oldest is forgotten first");
    }

    #[test]
    fn two_sessions_at_once_run_it_once() {
        let deliveries = Deliveries::default();
        deliveries.begin(id(1), false).unwrap();
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
