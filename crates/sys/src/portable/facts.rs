//! The kind of a socket. What its peer has acknowledged is unknown on these systems.

use std::io;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::fd::BorrowedFd;
use crate::{Family, TcpInfo, TcpState};

/// Returns the family of a stream socket.
///
/// # Errors
/// Returns `ENOTSOCK` for other descriptors, and `EPROTOTYPE` for sockets that are no streams.
pub fn family(socket: BorrowedFd<'_>) -> io::Result<Family> {
    if sockopt::socket_type(socket)? != SocketType::STREAM {
        return Err(Errno::PROTOTYPE.into());
    }
    let address = rustix::net::getsockname(socket)?;
    Ok(match address.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => Family::Tcp,
        AddressFamily::UNIX => Family::Unix,
        _ => Family::Other,
    })
}

/// Bytes written that the peer has not acknowledged: not known on these systems.
///
/// # Errors
/// Returns `Unsupported`.
pub fn send_queue(_socket: BorrowedFd<'_>) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The handshakes of a listener that are under way: not known on these systems.
///
/// # Errors
/// Returns `Unsupported`.
pub fn handshakes(_listener: BorrowedFd<'_>) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether it is a Multipath TCP socket. Always `false` here: nothing depends on the answer.
///
/// # Errors
/// None here.
pub fn is_multipath(_socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// The connection's state: not known on these systems.
///
/// # Errors
/// Returns `Unsupported`.
pub fn tcp_state(_socket: BorrowedFd<'_>) -> io::Result<TcpState> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Facts about the peer and the path: not known on these systems.
///
/// # Errors
/// Returns `Unsupported`.
pub fn tcp_info(_socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not set here: on some systems the end of the stream does not wake a reader that waits for more.
///
/// # Errors
/// Returns `Unsupported`.
pub fn set_receive_low_water(_socket: BorrowedFd<'_>, _bytes: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not set here: these systems have options of other names, and nothing was tried.
///
/// # Errors
/// Returns `Unsupported`.
pub fn set_min_ttl(_socket: BorrowedFd<'_>, _least: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
