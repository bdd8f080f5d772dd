//! Both ends of a transfer in one thread, under a clock, a network and a disk that a seed decides.
//!
//! It runs the code that ships: client, server, journal, store. A [`Schedule`] says what happens: where the connection
//! is cut, where a process or a machine ends. [`Runner::run`] says whether something that must not happen has happened.
//! `docs/transfer.md` says what that is, and what is not simulated.

mod check;
mod disk;
mod drive;
mod network;
mod random;
mod schedule;
mod shadow;
mod shrink;
#[cfg(test)]
mod tests;
mod threads;
mod world;

pub use drive::Runner;
pub use schedule::Schedule;
pub use shrink::shrink;

use crate::host::Rule;

/// One of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // A connection has two.
pub enum End {
    /// The side that connects.
    Client = 0,
    /// The side that listens.
    Server = 1,
}

impl End {
    fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

/// Something that happens to both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection is cut.
    Cut(Cut),
    /// A process ends at its so many-th call. The server is started anew after a time.
    Kill {
        /// Whose.
        end: End,
        /// The call.
        step: u32,
    },
    /// The power is cut at an end's so many-th call: what its disk had not synced may be lost.
    Power {
        /// Whose.
        end: End,
        /// The call.
        step: u32,
    },
}

/// Where a connection is cut, and who notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The end whose bytes are counted.
    pub sender: End,
    /// Once it has sent so many bytes, all connections together.
    pub after: u32,
    /// They still arrive; else those that were under way are lost.
    pub arrives: bool,
    /// Who notices.
    pub manner: Manner,
}

/// Who notices a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manner {
    /// Both ends get a reset.
    Reset,
    /// Nobody: no byte arrives any more.
    Silence,
    /// The sender alone gets a reset.
    SenderHears,
    /// The receiver alone gets a reset.
    ReceiverHears,
}

/// What is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// A small file is put.
    File,
    /// A small file is put where another has its name.
    Replace,
    /// A directory with a file, a link and a directory with a file is put.
    Tree,
    /// A file of several blocks is put, so that it can be resumed.
    Large,
    /// A file is put to a sink.
    Sink,
    /// A directory is fetched.
    Get,
}

/// A fault that is put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Planted {
    /// Files are not synced.
    NoFileSync,
    /// Directories are not synced.
    NoDirectorySync,
    /// Files get their names before they are synced.
    NameBeforeSync,
    /// The journal of deliveries is not synced: receipts leave before it is durable.
    NoJournalSync,
    /// A machine that boots does not notice: what a partial file's log says is believed.
    BootForgotten,
    /// A rule of the code is left out.
    Rule(PlantedRule),
}

/// A rule of the code that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlantedRule {
    /// A delivery is noted only after its command.
    NoteBeforeCommand,
    /// Two sessions receive one file.
    ClaimFiles,
    /// What is there of a file is believed after a reboot.
    ComparePrefix,
    /// A client that comes back has another id.
    KeepId,
}

impl PlantedRule {
    fn rule(self) -> Rule {
        match self {
            Self::NoteBeforeCommand => Rule::NoteBeforeCommand,
            Self::ClaimFiles => Rule::ClaimFiles,
            Self::ComparePrefix => Rule::ComparePrefix,
            Self::KeepId => Rule::KeepId,
        }
    }
}
