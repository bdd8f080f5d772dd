//! How far away a packet may come from.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, sockopt};

/// Drops what arrives with a lower TTL or hop limit (`IP_MINTTL`, `IPV6_MINHOPCOUNT`; the mechanism of RFC 5082). 0 lets everything pass.
///
/// No right is needed. On a listening socket it is asked about SYNs, and not about the last packet of a handshake that was begun before
/// (`tcp_v4_rcv`, `tcp_v6_rcv`). Connections that are made while it is set have it as well, until it is set to 0 for each: what the
/// kernel has dropped by then, the peer sends again.
///
/// # Errors
/// Returns the errors of `setsockopt(2)`.
pub fn set_min_ttl(socket: BorrowedFd<'_>, least: u8) -> io::Result<()> {
    let is_v6 = sockopt::socket_domain(socket)? == AddressFamily::INET6;
    if is_v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, least)?;
    }
    // A socket of IPv6 may have peers of IPv4, and one that has none may refuse it.
    let set_v4 = set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, least);
    if is_v6 { Ok(()) } else { set_v4 }
}

fn set(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: u8) -> io::Result<()> {
    let value = c_int::from(value);
    // SAFETY: the kernel reads one int from a live place of that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
