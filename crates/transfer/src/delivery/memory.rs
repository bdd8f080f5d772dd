//! What a server knows of each transfer to a sink, in memory and in the journal, and whether a content is in doubt.

use std::collections::{HashMap, VecDeque};

use super::journal::{DeliveryRecord, History, Journal};
use crate::fault::Fault;
use crate::hash::Hash;
use crate::host;
use crate::message::{MemoryId, Receipt, Refusal, TransferId};
use crate::reason::{Reason, Remedy};

/// Everything that a server remembers of transfers to sinks. It lies behind a mutex in [`Deliveries`](super::Deliveries).
#[derive(Debug)]
pub(super) struct Remembered {
    /// Changes when a transfer is forgotten whose command was started.
    memory: MemoryId,
    deliveries: HashMap<TransferId, Delivery>,
    /// In the order in which they began.
    order: VecDeque<TransferId>,
    /// The transfers of open sessions. A transfer stands here once for each of its sessions.
    attended: Vec<TransferId>,
    journal: Option<Journal>,
}

/// What is known of one transfer.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    /// The transfer's bytes are arriving.
    Arriving,
    /// A client was told that nothing was started, and why. Another session of the transfer, whose bytes may have been here
    /// as well, starts nothing either.
    Refused(Fault),
    /// The sink's command is running, with this content.
    Running(Hash),
    /// The sink's command has ended, and its content is not in doubt: the command failed, a client has confirmed the receipt,
    /// or a person has had the content delivered again.
    Ended(Result<Receipt, Fault>),
    /// The sink's command has ended well with this content, and no client has said that it knows.
    Unheard(Receipt, Hash),
    /// The command was started, and the server ended before the command did. Has the command's content, until a person has
    /// said that this is to be delivered again.
    Unknown(Option<Hash>),
}

impl Delivery {
    /// The result of the command, if it has ended.
    pub(super) fn outcome(&self) -> Option<Result<Receipt, Fault>> {
        match self {
            Self::Ended(outcome) => Some(outcome.clone()),
            Self::Refused(fault) => Some(Err(fault.clone())),
            Self::Unheard(receipt, _) => Some(Ok(receipt.clone())),
            Self::Arriving | Self::Running(_) | Self::Unknown(_) => None,
        }
    }
}

impl From<DeliveryRecord> for Delivery {
    fn from(record: DeliveryRecord) -> Self {
        match record {
            DeliveryRecord::Started(content) => Self::Unknown(content),
            DeliveryRecord::Ended(outcome) => Self::Ended(outcome),
            DeliveryRecord::Unheard(receipt, content) => Self::Unheard(receipt, content),
        }
    }
}

/// Whether a content may be given to a sink.
#[derive(Debug)]
pub(super) enum ContentStanding {
    /// No earlier delivery of it is in doubt.
    Settled,
    /// A command runs with it, or has succeeded and a session is open whose client may still confirm so.
    Undecided,
    /// It may have been delivered, and nobody who asked for it knows.
    Doubted(Fault),
}

impl Remembered {
    /// Begins with what the journal held when it was opened, the oldest first.
    pub(super) fn new(journal: Option<Journal>, memory: MemoryId, history: History) -> Self {
        let order = history.iter().map(|(id, _)| *id).collect();
        let deliveries = history.into_iter().map(|(id, record)| (id, record.into())).collect();
        Self { memory, deliveries, order, attended: Vec::new(), journal }
    }

    /// The name of this memory.
    pub(super) fn memory(&self) -> MemoryId {
        self.memory
    }

    pub(super) fn get(&self, id: &TransferId) -> Option<&Delivery> {
        self.deliveries.get(id)
    }

    /// Begins a transfer that is not known. If `most` are known already, forgets one.
    pub(super) fn begin(&mut self, id: TransferId, most: usize) {
        if self.order.len() >= most {
            self.forget_one();
        }
        self.order.push_back(id);
        self.deliveries.insert(id, Delivery::Arriving);
    }

    /// Notes that a session for a transfer is open.
    pub(super) fn attend(&mut self, id: TransferId) {
        self.attended.push(id);
    }

    /// Notes that one of the sessions for a transfer has ended.
    pub(super) fn leave(&mut self, id: &TransferId) {
        if let Some(at) = self.attended.iter().position(|one| one == id) {
            self.attended.swap_remove(at);
        }
    }

    /// Whether a session for a transfer is open.
    pub(super) fn is_attended(&self, id: &TransferId) -> bool {
        self.attended.contains(id)
    }

    /// Notes that a transfer's command is about to start; with `notes`, in the journal first. From here on this transfer alone
    /// decides whether the content is in doubt: earlier doubts are settled.
    pub(super) fn start(&mut self, id: TransferId, content: Hash, notes: bool) -> std::io::Result<()> {
        if notes {
            self.note(&id, &DeliveryRecord::Started(Some(content)))?;
        }
        self.deliveries.insert(id, Delivery::Running(content));
        self.settle(&content);
        Ok(())
    }

    /// Notes that a transfer's client is told that nothing was started. Returns what it is told.
    pub(super) fn refuse(&mut self, id: TransferId, fault: Fault) -> Fault {
        self.deliveries.insert(id, Delivery::Refused(fault.clone()));
        fault
    }

    #[cfg(test)]
    pub(super) fn journal(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

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

    /// The name of the journal's file, for messages: its directory is nothing that a peer should learn.
    pub(super) fn journal_name(&self) -> String {
        self.journal.as_ref().map_or_else(String::new, Journal::name)
    }

    /// The records that the journal has to hold, the oldest transfer first.
    fn history(&self) -> History {
        let of = |id: &TransferId| {
            let record = match self.deliveries.get(id)? {
                Delivery::Arriving | Delivery::Refused(_) => return None,
                Delivery::Running(content) => DeliveryRecord::Started(Some(*content)),
                Delivery::Unknown(content) => DeliveryRecord::Started(*content),
                Delivery::Ended(outcome) => DeliveryRecord::Ended(outcome.clone()),
                Delivery::Unheard(receipt, content) => DeliveryRecord::Unheard(receipt.clone(), *content),
            };
            Some((*id, record))
        };
        self.order.iter().filter_map(of).collect()
    }

    /// Notes the result of a transfer, in the journal if that can be written.
    pub(super) fn conclude(&mut self, id: TransferId, record: DeliveryRecord) {
        if let Err(error) = self.note(&id, &record) {
            // After a restart the delivery is in doubt, and a person is asked without need.
            tracing::warn!(%error, journal = %self.journal_name(), "what became of a delivery cannot be noted");
        }
        self.deliveries.insert(id, record.into());
    }

    /// Whether a content may be given to its sink.
    pub(super) fn standing(&self, content: &Hash) -> ContentStanding {
        let mut standing = ContentStanding::Settled;
        for (id, delivery) in &self.deliveries {
            match delivery {
                Delivery::Unknown(Some(of)) if of == content => {
                    let told = "this server ended before it could note what the command had come to with the same content";
                    return ContentStanding::Doubted(may_have_been_done(told));
                }
                Delivery::Unheard(_, of) if of == content && !self.attended.contains(id) => {
                    let told =
                        "the command ended well with the same content, and its client has not heard so";
                    return ContentStanding::Doubted(may_have_been_done(told));
                }
                Delivery::Unheard(_, of) | Delivery::Running(of) if of == content => {
                    standing = ContentStanding::Undecided;
                }
                _ => {}
            }
        }
        standing
    }

    /// Settles all doubts about a content. What became of the doubtful transfers themselves stays unknown.
    fn settle(&mut self, content: &Hash) {
        let settled = |(id, delivery): (&TransferId, &Delivery)| match delivery {
            Delivery::Unknown(Some(of)) if of == content => Some((*id, DeliveryRecord::Started(None))),
            Delivery::Unheard(receipt, of) if of == content => {
                Some((*id, DeliveryRecord::Ended(Ok(receipt.clone()))))
            }
            _ => None,
        };
        let settled: Vec<_> = self.deliveries.iter().filter_map(settled).collect();
        for (id, record) in settled {
            self.conclude(id, record);
        }
    }

    /// Forgets the oldest transfer whose command does not run. The journal forgets it when it is opened the next time.
    fn forget_one(&mut self) {
        let runs = |id: &TransferId| matches!(self.deliveries.get(id), Some(Delivery::Running(_)));
        let Some(oldest) = self.order.iter().position(|id| !runs(id)).and_then(|at| self.order.remove(at))
        else {
            return;
        };
        if !matches!(self.deliveries.remove(&oldest), Some(Delivery::Arriving | Delivery::Refused(_))) {
            self.memory = random();
        }
    }
}

pub(super) fn random() -> MemoryId {
    let mut name = MemoryId::default();
    // The name only has to differ from earlier ones.
    let _ = host::random(&mut name);
    name
}

pub(super) fn may_have_been_done(why: &str) -> Fault {
    let told = format!("it may have been done already: {why}");
    Fault(Refusal::Command, Reason::from(told).with(Remedy::LookBeforeSending))
}
