//! Being asked before a program's system calls (`seccomp_unotify(2)`), and this crate's only unsafe code.
//!
//! Which calls are asked about, and what is answered, is `seccomp`'s affair.

mod apart;
mod filter;
mod foreign;
mod guard;
mod handshake;
mod listener;
mod unanswered;

pub(crate) use apart::{apart, least_of_own};
pub(crate) use filter::{Filter, Rule, When};
pub(crate) use foreign::{accept, open_thread, peer_process, read_memory, write_memory};
pub(crate) use handshake::{Handshake, Refused, before_exec};
pub(crate) use listener::{Listener, Notification};
