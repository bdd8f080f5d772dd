//! What a stream socket tells before it is closed, and what it takes.
//!
//! One function to a system call, no policy: who decides *when* to do these things is crate `linger`.
//! Linux only, because the lingering close stands on `SIOCOUTQ` counting the FIN and on `MSG_TRUNC`
//! discarding without a copy, and both are Linux's.
#![allow(unsafe_code)] // One of the three crates where it may live; each block says why it is sound.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod close;
mod discard;
mod queue;
mod state;

pub use close::close;
pub use discard::{Discarder, SCRATCH};
pub use queue::{send_queue, set_receive_low_water, unread};
pub use state::{Family, TcpState, family, round_trip, tcp_state};
