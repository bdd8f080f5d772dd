//! macOS, the BSDs, Windows, and Linux with `--cfg linger_portable`: what every system with sockets offers.
//!
//! A socket is half-closed, read into a buffer and waited for. What the peer has acknowledged is not known:
//! macOS (`SO_NWRITE`) and FreeBSD (`FIONWRITE`) tell the bytes in the send buffer, but not whether the FIN was
//! acknowledged, and Windows tells nothing.
//!
//! The differences between these systems, in `call.rs`, were looked up in their manuals. The code was compiled for
//! them, and **never run on them**.

mod call;
mod discard;
mod facts;
mod process;
mod reactor;
mod wait;

pub use call::{descriptor_limit, descriptor_number, send_now, unread};
pub use discard::Discarder;
pub use facts::{
    family, handshakes, is_multipath, send_queue, set_min_ttl, set_receive_low_water, tcp_info, tcp_state,
};
pub(crate) use process::process_number;
pub use reactor::{Alarm, Reactor, ReadyList};
pub use wait::SocketWait;

/// Whether this system tells which bytes a TCP peer has acknowledged.
pub const TELLS_ACKNOWLEDGED: bool = false;

fn timespec(duration: std::time::Duration) -> rustix::event::Timespec {
    rustix::event::Timespec::try_from(duration)
        .unwrap_or(rustix::event::Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 })
}
