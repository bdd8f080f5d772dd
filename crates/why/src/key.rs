//! The key of a connection: its two ends, the same for packets of either direction.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4};

use linger_packet::Segment;

/// The two ends of a connection, the lower address first, as seen on one interface. A packet that passes two interfaces of a
/// capture is in the capture twice, so each interface has connections of its own.
///
/// Networks that share a wire (VLANs, tunnels) may use the same addresses. A connection with the ends of one that is in another
/// network gets another variant of the key: the module `places` tells which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowKey {
    addresses: [[u64; 2]; 2],
    ports: [u16; 2],
    /// The interface in the lower half, the variant in the upper half. A pcapng section has at most 65,536 interfaces.
    place: u32,
}

impl std::hash::Hash for FlowKey {
    /// Writes five words. The derived implementation would add a length before each array.
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [[a, b], [c, d]] = self.addresses;
        let [low, high] = self.ports;
        state.write_u64(a);
        state.write_u64(b);
        state.write_u64(c);
        state.write_u64(d);
        state.write_u64(u64::from(low) << 48 | u64::from(high) << 32 | u64::from(self.place));
    }
}

/// A number for a path. 0: neither tags nor tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PathId(pub(crate) u16);

/// One of a connection's two sides: an index into its `sides`.
pub(crate) type Dir = usize;

/// The prefix of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const V4: u64 = 0xffff << 32;

fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(v4) => [0, V4 | u64::from(v4.to_bits())],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

impl FlowKey {
    /// The key of a segment's connection, and which side sent the segment.
    #[inline]
    pub(crate) fn of(segment: &Segment<'_>, interface: u32) -> (Self, Dir) {
        Self::between(segment.source, segment.destination, interface)
    }

    /// The key of the connection between two ends, and which side the first is.
    #[inline]
    pub(crate) fn between(from: SocketAddr, to: SocketAddr, interface: u32) -> (Self, Dir) {
        if let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) {
            // The same order as below, with fewer instructions.
            let end = |end: SocketAddrV4| u64::from(end.ip().to_bits()) << 16 | u64::from(end.port());
            let (source, destination) = (end(from), end(to));
            let dir = usize::from(source > destination);
            let ends = [source.min(destination), source.max(destination)];
            return (
                Self {
                    addresses: ends.map(|end| [0, V4 | end >> 16]),
                    ports: ends.map(|end| end as u16),
                    place: interface & 0xffff,
                },
                dir,
            );
        }
        let (source, destination) = ((words(from.ip()), from.port()), (words(to.ip()), to.port()));
        let ((low, high), dir) =
            if source <= destination { ((source, destination), 0) } else { ((destination, source), 1) };
        (Self { addresses: [low.0, high.0], ports: [low.1, high.1], place: interface & 0xffff }, dir)
    }

    /// A number that differs between most connections. An attacker can predict it, unlike the hash: use it only for a
    /// cache whose entries may be replaced.
    #[inline]
    pub(crate) fn blend(&self) -> u64 {
        let [[_, low], [_, high]] = self.addresses;
        let ports = u64::from(self.ports[0]) << 16 ^ u64::from(self.ports[1]);
        (low ^ high.rotate_left(16) ^ ports ^ u64::from(self.place)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48
    }

    /// The number of the interface in the capture.
    pub(crate) fn interface(&self) -> u32 {
        self.place & 0xffff
    }

    /// The same ends on the same interface, in another network.
    pub(crate) fn variant(&self, variant: u16) -> Self {
        Self { place: self.place & 0xffff | u32::from(variant) << 16, ..*self }
    }

    pub(crate) fn end(&self, dir: Dir) -> SocketAddr {
        let [high, low] = self.addresses[dir];
        let v6 = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), self.ports[dir])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_survive_the_key_in_either_direction() {
        let ends: Vec<SocketAddr> =
            ["10.1.2.3:80", "10.1.2.3:81", "9.9.9.9:65535", "[fd00::1]:443", "[::1]:1", "[::]:0"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        for &one in &ends {
            for &other in ends.iter().filter(|&&other| other != one) {
                let (key, dir) = FlowKey::between(one, other, 0);
                assert_eq!((key.end(dir), key.end(1 - dir)), (one, other));
                assert_eq!(FlowKey::between(other, one, 0), (key, 1 - dir));
            }
        }
    }
}
