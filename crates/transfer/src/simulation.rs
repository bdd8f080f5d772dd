//! A simulation of both ends of a transfer in one thread, with a clock, a network and a disk that a seed decides.
//!
//! It runs the code that ships: client, server, journal, store. A [`Schedule`] says what happens: where the connection
//! is cut, and where a process ends or a machine loses its power. [`Runner::run`] says whether something happened that
//! must not happen. `docs/transfer.md` lists that, and what is not simulated.
//!
//! Begin with [`ScheduledEvent`] below (what may happen), then `drive.rs` (one schedule from begin to end) and `check.rs` (what
//! must be true of it). A schedule's state is in `world.rs`; `drive/turns.rs` chooses which thread runs next. Connections, which
//! a [`Cut`] acts on, are in `network.rs`; `link.rs` is the transport that the code of one end holds. The disk is `disk.rs`, and
//! `shadow.rs` knows what a power cut would leave of it. `calls.rs` stands in for the kernel's calls. `ends.rs` says what the two
//! processes do, and `patience.rs` counts on its own how long a client may go on.

mod calls;
mod check;
mod disk;
mod drive;
mod ends;
mod link;
mod network;
mod outcome;
mod patience;
mod random;
mod schedule;
mod shadow;
mod shrink;
mod sources;
#[cfg(test)]
mod tests;
mod threads;
mod world;

pub use drive::Runner;
pub use schedule::Schedule;
pub use shrink::shrink;

use crate::host::Rule;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // A connection has two.
pub enum EndOfTransfer {
    /// The side that connects.
    Client = 0,
    /// The side that listens.
    Server = 1,
}

impl EndOfTransfer {
    fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

/// A fault that happens to one of the ends, or to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduledEvent {
    /// A connection is cut.
    Cut(Cut),
    /// The process of `end` is killed at its `step`th call. The server is started again after a while.
    Kill {
        /// The end whose process is killed.
        end: EndOfTransfer,
        /// The number of the call.
        step: u32,
    },
    /// The machine of `end` loses its power at the `step`th call: data that its disk had not synced may be lost.
    Power {
        /// The end whose machine loses its power.
        end: EndOfTransfer,
        /// The number of the call.
        step: u32,
    },
    /// The client's user gives up at its `step`th call (Ctrl-C). Where the seed says so, another client puts the same at once.
    GiveUp {
        /// The number of the call.
        step: u32,
    },
    /// The receiver's disk is full from its `step`th call on.
    Full {
        /// The number of the call.
        step: u32,
        /// How many calls find no room until there is some again.
        calls: u32,
    },
    /// The receiver's disk fails (EIO) from its `step`th call on. What a sync that fails was to make durable is lost at the next
    /// power cut, however often it is synced later.
    Broken {
        /// The number of the call.
        step: u32,
        /// How many calls fail until the disk works again.
        calls: u32,
    },
    /// The files that are sent get other content at the sender's `step`th call.
    Changes {
        /// The number of the call.
        step: u32,
        /// Whether new files take the place of the old ones. Otherwise the content of the files changes.
        renamed: bool,
    },
}

/// Where a connection is cut, and which end notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The end whose bytes are counted.
    pub sender: EndOfTransfer,
    /// The connection is cut when this end has sent this many bytes, over all connections.
    pub after: u32,
    /// Whether these bytes still arrive. Otherwise those that have not arrived yet are lost.
    pub arrives: bool,
    /// Which end notices.
    pub manner: Manner,
}

/// Which end notices a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manner {
    /// Both ends get a reset.
    Reset,
    /// Neither end notices: no more bytes arrive.
    Silence,
    /// Only the sender gets a reset.
    SenderHears,
    /// Only the receiver gets a reset.
    ReceiverHears,
}

/// What is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// A small file is put.
    File,
    /// A small file is put, and another file has its name.
    Replace,
    /// A directory with a file, a link and a directory with a file is put.
    Tree,
    /// A file of several blocks is put, so that a cut transfer can be resumed.
    Large,
    /// A file is put to a sink.
    Sink,
    /// A directory is fetched.
    Get,
}

/// A fault that is added on purpose, to show that the simulation finds it.
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
    /// A reboot is not noticed, so that the log of a partial file is believed.
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
    /// A partial file is believed after a reboot, without comparing it with its log.
    ComparePrefix,
    /// A client that reconnects uses another id for its transfer.
    KeepId,
    /// A client's patience runs on while a session gets on.
    RestPatience,
    /// A content that may have been delivered is delivered again, and nobody was asked.
    KeepDoubts,
    /// A content is delivered again although no client has heard that it was.
    KeepUnheard,
}

impl PlantedRule {
    fn rule(self) -> Rule {
        match self {
            Self::NoteBeforeCommand => Rule::NoteBeforeCommand,
            Self::ClaimFiles => Rule::ClaimFiles,
            Self::ComparePrefix => Rule::ComparePrefix,
            Self::KeepId => Rule::KeepId,
            Self::RestPatience => Rule::RestPatience,
            Self::KeepDoubts => Rule::KeepDoubts,
            Self::KeepUnheard => Rule::KeepUnheard,
        }
    }
}
