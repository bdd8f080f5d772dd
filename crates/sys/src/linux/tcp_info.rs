//! The kernel's facts about a connection's peer and path (`TCP_INFO`).

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::state::state_of;
use crate::TcpInfo;

/// Reads the facts of a connection.
///
/// # Errors
/// Returns `EOPNOTSUPP` or `ENOPROTOOPT` if the socket is not TCP, and `InvalidData` if the kernel's struct ends before
/// `tcpi_rtt`.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    /// Positions in `struct tcp_info`, in words of 32 bits. The first two words are eight bytes of small fields
    /// (uapi/linux/tcp.h). New fields are only appended.
    const LAST_ACK: usize = 14;
    const RTT: usize = 17;
    /// 64 bits wide.
    const BYTES_ACKED: usize = 30;
    const DATA_SEGS_IN: usize = 38;
    let mut words = [0u32; DATA_SEGS_IN + 1];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes (tcp_getsockopt copies min(len, sizeof info))
    // to a live array of that size, and the new length to a live socklen_t.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of_val(&words[..=RTT]) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // tcpi_state, tcpi_ca_state, tcpi_retransmits, tcpi_probes.
    let [state, _, retransmits, probes] = words[0].to_ne_bytes();
    Ok(TcpInfo {
        state: state_of(state),
        probes,
        retransmits,
        last_ack: Duration::from_millis(u64::from(words[LAST_ACK])),
        round_trip: Duration::from_micros(u64::from(words[RTT])),
        data_segments: words[DATA_SEGS_IN],
        bytes_acked: wide([words[BYTES_ACKED], words[BYTES_ACKED + 1]]),
    })
}

/// A number of 64 bits in two words, in the order of this machine's memory.
fn wide(words: [u32; 2]) -> u64 {
    let [first, second] = words.map(u32::to_ne_bytes);
    let [a, b, c, d] = first;
    let [e, f, g, h] = second;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::TcpState;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_acknowledgement_is_the_last_sign_of_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // Waits until `last_ack` is well above zero, so that its reset can be seen: the kernel counts it in
        // milliseconds.
        while tcp_info(client.as_fd()).unwrap().last_ack < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let info = tcp_info(client.as_fd()).unwrap();
        assert!(info.last_ack < Duration::from_millis(50), "{info:?}");
        assert_eq!((info.state, info.probes, info.retransmits), (TcpState::Established, 0, 0));
        assert!(
            !info.round_trip.is_zero() && info.round_trip < Duration::from_secs(1),
            "{info:?} on loopback"
        );
        assert_eq!((info.data_segments, tcp_info(server.as_fd()).unwrap().data_segments), (0, 1));
        client.write_all(b"y").unwrap();
        server.read_exact(&mut [0]).unwrap();
        assert_eq!(tcp_info(server.as_fd()).unwrap().data_segments, 2);
        // A FIN alone is no data.
        client.shutdown(Shutdown::Write).unwrap();
        let info = tcp_info(server.as_fd()).unwrap();
        assert_eq!((info.state, info.data_segments), (TcpState::CloseWait, 2));
    }

    /// The count outlives the connection: it is what tells afterwards whether the peer had everything.
    #[test]
    fn acknowledged_bytes_are_counted_beyond_the_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let acked = |socket: &TcpStream| tcp_info(socket.as_fd()).unwrap().bytes_acked;
        assert_eq!(acked(&server), 0);
        server.write_all(&[7; 1000]).unwrap();
        client.read_exact(&mut [0; 500]).unwrap();
        while acked(&server) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(acked(&server), 1000, "acknowledged by the kernel, of which the program has read half");
        // A close with unread bytes is a reset.
        drop(client);
        assert!(server.read(&mut [0]).is_err());
        let info = tcp_info(server.as_fd()).unwrap();
        assert_eq!((info.state, info.bytes_acked), (TcpState::Close, 1000));
    }

    #[test]
    fn other_sockets_have_none() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(tcp_info(one.as_fd()).is_err());
    }
}
