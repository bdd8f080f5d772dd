//! Atomics: the processor's, or under `--cfg loom` those of the model checker.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicI32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI32, AtomicU64};

pub(crate) use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// A value that is written before its holder is published, and read by those who hold it.
///
/// It is an atomic only because this crate has no `unsafe`. Under loom every access is checked as if it were not one: a
/// read and a write that nothing orders fail the model.
pub(crate) struct Published {
    value: AtomicU64,
    #[cfg(loom)]
    checked: loom::cell::Cell<u64>,
}

impl Published {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { value: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { value: AtomicU64::new(0), checked: loom::cell::Cell::new(0) }
    }

    /// The value, for a holder.
    pub(crate) fn get(&self) -> u64 {
        #[cfg(loom)]
        self.checked.get();
        self.value.load(Relaxed)
    }

    /// The value at some moment, for those who compare it again once they hold it.
    pub(crate) fn peek(&self) -> u64 {
        self.value.load(Relaxed)
    }

    /// Writes it, before it is published.
    pub(crate) fn set(&self, value: u64) {
        #[cfg(loom)]
        self.checked.set(value);
        self.value.store(value, Relaxed);
    }
}
