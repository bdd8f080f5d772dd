//! Searches what a client may do for a schedule with which a server loses its response, and shrinks what it finds.
//!
//! A crate of its own, above the lab (networks, links, programs) and the probe (where a response ends): neither needs the
//! other. The deciding parts have no I/O: [`generate`] draws schedules, [`shrink`] makes them shorter, the judge says what became of
//! the responses.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod arena;
mod client;
mod crew;
mod error;
pub mod generate;
pub mod html;
mod hunt;
mod judge;
mod learn;
mod repeat;
mod report;
mod retell;
mod schedule;
mod shorten;
mod shrink;
#[cfg(test)]
mod shrink_tests;
mod story;
mod trials;
mod words;

pub use arena::Quarry;
pub use error::HuntError;
pub use hunt::{HuntPlan, HuntProgress, hunt, replay};
pub use judge::Unjudged;
pub use report::{FoundLoss, HuntReport, LostOnce, LostResponse, Repeats, SearchEnd, Searched};
pub use retell::{Retold, retell};
pub use schedule::{ClientStep, LONGEST_PAUSE, MOST_BYTES, MOST_STEPS, Schedule};
pub use shrink::{BoundedNumber, Losers, LossBound, ShrunkStory, shrink};
pub use story::{Story, StoryFile};
pub use trials::{TrialCell, TrialCounts, TrialMap};
pub use words::{counted, milliseconds};
