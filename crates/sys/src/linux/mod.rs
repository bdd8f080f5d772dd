//! Linux: what is acknowledged is known, and an epoll tells when that changes.

mod discard;
mod handshakes;
mod hops;
mod process;
mod queue;
mod reactor;
mod send;
mod state;
mod tcp_info;
mod wait;

pub use discard::Discarder;
pub use handshakes::handshakes;
pub use hops::set_min_ttl;
pub(crate) use process::process_number;
pub use queue::{send_queue, set_receive_low_water, unread};
pub use reactor::{Alarm, Reactor, ReadyList};
pub use send::{descriptor_limit, descriptor_number, send_now};
pub use state::{family, is_multipath, tcp_state};
pub use tcp_info::tcp_info;
pub use wait::SocketWait;

/// Whether this system tells which bytes a TCP peer has acknowledged.
pub const TELLS_ACKNOWLEDGED: bool = true;

fn timespec(duration: std::time::Duration) -> rustix::event::Timespec {
    rustix::event::Timespec::try_from(duration)
        .unwrap_or(rustix::event::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
