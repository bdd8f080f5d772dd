//! Runs an unmodified program with every close of an accepted connection made a lingering close.
//!
//! A library preloaded into the program (crate `linger-preload`) half-closes a connection that the program closes and
//! hands the descriptor to this process, which ends it through a [`linger::Closer`] and outlives the program
//! until the last one has ended. What is not a closing connection is not touched.
//!
//! In the nineties `lingerd` did this for Apache 1.3; here no program needs to know.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod command;
mod error;
mod intake;
#[allow(unsafe_code)]
mod kernel;
mod metrics;
mod notice;
mod options;
mod preload;
mod program;
mod report;
mod seccomp;
mod signals;

pub use command::{Ended, run};
pub use error::Error;
pub use notice::{Notice, Refusal};
pub use options::{Options, Via};
pub use program::{Kind, Program};
pub use report::Report;
