//! Half-closed connections that no process of the program holds, for the short time until the closer gets them.
//!
//! Most peers close as soon as they have their answer. What is over by then is closed here: for it neither the intake's thread
//! nor the closer's is woken. Whatever arrives meanwhile waits in the socket's receive buffer.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use linger_custody::is_over;
use linger_custody::world::{Cookie, Kept};
use linger_preload::protocol::{Message, MessageKind};
use rustix::net::Shutdown;

use super::{Hands, KeptFd};
use crate::seccomp::eyes::{self, OpenBefore};

/// How long a peer is given to close before the closer waits for it, as where the library is preloaded (`ender`).
const SHORTLY: Duration = Duration::from_millis(50);

/// If more connections than this are half-closed, or more than an eighth of the fds that this process may have, the oldest are
/// handed over at once.
const MOST: usize = 256;

/// A connection that is half-closed.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) copy: OwnedFd,
    /// When it is handed over.
    due: Duration,
    message: Message,
    before: Option<OpenBefore>,
    /// Bytes that were not acknowledged at the half-close.
    unacknowledged: u64,
}

/// What became of parted connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::seccomp) struct Partings {
    /// Ended by their peers' close, everything acknowledged.
    pub(in crate::seccomp) peer_closed: u64,
    /// They could not be handed over.
    pub(in crate::seccomp) refused: u64,
    /// Bytes acknowledged since the half-close.
    pub(in crate::seccomp) bytes_acknowledged: u64,
}

/// Bytes of a half-closed connection that are not acknowledged: the kernel counts the FIN as one.
fn unacknowledged(copy: &OwnedFd) -> u64 {
    linger_sys::send_queue(copy.as_fd()).unwrap_or(0).saturating_sub(1)
}

impl Hands {
    /// Half-closes a kept connection, which the closer gets after [`SHORTLY`] unless it is over by then, or at once if it has
    /// `unread` bytes. False if it was not kept.
    pub(in crate::seccomp) fn part(
        &mut self,
        kept: Kept,
        cookie: Cookie,
        unread: u32,
        now: Duration,
    ) -> bool {
        let Some(KeptFd { copy, before, .. }) = self.kept.remove(&kept) else { return false };
        self.half_close(copy, before, cookie, unread, now);
        true
    }

    fn half_close(
        &mut self,
        copy: OwnedFd,
        before: Option<OpenBefore>,
        cookie: Cookie,
        unread: u32,
        now: Duration,
    ) {
        let _ = rustix::net::shutdown(&copy, Shutdown::Write);
        let message = Message::about(MessageKind::Close, cookie.0, unread);
        let unacknowledged = unacknowledged(&copy);
        let parted = |due| Parted { copy, due, message, before, unacknowledged };
        if unread == 0 {
            self.parted.push_back(parted(now + SHORTLY));
        } else {
            // The queue is in the order of time.
            self.parted.push_front(parted(Duration::ZERO));
        }
    }

    /// When the next connection is to be handed over.
    pub(in crate::seccomp) fn parted_due(&self) -> Option<Duration> {
        let most = usize::try_from(self.least / 8).map_or(MOST, |most| most.min(MOST));
        let due = self.parted.front()?.due;
        Some(if self.parted.len() > most { Duration::ZERO } else { due })
    }

    /// Hands over the parted connections whose time has come, or `all`, if they are not over.
    pub(in crate::seccomp) fn hand_over_parted(&mut self, now: Duration, all: bool) -> Partings {
        let mut partings = Partings::default();
        while self.parted_due().is_some_and(|due| all || due <= now)
            && let Some(one) = self.parted.pop_front()
        {
            let socket = one.copy.as_fd();
            let state =
                one.before.map_or_else(|| eyes::half_closed(socket), |before| before.half_closed_now(socket));
            if is_over(&state) {
                tracing::debug!(one.message.cookie, "the peer has closed");
                partings.peer_closed += 1;
                partings.bytes_acknowledged += one.unacknowledged;
                continue;
            }
            if one.unacknowledged > 0 {
                // What is acknowledged later is counted by those who take it.
                partings.bytes_acknowledged += one.unacknowledged.saturating_sub(unacknowledged(&one.copy));
            }
            if !self.send(one.message, one.copy.as_fd()) {
                partings.refused += 1;
            }
        }
        partings
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Who has sent more than was read mostly sends on, and fills the receive buffer.
    #[test]
    fn what_has_unread_bytes_does_not_wait_for_its_turn() {
        let (intake, _other) = UnixStream::pair().unwrap();
        let mut hands = Hands::new(intake.into(), None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = [(); 3].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        for (cookie, unread) in [(1, 0), (2, 5), (3, 0)] {
            let fd = OwnedFd::from(listener.accept().unwrap().0);
            hands.half_close(fd, None, Cookie(cookie), unread, Duration::ZERO);
        }
        let waiting = |hands: &Hands| hands.parted.iter().map(|one| one.message.cookie).collect::<Vec<_>>();
        assert_eq!((waiting(&hands), hands.parted_due()), (vec![2, 1, 3], Some(Duration::ZERO)));
        let partings = hands.hand_over_parted(SHORTLY - Duration::from_nanos(1), false);
        assert_eq!((waiting(&hands), hands.parted_due()), (vec![1, 3], Some(SHORTLY)));
        assert_eq!(partings, Partings::default(), "handed over, not refused");
        hands.hand_over_parted(SHORTLY, false);
        assert!(waiting(&hands).is_empty());
        drop(peers);
    }
}
