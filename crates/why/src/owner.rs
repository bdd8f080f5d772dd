//! Whose a finding is: who has to look, or to change something.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::{Cause, Claim, Confidence, Finding};

/// A part of the path of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OwnerRole {
    /// The end that listens.
    Server,
    /// The end that opened the connection.
    Client,
    /// One end, and which of the two it is, is not known.
    End,
    /// A box between the two ends.
    Between,
}

/// Who has to look into a finding. Of an undecided finding: whose address the reset carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Owner {
    /// Which part of the path it is.
    pub role: OwnerRole,
    /// Its address. `None` for several hosts, and for a box whose address is not known. The port is 0 for a client, for a box,
    /// and for several ports of one host.
    pub address: Option<SocketAddr>,
    /// Whether it may as well be a box between the ends.
    pub or_between: bool,
}

impl OwnerRole {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::End => "end",
            Self::Between => "between",
        }
    }
}

impl Finding {
    /// Who has to look into it.
    pub fn owner(&self) -> Owner {
        Owner::of(self)
    }
}

impl Owner {
    fn end(finding: &Finding, end: SocketAddr) -> Self {
        let (role, port) = match finding.client {
            Some(client) if client == end => (OwnerRole::Client, 0),
            Some(_) => (OwnerRole::Server, end.port()),
            None => (OwnerRole::End, end.port()),
        };
        Self { role, address: Some((end.ip(), port).into()), or_between: false }
    }

    fn between(address: Option<IpAddr>) -> Self {
        let address = address.map(|address| (address, 0).into());
        Self { role: OwnerRole::Between, address, or_between: false }
    }

    /// The owner of `finding`.
    pub(crate) fn of(finding: &Finding) -> Self {
        let mut owner = Self::by_cause(finding, finding.cause);
        let foreign = |cause: &Cause| matches!(cause, Cause::FirewallReject | Cause::Forged);
        if finding.confidence != Confidence::Certain && finding.candidates.iter().any(foreign) {
            owner.or_between = true;
        }
        owner.or_between &= owner.role != OwnerRole::Between;
        owner
    }

    fn by_cause(finding: &Finding, cause: Cause) -> Self {
        let or_between = |owner: Self| Self { or_between: true, ..owner };
        match cause {
            // The path may have been away just as well.
            Cause::AcceptQueueOverflow if finding.confidence == Confidence::Possible => {
                or_between(Self::end(finding, finding.listener()))
            }
            Cause::AcceptQueueOverflow
            | Cause::PortClosed
            | Cause::ProcessGone
            | Cause::CutShort
            | Cause::ClosedMidRequest
            | Cause::ClosedUnanswered
            | Cause::KeepAliveRace => Self::end(finding, finding.listener()),
            Cause::NoAnswer => or_between(Self::end(finding, finding.listener())),
            Cause::ClosedWithUnreadData
            | Cause::DataAfterClose
            | Cause::Aborted
            | Cause::BothClosed
            | Cause::WindowStuck => Self::end(finding, finding.from),
            Cause::ClientGaveUp => Self::end(finding, finding.client.unwrap_or(finding.from)),
            Cause::HalfOpen => or_between(Self::end(finding, finding.from)),
            Cause::Finwait2Expired => Self::end(finding, finding.to),
            Cause::KeepaliveTimeout | Cause::RetransmissionTimeout => {
                or_between(Self::end(finding, finding.to))
            }
            Cause::Unreachable => Self::reporter(finding),
            // Where little speaks for a box, its alleged sender is asked first.
            Cause::FirewallReject | Cause::Forged if finding.confidence == Confidence::Possible => {
                or_between(Self::end(finding, finding.from))
            }
            Cause::BlackHole | Cause::FirewallReject | Cause::Forged => Self::between(None),
            // While the cause is undecided, only the address in the reset is known.
            Cause::Unknown => Self::end(finding, finding.from),
        }
    }

    /// Who sent the ICMP error: the server itself, or a router.
    fn reporter(finding: &Finding) -> Self {
        let reporter = finding.evidence.iter().find_map(|evidence| match evidence.says {
            Claim::Icmp { reporter, .. } => Some(reporter),
            _ => None,
        });
        match reporter {
            Some(address) if address == finding.listener().ip() => Self::end(finding, finding.listener()),
            reporter => Self::between(reporter),
        }
    }

    /// The owner of both this one's findings and the other's.
    pub(crate) fn and(self, other: Self) -> Self {
        let same_host = self.address.map(|address| address.ip()) == other.address.map(|address| address.ip());
        let address = match (self.address, other.address) {
            (one, two) if one == two => one,
            (Some(one), _) if same_host => Some((one.ip(), 0).into()),
            _ => None,
        };
        let role = if self.role == other.role { self.role } else { OwnerRole::End };
        Self { role, address, or_between: self.or_between || other.or_between }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |f: &mut fmt::Formatter<'_>| match self.address {
            Some(address) if address.port() == 0 => write!(f, " {}", address.ip()),
            Some(address) => write!(f, " {address}"),
            None => Ok(()),
        };
        match (self.role, self.address) {
            (OwnerRole::Server, Some(_)) => f.write_str("the server")?,
            (OwnerRole::Server, None) => f.write_str("several servers")?,
            (OwnerRole::Client, Some(_)) => f.write_str("the client")?,
            (OwnerRole::Client, None) => f.write_str("several clients")?,
            (OwnerRole::End, Some(_)) => f.write_str("the end")?,
            (OwnerRole::End, None) => f.write_str("several ends")?,
            (OwnerRole::Between, Some(_)) => f.write_str("the box")?,
            (OwnerRole::Between, None) => f.write_str("a box between the two ends")?,
        }
        address(f)?;
        if self.or_between { f.write_str(", or a box before it") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_differ_are_several() {
        let owner =
            |role, address: &str| Owner { role, address: Some(address.parse().unwrap()), or_between: false };
        let server = owner(OwnerRole::Server, "10.0.0.1:80");
        assert_eq!(server.and(server).to_string(), "the server 10.0.0.1:80");
        assert_eq!(server.and(owner(OwnerRole::Server, "10.0.0.1:81")).to_string(), "the server 10.0.0.1");
        assert_eq!(server.and(owner(OwnerRole::Server, "10.0.0.2:80")).to_string(), "several servers");
        assert_eq!(server.and(owner(OwnerRole::Client, "10.0.0.2:0")).to_string(), "several ends");
        let doubtful = Owner { or_between: true, ..owner(OwnerRole::Client, "10.0.0.2:0") };
        assert_eq!(doubtful.to_string(), "the client 10.0.0.2, or a box before it");
        assert_eq!(Owner::between(None).to_string(), "a box between the two ends");
        assert_eq!(Owner::between(Some([10, 0, 0, 9].into())).to_string(), "the box 10.0.0.9");
    }
}
