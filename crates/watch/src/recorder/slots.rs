//! [`PacketSlots`]: the bounded memory of packets, in slots of one size that form a list for each connection.

use crate::kernel::tap::{LinkAddress, SeenPacket};

/// Where a connection was seen: interface and VLAN.
pub(crate) type SeenAt = (u32, Option<(u16, u16)>);

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// What is kept of a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
struct PacketSlot {
    time_ns: u64,
    wire_len: u32,
    /// The next packet of the connection, or the next free slot.
    next: u32,
    link: LinkAddress,
    length: u16,
    protocol: u16,
}

/// A list of packets, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PacketList {
    first: u32,
    last: u32,
    pub(crate) length: u32,
}

impl Default for PacketList {
    fn default() -> Self {
        Self { first: NONE, last: NONE, length: 0 }
    }
}

/// Memory for packets. Grows up to its bound, and never shrinks.
#[derive(Debug)]
pub(crate) struct PacketSlots {
    slots: Vec<PacketSlot>,
    bytes: Vec<u8>,
    /// Bytes that are kept of a packet.
    snap: usize,
    most: usize,
    free: u32,
}

impl PacketSlots {
    /// Memory of about `memory` bytes for packets of `snap` bytes each.
    pub(crate) fn new(memory: usize, snap: usize) -> Self {
        let most = (memory / (snap + size_of::<PacketSlot>())).clamp(1, NONE as usize);
        // Pages that are not written to take no memory.
        let (slots, bytes) = (Vec::with_capacity(most), Vec::with_capacity(most * snap));
        Self { slots, bytes, snap, most, free: NONE }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE && self.slots.len() == self.most
    }

    /// Appends a packet to a list. There must be room.
    pub(crate) fn append(&mut self, list: &mut PacketList, packet: &SeenPacket<'_>) {
        debug_assert!(!self.is_full());
        let data = &packet.data[..packet.data.len().min(self.snap).min(usize::from(u16::MAX))];
        let slot = PacketSlot {
            time_ns: packet.time_ns,
            wire_len: packet.wire_len,
            next: NONE,
            link: packet.link,
            // A packet of IP is no longer.
            length: data.len() as u16,
            protocol: packet.protocol,
        };
        let at = self.free;
        let at = match self.slots.get_mut(at as usize) {
            Some(free) => {
                self.free = std::mem::replace(free, slot).next;
                at
            }
            None => {
                self.slots.push(slot);
                self.bytes.resize(self.bytes.len() + self.snap, 0);
                self.slots.len() as u32 - 1
            }
        };
        let start = at as usize * self.snap;
        self.bytes[start..start + data.len()].copy_from_slice(data);
        match self.slots.get_mut(list.last as usize) {
            Some(last) => last.next = at,
            None => list.first = at,
        }
        list.last = at;
        list.length += 1;
    }

    /// Frees the oldest packet of a list.
    pub(crate) fn drop_first(&mut self, list: &mut PacketList) {
        let at = list.first;
        let Some(slot) = self.slots.get_mut(at as usize) else { return };
        list.first = std::mem::replace(&mut slot.next, self.free);
        self.free = at;
        list.length -= 1;
        if list.first == NONE {
            list.last = NONE;
        }
    }

    /// Frees all packets of a list.
    pub(crate) fn clear(&mut self, list: &mut PacketList) {
        while list.length > 0 {
            self.drop_first(list);
        }
    }

    /// The packets of a list, the oldest first, which were all seen at one interface and VLAN.
    pub(crate) fn iter(
        &self,
        list: PacketList,
        (interface, vlan): SeenAt,
    ) -> impl Iterator<Item = SeenPacket<'_>> {
        let mut at = list.first as usize;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at)?;
            let start = at * self.snap;
            at = slot.next as usize;
            Some(SeenPacket {
                time_ns: slot.time_ns,
                wire_len: slot.wire_len,
                interface,
                link: slot.link,
                protocol: slot.protocol,
                vlan,
                data: &self.bytes[start..start + slot.length as usize],
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(time_ns: u64, data: &[u8]) -> SeenPacket<'_> {
        let link = LinkAddress::default();
        SeenPacket { time_ns, wire_len: 9, interface: 1, link, protocol: 0x800, vlan: None, data }
    }

    #[test]
    fn lists_share_the_memory_and_give_it_back() {
        let mut slots = PacketSlots::new(4 * (2 + size_of::<PacketSlot>()), 2);
        let [mut one, mut two] = [PacketList::default(); 2];
        for time in 0..2 {
            slots.append(&mut one, &packet(time, b"abc"));
            slots.append(&mut two, &packet(10 + time, b"d"));
        }
        assert!(slots.is_full());
        slots.drop_first(&mut one);
        slots.append(&mut two, &packet(12, b"ef"));
        let shown = |slots: &PacketSlots, list| -> Vec<(u64, Vec<u8>)> {
            slots.iter(list, (1, None)).map(|packet| (packet.time_ns, packet.data.to_vec())).collect()
        };
        assert_eq!(shown(&slots, one), [(1, b"ab".to_vec())], "cut to what is kept");
        assert_eq!(shown(&slots, two), [(10, b"d".to_vec()), (11, b"d".to_vec()), (12, b"ef".to_vec())]);
        slots.clear(&mut two);
        slots.clear(&mut one);
        assert_eq!((one, two), (PacketList::default(), PacketList::default()));
        for time in 0..4 {
            assert!(!slots.is_full());
            slots.append(&mut one, &packet(time, b"g"));
        }
        assert!(slots.is_full() && one.length == 4);
    }
}
