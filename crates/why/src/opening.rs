//! How far a connection's handshake has been seen.

use linger_packet::Flags;

use crate::key::Dir;

/// How far the handshake has been seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Opening {
    /// No SYN.
    #[default]
    Unseen,
    /// A SYN, and no SYN-ACK. `syns` counts it and its repetitions.
    Asked { opener: u8, syns: u8, syn_frame: u32 },
    /// A SYN-ACK, and no answer to it. `syn_frame` means nothing if the SYN was not seen.
    Accepted { opener: u8, syns: u8, syn_frame: u32, syn_ack: SynAck },
    /// The opener has answered the SYN-ACK. `repeats` counts SYN-ACKs that were sent again all the same.
    Answered { opener: u8, syns: u8, repeats: u8, syn_frame: u32, syn_ack: SynAck },
    /// The same, and the other side has sent nothing but SYN-ACKs, although the opener has sent data twice; or the last of them came in
    /// spite of an answer.
    Unheard { opener: u8, syns: u8, repeats: u8, syn_frame: u32, syn_ack: SynAck },
}

/// Packets of the opener of which the other side took no note.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnheardPackets {
    pub(crate) all: u32,
    /// Those of them that are nothing but an acknowledgement.
    pub(crate) bare: u32,
}

/// What a packet means for the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpeningStep {
    Nothing,
    /// A SYN-ACK that was sent again after the opener's answer. Those of the opener's packets since the one before were dropped.
    SynAckAgain(UnheardPackets),
    /// The first packet of the other side after such SYN-ACKs: the opener was heard. Those of the opener's packets were not.
    Heard(UnheardPackets),
}

/// Where and when a SYN-ACK was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SynAck {
    /// Frames after the connection's first one.
    pub(crate) frame: u32,
    /// Microseconds after the connection's first packet.
    pub(crate) after_us: u32,
}

impl Opening {
    pub(crate) fn opener(self) -> Option<Dir> {
        match self {
            Self::Unseen => None,
            Self::Asked { opener, .. }
            | Self::Accepted { opener, .. }
            | Self::Answered { opener, .. }
            | Self::Unheard { opener, .. } => Some(usize::from(opener)),
        }
    }

    /// The frame of the SYN, after the connection's first one.
    pub(crate) fn syn_frame(self) -> u32 {
        match self {
            Self::Unseen => 0,
            Self::Asked { syn_frame, .. }
            | Self::Accepted { syn_frame, .. }
            | Self::Answered { syn_frame, .. }
            | Self::Unheard { syn_frame, .. } => syn_frame,
        }
    }

    pub(crate) fn syn_ack(self) -> Option<SynAck> {
        match self {
            Self::Unseen | Self::Asked { .. } => None,
            Self::Accepted { syn_ack, .. }
            | Self::Answered { syn_ack, .. }
            | Self::Unheard { syn_ack, .. } => Some(syn_ack),
        }
    }

    /// The SYNs that were sent before the SYN-ACK, 255 at most; 0 if none was seen.
    pub(crate) fn syns(self) -> u8 {
        match self {
            Self::Unseen => 0,
            Self::Asked { syns, .. }
            | Self::Accepted { syns, .. }
            | Self::Answered { syns, .. }
            | Self::Unheard { syns, .. } => syns,
        }
    }

    /// SYN-ACKs sent again after the opener had answered the first, 255 at most.
    pub(crate) fn repeats(self) -> u16 {
        match self {
            Self::Answered { repeats, .. } | Self::Unheard { repeats, .. } => u16::from(repeats),
            _ => 0,
        }
    }

    /// The opener has answered, and sends its data again: the other side has sent nothing.
    #[cold]
    pub(crate) fn is_unheard(&mut self) {
        if let &mut Self::Answered { opener, syns, repeats, syn_frame, syn_ack } = self {
            *self = Self::Unheard { opener, syns, repeats, syn_frame, syn_ack };
        }
    }

    /// Takes a packet of side `dir`. `known`: a SYN of that side was seen before. The counts of the step are left 0.
    pub(crate) fn take(
        &mut self,
        flags: Flags,
        dir: Dir,
        known: bool,
        after_us: u32,
        frame: u32,
    ) -> OpeningStep {
        debug_assert!(dir < 2);
        let (side, peer) = (dir as u8, 1 - dir as u8);
        match self {
            _ if flags.has(Flags::SYN) && known => match self {
                &mut (Self::Answered { opener, syns, repeats, syn_frame, syn_ack }
                | Self::Unheard { opener, syns, repeats, syn_frame, syn_ack })
                    if flags.has(Flags::ACK) =>
                {
                    let repeats = repeats.saturating_add(1);
                    *self = Self::Unheard { opener, syns, repeats, syn_frame, syn_ack };
                    return OpeningStep::SynAckAgain(UnheardPackets::default());
                }
                Self::Asked { syns, .. } if !flags.has(Flags::ACK) => *syns = syns.saturating_add(1),
                _ => {}
            },
            _ if flags.has(Flags::SYN | Flags::ACK) => {
                let syn_ack = SynAck { frame, after_us };
                let (syns, syn_frame) = (self.syns(), self.syn_frame());
                *self = Self::Accepted { opener: peer, syns, syn_frame, syn_ack };
            }
            Self::Unseen if flags.has(Flags::SYN) => {
                *self = Self::Asked { opener: side, syns: 1, syn_frame: frame };
            }
            // A SYN that crosses the first one, or answers it (RFC 9293 section 3.5): who asked first is the client.
            Self::Asked { .. } if flags.has(Flags::SYN) => {}
            Self::Accepted { opener, syn_frame, .. }
            | Self::Answered { opener, syn_frame, .. }
            | Self::Unheard { opener, syn_frame, .. }
                if flags.has(Flags::SYN) =>
            {
                (*opener, *syn_frame) = (side, frame);
            }
            &mut Self::Accepted { opener, syns, syn_frame, syn_ack } if opener == side => {
                *self = Self::Answered { opener, syns, repeats: 0, syn_frame, syn_ack };
            }
            &mut Self::Unheard { opener, syns, repeats, syn_frame, syn_ack } if opener != side => {
                *self = Self::Answered { opener, syns, repeats, syn_frame, syn_ack };
                return OpeningStep::Heard(UnheardPackets::default());
            }
            _ => {}
        }
        OpeningStep::Nothing
    }
}
