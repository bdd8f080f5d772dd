//! Atomics: the processor's, or under `--cfg loom` those of the model checker.

#[cfg(loom)]
pub(crate) use self::modelled::{AtomicI32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicI32, AtomicU64};

pub(crate) use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// A value of a table's place. It is written before the place is published, and read by threads that keep the place from
/// being reused.
///
/// It is an atomic only because this crate has no `unsafe`. Under loom every access but [`peek`](Self::peek) is checked as
/// if the value were not atomic: a read and a write that nothing orders fail the model.
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

    /// The value, for a thread that keeps the place from being reused.
    pub(crate) fn get(&self) -> u64 {
        #[cfg(loom)]
        self.checked.get();
        self.value.load(Relaxed)
    }

    /// The value at some moment. The place may be reused meanwhile, so the caller checks once more when it keeps the place.
    pub(crate) fn peek(&self) -> u64 {
        self.value.load(Relaxed)
    }

    /// Writes the value, before the place is published.
    pub(crate) fn set(&self, value: u64) {
        #[cfg(loom)]
        self.checked.set(value);
        self.value.store(value, Relaxed);
    }
}

/// loom's atomics, with every two operations of one atomic taken as dependent.
///
/// To try another order, loom goes back to the last operation that the present one depends on, even one of the same
/// thread, and it takes two loads as independent. If thread B loads, and then thread A loads and exchanges, the last
/// operation that A's exchange depends on is A's own load. loom does not look behind that load, so the order in which A's
/// exchange comes before B's load is never tried. A relaxed addition of 0 before each operation makes all operations
/// dependent, and orders nothing.
#[cfg(loom)]
mod modelled {
    use core::sync::atomic::Ordering::{self, Relaxed};

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            pub(crate) struct $name {
                value: loom::sync::atomic::$name,
                turn: loom::sync::atomic::AtomicU32,
            }

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    let turn = loom::sync::atomic::AtomicU32::new(0);
                    Self { value: loom::sync::atomic::$name::new(value), turn }
                }

                fn turn(&self) -> &loom::sync::atomic::$name {
                    self.turn.fetch_add(0, Relaxed);
                    &self.value
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.turn().load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.turn().store(value, order);
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_max(value, order)
                }

                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.turn().fetch_add(value, order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    from: $value,
                    to: $value,
                    order: Ordering,
                    failed: Ordering,
                ) -> Result<$value, $value> {
                    self.turn().compare_exchange(from, to, order, failed)
                }
            }
        };
    }

    atomic!(AtomicI32, i32);
    atomic!(AtomicU64, u64);
}
