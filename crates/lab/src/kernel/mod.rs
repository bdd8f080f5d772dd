//! Packet sockets, and processes that end as an experiment wants; this crate's only unsafe code.
//!
//! Each block says why it is sound. Namespaces, links and counters are crate `linger-netns`.

mod port;
mod process;

pub(crate) use port::{Frame, FramePool, Port};
pub(crate) use process::{contain, serve_and_exit};
