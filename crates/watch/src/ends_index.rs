//! [`EndsIndex`]: finds the entries of a list by the two addresses that they have, without a copy of the addresses.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::addresses::PackedEnds;

/// Positions in a list, by addresses. The caller has the list, and shows the addresses at a position.
#[derive(Debug, Default)]
pub(crate) struct EndsIndex {
    places: HashTable<u32>,
    /// Peers choose addresses: none knows which fall together.
    hasher: RandomState,
}

impl EndsIndex {
    /// Room for so many positions: memory that is not used takes no pages, but moving to a larger table takes both.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { places: HashTable::with_capacity(count), hasher: RandomState::new() }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The positions with these addresses.
    pub(crate) fn all<'a>(
        &'a self,
        ends: PackedEnds,
        shown: impl Fn(u32) -> PackedEnds + 'a,
    ) -> impl Iterator<Item = u32> {
        self.places.iter_hash(self.hasher.hash_one(ends)).copied().filter(move |at| shown(*at) == ends)
    }

    /// Adds a position, which already shows its addresses.
    pub(crate) fn add(&mut self, at: u32, shown: impl Fn(u32) -> PackedEnds) {
        let hash = |at: u32| self.hasher.hash_one(shown(at));
        self.places.insert_unique(hash(at), at, |at| hash(*at));
    }

    /// Puts another position with the same addresses in the place of one.
    pub(crate) fn replace(&mut self, ends: &PackedEnds, at: u32, other: u32) {
        if let Some(found) = self.places.find_mut(self.hasher.hash_one(ends), |found| *found == at) {
            *found = other;
        }
    }

    /// Removes a position with these addresses.
    pub(crate) fn remove(&mut self, ends: &PackedEnds, at: u32) {
        if let Ok(found) = self.places.find_entry(self.hasher.hash_one(ends), |found| *found == at) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_found_by_the_addresses_that_the_list_shows() {
        let ends = |port: u16| PackedEnds::from((([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], port).into()));
        let list: Vec<PackedEnds> = (0..1_000).map(|at| ends(at / 2)).collect();
        let shown = |at: u32| list[at as usize];
        let mut index = EndsIndex::default();
        (0..1_000).for_each(|at| index.add(at, shown));
        let all = |index: &EndsIndex, port| {
            let mut all: Vec<u32> = index.all(ends(port), shown).collect();
            all.sort_unstable();
            all
        };
        assert_eq!((all(&index, 7), all(&index, 500)), (vec![14, 15], vec![]));
        index.remove(&shown(14), 14);
        index.remove(&shown(14), 14);
        assert_eq!((all(&index, 7), index.len()), (vec![15], 999));
        index.replace(&shown(15), 15, 14);
        assert_eq!((all(&index, 7), index.len()), (vec![14], 999));
        index.replace(&shown(15), 15, 16);
        assert_eq!(all(&index, 7), [14], "it was not there");
    }
}
