//! The outcome of a close.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

/// The result of a lingering close. It says only what is known, not what is likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// How the close ended.
    pub ended: Ended,
    /// Bytes of the peer that were read and discarded.
    pub discarded: u64,
    /// Bytes that this side wrote and the peer never acknowledged, without the FIN; `None` if the kernel cannot say: on
    /// systems other than Linux, on streams that are neither TCP nor AF_UNIX, before the handshake is over, and when a local
    /// peer has gone without reading everything.
    ///
    /// On AF_UNIX this is the memory that the kernel uses for unread bytes: 0 exactly if the peer has read
    /// everything, otherwise more than the bytes.
    pub unacknowledged: Option<u64>,
    /// Whether the peer closed its side after it had received everything. If so, the peer's program, and not only its
    /// kernel, had the response, which is more than [`delivered`](Self::delivered) says.
    ///
    /// False if the peer closed its side earlier, as a client does that ends its request with a half-close: such a
    /// FIN says nothing about the response.
    pub closed_after: bool,
    /// From the call to the end, as the driver's clock saw it.
    pub elapsed: Duration,
}

impl Outcome {
    /// The outcome for a descriptor that could not be closed lingering.
    pub(crate) fn failed(kind: ErrorKind) -> Self {
        Self {
            ended: Ended::Failed(kind),
            discarded: 0,
            unacknowledged: None,
            closed_after: false,
            elapsed: Duration::ZERO,
        }
    }

    /// Emits an event: at `warn` if bytes may be lost and the policy did not ask for that, otherwise at `debug`.
    #[cfg(feature = "tracing")]
    pub(crate) fn trace(&self) {
        let Self { ended, discarded, unacknowledged, closed_after, elapsed } = *self;
        let elapsed = elapsed.as_secs_f64();
        let is_meant = matches!(ended, Ended::Aborted | Ended::Unwaited | Ended::PeerClosed);
        if self.delivered() || is_meant {
            tracing::debug!(target: "linger", %ended, discarded, unacknowledged, closed_after, elapsed, "connection ended");
        } else {
            tracing::warn!(target: "linger", %ended, discarded, unacknowledged, elapsed, "the peer may have lost data");
        }
    }

    /// Does nothing: the feature `tracing` is off.
    #[cfg(not(feature = "tracing"))]
    pub(crate) fn trace(&self) {}

    /// Whether every byte written is known to have reached the peer's kernel.
    ///
    /// If the peer runs Linux, its program can then read them even after a reset; other systems may drop them. This side
    /// cannot know whether the program has read them; [`closed_after`](Self::closed_after) comes nearest.
    pub fn delivered(&self) -> bool {
        self.unacknowledged == Some(0)
    }
}

/// How a lingering close ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The peer closed its side. Everything was acknowledged, as far as the kernel can tell that for this kind of socket.
    PeerClosed,
    /// The peer acknowledged everything and then stayed silent, with its socket open, for [`grace`](crate::Policy::grace),
    /// or, if it had been sending, for [`idle`](crate::Policy::idle), or until [`total`](crate::Policy::total). A
    /// [`Closer`](crate::Closer) may keep the socket open after that ([`Budget::staying`](crate::Budget::staying)).
    Acknowledged,
    /// The peer reset the connection. [`Outcome::unacknowledged`] tells what it had not acknowledged before.
    PeerReset,
    /// A bound of time ran out.
    TimedOut(Bound),
    /// `max_discard` was reached; everything was acknowledged before the close.
    Limit,
    /// The policy said not to linger ([`Mode::None`](crate::Mode::None)).
    Unwaited,
    /// The policy said to reset ([`Mode::Abort`](crate::Mode::Abort)).
    Aborted,
    /// A [`Closer`](crate::Closer) gave it up: its budget was spent on others, it was told to
    /// ([`evict`](crate::Closer::evict)), or its thread does not run in this process, which was forked.
    Evicted,
    /// There was no connection when the close began (`ENOTCONN`, `EPIPE` or `ECONNRESET` from `shutdown`): the peer had
    /// reset it, both sides had closed, or it was never established.
    Gone,
    /// The operating system refused, for instance because the descriptor is not a stream socket; it was
    /// closed plainly.
    Failed(ErrorKind),
}

impl Ended {
    /// Whether a bound of the policy ended the close, and not the peer. Only then
    /// [`AtLimit::Abort`](crate::AtLimit::Abort) applies.
    pub(crate) fn is_a_limit(self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Limit | Self::Evicted)
    }
}

/// Which bound of time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// [`Policy::idle`](crate::Policy::idle): the peer's kernel no longer answered, or could not be asked.
    Idle,
    /// [`Policy::total`](crate::Policy::total), or the deadline of [`Closer::finish`](crate::Closer::finish): the peer was
    /// alive, but did not read to the end, or did not stop sending.
    Total,
    /// The kernel's own: it gave up retransmitting (`ETIMEDOUT`).
    Kernel,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {:.3} s, {} bytes discarded",
            self.ended,
            self.elapsed.as_secs_f64(),
            self.discarded
        )?;
        match self.unacknowledged {
            Some(0) => write!(f, ", everything acknowledged"),
            Some(bytes) => write!(f, ", {bytes} bytes never acknowledged"),
            None => write!(f, ", acknowledgement unknown"),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => write!(f, "peer closed"),
            Self::Acknowledged => write!(f, "acknowledged and silent"),
            Self::PeerReset => write!(f, "peer reset"),
            Self::TimedOut(Bound::Idle) => write!(f, "timed out (idle)"),
            Self::TimedOut(Bound::Total) => write!(f, "timed out (total)"),
            Self::TimedOut(Bound::Kernel) => write!(f, "timed out (the kernel gave up)"),
            Self::Limit => write!(f, "discard limit reached"),
            Self::Unwaited => write!(f, "closed without lingering"),
            Self::Aborted => write!(f, "aborted"),
            Self::Evicted => write!(f, "evicted"),
            Self::Gone => write!(f, "already gone"),
            Self::Failed(kind) => write!(f, "failed ({kind})"),
        }
    }
}
