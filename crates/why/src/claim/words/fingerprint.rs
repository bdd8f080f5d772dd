//! What a reset shows of the stack that has sent it, in words.

use std::fmt;

use linger_packet::MptcpEnd;

use crate::Claim;

/// The reasons of MP_TCPRST (RFC 8684 section 3.6).
const MPTCP: [&str; 7] = [
    "no reason given",
    "an error in Multipath TCP",
    "a lack of resources",
    "prohibited by an administrator",
    "too much outstanding data",
    "unacceptable performance",
    "interference by a middlebox",
];

impl Claim {
    pub(super) fn fingerprint(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SeveralOfItsOwn { count, furthest } => write!(
                f,
                "{count} resets of its own accord, with numbers up to {furthest} ahead of the first: a host sends one; who \
                 guesses where the window is sends several"
            ),
            Self::LacksTimestamps { linux } => {
                f.write_str("both sides send timestamps, and this reset has none")?;
                if linux {
                    f.write_str("; its sender's SYN is Linux's, which has them there")
                } else {
                    Ok(())
                }
            }
            Self::WindowInAnswer { window } => write!(
                f,
                "a bare RST with window {window}; its sender's SYN is Linux's, which answers with window 0"
            ),
            Self::AcknowledgesTooSoon { after_us, round_trip_us } => write!(
                f,
                "it acknowledges bytes that passed here {after_us} us before; the sender's quickest answer took \
                 {round_trip_us} us"
            ),
            Self::MptcpEnded(MptcpEnd::Subflow { reason, transient }) => {
                let means = MPTCP.get(usize::from(reason)).copied().unwrap_or("a reason of no registry");
                write!(f, "Multipath TCP ends this subflow, reason {reason}: {means}")?;
                if transient { f.write_str(", and it may be tried again") } else { Ok(()) }
            }
            Self::MptcpEnded(_) => {
                f.write_str("Multipath TCP ends the whole connection with all its subflows (MP_FASTCLOSE)")
            }
            Self::WrongChecksum => f.write_str(
                "its checksum is wrong, and that of the sender's SYN is right: no host obeys such a reset",
            ),
            Self::BeatsAnsweredHere { count, pauses_ms: (shortest, longest) } => write!(
                f,
                "the sender's last {count} keepalive probes have answers here, and it reset as long after the last one as \
                 they are apart ({shortest} to {longest} ms): the answers were lost on their way to it"
            ),
            _ => Ok(()),
        }
    }
}
