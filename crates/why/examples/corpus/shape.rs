//! What a reset and the packets before it look like, without any rule about their cause: two causes that look the same cannot be told
//! apart by what kernels write.

use linger_packet::Flags;
use linger_why::Finding;

use crate::trace::{Connection, Seen, at_or_after};

/// The fields in which causes can differ. No times: they tell of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// An RST+ACK, which its sender's kernel writes of its own accord, and for every cause alike (Linux: `tcp_send_active_reset`). What
    /// lay unread shows in requests and responses only.
    Active { window: bool, timestamps: bool },
    /// A bare RST, which answers a packet.
    Answer {
        /// After the sender's own FIN.
        after_fin: bool,
        /// The other side had sent its FIN.
        other_fin: bool,
        /// The other side had sent data, or a FIN behind data, that the sender had not acknowledged.
        unacknowledged: bool,
        /// The sender had sent more than the reset's number.
        earlier: bool,
    },
}

impl Shape {
    /// The shape of a finding about a reset; `None` if its frame is not there.
    pub(crate) fn of(all: &[Seen], finding: &Finding) -> Option<Self> {
        let Connection { reset, sender, receiver } = Connection::of(all, finding)?;
        if reset.has(Flags::ACK) {
            return Some(Self::Active { window: reset.window != Some(0), timestamps: reset.timestamps });
        }
        let beyond = |number: Option<u32>, known: Option<u32>| {
            number.zip(known).is_some_and(|(number, known)| number != known && at_or_after(number, known))
        };
        Some(Self::Answer {
            after_fin: sender.fin().is_some(),
            other_fin: receiver.fin().is_some(),
            unacknowledged: beyond(receiver.data_end(), sender.ack()),
            earlier: beyond(sender.end(), Some(reset.seq)),
        })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let with = |has: bool, word: &'static str| has.then_some(word);
        let words = match *self {
            Self::Active { window, timestamps } => {
                [Some("RST+ACK"), with(window, "window"), with(timestamps, "timestamps"), None, None]
            }
            Self::Answer { after_fin, other_fin, unacknowledged, earlier } => [
                Some("RST"),
                with(after_fin, "after its FIN"),
                with(other_fin, "after the other's FIN"),
                with(unacknowledged, "the other's data unacknowledged"),
                with(earlier, "an earlier number"),
            ],
        };
        write!(f, "{}", words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}
