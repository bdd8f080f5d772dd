//! How many bytes a reset cost, as far as the kernel tells.

use crate::kernel::leftovers::Leftover;
use serde::Serialize;

/// Bytes that were unread or unacknowledged when the connection ended. `None`: not known, see `unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// Received by this host and never read by the process.
    #[serde(rename = "unread_bytes")]
    pub unread: Option<u32>,
    /// Bytes that the process wrote and the peer has not acknowledged. An upper bound of the loss: the last acknowledgement
    /// may still have been in flight.
    #[serde(rename = "unacknowledged_bytes")]
    pub unacknowledged: Option<u32>,
    /// The part of `unacknowledged` that this host never sent. A lower bound of the loss.
    #[serde(rename = "unsent_bytes")]
    pub unsent: Option<u32>,
    /// Why a count is `None`.
    #[serde(rename = "bytes_unknown")]
    pub unknown: Option<Unknown>,
}

/// Why the bytes of a reset are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unknown {
    /// The reset answered a packet for which there was no socket, or only a listener: there are no queues to count.
    NoSocket,
    /// `SO_LINGER` 0, or a listener closed with connections in its queue: `tcp_disconnect` clears the counts first.
    Wiped,
    /// The process has not closed the socket yet.
    StillOpen,
    /// Bytes that arrive after `close()` are discarded without being counted. There was at least one.
    Uncounted,
    /// An MPTCP connection: its bytes lie in queues of its own, of which the kernel tells nothing at its end.
    Mptcp,
    /// The kernel sent no message about this socket: it is in another network namespace, or the netlink buffer was full.
    NotTold,
}

impl Unknown {
    /// Why the bytes are not known, as a phrase for a line of text.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NoSocket => "there was no socket any more",
            Self::Wiped => "an abort wipes the counts",
            Self::StillOpen => "the process still has the socket open",
            Self::Uncounted => "what came after the close is not counted",
            Self::Mptcp => "the queues of MPTCP are not told",
            Self::NotTold => "the kernel did not tell",
        }
    }
}

impl Bytes {
    pub(crate) fn unknown(why: Unknown) -> Self {
        Self { unknown: Some(why), ..Self::default() }
    }

    /// For a connection whose own FIN was acknowledged: the peer has everything that was written.
    pub(crate) fn all_acknowledged() -> Self {
        Self { unread: None, unacknowledged: Some(0), unsent: Some(0), unknown: Some(Unknown::Uncounted) }
    }

    /// The byte counts of a destroyed socket. The kernel counts a FIN as one byte; it is subtracted here.
    pub(crate) fn of(leftover: &Leftover, fin_sent: bool, fin_received: bool) -> Self {
        let without = |bytes: u32, fin: bool| bytes.saturating_sub(fin.into());
        Self {
            unread: Some(without(leftover.unread, fin_received)),
            unacknowledged: Some(without(leftover.unacknowledged, fin_sent)),
            unsent: leftover.unsent.map(|unsent| without(unsent, fin_sent)),
            unknown: None,
        }
    }

    /// Adds the counts of another connection. A sum is known only if both counts are.
    pub(crate) fn add(&mut self, other: &Self) {
        let sum = |one: Option<u32>, other: Option<u32>| Some(one?.saturating_add(other?));
        self.unread = sum(self.unread, other.unread);
        self.unacknowledged = sum(self.unacknowledged, other.unacknowledged);
        self.unsent = sum(self.unsent, other.unsent);
        self.unknown = self.unknown.or(other.unknown);
    }

    /// For a line of text: `6 bytes unread, 600000 unacknowledged (400000 of them never sent)`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(unread) = self.unread {
            parts.push(format!("{unread} bytes unread"));
        }
        match (self.unacknowledged, self.unsent) {
            (Some(all), Some(unsent)) if unsent > 0 => {
                parts.push(format!("{all} unacknowledged ({unsent} of them never sent)"));
            }
            (Some(all), _) => parts.push(format!("{all} unacknowledged")),
            _ => {}
        }
        if let Some(why) = self.unknown {
            let what = if parts.is_empty() { "bytes" } else { "the rest" };
            parts.push(format!("{what} unknown: {}", why.meaning()));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_known_if_both_parts_are() {
        let known = Bytes { unread: Some(7), unacknowledged: Some(1), unsent: Some(0), unknown: None };
        let mut sum = known;
        sum.add(&known);
        assert_eq!((sum.unread, sum.unacknowledged, sum.unknown), (Some(14), Some(2), None));
        sum.add(&Bytes::all_acknowledged());
        assert_eq!((sum.unread, sum.unacknowledged, sum.unknown), (None, Some(2), Some(Unknown::Uncounted)));
    }

    #[test]
    fn a_fin_is_no_byte() {
        let ends: (std::net::SocketAddr, _) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:9".parse().unwrap());
        let leftover = Leftover {
            namespace: None,
            cookie: 1,
            local: ends.0,
            remote: ends.1,
            unread: 7,
            unacknowledged: 501,
            unsent: Some(1),
            arrived: None,
        };
        let bytes = Bytes::of(&leftover, true, true);
        assert_eq!((bytes.unread, bytes.unacknowledged, bytes.unsent), (Some(6), Some(500), Some(0)));
        assert_eq!(bytes.describe(), "6 bytes unread, 500 unacknowledged");
        let bytes = Bytes::of(&leftover, false, false);
        assert_eq!(bytes.describe(), "7 bytes unread, 501 unacknowledged (1 of them never sent)");
        assert_eq!(Bytes::unknown(Unknown::Wiped).describe(), "bytes unknown: an abort wipes the counts");
    }
}
