//! Packet sockets, what a program sees of the file system, and two kinds of child processes: a server whose exit closes its connection, and commands that are killed
//! when the thread that started them ends.
//!
//! This crate's only unsafe code; each block says why it is sound. Namespaces, links and counters are crate `linger-netns`.

mod interior;
mod port;
mod process;

pub(crate) use interior::{Interior, NewUser, Room};
pub(crate) use port::{Frame, FramePool, Port};
pub(crate) use process::{contain, serve_and_exit};
