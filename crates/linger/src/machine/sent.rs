//! What is known of the bytes that were sent.

/// What is known of the bytes that were sent. `ask`: the send queue may have changed since it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The kernel cannot tell, or has not been asked.
    Unknown { ask: bool },
    /// This many bytes are not acknowledged, the FIN not counted; at 0 only the FIN is missing. The kernel counts in an `int`.
    Holds { bytes: u32, ask: bool },
    /// The peer has acknowledged everything, the FIN included, and that stays so.
    Acknowledged,
}

impl Sent {
    pub(super) const UNASKED: Self = Self::Unknown { ask: true };

    pub(super) fn asks(self) -> bool {
        matches!(self, Self::Unknown { ask: true } | Self::Holds { ask: true, .. })
    }

    /// The same knowledge, with `ask` as whether to measure the send queue again.
    pub(super) fn asking(self, ask: bool) -> Self {
        match self {
            Self::Unknown { .. } => Self::Unknown { ask },
            Self::Holds { bytes, .. } => Self::Holds { bytes, ask },
            Self::Acknowledged => Self::Acknowledged,
        }
    }

    /// The new state after the send queue was measured.
    pub(super) fn measured(self, bytes: u64, fin: bool) -> Self {
        match self {
            Self::Acknowledged => self,
            _ if fin && bytes == 0 => Self::Acknowledged,
            _ => Self::Holds { bytes: narrow(bytes), ask: false },
        }
    }

    /// Whether the peer has acknowledged something between an earlier look and this one; the first look counts.
    pub(super) fn is_progress_since(self, earlier: Self) -> bool {
        match (earlier, self) {
            (Self::Unknown { .. }, _) | (Self::Holds { .. }, Self::Acknowledged) => true,
            (Self::Holds { bytes: before, .. }, Self::Holds { bytes, .. }) => bytes < before,
            _ => false,
        }
    }

    /// The kernel cannot tell.
    pub(super) fn unknown(self) -> Self {
        match self {
            Self::Acknowledged => self,
            _ => Self::Unknown { ask: false },
        }
    }

    pub(super) fn bytes(self) -> Option<u64> {
        match self {
            Self::Unknown { .. } => None,
            Self::Holds { bytes, .. } => Some(u64::from(bytes)),
            Self::Acknowledged => Some(0),
        }
    }
}

/// The number as a `u32`, or the largest `u32`.
pub(super) fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
