//! System calls that both drivers use in the same way.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::time::Duration;

use linger::Event;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

/// Pause between two tries while descriptors are lacking: there is no event for one that is free again.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Whether a later try may work: descriptors or memory ran out.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

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

/// Asks the kernel how many bytes that were sent on a connection are unacknowledged.
///
/// No FIN has been sent yet, so an empty queue means that the gateway has everything, the last END_REQUEST included.
pub(crate) fn unacknowledged(socket: impl AsFd) -> Event {
    match linger_sys::send_queue(socket.as_fd()) {
        Ok(bytes) => Event::Unacknowledged { bytes, fin: bytes == 0 },
        Err(_) => Event::Unknown,
    }
}
