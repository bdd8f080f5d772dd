//! How many sockets linger for each peer, and which.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use super::slab::{PEER, Ring, Slab};

/// The lingering sockets of each peer, in the order in which they are to be evicted.
///
/// Peers are known by a keyed hash of 32 bits: two that collide share a budget, which a peer cannot bring about.
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

    /// The socket to evict before this peer may have another one, if it has as many as it may.
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
