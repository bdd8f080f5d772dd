//! System calls on a stream socket that is about to be closed, and the identity of the process.
//!
//! One function for each system call and no policy: crate `linger` decides *when* they are made. Linux only, because
//! the lingering close relies on `SIOCOUTQ` counting the FIN and on `MSG_TRUNC` discarding without a copy.
#![allow(unsafe_code)] // One of the crates where it may live; each block says why it is sound.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod close;
mod discard;
mod process;
mod queue;
mod set_once;
mod state;
mod tcp_info;
#[cfg(all(not(loom), any(test, feature = "testing")))]
pub mod testing;

pub use close::close;
pub use discard::{Discarder, SCRATCH};
pub use process::Process;
pub use queue::{send_queue, set_receive_low_water, unread};
pub use set_once::SetOnce;
pub use state::{Family, TcpState, family, is_multipath, tcp_state};
pub use tcp_info::{TcpInfo, tcp_info};
