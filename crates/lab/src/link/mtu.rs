//! Links that carry no packets beyond a size, and their answer to one.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The largest packet that a direction carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Bytes of an IP packet.
    pub bytes: u16,
    /// Whether the sender of a larger one is told by ICMP. Without, large packets vanish: a black hole.
    pub icmp: bool,
}

/// Linux does not believe in less for IPv4 (`net.ipv4.route.min_pmtu`, 552), and every host must take so much (RFC 1122).
const LEAST: u16 = 576;
/// The hosts' interfaces send no larger packets.
const MOST: u16 = 1_500;
/// IPv6 knows no less (RFC 8200).
pub(crate) const LEAST_OF_IPV6: u16 = 1_280;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

impl PathMtu {
    /// Whether this frame is too large.
    pub(crate) fn is_exceeded(self, frame: &[u8]) -> bool {
        frame.len() > usize::from(self.bytes) + ETHERNET
    }

    /// A value of a scenario: bytes, a table, or `none`.
    pub(crate) fn or_none<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<Self>>, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            bytes: i64,
            #[serde(default = "usually")]
            icmp: bool,
        }
        fn usually() -> bool {
            true
        }
        fn of<E: Error>(bytes: i64, icmp: bool) -> Result<Option<PathMtu>, E> {
            let size = u16::try_from(bytes).ok().filter(|bytes| (LEAST..=MOST).contains(bytes));
            let told = || format!("an MTU of {bytes} bytes: name {LEAST} to {MOST}");
            size.map(|bytes| Some(PathMtu { bytes, icmp })).ok_or_else(|| E::custom(told()))
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Option<PathMtu>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, { bytes = …, icmp = false } or \"none\"")
            }
            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Self::Value, E> {
                of(bytes, true)
            }
            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Self::Value, E> {
                of(i64::try_from(bytes).unwrap_or(i64::MAX), true)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == "none" {
                    Ok(None)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let Table { bytes, icmp } = Table::deserialize(MapAccessDeserializer::new(map))?;
                of(bytes, icmp)
            }
        }
        deserializer.deserialize_any(Either).map(Some)
    }
}

/// What a router tells the sender of this frame, which is too large for `mtu`: "fragmentation needed" (RFC 1191) or "packet too
/// big" (RFC 4443 section 3.2). `None` for a packet that may not be answered, or would have to be cut into pieces instead.
pub(crate) fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let packet = frame.get(ETHERNET..)?;
    let answer = match frame.get(12..14)? {
        [0x08, 0x00] => ipv4(packet, mtu)?,
        [0x86, 0xdd] => ipv6(packet, mtu)?,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(ETHERNET + answer.len());
    bytes.extend(&frame[6..12]);
    bytes.extend(&frame[0..6]);
    bytes.extend(&frame[12..14]);
    bytes.extend(answer);
    Some(bytes)
}

const DONT_FRAGMENT: u8 = 0x40;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fn ipv4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header: &[u8; 20] = packet.first_chunk()?;
    if header[6] & DONT_FRAGMENT == 0 || header[9] == ICMP {
        return None;
    }
    let quoted = &packet[..packet.len().min(576 - 28)];
    let mut answer = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
    // The router is some host of the receiver's network.
    answer.extend(&header[16..19]);
    answer.push(254);
    answer.extend(&header[12..16]);
    answer[2..4].copy_from_slice(&(28 + quoted.len() as u16).to_be_bytes());
    let sum = checksum(0, &answer);
    answer[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(0, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    answer.extend(message);
    Some(answer)
}

fn ipv6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header: &[u8; 40] = packet.first_chunk()?;
    if header[6] == ICMPV6 {
        return None;
    }
    let quoted = &packet[..packet.len().min(usize::from(LEAST_OF_IPV6) - 48)];
    let mut answer = vec![0x60, 0, 0, 0];
    let length = 8 + quoted.len() as u16;
    answer.extend(length.to_be_bytes());
    answer.extend([ICMPV6, 64]);
    answer.extend(&header[24..38]);
    answer.extend([0, 0xfe]);
    answer.extend(&header[8..24]);
    let mut message = vec![2, 0, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let addresses =
        answer[8..40].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let pseudo = addresses.sum::<u32>() + u32::from(length) + u32::from(ICMPV6);
    let sum = checksum(pseudo, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    answer.extend(message);
    Some(answer)
}

/// The Internet's checksum (RFC 1071) over these bytes and what is summed up already.
pub(crate) fn checksum(summed: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks(2).fold(summed, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_answered_is() {
        let frame = |kind: [u8; 2], packet: &[u8]| {
            let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
            bytes.extend(kind);
            bytes.extend(packet);
            bytes
        };
        let mut packet = vec![0x45; 1_400];
        (packet[6], packet[9]) = (DONT_FRAGMENT, 6);
        let answer = too_big(&frame([8, 0], &packet), 1_280).unwrap();
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 1], "to the sender");
        assert_eq!(checksum(0, &answer[14..34]), 0);
        assert_eq!(checksum(0, &answer[34..]), 0);
        assert_eq!(answer[40..42], 1_280u16.to_be_bytes());
        let mut may_be_cut = packet.clone();
        may_be_cut[6] = 0;
        assert_eq!(too_big(&frame([8, 0], &may_be_cut), 1_280), None);
        let mut icmp = packet.clone();
        icmp[9] = ICMP;
        assert_eq!(too_big(&frame([8, 0], &icmp), 1_280), None, "an answer to an answer would never end");
        assert_eq!(too_big(&frame([8, 6], &packet), 1_280), None, "ARP");
        for length in 0..60 {
            // What is cut short is answered or not, and never a panic.
            let _ = too_big(&frame([8, 0], &packet)[..length], 1_280);
            let _ = too_big(&frame([0x86, 0xdd], &packet)[..length], 1_280);
        }
    }
}
