//! Half-closed connections that no process holds, for the short time until the closer gets them.
//!
//! Most peers close as soon as they have their answer. What is over by then is closed here, and the closer's thread is not
//! woken for it. Whatever arrives meanwhile waits in the socket's receive buffer.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use linger_custody::{HalfClosed, is_over};
use rustix::net::RecvFlags;

use crate::shares::{Passed, Share};

/// How long a peer is given to close before the closer waits for it. Most close when they have the answer, a round trip
/// after it was sent. Only those have it of which nothing is unread: who has sent more than was read mostly sends on, and
/// the closer makes room for that.
pub(crate) const SHORTLY: Duration = Duration::from_millis(50);

/// If more than these wait, or more than an eighth of the connections that may linger, the oldest are handed over at
/// once.
const MOST: usize = 256;

/// A connection that is half-closed.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) passed: Passed,
    /// The user's share of lingering connections that it takes.
    pub(super) lingering: Share,
    /// Bytes that were not acknowledged before the half-close.
    pub(super) queued: u64,
}

impl Parted {
    /// Whether both directions have ended in order, so that a plain close loses nothing and does not wait.
    pub(super) fn is_over(&self) -> bool {
        is_over(&half_closed(self.passed.fd.as_fd()))
    }
}

/// What the kernel says of a half-closed connection.
///
/// A read that meets the end shows that the peer's FIN was received and nothing is unread. An empty send queue then
/// shows that everything is acknowledged, the FIN of this side included: a reset leaves its unacknowledged bytes in that count.
fn half_closed(socket: BorrowedFd<'_>) -> HalfClosed {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(socket, &mut [0u8][..], flags) {
        Ok((_, 0)) => {
            let acknowledged = linger_sys::send_queue(socket).is_ok_and(|bytes| bytes == 0);
            HalfClosed { closed: true, failed: !acknowledged, unread: 0 }
        }
        _ => HalfClosed::default(),
    }
}

/// Those that wait, the oldest first.
#[derive(Debug)]
pub(super) struct PartedQueue {
    waiting: VecDeque<(Instant, Parted)>,
    most: usize,
}

impl PartedQueue {
    /// `lingering` is the most connections that linger at once.
    pub(super) fn new(lingering: usize) -> Self {
        Self { waiting: VecDeque::new(), most: MOST.min(lingering / 8) }
    }

    pub(super) fn add(&mut self, parted: Parted, now: Instant) {
        self.waiting.push_back((now + SHORTLY, parted));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next one whose time has come.
    pub(super) fn next(&mut self, now: Instant) -> Option<Parted> {
        let too_many = self.waiting.len() > self.most;
        let (due, _) = self.waiting.front()?;
        if too_many || *due <= now { self.next_of_all() } else { None }
    }

    /// The next one, at the end.
    pub(super) fn next_of_all(&mut self) -> Option<Parted> {
        self.waiting.pop_front().map(|(_, parted)| parted)
    }
}
