//! The listening TCP sockets of this process's network namespace, as the kernel lists them (`sock_diag(7)`).
//!
//! `/proc/net/tcp6` is no substitute on a busy server: to show that there is no further socket of its family the kernel walks
//! through all connections and all that are in TIME_WAIT, 40 ms where there are 126,000 of them. This list is limited to listeners.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `TCPF_LISTEN`.
const LISTEN: u32 = 1 << 10;
/// Lengths of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg` (uapi/linux/inet_diag.h).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListedListener {
    pub(super) address: SocketAddr,
    pub(super) user: u32,
    pub(super) inode: u64,
}

/// All of them, IPv4 and IPv6.
///
/// # Errors
/// Those of the netlink socket (a service without `AF_NETLINK`), and `ENOENT` of a kernel that has no such list.
pub(super) fn listeners() -> io::Result<Vec<ListedListener>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family as u8, &mut all)?;
    }
    Ok(all)
}

fn dump(family: u8, all: &mut Vec<ListedListener>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    // The socket's id is left empty: of all sockets.
    let mut request = [0u8; HEADER + REQUEST];
    request[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16..18].copy_from_slice(&[family, libc::IPPROTO_TCP as u8]);
    request[20..24].copy_from_slice(&LISTEN.to_ne_bytes());
    socket.send_to(&request, &NetlinkAddr::new(0, 0), 0)?;
    loop {
        let (reply, _) = socket.recv_from_full()?;
        if read(&reply, all)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one reply. Returns whether the list is complete.
fn read(reply: &[u8], all: &mut Vec<ListedListener>) -> io::Result<bool> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut rest = reply;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind, kind_end, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = rest.get(HEADER..length).ok_or_else(malformed)?;
        match u16::from_ne_bytes([kind, kind_end]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                return Err(io::Error::from_raw_os_error(code.ok_or_else(malformed)?.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => all.push(listener(body).ok_or_else(malformed)?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a `struct inet_diag_msg`.
fn listener(body: &[u8]) -> Option<ListedListener> {
    let body: &[u8; MESSAGE] = body.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let ip = if i32::from(body[0]) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(body[8], body[9], body[10], body[11]))
    } else {
        let mut octets = [0; 16];
        octets.copy_from_slice(&body[8..24]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let port = u16::from_be_bytes([body[4], body[5]]);
    Some(ListedListener { address: SocketAddr::new(ip, port), user: word(64), inode: word(68).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        [message, body.to_vec()].concat()
    }

    #[test]
    fn an_error_and_what_is_cut_off_are_no_complete_list() {
        let mut body = [0; MESSAGE];
        (body[0], body[5], body[8], body[68]) = (libc::AF_INET as u8, 80, 127, 9);
        let one = message(SOCK_DIAG_BY_FAMILY, &body);
        let mut all = Vec::new();
        assert!(!read(&one, &mut all).unwrap());
        assert!(read(&[one.clone(), message(NLMSG_DONE, &[0; 4])].concat(), &mut all).unwrap());
        let seen = ListedListener { address: "127.0.0.0:80".parse().unwrap(), user: 0, inode: 9 };
        assert_eq!(all, [seen, seen]);
        let refused = read(&message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes()), &mut all).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOENT));
        for bad in
            [&one[..one.len() - 1], &message(SOCK_DIAG_BY_FAMILY, &body[1..]), &message(NLMSG_ERROR, &[])]
        {
            assert_eq!(read(bad, &mut all).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let mut endless = one;
        endless[..4].fill(0);
        assert_eq!(read(&endless, &mut all).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
