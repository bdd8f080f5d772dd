//! The tags and tunnels around a segment: networks with addresses of their own, in which the same two ends may occur again.

use std::fmt;

/// How many of the lower bits of a word of a [`Path`] hold the number of a tag. The upper bits hold its kind, [`Tag`].
const NUMBER_BITS: u32 = 27;

/// The tags and tunnels around a segment, the outermost first, at most four. More than four are folded into the fourth.
///
/// Two segments with the same ends and different paths may belong to two connections, of two tenants of one network. They may
/// also belong to one: labels and tunnel numbers often differ between the two directions, and a switch may tag only one of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path([u32; 4]);

/// What wraps a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Vlan = 1,
    Mpls,
    Vxlan,
    Geneve,
    Gre,
    GreKey,
    Gtp,
    L2tp,
    Erspan,
    IpInIp,
    Pppoe,
    ServiceInstance,
    Teredo,
}

impl Tag {
    const ALL: [Self; 13] = [
        Self::Vlan,
        Self::Mpls,
        Self::Vxlan,
        Self::Geneve,
        Self::Gre,
        Self::GreKey,
        Self::Gtp,
        Self::L2tp,
        Self::Erspan,
        Self::IpInIp,
        Self::Pppoe,
        Self::ServiceInstance,
        Self::Teredo,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Vlan => "VLAN",
            Self::Mpls => "MPLS label",
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::Gre | Self::GreKey => "GRE",
            Self::Gtp => "GTP-U",
            Self::L2tp => "L2TP",
            Self::Erspan => "ERSPAN",
            Self::IpInIp => "IP in IP",
            Self::Pppoe => "PPPoE session",
            Self::ServiceInstance => "service instance",
            Self::Teredo => "Teredo",
        }
    }

    /// Whether the path has the tag's own number, which operators know. Of the other tags it has a 32-bit number folded to 27
    /// bits, a hash of addresses, or 0.
    fn has_number(self) -> bool {
        matches!(
            self,
            Self::Vlan
                | Self::Mpls
                | Self::Vxlan
                | Self::Geneve
                | Self::Erspan
                | Self::Pppoe
                | Self::ServiceInstance
        )
    }
}

impl Path {
    /// Whether there is no tag and no tunnel.
    #[inline]
    pub const fn is_plain(self) -> bool {
        self.0[0] == 0
    }

    /// The tags that name a network, without those that only name a way through it, which differ between directions or change.
    #[must_use]
    #[inline]
    pub fn network(self) -> Self {
        if self.is_plain() { self } else { self.network_among_tags() }
    }

    fn network_among_tags(self) -> Self {
        let mut network = Self::default();
        let named = [Tag::Vlan, Tag::Vxlan, Tag::Geneve, Tag::ServiceInstance].map(|tag| tag as u32);
        let mut places = network.0.iter_mut();
        for word in self.0.iter().filter(|word| named.contains(&(**word >> NUMBER_BITS))) {
            if let Some(place) = places.next() {
                *place = *word;
            }
        }
        network
    }

    /// This path, and one more tag inside it.
    pub(super) fn and(mut self, tag: Tag, number: u32) -> Self {
        let word = (tag as u32) << NUMBER_BITS | (number ^ number >> NUMBER_BITS) & ((1 << NUMBER_BITS) - 1);
        match self.0.iter_mut().find(|word| **word == 0) {
            Some(free) => *free = word,
            None => self.0[3] = self.0[3].rotate_left(5).wrapping_mul(0x9e37_79b1) ^ word | 1,
        }
        self
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().take_while(|word| **word != 0).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let number = word & ((1 << NUMBER_BITS) - 1);
            match Tag::ALL.iter().find(|tag| **tag as u32 == word >> NUMBER_BITS) {
                Some(tag) if tag.has_number() => write!(f, "{separator}{} {number}", tag.name())?,
                Some(tag) => write!(f, "{separator}{}", tag.name())?,
                None => write!(f, "{separator}others")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({self})")
    }
}
