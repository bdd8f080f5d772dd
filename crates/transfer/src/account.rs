//! The closing account of a session: the outcome of every entry, which both ends compute and compare.
//!
//! Each outcome is hashed and added to a sum of 256 bits, so that the order in which the ends learn of outcomes does not
//! matter, and no entry has to be kept. Whoever has a receipt file can check the account: the sum of the confirmed entries
//! follows from its lines, and its last line holds the sum of the failed ones.

use crate::hash::Hash;
use crate::message::{Durability, Kind, TransferId};

/// A sum of hashes in four words of 64 bits each, which wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HashSum([u64; 4]);

impl HashSum {
    pub(crate) fn add(&mut self, hash: &Hash) {
        for (word, bytes) in self.0.iter_mut().zip(hash.chunks_exact(8)) {
            *word = word.wrapping_add(bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
        }
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn of(bytes: [u8; 32]) -> Self {
        let mut sum = Self::default();
        sum.add(&bytes);
        sum
    }
}

/// One confirmed entry, as both ends know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfirmedEntry<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) target: &'a [u8],
    pub(crate) size: u64,
    pub(crate) hash: Option<&'a Hash>,
    pub(crate) durability: Durability,
    pub(crate) present: bool,
    pub(crate) mode: Option<u32>,
}

impl ConfirmedEntry<'_> {
    fn hash(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("linger-transfer 2026 confirmed entry");
        for part in [self.path, self.target] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.update(&[self.kind.number(), self.durability.number(), u8::from(self.present)]);
        hasher.update(&self.size.to_be_bytes());
        hasher.update(self.hash.map_or(&[], |hash| &hash[..]));
        // Both are optional. A hash has 32 bytes and a mode 8, so the length tells which of them are there.
        hasher.update(
            self.mode.map(|mode| u64::from(mode).to_be_bytes()).as_ref().map_or(&[], |mode| &mode[..]),
        );
        *hasher.finalize().as_bytes()
    }
}

/// The outcomes of the entries so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) confirmed: u64,
    pub(crate) failed: u64,
    pub(crate) confirmed_sum: HashSum,
    pub(crate) failed_sum: HashSum,
}

impl Account {
    pub(crate) fn confirm(&mut self, entry: &ConfirmedEntry<'_>) {
        self.confirmed += 1;
        self.confirmed_sum.add(&entry.hash());
    }

    /// Notes an announced entry that one of the sides could not deliver.
    pub(crate) fn fail(&mut self, index: u64) {
        self.failed_as(b"index", &index.to_be_bytes());
    }

    /// Notes something that could not be sent, and so has no index.
    pub(crate) fn unsent(&mut self, path: &[u8]) {
        self.failed_as(b"path", path);
    }

    fn failed_as(&mut self, what: &[u8], value: &[u8]) {
        self.failed += 1;
        let mut hasher = blake3::Hasher::new_derive_key("linger-transfer 2026 failed entry");
        hasher.update(what).update(value);
        self.failed_sum.add(hasher.finalize().as_bytes());
    }

    /// The digest of the account, which both ends compare and the receiver signs.
    pub(crate) fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("linger-transfer 2026 account");
        for (count, sum) in [(self.confirmed, self.confirmed_sum), (self.failed, self.failed_sum)] {
            hasher.update(&count.to_be_bytes());
            hasher.update(&sum.bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// The bytes that a receiver signs with its key (Ed25519): the account of the transfer `id`.
pub(crate) fn to_sign(id: &TransferId, digest: &Hash) -> Vec<u8> {
    [&b"linger-transfer 2026 signed account\0"[..], id, digest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Hash = [7; 32];

    fn entry() -> ConfirmedEntry<'static> {
        ConfirmedEntry {
            path: b"a/b",
            kind: Kind::File,
            target: b"",
            size: 3,
            hash: Some(&HASH),
            durability: Durability::Disk,
            present: false,
            mode: Some(0o644),
        }
    }

    fn digest(note: impl FnOnce(&mut Account)) -> Hash {
        let mut account = Account::default();
        note(&mut account);
        account.digest()
    }

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let other = ConfirmedEntry { path: b"c", ..entry() };
        let both = digest(|account| {
            account.confirm(&entry());
            account.fail(3);
            account.confirm(&other);
        });
        let turned = digest(|account| {
            account.confirm(&other);
            account.confirm(&entry());
            account.fail(3);
        });
        assert_eq!(both, turned);
        let one = digest(|account| account.confirm(&entry()));
        let changed = [
            ConfirmedEntry { path: b"a/c", ..entry() },
            ConfirmedEntry { path: b"a/", target: b"b", ..entry() },
            ConfirmedEntry { kind: Kind::Pipe, ..entry() },
            ConfirmedEntry { size: 4, ..entry() },
            ConfirmedEntry { hash: None, ..entry() },
            ConfirmedEntry { durability: Durability::Memory, ..entry() },
            ConfirmedEntry { durability: Durability::FileSystem, ..entry() },
            ConfirmedEntry { present: true, ..entry() },
            ConfirmedEntry { mode: Some(0o600), ..entry() },
            ConfirmedEntry { mode: None, ..entry() },
        ];
        for changed in changed {
            assert_ne!(digest(|account| account.confirm(&changed)), one, "{changed:?}");
        }
        assert_ne!(digest(|account| account.fail(1)), digest(|account| account.fail(2)));
        assert_ne!(digest(|account| account.fail(1)), digest(|account| account.unsent(&1u64.to_be_bytes())));
        assert_ne!(digest(|account| account.fail(1)), digest(|_| {}));
    }

    #[test]
    fn a_sum_comes_back_from_its_bytes() {
        let mut sum = HashSum::default();
        sum.add(&[255; 32]);
        sum.add(&[3; 32]);
        assert_eq!(HashSum::of(sum.bytes()), sum);
    }
}
