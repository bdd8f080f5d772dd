//! Who is at the other end of a connection over loopback.
//!
//! An address on loopback says nothing about that: behind it may be a forward (`ssh -R`, `socat`, the proxy of a container)
//! or another user. A client that does not encrypt proves that it has this user's key, which no other user can read, and
//! the kernel says whose socket the other end is. With both, a stranger behind a forward has no proof, and another user
//! who passes on this user's proof has a socket of the wrong user. A forward that this user started himself and that leads
//! to a client of his own does pass.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

use crate::identity::Identity;
use crate::message::Nonce;

/// The proof that a client has the server's key pair.
pub(crate) fn proof(identity: &Identity, server: &Nonce, client: &Nonce) -> [u8; 32] {
    proof_by(identity.pkcs8(), server, client)
}

pub(crate) fn proof_by(key_pair: &[u8], server: &Nonce, client: &Nonce) -> [u8; 32] {
    let key = blake3::derive_key("linger-transfer 2026 proof of the same user", key_pair);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(server).update(client);
    *hasher.finalize().as_bytes()
}

/// Draws a random number.
pub(crate) fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    let mut filled = 0;
    while filled < nonce.len() {
        match rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(bytes) => filled += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(nonce)
}

/// Whether the other end of a connection over loopback is a socket of this user, or of root. False if the kernel does not
/// say.
pub(crate) fn is_same_user(ours: SocketAddr, theirs: SocketAddr) -> bool {
    // Before accept(2), kernels up to 6.16 call root the owner: then the listener's owner counts.
    let owner = find(theirs, Some(ours)).and_then(|socket| match socket.inode {
        0 => find(theirs, None),
        _ => Ok(socket),
    });
    owner.is_ok_and(|socket| socket.uid == rustix::process::geteuid().as_raw() || socket.uid == 0)
}

/// A socket as the kernel describes it.
struct SocketOwner {
    uid: u32,
    /// 0 before accept(2).
    inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// The length of a `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of a `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// The length of a `struct inet_diag_msg`, and the offset of `idiag_uid` in it.
const ANSWER: usize = 72;
const UID: usize = 64;
const INODE: usize = 68;

/// The TCP socket from `local` to `remote`, or the listener at `local`, as sock_diag(7) tells it.
fn find(local: SocketAddr, remote: Option<SocketAddr>) -> io::Result<SocketOwner> {
    let local = canonical(local);
    let nobody = SocketAddr::new(
        if local.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
        0,
    );
    let remote = remote.map_or(nobody, canonical);
    let mut request = [0u8; HEADER + REQUEST];
    request[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let body = &mut request[HEADER..];
    body[0] =
        if local.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 }
            .as_raw() as u8;
    body[1] = rustix::net::ipproto::TCP.as_raw().get() as u8;
    // All states.
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    // struct inet_diag_sockid: both ports, both addresses, interface, and a cookie that is not known.
    body[8..10].copy_from_slice(&local.port().to_be_bytes());
    body[10..12].copy_from_slice(&remote.port().to_be_bytes());
    write_address(&mut body[12..28], local.ip());
    write_address(&mut body[28..44], remote.ip());
    body[48..56].fill(0xff);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request, &NetlinkAddress::new(0, 0), 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let is_socket = reply.get(4..6) == Some(&SOCK_DIAG_BY_FAMILY.to_ne_bytes()[..]);
    let answer = reply.get(HEADER..).and_then(|body| body.first_chunk::<ANSWER>()).filter(|_| is_socket);
    let answer = answer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such socket"))?;
    // A lookup that finds no connection finds the listener.
    if answer[6..8] != remote.port().to_be_bytes() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such connection"));
    }
    let word = |at: usize| u32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
    Ok(SocketOwner { uid: word(UID), inode: word(INODE) })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn write_address(into: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => into[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => into.copy_from_slice(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_proof_is_good_for_one_key_and_one_connection() {
        let (ours, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (server, client) = (nonce().unwrap(), nonce().unwrap());
        let shown = proof(&ours, &server, &client);
        assert_eq!(shown, proof(&ours, &server, &client));
        for wrong in
            [proof(&other, &server, &client), proof(&ours, &client, &server), proof(&ours, &server, &server)]
        {
            assert_ne!(shown, wrong);
        }
    }

    #[test]
    fn the_kernel_says_whose_the_other_end_is() {
        let uid = rustix::process::geteuid().as_raw();
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "127.0.0.1")]
        {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(format!("{connect}:{port}")).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let local = served.local_addr().unwrap();
            assert_eq!(find(peer, Some(local)).unwrap().uid, uid, "{listen}");
            assert_eq!(find(local, None).unwrap().uid, uid, "{listen}: the listener");
            assert!(is_same_user(local, peer) && is_same_user(peer, local), "{listen}");
            let waits = TcpStream::connect(local).unwrap();
            assert!(is_same_user(waits.local_addr().unwrap(), local), "{listen}: before accept(2)");
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert!(find(nobody, Some(local)).is_err(), "{listen}: there is no such socket");
            assert!(!is_same_user(local, nobody), "{listen}");
            drop(client);
        }
    }
}
