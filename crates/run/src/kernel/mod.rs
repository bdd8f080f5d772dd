//! The only unsafe code of this crate: seccomp notifications (`seccomp_unotify(2)`), and what starting a program needs (signals,
//! a process apart, `exec`).
//!
//! The module `seccomp` decides which calls are notified and how they are answered.

mod apart;
mod depart;
mod filter;
mod foreign;
mod guard;
mod handshake;
mod image;
mod lease;
mod listener;
mod origin;
mod schedule;
mod signals;
mod trial;
mod unanswered;
mod witness;

pub(crate) use apart::{apart, least_of_own};
pub(crate) use depart::{Caller, Departed, Side, depart, has_one_thread, leave, own_pidfd};
pub(crate) use filter::{Filter, Rule, When, kills_only};
#[cfg(test)]
pub(crate) use foreign::close_range_for_test;
pub(crate) use foreign::{
    accept, is_same_file, make_socket, open_thread, own_thread, peer_process, read_memory, write_memory,
};
pub(crate) use handshake::{
    FilterRefusal, Handshake, LaunchRefused, before_exec, copy_own, may_be_supervised_from_beside,
    may_copy_fds, may_supervise, something,
};
pub(crate) use image::Image;
pub(crate) use lease::is_open_elsewhere;
pub(crate) use listener::{Listener, Notification};
pub(crate) use origin::{as_at_start, exec_with_own_pid, is_ignored};
pub(crate) use schedule::work_in_batches;
pub use signals::die_of;
pub(crate) use signals::{Arrived, Mask, Signals, group_of, send, set_default};
pub(crate) use trial::{ALWAYS, SECCOMP, forbidden};
pub(crate) use witness::Witness;
