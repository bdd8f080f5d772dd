//! The live connections of a capture, found by their ends. Their number is bounded.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::flow::Flow;
use crate::key::FlowKey;
use crate::record::At;

/// Flows per chunk. Chunks are never moved, so growing copies nothing.
const CHUNK: usize = 256;
/// How many flows are compared to find one that was silent for long, when the table is full.
const LOOKS: usize = 64;

/// Entries of the cache in front of the index.
const RECENT: usize = 1024;

/// Where a flow is kept.
pub(crate) type FlowSlot = u32;

/// Flows with a reset that wait for what follows. Each takes 1.5 KB: without this limit a flood of resets would take hundreds
/// of megabytes.
const MAX_RESET: usize = 8_192;

/// Flows that were closed and wait for a late reset, about 10 MB. A server that ends 500 connections a second would otherwise have
/// 60,000 of them.
const MAX_CLOSED: usize = 16_384;

/// When a flow is to be removed, where it is, and its generation then.
type EndingFlow = (u64, FlowSlot, u32);

#[derive(Debug)]
pub(crate) struct Table {
    hasher: DefaultHashBuilder,
    index: HashTable<FlowSlot>,
    chunks: Vec<Vec<Option<Flow>>>,
    free: Vec<FlowSlot>,
    /// Flows that were closed, and flows that were reset, with the time until which stragglers are waited for.
    ending: [VecDeque<EndingFlow>; 2],
    generation: u32,
    limit: usize,
    /// The last slot that was compared when a silent flow was sought.
    hand: usize,
    /// A cache of slots: most packets need no lookup in the index.
    recent: Box<[FlowSlot; RECENT]>,
}

impl Table {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            ending: [VecDeque::new(), VecDeque::new()],
            generation: 0,
            limit: limit.max(1),
            hand: 0,
            recent: Box::new([0; RECENT]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    #[inline]
    pub(crate) fn get(&mut self, slot: FlowSlot) -> Option<&mut Flow> {
        self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)?.as_mut()
    }

    #[inline]
    pub(crate) fn find(&mut self, key: &FlowKey) -> Option<FlowSlot> {
        let place = key.blend() as usize % RECENT;
        let recent = self.recent[place];
        if self.is_at(recent, key) {
            return Some(recent);
        }
        let hash = self.hasher.hash_one(key);
        let slot = *self.index.find(hash, |&slot| self.is_at(slot, key))?;
        self.recent[place] = slot;
        Some(slot)
    }

    /// Whether the flow of `key` is kept at `slot`.
    #[inline]
    pub(crate) fn is_at(&self, slot: FlowSlot, key: &FlowKey) -> bool {
        flow_at(&self.chunks, slot).is_some_and(|flow| flow.connection.key == *key)
    }

    /// Adds a flow for `key`, which has none. Returns the flow that was evicted for it, if any.
    pub(crate) fn insert(&mut self, key: FlowKey, at: At) -> (FlowSlot, Option<Flow>) {
        let evicted = if self.len() >= self.limit { self.evict() } else { None };
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                // A table of a few flows takes no memory for more.
                self.chunks.push(Vec::with_capacity(CHUNK.min(self.limit)));
            }
            let last = self.chunks.len() - 1;
            self.chunks[last].push(None);
            (last * CHUNK + self.chunks[last].len() - 1) as FlowSlot
        });
        self.generation = self.generation.wrapping_add(1);
        let flow = Flow::new(key, at, self.generation);
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(flow);
        let hash = self.hasher.hash_one(key);
        let (hasher, chunks) = (&self.hasher, &self.chunks);
        self.index
            .insert_unique(hash, slot, |&slot| key_at(chunks, slot).map_or(0, |key| hasher.hash_one(key)));
        debug_assert_eq!(self.index.len() + self.free.len(), self.places());
        (slot, evicted)
    }

    /// The number of slots. Each of them is either in the index or free.
    fn places(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    pub(crate) fn remove(&mut self, slot: FlowSlot) -> Option<Flow> {
        let key = key_at(&self.chunks, slot)?;
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        self.free.push(slot);
        debug_assert_eq!(self.index.len() + self.free.len(), self.places());
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].take()
    }

    /// Schedules a flow's removal for when the capture's clock has passed `until`. Replaces an earlier schedule.
    pub(crate) fn end_at(&mut self, slot: FlowSlot, until: u64) {
        self.keep(slot);
        let Some((generation, is_reset)) = self.get(slot).map(|flow| (flow.generation, flow.reset.is_some()))
        else {
            return;
        };
        let ending = &mut self.ending[usize::from(is_reset)];
        ending.push_back((until, slot, generation));
        // Flows that were removed early leave stale entries.
        if ending.len() > 2 * self.limit {
            let chunks = &self.chunks;
            ending.retain(|&(_, slot, generation)| {
                flow_at(chunks, slot).is_some_and(|flow| flow.generation == generation)
            });
        }
    }

    /// Cancels a flow's removal.
    pub(crate) fn keep(&mut self, slot: FlowSlot) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        if let Some(flow) = self.get(slot) {
            flow.generation = generation;
        }
    }

    /// Removes and returns a flow whose time has passed, or one of too many that were closed or reset.
    #[inline]
    pub(crate) fn due(&mut self, now: u64) -> Option<Flow> {
        let is_due = |queue: &VecDeque<EndingFlow>, most: usize| {
            queue.len() > most || queue.front().is_some_and(|(until, ..)| *until <= now)
        };
        loop {
            let queue = if is_due(&self.ending[0], MAX_CLOSED) {
                0
            } else if is_due(&self.ending[1], MAX_RESET) {
                1
            } else {
                return None;
            };
            if let Some(flow) = self.next_ending(queue) {
                return Some(flow);
            }
        }
    }

    /// Removes the first flow of a queue; `None` if its entry was stale.
    #[cold]
    fn next_ending(&mut self, queue: usize) -> Option<Flow> {
        let (_, slot, generation) = self.ending[queue].pop_front()?;
        if self.get(slot).is_some_and(|flow| flow.generation == generation) {
            self.remove(slot)
        } else {
            None
        }
    }

    /// All flows.
    pub(crate) fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.chunks.iter().flatten().flatten()
    }

    /// Removes all flows, at the end of the capture.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Flow> {
        self.index.clear();
        std::mem::take(&mut self.chunks).into_iter().flatten().flatten()
    }

    /// Removes the oldest flow that was closed, or that was reset; or else, of some live flows, the one that was silent for longest.
    fn evict(&mut self) -> Option<Flow> {
        for queue in 0..self.ending.len() {
            while !self.ending[queue].is_empty() {
                if let Some(flow) = self.next_ending(queue) {
                    return Some(flow);
                }
            }
        }
        let places = self.places();
        let mut oldest: Option<(u64, FlowSlot)> = None;
        for _ in 0..LOOKS.min(places) {
            self.hand = (self.hand + 1) % places;
            let slot = self.hand as FlowSlot;
            if let Some(time) = self.get(slot).map(|flow| flow.connection.last_time)
                && oldest.is_none_or(|(known, _)| time < known)
            {
                oldest = Some((time, slot));
            }
        }
        self.remove(oldest?.1)
    }
}

#[inline]
fn flow_at(chunks: &[Vec<Option<Flow>>], slot: FlowSlot) -> Option<&Flow> {
    chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?.as_ref()
}

#[inline]
fn key_at(chunks: &[Vec<Option<Flow>>], slot: FlowSlot) -> Option<FlowKey> {
    flow_at(chunks, slot).map(|flow| flow.connection.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts so many flows, lets `end` schedule each, and returns how many are kept a nanosecond later.
    fn kept(flows: usize, end: impl Fn(&mut Table, FlowSlot)) -> usize {
        let mut table = Table::new(100_000);
        for number in 0..flows {
            let client = std::net::SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 40_000));
            let (key, _) = FlowKey::between(client, ([192, 0, 2, 1], 80).into(), 0);
            let (slot, evicted) = table.insert(key, At { frame: number as u64, time_ns: 0 });
            assert!(evicted.is_none());
            end(&mut table, slot);
            while table.due(1).is_some() {}
        }
        table.len()
    }

    #[test]
    fn closed_flows_that_wait_are_bounded() {
        assert_eq!(kept(MAX_CLOSED, |table, slot| table.end_at(slot, 2)), MAX_CLOSED);
        assert_eq!(kept(MAX_CLOSED + 100, |table, slot| table.end_at(slot, 2)), MAX_CLOSED);
        assert_eq!(kept(MAX_CLOSED + 100, |_, _| {}), MAX_CLOSED + 100, "live flows have their own limit");
        assert_eq!(kept(100, |table, slot| table.end_at(slot, 1)), 0, "their time has passed");
    }
}
