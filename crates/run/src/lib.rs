//! Runs an unmodified program, and makes every close of an accepted connection that could lose bytes a lingering close.
//!
//! A library preloaded into the program (crate `linger-preload`) passes the fd of each connection that the program
//! closes to the supervisor. Once it is proved that no other process holds the connection, the supervisor half-closes
//! it and hands it over to a [`linger::Closer`], which drains and closes it. The supervisor stays until the last
//! connection has ended, also after the program's exit. Nothing but closing connections is touched. Programs that no
//! library can be preloaded into are supervised with seccomp notifications instead (see [`Via`]).
//!
//! `lingerd` (1999) did this for Apache 1.3 with a patched server; here the program is unmodified.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod assignment;
mod autogroup;
mod child;
mod command;
mod connected;
mod coverage;
mod disposal;
mod ender;
mod error;
mod intake;
mod itself;
mod job;
#[allow(unsafe_code)]
mod kernel;
mod leftovers;
mod lingerd;
mod listeners;
mod mark;
mod metrics;
mod notice;
mod options;
mod place;
mod preload;
mod proc;
mod program;
mod prover;
mod refusal;
mod relatives;
mod report;
mod rings;
mod seccomp;
mod shares;
mod signals;
mod socket;
mod stack;
mod strangers;
mod supervise;
mod survey;
mod sweep;
mod tally;
#[cfg(test)]
mod turns;
mod unpacked;

pub use command::run;
pub use coverage::{Coverage, CoveredListener, Gap, GapRemedy};
pub use error::RunError;
pub use job::{FEW_DESCRIPTORS, ProgramEnd};
pub use kernel::die_of;
pub use lingerd::{Served, serve};
pub use notice::Notice;
pub use options::{Options, Via};
pub use place::Place;
pub use preload::install;
pub use program::{Program, ProgramKind};
pub use refusal::Refusal;
pub use report::RunReport;
pub use stack::enough_stack;
