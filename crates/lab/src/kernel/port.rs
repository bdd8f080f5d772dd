//! A packet socket on one end of a veth pair: whole Ethernet frames, in batches.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use linger_netns::net;

/// Longest frame a port carries: 1500 bytes of payload, the Ethernet header, and a VLAN tag.
pub(crate) const FRAME: usize = 1518;

/// Most frames moved by one system call.
const BATCH: usize = 64;

/// Requested receive buffer of a port, in bytes; `rmem_max` may limit it.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// One Ethernet frame.
#[derive(Clone)]
pub(crate) struct Frame {
    bytes: Box<[u8; FRAME]>,
    len: usize,
}

impl Frame {
    fn empty() -> Self {
        Self { bytes: Box::new([0; FRAME]), len: 0 }
    }

    /// The frame's bytes, from the Ethernet header on.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.len)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl From<&[u8]> for Frame {
    /// A frame of these bytes, as many as one holds.
    fn from(bytes: &[u8]) -> Self {
        let mut frame = Self::empty();
        frame.len = bytes.len().min(FRAME);
        frame.bytes[..frame.len].copy_from_slice(&bytes[..frame.len]);
        frame
    }
}

/// Frames that are not in use, so that a steady stream allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct FramePool(Vec<Frame>);

impl FramePool {
    /// Most frames that are kept, the size of a few batches. More are needed only in a burst.
    const MOST: usize = 64 * BATCH;

    /// Takes frames back.
    pub(crate) fn recycle(&mut self, frames: &mut Vec<Frame>) {
        frames.truncate(Self::MOST.saturating_sub(self.0.len()));
        self.0.append(frames);
    }
}

/// A raw packet socket bound to one interface. Never waits.
#[derive(Debug)]
pub(crate) struct Port {
    socket: OwnedFd,
}

impl Port {
    /// Opens a port on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// Returns `EPERM` without CAP_NET_RAW, and `ENODEV` if there is no such interface.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // A socket of protocol 0 receives nothing, so frames that arrive on other interfaces before the bind stay out.
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        check(fd)?;
        // SAFETY: the fd was just made and is owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        // Straight to the driver: a queueing discipline would only add a lock.
        option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        // The forced variant ignores rmem_max and needs more privilege than a user namespace has.
        if option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        }
        // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = net::index(interface)? as i32;
        // SAFETY: the address is a valid sockaddr_ll of the given length.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(Self { socket })
    }

    /// Appends the pending frames, at most 64, and returns their number.
    ///
    /// # Errors
    /// Returns `ENETDOWN` after the interface is gone. It is no error if no frame is waiting.
    pub(crate) fn receive(&self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> io::Result<usize> {
        let spare = &mut pool.0;
        spare.resize_with(spare.len().max(BATCH), Frame::empty);
        let first = spare.len() - BATCH;
        let slots = &mut spare[first..];
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|slot| libc::iovec {
            iov_base: slots[slot].bytes.as_mut_ptr().cast(),
            iov_len: FRAME,
        });
        let mut messages = headers(&mut vectors);
        // SAFETY: every header points to one vector, every vector to a whole frame that is borrowed
        // exclusively for as long as the call lasts; both arrays have BATCH elements.
        let got = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        }
        let got = got as usize;
        for (frame, message) in slots.iter_mut().zip(&messages).take(got) {
            frame.len = (message.msg_len as usize).min(FRAME);
        }
        frames.extend(spare.drain(first..first + got));
        Ok(got)
    }

    /// Sends frames in order, and puts them back into the pool. Returns how many the kernel refused.
    ///
    /// # Errors
    /// Returns `ENETDOWN` or `ENXIO` after the interface is gone.
    pub(crate) fn send(&self, pool: &mut FramePool, frames: &mut Vec<Frame>) -> io::Result<usize> {
        let mut refused = 0;
        let mut from = 0;
        while from < frames.len() {
            let batch = &mut frames[from..];
            let count = batch.len().min(BATCH);
            let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|slot| match batch.get_mut(slot) {
                Some(frame) => libc::iovec { iov_base: frame.bytes.as_mut_ptr().cast(), iov_len: frame.len },
                None => libc::iovec { iov_base: null_mut(), iov_len: 0 },
            });
            let mut messages = headers(&mut vectors);
            // SAFETY: the first `count` headers point to vectors of live frames, which the kernel only reads.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    count as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                from += sent as usize;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The first of the batch was refused: it is lost, as on a wire whose queue is full.
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EMSGSIZE) => {
                    refused += 1;
                    from += 1;
                }
                _ => return Err(error),
            }
        }
        pool.recycle(frames);
        Ok(refused)
    }

    /// Number of frames that the kernel dropped since the last call because the receive buffer was full.
    ///
    /// # Errors
    /// Returns the errors of `getsockopt(2)`. None is known for an open packet socket.
    pub(crate) fn overruns(&self) -> io::Result<u32> {
        // SAFETY: tpacket_stats is plain old data, for which all zeroes is a valid value.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to a live structure of that size.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        })?;
        Ok(stats.tp_drops)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn headers(vectors: &mut [libc::iovec; BATCH]) -> [libc::mmsghdr; BATCH] {
    let vectors = vectors.as_mut_ptr();
    std::array::from_fn(|slot| {
        // SAFETY: mmsghdr is plain old data, for which all zeroes is a valid value.
        let mut header: libc::mmsghdr = unsafe { zeroed() };
        header.msg_hdr.msg_iov = vectors.wrapping_add(slot);
        header.msg_hdr.msg_iovlen = 1;
        header
    })
}

fn option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int from a live one.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    use linger_testing::{HOSTS, sandboxed, two_hosts};

    #[test]
    fn frames_pass_from_port_to_port_in_order() {
        sandboxed(|| {
            let [a, b] = two_hosts();
            let mut pool = FramePool::default();
            let at_a = a.run(|| Port::open("eth0").unwrap()).unwrap();
            let at_b = b.run(|| Port::open("eth0").unwrap()).unwrap();
            // Every TCP segment of a real handshake is seen at both ends.
            let _listener = b.run(|| TcpListener::bind((HOSTS[1], 80)).unwrap()).unwrap();
            let _client = a.run(|| TcpStream::connect((HOSTS[1], 80)).unwrap()).unwrap();
            let mut seen: Vec<Frame> = Vec::new();
            while at_b.receive(&mut pool, &mut seen).unwrap() > 0 {}
            // At least the SYN and the ACK; what is sent at an end is not seen by that end's port.
            let count = seen.len();
            assert!(count >= 2, "{seen:?}");
            let sent: Vec<Vec<u8>> = seen.iter().map(|frame| frame.bytes().to_vec()).collect();
            let mut discard = Vec::new();
            while at_a.receive(&mut pool, &mut discard).unwrap() > 0 {}
            assert_eq!(at_b.send(&mut pool, &mut seen).unwrap(), 0);
            let mut got = Vec::new();
            while at_a.receive(&mut pool, &mut got).unwrap() > 0 {}
            let got: Vec<Vec<u8>> = got.iter().map(|frame| frame.bytes().to_vec()).collect();
            assert_eq!(&got[..count], &sent[..]);
            assert_eq!(at_a.overruns().unwrap(), 0);
        });
    }
}
