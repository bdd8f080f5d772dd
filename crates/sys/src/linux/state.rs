//! The kind of a socket, and the state of its connection.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Family, TcpState};

/// Returns the family of a stream socket.
///
/// # Errors
/// Returns `ENOTSOCK` for other descriptors, and `EPROTOTYPE` for sockets that are no streams.
pub fn family(socket: BorrowedFd<'_>) -> io::Result<Family> {
    use rustix::net::ipproto::{MPTCP, TCP};
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let protocol = sockopt::socket_protocol(socket)?;
    if protocol == Some(TCP) || protocol == Some(MPTCP) {
        // For TCP, the usual case, this is the only call.
        return Ok(Family::Tcp);
    }
    if sockopt::socket_type(socket)? != SocketType::STREAM {
        return Err(io::Error::from_raw_os_error(libc::EPROTOTYPE));
    }
    let domain = sockopt::socket_domain(socket)?;
    Ok(if domain == AddressFamily::UNIX { Family::Unix } else { Family::Other })
}

/// Whether a stream socket is one of Multipath TCP (RFC 8684). A listener of Multipath TCP accepts a plain TCP socket if the
/// client speaks only TCP (`mptcp_stream_accept`).
///
/// `SIOCOUTQ` answers for the whole connection, and counts the DATA_FIN as TCP's FIN (`mptcp_ioctl_outq`). `TCP_INFO` answers
/// for the first subflow, which may have ended while others go on (`mptcp_getsockopt_first_sf_only`).
///
/// # Errors
/// Returns `ENOTSOCK` for other descriptors.
pub fn is_multipath(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let protocol = rustix::net::sockopt::socket_protocol(socket)?;
    Ok(protocol == Some(rustix::net::ipproto::MPTCP))
}

/// Reads the connection's state (`TCP_INFO`, first byte).
///
/// # Errors
/// Returns `EOPNOTSUPP` or `ENOPROTOOPT` if the socket is not TCP.
pub fn tcp_state(socket: BorrowedFd<'_>) -> io::Result<TcpState> {
    let mut first = 0u8;
    let mut length = size_of::<u8>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes (tcp_getsockopt copies min(len, sizeof info))
    // to a live byte, and the new length to a live socklen_t.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut first).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state_of(first))
}

/// The state that the kernel gives this number (net/tcp_states.h).
pub(super) fn state_of(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 | 12 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        other => TcpState::Unknown(other),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{send_queue, unread};
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn families_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(family(listener.as_fd()).unwrap(), Family::Tcp);
        assert_eq!(tcp_state(listener.as_fd()).unwrap(), TcpState::Listen);
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(family(a.as_fd()).unwrap(), Family::Unix);
        assert!(tcp_state(a.as_fd()).is_err());
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(family(udp.as_fd()).unwrap_err().raw_os_error(), Some(libc::EPROTOTYPE));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(family(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn queues_and_states_follow_a_connection() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"eight by").unwrap();
        assert_eq!(unread(server.as_fd()).unwrap(), 8, "loopback delivers before write returns");
        assert_eq!(send_queue(client.as_fd()).unwrap(), 0);
        assert_eq!(tcp_state(client.as_fd()).unwrap(), TcpState::Established);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(tcp_state(server.as_fd()).unwrap(), TcpState::CloseWait);
    }
}
