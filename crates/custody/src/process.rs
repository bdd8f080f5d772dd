//! What one process knows of its own connections, and what its calls mean for them.
//!
//! It runs inside the program, preloaded, also in signal handlers and forked children: nothing is allocated, no lock is
//! taken, no system call made. The driver tells a [`Table`] what the program does and what the kernel says, and carries out
//! the decisions.

mod close;
mod epolls;
mod exec;
mod field;
mod fork;
#[cfg(all(test, loom))]
mod loom;
mod table;
mod word;

pub use close::{Close, Last, Shutdown};
pub use exec::{Executes, TakenBack};
pub use table::{Entry, FoundAt, Table, Unhold};
pub use word::{Epolls, Phase};
