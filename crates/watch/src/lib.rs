//! Every TCP reset of a Linux host, live: who, to whom, why, and which process closed.
//!
//! The kernel's tracepoints say why it sends each reset; [`Watcher`] reads them through perf events, with no
//! compiled BPF and no kprobe, and names causes as `linger why` does. What was in a connection's queues the kernel
//! tells when it destroys the socket; what only the socket list knows, queues of listeners and bytes that lie
//! unread, is asked for at intervals; and the kernel's counters show what events alone would miss.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod bytes;
mod closers;
mod counted;
mod diagnose;
mod events;
#[cfg(feature = "export")]
pub mod export;
mod held;
#[allow(unsafe_code)]
mod kernel;
mod notice;
mod process;
mod sockets;
#[cfg(feature = "view")]
pub mod view;
mod watcher;

pub use bytes::{Bytes, Unknown};
pub use counted::Counted;
pub use diagnose::{Direction, Queue, Reset};
pub use events::{Blind, CannotWatch};
pub use notice::{Filter, Notice, Warning};
pub use process::Process;
pub use watcher::Watcher;
