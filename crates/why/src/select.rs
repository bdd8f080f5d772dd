//! Which packets of a capture are looked at.

use std::net::IpAddr;
use std::str::FromStr;

use linger_packet::Segment;

/// Packets by time, host and port. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// The time of the first packet to look at, in nanoseconds since 1970-01-01 00:00 UTC.
    pub since: Option<u64>,
    /// The time of the last packet to look at.
    pub until: Option<u64>,
    /// Connections with an end in one of these networks; all if there are none.
    pub hosts: Vec<HostRange>,
    /// Connections with one of these ports; all if there are none.
    pub ports: Vec<u16>,
}

impl Selection {
    /// Whether it names all packets.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether packets of this time are looked at.
    pub(crate) fn has_time(&self, time: u64) -> bool {
        self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time <= until)
    }

    /// Whether this segment's connection is looked at.
    pub(crate) fn has(&self, segment: &Segment<'_>) -> bool {
        let ends = [segment.source, segment.destination];
        let host = |range: &HostRange| ends.iter().any(|end| range.has(end.ip()));
        (self.hosts.is_empty() || self.hosts.iter().any(host))
            && (self.ports.is_empty() || ends.iter().any(|end| self.ports.contains(&end.port())))
    }
}

/// A host, or all hosts whose addresses begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    address: u128,
    /// How many of the last bits may differ.
    free: u8,
}

/// IPv4 addresses as IPv6 addresses (RFC 4291 section 2.5.5.2).
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl HostRange {
    pub(crate) fn has(self, address: IpAddr) -> bool {
        (bits(address) ^ self.address).checked_shr(self.free.into()).unwrap_or(0) == 0
    }
}

impl FromStr for HostRange {
    type Err = NoHostRange;

    fn from_str(text: &str) -> Result<Self, NoHostRange> {
        let (address, length) =
            text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| NoHostRange)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(width), str::parse::<u8>).map_err(|_| NoHostRange)?;
        let free = width.checked_sub(length).ok_or(NoHostRange)?;
        Ok(Self { address: bits(address), free })
    }
}

/// A text that is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give an address, or a network such as 10.0.0.0/8")]
#[non_exhaustive]
pub struct NoHostRange;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_they_say() {
        for (range, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("fd00::/64", "fd00::1:0:0:1", "fd00:0:0:1::1"),
        ] {
            let range: HostRange = range.parse().unwrap();
            assert!(range.has(inside.parse().unwrap()) && !range.has(outside.parse().unwrap()), "{range:?}");
        }
        assert!("::/0".parse::<HostRange>().unwrap().has("1.2.3.4".parse().unwrap()));
        for text in ["", "10.0.0.0/33", "10.0.0/8", "example.org", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(text.parse::<HostRange>(), Err(NoHostRange), "{text}");
        }
    }
}
