//! What a link does with a packet.

use crate::clock::Nanos;
use crate::link::Direction;
use crate::link::middlebox::Forgotten;

/// What the link did with a packet; used in the decision log and in captures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Passes without change.
    Pass,
    /// Lost at random.
    Lost,
    /// The queue before the rate limit was full.
    QueueFull,
    /// A fault dropped it.
    Dropped,
    /// Larger than the link carries.
    TooBig,
    /// Held back at random, so that later packets overtake it.
    Reordered,
    /// Sent twice, at random.
    Duplicated,
    /// The second of a packet that is sent twice.
    Second,
    /// Changed by one bit, at random.
    Corrupted,
    /// A fault holds it until a reset has passed, or for its longest time.
    Held,
    /// A fault delays it: it carries nothing but an acknowledgement.
    AckHeld,
    /// The link's own answer to a packet that was too big.
    Answer,
    /// Marked: the queue is half full, and its transport is capable of ECN.
    Marked,
    /// Its ECN bits were cleared.
    Bleached,
    /// A SYN that asks for ECN was dropped.
    EctSyn,
    /// The middlebox dropped it: it knows no connection of it.
    NoState(Forgotten),
    /// The middlebox dropped it as INVALID.
    Invalid,
    /// The middlebox let it through, and picked up its connection in the middle.
    PickedUp,
    /// A reset of the middlebox's own.
    BoxReset,
}

impl Decision {
    /// The packet's comment in a capture; none for a packet that only passes.
    pub fn comment(self) -> Option<&'static str> {
        Some(match self {
            Self::Pass => return None,
            Self::Lost => "the link lost this packet (by chance)",
            Self::QueueFull => "the link dropped this packet (queue full)",
            Self::Dropped => "the link dropped this packet (fault: drop-data-segment)",
            Self::TooBig => "the link dropped this packet (larger than its mtu)",
            Self::Reordered => "the link held this packet back (by chance): later ones overtake it",
            Self::Duplicated => "the link sent this packet twice (by chance)",
            Self::Second => "the link sent this packet twice (by chance): the second",
            Self::Corrupted => "the link changed one bit of this packet (by chance)",
            Self::Held => "the link held this packet (fault: hold-data-until-reset)",
            Self::AckHeld => "the link held this acknowledgement (fault: hold-acks)",
            Self::Answer => "the link's answer to a packet that was larger than its mtu",
            Self::Marked => "the link marked this packet (CE)",
            Self::Bleached => "the link cleared this packet's ECN bits",
            Self::EctSyn => "the link dropped this packet (a SYN that asks for ECN)",
            Self::NoState(Forgotten::Unknown) => {
                "the middlebox dropped this packet (no state: it knows no such connection)"
            }
            Self::NoState(Forgotten::Opening) => {
                "the middlebox dropped this packet (no state: the handshake took longer than `syn`)"
            }
            Self::NoState(Forgotten::Idle) => {
                "the middlebox dropped this packet (no state: the connection was silent for `idle`)"
            }
            Self::NoState(Forgotten::HalfClosed) => {
                "the middlebox dropped this packet (no state: the half-closed connection was silent for `half_closed`)"
            }
            Self::NoState(Forgotten::Closed) => {
                "the middlebox dropped this packet (no state: the connection was over, and silent for `closed`)"
            }
            Self::Invalid => "the middlebox dropped this packet (INVALID)",
            Self::PickedUp => "the middlebox took this packet for one of a connection under way",
            Self::BoxReset => "the middlebox's own reset",
        })
    }

    /// Whether the packet does not leave the link.
    pub fn drops(self) -> bool {
        matches!(
            self,
            Self::Lost
                | Self::QueueFull
                | Self::Dropped
                | Self::TooBig
                | Self::EctSyn
                | Self::NoState(_)
                | Self::Invalid
        )
    }
}

/// A packet that leaves the link.
#[derive(Debug)]
pub struct Departure<P> {
    /// The direction in which the packet goes.
    pub direction: Direction,
    /// When the packet was due. The caller's clock is at or past that time.
    pub due: Nanos,
    /// What the link did with the packet.
    pub decision: Decision,
    /// The packet as it was given, unless a bit of it was to be changed.
    pub packet: P,
}
