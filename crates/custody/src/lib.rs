//! Who holds a connection, and what a close by one of the holders means.
//!
//! An unmodified program closes a socket. Whether that ends the connection depends on the other fds of it: copies (`dup`),
//! those of forked children, those in `SCM_RIGHTS` messages. This crate decides that, and nothing else: events in,
//! decisions out. It has no I/O and no clock; drivers tell it what happened, and the time, and do what it says.
//!
//! - [`process`]: what one process knows of itself. It runs inside the foreign program, preloaded, so it allocates nothing,
//!   takes no lock and needs no standard library.
//! - `world` (feature): what a supervisor knows of all processes of the program when seccomp notifies it of their calls.
//! - `proof` (feature): which other processes may have a connection that a preloaded process has closed. The supervisor is
//!   not notified of calls then.
//! - [`fate`](fate()), [`Rights`] and [`Count`]: what the library in the program and the supervisor have in common.
#![no_std]

#[cfg(any(test, feature = "world"))]
extern crate std;

mod count;
mod fate;
mod origin;
pub mod process;
#[cfg(feature = "world")]
pub mod proof;
mod rights;
mod sync;
#[cfg(feature = "world")]
pub mod world;

pub use count::Count;
pub use fate::{Discarded, Fate, HalfClosed, Socket, after_discarding, fate, is_over};
pub use origin::Origin;
pub use rights::Rights;
