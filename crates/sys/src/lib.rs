//! System calls on a stream socket that is about to be closed, and the identity of the process.
//!
//! One function for each system call and no policy: crate `linger` decides *when* they are made.
//!
//! There are two implementations of the same names. **Linux** has all of them: `SIOCOUTQ` counts the FIN, `MSG_TRUNC`
//! discards without a copy, an edge-triggered epoll tells of an acknowledgement. **Elsewhere** (macOS, the BSDs, Windows)
//! a socket can be half-closed, read into a buffer and waited for; what the peer has acknowledged is unknown, so that
//! [`send_queue`], [`tcp_state`], [`tcp_info`], [`handshakes`] and [`set_min_ttl`] answer `Unsupported`. Compile with `--cfg linger_portable` to
//! have the second implementation on Linux, where it is tested; on the other systems nothing was tested.
#![allow(unsafe_code)] // One of the crates where it may live; each block says why it is sound.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

#[cfg(unix)]
mod close;
mod facts;
#[cfg(unix)]
mod path;
mod process;
mod set_once;
#[cfg(all(unix, not(loom), any(test, feature = "testing")))]
pub mod testing;

#[cfg(all(target_os = "linux", not(linger_portable)))]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(not(all(target_os = "linux", not(linger_portable))))]
#[path = "portable/mod.rs"]
mod platform;

#[cfg(unix)]
pub use close::close;
pub use facts::{Family, Ready, TcpInfo, TcpState};
#[cfg(unix)]
pub use path::is_forsaken;
pub use platform::{
    Alarm, Discarder, Reactor, ReadyList, SocketWait, TELLS_ACKNOWLEDGED, descriptor_limit,
    descriptor_number, family, handshakes, is_multipath, send_now, send_queue, set_min_ttl,
    set_receive_low_water, tcp_info, tcp_state, unread,
};
pub use process::Process;
/// The descriptors of sockets; on Windows those of Winsock, under the same names.
pub use rustix::fd;
pub use set_once::SetOnce;

/// Size in bytes of the buffer for sockets that cannot discard without one. A call that discards more than this did not
/// use the buffer.
pub const SCRATCH: u64 = 64 << 10;
