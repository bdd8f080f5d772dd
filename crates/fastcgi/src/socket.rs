//! System calls that both drivers use in the same way.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use linger::Event;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use socket2::{SockFilter, Socket};

/// Receives without waiting. Returns 0 at the end of the stream; `WouldBlock` if nothing has arrived.
pub(crate) fn receive(socket: impl AsFd, to: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(&socket, &mut *to, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            result => return Ok(result?.0),
        }
    }
}

/// Sends as much as the send buffer takes; `WouldBlock` if it is full. No SIGPIPE if the gateway is gone.
pub(crate) fn send(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(&socket, parts, &mut SendAncillaryBuffer::default(), flags) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Lets a listener take no new connection, and keep those that it has: a client that connects between the last accept and the close of
/// the listener would be reset with what it has sent. The kernel drops the SYN instead, and the client asks again when the listener is
/// closed. For TCP; not for a listener that another process has as well, for which this would hold, too.
pub(crate) fn admit_no_more(listener: &Socket) -> io::Result<()> {
    // Classic BPF on the TCP header: load byte 13 (the flags), and drop the segment if SYN is among them (linux/filter.h).
    listener.attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}

/// Asks the kernel how many bytes that were sent on a connection are unacknowledged.
///
/// No FIN has been sent yet, so an empty queue means that the gateway has everything, the last END_REQUEST included.
pub(crate) fn unacknowledged(socket: impl AsFd) -> Event {
    match linger_sys::send_queue(socket.as_fd()) {
        Ok(bytes) => Event::Unacknowledged { bytes, fin: bytes == 0 },
        Err(_) => Event::Unknown,
    }
}
