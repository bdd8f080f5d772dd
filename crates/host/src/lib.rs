//! Linux machinery: network namespaces, veth pairs, packet sockets, kernel counters, a child that exits.
//!
//! It knows nothing about closing connections and is never a dependency of crate `linger`. What touches the
//! network does so inside namespaces that this process made; they end with the last process that uses them,
//! so nothing is left behind, also after SIGKILL.
#![allow(unsafe_code)] // One of the three crates where it may live; each block says why it is sound.

mod counters;
mod isolate;
pub mod leftovers;
mod namespace;
pub mod net;
pub mod perf;
mod port;
mod process;
pub mod seccomp;
pub mod sock_diag;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tracepoint;

pub use counters::Counters;
pub use isolate::{Isolation, Refused};
pub use namespace::Namespace;
pub use port::{FRAME, Frame, Pool, Port};
pub use process::{Worker, contain, run_last, serve_and_exit};
