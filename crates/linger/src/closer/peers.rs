//! How many sockets linger for each peer, and which.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use super::slab::{PEER, Ring, Slab};

/// The lingering sockets of each peer, in the order in which they are to be evicted.
///
/// A peer is known by a keyed hash of 32 bits. Two peers with the same hash share a bound; because of the key, no peer can
/// bring that about.
#[derive(Default)]
pub(super) struct Peers {
    key: std::hash::RandomState,
    of: HashMap<u32, (Ring<PEER>, u32)>,
}

impl Peers {
    /// The hash of a peer's address; 0 for a peer without one.
    pub(super) fn hash(&self, address: Option<SocketAddr>) -> u32 {
        let Some(address) = address else { return 0 };
        let whom = match address.ip().to_canonical() {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            // The host part is the peer's to choose.
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        (self.key.hash_one(whom) as u32).max(1)
    }

    /// How many sockets this peer has.
    pub(super) fn count(&self, peer: u32) -> usize {
        self.of.get(&peer).map_or(0, |(_, count)| *count as usize)
    }

    /// The socket to evict before this peer may have another one, if the peer has as many as allowed.
    pub(super) fn to_evict(&self, peer: u32, most: usize) -> Option<u32> {
        let (ring, count) = self.of.get(&peer)?;
        if *count as usize >= most { ring.head() } else { None }
    }

    /// Adds a socket as the last to be evicted of its peer's; one without an address is not counted.
    pub(super) fn enter(&mut self, slab: &mut Slab, index: u32, peer: u32) {
        if peer == 0 {
            return;
        }
        let (ring, count) = self.of.entry(peer).or_insert((Ring::EMPTY, 0));
        ring.push_back(slab, index);
        *count += 1;
        if let Some(entry) = slab.get(index) {
            entry.peer = peer;
        }
    }

    /// Makes a socket the first to be evicted of its peer's.
    pub(super) fn prefer(&mut self, slab: &mut Slab, index: u32) {
        let Some(entry) = slab.get(index) else { return };
        if let Some((ring, _)) = self.of.get_mut(&entry.peer) {
            ring.remove(slab, index);
            ring.push_front(slab, index);
        }
    }

    /// Removes a socket.
    pub(super) fn leave(&mut self, slab: &mut Slab, index: u32, peer: u32) {
        let Some((ring, count)) = self.of.get_mut(&peer) else { return };
        ring.remove(slab, index);
        debug_assert!(*count > 0, "a peer's sockets are counted wrongly");
        *count -= 1;
        if *count == 0 {
            debug_assert!(ring.head().is_none(), "a socket of a peer is not counted");
            self.of.remove(&peer);
            if self.of.is_empty() {
                self.of.shrink_to_fit();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::closer::slab::tests::entry;

    #[test]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        let peers = Peers::default();
        let hash = |text: &str| peers.hash(Some(SocketAddr::new(text.parse().unwrap(), 1)));
        assert_eq!(peers.hash(None), 0);
        assert_ne!(hash("192.0.2.1"), 0);
        assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
        // A host part of 64 bits is the peer's to choose, the rest is not.
        assert_eq!(hash("2001:db8::1"), hash("2001:db8::ffff:0:0:1"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db9::1"));
        let other = SocketAddr::new("192.0.2.1".parse().unwrap(), 2);
        assert_eq!(peers.hash(Some(other)), hash("192.0.2.1"));
    }

    #[test]
    fn each_peer_has_its_own_count_and_order() {
        let (mut peers, mut slab) = (Peers::default(), Slab::new());
        let [a, b, c, d] = [0; 4].map(|_| slab.insert(entry()));
        for (index, peer) in [(a, 1), (b, 1), (c, 2), (d, 0)] {
            peers.enter(&mut slab, index, peer);
        }
        assert_eq!([a, b, c, d].map(|index| slab.get(index).unwrap().peer), [1, 1, 2, 0]);
        assert_eq!([0, 1, 2, 9].map(|peer| peers.count(peer)), [0, 2, 1, 0]);
        assert_eq!(
            (peers.to_evict(1, 2), peers.to_evict(1, 3), peers.to_evict(2, 1)),
            (Some(a), None, Some(c))
        );
        assert_eq!((peers.to_evict(2, 2), peers.to_evict(0, 1), peers.to_evict(9, 1)), (None, None, None));
        peers.prefer(&mut slab, b);
        assert_eq!(peers.to_evict(1, 2), Some(b));
        // `d` has no peer address and is in no peer's ring: `prefer` and `leave` do nothing for it.
        peers.prefer(&mut slab, d);
        peers.leave(&mut slab, d, 0);
        peers.leave(&mut slab, b, 1);
        assert_eq!((peers.to_evict(1, 1), peers.to_evict(1, 2)), (Some(a), None));
        peers.leave(&mut slab, a, 1);
        assert_eq!((peers.to_evict(1, 0), peers.of.len()), (None, 1));
        peers.leave(&mut slab, c, 2);
        assert_eq!(peers.of.capacity(), 0, "memory is given back");
    }
}
