//! A decision that is pending, with the facts that it has so far.
//!
//! A task is attempted with these facts. If it lacks one, it returns the question ([`Ask`](super::Ask)), and is
//! attempted again with the answer. Until then it must not change anything that a second attempt would change again.

use std::time::Duration;
use std::vec::Vec;

use super::vocabulary::{Answer, Caller, Census, Cookie, Kept, ProcessFd, Seen, Tid, Way};
use crate::{Discarded, Socket};

/// What is to be decided, also while the answer to an [`Ask`](super::vocabulary::Ask) is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// A connection may get one more fd.
    Share(Seen, Caller),
    /// A message is about to carry a connection; the flag says whether it goes to another program.
    Send(Seen, Caller, bool),
    /// An fd is about to be closed.
    Close(Seen, Caller, Way),
    /// `shutdown` of both sides.
    Shutdown(Seen),
    /// A connection is about to lose its last fd, or has lost it: remove it from the program's epolls.
    Unwatch(Kept),
    /// The fd of a continued call is gone.
    Closed(Kept),
    /// Nobody has a connection.
    End(Kept),
    /// Processes for which connections were held may have died, or have closed them without a notification.
    Orphans,
    /// It is time to look for what is in flight.
    Look,
    /// The program has ended: nobody can receive what is in flight.
    EndFlight(Cookie),
}

impl Task {
    /// The connection that an event is being told of.
    pub(super) fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Share(seen, _) | Self::Send(seen, ..) | Self::Close(seen, ..) | Self::Shutdown(seen) => {
                Some(seen)
            }
            _ => None,
        }
    }

    /// Whether an event is being told of this connection.
    pub(super) fn is_about(&self, cookie: Cookie) -> bool {
        self.seen().is_some_and(|seen| seen.cookie == cookie)
    }
}

/// What a task has been told.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) name: Option<Option<ProcessFd>>,
    pub(super) census: Option<Census>,
    pub(super) flights: Option<(Vec<Tid>, bool, Census, Duration)>,
    pub(super) socket: Option<Socket>,
    pub(super) discarded: Option<Discarded>,
    pub(super) done: Option<bool>,
    /// Somebody may have the connection after all.
    pub(super) unsure: bool,
}

impl Known {
    pub(super) fn take(&mut self, answer: Answer) {
        match answer {
            Answer::ProcessFd(name) => self.name = Some(name),
            Answer::Census { census, .. } => self.census = Some(census),
            Answer::Flights { sending, quiet, census, took, .. } => {
                self.flights = Some((sending, quiet, census, took));
            }
            Answer::Socket(socket) => self.socket = Some(socket),
            Answer::Discarded(discarded) => self.discarded = Some(discarded),
            Answer::Done(done) => self.done = Some(done),
            Answer::Unsure => self.unsure = true,
        }
    }
}
