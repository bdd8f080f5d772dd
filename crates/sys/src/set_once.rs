//! A value that is set once and stays, in one atomic step.

use std::marker::PhantomData;

use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that is set at most once and never dropped, for statics that must survive a `fork`.
///
/// While a thread sets a `std::sync::OnceLock`, all other threads wait. In a child that is forked at that moment, nobody ends
/// the wait. A `SetOnce` gets a value that has been made before, by one compare-exchange: a child finds it set or not set.
#[derive(Debug)]
pub struct SetOnce<T> {
    value: AtomicPtr<T>,
    /// Makes this type `Send` and `Sync` only if `T` allows it: an `AtomicPtr<T>` alone is both for every `T`.
    owns: PhantomData<T>,
}

// SAFETY: `get` gives out shared references, so T must be Sync. `set` moves a value to whichever thread reads it, so T
// must be Send.
unsafe impl<T: Send + Sync> Sync for SetOnce<T> {}

impl<T: Send + Sync + 'static> SetOnce<T> {
    /// An empty place.
    pub const fn new() -> Self {
        Self { value: AtomicPtr::new(std::ptr::null_mut()), owns: PhantomData }
    }

    /// The value, if it is set.
    pub fn get(&self) -> Option<&'static T> {
        let value = load(&self.value);
        // SAFETY: null, or published by `set` from a box that nobody frees.
        unsafe { value.as_ref() }
    }

    /// Sets the value, unless it is set.
    ///
    /// # Errors
    /// Returns the value if another thread was first.
    pub fn set(&self, value: Box<T>) -> Result<(), Box<T>> {
        let value = Box::into_raw(value);
        if publish(&self.value, value) {
            return Ok(());
        }
        // SAFETY: it came from a box just now and was not published.
        Err(unsafe { Box::from_raw(value) })
    }
}

fn load<T>(place: &impl Pointer<T>) -> *mut T {
    // Acquire: a thread that sees the pointer sees the whole value (model `loom_a_value_is_seen_whole`).
    place.load(Ordering::Acquire)
}

fn publish<T>(place: &impl Pointer<T>, value: *mut T) -> bool {
    // Release: see `load`. A failed attempt reads nothing through the pointer, so it needs no ordering.
    place.fill(value, Ordering::Release, Ordering::Relaxed)
}

/// An atomic pointer: the standard library's, and in the models that of loom. A trait, because loom's cannot be in a static.
trait Pointer<T> {
    fn load(&self, order: Ordering) -> *mut T;
    /// Replaces null by `value`. Returns whether the pointer was null.
    fn fill(&self, value: *mut T, success: Ordering, failure: Ordering) -> bool;
}

impl<T> Pointer<T> for AtomicPtr<T> {
    fn load(&self, order: Ordering) -> *mut T {
        self.load(order)
    }

    fn fill(&self, value: *mut T, success: Ordering, failure: Ordering) -> bool {
        self.compare_exchange(std::ptr::null_mut(), value, success, failure).is_ok()
    }
}

impl<T: Send + Sync + 'static> Default for SetOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let place = SetOnce::<u8>::default();
        assert_eq!(place.get(), None);
        assert_eq!(place.set(Box::new(1)), Ok(()));
        assert_eq!(place.set(Box::new(2)), Err(Box::new(2)));
        assert_eq!(place.get(), Some(&1));
    }
}

/// Models of what two threads do at once. Run them with
/// `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p linger-sys --lib --release loom_`.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicPtr;
    use loom::thread;

    impl<T> Pointer<T> for AtomicPtr<T> {
        fn load(&self, order: Ordering) -> *mut T {
            self.load(order)
        }

        fn fill(&self, value: *mut T, success: Ordering, failure: Ordering) -> bool {
            self.compare_exchange(std::ptr::null_mut(), value, success, failure).is_ok()
        }
    }

    /// A value whose reads and writes loom checks for races.
    type Checked = UnsafeCell<u8>;

    fn made(number: u8) -> *mut Checked {
        let made = Box::new(UnsafeCell::new(0));
        // SAFETY: not shared yet.
        made.with_mut(|place| unsafe { *place = number });
        Box::into_raw(made)
    }

    fn number(value: *mut Checked) -> u8 {
        // SAFETY: it is never freed, and loom reports a write that is not ordered before this read.
        unsafe { (*value).with(|place| *place) }
    }

    fn place() -> Arc<AtomicPtr<Checked>> {
        Arc::new(AtomicPtr::new(std::ptr::null_mut()))
    }

    #[test]
    fn loom_a_value_is_seen_whole() {
        loom::model(|| {
            let place = place();
            let setting = thread::spawn({
                let place = Arc::clone(&place);
                move || publish(&*place, made(7))
            });
            let value = load(&*place);
            if !value.is_null() {
                assert_eq!(number(value), 7);
            }
            assert!(setting.join().unwrap());
        });
    }

    #[test]
    fn loom_one_of_two_wins_and_both_see_it() {
        loom::model(|| {
            let place = place();
            let set = |place: Arc<AtomicPtr<Checked>>, value| {
                (publish(&*place, made(value)), number(load(&*place)))
            };
            let other = thread::spawn({
                let place = Arc::clone(&place);
                move || set(place, 1)
            });
            let (won, seen) = set(place, 2);
            let (other_won, seen_there) = other.join().unwrap();
            assert!(won != other_won);
            assert_eq!((seen, seen_there), if won { (2, 2) } else { (1, 1) });
        });
    }
}
