//! Several values in one word, so that one atomic operation changes them all.

/// Some bits of a word.
#[derive(Clone, Copy)]
pub(super) struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    pub(super) const fn new(shift: u32, bits: u32) -> Self {
        Self { shift, bits }
    }

    /// The greatest value, all ones.
    pub(super) const fn most(self) -> u64 {
        u64::MAX >> (u64::BITS - self.bits)
    }

    pub(super) const fn of(self, word: u64) -> u64 {
        (word >> self.shift) & self.most()
    }

    /// A word with the low bits of this value, as many as fit, in the field, and zeros elsewhere. The words of several
    /// fields can be added.
    pub(super) const fn put(self, value: u64) -> u64 {
        (value & self.most()) << self.shift
    }
}
