//! Where the closer keeps its sockets: chunks of entries, chained into rings by their indices.
//!
//! A `Vec` that grows copies everything, and then has up to twice the memory that it needs; a box for each socket costs an
//! allocation. Rings of indices serve as the lists of timers, ages and peers, without memory of their own.

use super::decide::{Buffer, FLOOD, buffer};
use crate::machine::Core;
use crate::socket::Socket;

/// Entries a chunk: 12 KiB, a few pages.
const CHUNK: usize = 128;

/// No entry.
const NONE: u32 = u32::MAX;

/// In no slot of the timer wheel.
pub(super) const UNARMED: u16 = u16::MAX;

/// The link of the timer's slot.
pub(super) const TIMER: usize = 0;
/// The link of the order of age.
pub(super) const AGE: usize = 1;
/// The link of the sockets with the same peer.
pub(super) const PEER: usize = 2;

/// One lingering socket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) core: Core,
    pub(super) socket: Socket,
    links: [Neighbours; 3],
    /// Hash of the peer's address; 0 if the peer is not counted.
    pub(super) peer: u32,
    /// The slot in which its timer is armed, or [`UNARMED`].
    pub(super) slot: u16,
    pub(super) flags: Flags,
}

impl Entry {
    pub(super) fn new(core: Core, socket: Socket) -> Self {
        Self { core, socket, links: [UNLINKED; 3], peer: 0, slot: UNARMED, flags: Flags(0) }
    }

    /// Sets the receive buffer for what is still to be read.
    pub(super) fn adjust_buffer(&mut self, bounded: bool) {
        let known = self.flags.has(Flags::FLOODS);
        let discarded = self.core.discarded();
        match buffer(discarded, self.core.is_sated(), bounded, known) {
            Buffer::Kept => {}
            Buffer::Narrow => self.socket.narrow(),
            Buffer::Batched => self.socket.batch_events(),
        }
        if discarded >= FLOOD {
            self.flags.set(Flags::FLOODS);
        }
    }
}

/// Flags that the worker keeps for an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(u8);

impl Flags {
    /// The socket waits for its next turn to read.
    pub(super) const QUEUED: u8 = 1;
    /// The socket is in the ring of sockets whose peers have acknowledged everything.
    pub(super) const ACKNOWLEDGED: u8 = 2;
    /// Somebody wants the outcome of the close.
    pub(super) const WATCHED: u8 = 4;
    /// The socket is registered in the epoll.
    pub(super) const REGISTERED: u8 = 8;
    /// The socket's timer is armed for a time after the end of its patience.
    pub(super) const FAR: u8 = 16;
    /// The socket has been found to be flooded by its peer.
    pub(super) const FLOODS: u8 = 32;
    /// The close is over and told; the socket stays for what its peer may still send.
    pub(super) const STAYS: u8 = 64;

    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Sets a flag. Returns whether the flag was not set before.
    pub(super) fn set(&mut self, flag: u8) -> bool {
        let new = !self.has(flag);
        self.0 |= flag;
        new
    }

    pub(super) fn clear(&mut self, flag: u8) {
        self.0 &= !flag;
    }
}

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    previous: u32,
    next: u32,
}

const UNLINKED: Neighbours = Neighbours { previous: NONE, next: NONE };

#[derive(Debug)]
enum SlabSlot {
    Live(Entry),
    Free { next: u32 },
}

/// 96 bytes for a lingering socket where an fd takes 4; a little more on Windows, where it takes 8.
const _: () = assert!(size_of::<SlabSlot>() <= 96 + 2 * (size_of::<linger_sys::fd::OwnedFd>() - 4));

/// All entries, by index.
#[derive(Debug)]
pub(super) struct Slab {
    chunks: Vec<Box<[SlabSlot]>>,
    free: u32,
    live: usize,
}

impl Slab {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, live: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot(index);
        let SlabSlot::Free { next } = *slot else { unreachable!("the free list leads to free slots") };
        *slot = SlabSlot::Live(entry);
        self.free = next;
        self.live += 1;
        index
    }

    /// Removes an entry. Removing the last one frees the memory.
    pub(super) fn remove(&mut self, index: u32) -> Option<Entry> {
        let free = self.free;
        let slot = self.slot(index);
        if matches!(slot, SlabSlot::Free { .. }) {
            return None;
        }
        let SlabSlot::Live(entry) = std::mem::replace(slot, SlabSlot::Free { next: free }) else {
            return None;
        };
        self.free = index;
        self.live -= 1;
        if self.live == 0 {
            *self = Self::new();
        }
        Some(entry)
    }

    pub(super) fn get(&mut self, index: u32) -> Option<&mut Entry> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        match &mut chunk[index as usize % CHUNK] {
            SlabSlot::Live(entry) => Some(entry),
            SlabSlot::Free { .. } => None,
        }
    }

    /// The indices of all live entries, for the rare walk over all.
    pub(super) fn indices(&self) -> Vec<u32> {
        let slots = self.chunks.iter().flat_map(|chunk| chunk.iter());
        slots.zip(0..).filter(|(slot, _)| matches!(slot, SlabSlot::Live(_))).map(|(_, index)| index).collect()
    }

    fn grow(&mut self) {
        let first = (self.chunks.len() * CHUNK) as u32;
        let next = |place: u32| if place + 1 < CHUNK as u32 { first + place + 1 } else { NONE };
        self.chunks.push((0..CHUNK as u32).map(|place| SlabSlot::Free { next: next(place) }).collect());
        self.free = first;
    }

    fn slot(&mut self, index: u32) -> &mut SlabSlot {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn link<const LINK: usize>(&mut self, index: u32) -> &mut Neighbours {
        match self.slot(index) {
            SlabSlot::Live(entry) => &mut entry.links[LINK],
            SlabSlot::Free { .. } => unreachable!("only live entries are linked"),
        }
    }
}

/// A ring of entries, chained by one of their three links. The head is taken first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<const LINK: usize> {
    head: u32,
}

impl<const LINK: usize> Ring<LINK> {
    pub(super) const EMPTY: Self = Self { head: NONE };

    pub(super) fn head(self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn push_back(&mut self, slab: &mut Slab, index: u32) {
        if self.head == NONE {
            *slab.link::<LINK>(index) = Neighbours { previous: index, next: index };
            self.head = index;
            return;
        }
        let last = slab.link::<LINK>(self.head).previous;
        *slab.link::<LINK>(index) = Neighbours { previous: last, next: self.head };
        slab.link::<LINK>(last).next = index;
        slab.link::<LINK>(self.head).previous = index;
    }

    pub(super) fn push_front(&mut self, slab: &mut Slab, index: u32) {
        self.push_back(slab, index);
        self.head = index;
    }

    pub(super) fn remove(&mut self, slab: &mut Slab, index: u32) {
        let Neighbours { previous, next } = std::mem::replace(slab.link::<LINK>(index), UNLINKED);
        if next == index {
            self.head = NONE;
            return;
        }
        slab.link::<LINK>(previous).next = next;
        slab.link::<LINK>(next).previous = previous;
        if self.head == index {
            self.head = next;
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use crate::Policy;
    use crate::machine::Event;

    pub(in crate::closer) fn entry() -> Entry {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        Entry::new(Core::new(&Policy::default(), 0), Socket::new(socket.into()).unwrap())
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<SlabSlot>() <= 96, "{} bytes a lingering socket", size_of::<SlabSlot>());
    }

    #[test]
    fn a_ring_keeps_its_order() {
        let mut slab = Slab::new();
        let [a, b, c] = [0; 3].map(|_| slab.insert(entry()));
        let mut ring = Ring::<AGE>::EMPTY;
        ring.push_back(&mut slab, a);
        ring.push_back(&mut slab, b);
        ring.push_front(&mut slab, c);
        let mut order = Vec::new();
        while let Some(index) = ring.head() {
            order.push(index);
            ring.remove(&mut slab, index);
        }
        assert_eq!(order, [c, a, b]);
    }

    #[test]
    fn a_ring_is_whole_whichever_entry_leaves() {
        let mut slab = Slab::new();
        let all = [0; 4].map(|_| slab.insert(entry()));
        for gone in all {
            let mut ring = Ring::<PEER>::EMPTY;
            all.into_iter().for_each(|index| ring.push_back(&mut slab, index));
            ring.remove(&mut slab, gone);
            let wanted: Vec<_> = all.into_iter().filter(|index| *index != gone).collect();
            assert_eq!(ring.head(), Some(wanted[0]));
            for (at, index) in wanted.iter().enumerate() {
                let Neighbours { previous, next } = *slab.link::<PEER>(*index);
                assert_eq!((previous, next), (wanted[(at + 2) % 3], wanted[(at + 1) % 3]), "{gone}");
            }
            wanted.into_iter().for_each(|index| ring.remove(&mut slab, index));
            assert_eq!(ring.head(), None);
        }
    }

    #[test]
    fn a_flag_is_new_once_and_alone() {
        let mut flags = Flags(0);
        assert!(flags.set(Flags::FAR) && flags.set(Flags::QUEUED));
        assert!(!flags.set(Flags::FAR) && flags.has(Flags::FAR), "set twice, it stays");
        assert!(!flags.has(Flags::WATCHED));
        flags.clear(Flags::FAR);
        flags.clear(Flags::FAR);
        assert!(!flags.has(Flags::FAR) && flags.has(Flags::QUEUED));
        assert!(flags.set(Flags::FAR));
    }

    #[test]
    fn a_flood_is_noted_at_its_bound_and_treated_once() {
        use rustix::net::sockopt::{set_socket_recv_buffer_size, socket_recv_buffer_size};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::new(listener.accept().unwrap().0.into()).unwrap();
        let mut entry = Entry::new(Core::new(&Policy::default(), 0), socket);
        let wide = |entry: &Entry| set_socket_recv_buffer_size(&entry.socket, 1 << 17).unwrap();
        let size = |entry: &Entry| socket_recv_buffer_size(&entry.socket).unwrap();
        wide(&entry);
        entry.core.on(Event::HalfClosed, 0);
        // Where all sockets share a rate, a flood is held back.
        for (bytes, known, narrow) in [(FLOOD - 1, false, false), (1, true, true), (1, true, false)] {
            entry.core.on(Event::Discarded(bytes), 0);
            entry.adjust_buffer(true);
            let now = (entry.flags.has(Flags::FLOODS), size(&entry) == 128 << 10);
            assert_eq!(now, (known, narrow), "{}", entry.core.discarded());
            wide(&entry);
        }
    }

    #[test]
    fn places_are_used_again_and_memory_is_given_back() {
        let mut slab = Slab::new();
        let all: Vec<_> = (0..CHUNK + 1).map(|_| slab.insert(entry())).collect();
        assert_eq!((slab.len(), slab.chunks.len()), (CHUNK + 1, 2));
        assert!(slab.remove(all[5]).is_some());
        assert!(slab.remove(all[5]).is_none() && slab.get(all[5]).is_none());
        assert_eq!(slab.insert(entry()), all[5]);
        assert_eq!(slab.indices(), all);
        for index in all {
            slab.remove(index);
        }
        assert_eq!((slab.len(), slab.chunks.len()), (0, 0));
        assert!(slab.get(3).is_none());
    }
}
