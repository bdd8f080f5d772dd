//! The sentences about a full accept queue, in words.

use std::fmt;

use crate::Claim;
use crate::clock::Duration;

impl Claim {
    /// What the other connections of a port show.
    pub(super) fn queue(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenedLate { count, nanoseconds } => {
                write!(f, "the SYN-ACK came {} after the first of {count} SYNs", Duration(*nanoseconds))
            }
            Self::PortOpenedLate(count) => {
                write!(
                    f,
                    "{count} connections of the port opened so late, most of those whose SYN was repeated"
                )
            }
            Self::PortCrowded { again, at_first, unheard } => {
                write!(
                    f,
                    "within 10 s the port accepted {again} connections only when they had asked again, and {at_first} at once"
                )?;
                match unheard {
                    0 => Ok(()),
                    _ => write!(f, ", {unheard} of which sent their data three times or got another SYN-ACK before they were heard"),
                }
            }
            Self::ServedOthersMeanwhile => f.write_str(
                "the port answered others while SYNs of these went unanswered: host and path were there",
            ),
            Self::PortHolds(count) => write!(
                f,
                "{count} connections of the port were opened before and sent data, and neither a byte nor a FIN came back: they may \
                 fill its accept queue"
            ),
            Self::HostHeardMeanwhile => f.write_str(
                "the host acknowledged packets of those after the first of these SYNs: host and path had not gone",
            ),
            _ => self.streams(f),
        }
    }
}
