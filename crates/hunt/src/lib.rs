//! Searches what a client may do for a schedule with which a server loses its response, and what a server may do for one with which a
//! client loses it; shrinks what it finds.
//!
//! A crate of its own, above the lab (networks, links, programs) and the probe (where a response ends): neither needs the
//! other. The deciding parts have no I/O: [`generate`] draws schedules, [`shrink`] makes them shorter, the judges say what became of
//! the responses.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod arena;
mod client;
mod client_judge;
#[cfg(test)]
mod client_judge_tests;
mod clients;
mod crew;
mod error;
mod field;
pub mod generate;
pub mod html;
mod hunt;
mod judge;
mod learn;
mod repeat;
mod report;
mod request;
mod retell;
mod schedule;
mod serve;
#[cfg(test)]
mod serve_tests;
mod shorten;
mod shrink;
#[cfg(test)]
mod shrink_tests;
mod story;
mod trials;
mod words;

pub use arena::{ExpectedOutput, HuntedClient, Quarry};
pub use error::HuntError;
pub use hunt::{HuntPlan, HuntProgress, hunt, replay};
pub use judge::Unjudged;
pub use report::{
    ClientLoss, ClientLossKind, FoundLoss, HuntReport, LostOnce, LostResponse, OutputCheck, PlainRequests,
    Repeats, SearchEnd, Searched,
};
pub use retell::{Retold, retell};
pub use schedule::{HuntStep, LONGEST_PAUSE, MOST_BYTES, MOST_STEPS, Player, Schedule};
pub use shrink::{BoundedNumber, Losers, LossBound, ShrunkStory, shrink};
pub use story::{Story, StoryFile};
pub use trials::{TrialCell, TrialCounts, TrialMap};
pub use words::{counted, milliseconds};
