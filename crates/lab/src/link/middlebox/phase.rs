//! The states of a connection as a box between its ends sees them, and which packets lead from one to the other.
//!
//! The rules are those of Linux's conntrack (`tcp_conntracks` in `nf_conntrack_proto_tcp.c`), but FIN_WAIT and
//! CLOSE_WAIT are one state here, since only their times differ.

use std::time::Duration;

use linger_packet::Flags;

use super::{Forgotten, MiddleboxTimeouts};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BoxPhase {
    /// A SYN was seen.
    Asked,
    /// And the SYN-ACK.
    Answered,
    /// The handshake is done.
    Established,
    /// One FIN was seen.
    HalfClosed,
    /// A FIN was seen behind that. As for Linux, the first one sent again is taken for the second.
    LastAck,
    /// And an acknowledgement behind that.
    TimeWait,
    /// A reset was seen.
    Reset,
}

/// What a packet is by its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketKind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    /// No flags that any packet may have.
    Senseless,
}

/// What becomes of a connection with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseChange {
    /// It is in this state, if the packet is in the window.
    To(BoxPhase),
    /// The packet passes, and nothing is concluded from it.
    Ignore,
    /// The packet makes no sense.
    Invalid,
    /// The packet begins a new connection in the old one's place.
    Anew,
}

impl PacketKind {
    /// By the flags. Combinations that Linux refuses (`tcp_valid_flags`) are senseless; PSH, ECE and CWR say nothing.
    pub(super) fn of(flags: Flags) -> Self {
        let has = |flag: Flags| flags.has(flag);
        match (has(Flags::RST), has(Flags::SYN), has(Flags::FIN), has(Flags::ACK)) {
            (true, false, false, _) if !has(Flags::URG) => Self::Rst,
            (false, true, false, false) => Self::Syn,
            (false, true, false, true) if !has(Flags::URG) => Self::SynAck,
            (false, false, true, true) => Self::Fin,
            (false, false, false, true) => Self::Ack,
            _ => Self::Senseless,
        }
    }
}

impl BoxPhase {
    /// The state behind this packet, which comes from the end that began the connection or from the other.
    pub(super) fn next(self, from_first: bool, kind: PacketKind) -> PhaseChange {
        use BoxPhase::{Answered, Asked, Established, HalfClosed, LastAck, Reset, TimeWait};
        match (kind, self) {
            (PacketKind::Senseless, _) => PhaseChange::Invalid,
            (PacketKind::Rst, _) => PhaseChange::To(Reset),
            (PacketKind::Syn, Asked) => PhaseChange::To(Asked),
            (PacketKind::Syn, TimeWait) => PhaseChange::Anew,
            (PacketKind::Syn, Reset) if from_first => PhaseChange::Anew,
            // The receiver answers it with a challenge, or with a reset if the box holds a dead connection.
            (PacketKind::Syn, _) if from_first => PhaseChange::Ignore,
            (PacketKind::Syn, _) => PhaseChange::Invalid,
            (PacketKind::SynAck, _) if from_first => PhaseChange::Invalid,
            (PacketKind::SynAck, Asked) => PhaseChange::To(Answered),
            (PacketKind::SynAck, _) => PhaseChange::Ignore,
            (PacketKind::Fin, Asked) => PhaseChange::Invalid,
            (PacketKind::Fin, Answered | Established) => PhaseChange::To(HalfClosed),
            (PacketKind::Fin, HalfClosed | LastAck) => PhaseChange::To(LastAck),
            (PacketKind::Ack, Asked) if from_first => PhaseChange::Invalid,
            // The answer of a connection that only the other end still has.
            (PacketKind::Ack, Asked) => PhaseChange::Ignore,
            (PacketKind::Ack, Answered) if from_first => PhaseChange::To(Established),
            (PacketKind::Ack, LastAck) => PhaseChange::To(TimeWait),
            (PacketKind::Fin | PacketKind::Ack, same) => PhaseChange::To(same),
        }
    }

    /// The silence after which a connection in this state is forgotten.
    pub(super) fn timeout(self, timeouts: &MiddleboxTimeouts) -> Duration {
        match self {
            Self::Asked | Self::Answered => timeouts.syn,
            Self::Established => timeouts.idle,
            Self::HalfClosed => timeouts.half_closed,
            Self::LastAck | Self::TimeWait | Self::Reset => timeouts.closed,
        }
    }

    /// What is said of a connection that was forgotten in this state.
    pub(super) fn forgotten(self) -> Forgotten {
        match self {
            Self::Asked | Self::Answered => Forgotten::Opening,
            Self::Established => Forgotten::Idle,
            Self::HalfClosed => Forgotten::HalfClosed,
            Self::LastAck | Self::TimeWait | Self::Reset => Forgotten::Closed,
        }
    }

    /// Whether a FIN or a reset was seen.
    pub(super) fn is_closing(self) -> bool {
        self == Self::HalfClosed || self.is_over()
    }

    /// Whether both ends, as far as the box knows, have let go of the connection.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::LastAck | Self::TimeWait | Self::Reset)
    }
}
