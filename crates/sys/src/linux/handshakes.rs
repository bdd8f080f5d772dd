//! The handshakes of a listener that are under way, as the kernel lists them (`sock_diag(7)`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, recv, send, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `TCPF_SYN_RECV`; the kernel adds those that have no socket yet (`TCPF_NEW_SYN_RECV`).
const SYN_RECV: u32 = 1 << 3;
const TCP: u8 = 6;
/// Lengths of `struct nlmsghdr` and `struct inet_diag_req_v2` (uapi/linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;

/// How many connections to the port of a TCP listener have been answered by the kernel and are not in the accept queue yet. Their clients may
/// have sent data already: to them the connection exists.
///
/// Those of other listeners of the port, on other addresses, are counted, too. Connections that are open only as a SYN cookie are not. The
/// kernel walks through all connections of the calling thread's network namespace.
///
/// # Errors
/// Returns `Unsupported` for other sockets, and the errors of the netlink socket: some services may not have one.
pub fn handshakes(listener: BorrowedFd<'_>) -> io::Result<usize> {
    let address = SocketAddr::try_from(getsockname(listener)?).map_err(|_| io::ErrorKind::Unsupported)?;
    // A listener of IPv6 may have connections of both.
    let families: &[_] = match address {
        SocketAddr::V4(_) => &[AddressFamily::INET],
        SocketAddr::V6(_) => &[AddressFamily::INET, AddressFamily::INET6],
    };
    families.iter().try_fold(0, |count, family| Ok(count + listed(*family, address.port())?))
}

fn listed(family: AddressFamily, port: u16) -> io::Result<usize> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let mut request = [0u8; HEADER + REQUEST];
    request[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16..18].copy_from_slice(&[family.as_raw() as u8, TCP]);
    request[20..24].copy_from_slice(&SYN_RECV.to_ne_bytes());
    // Of the socket's id, the local port alone.
    request[24..26].copy_from_slice(&port.to_be_bytes());
    send(&socket, &request, SendFlags::empty())?;
    let (mut reply, mut count) = (vec![0; 32 << 10], 0);
    loop {
        // The kernel writes each part of the list before the call that asks for it returns.
        let (got, _) = recv(&socket, &mut reply[..], RecvFlags::DONTWAIT)?;
        let part = read(&reply[..got])?;
        count += part.count;
        if part.is_last || got == 0 {
            return Ok(count);
        }
    }
}

/// A part of the list.
struct ListPart {
    count: usize,
    is_last: bool,
}

fn read(reply: &[u8]) -> io::Result<ListPart> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut rest, mut count) = (reply, 0);
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind, kind_end, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = rest.get(HEADER..length).ok_or_else(malformed)?;
        match u16::from_ne_bytes([kind, kind_end]) {
            NLMSG_DONE => return Ok(ListPart { count, is_last: true }),
            NLMSG_ERROR => {
                let code = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                return Err(io::Error::from_raw_os_error(code.ok_or_else(malformed)?.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => count += 1,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(ListPart { count, is_last: false })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    /// The kernel ends the handshakes of such a listener when data comes, as it does those behind a slow network (`TCP_DEFER_ACCEPT`).
    fn deferring(address: &str) -> TcpListener {
        let (listener, seconds) = (TcpListener::bind(address).unwrap(), 60);
        // SAFETY: the kernel reads one int from a live place of that size.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const seconds).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0);
        listener
    }

    #[test]
    fn those_under_way_are_counted_until_they_are_in_the_queue() {
        let other = deferring("127.0.0.1:0");
        let _others = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        for (at, from) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let listener = deferring(at);
            let to = (from, listener.local_addr().unwrap().port());
            assert_eq!(handshakes(listener.as_fd()).unwrap(), 0, "{at}");
            let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(to).unwrap()).collect();
            assert_eq!(handshakes(listener.as_fd()).unwrap(), 3, "{at}");
            (&clients[0]).write_all(b"x").unwrap();
            listener.accept().unwrap();
            assert_eq!(handshakes(listener.as_fd()).unwrap(), 2, "{at}");
        }
    }

    #[test]
    fn only_tcp_has_handshakes() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(handshakes(socket.as_fd()).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn an_error_and_what_is_cut_off_are_no_list() {
        let message = |kind: u16, body: &[u8]| {
            let mut message = vec![0; HEADER];
            message[..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            [message, body.to_vec()].concat()
        };
        let one = message(SOCK_DIAG_BY_FAMILY, &[0; 72]);
        let two = read(&[one.clone(), one.clone()].concat()).unwrap();
        assert_eq!((two.count, two.is_last), (2, false));
        let end = read(&[one.clone(), message(NLMSG_DONE, &[0; 4])].concat()).unwrap();
        assert_eq!((end.count, end.is_last), (1, true));
        let refused = read(&message(NLMSG_ERROR, &(-2i32).to_ne_bytes())).err().unwrap();
        assert_eq!(refused.raw_os_error(), Some(2));
        let mut endless = one.clone();
        endless[..4].fill(0);
        for bad in [&one[..one.len() - 1], &message(NLMSG_ERROR, &[]), &endless] {
            assert_eq!(read(bad).err().unwrap().kind(), io::ErrorKind::InvalidData);
        }
    }
}
