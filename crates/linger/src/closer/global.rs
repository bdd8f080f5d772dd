//! The closer that each process has.

use std::io;

use linger_sys::SetOnce;

use super::Closer;
use super::budget::Budget;

/// The global closers of a line of processes, each forked from the one before, the present one last.
pub(super) struct Line(SetOnce<Generation>);

struct Generation {
    closer: Closer,
    /// The closer of a child.
    next: Line,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self(SetOnce::new())
    }

    /// The closer of this process, made when first asked for.
    ///
    /// # Errors
    /// Returns the errors of [`Closer::new`].
    pub(super) fn of_this_process(&self) -> io::Result<&'static Closer> {
        let mut place = &self.0;
        loop {
            match place.get() {
                Some(Generation { closer, .. }) if closer.handle.here().is_some() => return Ok(closer),
                Some(Generation { next, .. }) => place = &next.0,
                None => {
                    let link = Generation { closer: Closer::new(Budget::default())?, next: Self::new() };
                    // Racing callers may each make a closer; the thread of the one that is late exits.
                    let _ = place.set(Box::new(link));
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::ptr;

    use linger_sys::testing::forked;

    use super::*;

    #[test]
    fn each_process_has_one_of_its_own() {
        static LINE: Line = Line::new();
        let parents = LINE.of_this_process().unwrap();
        assert!(ptr::eq(parents, LINE.of_this_process().unwrap()));
        let said = forked(|| {
            let own = LINE.of_this_process().unwrap();
            assert!(own.handle.here().is_some() && !ptr::eq(own, parents));
            assert!(ptr::eq(own, LINE.of_this_process().unwrap()));
            // And so on.
            forked(|| {
                let third = LINE.of_this_process().unwrap();
                assert!(third.handle.here().is_some() && !ptr::eq(third, own));
                String::new()
            })
            .unwrap()
        });
        assert_eq!(said, Ok(String::new()));
        assert!(ptr::eq(parents, LINE.of_this_process().unwrap()));
    }
}
