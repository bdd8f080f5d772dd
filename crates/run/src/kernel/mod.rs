//! Seccomp notifications (`seccomp_unotify(2)`). The only unsafe code of this crate.
//!
//! The module `seccomp` decides which calls are notified and how they are answered.

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
pub(crate) use handshake::{Handshake, LaunchRefused, before_exec};
pub(crate) use listener::{Listener, Notification};
