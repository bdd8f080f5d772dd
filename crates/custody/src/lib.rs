//! Who holds a connection, and what a close by one of the holders means.
//!
//! An unmodified program closes a socket. Whether that ends the connection depends on who else has an fd of it: a copy, a
//! forked child, a process that gets it in a message. This crate decides that, and nothing else: events in, decisions
//! out. It has no I/O and no clock; drivers tell it what happened, and the time, and do what it says.
//!
//! - [`process`]: what one process knows of itself. It runs inside the foreign program, preloaded, so it allocates nothing,
//!   takes no lock and needs no standard library.
//! - `world` (feature): what the supervisor knows of all processes of the program, of whose calls it is notified.
//! - `proof` (feature): who may have a connection that one process has let go of, where nobody notifies of calls.
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
pub use fate::{Discarded, Fate, Socket, after_discarding, fate};
pub use origin::Origin;
pub use rights::Rights;
